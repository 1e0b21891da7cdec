"""The assets `bento` and `rollout` record the verified bento, and roll out no other."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

import assets
from ml_platform.components.model import serving
from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_stores
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import ChampionRecord, champion_history
from ml_platform.registry.manifest import CodeInfo, HardwareInfo, Manifest
from ml_platform.registry.models import CHAMPION, ModelRegistry, ModelVersion
from ml_platform.registry.promotion import reconcile
from ml_platform.serving.bento_signature import SIGNATURE_FILE, ChangedBentoError
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.contract_changes import ContractSettings, IncompatibleContractError
from ml_platform.serving.desired_state import DesiredState, ServedVersion, read_desired_state, swap_desired_state
from ml_platform.serving.load_profile import LoadTestResult, LoadTestSettings
from ml_platform.serving.rollout import read_rollout
from ml_platform.serving.rollout_settings import RolloutSettings
from ml_platform.serving.serving_settings import ServingSettings
from ml_platform.serving.streams.declared_streams import stored_streams
from ml_platform.serving.verified_bentos import verified_bento_of
from ml_platform.steps.load_evidence import LoadTestError
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.rollback import roll_back_champion
from ml_platform.steps.verification import verify_home
from ml_platform_tests.components.step_usage import without_usage
from ml_platform_tests.serving.conftest import CONTRACT, VIEW, train_toy_model
from resources.dagster_home import HomeResource
from resources.home import Home
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource
from resources.state import open_state

pytestmark = pytest.mark.slow

MONTH = "2013-07"
NOW = datetime(2013, 8, 1, tzinfo=UTC)
REPOSITORY = Path(__file__).parents[3]
SKEWED_SCORER = """
import lightgbm
from bento import lightgbm_scorer

class Skewed(lightgbm_scorer.LightGbmScorer):
    def predict(self, features):
        return super().predict(features) + 1e-3

def load(model_dir):
    scorer = lightgbm_scorer.load(model_dir)
    return Skewed(scorer._booster, scorer._paths)
"""


@dataclass(frozen=True)
class PlatformFixture:
    """A home with versions of the toy model."""

    home: Home
    model: ModelAssets
    registry: ModelRegistry
    resources: Mapping[str, Any]

    @property
    def desired_state(self) -> DesiredState:
        return read_desired_state(open_state(self.home), "toy")

    @property
    def stores(self) -> PlatformStores:
        opened = self.resources
        return open_stores(opened["home"], opened["lake"], opened["mlflow"], opened["online_store"])

    def register(self, model_dir: Path, **described: str) -> ModelVersion:
        """Register the model in ``model_dir`` as champion, with ``described`` added to its model.json."""
        copied = self.home.root / "made" / f"{len(self.registry.versions('toy'))}"
        shutil.copytree(model_dir, copied)
        record = json.loads((copied / "model.json").read_text())
        (copied / "model.json").write_text(json.dumps(record | described))
        lake = self.stores.lake
        tables = {name: lake.version(name) or 0 for name in (self.model.table, VIEW.table)}
        (copied / "manifest.json").write_text(_manifest(str(copied), tables).model_dump_json())
        example = pl.DataFrame({"delays__mean": [1.0], "delays__age_minutes": [5.0]})
        with self.registry.tracking.run("toy", "candidate", {}) as run:
            version = self.registry.register("toy", copied, run_id=run.run_id, input_example=example)
        self.registry.set_alias("toy", CHAMPION, version.version)
        return version

    def materialize(self, asset: str) -> dg.AssetMaterialization:
        """Materialize `bento` or `rollout` and return the materialization; errors of the asset are raised."""
        definition = {"bento": serving.bento, "rollout": serving.rollout}[asset](self.model)
        done = dg.materialize([definition], partition_key=MONTH, resources=self.resources)
        (found,) = done.asset_materializations_for_node(definition.node_def.name)
        return found


def recorded_metadata(materialization: dg.AssetMaterialization) -> dict[str, Any]:
    return {name: value.value for name, value in materialization.metadata.items()}


def _manifest(seed: str, tables: Mapping[str, int]) -> Manifest:
    return Manifest(
        model="toy",
        partition=MONTH,
        trainer="lightgbm",
        tables=dict(tables),
        training_set=seed,
        training_rows=500,
        code=CodeInfo(commit="c0ffee", dirty=False, sha256="b" * 64),
        lock="d" * 64,
        parameters={},
        seeds={"fit": 1},
        hardware=HardwareInfo(machine="x86_64 Linux", cpu_count=2, device="cpu"),
        data_clock=NOW.isoformat(),
        dagster_run_id="run",
        created_at=NOW.isoformat(),
    )


def _declared() -> Model:
    return Model.model_validate(
        {
            "name": "toy",
            "description": "A toy",
            "owners": ["team:toys"],
            "target": "late",
            "partitions": {"start": "2013-01", "end": "2013-12", "time_zone": "UTC"},
            "examples": {"function": "assets.none:none", "sources": ["none"]},
            "request": [field.model_dump() for field in CONTRACT.fields],
            "prediction_time": CONTRACT.prediction_time.model_dump(),  # type: ignore[union-attr]
            "features": ["delays"],
            "trainers": {"lightgbm": {"trainer": "lightgbm"}},
            "gates": [{"type": "leak"}],
        }
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> PlatformFixture:
    home = Home(tmp_path_factory.mktemp("home"))
    home.mlflow.mkdir()
    toy = train_toy_model(home.root)  # it writes its features to the folder `online` of the home
    lake, mlflow = LakeResource.for_home(home), MlflowResource.for_home(home)
    departs = [datetime(2013, 7, 1, 12, tzinfo=UTC) + timedelta(minutes=number) for number in range(60)]
    examples = pl.DataFrame(
        {
            "carrier": ["UA", "AA", "ZZ"] * 20,
            "distance": [500.0] * 60,
            "tail": ["N1", None] * 30,
            "departs": departs,
            "predict_at": [each - timedelta(minutes=120) for each in departs],
            "example_id": [f"e{number:02}" for number in range(60)],
            # The facts became known at 9:00; the first prediction is made at 10:00.
            "delays__mean": pl.Series([40.0, 4.0, None] * 20, dtype=pl.Float32),
            "delays__age_minutes": pl.Series(
                [None if number % 3 == 2 else 60.0 + number for number in range(60)], dtype=pl.Float32
            ),
        }
    )
    known = [datetime(2013, 7, 1, 9, tzinfo=UTC)] * 2
    facts = pl.DataFrame({"carrier": ["AA", "UA"], "known_at": known, "mean": [4.0, 40.0]})
    model = ModelAssets(_declared(), [VIEW])
    lake.lake().write(model.table, examples, MONTH)
    lake.lake().write(VIEW.table, facts.with_columns(pl.col("mean").cast(pl.Float32)), MONTH)
    resources = {
        "home": HomeResource(root=str(home.root), repository=str(REPOSITORY)),
        "lake": lake,
        "mlflow": mlflow,
        "online_store": OnlineStoreResource.for_home(home),
    }
    made = PlatformFixture(home, model, mlflow.models, resources)
    made.register(toy.model_dir)
    return made


@pytest.fixture(scope="module")
def bento(platform: PlatformFixture) -> dict[str, Any]:
    """Metadata of the bento of version 1, built and verified once."""
    return recorded_metadata(platform.materialize("bento"))


def test_bento_is_recorded_with_its_verification(platform: PlatformFixture, bento: dict[str, Any]) -> None:
    metadata = bento
    record = verified_bento_of(open_state(platform.home), "toy", "1")
    assert record is not None
    assert (metadata["version"], metadata["verified_rows"]) == (1, 50)
    assert (metadata["tag"], metadata["size_bytes"]) == (record.tag, record.size_bytes)
    assert metadata["path"] == f"bentos/{record.folder}"
    (public,) = SigningKeys(platform.home.signing_keys).trusted.iterdir()
    assert metadata["signed_by"] == public.stem
    bill = json.loads((platform.home.root / metadata["sbom"]).read_text())
    assert metadata["libraries"] == len(bill["components"]) > 10
    assert 0 < metadata["latency_p50_ms"] <= metadata["latency_p99_ms"] == record.latency_p99_ms


def test_rollout_deploys_the_verified_bento_and_keeps_the_shadow(
    platform: PlatformFixture, bento: dict[str, Any]
) -> None:
    other = ServedVersion(version="7", bento="elsewhere")
    before = DesiredState(stable=other, shadow=other, weights={"stable": 100})
    swap_desired_state(open_state(platform.home), "toy", before, platform.desired_state.generation)
    metadata = recorded_metadata(platform.materialize("rollout"))
    assert platform.desired_state.stable == ServedVersion(version="1", bento=bento_folder(platform, bento))
    assert platform.desired_state.shadow == other
    assert (metadata["stable"], metadata["shadow"], metadata["weights"]) == ("1", "7", {"stable": 100})
    assert metadata["generation"] == platform.desired_state.generation
    assert recorded_metadata(platform.materialize("rollout"))["generation"] == metadata["generation"]


def bento_folder(platform: PlatformFixture, bento: dict[str, Any]) -> str:
    return str(bento["path"]).removeprefix("bentos/")


def test_change_of_the_desired_state_is_recorded_with_it_and_streams_are_those_declared(
    platform: PlatformFixture, bento: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ServedVersion(version="7", bento="elsewhere")
    state, before = open_state(platform.home), platform.desired_state.generation
    swap_desired_state(state, "toy", DesiredState(stable=other, weights={"stable": 100}), before)
    stream = {"server": "$NATS_URL", "requests": "a", "results": "b", "dead_letters": "c", "consumer": "toy"}
    with monkeypatch.context() as declared:
        declared.setattr(platform.model.declared, "serving", ServingSettings.model_validate({"streams": [stream]}))
        platform.materialize("rollout")
    assert stored_streams(state)["toy"][0].items() >= stream.items()
    platform.materialize("rollout")  # changes no version
    assert stored_streams(state) == {}
    recorded = AuditLog(state).records("rollout", "toy")
    assert recorded[-1].actor == "toy/rollout"
    assert recorded[-1].facts == {
        "model": "toy",
        "generation": before + 2,
        "versions": {"stable": "1"},
        "weights": {"stable": 100},
    }
    assert sum(record.facts["generation"] == before + 2 for record in recorded) == 1


def test_champion_with_declared_steps_is_a_candidate_until_it_is_rolled_out_at_once(
    platform: PlatformFixture, bento: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, champion = ServedVersion(version="7", bento="elsewhere"), bento_folder(platform, bento)
    state, before = open_state(platform.home), platform.desired_state.generation
    swap_desired_state(state, "toy", DesiredState(stable=other, weights={"stable": 100}), before)
    with monkeypatch.context() as declared:
        declared.setattr(platform.model.declared, "rollout", RolloutSettings(strategy="canary"))
        metadata = without_usage(recorded_metadata(platform.materialize("rollout")))
        assert without_usage(recorded_metadata(platform.materialize("rollout"))) == metadata
    assert platform.desired_state.candidate == ServedVersion(version="1", bento=champion)
    assert (metadata["stable"], metadata["candidate"], metadata["weights"]) == (
        "7",
        "1",
        {"stable": 95, "candidate": 5},
    )
    platform.materialize("rollout")
    assert platform.desired_state.served_versions == [ServedVersion(version="1", bento=champion)]
    ended = read_rollout(state, "toy")
    assert ended is not None
    assert ended.outcome == "superseded"


def test_version_that_refuses_requests_of_apps_is_refused_unless_that_is_intended(
    platform: PlatformFixture, bento: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = platform.home.root / bento["path"] / "src" / "model"
    earlier = platform.home.bentos / "toy" / "earlier" / "src" / "model"
    earlier.mkdir(parents=True)
    shutil.copy(model / "model.json", earlier)
    contract = json.loads((model / "contract.json").read_text())
    contract["fields"] = [field for field in contract["fields"] if field["name"] != "distance"]
    (earlier / "contract.json").write_text(json.dumps(contract))
    state, before = open_state(platform.home), platform.desired_state.generation
    stable = ServedVersion(version="7", bento="toy/earlier")
    serving_7 = swap_desired_state(state, "toy", DesiredState(stable=stable, weights={"stable": 100}), before)

    found = check_of_bento(platform)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "distance: expected no such field, or an optional one, found a new field" in str(found.description)
    with pytest.raises(IncompatibleContractError, match=r"version 1 after 7, distance: .*allow_breaking: \{distance"):
        platform.materialize("rollout")
    assert platform.desired_state == serving_7

    intended = ContractSettings(allow_breaking={"distance": "all apps send it since May"})
    monkeypatch.setattr(platform.model.declared, "contract", intended)
    found = check_of_bento(platform)
    assert (found.passed, found.description) == (True, "Compatible with version 7; intended: distance.")
    for _ in range(2):  # the second one changes nothing
        platform.materialize("rollout")
    assert platform.desired_state.stable == ServedVersion(version="1", bento=bento_folder(platform, bento))
    (recorded,) = AuditLog(state).records("contract_change", "toy")
    (change,) = recorded.facts["changes"]
    assert (recorded.facts["version"], recorded.facts["stable"]) == ("1", "7")
    assert (change["place"], change["reason"]) == ("distance", "all apps send it since May")


def test_bento_with_a_declared_load_is_rolled_out_after_its_load_test_only(
    platform: PlatformFixture, bento: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, before = open_state(platform.home), platform.desired_state.generation
    stable = ServedVersion(version="7", bento="elsewhere")
    serving_7 = swap_desired_state(state, "toy", DesiredState(stable=stable, weights={"stable": 100}), before)
    # The limit is one that every machine meets; the judgement itself has tests of its own.
    load = LoadTestSettings(rate=200, seconds=3.5, rows=2, p99_ms=10_000)
    monkeypatch.setattr(platform.model.declared, "load_test", load)
    with pytest.raises(LoadTestError, match=r"version 1: expected a load test at the declared 200 .*, found none"):
        platform.materialize("rollout")

    found = check_of_bento(platform, serving.LOAD_TEST)
    assert (found.passed, found.metadata["outcome"].value) == (True, "pass")
    turns: Any = found.metadata["turns"]
    assert [(each.data["endpoint"], each.data["requests"], each.data["errors"]) for each in turns.records] == [
        ("calibration", 100, 0),
        ("service", 100, 0),
    ] * 7
    again = check_of_bento(platform, serving.LOAD_TEST)
    assert again.metadata["tested_at"].value == found.metadata["tested_at"].value  # it is not tested again

    (file,) = platform.home.load_tests.iterdir()
    kept = LoadTestResult.model_validate_json(file.read_text())
    file.write_text(kept.model_copy(update={"outcome": "fail", "reason": "p99 90 ms"}).model_dump_json())
    with pytest.raises(LoadTestError, match=r"expected a p99 of at most 10000 ms .*, found p99 90 ms"):
        platform.materialize("rollout")
    assert platform.desired_state == serving_7
    file.write_text(kept.model_dump_json())
    platform.materialize("rollout")
    assert platform.desired_state.stable == ServedVersion(version="1", bento=bento_folder(platform, bento))


def check_of_bento(platform: PlatformFixture, name: str = serving.COMPATIBLE) -> dg.AssetCheckEvaluation:
    """Materialize `bento` and return the result of its check ``name``."""
    definition = serving.bento(platform.model)
    done = dg.materialize([definition], partition_key=MONTH, resources=platform.resources, raise_on_error=False)
    assert all(spec.blocking for spec in definition.check_specs)
    (found,) = [each for each in done.get_asset_check_evaluations() if each.check_name == name]
    return found


def test_changed_bento_is_not_rolled_out_until_it_is_built_again(
    platform: PlatformFixture, bento: dict[str, Any]
) -> None:
    platform.materialize("rollout")
    before = platform.desired_state
    trees = platform.home.root / bento["path"] / "src" / "model" / "model.txt"
    trees.write_text(trees.read_text().replace("leaf_value=", "leaf_value=9"))
    with pytest.raises(BentoError, match=r"expected the content that was verified.*other content"):
        platform.materialize("rollout")
    assert platform.desired_state == before
    platform.materialize("bento")
    assert platform.materialize("rollout")


def test_bento_that_is_not_as_signed_is_not_rolled_out_until_it_is_built_again(
    platform: PlatformFixture, bento: dict[str, Any]
) -> None:
    platform.materialize("bento")
    folder = platform.home.root / bento["path"]
    assert [(each.area, each.subject) for each in verify_home(platform.stores, model="toy").problems] == []
    (unknown,) = verify_home(platform.stores, model="tyo").problems
    assert (unknown.subject, unknown.found) == ("Model 'tyo'", "none; there are bentos of 'toy'")
    # The digest in the folder's name does not cover this file; the signature does.
    (folder / "env" / "python" / "requirements.txt").write_text("numpy")
    (problem,) = verify_home(platform.stores, model="toy").problems
    assert (problem.area, problem.found) == ("bentos", "changed: 'env/python/requirements.txt'")
    with pytest.raises(ChangedBentoError, match="expected the files that were signed"):
        platform.materialize("rollout")
    (folder / SIGNATURE_FILE).unlink()
    with pytest.raises(ChangedBentoError, match="found none"):
        platform.materialize("rollout")
    platform.materialize("bento")
    assert verify_home(platform.stores, model="toy").verified == {"bentos": 1}
    assert platform.materialize("rollout")


def test_version_with_other_scores_than_training_is_rejected_and_rolled_back_in_seconds(
    platform: PlatformFixture, bento: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert bento["version"] == 1
    platform.materialize("rollout")
    before = platform.desired_state
    (tmp_path / "skewed.py").write_text(SKEWED_SCORER)
    monkeypatch.setattr(assets, "__path__", [*assets.__path__, str(tmp_path)])
    platform.register(platform.home.root / "model", scorer="assets.skewed:load")
    with pytest.raises(BentoError, match=r"expected the scores that training gave.*50 of 50 that differ"):
        platform.materialize("bento")
    with pytest.raises(BentoError, match=r"Version 2 of 'toy': expected a verified bento"):
        platform.materialize("rollout")
    assert platform.desired_state == before
    _set_champion(platform, 1, None)
    _set_champion(platform, 2, 1)
    swap_desired_state(
        open_state(platform.home),
        "toy",
        DesiredState(stable=ServedVersion(version="2", bento="skewed"), weights={"stable": 100}),
        before.generation,
    )
    audit, skewed = AuditLog(open_state(platform.home)), platform.desired_state

    def rolled_back() -> tuple[ChampionRecord, DesiredState]:
        stores, at = platform.stores, NOW + timedelta(hours=3)
        return roll_back_champion("toy", stores.home, stores.state, decided_by="pager", reason="wrong scores", at=at)

    started = time.perf_counter()
    back, state = rolled_back()
    assert time.perf_counter() - started < 10
    assert (back.version, state.stable) == (1, before.stable)

    # This is the state after a kill between record and rollout; the next call completes the rollback.
    swap_desired_state(open_state(platform.home), "toy", skewed, state.generation)
    assert (rolled_back()[0].version, platform.desired_state.stable) == (1, before.stable)
    assert [one.action for one in champion_history(audit, "toy")] == ["promote", "promote", "roll_back"]


def _set_champion(platform: PlatformFixture, version: int, previous: int | None) -> None:
    """Record in the log that ``version`` became champion, because the toy model has no verdicts."""
    record = platform.registry.version("toy", version)
    facts = {
        "model": "toy",
        "version": version,
        "previous_version": previous,
        "action": "promote",
        "reason": "test",
        "content_digest": record.content_digest,
        "partition": MONTH,
        "manifest": {},
        "verdict": None,
        "approved_by": [],
    }
    audit = AuditLog(open_state(platform.home))
    audit.append("champion", actor="test", at=NOW + timedelta(hours=version), facts=facts)
    reconcile(platform.registry, audit, "toy")
