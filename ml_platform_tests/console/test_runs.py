"""Running a selection from the terminal: what is heard, and what a failure says."""

import dagster as dg
import pytest

from ml_platform.console.runs import RunFailedError, StepEvent, execute


def _definitions() -> dg.Definitions:
    @dg.asset
    def good() -> None: ...

    @dg.asset
    def bad() -> None:
        raise dg.Failure("Dataset 'x': expected rows, found none.")

    return dg.Definitions(assets=[good, bad])


def test_each_step_is_heard_when_it_starts_and_ends() -> None:
    heard: list[StepEvent] = []
    with dg.DagsterInstance.ephemeral() as instance:
        report = execute(_definitions(), instance, [dg.AssetKey("good")], listener=heard.append)

    assert [(each.asset, each.kind) for each in heard] == [("good", "start"), ("good", "success")]
    assert [step.asset for step in report.steps] == ["good"]


def test_failed_run_names_the_asset_and_repeats_the_cause() -> None:
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(RunFailedError, match=r"failure in 'bad'.*Dataset 'x': expected rows, found none"),
    ):
        execute(_definitions(), instance, [dg.AssetKey("bad")])
