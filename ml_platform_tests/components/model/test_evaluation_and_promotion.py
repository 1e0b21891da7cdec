"""From candidate to champion with the real assets: skipped fits, verdicts, approvals, promotion and reproduction."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

import assets
from ml_platform.components.model import evaluation, model_card, promotion, serving, training
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_stores
from ml_platform.console.ci.report import ci_report
from ml_platform.console.ci.report_files import write_files
from ml_platform.console.lineage import DatasetColumns, ModelInputs, ProjectLineage
from ml_platform.data.contract import ColumnRule
from ml_platform.data.contract_record import broken_contracts, record_failed, record_passed
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import Lake
from ml_platform.evaluation.verdict import parse_verdict
from ml_platform.features.materialize import materialize
from ml_platform.registry.approvals import ApprovalError
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import ChampionRecord, current_champion
from ml_platform.registry.dvc_release import verify_release
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.models import CHALLENGER, CHAMPION, ModelRegistry
from ml_platform.registry.reproduction import Reproduction
from ml_platform.registry.verdict_record import PromotionError, latest_verdict_of, stored_verdict
from ml_platform.state.schema import verdicts
from ml_platform.steps import packaging
from ml_platform.steps.candidates import build_training_sets
from ml_platform.steps.evaluation import load_evidence
from ml_platform.steps.model_card import write_model_card
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.promotion import ApprovalDecision, NotPromoted, record_decision
from ml_platform.steps.release import release_champion
from ml_platform.steps.reproduction import reproduce_version
from ml_platform_tests.components.delivery_model import (
    DOMAIN,
    MONTHS,
    deliveries,
    delivery_minutes_model,
    delivery_model,
    delivery_quantiles_model,
    delivery_speed_model,
)
from resources.dagster_home import HomeResource
from resources.home import Home
from resources.home_lake import open_lake
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource
from resources.state import open_state
from resources.studies import StudiesResource

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]
MANUAL = {"approval": {"mode": "manual"}}


@dataclass(frozen=True)
class PlatformFixture:
    """A home with data of four months, and a Dagster instance with the recorded checks of the dataset."""

    home: Home
    instance: dg.DagsterInstance
    resources: Mapping[str, Any]

    @property
    def lake(self) -> Lake:
        return open_lake(self.home)

    @property
    def registry(self) -> ModelRegistry:
        mlflow: MlflowResource = self.resources["mlflow"]
        return mlflow.models

    @property
    def stores(self) -> PlatformStores:
        opened = self.resources
        return open_stores(opened["home"], opened["lake"], opened["mlflow"], opened["online_store"])

    @property
    def audit(self) -> AuditLog:
        return AuditLog(open_state(self.home))

    def land(self, month: str, frame: pl.DataFrame) -> None:
        """Write ``frame`` to the dataset and record that its checks passed."""
        written = self.lake.write("datasets/deliveries", frame, month)
        record_passed(self.lake.state, "deliveries", month, content_digest=written.sha256, landed_sha256=written.sha256)

    def make(
        self,
        asset: dg.AssetsDefinition,
        month: str,
        *,
        raise_on_error: bool = True,
        config: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        run_config = {"ops": {asset.node_def.name: {"config": dict(config)}}} if config else None
        return dg.materialize(
            [asset],
            partition_key=month,
            resources=self.resources,
            instance=self.instance,
            run_config=run_config,
            raise_on_error=raise_on_error,
        )

    def candidate(self, model: ModelAssets, month: str) -> dict[str, Any]:
        return recorded_metadata(self.make(training.candidate(model, "lightgbm"), month))

    def evaluate(self, model: ModelAssets, month: str) -> tuple[dict[str, Any], dict[str, dg.AssetCheckEvaluation]]:
        done = self.make(evaluation.evaluation(model), month)
        return recorded_metadata(done), {check.check_name: check for check in done.get_asset_check_evaluations()}

    def promote_candidate(self, model: ModelAssets, month: str, **config: str) -> dg.ExecuteInProcessResult:
        return self.make(promotion.champion(model), month, config=config)


def recorded_metadata(done: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = done.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    home = Home(tmp_path_factory.mktemp("repository") / ".ml_platform")
    home.mlflow.mkdir(parents=True)
    online = OnlineStoreResource.for_home(home)
    resources = {
        "home": HomeResource(root=str(home.root), repository=str(REPOSITORY)),
        "lake": LakeResource.for_home(home),
        "mlflow": MlflowResource.for_home(home),
        "studies": StudiesResource.for_home(home),
        "online_store": online,
    }
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "__path__", [*assets.__path__, str(DOMAIN)])
        made = PlatformFixture(home, instance, resources)
        for month in MONTHS:
            made.land(month, deliveries(month))
        model = delivery_model()
        (view,) = model.stored_views
        materialize(view, made.lake, online.store(), list(MONTHS), model.declared.partitions)
        build_training_sets(model, MONTHS, made.lake)
        made.candidate(model, "2013-03")
        yield made


def test_unchanged_inputs_are_recognised_after_the_training_set_was_materialized_again(
    platform: PlatformFixture,
) -> None:
    model = delivery_model()
    before = platform.lake.version(model.table)
    # These writes raise the table version but leave the rows up to 2013-03 unchanged.
    platform.lake.write(
        model.table, platform.lake.scan(model.table, partitions=["2013-04"]).collect().head(500), "2013-04"
    )
    build_training_sets(model, MONTHS, platform.lake)
    assert platform.lake.version(model.table) != before
    again = platform.candidate(model, "2013-03")
    assert again["skipped"] == "Inputs unchanged since version 1."
    assert again["version"] == 1


def test_changed_settings_give_a_new_version(platform: PlatformFixture) -> None:
    other = delivery_model(trainers={"lightgbm": {"trainer": "lightgbm", "seed": 8, "settings": {"max_rounds": 5}}})
    assert platform.candidate(other, "2013-04")["version"] > 1


def test_verdict_contains_the_numbers_of_every_gate_and_of_the_baselines(platform: PlatformFixture) -> None:
    verdict, checks = platform.evaluate(delivery_model(), "2013-03")
    assert verdict["decision"] == "PROMOTE", verdict["reasons"]
    # The baseline gate is added although the model does not declare it.
    assert set(checks) == {
        "paired_test_log_loss",
        "metric_limit_auc",
        "leak",
        "contract",
        "latency",
        "baseline_log_loss",
        "plausibility",
    }
    assert {"improvement_over_base_rate", "improvement_over_request_only"} <= set(checks["baseline_log_loss"].metadata)
    assert 0.6 < verdict["auc"] < 0.95


def test_rows_without_a_passed_check_are_a_broken_contract(platform: PlatformFixture) -> None:
    model = delivery_model()
    assert broken_contracts(platform.lake, model.source_datasets, model.reads_until("2013-03")) == []
    kept = platform.lake.scan("datasets/deliveries", partitions=["2013-02"]).collect()
    platform.lake.write("datasets/deliveries", kept.with_columns(distance=pl.col("distance") * 2), "2013-02")
    found = broken_contracts(platform.lake, model.source_datasets, model.reads_until("2013-03"))
    earlier = broken_contracts(platform.lake, model.source_datasets, model.reads_until("2013-01"))
    platform.lake.write("datasets/deliveries", kept, "2013-02")
    assert [message.partition(": contains rows")[0] for message in found] == ["deliveries 2013-02"]
    assert earlier == []


def test_month_without_a_checked_materialization_is_a_broken_contract(tmp_path: Path) -> None:
    lake = Lake.standalone(tmp_path)
    lake.write("datasets/deliveries", deliveries("2013-01"), "2013-01")
    found = broken_contracts(lake, delivery_model().source_datasets, delivery_model().reads_until("2013-01"))
    assert found == ["deliveries 2013-01: no passed contract check is recorded"]


def test_version_that_needs_approval_becomes_challenger_and_nothing_downstream_runs(platform: PlatformFixture) -> None:
    model, ran = delivery_model(**MANUAL), []

    @dg.asset(deps=[model.key("champion")], partitions_def=promotion.champion(model).partitions_def)
    def downstream() -> None:
        ran.append("downstream")

    done = dg.materialize(
        [promotion.champion(model), downstream],
        partition_key="2013-03",
        resources=platform.resources,
        instance=platform.instance,
    )
    (check,) = done.get_asset_check_evaluations()
    challenger = platform.registry.by_alias("late", CHALLENGER)
    assert done.success
    assert ran == []
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "0 of 1 approvals" in str(check.description)
    assert "ml-platform approve late 1" in str(check.description)
    assert challenger is not None
    assert challenger.version == 1
    assert platform.registry.by_alias("late", CHAMPION) is None


def test_incomplete_or_contradictory_decision_is_rejected(platform: PlatformFixture) -> None:
    model = delivery_model(**MANUAL)
    with pytest.raises(ApprovalError, match="a name and a reason"):
        platform.promote_candidate(model, "2013-03", approved_by="ada")
    with pytest.raises(ApprovalError, match="approved_by or rejected_by, found both"):
        platform.promote_candidate(model, "2013-03", approved_by="ada", rejected_by="bob", reason="r")
    with pytest.raises(ApprovalError, match="a reason alone"):
        platform.promote_candidate(model, "2013-03", reason="r")
    assert platform.registry.by_alias("late", CHAMPION) is None


def test_rejected_version_loses_the_challenger_alias_and_is_not_promoted(platform: PlatformFixture) -> None:
    model = delivery_model(**MANUAL)
    done = platform.promote_candidate(model, "2013-03", rejected_by="ada", reason="shop s2 is off")
    (check,) = done.get_asset_check_evaluations()
    # A decision is a result, and not a fault.
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == "Rejected by ada: shop s2 is off"
    assert platform.registry.by_alias("late", CHALLENGER) is None
    assert done.get_asset_materialization_events() == []
    (check,) = platform.promote_candidate(model, "2013-03").get_asset_check_evaluations()
    assert "Rejected by ada" in str(check.description)


def approve(platform: PlatformFixture, model: ModelAssets, by: str, evidence: str = "") -> ChampionRecord | NotPromoted:
    decision = ApprovalDecision("approve", by, "read the card", evidence)
    return record_decision(model, 1, decision, platform.stores, now=datetime.now(UTC))


def test_two_approvals_are_needed_and_changed_evidence_voids_them(platform: PlatformFixture) -> None:
    model = delivery_model(approval={"mode": "manual", "people": 2})
    assert "1 of 2 approvals" in approve(platform, model, "ada").reason
    # A repeated evaluation changes only the measured latency, so the approval remains valid.
    first, again = platform.evaluate(delivery_model(), "2013-03")[0], platform.evaluate(delivery_model(), "2013-03")[0]
    assert evidence_of(platform, first) == evidence_of(platform, again)
    more = {**delivery_model().declared.evaluation.model_dump(), "bootstrap": {"resamples": 300}}
    verdict, _ = platform.evaluate(delivery_model(evaluation=more), "2013-03")
    assert verdict["decision"] == "PROMOTE"
    with pytest.raises(ApprovalError, match=r"which bob inspected, to be the latest, found .* from a later evaluation"):
        approve(platform, model, "bob", evidence=evidence_of(platform, first)[:8])
    outcome = approve(platform, model, "bob", evidence=evidence_of(platform, verdict)[:8])
    assert isinstance(outcome, NotPromoted)
    assert "1 of 2 approvals (" in outcome.reason
    assert "void because the evidence changed" in outcome.reason


def test_approval_in_the_ui_promotes_and_records_the_approvers(platform: PlatformFixture) -> None:
    model = delivery_model(**MANUAL)
    done = platform.promote_candidate(model, "2013-03", approved_by="ada", reason="read the card")
    (check,) = done.get_asset_check_evaluations()
    assert (recorded_metadata(done)["version"], recorded_metadata(done)["approved_by"]) == (1, ["ada", "bob"])
    assert check.passed
    champion = current_champion(platform.audit, "late")
    assert champion is not None
    assert (champion.decided_by, champion.reason) == ("ada", "read the card")


def test_champion_of_a_home_inside_a_dvc_repository_is_released(platform: PlatformFixture, tmp_path: Path) -> None:
    repository = platform.home.root.parent

    def run(folder: Path, *command: str) -> None:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    def released() -> str:
        champion = current_champion(platform.audit, "late")
        assert champion is not None
        return release_champion(delivery_model(), champion, replace(platform.stores, repository=repository)).message

    assert released() == "Not released: the repository has no .git and no .dvc."
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        [sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "there", str(tmp_path / "remote")],
    ):
        run(repository, *command)
    assert released().startswith("Added and pushed.")
    assert released().startswith("Version 1 is in the release folder already.")
    run(repository, "git", "add", "releases", ".dvc")
    run(repository, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "release")
    run(tmp_path, "git", "clone", "-q", str(repository), "second")
    run(tmp_path / "second", sys.executable, "-m", "dvc", "pull", "-q")
    folder = tmp_path / "second" / "releases" / "late"
    assert verify_release(folder)["version"] == 1
    kept = pl.read_parquet(folder / "training_set.parquet")
    assert content_hash(kept) == Manifest.read(folder / "manifest.json").training_set


def test_champion_of_a_home_outside_the_repository_is_not_released(platform: PlatformFixture) -> None:
    done = platform.promote_candidate(delivery_model(), "2013-03")
    assert recorded_metadata(done)["release"] == "Not released: the home lies outside the repository."


def test_repeated_evaluation_of_the_champion_gives_the_same_verdict(platform: PlatformFixture) -> None:
    verdict, checks = platform.evaluate(delivery_model(), "2013-03")
    assert verdict["decision"] == "PROMOTE"
    assert checks["paired_test_log_loss"].description == "No champion yet: nothing to beat."


def test_bento_of_the_evaluation_is_reused_until_it_is_deleted(
    platform: PlatformFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = delivery_model(), []  # type: ignore[var-annotated]
    for name in ("build_bento", "verify_bento"):
        monkeypatch.setattr(packaging, name, counted(getattr(packaging, name), calls, name))

    platform.evaluate(model, "2013-03")
    first = recorded_metadata(platform.make(serving.bento(model), "2013-03"))
    assert calls == ["build_bento", "verify_bento"]

    shutil.rmtree(platform.home.root / first["path"])
    again = recorded_metadata(platform.make(serving.bento(model), "2013-03"))
    assert calls == ["build_bento", "verify_bento"] * 2
    assert (again["version"], again["tag"], again["verified_rows"]) == (1, first["tag"], 50)
    assert (platform.home.root / again["path"] / "bento.yaml").is_file()


def counted(function: Callable[..., Any], calls: list[str], name: str) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        return function(*arguments, **named)

    return call


def test_next_month_is_compared_with_the_champion_and_rejected_after_a_failed_dataset_check(
    platform: PlatformFixture,
) -> None:
    model = delivery_model()
    platform.candidate(model, "2013-04")
    record_failed(platform.lake.state, "deliveries", "2013-01", check="schema", landed_sha256="0" * 64)
    verdict, checks = platform.evaluate(model, "2013-04")
    stored = pl.read_parquet(platform.home.evidence / f"{evidence_of(platform, verdict)}.parquet")
    assert {"prediction__candidate", "prediction__champion", "prediction__request_only"} <= set(stored.columns)
    assert "data:image/png" in verdict["improvement"]
    assert "better than champion" in str(checks["paired_test_log_loss"].description)
    assert verdict["decision"] == "REJECT"
    assert checks["contract"].description == (
        "1 broken rules: deliveries 2013-01: check 'schema' failed for a later landed file."
    )
    refused = platform.promote_candidate(model, "2013-04")
    (check,) = refused.get_asset_check_evaluations()
    assert refused.get_asset_materialization_events() == []
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (check.metadata["state"].value, check.metadata["version"].value) == (
        "refused by its gates",
        verdict["version"],
    )
    assert str(check.description).startswith("REJECT: contract: 1 broken rules: deliveries 2013-01")
    champion = current_champion(platform.audit, "late")
    assert champion is not None
    assert champion.version == 1
    # The approval is not recorded either: it would promote the version once the gates are loosened.
    approvals = len(list(platform.audit.records("approval")))
    with pytest.raises(PromotionError, match=r"verdict of PROMOTE, found REJECT: contract.*Nothing was recorded"):
        platform.promote_candidate(model, "2013-04", approved_by="ann", reason="I like it")
    assert len(list(platform.audit.records("approval"))) == approvals
    platform.land("2013-01", deliveries("2013-01"))
    assert broken_contracts(platform.lake, model.source_datasets, model.reads_until("2013-04")) == []


def test_run_with_a_rejected_candidate_succeeds_with_its_card_and_makes_nothing_downstream(
    platform: PlatformFixture,
) -> None:
    gates = [{"type": "metric_limit", "metric": "auc", "limit": 0.999}, {"type": "leak"}]
    model, ran = delivery_model(gates=gates), []

    @dg.asset(key=model.key("bento"), deps=[model.key("champion")], partitions_def=model.partitions_def)
    def bento() -> None:
        ran.append("bento")

    assets = [evaluation.evaluation(model), model_card.model_card(model), promotion.champion(model), bento]
    done = dg.materialize(assets, partition_key="2013-04", resources=platform.resources, instance=platform.instance)

    checks = {each.check_name: each for each in done.get_asset_check_evaluations()}
    made: dict[str, dict[str, Any]] = {
        event.materialization.asset_key.path[-1]: {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        for event in done.get_asset_materialization_events()
    }
    assert done.success
    assert ran == []
    assert made.keys() == {"evaluation", "model_card"}
    assert {name for name, check in checks.items() if not check.passed} == {"metric_limit_auc", "approved"}
    assert {check.severity for check in checks.values()} == {dg.AssetCheckSeverity.WARN}
    assert not any(spec.blocking for spec in evaluation.evaluation(model).check_specs)
    assert "Verdict: **REJECT**" in made["model_card"]["markdown"]
    # The page begins with the decision, its numbers and links.
    assert next(iter(made["evaluation"])) == "summary"
    summary = made["evaluation"]["summary"]
    assert summary.startswith("**REJECT**: version ")
    assert f"| auc | {made['evaluation']['auc']:.4f} | " in summary
    assert "/model_card/late/2013-04/card.html)" in summary
    assert "/v1/late/predict)" in summary


def test_report_of_a_pull_request_compares_the_last_candidate_with_the_champion(
    platform: PlatformFixture, tmp_path: Path
) -> None:
    rule = ColumnRule(name="shop", type="string", description="Shop")
    lineage = ProjectLineage(
        {},
        {"late": ModelInputs("late", "shops", [], "shop:rows", ["deliveries"], [])},
        {"deliveries": DatasetColumns("deliveries", "shops", {"shop": rule}, [])},
    )
    found = ci_report(delivery_model(), "2013-04", platform.stores, lineage)
    assert (found.champion, found.verdict.partition) == (1, "2013-04")
    evidence = load_evidence(delivery_model(), found.verdict, platform.home)
    auc = next(each for each in found.metrics if each.metric == "auc")
    assert auc.first is not None
    assert auc.second is not None
    assert auc.improvement is not None
    assert auc.first.value == pytest.approx(
        evidence.task.score(evidence.label, evidence.predictions["champion"])["auc"]
    )
    assert auc.improvement.value == pytest.approx(auc.second.value - auc.first.value)
    assert found.changes is not None
    assert {each.name: (each.first, each.second) for each in found.changes.data}["partition"] == ("2013-03", "2013-04")
    assert found.datasets[0].passed == len(MONTHS)

    files = write_files(found, tmp_path, "https://images.example/7/")
    text, comment = files.report.read_text(), files.comment.read_text()
    assert f"| AUC | {auc.second.value:.4f} (" in text
    assert "Verdict: **REJECT**" in text  # the model card
    images = re.findall(r"!\[.*?\]\((images/.*?)\)", text)
    assert len(images) == 3
    assert all((tmp_path / each).read_bytes().startswith(b"\x89PNG") for each in images)
    assert "(https://images.example/7/improvement_over_the_champion.png)" in comment


def evidence_of(platform: PlatformFixture, verdict: Mapping[str, Any]) -> str:
    return str(stored_verdict(platform.audit.state, verdict["verdict"]).content["evidence"])


def test_tampered_verdict_is_rejected_at_promotion(platform: PlatformFixture) -> None:
    state = platform.audit.state
    found = latest_verdict_of(platform.audit, "late", "2013-04")
    assert found is not None
    kept, row = json.dumps(found.content), verdicts.c.digest == found.digest
    forged = kept.replace("REJECT", "PROMOTE").replace('"passed": false', '"passed": true')
    with state.write() as connection:
        connection.execute(verdicts.update().where(row).values(verdict=forged))
    with pytest.raises(PromotionError, match="content with the digest"):
        platform.promote_candidate(delivery_model(), "2013-04")
    with state.write() as connection:
        connection.execute(verdicts.update().where(row).values(verdict=kept))


def test_model_card_shows_the_evidence_and_is_stored_in_mlflow(platform: PlatformFixture, tmp_path: Path) -> None:
    shown = recorded_metadata(platform.make(model_card.model_card(delivery_model()), "2013-03"))
    page = (platform.home.reports / "model_card" / "late" / "2013-03" / "card.html").read_text()
    version = platform.registry.version("late", shown["version"])
    stored = platform.registry.tracking.client.download_artifacts(version.run_id, "model_card/card.html", str(tmp_path))
    described = platform.registry.tracking.client.get_model_version("late", "1").description
    # MLflow does not redirect the links that are paths, so its copies have none.
    assert Path(stored).read_text() == page.replace(
        ' · <a href="/go/webserver/assets/late/champion">Assets, checks and runs in Dagster</a>', ""
    )
    assert "ada, approve: read the card" in page
    assert "CPU time" in page
    assert "request_only" in page
    text, links = shown["markdown"].split("\n\n## Links\n")
    assert described is not None
    assert described.rstrip() == text.rstrip()
    assert "/go/webserver/assets/late/champion" in links


def test_rebuild_of_a_version_is_equal(platform: PlatformFixture, reproduced: Callable[[int], Reproduction]) -> None:
    found = reproduced(1)
    assert found.equal, found.lines()
    assert {"training set", "auc", "predictions"} <= {one.item for one in found.comparisons}


def test_rebuild_of_a_version_with_a_tampered_training_set_is_not_equal(
    platform: PlatformFixture, reproduced: Callable[[int], Reproduction]
) -> None:
    model = delivery_model()
    rows = platform.lake.scan(model.table, partitions=["2013-01"]).drop("partition").collect()
    platform.lake.write(model.table, rows.with_columns(label=1 - pl.col("label")), "2013-01")
    try:
        version = platform.candidate(model, "2013-03")["version"]
    finally:
        platform.lake.write(model.table, rows, "2013-01")
    found = reproduced(version)
    assert not found.equal
    unequal = {one.item for one in found.comparisons if not one.equal}
    assert {"training set", "log_loss", "predictions"} <= unequal
    assert "training set as stored" not in unequal  # the version was fitted on the stored rows; only the sources differ


@pytest.fixture
def reproduced(platform: PlatformFixture) -> Callable[[int], Reproduction]:
    return lambda version: reproduce_version(delivery_model(), version, platform.stores)


def test_check_reproducible_runs_only_when_it_is_selected_itself(platform: PlatformFixture) -> None:
    model = delivery_model()
    check = promotion.reproducible(model)
    loaded = dg.Definitions(
        assets=[promotion.champion(model)], asset_checks=[check], resources=dict(platform.resources)
    )
    job = loaded.resolve_implicit_global_asset_job_def()
    alone = job.get_subset(asset_check_selection=set(check.check_keys), asset_selection=set())
    (found,) = alone.execute_in_process(instance=platform.instance).get_asset_check_evaluations()
    assert (found.check_name, found.passed) == ("reproducible", True)
    with_it = job.execute_in_process(
        instance=platform.instance, asset_selection=[model.key("champion")], partition_key="2013-03"
    )
    assert [each.check_name for each in with_it.get_asset_check_evaluations()] == ["approved"]


def test_regression_is_evaluated_with_its_intervals_promoted_and_reproduced(platform: PlatformFixture) -> None:
    model = delivery_minutes_model()
    build_training_sets(model, MONTHS, platform.lake)
    platform.candidate(model, "2013-03")

    shown, gates = platform.evaluate(model, "2013-03")

    assert shown["decision"] == "PROMOTE"
    assert gates["metric_limit_coverage"].passed
    # Split conformal calibration on the month before covers about the declared 0.8 of the outcomes.
    assert 0.72 < shown["coverage"] < 0.88
    assert shown["coverage_low"] < shown["coverage"] < shown["coverage_high"]
    assert shown["rmse"] < shown["rmse_base_rate"] / 2
    assert recorded_metadata(platform.promote_candidate(model, "2013-03"))["version"] == 1
    kept = pl.read_parquet(platform.home.evidence / f"{evidence_of(platform, shown)}.parquet")
    inside = kept["label"].is_between(kept["lower__candidate"], kept["upper__candidate"])
    assert inside.mean() == shown["coverage"]
    assert reproduce_version(model, 1, platform.stores).equal


def test_model_of_three_classes_is_evaluated_served_in_its_bento_described_and_reproduced(
    platform: PlatformFixture,
) -> None:
    model = delivery_speed_model()
    build_training_sets(model, MONTHS, platform.lake)
    platform.candidate(model, "2013-03")

    shown, gates = platform.evaluate(model, "2013-03")

    assert (shown["decision"], gates["metric_limit_accuracy"].passed) == ("PROMOTE", True)
    assert shown["accuracy_low"] < shown["accuracy"] < shown["accuracy_high"]
    assert shown["log_loss"] < shown["log_loss_base_rate"]
    assert shown["share_fast"] + shown["share_slow"] + shown["share_usual"] == pytest.approx(1)
    assert recorded_metadata(platform.promote_candidate(model, "2013-03"))["version"] == 1
    kept = pl.read_parquet(platform.home.evidence / f"{evidence_of(platform, shown)}.parquet")
    probabilities = kept.select(pl.col("^prediction__candidate__output__.*$"))
    assert probabilities.columns == [f"prediction__candidate__output__{name}" for name in ("fast", "slow", "usual")]
    written = write_model_card(model, "2013-03", platform.stores, {})
    card = written.markdown_path.read_text()
    assert "## Confusion: rows by class and answer" in card
    assert "the endpoint returns the most probable class" in card
    assert reproduce_version(model, 1, platform.stores).equal


def test_model_of_quantiles_is_compared_with_the_seasonal_naive_forecast_served_and_described(
    platform: PlatformFixture,
) -> None:
    model = delivery_quantiles_model()
    build_training_sets(model, MONTHS, platform.lake)
    platform.candidate(model, "2013-03")

    shown, gates = platform.evaluate(model, "2013-03")

    assert (shown["decision"], gates["metric_limit_mase"].passed) == ("PROMOTE", True)
    assert shown["pinball"] < shown["pinball_seasonal_naive"]
    assert 0.5 < shown["coverage"] < 0.7
    kept = pl.read_parquet(platform.home.evidence / f"{evidence_of(platform, shown)}.parquet")
    median, naive = kept["prediction__candidate__output__0.5"], kept["context__naive"]
    error, naive_error = (float((each - kept["label"]).abs().mean()) for each in (median, naive))  # type: ignore[arg-type]
    assert shown["mase"] == pytest.approx(error / naive_error)
    card = write_model_card(model, "2013-03", platform.stores, {}).markdown_path.read_text()
    assert "the endpoint returns the median and all quantiles" in card
    assert "## Quantiles: a level is right" in card


def test_evaluation_has_its_own_run_and_logs_its_metrics_to_the_run_of_the_candidate(platform: PlatformFixture) -> None:
    tracking = platform.registry.tracking
    runs = [
        tracking.client.get_run(one)
        for one in tracking.find_runs(
            "late", {"ml_platform.asset": "late/evaluation", "ml_platform.partition": "2013-04"}
        )
    ]
    evaluation_run = runs[0]
    assert (evaluation_run.info.status, evaluation_run.data.tags["verdict"]) == ("FINISHED", "REJECT")
    candidate = tracking.client.get_run(evaluation_run.data.tags["candidate_run"])
    assert candidate.data.tags["ml_platform.asset"] == "late/candidate_lightgbm"
    assert evaluation_run.data.metrics["auc"] == candidate.data.metrics["auc"]


def test_changed_evidence_table_is_rejected(platform: PlatformFixture) -> None:
    shown, _ = platform.evaluate(delivery_model(), "2013-03")
    verdict = parse_verdict(stored_verdict(platform.audit.state, shown["verdict"]).content)
    path = platform.home.evidence / f"{verdict.evidence}.parquet"
    kept = path.read_bytes()
    assert load_evidence(delivery_model(), verdict, platform.home).label.sum() > 0
    forged = pl.read_parquet(path).with_columns(prediction__candidate=pl.col("label"))
    forged.write_parquet(path)
    with pytest.raises(PromotionError, match=r"the evidence table of the verdict, .* found other rows"):
        load_evidence(delivery_model(), verdict, platform.home)
    path.write_bytes(kept)


def test_reverted_declaration_is_evaluated_with_its_earlier_version(platform: PlatformFixture) -> None:
    declared = {"trainer": "lightgbm", "settings": {"max_rounds": 20, "num_threads": 1}}
    other = platform.candidate(delivery_model(trainers={"lightgbm": declared}), "2013-03")["version"]
    back = platform.candidate(delivery_model(), "2013-03")
    assert back["version"] == 1 < other
    assert "skipped" in back
    assert platform.evaluate(delivery_model(), "2013-03")[0]["version"] == 1
