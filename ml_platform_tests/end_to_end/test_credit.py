"""The domain of credit: late labels as of each cut, features of two entities as they arrived, and served answers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import httpx
import numpy as np
import polars as pl
import pytest

from assets.credit.demo import request_rows
from assets.credit.landing import DAYS, MONTHS, customers, land
from assets.credit.lending import REQUEST_FIELDS, rows
from ml_platform.components.loading import bound_model
from ml_platform.components.model import evaluation, model_card, promotion, serving, training
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.console.services import serving_processes
from ml_platform.data.contract_record import record_passed
from ml_platform.data.landing import LandedFile, Landing
from ml_platform.data.package_files import package_file
from ml_platform.features.materialize import materialize
from ml_platform.serving.processes import serve_temporarily
from ml_platform.steps.candidates import build_training_sets, read_training_set, split_of
from ml_platform.steps.closed_window import OpenWindowError, require_closed_window
from ml_platform.training.model_directory import read_model
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "credit"
CUT, LAST_DAY, MONTH = "2024-04-30", "2024-05-30", "2024-04"
MONTHS_BUILT = ["2024-02", "2024-03", "2024-04"]
HORIZON, LATER = timedelta(days=30), datetime(2024, 7, 2, tzinfo=UTC)


def publish(platform: PlatformFixture, files: list[LandedFile]) -> None:
    for file in files:
        written = platform.lake.write(f"datasets/{file.dataset}", rows(file.path), file.partition)
        digest, name, key = written.sha256, file.dataset, file.partition
        record_passed(platform.lake.state, name, key, content_digest=digest, landed_sha256=file.sha256)


def all_customers() -> pl.DataFrame:
    return customers().select("customer", "branch", "applied_at", "reported_at", "default", "student", "balance")


@pytest.fixture(scope="module")
def credit() -> ModelAssets:
    return bound_model("credit_default")


@pytest.fixture(scope="module")
def first_sets(tmp_path_factory: pytest.TempPathFactory, credit: ModelAssets) -> Iterator[PlatformFixture]:
    """A home with all applications until May, the outcomes until the cut, and the training sets of them."""
    with open_platform(tmp_path_factory.mktemp("credit") / ".ml_platform") as made:
        landed = land(Landing(made.home.landing), LAST_DAY)
        publish(made, [file for file in landed if file.dataset != "credit_outcomes" or str(file.partition) <= CUT])
        store = made.resources["online_store"].store()
        for view in credit.stored_views:
            last = CUT if view.entity == ["branch"] else "2024-05"
            scheme = DAYS if view.entity == ["branch"] else MONTHS
            materialize(view, made.lake, store, scheme.between(scheme.first, last), scheme)
        build_training_sets(credit, MONTHS_BUILT, made.lake)
        yield made


@pytest.fixture(scope="module")
def as_of_cut(first_sets: PlatformFixture, credit: ModelAssets) -> pl.DataFrame:
    """The training sets before the later outcomes landed."""
    return read_training_set(credit, MONTH, first_sets.lake)


@pytest.fixture(scope="module")
def platform(first_sets: PlatformFixture, as_of_cut: pl.DataFrame, credit: ModelAssets) -> PlatformFixture:
    """The home after the outcomes until the end of May have landed."""
    landed = land(Landing(first_sets.home.landing), LAST_DAY)
    publish(first_sets, [each for each in landed if each.dataset == "credit_outcomes" and str(each.partition) > CUT])
    store = first_sets.resources["online_store"].store()
    (view,) = [each for each in credit.stored_views if each.entity == ["branch"]]
    materialize(view, first_sets.lake, store, DAYS.between(DAYS.shift(CUT, 1), LAST_DAY), DAYS)
    build_training_sets(credit, MONTHS_BUILT, first_sets.lake)
    return first_sets


def labels_at(found: pl.DataFrame, cut: datetime) -> dict[int, int | None]:
    """Return the label of each customer that was reported within its horizon and before ``cut``, row by row."""
    known = {row[0]: row for row in all_customers().select("customer", "applied_at", "reported_at", "default").rows()}
    expected = dict[int, int | None]()
    for customer in found["customer"]:
        _, applied_at, reported_at, default = known[customer]
        expected[customer] = default if reported_at < min(cut, applied_at + HORIZON) else None
    return expected


def test_domain_has_at_most_200_lines() -> None:
    lines = sum(len(file.read_text().splitlines()) for file in FOLDER.rglob("*") if file.suffix in (".py", ".yaml"))
    assert 100 < lines <= 200


def test_customers_are_those_of_the_published_file_with_reports_within_the_horizon() -> None:
    source, found = pl.read_csv(package_file("ISLP", "data/Default.csv")), customers()
    assert found.select("balance", "income").equals(source.select("balance", "income"))
    assert (found["default"] == (source["default"] == "Yes")).all()
    waits = found["reported_at"] - found["applied_at"]
    assert waits.is_between(timedelta(days=1), HORIZON, closed="left").all()
    assert set(found["branch"]) == {1, 2, 3, 4}
    assert customers().equals(found)  # the draws depend on nothing but the file


def test_labels_are_a_brute_force_join_as_of_each_cut(
    as_of_cut: pl.DataFrame, platform: PlatformFixture, credit: ModelAssets
) -> None:
    early = labels_at(as_of_cut, DAYS.bounds(CUT)[1])
    assert dict(as_of_cut.select("customer", "label").rows()) == early
    # At the end of April the outcome of many of its applications is not known: they are unlabelled, not negative.
    april = as_of_cut.filter(pl.col("predict_at") >= datetime(2024, 4, 1, tzinfo=UTC))
    assert 0.3 * april.height < april["label"].null_count() < 0.7 * april.height

    late = read_training_set(credit, MONTH, platform.lake)
    assert dict(late.select("customer", "label").rows()) == labels_at(late, DAYS.bounds(LAST_DAY)[1])
    assert late["label"].null_count() == 0
    assert (
        late["label_known_at"]
        .sort()
        .equals(all_customers().filter(pl.col("customer").is_in(late["customer"].implode()))["reported_at"].sort())
    )


def test_window_is_closed_when_the_last_label_is_due(platform: PlatformFixture, credit: ModelAssets) -> None:
    require_closed_window(credit, MONTH, platform.lake, LATER)
    with pytest.raises(OpenWindowError, match="its labels are due at 2024-07-01"):
        require_closed_window(credit, "2024-05", platform.lake, LATER)


def test_features_are_the_statement_of_the_customer_and_the_outcomes_that_had_arrived(
    platform: PlatformFixture, credit: ModelAssets
) -> None:
    known, every = all_customers(), read_training_set(credit, MONTH, platform.lake)
    found = every.filter(pl.col("predict_at") >= datetime(2024, 3, 1, tzinfo=UTC))
    by_customer = {row["customer"]: row for row in known.iter_rows(named=True)}
    for row in found.sample(100, seed=0).iter_rows(named=True):
        assert row["credit_account__balance"] == np.float32(by_customer[row["customer"]]["balance"])
        assert row["credit_account__student"] == by_customer[row["customer"]]["student"]
        # The outcomes of a day arrive at one o'clock of the next.
        arrived = (row["predict_at"] - timedelta(hours=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        reports = known.filter(pl.col("branch") == row["branch"], pl.col("reported_at") < arrived)
        within = reports.filter(pl.col("reported_at") > pl.col("reported_at").max() - HORIZON)
        assert row["credit_branch__default_rate"] == pytest.approx(within["default"].mean(), rel=1e-6)


def test_fit_uses_no_label_that_was_reported_after_its_part(platform: PlatformFixture, credit: ModelAssets) -> None:
    split = split_of(credit, MONTH, read_training_set(credit, MONTH, platform.lake))
    march, april = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)
    assert (split.train["label_known_at"] <= march).all()
    assert (split.validation["label_known_at"] <= april).all()
    assert min(part["label"].sum() for part in (split.train, split.validation, split.test)) >= 10


@pytest.mark.slow
def test_served_answer_has_the_offline_features_and_the_decision_by_cost(
    platform: PlatformFixture, credit: ModelAssets, tmp_path: Path
) -> None:
    cycle = (training.candidate(credit, "lightgbm"), evaluation.evaluation(credit), model_card.model_card(credit),
             promotion.champion(credit), serving.bento(credit), serving.rollout(credit))  # fmt: skip
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(cycle, partition_key=MONTH, resources=platform.resources, instance=instance).success
    card = (platform.home.reports / "model_card" / "credit_default" / MONTH / "card.md").read_text()
    tested = split_of(credit, MONTH, read_training_set(credit, MONTH, platform.lake)).test
    late = float(tested["label"].to_numpy().mean())
    assert f"{1 - late:.4g} if all rows were answered true, and {10 * late:.4g} if none were." in card
    assert "recall_at_rate (alerts for 0.05 of the rows)" in card
    requested = request_rows(tmp_path).select(REQUEST_FIELDS)
    payload = [row | {"applied_at": row["applied_at"].isoformat()} for row in requested.to_dicts()]
    with serve_temporarily(serving_processes(platform.home)) as address, httpx.Client(base_url=address) as client:
        answered = client.post("/v1/credit_default/predict", json={"rows": payload}, timeout=30).raise_for_status()
    predictions = answered.json()["predictions"]

    examples = requested.with_columns(predict_at=pl.col("applied_at"))
    offline = credit.feature_set.as_of(examples.lazy(), credit.feature_set.logs(platform.lake)).collect()
    (version,) = platform.stores.registry.versions("credit_default")
    model = read_model(platform.stores.registry.download(version, tmp_path / "model"))
    scores = np.array([each["score"] for each in predictions])
    assert np.abs(model.predict(offline) - scores).max() < 1e-9
    # A default costs ten times a declined loan, so about one in eleven decides, and not one in two.
    declined = np.array([each["label"] for each in predictions])
    assert 0 < declined.sum() < len(declined)
    assert 0.02 < scores[declined.astype(bool)].min() < 0.3
