"""The second log repeats the first one, offline, and its failure does not stop a run."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from ml_platform.registry.outbox import Operation
from ml_platform.registry.tracking import Tracking
from ml_platform.registry.wandb_mirror import Mirror, WandbSettings, wandb_mirror_factory

wandb = pytest.importorskip("wandb", reason="the second log is optional")


def records(folder: Path) -> list[Any]:
    """Return the records that the library wrote: LevelDB log records (checksum, length, type, data) after 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, found, at = path.read_bytes(), [], 7
    assert len(data) < 32_768  # one block, so that every record is complete
    while at + 7 <= len(data):
        _, length, kind = struct.unpack_from("<IHB", data, at)
        assert kind == 1
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data[at + 7 : at + 7 + length])
        found.append(record)
        at += 7 + length
    return found


def test_second_log_is_off_by_default(tmp_path: Path) -> None:
    assert wandb_mirror_factory(WandbSettings(), tmp_path) is None


def test_run_is_logged_a_second_time_offline(tracking: Tracking, tmp_path: Path) -> None:
    settings = WandbSettings(enabled=True, project="flights")
    tracking.open_mirror = wandb_mirror_factory(settings, tmp_path / "second")
    with tracking.run("departure_risk", "lightgbm 2013-06", {"ml_platform.partition": "2013-06"}) as run:
        run.log_params({"num_leaves": 31})
        run.log_metrics({"auc": 0.77}, step=2)
        run.log_curves({"loss": [0.6, 0.5], "kappa": [0.1]})
    found = records(tmp_path / "second")
    opened = next(record.run for record in found if record.HasField("run"))
    assert (opened.project, opened.display_name, opened.run_group) == ("flights", "lightgbm 2013-06", "departure_risk")
    steps = [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    logged = [{name: value for name, value in step.items() if not name.startswith("_")} for step in steps]
    assert logged == [{"auc": 0.77, "step": 2}, {"loss": 0.6, "kappa": 0.1, "step": 0}, {"loss": 0.5, "step": 1}]
    assert tracking.client.get_run(run.run_id).data.metrics == {"auc": 0.77, "loss": 0.5, "kappa": 0.1}


def test_online_mode_without_an_account_is_reported_and_does_not_stop_the_run(
    tracking: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    tracking.open_mirror = wandb_mirror_factory(WandbSettings(enabled=True, mode="online"), tmp_path / "second")
    with tracking.run("departure_risk", "x", {}) as run:
        run.log_metrics({"auc": 0.77})
    assert "second log in Weights & Biases stopped" in caplog.text
    assert tracking.client.get_run(run.run_id).data.metrics == {"auc": 0.77}


def test_failure_of_the_second_log_is_logged_once_and_does_not_stop_the_run(
    tracking: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "second").write_text("a file where the folder should be")
    tracking.open_mirror = wandb_mirror_factory(WandbSettings(enabled=True), tmp_path / "second")
    with tracking.run("departure_risk", "x", {}) as run:
        run.log_metrics({"auc": 0.77})
    assert tracking.client.get_run(run.run_id).data.metrics == {"auc": 0.77}
    assert len([record for record in caplog.records if "second log" in record.message]) == 1


def test_runs_are_mirrored_while_the_server_is_down(tmp_path: Path) -> None:
    from ml_platform.registry.outbox import Outbox

    seen: list[str] = []

    def open_mirror(creation: Operation) -> Mirror:
        seen.append(creation["name"])
        return lambda operation: seen.append(operation["kind"])

    down = Tracking("http://127.0.0.1:9", None, Outbox(tmp_path / "outbox"), open_mirror)
    with down.run("departure_risk", "x", {}) as run:
        run.log_metrics({"auc": 0.77})
    assert seen == ["x", "metrics", "end"]
