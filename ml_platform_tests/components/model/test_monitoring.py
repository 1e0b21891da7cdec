"""The monitors of a small model: it is trained, predicts, logs, and the monitors compare logs, outcomes and drift."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import orjson
import polars as pl
import pytest

from bento.log_protection import UNPROTECTED, LogProtection
from bento.prediction_id import PredictionIds
from bento.prediction_log import AnsweredRequest, PredictionLog
from bento.predictor import Predictor
from ml_platform.components.model import monitoring, training
from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.serving_freshness import prediction_gaps_result
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import LakeError
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.pii import MASK
from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.verdict import build_verdict
from ml_platform.features.materialize import materialize
from ml_platform.features.online_store import Snapshot
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import FeatureView
from ml_platform.monitoring.log_lines import read_records
from ml_platform.monitoring.loss_test import read_loss_test
from ml_platform.monitoring.own_monitor import Monitor, MonitorResult
from ml_platform.registry.champion_history import CHAMPION_KIND
from ml_platform.registry.verdict_record import record_verdict
from ml_platform.serving.desired_state import DesiredState, ServedVersion, change_desired_state
from ml_platform.steps.candidates import build_training_sets, make_candidate
from ml_platform.steps.evaluation import evidence_path
from ml_platform.steps.feature_checks import NotEvaluated, screen_training_set
from ml_platform.steps.monitoring import DriftResult, monitor_drift, performance_report
from ml_platform.steps.packaging import model_directory
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.pseudonyms import home_key
from ml_platform.steps.serving_freshness import check_prediction_gaps
from ml_platform.tasks.metrics import Array
from ml_platform.tasks.own_metric import MeanMetric
from ml_platform_tests.components.step_usage import without_usage
from resources.dagster_home import HomeResource
from resources.home import Home
from resources.home_lake import open_lake
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource

REPOSITORY = Path(__file__).parents[3]
MONTHS = PartitionScheme(start="2013-01", end="2013-12", time_zone="UTC")
LANDED_MONTHS = ["2013-01", "2013-02", "2013-03"]
ROWS = 600
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FUNCTIONS = "ml_platform_tests.components.model.leg_functions"


RECENT = FeatureView.model_validate(
    {
        "name": "recent",
        "entity": ["place"],
        "features": [{"name": "delay", "description": "Delay of the last leg", "unit": "minutes"}],
        "sources": [{"dataset": "legs", "known_upfront": ["place", "due"], "available_from": {"left": ["left"]}}],
        "function": f"{FUNCTIONS}:recent",
        "lookback_days": 2,
        "tolerance_minutes": 2880,
        "age": True,
    }
)
CLOCK = FeatureView.model_validate(
    {
        "name": "clock",
        "kind": "request",
        "fields": ["due"],
        "features": [{"name": "hour", "type": "int8", "description": "Hour in which it is due"}],
        "function": f"{FUNCTIONS}:clock",
    }
)
LATE_FIELD = {"name": "minutes", "type": "int", "description": "Minute in which it left"}


def bound(monitors: dict[str, Any] | None = None, **changes: Any) -> ModelAssets:
    """Return the declared model; ``monitors`` override settings for a few hundred rows."""
    drift = {"minimum_rows": 100}
    leakage_screen = {"rows": 1_000, "rounds": 10, "auc_alone": 0.9}
    declared = {
        "name": "legs",
        "description": "Whether a leg leaves late",
        "owners": ["team:platform"],
        "target": "leaves more than 15 minutes late",
        "partitions": MONTHS.model_dump(),
        "examples": {"function": f"{FUNCTIONS}:examples", "sources": ["legs"], "identity": ["place", "due"]},
        "prediction_time": {"field": "due", "minutes_before": 60},
        "request": [
            {"name": "place", "type": "string", "description": "Place"},
            {"name": "tail", "type": "string", "nullable": True, "description": "Aircraft"},
            {"name": "due", "type": "datetime", "description": "When it is due"},
        ],
        "features": ["clock", "recent"],
        "trainers": {"lightgbm": {"trainer": "lightgbm", "settings": {"max_rounds": 8, "num_leaves": 7}}},
        "gates": [{"type": "leak"}],
        "monitors": {
            "drift": drift,
            "leakage_screen": leakage_screen,
            "performance": {"minimum_labels": 20, "minimum_days": 1},
        },
    }
    declared["monitors"] |= monitors or {}  # type: ignore[operator]
    return ModelAssets(Model.model_validate(declared | changes), [CLOCK, RECENT])


def legs(month: str, rows: int = ROWS) -> pl.DataFrame:
    """Return evenly spaced legs, which leave late in the evening. Every fifth leg has no tail number."""
    start, end = MONTHS.bounds(month)
    random = np.random.default_rng(int(month[-2:]))
    due = [start + (end - start) * at / rows for at in range(rows)]
    late = [float(random.normal(5 if at.hour < 15 else 25, 12)) for at in due]
    return pl.DataFrame(
        {
            "example_id": [f"{month}-{at}" for at in range(rows)],
            "place": [("EWR", "JFK", "LGA")[at % 3] for at in range(rows)],
            "tail": [None if at % 5 == 0 else f"N{at % 50}" for at in range(rows)],
            "due": due,
            "left": [at + timedelta(minutes=minutes) for at, minutes in zip(due, late, strict=True)],
        },
        schema_overrides={"due": pl.Datetime("us", "UTC"), "left": pl.Datetime("us", "UTC")},
    )


class PlatformFixture:
    """A home in which the model was trained for March, and the resources of the monitoring assets."""

    def __init__(self, home: Home, mlflow: MlflowResource) -> None:
        self.home = home
        self.lake = open_lake(home)
        self.store = SnapshotStore(home.online)
        self.mlflow = mlflow
        self.resources = {
            "lake": LakeResource.for_home(home),
            "home": HomeResource(root=str(home.root), repository=str(REPOSITORY)),
            "mlflow": mlflow,
            "online_store": OnlineStoreResource.for_home(home),
        }

    @property
    def stores(self) -> PlatformStores:
        return PlatformStores(self.home, REPOSITORY, self.lake, lambda: self.mlflow.models, lambda: self.store)

    @property
    def log(self) -> Path:
        (file,) = (self.home.prediction_logs / "legs").glob("*.jsonl")
        return file

    def land(self, month: str, frame: pl.DataFrame | None = None) -> None:
        self.lake.write("datasets/legs", legs(month) if frame is None else frame, month)
        materialize(RECENT, self.lake, self.store, [month], MONTHS)
        build_training_sets(bound(), [month], self.lake)

    def predict(
        self,
        count: int = 40,
        *,
        first: datetime = datetime(2013, 4, 1, 6, tzinfo=UTC),
        protection: LogProtection = UNPROTECTED,
    ) -> None:
        """Answer requests of the next morning as a service does, and write the prediction log."""
        version = self.mlflow.models.version("legs", 1)
        predictor = Predictor(model_directory(version, self.stores), self.store)
        log = PredictionLog(self.home.prediction_logs / "legs", "legs", "1", protection=protection)
        ids = PredictionIds()
        for at in range(count):
            due = first + timedelta(minutes=30 * at)
            tail = None if at % 5 == 0 else f"N{at % 50}"
            rows = [{"place": ("EWR", "JFK")[at % 2], "tail": tail, "due": due.isoformat()}]
            request = predictor.contract.validate(json.dumps({"rows": rows}).encode())
            log.put(AnsweredRequest(ids.next(), f"r{at}", "stable", NOW, rows, predictor.predict(request, NOW)))
        log.close()
        assert log.written_rows == count

    def materialize(
        self, asset: dg.AssetsDefinition, month: str | None = None
    ) -> tuple[dict[str, Any], dict[str, dg.AssetCheckEvaluation]]:
        """Materialize ``asset`` and return its metadata, and its check results by name."""
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize(
                [asset], instance=instance, resources=self.resources, partition_key=month, raise_on_error=False
            )
            events = result.get_asset_materialization_events()
            shown = [{name: value.value for name, value in event.materialization.metadata.items()} for event in events]
            return (shown or [{}])[0], {each.check_name: each for each in result.get_asset_check_evaluations()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> PlatformFixture:
    home = Home(tmp_path_factory.mktemp("platform"))
    platform = PlatformFixture(home, MlflowResource.for_home(home))
    for month in LANDED_MONTHS:
        platform.land(month)
    model = bound()
    with platform.mlflow.models.tracking.run("legs", "candidate", {}) as run:
        make_candidate(
            model,
            "lightgbm",
            "2013-03",
            platform.stores,
            run=run,
            dagster_run_id="run",
            now=NOW,
        )
    return platform


@pytest.fixture
def platform(trained: PlatformFixture, tmp_path: Path) -> PlatformFixture:
    """A copy of the trained home; runs and artifacts are shared and only read."""
    root = tmp_path / "home"
    shutil.copytree(trained.home.root, root, ignore=shutil.ignore_patterns("mlflow"))
    return PlatformFixture(Home(root), trained.mlflow)


def rows_of(check: dg.AssetCheckEvaluation, table: str) -> list[dict[str, Any]]:
    shown = check.metadata[table]
    assert isinstance(shown, dg.TableMetadataValue)
    return [dict(record.data) for record in shown.records]


# Predictions and the skew check.


def test_logged_features_equal_those_recomputed_from_the_change_logs(platform: PlatformFixture) -> None:
    platform.predict()
    shown, checks = platform.materialize(monitoring.predictions(bound()))
    assert (shown["dagster/row_count"], shown["added"], checks["skew"].passed) == (40, 40, True)
    assert checks["skew"].description == "3 features of 40 predictions are equal when recomputed from the change logs."
    row = platform.lake.scan("models/legs/predictions").collect().row(0, named=True)
    assert json.loads(row["watermarks"]) == {"recent": "2013-04-01T00:00:00Z"}
    assert 0 < json.loads(row["ages"])["recent"] < 2880


def test_months_that_land_after_a_prediction_cause_no_skew(platform: PlatformFixture) -> None:
    platform.predict()
    platform.land("2013-04")
    assert platform.materialize(monitoring.predictions(bound()))[1]["skew"].passed


HIDDEN_REQUEST: list[dict[str, Any]] = [
    {"name": "place", "type": "string", "description": "Place", "pii": "hash"},
    {"name": "tail", "type": "string", "nullable": True, "description": "Aircraft", "pii": "drop"},
    {"name": "due", "type": "datetime", "description": "When it is due"},
]


def hiding(**changes: Any) -> ModelAssets:
    """Return the model with a hashed place, whose facts identify a person too, and a dropped tail number."""
    found = bound(request=HIDDEN_REQUEST, **changes)
    return ModelAssets(found.declared, [CLOCK, RECENT.model_copy(update={"pii_columns": ["place"]})])


def test_hidden_values_are_in_no_table_and_the_checks_find_the_same(platform: PlatformFixture) -> None:
    model = hiding()
    assert model.contract.pii_fields == {"place": "hash", "tail": "drop"}
    assert model.contract.pii_features == {"recent__delay": "hash"}
    platform.predict(10, first=datetime(2013, 4, 3, 6, tzinfo=UTC))  # before the fields were declared as PII
    platform.predict(protection=LogProtection(model.contract, home_key(platform.home)))
    shown, checks = platform.materialize(monitoring.predictions(model))
    assert (shown["dagster/row_count"], checks["skew"].passed) == (50, True)
    # The hashed feature is compared too: it is recomputed by the place, which its pseudonym leads to.
    assert checks["skew"].description == "3 features of 50 predictions are equal when recomputed from the change logs."
    platform.land("2013-04", legs_every_half_hour())
    outcomes, _ = platform.materialize(monitoring.outcomes(model))
    _, performance = platform.materialize(monitoring.performance(model))
    stored = platform.lake.scan("models/legs/predictions").select("request", "features").collect().rows()
    logged = [(json.loads(request), json.loads(features)) for request, features in stored]
    hidden = [(request, features) for request, features in logged if request["place"].startswith("hmac:")]
    assert len(hidden) == 40
    assert {frozenset(request) for request, _ in hidden} == {frozenset({"place", "due"})}
    assert len({request["place"] for request, _ in hidden}) == 2
    assert {str(features["recent__delay"])[:5] for _, features in hidden} == {"hmac:"}
    assert outcomes["labelled"] == 50
    assert performance["performance_regression"].passed


def test_feature_that_differs_is_found_behind_its_pseudonym(platform: PlatformFixture) -> None:
    model = hiding()
    platform.predict(protection=LogProtection(model.contract, home_key(platform.home)))
    lines = list(read_records(platform.log))
    lines[7]["features"]["recent__delay"] = lines[8]["features"]["recent__delay"]
    platform.log.write_bytes(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
    check = platform.materialize(monitoring.predictions(model))[1]["skew"]
    assert not check.passed
    (found,) = rows_of(check, "mismatches")
    assert (found["feature"], found["rows"], found["logged"]) == ("recent__delay", "1", MASK)


def test_features_that_a_hidden_field_enters_are_left_out_of_the_skew_check(platform: PlatformFixture) -> None:
    request = [{**HIDDEN_REQUEST[0], "pii": "drop"}, *HIDDEN_REQUEST[1:]]
    model = bound(request=request)
    platform.predict(protection=LogProtection(model.contract, home_key(platform.home)))
    check = platform.materialize(monitoring.predictions(model))[1]["skew"]
    assert check.passed
    assert check.description == "1 features of 40 predictions are equal when recomputed from the change logs."


def test_total_and_added_predictions_are_recorded(platform: PlatformFixture) -> None:
    platform.predict(3)
    platform.materialize(monitoring.predictions(bound()))
    platform.predict(4, first=datetime(2013, 4, 2, tzinfo=UTC))
    shown, _ = platform.materialize(monitoring.predictions(bound()))
    # The client used the request ids r0 to r2 again; these are other predictions.
    assert (shown["dagster/row_count"], shown["added"], shown["duplicates"]) == (7, 4, 0)
    assert (shown["lost"], shown["dropped"]) == (0, 0)


def test_skew_without_predictions_is_not_evaluated(platform: PlatformFixture) -> None:
    shown, checks = platform.materialize(monitoring.predictions(bound()))
    assert shown["dagster/row_count"] == 0
    assert (checks["skew"].passed, checks["skew"].description) == (True, "Not evaluated: Nothing was predicted yet.")


def test_different_served_value_fails_the_check_and_names_feature_and_row(platform: PlatformFixture) -> None:
    platform.predict()
    lines = list(read_records(platform.log))
    lines[7]["features"]["recent__delay"] = 99.5
    platform.log.write_bytes(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
    check = platform.materialize(monitoring.predictions(bound()))[1]["skew"]
    assert (check.passed, check.severity, check.metadata["features_differing"].value) == (
        False, dg.AssetCheckSeverity.ERROR, 1,
    )  # fmt: skip
    (found,) = rows_of(check, "mismatches")
    assert (found["feature"], found["view"], found["rows"], found["logged"]) == ("recent__delay", "recent", "1", "99.5")
    assert "request_id=r7" in found["prediction"]
    assert "place=JFK" in found["prediction"]


def test_snapshot_with_another_value_than_the_change_log_fails_the_check(platform: PlatformFixture) -> None:
    end = MONTHS.bounds("2013-03")[1]
    log = platform.lake.scan(RECENT.table).sort("known_at").group_by("place", maintain_order=True).last().collect()
    facts = log.select("place", "known_at", delay=pl.when(pl.col("place") == "EWR").then(0.5).otherwise("delay"))
    platform.store.publish(Snapshot(RECENT.pinned(), facts.sort("place"), end + timedelta(seconds=1)))
    platform.predict()
    check = platform.materialize(monitoring.predictions(bound()))[1]["skew"]
    assert not check.passed
    found = rows_of(check, "mismatches")
    assert {line["feature"] for line in found} == {"recent__delay"}
    assert {line["rows"] for line in found} == {"20"}  # every second prediction asks about EWR
    assert all("place=EWR" in line["prediction"] for line in found)


def test_skew_settings_limit_the_recomputed_predictions(platform: PlatformFixture) -> None:
    platform.predict()
    model = bound({"skew": {"rows": 5, "latest": 10}})
    check = platform.materialize(monitoring.predictions(model))[1]["skew"]
    assert check.metadata["predictions_compared"].value == 5


# Outcomes and performance.


# Freshness of serving.


def test_online_store_behind_the_newest_partition_is_found(platform: PlatformFixture) -> None:
    def staleness(**monitors: Any) -> dg.AssetCheckEvaluation:
        return platform.materialize(monitoring.predictions(bound(monitors)))[1]["store_staleness"]

    assert staleness(store_behind="1d").passed
    platform.lake.write("datasets/legs", legs("2013-04"), "2013-04")
    late = staleness(store_behind="1d")
    (finding,) = rows_of(late, "findings")
    assert (late.passed, late.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert finding["what"] == (
        "view 'recent' is 720.0 h behind the newest partitions of its sources; the limit is 24.0 h"
    )
    assert (finding["how_bad"], finding["since"]) == (720.0, "2013-04-01T00:00:00+00:00")
    # Without a declared limit, the store may be one partition behind: the first month has 744 hours.
    assert staleness().passed


def test_store_without_the_view_is_not_evaluated(platform: PlatformFixture) -> None:
    shutil.rmtree(platform.home.online)
    check = platform.materialize(monitoring.predictions(bound()))[1]["store_staleness"]
    assert check.passed
    assert str(check.description).startswith("Not evaluated: ")
    assert "recent" in str(check.description)


def test_features_that_are_older_at_serving_than_in_training_are_found(platform: PlatformFixture) -> None:
    # Predictions at 05:00 to 00:30 with a store that knows the facts until midnight: 14.75 hours in the median.
    platform.predict()
    old = platform.materialize(monitoring.predictions(bound({"store_behind": "12h"})))[1]["feature_age"]
    (finding,) = rows_of(old, "findings")
    assert not old.passed
    assert (finding["how_bad"], finding["since"]) == (14.75, "2013-04-01T00:00:00+00:00")
    assert rows_of(old, "views") == [{"view": "recent", "behind_hours": 14.75, "limit_hours": 12.0}]
    assert platform.materialize(monitoring.predictions(bound({"store_behind": "15h"})))[1]["feature_age"].passed


def test_hours_without_predictions_are_found_while_a_version_serves(platform: PlatformFixture) -> None:
    platform.predict(25)
    _, checks = platform.materialize(monitoring.predictions(bound()))
    assert checks["prediction_gaps"].description == "Not evaluated: No version serves."

    rows = platform.lake.scan("models/legs/predictions").drop("partition").collect()
    for back in range(1, 8):
        day = NOW - timedelta(days=back)
        silent = {3, 4} if back == 1 else set[int]()
        hours = [rows.with_columns(logged_at=day + timedelta(hours=hour)) for hour in set(range(24)) - silent]
        platform.lake.append("models/legs/predictions", pl.concat(hours), day.date().isoformat())
    serving = DesiredState(stable=ServedVersion(version="1", bento="legs:1"), weights={"stable": 100})
    change_desired_state(platform.lake.state, "legs", lambda _now: serving)
    found = check_prediction_gaps(bound(), platform.stores, NOW)

    result = prediction_gaps_result("legs", found)
    assert result.metadata["judged_hours"].value == 24
    assert (result.passed, result.description) == (
        False,
        "no prediction from 2025-12-31 03:00 UTC to 2025-12-31 05:00 UTC, usual are 50.",
    )


def legs_every_half_hour(**landed: pl.Expr) -> pl.DataFrame:
    """Return the legs of April: one from each of two places every half hour."""
    april = legs("2013-04", 30 * 48).with_columns(place=pl.lit("EWR"), **landed)
    return pl.concat([april, april.with_columns(place=pl.lit("JFK"), example_id=pl.col("example_id") + "-JFK")])


def predict_and_land(platform: PlatformFixture, model: ModelAssets, **landed: pl.Expr) -> None:
    """Predict 40 legs of April, then land the month."""
    platform.predict()
    platform.materialize(monitoring.predictions(model))
    platform.land("2013-04", legs_every_half_hour(**landed))


def test_outcome_is_joined_by_the_declared_identity_and_not_by_other_fields(platform: PlatformFixture) -> None:
    predict_and_land(platform, bound())
    shown, _ = platform.materialize(monitoring.outcomes(bound()))
    assert (shown["dagster/row_count"], shown["labelled"]) == (40, 40)


def test_null_in_an_identity_field_matches_null(platform: PlatformFixture) -> None:
    all_outcomes = bound(examples={"function": f"{FUNCTIONS}:examples", "sources": ["legs"]})
    predict_and_land(platform, all_outcomes, tail=pl.lit(None, pl.String))
    shown, _ = platform.materialize(monitoring.outcomes(all_outcomes))
    predictions = platform.lake.scan("models/legs/predictions").select("prediction_id", "request")
    rows = platform.lake.scan("models/legs/outcomes").join(predictions, on="prediction_id").collect()
    assert shown["labelled"] == 8  # every fifth of 40 requests has no tail number, and no landed leg has one
    assert [json.loads(text)["tail"] for text in rows["request"]] == [None] * 8


def champion(
    platform: PlatformFixture,
    version: int,
    month: str,
    auc: float,
    action: str = "promote",
    verdict: str = "",
    **more: float,
) -> None:
    """Append a champion record and, unless it has a ``verdict``, store the metrics of its evaluation."""
    platform.resources["home"].audit().append(  # type: ignore[attr-defined]
        CHAMPION_KIND,
        actor="test",
        at=NOW,
        facts={
            "model": "legs",
            "version": version,
            "reason": "",
            "action": action,
            "content_digest": "",
            "partition": month,
            "manifest": {},
            "verdict": verdict or f"verdict-{version}",
            "approved_by": [],
            "previous_version": None,
        },
    )
    if verdict:
        return
    numbers = {"auc": auc, "auc_low": auc - 0.01, "auc_high": auc + 0.01, "rows": 600.0, **more}
    content = dict.fromkeys(("partition", "candidate", "decision", "evidence"), "")
    content |= {"model": "legs", "digest": f"verdict-{version}"}
    record_verdict(platform.stores.audit, content, numbers, actor="gates", at=datetime(2013, 7, 1, tzinfo=UTC))


@pytest.mark.parametrize(("expected", "passed"), [(0.3, True), (0.999, False)])
def test_realised_metrics_are_compared_with_the_recorded_evaluation(
    platform: PlatformFixture, expected: float, passed: bool
) -> None:
    model = bound()
    champion(platform, 1, "2013-03", expected)
    predict_and_land(platform, model)
    platform.materialize(monitoring.outcomes(model))
    shown, checks = platform.materialize(monitoring.performance(model))
    assert (shown["version"], shown["predictions"], shown["labelled"]) == ("1", 40, 40)
    assert checks["performance_regression"].passed is passed
    assert checks["performance_regression"].metadata["shortfall_auc"].value == pytest.approx(expected - shown["auc"])


def test_realised_metrics_are_shown_in_each_declared_slice(platform: PlatformFixture) -> None:
    performance = {"minimum_labels": 20, "minimum_days": 1, "minimum_slice_labels": 5}
    model = bound({"performance": performance}, evaluation={"slices": ["place"]})
    predict_and_land(platform, model)
    platform.materialize(monitoring.outcomes(model))
    shown, _ = platform.materialize(monitoring.performance(model))
    rows = platform.lake.scan("models/legs/predictions").collect()
    rows = rows.join(platform.lake.scan("models/legs/outcomes").collect(), on="prediction_id")
    by_place = rows.with_columns(place=pl.col("request").str.json_path_match("$.place")).group_by("place")
    expected = by_place.agg(pl.len(), pl.col("outcome").mean()).sort("place").rows()
    table = [each.data for each in shown["by_slice"].records]
    assert [(row["field"], row["value"], row["labelled"], row["base_rate"]) for row in table] == [
        ("place", *each) for each in expected
    ]
    assert all(0 < row["log_loss"] < 10 for row in table)


def test_groups_of_a_fairness_gate_are_compared_on_realised_outcomes(platform: PlatformFixture) -> None:
    gate = {"type": "fairness", "groups": ["place"], "metric": "selection_rate", "maximum_difference": 0.9}
    model = bound(gates=[{"type": "leak"}, {**gate, "minimum_support": 5}], evaluation={"bootstrap": {"unit": "hour"}})
    predict_and_land(platform, model)
    platform.materialize(monitoring.outcomes(model))
    shown, checks = platform.materialize(monitoring.performance(model))
    rows = platform.lake.scan("models/legs/predictions").collect()
    by_place = rows.with_columns(place=pl.col("request").str.json_path_match("$.place")).group_by("place")
    expected = by_place.agg(pl.len(), pl.col("label").mean()).sort("place").rows()
    table = [each.data for each in shown["by_group"].records]
    assert [(row["group"], row["rows"], pytest.approx(row["rate"])) for row in table] == [
        (f"place={place}", count, share) for place, count, share in expected
    ]
    assert checks["fairness"].passed
    assert "selection_rate: none of 2 groups is beyond the limit." in str(checks["fairness"].description)
    without = monitoring.performance(bound())
    assert "fairness" not in {spec.name for spec in without.check_specs}


def test_loss_of_each_due_day_is_added_to_the_test_of_the_champion_once(platform: PlatformFixture) -> None:
    model = bound(retraining={"policy": {"loss": {"tolerance": 0.05}}})
    champion(platform, 1, "2013-03", 0.8, log_loss=0.3, log_loss_low=0.25, log_loss_high=0.35)
    predict_and_land(platform, model)
    platform.materialize(monitoring.outcomes(model))
    rows = platform.lake.scan("models/legs/predictions").collect()
    rows = rows.join(platform.lake.scan("models/legs/outcomes").collect(), on="prediction_id")
    losses = -(rows["outcome"] * rows["score"].log() + (1 - rows["outcome"]) * (1 - rows["score"]).log())
    days = [losses.filter(rows["predict_at"].dt.day() == day).mean() for day in (1, 2)]

    for _ in range(2):  # the second time, no day is new
        platform.materialize(monitoring.performance(model))
    test = read_loss_test(platform.lake.state, "legs")
    assert test is not None
    assert (test.version, test.promised, test.days, test.labels, test.until) == (1, 0.35, 2, 40, "2013-04-02")
    assert test.total == pytest.approx(sum(days))  # type: ignore[arg-type]
    champion(platform, 2, "2013-03", 0.8, log_loss=0.3)
    platform.materialize(monitoring.performance(model))
    other = read_loss_test(platform.lake.state, "legs")
    assert other is not None
    assert (other.version, other.promised, other.days) == (2, 0.3, 0)  # the predictions are those of version 1


def champion_with_evidence(platform: PlatformFixture) -> pl.DataFrame:
    """Record a champion whose evaluation rows are stored, and return them: label and score of 20 days."""
    random = np.random.default_rng(3)
    score = random.beta(2, 4, 1000)
    label = (random.random(1000) < score).astype(float)
    evidence = Evidence(label=label, predictions={"candidate": score}, block=np.repeat(np.arange(20), 50))
    table = evidence.to_table()
    verdict = build_verdict(
        model="legs",
        partition="2013-03",
        candidate="",
        champion=None,
        gates=[],
        evidence=evidence.digest(),
        table=content_hash(table),
        at=NOW,
    )
    path = evidence_path(platform.home, verdict)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(path)
    record_verdict(platform.stores.audit, verdict.model_dump(), {}, actor="gates", at=NOW)
    champion(platform, 1, "2013-03", 0.8, verdict=verdict.digest)
    return table


def test_metrics_are_estimated_before_the_labels_and_stay_beside_the_realised_ones(platform: PlatformFixture) -> None:
    model = bound()
    champion_with_evidence(platform)
    platform.predict()
    platform.materialize(monitoring.predictions(model))
    early, _ = platform.materialize(monitoring.performance(model))
    assert early["labelled"] == 0
    assert early["reason"].startswith("No period has enough known labels yet.")
    score = platform.lake.scan("models/legs/predictions").collect()["score"].to_numpy()
    assert (
        early["estimated_base_rate_low"] < score.mean() < early["estimated_base_rate_high"]
    )  # the score is calibrated
    assert 0 < early["estimated_log_loss_low"] < early["estimated_log_loss"] < early["estimated_log_loss_high"]

    platform.land("2013-04", legs_every_half_hour())
    platform.materialize(monitoring.outcomes(model))
    shown, _ = platform.materialize(monitoring.performance(model))
    assert shown["estimated_log_loss"] == early["estimated_log_loss"]
    assert shown["log_loss_low"] < shown["log_loss"] < shown["log_loss_high"]
    (row,) = shown["by_period"].records
    assert (row.data["label_state"], row.data["labelled"]) == ("complete", 40)


class Caught(MeanMetric):
    """Late legs with a score above ``above``, less half of the others."""

    above: float = 0.5

    def row_values(self, label: Array, prediction: Array) -> Array:
        return (prediction > self.above) * (1.5 * label - 0.5)


def test_own_metric_is_measured_on_outcomes_with_its_direction_and_again_after_a_change(
    platform: PlatformFixture,
) -> None:
    def model(above: float) -> ModelAssets:
        return bound(
            {"performance": {"minimum_labels": 20, "minimum_days": 1, "tolerances": {"caught": 0.0}}},
            evaluation={"metrics": {"caught": {"type": f"{__name__}:Caught", "above": above}}},
        )

    champion(platform, 1, "2013-03", 0.9, caught=2.0, caught_low=1.9, caught_high=2.1)
    predict_and_land(platform, model(0.0))
    platform.materialize(monitoring.outcomes(model(0.0)))
    (all_late,) = performance_report(model(0.0), platform.stores).periods
    assert all_late.metrics["caught"] == pytest.approx(1.5 * all_late.base_rate - 0.5)  # type: ignore[operator]
    assert all_late.regressed_metrics == ["caught"]
    (none_late,) = performance_report(model(1.0), platform.stores).periods
    assert none_late.metrics["caught"] == 0.0


def test_performance_without_predictions_is_not_evaluated(platform: PlatformFixture) -> None:
    shown, checks = platform.materialize(monitoring.performance(bound()))
    expected = {"periods": 0, "predictions": 0, "labelled": 0, "reason": "Nothing was predicted yet."}
    assert without_usage(shown) == expected
    assert (checks["performance_regression"].passed, checks["performance_regression"].description) == (
        True,
        "Not evaluated: Nothing was predicted yet.",
    )


# Drift.


def test_drift_of_the_first_month_is_not_evaluated(platform: PlatformFixture) -> None:
    shown, checks = platform.materialize(monitoring.drift(bound()), "2013-01")
    assert (shown["decision"], shown["rows_reference"], checks["no_drift"].passed) == ("not evaluated", 0, True)
    assert checks["no_drift"].description == "Not evaluated: there are no earlier rows to compare with."
    assert "report" not in shown


def test_drift_compares_with_all_earlier_months(platform: PlatformFixture) -> None:
    shown, checks = platform.materialize(monitoring.drift(bound()), "2013-03")
    assert (shown["rows_reference"], shown["rows_current"], shown["expected_rows"]) == (1200, 600, 600.0)
    # Months of different lengths have equally many legs, so in March the last leg is older than in February.
    assert (shown["decision"], shown["drifted"], checks["no_drift"].passed) == ("notice", ["recent__age_minutes"], True)
    mapping = monitoring.drift(bound()).get_partition_mapping(dg.AssetKey(["legs", "training_set"]))
    assert isinstance(mapping, dg.TimeWindowPartitionMapping)
    assert mapping.start_offset < -11


class DelayLimit(Monitor):
    """The mean delay before a prediction is as it was."""

    maximum_change: float = 5.0

    def check(self, reference: pl.DataFrame, current: pl.DataFrame) -> MonitorResult:
        now, before = (float(rows["recent__delay"].mean() or 0.0) for rows in (current, reference))  # type: ignore[arg-type]
        change = abs(now - before)
        return MonitorResult(
            passed=change <= self.maximum_change, reason=f"{change:.1f} min.", numbers={"change": change}
        )


def test_own_monitor_is_a_check_of_the_drift_asset(platform: PlatformFixture) -> None:
    declared = {"drift": {"minimum_rows": 100}}
    for limit, passed in ((1e6, True), (0.0, False)):
        own = {"delay_limit": {"type": f"{__name__}:DelayLimit", "maximum_change": limit}}
        asset = monitoring.drift(bound(declared | {"own": own}))
        _, checks = platform.materialize(asset, "2013-03")
        assert (checks["delay_limit"].passed, checks["no_drift"].passed) == (passed, True)
        assert checks["delay_limit"].severity == dg.AssetCheckSeverity.WARN
        assert float(checks["delay_limit"].metadata["change"].value) > 0  # type: ignore[arg-type]
    _, first = platform.materialize(asset, "2013-01")
    assert first["delay_limit"].description == "Not evaluated: there are no rows of earlier partitions."
    descriptions = {spec.name: spec.description for spec in asset.check_specs}
    assert descriptions["delay_limit"] == "The mean delay before a prediction is as it was."


def lose_rows(platform: PlatformFixture, month: str) -> None:
    """Delete the file of a month of the training set."""
    (folder,) = (platform.home.lake / bound().table).glob(f"*{month}*")
    shutil.rmtree(folder)


def test_drift_reads_only_the_declared_number_of_earlier_months(platform: PlatformFixture) -> None:
    lose_rows(platform, "2013-01")
    short = bound({"drift": {"minimum_rows": 100, "reference_partitions": 1}})
    shown, _ = platform.materialize(monitoring.drift(short), "2013-03")
    assert (shown["rows_reference"], shown["rows_current"], shown["expected_rows"]) == (600, 600, 600.0)
    # With more months the lost one would be read.
    with pytest.raises(LakeError, match="partition 2013-01"):
        monitor_drift(bound(), "2013-03", platform.stores)


def test_half_the_rows_and_a_feature_without_values_raise_an_alert(platform: PlatformFixture) -> None:
    quiet = legs("2013-04", 250).with_columns(left=pl.col("left") + timedelta(days=40))
    platform.land("2013-04", quiet)
    shown, checks = platform.materialize(monitoring.drift(bound()), "2013-04")
    assert (shown["decision"], shown["volume_changed"], checks["no_drift"].passed) == ("alert", True, False)
    assert checks["no_drift"].severity == dg.AssetCheckSeverity.WARN
    assert "250 rows where about 600 are usual" in str(checks["no_drift"].description)
    assert "recent__delay" in shown["drifted"]  # no leg left in time, so every value is null or stale


def test_scores_are_compared_if_a_champion_existed_before_the_month(platform: PlatformFixture) -> None:
    champion(platform, 1, "2013-03", 0.7)
    evenings = legs("2013-04").with_columns(pl.col("due").dt.replace(hour=20))
    platform.land("2013-04", evenings.with_columns(left=pl.col("due") + timedelta(minutes=25)))
    shown, checks = platform.materialize(monitoring.drift(bound()), "2013-04")
    assert (shown["scored_by_version"], shown["drifted"][0], checks["no_drift"].passed) == (1, "score", False)
    assert shown["score_effect"] > shown["score_limit"]


def test_scores_of_the_evaluation_month_are_compared_when_it_lies_before_the_reference(
    platform: PlatformFixture,
) -> None:
    champion(platform, 1, "2013-02", 0.7)
    platform.land("2013-04")
    short = bound({"drift": {"minimum_rows": 100, "reference_partitions": 1}})
    shown, _ = platform.materialize(monitoring.drift(short), "2013-04")
    assert (shown["scored_by_version"], shown["rows_reference"], shown["expected_rows"]) == (1, 1200, 600.0)


def test_drift_compares_a_sample_of_many_rows_and_counts_all(platform: PlatformFixture) -> None:
    champion(platform, 1, "2013-03", 0.7)
    platform.land("2013-04")
    few = bound({"drift": {"minimum_rows": 50, "read_rows": 800, "sample_rows": 60}})
    shown, _ = platform.materialize(monitoring.drift(few), "2013-04")
    assert (shown["rows_reference"], shown["rows_current"], shown["expected_rows"]) == (1800, 600, 600.0)
    # A third of the rows; four standard deviations of these binomial numbers are 80 and 46.
    assert abs(shown["compared_reference"] - 600) < 80
    assert abs(shown["compared_current"] - 200) < 46
    assert shown["scored_by_version"] == 1


def test_retired_champion_scores_nothing(platform: PlatformFixture) -> None:
    champion(platform, 1, "2013-03", 0.7)
    champion(platform, 1, "2013-03", 0.7, action="retire")
    platform.land("2013-04")
    result = monitor_drift(bound(), "2013-04", platform.stores)
    assert isinstance(result, DriftResult)
    assert result.scored_by is None


# The training set.


def test_leakage_screen_measures_the_latest_months_only(platform: PlatformFixture) -> None:
    lose_rows(platform, "2013-01")
    latest_two = bound({"leakage_screen": {"rows": 1_000, "rounds": 10, "reference_partitions": 2}})
    report = screen_training_set(latest_two, platform.lake)
    assert not isinstance(report, NotEvaluated)
    assert report.rows == 1_000
    with pytest.raises(LakeError, match="partition 2013-01"):
        screen_training_set(bound(), platform.lake)


def test_leakage_screen_needs_more_than_one_month(platform: PlatformFixture) -> None:
    model = bound()
    platform.lake.drop_partitions(model.table, LANDED_MONTHS[1:])
    _, checks = platform.materialize(training.training_set(model), "2013-01")
    assert (
        checks["leakage_screen"].description
        == "Not evaluated: Partitions in the training set: 1; a split by time needs 2."
    )
    for month in LANDED_MONTHS[1:]:
        _, checks = platform.materialize(training.training_set(model), month)
    assert checks["leakage_screen"].passed
    assert checks["known_in_time"].passed
    assert rows_of(checks["leakage_screen"], "auc_alone")[0]["feature"] == "clock__hour"


def test_leakage_screen_beyond_its_limits_warns_and_does_not_block(platform: PlatformFixture) -> None:
    strict = bound({"leakage_screen": {"rows": 1_000, "rounds": 10, "auc_alone": 0.6}})
    check = platform.materialize(training.training_set(strict), "2013-03")[1]["leakage_screen"]
    assert (check.passed, check.severity, check.blocking) == (False, dg.AssetCheckSeverity.WARN, False)
    assert "'clock__hour' alone has AUC" in str(check.description)


def test_late_request_field_blocks_and_is_named(platform: PlatformFixture) -> None:
    request = [field.model_dump() for field in bound().declared.request]
    planted = bound(
        name="planted",
        examples={"function": f"{FUNCTIONS}:examples_that_know_the_future", "sources": ["legs"]},
        request=[*request, LATE_FIELD],
    )
    check = platform.materialize(training.training_set(planted), "2013-03")[1]["known_in_time"]
    assert (check.passed, check.severity, check.blocking) == (False, dg.AssetCheckSeverity.ERROR, True)
    assert "Known only after the prediction: 'minutes'." in str(check.description)
    assert rows_of(check, "examples")[0]["field"] == "minutes"


def test_training_set_with_a_missing_view_month_is_rejected(platform: PlatformFixture) -> None:
    platform.lake.drop_partitions(RECENT.table, ["2013-02"])
    with pytest.raises(LakeError, match=r"no facts of '2013-02'\. Materialize the view for these partitions"):
        build_training_sets(bound(), ["2013-03"], platform.lake)
