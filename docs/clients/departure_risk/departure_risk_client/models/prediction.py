from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

from ..models.prediction_reasons_method import PredictionReasonsMethod
from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.degraded import Degraded
    from ..models.reason import Reason


T = TypeVar("T", bound="Prediction")


@_attrs_define
class Prediction:
    """
    Attributes:
        score (float): Probability of label 1.
        label (bool | None): Whether the score reaches the model's threshold; null for a task that answers a number.
        reasons (list[Reason] | Unset): Features that moved the score most, strongest first; only on request.
        reasons_method (PredictionReasonsMethod | Unset): Method of the reasons.
        degraded (Degraded | Unset): Present when the prediction rests on less than usual; each key only if it applies.
    """

    score: float
    label: bool | None
    reasons: list[Reason] | Unset = UNSET
    reasons_method: PredictionReasonsMethod | Unset = UNSET
    degraded: Degraded | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        score = self.score

        label: bool | None
        label = self.label

        reasons: list[dict[str, Any]] | Unset = UNSET
        if not isinstance(self.reasons, Unset):
            reasons = []
            for reasons_item_data in self.reasons:
                reasons_item = reasons_item_data.to_dict()
                reasons.append(reasons_item)

        reasons_method: str | Unset = UNSET
        if not isinstance(self.reasons_method, Unset):
            reasons_method = self.reasons_method.value

        degraded: dict[str, Any] | Unset = UNSET
        if not isinstance(self.degraded, Unset):
            degraded = self.degraded.to_dict()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "score": score,
                "label": label,
            }
        )
        if reasons is not UNSET:
            field_dict["reasons"] = reasons
        if reasons_method is not UNSET:
            field_dict["reasons_method"] = reasons_method
        if degraded is not UNSET:
            field_dict["degraded"] = degraded

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.degraded import Degraded
        from ..models.reason import Reason

        d = dict(src_dict)
        score = d.pop("score")

        def _parse_label(data: object) -> bool | None:
            if data is None:
                return data
            return cast(bool | None, data)

        label = _parse_label(d.pop("label"))

        _reasons = d.pop("reasons", UNSET)
        reasons: list[Reason] | Unset = UNSET
        if _reasons is not UNSET:
            reasons = []
            for reasons_item_data in _reasons:
                reasons_item = Reason.from_dict(reasons_item_data)

                reasons.append(reasons_item)

        _reasons_method = d.pop("reasons_method", UNSET)
        reasons_method: PredictionReasonsMethod | Unset
        if isinstance(_reasons_method, Unset):
            reasons_method = UNSET
        else:
            reasons_method = PredictionReasonsMethod(_reasons_method)

        _degraded = d.pop("degraded", UNSET)
        degraded: Degraded | Unset
        if isinstance(_degraded, Unset):
            degraded = UNSET
        else:
            degraded = Degraded.from_dict(_degraded)

        prediction = cls(
            score=score,
            label=label,
            reasons=reasons,
            reasons_method=reasons_method,
            degraded=degraded,
        )

        return prediction
