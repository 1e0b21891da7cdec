"""The second half of a contract check, run by Great Expectations: values, keys, counts and declared expectations.

The column rules and keys of a contract become expectations too, so that its Data Docs show the whole contract.
"""

import importlib.util
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from ml_platform.data.contract import Contract, ContractReport, ContractSubject, Expectation, Violation
from ml_platform.data.durations import MICROSECONDS_PER_SECOND
from ml_platform.data.nested_columns import as_lists
from ml_platform.data.pii import MASK, shown
from ml_platform.data.schema import example_rows
from ml_platform.errors import PlatformError, did_you_mean

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.data_context.data_context.ephemeral_data_context import EphemeralDataContext


class ExpectationError(PlatformError):
    """Raised when an expectation cannot be evaluated because its name or its arguments are wrong."""


@dataclass(frozen=True)
class Period:
    """The time range of one partition: values of ``column`` lie at or after ``start`` and before ``end``."""

    column: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class _Rule:
    """One expectation, and the description that its failure message uses."""

    expectation: str
    arguments: dict[str, Any]
    severity: Literal["error", "warning"]
    column: str | None
    description: str


def known_expectations() -> list[str]:
    """Return the names of all expectations of the installed Great Expectations, without importing it (slow)."""
    spec = importlib.util.find_spec("great_expectations")
    folders = (spec.submodule_search_locations if spec else None) or []
    return sorted(file.stem for folder in folders for file in Path(folder, "expectations", "core").glob("expect_*.py"))


def check_expectations(
    frame: pl.DataFrame,
    contract: Contract,
    keys: Sequence[str],
    subject: ContractSubject,
    docs_folder: Path | None = None,
    period: Period | None = None,
) -> ContractReport:
    """Return a report with a violation for each expectation that ``frame`` breaks; its schema must have passed.

    The check evaluates: fewest rows, no nulls in columns that are not nullable, allowed values, minimum and maximum,
    unique ``keys``, event times within ``period``, and the declared expectations. They see a duration in seconds, a
    decimal as float64, and a vector, list or binary by its length. Nulls break only the rule against
    nulls. With ``docs_folder``, the Data Docs site of this check is written there. Neither the report nor the site
    shows a value of a PII column, or a statistic that is computed from one.

    Raises :class:`ExpectationError` when an expectation cannot be evaluated.
    """
    rules = _rules(contract, keys, period)
    context = _context(docs_folder)
    outcomes = _validate(context, frame, rules, contract, subject)
    if docs_folder is not None:
        from ml_platform.data.data_docs import make_self_contained

        context.build_data_docs()
        make_self_contained(docs_folder)
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
        column_argument: dict[str, Any] = {"column": rule.name}
        unit = f" {rule.unit}" if rule.unit else ""
        if not rule.nullable:
            description = f"column '{rule.name}' should have a value in every row"
            rules.append(_Rule("expect_column_values_to_not_be_null", column_argument, "error", rule.name, description))
        if rule.allowed is not None:
            description = f"column '{rule.name}' should be one of {', '.join(map(str, rule.allowed))}"
            arguments = column_argument | {"value_set": rule.allowed}
            rules.append(_Rule("expect_column_values_to_be_in_set", arguments, "error", rule.name, description))
        if rule.minimum is not None or rule.maximum is not None:
            description = (
                f"column '{rule.name}' should lie between {_bound(rule.minimum)} and {_bound(rule.maximum)}{unit}"
            )
            arguments = column_argument | {"min_value": rule.minimum, "max_value": rule.maximum}
            rules.append(_Rule("expect_column_values_to_be_between", arguments, "error", rule.name, description))
    if len(keys) == 1:
        description = f"key '{keys[0]}' should be unique"
        rules.append(_Rule("expect_column_values_to_be_unique", {"column": keys[0]}, "error", keys[0], description))
    elif keys:
        description = f"key ({', '.join(keys)}) should be unique"
        arguments = {"column_list": list(keys)}
        rules.append(_Rule("expect_compound_columns_to_be_unique", arguments, "error", keys[0], description))
    if period is not None:
        description = (
            f"column '{period.column}' should lie from {_formatted(period.start)} to before {_formatted(period.end)}"
        )
        arguments = {
            "column": period.column,
            "min_value": period.start,
            "max_value": period.end,
            "strict_max": True,
        }
        rules.append(_Rule("expect_column_values_to_be_between", arguments, "error", period.column, description))
    return rules + [_declared(expectation) for expectation in contract.expectations]


def _bound(value: float | None) -> str:
    return "anything" if value is None else f"{value:g}"


def _declared(expectation: Expectation) -> _Rule:
    arguments = expectation.arguments
    column = arguments.get("column") or arguments.get("column_A") or next(iter(arguments.get("column_list", [])), None)
    arguments_text = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return _Rule(
        expectation.expectation,
        arguments,
        expectation.severity,
        column,
        f"{expectation.expectation}({arguments_text}) should hold",
    )


def _context(docs_folder: Path | None) -> "EphemeralDataContext":
    # Great Expectations reads this variable on import: it must not send usage data.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for name, site in list((context.variables.data_docs_sites or {}).items()):
        # The default site of the context is a temporary folder that Great Expectations never removes.
        shutil.rmtree(site["store_backend"]["base_directory"], ignore_errors=True)
        context.delete_data_docs_site(name)
    if docs_folder is not None:
        from ml_platform.data.data_docs import site_config

        context.add_data_docs_site(site_name="contract", site_config=site_config(docs_folder))
    return context


def _validate(
    context: "EphemeralDataContext",
    frame: pl.DataFrame,
    rules: list[_Rule],
    contract: Contract,
    subject: ContractSubject,
) -> list[dict[str, Any]]:
    import great_expectations
    from great_expectations.core.run_identifier import RunIdentifier

    configured = [_configured(rule, index, subject) for index, rule in enumerate(rules)]
    suite = context.suites.add(great_expectations.ExpectationSuite(name=subject.dataset, expectations=configured))
    batch = (
        context.data_sources.add_pandas("staged")
        .add_dataframe_asset(subject.partition or "whole")
        .add_batch_definition_whole_dataframe("partition")
    )
    definition = great_expectations.ValidationDefinition(name=subject.dataset, data=batch, suite=suite)
    validation = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": _comparable(frame, rules).to_pandas()},
        # SUMMARY returns the positions of up to twenty failing rows; COMPLETE takes ten times as long.
        result_format="SUMMARY",
        run_id=RunIdentifier(run_name=subject.partition or "whole"),
    )
    # Great Expectations does not keep the order of the expectations.
    results = sorted(validation.results, key=_rule_index)
    for rule, result in zip(rules, results, strict=True):
        message = _exception_message(result.exception_info or {})
        if message is not None:
            # The message of a failed computation quotes the values that it could not process.
            raise _not_evaluated(rule, subject, f"{shown(message, _columns(rule), contract.pii_columns)}")
        result.result = _shown_result(result.result or {}, rule, contract)
    # The run stored its results before this function could mask them; the Data Docs show the stored ones.
    for key in context.validation_results_store.list_keys():
        context.validation_results_store.set(key, validation)
    return [{"success": bool(result.success), **(result.result or {})} for result in results]


def _comparable(frame: pl.DataFrame, rules: Sequence[_Rule]) -> pl.DataFrame:
    """Return ``frame`` with columns that pandas can compare: seconds, float64 of decimals, lengths of other values.

    A decimal among the keys becomes text, because float64 would make two of them equal.
    """
    keys = {
        name
        for rule in rules
        if rule.expectation in ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")
        for name in [rule.arguments.get("column"), *rule.arguments.get("column_list", [])]
    }
    columns = []
    for column in frame.get_columns():
        if isinstance(column.dtype, pl.Duration):
            column = column.dt.total_microseconds() / MICROSECONDS_PER_SECOND
        elif column.dtype.is_decimal():
            column = column.cast(pl.String if column.name in keys else pl.Float64)
        elif isinstance(column.dtype, (pl.Array, pl.List)):
            column = as_lists(column).list.len()
        elif column.dtype == pl.Binary:
            column = column.bin.size()
        columns.append(column)
    return pl.DataFrame(columns)


def _shown_result(result: dict[str, Any], rule: _Rule, contract: Contract) -> dict[str, Any]:
    """Return ``result``; if the rule reads a PII column, with its counts and positions only."""
    if shown(None, _columns(rule), contract.pii_columns) is None:
        return result
    counted = {name: value for name, value in result.items() if name.endswith(("_count", "_percent", "_index_list"))}
    masked = {name: MASK for name in ("observed_value",) if name in result}
    values = {name: [MASK] * len(result[name]) for name in ("partial_unexpected_list",) if result.get(name)}
    return counted | masked | values


def _columns(rule: _Rule) -> list[str]:
    """Return the texts among the arguments of ``rule`` and their words; the columns that it reads are among them."""
    texts: list[str] = []
    pending: list[Any] = list(rule.arguments.values())
    while pending:
        argument = pending.pop()
        if isinstance(argument, str):
            texts += [argument, *re.findall(r"\w+", argument)]
        elif isinstance(argument, dict):
            pending += [*argument, *argument.values()]
        elif isinstance(argument, (list, tuple, set)):
            pending += argument
    return texts


def _configured(rule: _Rule, index: int, subject: ContractSubject) -> Any:
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import get_expectation_impl

    try:
        return get_expectation_impl(rule.expectation)(**rule.arguments, meta={"rule_index": index})
    except ExpectationNotFoundError as error:
        suggestion = did_you_mean(rule.expectation, known_expectations())
        raise _not_evaluated(rule, subject, f"no such expectation.{suggestion}") from error
    except ValueError as error:  # Great Expectations' own pydantic v1 raises this for wrong arguments.
        raise _not_evaluated(rule, subject, " ".join(str(error).split())) from error


def _rule_index(result: "ExpectationValidationResult") -> int:
    assert result.expectation_config is not None
    assert result.expectation_config.meta is not None
    return int(result.expectation_config.meta["rule_index"])


def _exception_message(information: dict[str, Any]) -> str | None:
    # The information is one exception, or a dictionary of exceptions by metric.
    for each in (information, *information.values()):
        if isinstance(each, dict) and each.get("raised_exception"):
            return str(each["exception_message"])
    return None


def _not_evaluated(rule: _Rule, subject: ContractSubject, found: str) -> ExpectationError:
    return ExpectationError(
        str(subject),
        expected=f"an expectation that can be evaluated: {rule.expectation}({rule.arguments})",
        found=found.rstrip("."),
        fix=f"Fix it in {subject.line(None)}.",
    )


def _violation(
    rule: _Rule,
    outcome: dict[str, Any],
    frame: pl.DataFrame,
    contract: Contract,
    keys: Sequence[str],
    subject: ContractSubject,
) -> Violation:
    positions = outcome.get("partial_unexpected_index_list") or []
    involved = [value for value in rule.arguments.values() if isinstance(value, str)]
    columns = [*keys, *involved, *rule.arguments.get("column_list", [])]
    examples = example_rows(frame, positions, columns, contract.pii_columns)
    if "unexpected_count" in outcome:
        count = int(outcome["unexpected_count"])
        found = f"{count} of {frame.height} rows that break it"
    else:
        # A rule about the whole table has an observed value and no failing rows.
        count = 1
        found = f"{outcome.get('observed_value')}"
    first = (
        f" (first: {', '.join(f'{name} {_formatted(value)}' for name, value in examples[0].items())})"
        if examples
        else ""
    )
    return Violation(
        rule.column,
        rule.expectation,
        count,
        examples,
        f"{subject}: {rule.description}, found {found}{first}. "
        f"Fix the landed file or relax the contract in {subject.line(rule.column)}.",
        rule.severity,
    )


def _formatted(value: object) -> str:
    return value.isoformat() if isinstance(value, (date, datetime)) else repr(value)
