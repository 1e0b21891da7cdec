"""Execution of a selection: the events for the listener, and the message of a failed run."""

from collections.abc import Iterator

import dagster as dg
import pytest
from rich.console import Console

from ml_platform.console.progress import live_progress
from ml_platform.console.runs import RunFailedError, StepEvent, execute


def _definitions() -> dg.Definitions:
    @dg.asset
    def good() -> None: ...

    @dg.asset
    def bad() -> None:
        raise dg.Failure("Dataset 'x': expected rows, found none.")

    return dg.Definitions(assets=[good, bad])


def test_listener_gets_an_event_when_a_step_starts_and_ends() -> None:
    events: list[StepEvent] = []
    with dg.DagsterInstance.ephemeral() as instance:
        report = execute(_definitions(), instance, [dg.AssetKey("good")], listener=events.append)

    assert [(each.asset, each.kind) for each in events] == [("good", "start"), ("good", "success")]
    assert [step.asset for step in report.steps] == ["good"]


def test_lines_that_a_step_logs_reach_the_listener_and_a_terminal_of_plain_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @dg.asset
    def slow(context: dg.AssetExecutionContext) -> None:
        context.log.debug("detail")
        context.log.info("Round [10], loss 0.5.")

    events: list[StepEvent] = []
    with dg.DagsterInstance.ephemeral() as instance, live_progress(Console(width=120)) as shown:

        def listener(event: StepEvent) -> None:
            events.append(event)
            shown(event)

        execute(dg.Definitions(assets=[slow]), instance, [dg.AssetKey("slow")], listener=listener)

    assert [(each.kind, each.message) for each in events] == [
        ("start", ""),
        ("log", "Round [10], loss 0.5."),
        ("success", ""),
    ]
    assert "slow: Round [10], loss 0.5." in capsys.readouterr().out


def test_error_of_a_failed_run_names_the_asset_and_its_cause() -> None:
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(RunFailedError, match=r"failure in 'bad'.*Dataset 'x': expected rows, found none"),
    ):
        execute(_definitions(), instance, [dg.AssetKey("bad")])


def test_step_that_makes_nothing_is_skipped_and_its_warning_is_reported() -> None:
    @dg.asset(output_required=False, check_specs=[dg.AssetCheckSpec("approved", asset="waiting")])
    def waiting() -> Iterator[dg.AssetCheckResult]:
        yield dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="HOLD: few labels.")

    @dg.asset(deps=[waiting])
    def after() -> None: ...

    events: list[StepEvent] = []
    with dg.DagsterInstance.ephemeral() as instance:
        keys = [dg.AssetKey("waiting"), dg.AssetKey("after")]
        report = execute(dg.Definitions([waiting, after]), instance, keys, listener=events.append)

    assert [(each.asset, each.kind) for each in events] == [("waiting", "start"), ("waiting", "skipped")]
    assert report.steps == []
    assert report.warnings == ["waiting, approved: HOLD: few labels."]
