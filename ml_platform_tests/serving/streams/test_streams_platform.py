"""Streams of a running platform: NATS, the gateway, a real bento, and a consumer that is killed."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import psutil
import pytest

from ml_platform.monitoring.log_lines import read_records
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.marked_processes import process_name, processes_of
from ml_platform.serving.ordered_stop import STREAMS
from ml_platform.serving.processes import ProcessPlan, serve_temporarily
from ml_platform.serving.streams.declared_streams import store_streams
from ml_platform.serving.streams.nats_stream import NatsStream
from ml_platform.serving.streams.stream_status import STATUS_FILE, StreamStatus, read_stream_status, stream_lines
from ml_platform_tests.nats_server import running_nats
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import ToyModel, row
from ml_platform_tests.serving.plans import plan_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MESSAGES, WRONG_EVERY, IN_FLIGHT = 200, 10, 8
SUBJECTS = ("flights.requests", "flights.predictions", "flights.refused")


@dataclass(frozen=True)
class Streams:
    server: str

    def declared(self) -> NatsStream:
        requests, results, dead_letters = SUBJECTS
        return NatsStream(
            server=self.server,
            requests=requests,
            results=results,
            dead_letters=dead_letters,
            consumer="toy",
            in_flight=IN_FLIGHT,
            ack_seconds=2,
            timeout_seconds=1.9,
        )

    def send(self, requests: dict[str, Any]) -> None:
        async def publish() -> None:
            client = await nats.connect(self.server)
            context = client.jetstream()
            await context.add_stream(name="flights", subjects=["flights.>"], duplicate_window=600)
            for request_id, value in requests.items():
                await context.publish(SUBJECTS[0], json.dumps(value).encode(), headers={"Nats-Msg-Id": request_id})
            await client.close()

        asyncio.run(publish())

    def count(self, *subjects: str) -> int:
        """Return the number of messages of the subjects."""

        async def counted() -> int:
            client = await nats.connect(self.server)
            found = await client.jetstream().stream_info("flights", subjects_filter="flights.>")
            await client.close()
            return sum((found.state.subjects or {}).get(each, 0) for each in subjects)

        return asyncio.run(counted())

    def read(self, subject: str) -> list[dict[str, Any]]:
        """Return all messages of ``subject`` in their order."""

        async def read() -> list[dict[str, Any]]:
            client = await nats.connect(self.server)
            context = client.jetstream()
            count = (await context.stream_info("flights", subjects_filter=subject)).state.subjects or {}
            reading = await context.subscribe(subject, ordered_consumer=True)
            found = [json.loads((await reading.next_msg(timeout=20)).data) for _ in range(count.get(subject, 0))]
            await client.close()
            return found

        return asyncio.run(read())


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streams]:
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield Streams(server)


def consumer_processes(plan: ProcessPlan) -> list[psutil.Process]:
    return [each for each in processes_of(plan.run) if process_name(each) == STREAMS]


def test_each_request_has_one_result_although_the_consumer_is_killed(
    tmp_path: Path, toy: ToyModel, built_bento: BuiltBento, streams: Streams
) -> None:
    plan = plan_in(tmp_path, bentos=built_bento.path.parent, online=str(toy.online))
    state = plan.open_state()
    state.migrate()
    served = ServedVersion(version="1", bento=built_bento.path.name)
    swap_desired_state(state, "toy", DesiredState(stable=served, weights={"stable": 100}), 0)
    wrong = {f"r-{number}" for number in range(0, MESSAGES, WRONG_EVERY)}
    requests = {
        request_id: {"carrier": 1} if request_id in wrong else row("UA", float(number))
        for number, request_id in enumerate(f"r-{number}" for number in range(MESSAGES))
    }
    streams.send(requests)
    with serve_temporarily(plan):
        assert consumer_processes(plan) == []
        store_streams(state, "toy", [streams.declared()])
        until(lambda: streams.count(*SUBJECTS[1:]) > MESSAGES // 4, seconds=60)
        (process,) = consumer_processes(plan)
        process.send_signal(signal.SIGKILL)
        until(lambda: streams.count(*SUBJECTS[1:]) >= MESSAGES, seconds=60)
        at_the_kill = {each.pid for each in consumer_processes(plan)}

        def status() -> StreamStatus | None:
            found = read_stream_status(plan.run, (plan.run / STATUS_FILE).stat().st_mtime)
            each = found["toy"][0] if found else None
            return each if each and (each.waiting, each.dead_letters) == (0, len(wrong)) else None

        assert "0 waiting, 0 in flight" in until(status).text  # type: ignore[union-attr]
        (line,) = stream_lines(state, plan.run)["toy"]
        assert line.startswith(f"flights.requests of {streams.server}: 0 waiting, ")
        assert line.endswith(f", {len(wrong)} dead letters")
        store_streams(state, "toy", [])
        until(lambda: not consumer_processes(plan))
    assert process.pid not in at_the_kill
    results, letters = streams.read(SUBJECTS[1]), streams.read(SUBJECTS[2])
    assert Counter(each["request_id"] for each in results) == {each: 1 for each in requests if each not in wrong}
    assert Counter(each["request_id"] for each in letters) == dict.fromkeys(wrong, 1)
    assert {each["status"] for each in letters} == {422}
    assert {each["predictions"][0]["score"] for each in results} == {toy.scores[0]}
    logged = [record for file in (plan.predictions / "toy").glob("*.jsonl") for record in read_records(file)]
    # A request that was answered when its consumer was killed is sent, and logged, a second time.
    predicted = Counter(each["request_id"] for each in logged)
    assert predicted.keys() == {each["request_id"] for each in results}
    assert sum(predicted.values()) - len(predicted) <= IN_FLIGHT
    published = {each["predictions"][0]["prediction_id"]: each["request_id"] for each in results}
    assert published.items() <= {each["prediction_id"]: each["request_id"] for each in logged}.items()
