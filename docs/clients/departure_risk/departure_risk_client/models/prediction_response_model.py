from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="PredictionResponseModel")


@_attrs_define
class PredictionResponseModel:
    """
    Attributes:
        name (Literal['departure_risk']):
        version (str):
    """

    name: Literal["departure_risk"]
    version: str

    def to_dict(self) -> dict[str, Any]:
        name = self.name

        version = self.version

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "name": name,
                "version": version,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        name = cast(Literal["departure_risk"], d.pop("name"))
        if name != "departure_risk":
            raise ValueError(f"name must match const 'departure_risk', got '{name}'")

        version = d.pop("version")

        prediction_response_model = cls(
            name=name,
            version=version,
        )

        return prediction_response_model
