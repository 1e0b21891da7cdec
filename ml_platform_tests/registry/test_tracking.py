"""Each asset, partition and attempt has its own MLflow run, and concurrent runs do not mix."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_platform.registry.tracking import COST, Tracking, TrackingError, run_tags

TAGS = run_tags(asset="departure_risk/candidate", partition="2013-06", attempt=1, dagster_run_id="run-1")


def test_run_contains_the_logged_values_and_ends_finished(tracking: Tracking, tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(b"png")
    with tracking.run("departure_risk", "lightgbm 2013-06", TAGS) as run:
        run.log_params({"num_leaves": 31})
        run.log_metrics({"auc": 0.77}, step=3)
        run.log_artifact(tmp_path / "plot.png", "plots")
        run.log_text("# card", "card/model.md")
    stored = tracking.client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"num_leaves": "31"}
    assert stored.data.metrics == {"auc": 0.77}
    assert {name: stored.data.tags[name] for name in TAGS} == TAGS
    assert Path(tracking.client.download_artifacts(run.run_id, "plots/plot.png")).read_bytes() == b"png"
    assert Path(tracking.client.download_artifacts(run.run_id, "card/model.md")).read_text() == "# card"


def test_body_that_raises_gives_a_failed_run_with_its_error(tracking: Tracking) -> None:
    with pytest.raises(ValueError, match="no rows"), tracking.run("departure_risk", "x", TAGS) as run:
        raise ValueError("no rows")
    stored = tracking.client.get_run(run.run_id)
    assert (stored.info.status, stored.data.tags["ml_platform.error"]) == ("FAILED", "ValueError: no rows")


def test_concurrent_partitions_do_not_mix(tracking: Tracking) -> None:
    both_open = threading.Barrier(2)

    def materialize(partition: str) -> str:
        tags = run_tags(asset="candidate", partition=partition, attempt=1, dagster_run_id="run-1")
        with tracking.run("departure_risk", partition, tags) as run:
            both_open.wait(timeout=30)
            run.log_params({"partition": partition})
            both_open.wait(timeout=30)
            run.log_metrics({"month": float(partition[-2:])})
        return run.run_id

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(materialize, ["2013-05", "2013-06"]))
    stored = [tracking.client.get_run(run_id).data for run_id in runs]
    assert [(one.params["partition"], one.metrics["month"]) for one in stored] == [("2013-05", 5.0), ("2013-06", 6.0)]


def test_no_active_run_is_left_in_the_process(tracking: Tracking) -> None:
    import mlflow

    with tracking.run("departure_risk", "x", TAGS):
        assert mlflow.active_run() is None


def test_two_processes_creating_an_experiment_get_the_same_one(tracking: Tracking) -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(lambda _: tracking.experiment("departure_risk"), range(4)))
    assert len(ids) == 1


def test_experiments_open_with_their_runs_those_of_an_earlier_release_too(tracking: Tracking) -> None:
    earlier = tracking.client.create_experiment("earlier")
    assert tracking.experiment("earlier") == earlier
    for name in ("earlier", "new"):
        found = tracking.client.get_experiment(tracking.experiment(name))
        assert found.tags["mlflow.experimentKind"] == "custom_model_development"


def test_deleted_experiment_is_named_with_the_fix(tracking: Tracking) -> None:
    tracking.client.delete_experiment(tracking.experiment("departure_risk"))
    with pytest.raises(
        TrackingError, match=r"active experiment, or no experiment of that name, found a deleted one.*restore"
    ):
        tracking.experiment("departure_risk")


def test_earlier_attempt_left_open_by_a_killed_process_is_ended(tracking: Tracking) -> None:
    killed = tracking.open("departure_risk", "x", TAGS)
    with tracking.run("departure_risk", "x", {**TAGS, "ml_platform.attempt": "2"}):
        assert tracking.client.get_run(killed.run_id).info.status == "KILLED"


def test_open_run_of_another_partition_is_left_alone(tracking: Tracking) -> None:
    other = tracking.open("departure_risk", "x", {**TAGS, "ml_platform.partition": "2013-05"})
    with tracking.run("departure_risk", "x", {**TAGS, "ml_platform.attempt": "2"}):
        assert tracking.client.get_run(other.run_id).info.status == "RUNNING"


def test_runs_whose_dagster_run_has_ended_are_ended(tracking: Tracking) -> None:
    over = tracking.open("departure_risk", "x", TAGS)
    alive = tracking.open("departure_risk", "x", {**TAGS, "dagster_run_id": "run-2"})
    assert tracking.end_abandoned_runs("departure_risk", lambda run_id: run_id == "run-1") == [over.run_id]
    assert tracking.client.get_run(alive.run_id).info.status == "RUNNING"


def test_trials_are_nested_runs(tracking: Tracking) -> None:
    with tracking.run("departure_risk", "search", TAGS) as run, run.child("trial 0") as trial:
        trial.log_metrics({"log_loss": 0.44})
    stored = tracking.client.get_run(trial.run_id)
    assert (stored.data.tags["mlflow.parentRunId"], stored.info.status) == (run.run_id, "FINISHED")


def test_runs_are_found_by_tag(tracking: Tracking) -> None:
    with tracking.run("departure_risk", "x", TAGS) as run:
        pass
    assert tracking.find_runs("departure_risk", {"dagster_run_id": "run-1"}) == [run.run_id]
    assert tracking.find_runs("departure_risk", {"dagster_run_id": "run-9"}) == []


def test_parameters_beyond_one_request_are_all_stored(tracking: Tracking) -> None:
    with tracking.run("departure_risk", "x", TAGS) as run:
        run.log_params({f"p{number}": number for number in range(250)})
    assert len(tracking.client.get_run(run.run_id).data.params) == 250


def test_curve_has_a_point_per_step(tracking: Tracking) -> None:
    with tracking.run("departure_risk", "x", TAGS) as run:
        run.log_curves({"loss": [1 / (step + 1) for step in range(1500)], "auc": [0.6, 0.7]})
    losses = tracking.client.get_metric_history(run.run_id, "loss")
    assert len(losses) == 1500
    assert sorted((point.step, point.value) for point in losses)[:2] == [(0, 1.0), (1, 0.5)]
    assert tracking.client.get_run(run.run_id).data.metrics["auc"] == 0.7


def test_plot_is_stored_under_its_name(tracking: Tracking) -> None:
    with tracking.run("departure_risk", "x", TAGS) as run:
        run.log_bytes(b"png", "plots/reliability.png")
    assert Path(tracking.client.download_artifacts(run.run_id, "plots/reliability.png")).read_bytes() == b"png"


def test_parameter_too_long_for_mlflow_is_truncated_with_a_mark(tracking: Tracking) -> None:
    with tracking.run("departure_risk", "x", TAGS) as run:
        run.log_params({"features": "f" * 7000})
    stored = tracking.client.get_run(run.run_id).data.params["features"]
    assert (len(stored), stored[-12:]) == (6000, "f… (cut off)")


def test_cost_counts_runs_that_began_within_the_time_and_no_trial_twice(tracking: Tracking) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    with tracking.run("costs", "fit", TAGS) as run:
        run.log_metrics({COST: 2.0})
        with run.child("trial") as trial:
            trial.log_metrics({COST: 1.0})
    after = datetime.now(UTC) + timedelta(seconds=1)
    assert tracking.cost_since(["costs", "no such experiment"], before) == 2.0
    assert tracking.cost_since(["costs"], before, after) == 2.0
    assert tracking.cost_since(["costs"], before - timedelta(days=2), before - timedelta(days=1)) == 0.0
    assert tracking.cost_since(["costs"], after) == 0.0
