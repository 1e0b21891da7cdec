"""Compares the contract of a new version with that of the version that serves: what an app that works today would lose.

A request that the old version answers must be answered by the new one, and an app that reads an answer of the old
version must be able to read one of the new.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pydantic import ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, listed
from ml_platform.serving.request_contract import RequestContract, RequestField
from ml_platform.serving.request_rules import RequestRule
from ml_platform.tasks.task import Task

WIDER_TYPES = {("int", "float")}
"""Pairs of an old and a new type: each value of the old one is a value of the new one."""

IMPLIED_COMPARISONS = {"<": ("<", "<=", "!="), ">": (">", ">=", "!="), "==": ("==", "<=", ">=")}
"""Comparisons that hold whenever the one of the key does; any other implies itself only."""

MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}


class IncompatibleContractError(PlatformError):
    """Raised when a version would refuse requests, or give answers, that the version that serves does not.

    ``changes`` are all of them; the message names the first.
    """

    def __init__(self, subject: str, changes: Sequence["ContractChange"]) -> None:
        first = changes[0]
        others = f" Further changes: {listed([each.place for each in changes[1:]])}." if changes[1:] else ""
        super().__init__(
            f"{subject}, {first.place}", expected=first.expected, found=first.found, fix=first.fix + others
        )
        self.changes = list(changes)


class ContractSettings(Settings):
    """Which changes of the contract are intended although apps break."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow_breaking: dict[str, str] = Field(
        default_factory=dict,
        description="Places of the contract whose incompatible change is intended, each with the reason, which is "
        "recorded: the name of a request field, or a place that the check names, such as prediction_time.",
    )


@dataclass(frozen=True)
class ContractChange:
    """One incompatible change: its place (a request field, or a part of the contract), and what an app relies on."""

    place: str
    expected: str
    found: str

    @property
    def text(self) -> str:
        """The change in one sentence, with the fix."""
        return f"{self.place}: expected {self.expected}, found {self.found}. {self.fix}"

    @property
    def fix(self) -> str:
        return (
            "Keep the contract compatible, or let the apps change first and declare "
            f'contract: {{allow_breaking: {{{self.place}: "<reason>"}}}}.'
        )


def contract_changes(
    old: RequestContract, new: RequestContract, old_task: Task, new_task: Task
) -> list[ContractChange]:
    """Return the incompatible changes from ``old`` to ``new``, those of requests first; empty when apps notice nothing.

    The tasks are those of the fitted models; their classes and levels are part of an answer. Names of the model and
    texts such as descriptions do not count.
    """
    return [
        *_field_changes(old, new),
        *_rule_changes(old, new),
        *_limit_changes(old, new),
        *_answer_changes(old_task, new_task),
    ]


def unintended(changes: Sequence[ContractChange], settings: ContractSettings) -> list[ContractChange]:
    """Return the ``changes`` that ``settings`` do not declare as intended."""
    return [each for each in changes if each.place not in settings.allow_breaking]


def _field_changes(old: RequestContract, new: RequestContract) -> Iterator[ContractChange]:
    before, after = _by_name(old), _by_name(new)
    for name in (each for each in before if each not in after):
        yield ContractChange(name, "the field, which apps send", "no such field: a request with it is refused")
    for name, field in after.items():
        if name not in before and not field.optional:
            yield ContractChange(name, "no such field, or an optional one", "a new field that every request needs")
    for name in (each for each in before if each in after):
        yield from _type_changes(before[name], after[name])


def _type_changes(old: RequestField, new: RequestField) -> Iterator[ContractChange]:
    found = (
        (_shape(old) == _shape(new) or _is_wider(old, new), _shape_text(old), _shape_text(new)),
        (new.nullable or not old.nullable, "a field that may be null", "one that may not"),
        (new.optional or not old.optional, "a field that may be left out", "one that every request needs"),
        (
            not _has_text(old) or not _has_text(new) or new.max_length >= old.max_length,
            f"texts of up to {old.max_length} characters",
            f"texts of up to {new.max_length}",
        ),
        (
            (new.max_bytes or 0) >= (old.max_bytes or 0) or old.type != new.type,
            f"values of up to {old.max_bytes} bytes",
            f"values of up to {new.max_bytes}",
        ),
    )
    yield from (ContractChange(old.name, before, after) for compatible, before, after in found if not compatible)


def _rule_changes(old: RequestContract, new: RequestContract) -> Iterator[ContractChange]:
    refused_before = _refusals(old)
    types = {field.name: _shape(field) for field in new.fields}
    for name, field in _by_name(old).items():
        # Values of another type do not compare; the change of the type is reported already.
        if name not in types or (types[name] != _shape(field) and (field.type, types[name][0]) not in WIDER_TYPES):
            continue
        before = [rule for rule in refused_before if rule.field == name]
        for rule in _refusals(new):
            if rule.field == name and not _was_met(rule, before, refused_before):
                expected = " and ".join(each.expected for each in before) or "any value of the type"
                yield ContractChange(name, expected, f"{rule.expected} (rule '{rule.name}')")


def _limit_changes(old: RequestContract, new: RequestContract) -> Iterator[ContractChange]:
    if new.prediction_time != old.prediction_time:
        yield ContractChange("prediction_time", _time_text(old), _time_text(new))
    for place in ("max_rows", "max_bytes"):
        before, after = getattr(old, place), getattr(new, place)
        if after < before:
            yield ContractChange(place, f"at least {before}", str(after))
    if new.on_past == "refuse" and old.on_past != "refuse":
        yield ContractChange("on_past", "flag: earlier times are answered", "refuse")
    elif new.on_past == "refuse" and new.max_past_minutes < old.max_past_minutes:
        yield ContractChange("max_past_minutes", f"at least {old.max_past_minutes}", str(new.max_past_minutes))


def _answer_changes(old: Task, new: Task) -> Iterator[ContractChange]:
    if new.name != old.name:
        yield ContractChange("task", f"answers of a {old.name} model", f"those of a {new.name} model")
        return
    removed = [name for name in old.output_names if name not in new.output_names]
    if removed:
        yield ContractChange(
            "answer", f"{listed(old.output_names, 20)}, which apps may read", f"no more {listed(removed, 20)}"
        )


def _by_name(contract: RequestContract) -> dict[str, RequestField]:
    return {field.name: field for field in contract.fields}


def _refusals(contract: RequestContract) -> list[RequestRule]:
    return [rule for rule in contract.rules if rule.on_breach == "refuse"]


def _shape(field: RequestField) -> tuple[Any, ...]:
    return field.type, field.scale, field.size, field.items


def _shape_text(field: RequestField) -> str:
    shape = [
        f"{name} {value}" for name, value in zip(("scale", "size", "items"), _shape(field)[1:], strict=True) if value
    ]
    return f"type {field.type}{f' ({shape[0]})' if shape else ''}"


def _is_wider(old: RequestField, new: RequestField) -> bool:
    if old.type == new.type == "decimal":
        return (new.scale or 0) >= (old.scale or 0)
    if old.type == new.type == "list":
        return (old.items, new.items) in WIDER_TYPES
    return (old.type, new.type) in WIDER_TYPES


def _has_text(field: RequestField) -> bool:
    return "string" in (field.type, field.items)


def _was_met(rule: RequestRule, before: Sequence[RequestRule], others: Sequence[RequestRule]) -> bool:
    """Return whether each value that the rules ``before`` of the same field let pass meets ``rule`` too.

    ``others`` are all rules that refused before; those of another field may compare it with this one.
    """
    if rule.compare is not None:
        pairs = chain.from_iterable(_comparisons(each) for each in others)
        return (rule.field, rule.compare, rule.other) in pairs
    allowed = [each.allowed for each in before if each.allowed is not None]
    if allowed:
        values = [value for value in allowed[0] if all(value in each for each in allowed)]
        return not rule.breaches({rule.field: values})
    if rule.allowed is not None:
        return False
    lows = [each.at_least for each in before if each.at_least is not None]
    highs = [each.at_most for each in before if each.at_most is not None]
    low: Any = max(lows, default=None)
    high: Any = min(highs, default=None)
    low_met = rule.at_least is None or (low is not None and low >= rule.at_least)
    high_met = rule.at_most is None or (high is not None and high <= rule.at_most)
    return low_met and high_met


def _comparisons(rule: RequestRule) -> Iterator[tuple[str, str, str | None]]:
    """Yield the comparisons, as field, operator and other field, that hold whenever ``rule`` does."""
    if rule.compare is None or rule.other is None:
        return
    for implied in IMPLIED_COMPARISONS.get(rule.compare, (rule.compare,)):
        yield rule.field, implied, rule.other
        yield rule.other, MIRRORED[implied], rule.field


def _time_text(contract: RequestContract) -> str:
    rule = contract.prediction_time
    return "the time of the request" if rule is None else f"{rule.minutes_before} minutes before '{rule.field}'"
