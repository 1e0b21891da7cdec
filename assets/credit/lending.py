"""The functions of credit: the loader of its datasets, the examples of the model, and its features."""

from pathlib import Path

import polars as pl

REQUEST_FIELDS = ("customer", "branch", "applied_at")


def rows(path: Path) -> pl.DataFrame:
    """Return the rows of a landed file."""
    return pl.read_parquet(path)


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one example per application; its label is in the outcomes."""
    return sources["credit_applications"].select(*REQUEST_FIELDS, example_id=pl.format("customer-{}", "customer"))


def account(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return a row per statement: student, balance and income of the customer, known from then on."""
    return sources["credit_statements"].rename({"stated_at": "known_at"})


def branch(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return a row per report: the share of defaults among the branch's reports of the 30 days until then."""
    reports = sources["credit_outcomes"].rename({"reported_at": "known_at"}).sort("known_at")
    rate = pl.col("default").rolling_mean_by("known_at", "30d").over("branch")
    return reports.select("branch", "known_at", default_rate=rate).unique(["branch", "known_at"])
