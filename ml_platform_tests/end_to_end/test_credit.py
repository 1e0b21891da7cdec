"""The domain of credit: late labels as of each cut, and features of two entities as they arrived."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assets.credit.landing import DAYS, customers
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.package_files import package_file
from ml_platform.steps.candidates import read_training_set, split_of
from ml_platform.steps.closed_window import OpenWindowError, require_closed_window
from ml_platform_tests.end_to_end.conftest import CREDIT_CUT, CREDIT_DAY, CREDIT_MONTH, CreditHome

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "credit"
HORIZON, LATER = timedelta(days=30), datetime(2024, 7, 2, tzinfo=UTC)


def all_customers() -> pl.DataFrame:
    return customers().select("customer", "branch", "applied_at", "reported_at", "default", "student", "balance")


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


def test_labels_are_a_brute_force_join_as_of_each_cut(credit_home: CreditHome, credit: ModelAssets) -> None:
    as_of_cut = credit_home.as_of_cut
    early = labels_at(as_of_cut, DAYS.bounds(CREDIT_CUT)[1])
    assert dict(as_of_cut.select("customer", "label").rows()) == early
    # At the end of April the outcome of many of its applications is not known: they are unlabelled, not negative.
    april = as_of_cut.filter(pl.col("predict_at") >= datetime(2024, 4, 1, tzinfo=UTC))
    assert 0.3 * april.height < april["label"].null_count() < 0.7 * april.height

    late = read_training_set(credit, CREDIT_MONTH, credit_home.lake)
    assert dict(late.select("customer", "label").rows()) == labels_at(late, DAYS.bounds(CREDIT_DAY)[1])
    assert late["label"].null_count() == 0
    assert (
        late["label_known_at"]
        .sort()
        .equals(all_customers().filter(pl.col("customer").is_in(late["customer"].implode()))["reported_at"].sort())
    )


def test_window_is_closed_when_the_last_label_is_due(credit_home: CreditHome, credit: ModelAssets) -> None:
    require_closed_window(credit, CREDIT_MONTH, credit_home.lake, LATER)
    with pytest.raises(OpenWindowError, match="its labels are due at 2024-07-01"):
        require_closed_window(credit, "2024-05", credit_home.lake, LATER)


def test_features_are_the_statement_of_the_customer_and_the_outcomes_that_had_arrived(
    credit_home: CreditHome, credit: ModelAssets
) -> None:
    known, every = all_customers(), read_training_set(credit, CREDIT_MONTH, credit_home.lake)
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


def test_fit_uses_no_label_that_was_reported_after_its_part(credit_home: CreditHome, credit: ModelAssets) -> None:
    split = split_of(credit, CREDIT_MONTH, read_training_set(credit, CREDIT_MONTH, credit_home.lake))
    march, april = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)
    assert (split.train["label_known_at"] <= march).all()
    assert (split.validation["label_known_at"] <= april).all()
    assert min(part["label"].sum() for part in (split.train, split.validation, split.test)) >= 10
