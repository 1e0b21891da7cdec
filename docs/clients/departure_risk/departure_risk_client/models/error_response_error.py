from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.error_response_error_details_item import ErrorResponseErrorDetailsItem


T = TypeVar("T", bound="ErrorResponseError")


@_attrs_define
class ErrorResponseError:
    """
    Attributes:
        status (int):
        reason (str):
        message (str):
        details (list[ErrorResponseErrorDetailsItem]):
    """

    status: int
    reason: str
    message: str
    details: list[ErrorResponseErrorDetailsItem]

    def to_dict(self) -> dict[str, Any]:
        status = self.status

        reason = self.reason

        message = self.message

        details = []
        for details_item_data in self.details:
            details_item = details_item_data.to_dict()
            details.append(details_item)

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "status": status,
                "reason": reason,
                "message": message,
                "details": details,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.error_response_error_details_item import ErrorResponseErrorDetailsItem

        d = dict(src_dict)
        status = d.pop("status")

        reason = d.pop("reason")

        message = d.pop("message")

        details = []
        _details = d.pop("details")
        for details_item_data in _details:
            details_item = ErrorResponseErrorDetailsItem.from_dict(details_item_data)

            details.append(details_item)

        error_response_error = cls(
            status=status,
            reason=reason,
            message=message,
            details=details,
        )

        return error_response_error
