"""Rules for the values of request fields beyond their types: ranges, allowed values, and comparisons of two fields.

A row that breaks a rule is refused, or answered with a mark, as the rule declares. A null meets every rule.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ml_platform.data.settings import Settings

Comparison = Literal["<", "<=", ">", ">=", "==", "!="]

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_ORDERED_TYPES = ("int", "float", "decimal", "datetime", "date", "duration")
_SCALAR_TYPES = (*_ORDERED_TYPES, "string", "bool")


class RequestRule(Settings):
    """One condition on the rows of a request."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the rule, which a marked answer shows.")
    field: str = Field(description="Request field that the rule is about.")
    at_least: int | float | datetime | date | None = Field(default=None, description="Least value of the field.")
    at_most: int | float | datetime | date | None = Field(default=None, description="Greatest value of the field.")
    allowed: list[str | int | bool] | None = Field(default=None, description="Values that the field may have.")
    compare: Comparison | None = Field(
        default=None, description="How the field compares with `other` in a right row: <, <=, >, >=, == or !=."
    )
    other: str | None = Field(default=None, description="Request field that the field is compared with.")
    on_breach: Literal["refuse", "flag"] = Field(
        default="refuse",
        description="refuse: the request is answered with 422. flag: the row is answered, and its answer names the "
        "rule.",
    )

    @property
    def expected(self) -> str:
        """The rule in words, for an error."""
        if self.allowed is not None:
            return f"one of {', '.join(map(str, self.allowed[:20]))}{' …' if len(self.allowed) > 20 else ''}"
        if self.compare is not None:
            return f"a value {self.compare} that of '{self.other}'"
        limits = [("at least", self.at_least), ("at most", self.at_most)]
        return " and ".join(f"{words} {_text(limit)}" for words, limit in limits if limit is not None)

    def breaches(self, columns: Mapping[str, Sequence[Any]]) -> list[int]:
        """Return the rows of ``columns`` (by field; times are aware datetimes) that break the rule."""
        values = columns[self.field]
        if self.compare is not None and self.other is not None:
            holds = _COMPARISONS[self.compare]
            pairs = zip(values, columns[self.other], strict=True)
            return [
                row
                for row, (one, another) in enumerate(pairs)
                if one is not None and another is not None and not holds(one, another)
            ]
        if self.allowed is not None:
            return [row for row, value in enumerate(values) if value is not None and value not in self.allowed]
        low, high = self.at_least, self.at_most
        return [
            row
            for row, value in enumerate(values)
            if value is not None and ((low is not None and value < low) or (high is not None and value > high))
        ]

    def problem(self, types: Mapping[str, str]) -> str | None:
        """Return what is wrong with the rule for request fields of ``types`` (by name), or None."""
        for name in (self.field, *([self.other] if self.other is not None else [])):
            if name not in types:
                return f"no request field '{name}'; the fields are {', '.join(types)}"
        kind = types[self.field]
        if kind not in _SCALAR_TYPES:
            return f"'{self.field}' is a {kind}, which has no order and no allowed values"
        if self.other is not None and types[self.other] != kind:
            return f"'{self.field}' is a {kind} and '{self.other}' a {types[self.other]}; only equal types compare"
        ordered = self.at_least is not None or self.at_most is not None or self.compare in ("<", "<=", ">", ">=")
        if ordered and kind not in _ORDERED_TYPES:
            return f"'{self.field}' is a {kind}, which has no order"
        for limit in (self.at_least, self.at_most):
            if limit is not None and not _is_of_kind(limit, kind):
                return f"the limit {_text(limit)} is no value of type {kind}" + (
                    ", which needs an offset" if kind == "datetime" else ""
                )
        return None

    @model_validator(mode="after")
    def _has_one_condition(self) -> Self:
        conditions = [
            self.at_least is not None or self.at_most is not None,
            self.allowed is not None,
            self.compare is not None,
        ]
        if sum(conditions) != 1 or (self.compare is None) != (self.other is None):
            raise ValueError(f"rule '{self.name}': declare one of: at_least and at_most; allowed; compare with other")
        return self


def _is_of_kind(limit: Any, kind: str) -> bool:
    if kind == "datetime":
        return isinstance(limit, datetime) and limit.tzinfo is not None
    if kind == "date":
        return isinstance(limit, date) and not isinstance(limit, datetime)
    return isinstance(limit, int | float) and kind in ("int", "float", "decimal")


def _text(limit: Any) -> str:
    return limit.isoformat() if isinstance(limit, date) else str(limit)
