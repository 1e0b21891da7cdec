"""A month without examples is reported with what is missing: the rows of a source, or the function's own result."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import assets
from ml_platform.data.lake import Lake
from ml_platform.steps.candidates import assemble_partition
from ml_platform.training.training_set import NoExamplesError
from ml_platform_tests.components.delivery_model import DOMAIN, deliveries, delivery_model

MONTH = "2013-01"


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    before = assets.__path__
    assets.__path__ = [*before, str(DOMAIN)]
    yield Lake.standalone(tmp_path / "lake")
    assets.__path__ = before


def test_month_without_rows_in_a_source_names_the_table(lake: Lake) -> None:
    lake.write("datasets/deliveries", deliveries(MONTH).clear(), MONTH)

    with pytest.raises(
        NoExamplesError,
        match=r"'late', partition 2013-01: expected at least one example, found none: "
        r"'datasets/deliveries' has no rows in 2013-01. Land the rows of this window",
    ):
        assemble_partition(delivery_model(), MONTH, lake, {})


def test_month_whose_rows_the_examples_function_leaves_out_names_the_function(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.write("datasets/deliveries", deliveries(MONTH), MONTH)
    model = delivery_model()
    function = model.examples_function
    monkeypatch.setattr(model, "examples_function", lambda sources: function(sources).filter(pl.lit(False)))

    with pytest.raises(NoExamplesError, match=r"although all sources have rows in 2013-01. Correct the examples"):
        assemble_partition(model, MONTH, lake, {})
