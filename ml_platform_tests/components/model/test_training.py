"""The asset `candidate_<trainer>`: its records and metadata, and its behaviour with bad rows, servers and machines."""

import contextlib
import errno
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.log_manager import DagsterLogManager

from ml_platform.components.model import evaluation, training
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.placement import KUBERNETES_TAG, pool_of
from ml_platform.data.lake import LakeError
from ml_platform.registry.models import ModelError
from ml_platform.registry.outbox import Outbox
from ml_platform.steps import candidates
from ml_platform.training.fit_progress import FitProgress
from ml_platform.training.splits import SplitError
from ml_platform.training.trainer import TrainerSettings
from ml_platform_tests.components import delivery_home
from ml_platform_tests.components.delivery_home import FAST, PlatformFixture, open_platform, with_trainers
from ml_platform_tests.components.delivery_model import MONTHS, delivery_model
from ml_platform_tests.components.step_usage import without_usage
from resources.home import Home
from resources.isolated_steps import IMPORTS_TAG
from resources.mlflow import MlflowResource
from resources.orchestration import open_instance
from resources.ray_steps import RAY_TAG
from resources.step_process import THREADS_TAG
from resources.steps_executor import ISOLATED_TAG

NOT_IN_FEBRUARY = (
    pl.when(pl.col("predict_at").dt.month() == 2).then(None).otherwise(pl.col("label")).cast(pl.Int8).alias("label")
)
TUNED = {
    "settings": FAST,
    "tuning": {
        "trials": 5,
        "space": {
            "num_leaves": {"kind": "int", "low": 3, "high": 40},
            "learning_rate": {"kind": "float", "low": 0.01, "high": 0.3, "log": True},
        },
    },
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    with open_platform(tmp_path_factory.mktemp("repository") / ".ml_platform") as made:
        made.land()
        yield made


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_platform.training.trainer.gpu_count", lambda: 0)


def runs_of(platform: PlatformFixture, model: ModelAssets, month: str = "2013-03") -> list[Any]:
    """Return the MLflow runs of the model's candidates of ``month``, latest first."""
    found = platform.mlflow.tracking.find_runs(model.name, {"ml_platform.partition": month})
    return [platform.mlflow.tracking.client.get_run(run_id) for run_id in found]


def test_version_has_a_signature_an_example_and_one_tagged_run(platform: PlatformFixture) -> None:
    import mlflow

    model = delivery_model(name="signed", trainers={"lightgbm": {"settings": FAST}})
    platform.with_rows("signed", pl.col("shop"))
    shown = platform.make(model)

    (run,) = runs_of(platform, model)
    version = platform.mlflow.models.version("signed", shown["version"])
    assert (version.run_id, version.content_digest) == (run.info.run_id, shown["content_digest"])
    assert (run.info.status, run.data.tags["ml_platform.asset"]) == ("FINISHED", "signed/candidate_lightgbm")
    assert run.data.metrics["train_rows"] == shown["train_rows"]
    losses = platform.mlflow.tracking.client.get_metric_history(run.info.run_id, "validation_loss")
    assert sorted(point.step for point in losses) == list(range(FAST["max_rounds"]))
    trained = platform.mlflow.tracking.client.get_metric_history(run.info.run_id, "training_loss")
    assert sorted(point.step for point in trained) == list(range(FAST["max_rounds"]))
    assert "data:image/png" in shown["loss_curve"]
    mlflow.set_tracking_uri(platform.mlflow.tracking_uri)
    described = mlflow.models.get_model_info(f"runs:/{run.info.run_id}/model")
    assert described.signature.inputs.input_names() == model.feature_set.feature_names
    assert described.saved_input_example_info is not None


def test_losses_are_in_the_run_and_progress_is_in_the_log_while_the_fit_is_under_way(
    platform: PlatformFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = delivery_model(name="streamed", trainers={"lightgbm": {"settings": FAST, "seed": 5}})
    platform.with_rows("streamed", pl.col("shop"))
    monkeypatch.setattr("ml_platform.steps.candidates.FitProgress", partial(FitProgress, seconds_between_lines=0.0))
    during: list[tuple[int, str]] = []
    lines: list[str] = []

    def tell(line: str) -> None:
        (run,) = runs_of(platform, model)
        history = platform.mlflow.tracking.client.get_metric_history(run.info.run_id, "validation_loss")
        during.append((len(history), run.data.params.get("learning_rate", "")))
        lines.append(line)

    monkeypatch.setattr(DagsterLogManager, "info", lambda _, line: tell(line))
    platform.make(model)

    assert lines[0].startswith("Fits lightgbm on ")
    assert lines[2].startswith("Round 2, validation loss 0.")
    assert "; at most 30 rounds, which take " in lines[2]
    assert "Fits again on" in lines[-1]
    stored, rates = zip(*during, strict=True)
    assert stored[:4] == (0, 0, 1, 2)  # a line comes before the write of its round
    assert len(set(rates)) == 1
    assert rates[0] != ""


def test_run_that_fails_before_its_fit_has_its_parameters(platform: PlatformFixture) -> None:
    model = delivery_model(name="unlanded", trainers={"lightgbm": {"settings": FAST}})
    with pytest.raises(LakeError):
        platform.make(model)
    (run,) = runs_of(platform, model)
    assert (run.info.status, run.data.params["max_rounds"]) == ("FAILED", str(FAST["max_rounds"]))


def test_threshold_is_chosen_by_the_declared_rule_and_stored_with_the_model(
    platform: PlatformFixture, tmp_path: Path
) -> None:
    costs = {"false_positive": 1, "false_negative": 9}
    trainers = {"lightgbm": {"settings": FAST}}
    shown = platform.make(delivery_model(trainers=trainers, threshold={"cost": costs}))
    fixed = platform.make(delivery_model(trainers=trainers, threshold=0.5))

    version = platform.mlflow.models.version("late", shown["version"])
    directory = platform.mlflow.models.download(version, tmp_path / "model")
    stored = json.loads((directory / "model.json").read_text())["threshold"]
    chosen = platform.mlflow.models.manifest(version).threshold
    assert chosen is not None
    assert stored == chosen["value"] == shown["threshold"]
    assert shown["threshold_rule"] == "cost (false_positive 1, false_negative 9)"
    # A missed case costs nine false alarms, so the threshold lies well below one half.
    assert 0.02 < stored < 0.4
    assert fixed["threshold"] == 0.5


def test_time_memory_and_cost_of_candidate_and_training_set_are_recorded(platform: PlatformFixture) -> None:
    taken = platform.make(with_trainers(lightgbm={"settings": FAST, "seed": 11}))
    assembled = dg.materialize(
        [training.training_set(delivery_model())],
        partition_key="2013-03",
        resources=platform.resources,
        raise_on_error=False,  # this test ignores the leakage checks
    ).get_asset_materialization_events()[0]
    for shown in (taken, {name: value.value for name, value in assembled.materialization.metadata.items()}):
        assert (shown["device"], shown["gpu_seconds"], shown["currency"]) == ("cpu", 0.0, "USD")
        assert shown["wall_seconds"] > 0  # type: ignore[operator]
        assert shown["peak_memory_bytes"] > 50_000_000  # type: ignore[operator]
        # The price of one core for one hour in params.yaml.
        assert shown["cost"] == pytest.approx(shown["cpu_seconds"] * 0.048 / 3600)  # type: ignore[operator]


def test_concurrent_candidates_of_two_months_do_not_interfere(platform: PlatformFixture) -> None:
    model = delivery_model(name="side_by_side", trainers={"lightgbm": {"settings": FAST}})
    platform.with_rows("side_by_side", pl.col("shop"))
    shown: dict[str, Any] = {}
    at_once = [
        threading.Thread(target=lambda month=month: shown.update({month: platform.make(model, month)}))
        for month in ("2013-03", "2013-04")
    ]
    for one in at_once:
        one.start()
    for one in at_once:
        one.join()
    for month in ("2013-03", "2013-04"):
        (run,) = runs_of(platform, model, month)
        assert run.info.status == "FINISHED"
        assert run.data.metrics["train_rows"] == shown[month]["train_rows"]
        assert platform.mlflow.models.version(model.name, shown[month]["version"]).partition == month
    assert shown["2013-03"]["train_rows"] < shown["2013-04"]["train_rows"]


def test_every_trial_is_a_nested_run_and_the_search_is_plotted(platform: PlatformFixture) -> None:
    model = with_trainers(lightgbm=TUNED)
    shown = platform.make(model)

    tracking = platform.mlflow.tracking
    parent = platform.mlflow.models.version(model.name, shown["version"]).run_id
    trials = [tracking.client.get_run(each) for each in tracking.find_runs(model.name, {"mlflow.parentRunId": parent})]
    assert sorted(each.data.tags["ml_platform.trial"] for each in trials) == list("01234")
    losses = {
        int(each.data.tags["ml_platform.trial"]): each.data.metrics["validation_loss"]
        for each in trials
        if each.data.tags["ml_platform.trial_state"] == "COMPLETE"
    }
    assert losses
    assert all(set(each.data.params) == {"num_leaves", "learning_rate"} for each in trials)
    assert tracking.client.get_run(parent).data.metrics["best_validation_loss"] == min(losses.values())
    plots = {file.path for file in tracking.client.list_artifacts(parent, "plots")}
    assert {"plots/importance.png", "plots/tuning_history.png"} <= plots
    table = {record.data["number"]: record.data for record in shown["trials"].records}
    assert table.keys() == set(range(5))
    assert {number: table[number]["loss"] for number in losses} == losses
    assert (platform.home.models / "studies" / "late-lightgbm.db").is_file()


def test_trials_of_an_interrupted_step_are_not_repeated(platform: PlatformFixture) -> None:
    model = delivery_model(name="searched", trainers={"lightgbm": TUNED})
    platform.with_rows("searched", pl.col("shop"))
    few = delivery_model(name="searched", trainers={"lightgbm": TUNED | {"tuning": TUNED["tuning"] | {"trials": 2}}})  # type: ignore[operator]
    platform.make(few)
    shown = platform.make(model)

    parent = platform.mlflow.models.version(model.name, shown["version"]).run_id
    fresh = platform.mlflow.tracking.find_runs(model.name, {"mlflow.parentRunId": parent})
    assert len(shown["trials"].records) == 5
    assert len(fresh) == 3


@pytest.mark.parametrize(
    ("name", "change", "months", "message"),
    [
        ("constant", pl.lit(1, pl.Int8).alias("label"), MONTHS, "expected labels of more than one value"),
        ("unlabelled", NOT_IN_FEBRUARY, MONTHS, "validation part: expected at least 100 rows"),
        ("gap", pl.col("shop"), ("2013-01", "2013-03"), r"expected partitions '2013-02'"),
    ],
)
def test_unusable_rows_fail_the_step_and_its_run(
    platform: PlatformFixture, name: str, change: pl.Expr, months: tuple[str, ...], message: str
) -> None:
    model = platform.with_rows(name, change, months)
    with pytest.raises((SplitError, LakeError), match=message):
        platform.make(model)
    (run,) = runs_of(platform, model)
    assert run.info.status == "FAILED"
    assert message in run.data.tags["ml_platform.error"]
    assert platform.mlflow.models.versions(model.name) == []


def test_null_infinite_and_unseen_values_are_noted_and_do_not_fail_the_fit(platform: PlatformFixture) -> None:
    every_ninth = pl.int_range(pl.len()) % 9 == 0
    endless = pl.when(every_ninth).then(float("inf")).otherwise("order__distance").alias("order__distance")
    model = platform.with_rows("odd", endless)
    march = platform.lake.scan(model.table, partitions=["2013-03"]).drop("partition").collect()
    platform.lake.write(model.table, march.with_columns(shop=pl.lit("never seen")), "2013-03")
    for month in ("2013-01", "2013-02", "2013-03"):
        rows = platform.lake.scan(model.table, partitions=[month]).drop("partition").collect()
        platform.lake.write(model.table, rows.with_columns(when__hour=pl.lit(None, rows.schema["when__hour"])), month)

    shown = platform.make(model)

    assert shown["notes"] == [
        "1 features without any value: 'when__hour'.",
        "Infinite values counted as missing in 'order__distance'.",
    ]
    assert platform.mlflow.models.version("odd", shown["version"]).partition == "2013-03"


def test_fit_is_resumed_from_its_checkpoint_after_a_later_failure(
    platform: PlatformFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = platform.with_rows("full", pl.col("shop"))
    checkpoints = platform.home.models / "checkpoints" / "full"

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(candidates, "write_model", full)
        with pytest.raises(OSError, match="No space left on device"):
            platform.make(model)
    assert list(checkpoints.rglob("step-*"))

    again = platform.make(model)

    assert [note.partition(" after")[0] for note in again["notes"]] == ["Resumed from the checkpoint"] * 2
    assert not list(checkpoints.rglob("step-*"))
    whole = platform.make(platform.with_rows("undisturbed", pl.col("shop")))
    manifests = [
        platform.mlflow.models.manifest(platform.mlflow.models.version(name, 1)) for name in ("full", "undisturbed")
    ]
    assert manifests[0].predictions == manifests[1].predictions
    assert whole["notes"] == []


def test_candidate_waits_in_the_outbox_while_the_tracking_server_is_down(
    platform: PlatformFixture, tmp_path: Path
) -> None:
    model = with_trainers(lightgbm=TUNED | {"seed": 23})
    outbox = str(tmp_path / "outbox")
    down = MlflowResource(tracking_uri="http://127.0.0.1:9", outbox=outbox)
    shown = platform.make(model, mlflow=down)
    assert "version" not in shown
    assert "wait in the outbox" in shown["queued"]
    assert len(Outbox(Path(outbox)).pending()) == 6  # the run and its five trials

    back = platform.tracked(outbox=outbox)
    found = back.models.by_content(model.name, shown["content_digest"])
    assert found is not None
    assert Outbox(Path(outbox)).pending() == []
    run = back.tracking.client.get_run(found.run_id)
    assert (run.info.status, run.data.metrics["train_rows"]) == ("FINISHED", shown["train_rows"])
    assert len(back.tracking.find_runs(model.name, {"mlflow.parentRunId": found.run_id})) == 5
    assert platform.make(model)["skipped"] == f"Inputs unchanged since version {found.version}."


def test_declared_resources_become_tags_for_ray_and_kubernetes() -> None:
    model = with_trainers(
        plain={},
        large={"compute": {"cpus": 4, "memory_gb": 8, "resources": {"spot": 0.5}, "isolated": True}},
        gpu={"trainer": "torch", "requires": "gpu", "compute": {"cpus": 2}},
    )
    plain, large, gpu = (training.candidate(model, name) for name in ("plain", "large", "gpu"))
    assert ISOLATED_TAG not in plain.op.tags
    assert ISOLATED_TAG not in gpu.op.tags
    assert large.op.tags[ISOLATED_TAG] == "true"
    assert (plain.op.tags.get(THREADS_TAG), large.op.tags[THREADS_TAG]) == (None, "4")
    assert (plain.op.tags[IMPORTS_TAG], gpu.op.tags[IMPORTS_TAG]) == ("mlflow,lightgbm", "mlflow,torch")
    assert not {RAY_TAG, KUBERNETES_TAG} & plain.op.tags.keys()
    assert json.loads(large.op.tags[RAY_TAG]) == {
        "num_gpus": 0,
        "num_cpus": 4.0,
        "memory": 8 * 1024**3,
        "resources": {"spot": 0.5},
    }
    assert json.loads(large.op.tags[KUBERNETES_TAG]) == {
        "container_config": {
            "resources": {"requests": {"cpu": "4", "memory": "8192Mi"}, "limits": {"memory": "8192Mi"}}
        }
    }
    assert json.loads(gpu.op.tags[RAY_TAG])["num_gpus"] == 1
    assert json.loads(gpu.op.tags[KUBERNETES_TAG])["container_config"]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert [each.op.pool for each in (plain, large, gpu)] == [None, None, "gpu"]


@pytest.mark.parametrize(
    ("gpus", "pools"), [(0, [None, None, None, "gpu"]), (1, ["gpu", None, None, "gpu"])], ids=["no GPU", "one GPU"]
)
def test_trainer_that_would_use_a_gpu_without_declaring_it_waits_in_the_pool(
    monkeypatch: pytest.MonkeyPatch, gpus: int, pools: list[str | None]
) -> None:
    monkeypatch.setattr("ml_platform.components.model.placement.gpu_count", lambda: gpus)
    model = with_trainers(
        auto={"trainer": "torch", "compute": {"cpus": 2}},
        kept_off={"trainer": "torch", "settings": {"device": "cpu"}},
        trees={"settings": FAST},
        given={"settings": FAST, "compute": {"gpus": 1}},
    )
    assert [training.candidate(model, name).op.pool for name in model.declared.trainers] == pools


def test_gpu_of_a_mac_is_not_detected_because_that_imports_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_platform.components.model.placement.sys.platform", "darwin")
    monkeypatch.setattr("ml_platform.components.model.placement.gpu_count", lambda: pytest.fail("the GPU was detected"))
    assert pool_of(TrainerSettings(trainer="torch")) == "gpu"
    assert pool_of(TrainerSettings(trainer="lightgbm")) is None


def test_compute_settings_do_not_change_the_model(platform: PlatformFixture) -> None:
    made = platform.make(with_trainers(lightgbm={"settings": FAST, "seed": 31}))
    again = platform.make(with_trainers(lightgbm={"settings": FAST, "seed": 31, "compute": {"cpus": 2}}))
    assert again["skipped"] == f"Inputs unchanged since version {made['version']}."


def test_pool_has_as_many_slots_as_the_machine_has_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("ML_PLATFORM_HOME", "")
    slots = []
    for gpus in (0, 4):
        monkeypatch.setattr("ml_platform.training.resource_usage.gpu_count", lambda gpus=gpus: gpus)
        with open_instance(Home(tmp_path)) as instance:
            slots.append(instance.event_log_storage.get_concurrency_info("gpu").slot_count)
    assert slots == [1, 4]


def test_month_whose_candidates_were_all_skipped_is_not_evaluated(platform: PlatformFixture, without_gpu: None) -> None:
    model = delivery_model(name="skipped", trainers={"torch": {"trainer": "torch", "requires": "gpu"}})
    shown = platform.make(model, trainer="torch")
    assert without_usage(shown) == {
        "skipped": "It requires a GPU (requires: gpu in defs.yaml), and this machine has none."
    }
    assert runs_of(platform, model) == []
    with pytest.raises(ModelError, match="expected a candidate of the window, found none: each candidate was skipped"):
        dg.materialize(
            [evaluation.evaluation(model)],
            partition_key="2013-03",
            resources=platform.resources,
            instance=dg.DagsterInstance.ephemeral(),
        )


@pytest.mark.slow
def test_evaluation_continues_without_skipped_candidates(platform: PlatformFixture, without_gpu: None) -> None:
    model = with_trainers(lightgbm={"settings": FAST}, torch={"trainer": "torch", "requires": "gpu"})
    made = [training.candidate(model, name) for name in ("torch", "lightgbm")]
    done = _materialize(platform, [*made, evaluation.evaluation(model)])
    shown = {event.materialization.asset_key.path[1]: event.materialization.metadata for event in _events(done)}
    assert shown.keys() == {"candidate_torch", "candidate_lightgbm", "evaluation"}
    assert shown["evaluation"]["version"] == shown["candidate_lightgbm"]["version"]
    fitted = {
        each.asset_key.path[1]: each for each in done.get_asset_check_evaluations() if each.check_name == "fitted"
    }
    assert {name: each.passed for name, each in fitted.items()} == {
        "candidate_torch": False,
        "candidate_lightgbm": True,
    }
    assert fitted["candidate_torch"].severity == dg.AssetCheckSeverity.WARN
    assert str(fitted["candidate_torch"].description).startswith("Skipped, so there is none: It requires a GPU")


@pytest.mark.slow
def test_bento_of_a_network_reproduces_the_training_scores_without_torch(platform: PlatformFixture) -> None:
    small = {"width": 16, "members": 2, "max_epochs": 2, "batch_rows": 128, "threads": 1, "device": "cpu"}
    model = delivery_model(name="nets", trainers={"torch": {"trainer": "torch", "settings": small}})
    platform.with_rows("nets", pl.col("shop"))
    candidate, verdict = training.candidate(model, "torch"), evaluation.evaluation(model)
    # The evaluation builds the bento and fails if a row has another score than in training.
    done = _materialize(platform, [candidate, verdict])
    shown = _events(done)[-1].materialization.metadata
    assert float(str(shown["auc"].value)) > 0.6
    (packed,) = (platform.home.bentos / "bentos" / "nets").glob("*/src/package.json")
    requirements = json.loads(packed.read_text())["requirements"]
    assert any(each.startswith("numpy==") for each in requirements)
    assert not [each for each in requirements if each.startswith(("torch", "tabm", "lightgbm"))]


@pytest.mark.slow
def test_wandb_mirror_has_the_run_and_its_trials(platform: PlatformFixture, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the wandb mirror is optional")
    twice = platform.tracked(wandb_enabled=True, wandb_folder=str(tmp_path))
    tuning = TUNED["tuning"] | {"trials": 2}  # type: ignore[operator]
    platform.make(with_trainers(lightgbm={"settings": FAST, "seed": 41, "tuning": tuning}), mlflow=twice)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 3


@pytest.mark.slow
def test_killed_step_resumes_and_fits_the_same_model(platform: PlatformFixture, tmp_path: Path) -> None:
    slow = {"max_rounds": 800, "patience": 800, "segment_rounds": 10, "num_threads": 1, "min_data_in_leaf": 5}
    whole = platform.make(with_trainers(lightgbm={"settings": slow}))
    shutil.copytree(platform.home.lake, tmp_path / "home" / "lake")
    # The catalog belongs to the lake; MLflow gets a new database.
    shutil.copy(platform.home.root / "home.json", tmp_path / "home")
    with (
        contextlib.closing(sqlite3.connect(platform.home.state)) as source,
        contextlib.closing(sqlite3.connect(tmp_path / "home" / "state.db")) as target,
    ):
        source.backup(target)
    command = [sys.executable, delivery_home.__file__, str(tmp_path / "home"), "2013-03", json.dumps(slow)]
    checkpoints = Home(tmp_path / "home").models / "checkpoints" / "late" / "lightgbm" / "2013-03"

    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(checkpoints.glob("*/step-*")):
        assert time.monotonic() < until
        assert killed.poll() is None, "the step ended before it could be killed"
        threading.Event().wait(0.02)
    killed.kill()
    killed.wait()
    assert list(checkpoints.glob("*/step-*")), "the step was killed after it had removed its checkpoints"

    resumed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
    assert resumed.startswith(whole["content_digest"])
    assert "Resumed from the checkpoint" in resumed
    assert not checkpoints.exists()


def _materialize(platform: PlatformFixture, assets: list[dg.AssetsDefinition]) -> dg.ExecuteInProcessResult:
    """Materialize ``assets``, also if gates fail; a failed gate fails the step after its result is recorded."""
    return dg.materialize(assets, partition_key="2013-03", resources=platform.resources, raise_on_error=False)


def _events(done: dg.ExecuteInProcessResult) -> list[Any]:
    return [event.event_specific_data for event in done.get_asset_materialization_events()]
