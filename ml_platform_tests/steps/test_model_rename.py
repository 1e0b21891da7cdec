"""A renamed model keeps its versions, decisions, rows and service; a rename that was killed does the rest."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import httpx
import polars as pl
import pytest

from ml_platform.components.model import evaluation, promotion, serving
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_home_stores
from ml_platform.console.services import serving_processes
from ml_platform.monitoring.estimates import ESTIMATORS
from ml_platform.monitoring.maturity_record import LABEL_MATURITY
from ml_platform.registry.audit import MODEL_RENAMED
from ml_platform.registry.champion_history import champion_history, current_champion
from ml_platform.registry.models import CHAMPION, PREVIOUS
from ml_platform.registry.verdict_record import latest_verdict_of
from ml_platform.serving.desired_state import read_desired_state
from ml_platform.serving.processes import serve_temporarily
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.steps.lifecycle import LifecycleDecision, LifecycleError, LifecycleStep, retirement_of_model
from ml_platform.steps.model_rename import rename_of_model
from ml_platform.steps.monitoring import ingest_predictions
from ml_platform.steps.orphans import DeclaredNames, orphans
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.reproduction import reproduce_version
from ml_platform.steps.rollback import roll_back_champion
from ml_platform.steps.verification import verify_home
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import delivery_model
from ml_platform_tests.steps.test_evolution import REPOSITORY, KillingAudit
from resources.home import Home

pytestmark = pytest.mark.slow

DECISION = LifecycleDecision("ada", "clearer name", datetime(2024, 5, 1, tzinfo=UTC))
OLD, NEW = "late", "late_delivery"
ROW = {"shop": "s1", "distance": 1.5, "ordered_at": "2013-04-28T12:00:00+00:00"}


def model(name: str) -> ModelAssets:
    gates = [{"type": "metric_limit", "metric": "auc", "limit": 0.6}, {"type": "leak"}]
    return delivery_model(name=name, gates=gates)


def declared(name: str) -> DeclaredNames:
    return DeclaredNames({"deliveries"}, {"shops"}, {name})


@dataclass(frozen=True)
class Renamed:
    """A home with two champions of the model `late`, of which the second serves."""

    platform: PlatformFixture

    @property
    def stores(self) -> PlatformStores:
        return self.platform.stores

    def steps(self, old: str = OLD, new: str = NEW) -> list[LifecycleStep]:
        return rename_of_model(old, model(new), self.stores, DECISION, declared(new))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Renamed]:
    with open_platform(tmp_path_factory.mktemp("home") / ".ml_platform") as made:
        made.land()
        late = model(OLD)
        for month in ("2013-03", "2013-04"):
            made.make(late, month)
            for asset in (evaluation.evaluation, promotion.champion, serving.bento, serving.rollout):
                dg.materialize([asset(late)], partition_key=month, resources=made.resources)
        yield Renamed(made)


def rename_and_die(root: Path) -> None:
    stores = open_home_stores(Home(root))
    vars(stores)["audit"] = KillingAudit(stores.state)
    rename_of_model(OLD, model(NEW), stores, DECISION, declared(NEW))[0].run()


def test_rename_killed_inside_its_transaction_has_changed_nothing_and_the_next_one_completes(tmp_path: Path) -> None:
    stores, table = open_home_stores(Home(tmp_path)), "training_set/a-1"
    rows = pl.DataFrame({"id": [1, 2]})
    stores.lake.write(f"models/{OLD}/{table}", rows, "2024-01")
    stores.lake.catalog.pin([(f"models/{OLD}/{table}", 0)], f"model/{OLD}/digest")
    computed = [f"{LABEL_MATURITY}{OLD}", f"{ESTIMATORS}{OLD}/1"]
    for name in computed:
        write_cursor(stores.state, name, {})
    program = f"from pathlib import Path as P; from {__name__} import rename_and_die as die; die(P({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False)

    assert done.returncode == -signal.SIGKILL
    assert stores.lake.scan(f"models/{OLD}/{table}").drop("partition").collect().equals(rows)
    assert not stores.lake.exists(f"models/{NEW}/{table}")
    assert [read_cursor(stores.state, name) for name in computed] == [{}, {}]
    assert list(stores.lake.catalog.pins()) == [f"model/{OLD}/digest"]
    (step,) = rename_of_model(OLD, model(NEW), stores, DECISION, declared(NEW))
    step.run()
    assert stores.lake.scan(f"models/{NEW}/{table}").drop("partition").collect().equals(rows)
    assert list(stores.lake.catalog.pins()) == [f"model/{NEW}/digest"]
    assert [read_cursor(stores.state, name) for name in computed] == [None, None]
    assert stores.audit.former_names(NEW) == [OLD]


def test_name_that_does_not_fit_is_refused(home: Renamed) -> None:
    for old, new, names, message in (
        (OLD, NEW, {OLD, NEW}, "'late': expected an old name that no declaration has"),
        (OLD, "latest", {NEW}, "'latest': expected a declaration of the new name"),
        ("early", NEW, {NEW}, "'early': expected rows, versions or decisions under the old name"),
    ):
        with pytest.raises(LifecycleError, match=message):
            rename_of_model(old, model(new), home.stores, DECISION, DeclaredNames({"deliveries"}, {"shops"}, names))


def test_history_and_service_have_the_new_name_although_each_step_is_killed_after_it_ran(home: Renamed) -> None:
    stores = home.stores
    before = champion_history(stores.audit, OLD)
    assert [each.version for each in before] == [1, 2]
    verdict = latest_verdict_of(stores.audit, OLD, "2013-04")
    rows = {table: stores.lake.scan(table).collect() for table in stores.lake.catalog.tables() if OLD in table}
    study = stores.home.models / "studies" / f"{OLD}-lightgbm.db"
    study.parent.mkdir(parents=True, exist_ok=True)
    study.write_bytes(b"trials")
    dry = [step.text for step in home.steps()]
    assert [step.text for step in home.steps()] == dry
    done: list[str] = []
    while steps := home.steps():
        assert len(done) < 10, [step.text for step in steps]
        steps[0].run()
        done.append(steps[0].text)
    assert done == dry
    assert len(done) == 6

    after = champion_history(stores.audit, NEW)
    assert [(each.version, each.content_digest, each.since) for each in after] == [
        (each.version, each.content_digest, each.since) for each in before
    ]
    assert champion_history(stores.audit, OLD) == []
    assert stores.audit.verify()
    assert stores.audit.former_names(NEW) == [OLD]
    (record,) = stores.audit.records(MODEL_RENAMED, NEW)
    assert (record.actor, record.facts["renamed_from"], record.facts["reason"]) == ("ada", OLD, "clearer name")
    assert latest_verdict_of(stores.audit, NEW, "2013-04") == verdict
    registry = stores.registry
    assert (OLD in registry.names(), registry.aliases(NEW)) == (False, {CHAMPION: 2, PREVIOUS: 1})
    assert registry.manifest(registry.version(NEW, 1)).model == OLD  # versions are immutable
    for table, frame in rows.items():
        moved = stores.lake.scan(table.replace(f"models/{OLD}/", f"models/{NEW}/")).collect()
        assert moved.equals(frame)
        assert stores.lake.scan(table, 1).collect().height > 0  # a manifest pins it
    assert study.with_name(f"{NEW}-lightgbm.db").read_bytes() == b"trials"
    assert read_desired_state(stores.state, OLD).successor == NEW
    (orphan,) = [each for each in orphans(stores.state, declared(NEW)) if each.kind == "model"]
    assert orphan.verb.startswith(f"ml-platform model retire {OLD}")
    assert [each for each in verify_home(stores, rows=True).problems if OLD in str(each)] == []


def test_version_reproduces_and_unchanged_inputs_are_recognised(home: Renamed) -> None:
    found = reproduce_version(model(NEW), 2, home.stores)
    assert found.equal, found
    home.platform.make(model(NEW), "2013-04")
    assert [each.version for each in home.stores.registry.versions(NEW)] == [2, 1]


def test_both_names_answer_and_predictions_of_both_are_those_of_the_model(home: Renamed) -> None:
    with serve_temporarily(serving_processes(home.platform.home)) as gateway:
        old, new = (httpx.post(f"{gateway}/v1/{name}/predict", json={"rows": [ROW]}, timeout=30) for name in (OLD, NEW))
    assert (old.status_code, new.status_code) == (200, 200), old.text + new.text
    assert old.json()["predictions"][0]["score"] == new.json()["predictions"][0]["score"]
    assert old.headers["deprecation"] == f"@{int(DECISION.at.timestamp())}"  # RFC 9745
    assert old.headers["link"] == f'</v1/{NEW}/predict>; rel="successor-version"'
    assert "deprecation" not in new.headers
    result = ingest_predictions(model(NEW), home.stores, datetime.now(UTC))
    assert (result.added, result.rows) == (2, 2)
    assert ingest_predictions(model(NEW), home.stores, datetime.now(UTC)).added == 0


def test_rollback_serves_the_version_before_under_the_new_name(home: Renamed) -> None:
    back, desired = roll_back_champion(
        NEW, home.stores.home, home.stores.state, decided_by="ada", reason="slow", at=datetime.now(UTC)
    )
    assert back.version == 1
    assert desired.stable is not None
    contract = home.platform.home.bentos / desired.stable.bento / "src/model/contract.json"
    assert json.loads(contract.read_text())["model"] == NEW


def test_old_name_ends_by_the_verb_and_the_champion_stays(home: Renamed) -> None:
    for step in retirement_of_model(OLD, home.stores, DECISION):
        step.run()
    assert read_desired_state(home.stores.state, OLD).served_versions == []
    assert current_champion(home.stores.audit, NEW) is not None
    assert read_desired_state(home.stores.state, NEW).stable is not None


def test_model_may_be_renamed_back_with_its_predictions(home: Renamed) -> None:
    predictions = home.stores.lake.scan(f"models/{NEW}/predictions").collect()
    for step in home.steps(NEW, OLD):
        step.run()
    assert home.steps(NEW, OLD) == []
    assert home.stores.lake.scan(f"models/{OLD}/predictions").collect().equals(predictions)
    assert [each.version for each in champion_history(home.stores.audit, OLD)] == [1, 2, 1]
    assert home.stores.registry.aliases(OLD)[CHAMPION] == 1
    assert home.stores.audit.verify()
