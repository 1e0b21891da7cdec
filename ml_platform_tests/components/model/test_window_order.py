"""Windows that land together are evaluated one after the other, oldest first, or recorded as skipped."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from ml_platform.components import loading
from ml_platform.components.model.automation import new_window_sensor
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.training import candidate
from ml_platform.console.history import decisions
from ml_platform.evaluation.evidence import SystemChecks
from ml_platform.features.materialize import materialize
from ml_platform.registry.verdict_record import judged_partitions
from ml_platform.steps.candidates import build_training_sets, read_training_set, split_of
from ml_platform.steps.evaluation import collect_evidence, compared_versions, record_evaluation
from ml_platform.steps.scoring import score_models
from ml_platform.steps.window_backlog import WINDOW_SKIPPED
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import deliveries, delivery_model

pytestmark = pytest.mark.slow

NOW = datetime(2014, 1, 1, tzinfo=UTC)
BEFORE = ("2013-01", "2013-02", "2013-03")
TOGETHER = ("2013-04", "2013-05", "2013-06")


def model(name: str, **retraining: str) -> ModelAssets:
    trainer = {"settings": {"max_rounds": 5, "num_threads": 1}}
    return delivery_model(name=name, trainers={"lightgbm": trainer}, split={"minimum_rows": 50}, retraining=retraining)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    """A home with the deliveries of six months and their change log."""
    with open_platform(tmp_path_factory.mktemp("repository") / ".ml_platform") as made:
        months = [*BEFORE, *TOGETHER]
        for month in months:
            made.lake.write("datasets/deliveries", deliveries(month), month)
        view, online = model("late").stored_views[0], made.resources["online_store"].store()
        materialize(view, made.lake, online, months, model("late").declared.partitions)
        yield made


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


class Automated:
    """A model whose sensor ticks against a real instance; each request is executed, and its candidate judged."""

    def __init__(self, platform: PlatformFixture, instance: dg.DagsterInstance, model: ModelAssets) -> None:
        self.platform, self.instance, self.model = platform, instance, model

    def land(self, months: tuple[str, ...]) -> None:
        build_training_sets(self.model, months, self.platform.lake)
        for month in months:
            made = dg.AssetMaterialization(self.model.key("training_set"), partition=month)
            self.instance.report_runless_asset_event(made)

    def tick(self) -> dg.RunRequest | str:
        resources = {"lake": self.platform.resources["lake"], "mlflow": self.platform.mlflow}
        with dg.build_sensor_context(instance=self.instance, resources=resources) as context:
            result = new_window_sensor(self.model)(context)
        if isinstance(result, dg.SkipReason):
            return str(result.skip_message)
        assert isinstance(result, dg.RunRequest)
        return result

    def execute(self, request: dg.RunRequest, **resources: Any) -> bool:
        """Fit the candidate of ``request`` in a run with its key, and judge it without a bento."""
        month = str(request.partition_key)
        done = dg.materialize(
            [candidate(self.model, "lightgbm")],
            partition_key=month,
            resources=self.platform.resources | resources,
            instance=self.instance,
            tags={**request.tags, "dagster/run_key": str(request.run_key)},
            raise_on_error=False,
        )
        if done.success:
            stores = self.platform.stores
            compared = compared_versions(self.model, month, stores)
            split = split_of(self.model, month, read_training_set(self.model, month, stores.lake))
            checks = SystemChecks(leaks=[], contract_violations=[], latency_p99_ms=5.0, size_bytes=1000)
            evidence = collect_evidence(
                self.model, split.test, compared, score_models(self.model, split, compared, stores), checks
            )
            record_evaluation(self.model, compared, evidence, {}, stores, NOW)
        return done.success

    def run_until_skipped(self) -> list[str]:
        """Return the partitions that the sensor requests until it skips; each run ends before the next tick."""
        requested = []
        while isinstance(request := self.tick(), dg.RunRequest):
            assert self.execute(request)
            requested.append(str(request.partition_key))
        return requested


def test_windows_that_land_together_are_evaluated_in_order(
    platform: PlatformFixture, instance: dg.DagsterInstance
) -> None:
    automated = Automated(platform, instance, model("late"))
    automated.land(BEFORE)
    assert automated.run_until_skipped() == ["2013-03"]  # a new model begins with its newest window
    automated.land(TOGETHER)
    assert automated.run_until_skipped() == list(TOGETHER)

    verdicts = judged_partitions(platform.lake.state, "late")
    assert sorted(verdicts) == ["2013-03", *TOGETHER]
    assert platform.stores.audit.records(WINDOW_SKIPPED, "late") == []


def test_newest_window_alone_is_evaluated_where_declared_and_the_others_are_recorded(
    platform: PlatformFixture, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    automated = Automated(platform, instance, model("newest", on_backlog="newest"))
    monkeypatch.setattr(loading, "bound_model", lambda _: automated.model)
    automated.land(BEFORE)
    assert automated.run_until_skipped() == ["2013-03"]
    automated.land(TOGETHER)
    assert isinstance(automated.tick(), dg.RunRequest)
    assert automated.run_until_skipped() == ["2013-06"]  # the tick before has recorded the others, and this one none

    records = platform.stores.audit.records(WINDOW_SKIPPED, "newest")
    reason = "It closed together with 2013-06, and 'retraining.on_backlog' is newest."
    assert [(each.facts["partition"], each.facts["reason"]) for each in records] == [
        ("2013-04", reason),
        ("2013-05", reason),
    ]
    shown = [each for each in decisions(platform.home, "newest") if getattr(each, "version", 1) is None]
    assert [each.decision for each in shown] == ["skip the window 2013-04", "skip the window 2013-05"]  # type: ignore[union-attr]
    observed = instance.fetch_observations(automated.model.key("evaluation"), limit=10).records
    assert {(each.partition_key, str(each.asset_observation.metadata["skipped"].value)) for each in observed} == {  # type: ignore[union-attr]
        ("2013-04", reason),
        ("2013-05", reason),
    }


def test_window_waits_for_the_run_of_the_one_before_and_follows_a_failed_one(
    platform: PlatformFixture, instance: dg.DagsterInstance
) -> None:
    automated = Automated(platform, instance, model("faulty"))
    automated.land(BEFORE)
    assert automated.run_until_skipped() == ["2013-03"]
    automated.land(TOGETHER)
    request = automated.tick()
    assert isinstance(request, dg.RunRequest)

    tags = {**request.tags, "dagster/run_key": str(request.run_key), "dagster/partition": "2013-04"}
    run = create_run_for_test(instance, job_name="cycle", tags=tags, status=dg.DagsterRunStatus.STARTED)
    waiting = automated.tick()
    assert waiting == f"Run {run.run_id} trains 'faulty' on 2013-04. Then in order: '2013-05', '2013-06'."
    instance.report_run_failed(run)
    assert automated.run_until_skipped() == ["2013-05", "2013-06"]
