from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="Reason")


@_attrs_define
class Reason:
    """
    Attributes:
        feature (str): Name of the feature: <view>__<column>.
        value (bool | float | None | str): Value as read; null: no fact was known, or none recent enough.
        contribution (float): Amount by which it raised the score: log-odds before calibration, or units of the label
            for a task that predicts a number.
    """

    feature: str
    value: bool | float | str | None
    contribution: float

    def to_dict(self) -> dict[str, Any]:
        feature = self.feature

        value: bool | float | str | None
        value = self.value

        contribution = self.contribution

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "feature": feature,
                "value": value,
                "contribution": contribution,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        feature = d.pop("feature")

        def _parse_value(data: object) -> bool | float | str | None:
            if data is None:
                return data
            return cast(bool | float | None | str, data)

        value = _parse_value(d.pop("value"))

        contribution = d.pop("contribution")

        reason = cls(
            feature=feature,
            value=value,
            contribution=contribution,
        )

        return reason
