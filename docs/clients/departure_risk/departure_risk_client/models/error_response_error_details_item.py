from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="ErrorResponseErrorDetailsItem")


@_attrs_define
class ErrorResponseErrorDetailsItem:
    """
    Attributes:
        path (str):
        expected (str):
        found (str):
        hint (str):
    """

    path: str
    expected: str
    found: str
    hint: str

    def to_dict(self) -> dict[str, Any]:
        path = self.path

        expected = self.expected

        found = self.found

        hint = self.hint

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "path": path,
                "expected": expected,
                "found": found,
                "hint": hint,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        path = d.pop("path")

        expected = d.pop("expected")

        found = d.pop("found")

        hint = d.pop("hint")

        error_response_error_details_item = cls(
            path=path,
            expected=expected,
            found=found,
            hint=hint,
        )

        return error_response_error_details_item
