"""Streams as they are declared and stored, and the process that follows them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ml_platform.serving.serving_settings import ServingSettings
from ml_platform.serving.streams.consumer_process import StreamConsumers, StreamPlan
from ml_platform.serving.streams.declared_streams import CURSOR_PREFIX, rename_streams, store_streams, stored_streams
from ml_platform.serving.streams.stream_status import (
    SILENT_SECONDS,
    STATUS_FILE,
    StreamStatus,
    read_stream_status,
    stream_lines,
    write_stream_status,
)
from ml_platform.state.cursors import write_cursor
from ml_platform.state.store import StateStore
from ml_platform_tests.serving.streams.own_stream import MemoryStream

OWN = {
    "type": "ml_platform_tests.serving.streams.own_stream:MemoryStream",
    "bus": "a",
    "requests": "requests",
    "results": "results",
    "dead_letters": "refused",
    "consumer": "toy",
}
NATS = {
    "server": "nats://127.0.0.1:4222",
    "requests": "a.requests",
    "results": "a.results",
    "dead_letters": "a.refused",
    "consumer": "nats",
}


def declared(*streams: dict[str, Any]) -> ServingSettings:
    return ServingSettings.model_validate({"streams": list(streams)})


def test_stream_of_a_team_is_declared_by_its_class_and_keeps_its_settings() -> None:
    (own,) = declared(OWN).streams
    assert (isinstance(own, MemoryStream), own.model_dump()["bus"]) == (True, "a")
    with pytest.raises(ValidationError, match="Did you mean 'bus'"):
        declared({**OWN, "buss": "a"})
    with pytest.raises(ValidationError, match=r"expected a subclass of .*message_stream:MessageStream"):
        declared({**OWN, "type": "ml_platform_tests.serving.streams.own_stream:MemoryMessage"})


def test_stored_streams_are_those_of_the_last_rollout(state_store: StateStore) -> None:
    store_streams(state_store, "old", declared(OWN, NATS).streams)
    assert [ServingSettings.model_validate({"streams": each}) for each in stored_streams(state_store).values()] == [
        declared(OWN, NATS)
    ]
    rename_streams(state_store, "old", "new")
    assert list(stored_streams(state_store)) == ["new"]
    store_streams(state_store, "new", [])
    assert stored_streams(state_store) == {}


def test_status_is_shown_while_the_process_runs(tmp_path: Path, state_store: StateStore) -> None:
    store_streams(state_store, "toy", declared(NATS).streams)
    not_consumed = {"toy": ["a.requests: not consumed; start the platform with `ml-platform up`"]}
    assert stream_lines(state_store, tmp_path) == not_consumed
    status = StreamStatus(stream="a.requests", state="away", problem="no server", waiting=1200, dead_letters=3)
    write_stream_status(tmp_path, {"toy": [status]})
    counts = "1,200 waiting, 0 in flight, 0 answered, 3 dead letters"
    assert stream_lines(state_store, tmp_path) == {"toy": [f"a.requests: no server ({counts})"]}
    written = (tmp_path / STATUS_FILE).stat().st_mtime
    assert read_stream_status(tmp_path, written) == {"toy": [status]}
    assert read_stream_status(tmp_path, written + SILENT_SECONDS + 1) is None


def test_process_follows_the_declarations_and_one_wrong_stream_does_not_stop_another(
    tmp_path: Path, state_store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryStream, "waiting", {"a": {1: b"{}", 2: b"{}"}})
    gateway = "http://127.0.0.1:1"
    plan = StreamPlan(run=tmp_path, log=tmp_path / "log", state=str(state_store.path), gateway=gateway)
    broken, missing = {**OWN, "bus": "b", "consumer": "b"}, {**OWN, "bus": "a", "type": "gone.module:Stream"}
    store_streams(state_store, "broken", declared(broken).streams)
    store_streams(state_store, "toy", declared(OWN).streams)

    async def scenario() -> dict[str, list[StreamStatus]]:
        stopping = asyncio.Event()
        consumers = StreamConsumers(plan, stopping)

        async def status_with(text: str) -> dict[str, list[StreamStatus]]:
            while True:
                await consumers.step()
                found = read_stream_status(tmp_path, (tmp_path / STATUS_FILE).stat().st_mtime) or {}
                if any(text in str(each.problem) for streams in found.values() for each in streams):
                    return found
                await asyncio.sleep(0.02)

        await asyncio.wait_for(status_with("KeyError: 'b'"), 30)
        found = await asyncio.wait_for(status_with("the gateway does not answer"), 30)
        store_streams(state_store, "broken", [])
        write_cursor(state_store, f"{CURSOR_PREFIX}other", [missing])
        assert list(await asyncio.wait_for(status_with("no module 'gone'"), 30)) == ["other", "toy"]
        stopping.set()
        await consumers.run()
        return found

    found = asyncio.run(scenario())
    assert (found["toy"][0].state, found["broken"][0].state) == ("waiting", "away")
    assert MemoryStream.waiting == {"a": {1: b"{}", 2: b"{}"}}
