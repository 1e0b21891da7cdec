from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

T = TypeVar("T", bound="Degraded")


@_attrs_define
class Degraded:
    """Present when the prediction rests on less than usual; each key only if it applies.

    Attributes:
        missing (list[str] | Unset): Feature views without a fact for this row.
        stale (list[str] | Unset): Feature views with a fact that is too old to use.
        unknown (list[str] | Unset): Features with a text that did not occur in training.
        rules (list[str] | Unset): Rules of the request that the row breaks.
        fallback (bool | Unset): True if no version was healthy: this is a constant, and no prediction.
        facts_of (datetime.datetime | Unset): Time of the newest facts, if the prediction is about a much earlier time.
    """

    missing: list[str] | Unset = UNSET
    stale: list[str] | Unset = UNSET
    unknown: list[str] | Unset = UNSET
    rules: list[str] | Unset = UNSET
    fallback: bool | Unset = UNSET
    facts_of: datetime.datetime | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        missing: list[str] | Unset = UNSET
        if not isinstance(self.missing, Unset):
            missing = self.missing

        stale: list[str] | Unset = UNSET
        if not isinstance(self.stale, Unset):
            stale = self.stale

        unknown: list[str] | Unset = UNSET
        if not isinstance(self.unknown, Unset):
            unknown = self.unknown

        rules: list[str] | Unset = UNSET
        if not isinstance(self.rules, Unset):
            rules = self.rules

        fallback = self.fallback

        facts_of: str | Unset = UNSET
        if not isinstance(self.facts_of, Unset):
            facts_of = self.facts_of.isoformat()

        field_dict: dict[str, Any] = {}

        field_dict.update({})
        if missing is not UNSET:
            field_dict["missing"] = missing
        if stale is not UNSET:
            field_dict["stale"] = stale
        if unknown is not UNSET:
            field_dict["unknown"] = unknown
        if rules is not UNSET:
            field_dict["rules"] = rules
        if fallback is not UNSET:
            field_dict["fallback"] = fallback
        if facts_of is not UNSET:
            field_dict["facts_of"] = facts_of

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        missing = cast(list[str], d.pop("missing", UNSET))

        stale = cast(list[str], d.pop("stale", UNSET))

        unknown = cast(list[str], d.pop("unknown", UNSET))

        rules = cast(list[str], d.pop("rules", UNSET))

        fallback = d.pop("fallback", UNSET)

        _facts_of = d.pop("facts_of", UNSET)
        facts_of: datetime.datetime | Unset
        if isinstance(_facts_of, Unset):
            facts_of = UNSET
        else:
            facts_of = datetime.datetime.fromisoformat(_facts_of)

        degraded = cls(
            missing=missing,
            stale=stale,
            unknown=unknown,
            rules=rules,
            fallback=fallback,
            facts_of=facts_of,
        )

        return degraded
