"""Training continues while the tracking server is down, and all logged values are delivered later."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
import requests
import sqlalchemy as sa

from ml_platform.registry.delivery import deliver, register_or_queue
from ml_platform.registry.models import ModelRegistry
from ml_platform.registry.outbox import Outbox, is_connection_error
from ml_platform.registry.tracking import Tracking, TrackingError, run_tags

TAGS = run_tags(asset="candidate", partition="2013-06", attempt=1, dagster_run_id="run-1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def down(outbox: Outbox) -> Tracking:
    """A tracking store whose server is down."""
    return Tracking(f"http://127.0.0.1:{free_port()}", None, outbox)


def test_run_continues_while_the_server_is_down_and_is_delivered_later(
    down: Tracking, outbox: Outbox, tracking: Tracking, tmp_path: Path
) -> None:
    (tmp_path / "plot.png").write_bytes(b"png")
    with down.run("departure_risk", "lightgbm", TAGS) as run:
        run.log_params({"num_leaves": 31})
        run.log_metrics({"auc": 0.77}, step=2)
        run.log_artifact(tmp_path / "plot.png", "plots")
    # The delivered file has the content at the time of logging.
    (tmp_path / "plot.png").write_bytes(b"changed")
    assert run.queued
    (delivered,) = deliver(outbox, tracking)
    assert delivered.run_id is not None
    stored = tracking.client.get_run(delivered.run_id)
    assert (stored.info.status, stored.data.params, stored.data.metrics) == (
        "FINISHED",
        {"num_leaves": "31"},
        {"auc": 0.77},
    )
    assert Path(tracking.client.download_artifacts(delivered.run_id, "plots/plot.png")).read_bytes() == b"png"
    assert outbox.pending() == []


def test_delivered_run_keeps_its_start_and_end_times(outbox: Outbox, down: Tracking, tracking: Tracking) -> None:
    down.now = lambda: 1_372_636_800.0
    with down.run("departure_risk", "x", TAGS):
        pass
    (delivered,) = deliver(outbox, tracking)
    info = tracking.client.get_run(str(delivered.run_id)).info
    assert (info.start_time, info.end_time) == (1_372_636_800_000, 1_372_636_800_000)


def test_body_that_raises_is_delivered_as_a_failed_run(outbox: Outbox, down: Tracking, tracking: Tracking) -> None:
    with pytest.raises(ValueError, match="no rows"), down.run("departure_risk", "x", TAGS):
        raise ValueError("no rows")
    (delivered,) = deliver(outbox, tracking)
    assert tracking.client.get_run(str(delivered.run_id)).info.status == "FAILED"


def test_delivered_trial_is_nested_in_its_delivered_parent(outbox: Outbox, down: Tracking, tracking: Tracking) -> None:
    with down.run("departure_risk", "search", TAGS) as search, search.child("trial 0") as trial:
        trial.log_metrics({"log_loss": 0.44})
    parent, child = deliver(outbox, tracking)
    assert tracking.client.get_run(str(child.run_id)).data.tags["mlflow.parentRunId"] == parent.run_id


def test_model_of_a_queued_run_is_registered_at_delivery(
    outbox: Outbox, down: Tracking, registry: ModelRegistry, model_directory: Callable[..., Path], example: pl.DataFrame
) -> None:
    with down.run("departure_risk", "x", TAGS) as run:
        queued = register_or_queue(
            ModelRegistry(down), run, "departure_risk", model_directory("tree"), input_example=example
        )
    assert queued is None
    (delivered,) = deliver(outbox, registry.tracking)
    version = registry.version("departure_risk", 1)
    assert (version.run_id, version.partition) == (delivered.run_id, "2013-06")


def test_delivery_to_a_server_that_is_still_down_keeps_the_entry(outbox: Outbox, down: Tracking) -> None:
    with down.run("departure_risk", "x", TAGS):
        pass
    assert deliver(outbox, down) == []
    assert len(outbox.pending()) == 1


def test_interrupted_delivery_starts_again_without_a_second_run(
    outbox: Outbox, down: Tracking, tracking: Tracking
) -> None:
    with down.run("departure_risk", "x", TAGS) as run:
        run.log_metrics({"auc": 0.77})
        run.log_artifact(Path(__file__))
    first = next(iter(outbox.ready()))
    copied = next((first.path / "files").rglob("*.py"))
    hidden = copied.rename(first.path / "hidden")
    # The missing file interrupts the delivery after the run was created and its metric was written.
    with contextlib.suppress(OSError):
        from ml_platform.registry.delivery import _deliver_entry

        _deliver_entry(first, tracking, outbox.folder / "delivered.json")
    hidden.rename(copied)
    first.close()
    (delivered,) = deliver(outbox, tracking)
    assert tracking.find_runs("departure_risk", TAGS) == [delivered.run_id]
    assert len(tracking.client.get_metric_history(str(delivered.run_id), "auc")) == 1


def test_entry_with_an_active_writer_is_not_delivered(outbox: Outbox, down: Tracking, tracking: Tracking) -> None:
    with down.run("departure_risk", "x", TAGS):
        assert deliver(outbox, tracking) == []
    assert len(deliver(outbox, tracking)) == 1


def test_entry_of_a_killed_writer_is_delivered_as_killed(outbox: Outbox, down: Tracking, tracking: Tracking) -> None:
    program = f"""
        import os, signal, pathlib
        from ml_platform.registry.outbox import Outbox
        from ml_platform.registry.tracking import Tracking
        tracking = Tracking({down.tracking_uri!r}, None, Outbox(pathlib.Path({str(outbox.folder)!r})))
        run = tracking.open("departure_risk", "x", {{}})
        run.log_metrics({{"loss": 0.5}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert died.returncode == -signal.SIGKILL
    (delivered,) = deliver(outbox, tracking)
    stored = tracking.client.get_run(str(delivered.run_id))
    assert (stored.info.status, stored.data.metrics) == ("KILLED", {"loss": 0.5})


def test_rejected_entry_becomes_a_dead_letter_and_the_next_is_delivered(
    outbox: Outbox, down: Tracking, tracking: Tracking
) -> None:
    with down.run("departure_risk", "bad", TAGS) as run:
        # MLflow rejects a second value of a parameter.
        run.log_params({"num_leaves": 31})
        run.log_params({"num_leaves": 63})
    with down.run("departure_risk", "good", TAGS):
        pass
    rejected, delivered = deliver(outbox, tracking)
    assert rejected.error is not None
    assert outbox.dead_letters() == [rejected.entry]
    assert tracking.client.get_run(str(delivered.run_id)).info.status == "FINISHED"


def test_without_an_outbox_a_server_that_is_down_is_an_error() -> None:
    tracking = Tracking(f"http://127.0.0.1:{free_port()}", None)
    with pytest.raises(requests.exceptions.ConnectionError), tracking.run("departure_risk", "x", TAGS):
        pass


def test_queueing_without_an_outbox_names_the_fix(tracking: Tracking) -> None:
    with (
        tracking.run("departure_risk", "x", TAGS) as run,
        pytest.raises(TrackingError, match=r"an outbox for the queue, found none.*Configure an outbox folder"),
    ):
        run.queue({"kind": "tags", "values": {}})


def test_full_disk_is_an_error_and_the_entry_keeps_its_content(
    outbox: Outbox, down: Tracking, tracking: Tracking
) -> None:
    # A limit on the file size simulates a full disk: the write stops in the middle of a line.
    program = f"""
        import pathlib, resource
        from ml_platform.registry.outbox import Outbox
        from ml_platform.registry.tracking import Tracking
        tracking = Tracking({down.tracking_uri!r}, None, Outbox(pathlib.Path({str(outbox.folder)!r})))
        with tracking.run("departure_risk", "x", {{}}) as run:
            run.log_metrics({{"loss": 0.5}})
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
            try:
                run.log_text("text  " * 200, "model.md")
            except OSError as error:
                print(error.strerror)
            run.log_metrics({{"loss": 0.4}}, step=1)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    (delivered,) = deliver(outbox, tracking)
    losses = tracking.client.get_metric_history(str(delivered.run_id), "loss")
    assert [point.value for point in losses] == [0.5, 0.4]


@pytest.mark.parametrize("status", [500, 503])
def test_server_without_its_database_counts_as_down(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    class Answer(BaseHTTPRequestHandler):
        """Responds like an MLflow server without its database: the health page works, all other requests fail."""

        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Tracking(f"http://127.0.0.1:{server.server_port}", None, outbox).run("departure_risk", "x", TAGS) as run:
            run.log_metrics({"loss": 0.5})
        server.shutdown()
    assert run.queued
    assert len(outbox.pending()) == 1


class Server:
    """An `mlflow server` on loopback that can be killed and started again on the same port and store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination", f"{self.folder}/artifacts",
        ]  # fmt: skip
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        until = time.monotonic() + 90
        while time.monotonic() < until:
            with contextlib.suppress(requests.exceptions.RequestException):
                if requests.get(f"{self.uri}/health", timeout=1).ok:
                    return
            assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        raise AssertionError("the server did not answer within 90 s")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(new_database: Path, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "mlflow.db").write_bytes(new_database.read_bytes())
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_run_is_complete_after_its_server_was_killed_and_started_again(
    server: Server, outbox: Outbox, model_directory: Callable[..., Path], example: pl.DataFrame, tmp_path: Path
) -> None:
    tracking = Tracking(server.uri, None, outbox)
    with tracking.run("departure_risk", "lightgbm", TAGS) as run:
        run.log_metrics({"loss": 0.6}, step=0)
        assert not run.queued
        server.kill()
        run.log_metrics({"loss": 0.5}, step=1)
        run.log_text("# card", "model.md")
        registered = register_or_queue(
            ModelRegistry(tracking), run, "departure_risk", model_directory("tree"), input_example=example
        )
    assert (run.queued, registered) == (True, None)
    server.start()
    (delivered,) = deliver(outbox, tracking)
    assert delivered.run_id == run.run_id
    losses = tracking.client.get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in losses] == [(0, 0.6), (1, 0.5)]
    assert tracking.client.get_run(run.run_id).info.status == "FINISHED"
    version = ModelRegistry(tracking).version("departure_risk", 1)
    got = ModelRegistry(tracking).download(version, tmp_path / "got")
    assert (got / "weights.txt").read_text() == "tree"


def test_postgres_that_does_not_answer_is_a_connection_error() -> None:
    engine = sa.create_engine(f"postgresql+psycopg://user@127.0.0.1:{free_port()}/mlflow")
    with pytest.raises(sa.exc.OperationalError) as raised, engine.connect():
        pass
    assert is_connection_error(raised.value)
