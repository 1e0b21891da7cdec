"""The second half of a contract, run by Great Expectations: values, keys, counts, and what the team expects besides.

The column rules and keys of a contract are translated into expectations, so that its Data Docs show the whole of it.
"""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from ml_platform.data.contract import Contract, ContractReport, Expectation, Subject, Violation
from ml_platform.data.schema import example_rows
from ml_platform.errors import PlatformError, did_you_mean

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.data_context import EphemeralDataContext


class ExpectationError(PlatformError):
    """Raised when an expectation cannot be evaluated: its name or its arguments are wrong."""


@dataclass(frozen=True)
class Period:
    """The time of one partition: ``column`` lies at or after ``start`` and before ``end``."""

    column: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class _Rule:
    """One expectation, and the words in which its failure is told."""

    expectation: str
    arguments: dict[str, Any]
    severity: Literal["error", "warning"]
    column: str | None
    words: str


def known_expectations() -> list[str]:
    """Return the names of all expectations that come with Great Expectations, without importing it."""
    spec = importlib.util.find_spec("great_expectations")
    places = (spec.submodule_search_locations if spec else None) or []
    return sorted(file.stem for place in places for file in Path(place, "expectations", "core").glob("expect_*.py"))


def check_expectations(
    frame: pl.DataFrame,
    contract: Contract,
    keys: Sequence[str],
    subject: Subject,
    docs_folder: Path | None = None,
    period: Period | None = None,
) -> ContractReport:
    """Return which expectations ``frame``, which has passed its schema, does not meet.

    Asked are: fewest rows, no nulls where none are allowed, allowed values, minimum and maximum, unique ``keys``, event
    times within ``period``, and the expectations of the contract. Nulls break no rule but the one against nulls. With
    ``docs_folder`` the Data Docs site of this check is written there. Raises :class:`ExpectationError` when one of them
    cannot be evaluated.
    """
    rules = _rules(contract, keys, period)
    context = _context(docs_folder)
    outcomes = _validate(context, frame, rules, subject)
    if docs_folder is not None:
        from ml_platform.data.data_docs import stand_alone

        context.build_data_docs()
        stand_alone(docs_folder)
    violations = [
        _violation(rule, outcome, frame, contract, keys, subject)
        for rule, outcome in zip(rules, outcomes, strict=True)
        if not outcome["success"]
    ]
    return ContractReport(subject, "expectations", frame.height, len(rules), tuple(violations))


def _rules(contract: Contract, keys: Sequence[str], period: Period | None) -> list[_Rule]:
    rules = [
        _Rule(
            "expect_table_row_count_to_be_between",
            {"min_value": contract.minimum_rows},
            "error",
            None,
            f"the table should have at least {contract.minimum_rows} rows",
        )
    ]
    for rule in contract.columns:
        one: dict[str, Any] = {"column": rule.name}
        unit = f" {rule.unit}" if rule.unit else ""
        if not rule.nullable:
            words = f"column '{rule.name}' should have a value in every row"
            rules.append(_Rule("expect_column_values_to_not_be_null", one, "error", rule.name, words))
        if rule.allowed is not None:
            words = f"column '{rule.name}' should be one of {', '.join(map(str, rule.allowed))}"
            arguments = one | {"value_set": rule.allowed}
            rules.append(_Rule("expect_column_values_to_be_in_set", arguments, "error", rule.name, words))
        if rule.minimum is not None or rule.maximum is not None:
            words = f"column '{rule.name}' should lie between {_bound(rule.minimum)} and {_bound(rule.maximum)}{unit}"
            arguments = one | {"min_value": rule.minimum, "max_value": rule.maximum}
            rules.append(_Rule("expect_column_values_to_be_between", arguments, "error", rule.name, words))
    if len(keys) == 1:
        words = f"key '{keys[0]}' should be unique"
        rules.append(_Rule("expect_column_values_to_be_unique", {"column": keys[0]}, "error", keys[0], words))
    elif keys:
        words = f"key ({', '.join(keys)}) should be unique"
        arguments = {"column_list": list(keys)}
        rules.append(_Rule("expect_compound_columns_to_be_unique", arguments, "error", keys[0], words))
    if period is not None:
        words = f"column '{period.column}' should lie from {_told(period.start)} to before {_told(period.end)}"
        arguments = {
            "column": period.column,
            "min_value": period.start,
            "max_value": period.end,
            "strict_max": True,
        }
        rules.append(_Rule("expect_column_values_to_be_between", arguments, "error", period.column, words))
    return rules + [_declared(expectation) for expectation in contract.expectations]


def _bound(value: float | None) -> str:
    return "anything" if value is None else f"{value:g}"


def _declared(expectation: Expectation) -> _Rule:
    arguments = expectation.arguments
    column = arguments.get("column") or arguments.get("column_A") or next(iter(arguments.get("column_list", [])), None)
    told = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return _Rule(
        expectation.expectation,
        arguments,
        expectation.severity,
        column,
        f"{expectation.expectation}({told}) should hold",
    )


def _context(docs_folder: Path | None) -> "EphemeralDataContext":
    # Read when Great Expectations is imported: nothing leaves the machine.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for name, site in list((context.variables.data_docs_sites or {}).items()):
        # The site that comes with the context is a temporary folder, which nobody else would remove.
        shutil.rmtree(site["store_backend"]["base_directory"], ignore_errors=True)
        context.delete_data_docs_site(name)
    if docs_folder is not None:
        from ml_platform.data.data_docs import site_settings

        context.add_data_docs_site(site_name="contract", site_config=site_settings(docs_folder))
    return context


def _validate(
    context: "EphemeralDataContext", frame: pl.DataFrame, rules: list[_Rule], subject: Subject
) -> list[dict[str, Any]]:
    import great_expectations
    from great_expectations.core.run_identifier import RunIdentifier

    configured = [_configured(rule, place, subject) for place, rule in enumerate(rules)]
    suite = context.suites.add(great_expectations.ExpectationSuite(name=subject.dataset, expectations=configured))
    batch = (
        context.data_sources.add_pandas("staged")
        .add_dataframe_asset(subject.partition or "whole")
        .add_batch_definition_whole_dataframe("partition")
    )
    definition = great_expectations.ValidationDefinition(name=subject.dataset, data=batch, suite=suite)
    validation = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame.to_pandas()},
        # SUMMARY gives the positions of up to twenty failing rows; COMPLETE takes ten times as long.
        result_format="SUMMARY",
        run_id=RunIdentifier(run_name=subject.partition or "whole"),
    )
    # Results come back in an order of their own.
    results = sorted(validation.results, key=_place)
    for rule, result in zip(rules, results, strict=True):
        message = _exception_message(result.exception_info or {})
        if message is not None:
            raise _not_evaluated(rule, subject, message)
    return [{"success": bool(result.success), **(result.result or {})} for result in results]


def _configured(rule: _Rule, place: int, subject: Subject) -> Any:
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import get_expectation_impl

    try:
        return get_expectation_impl(rule.expectation)(**rule.arguments, meta={"place": place})
    except ExpectationNotFoundError as error:
        near = did_you_mean(rule.expectation, known_expectations())
        raise _not_evaluated(rule, subject, f"no such expectation.{near}") from error
    except ValueError as error:  # what the old pydantic inside Great Expectations raises for wrong arguments
        raise _not_evaluated(rule, subject, " ".join(str(error).split())) from error


def _place(result: "ExpectationValidationResult") -> int:
    assert result.expectation_config is not None
    assert result.expectation_config.meta is not None
    return int(result.expectation_config.meta["place"])


def _exception_message(information: dict[str, Any]) -> str | None:
    # One exception, or one per metric, by the name of the metric.
    for each in (information, *information.values()):
        if isinstance(each, dict) and each.get("raised_exception"):
            return str(each["exception_message"])
    return None


def _not_evaluated(rule: _Rule, subject: Subject, found: str) -> ExpectationError:
    return ExpectationError(
        str(subject),
        expected=f"an expectation that can be evaluated: {rule.expectation}({rule.arguments})",
        found=found.rstrip("."),
        mend=f"Mend it in {subject.line(None)}.",
    )


def _violation(
    rule: _Rule, outcome: dict[str, Any], frame: pl.DataFrame, contract: Contract, keys: Sequence[str], subject: Subject
) -> Violation:
    positions = outcome.get("partial_unexpected_index_list") or []
    involved = [value for value in rule.arguments.values() if isinstance(value, str)]
    columns = [*keys, *involved, *rule.arguments.get("column_list", [])]
    examples = example_rows(frame, positions, columns, contract.pii_columns)
    if "unexpected_count" in outcome:
        count = int(outcome["unexpected_count"])
        found = f"{count} of {frame.height} rows that break it"
    else:
        # A rule about the table as a whole has no failing rows, only a number.
        count = 1
        found = f"{outcome.get('observed_value')}"
    first = (
        f" (first: {', '.join(f'{name} {_told(value)}' for name, value in examples[0].items())})" if examples else ""
    )
    return Violation(
        rule.column,
        rule.expectation,
        count,
        examples,
        f"{subject}: {rule.words}, found {found}{first}. "
        f"Mend the landed file or relax the contract in {subject.line(rule.column)}.",
        rule.severity,
    )


def _told(value: object) -> str:
    return value.isoformat() if isinstance(value, (date, datetime)) else repr(value)
