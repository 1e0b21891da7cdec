from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.prediction import Prediction
    from ..models.prediction_response_model import PredictionResponseModel


T = TypeVar("T", bound="PredictionResponse")


@_attrs_define
class PredictionResponse:
    """
    Attributes:
        predictions (list[Prediction]):
        model (PredictionResponseModel):
        request_id (str):
    """

    predictions: list[Prediction]
    model: PredictionResponseModel
    request_id: str

    def to_dict(self) -> dict[str, Any]:
        predictions = []
        for predictions_item_data in self.predictions:
            predictions_item = predictions_item_data.to_dict()
            predictions.append(predictions_item)

        model = self.model.to_dict()

        request_id = self.request_id

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "predictions": predictions,
                "model": model,
                "request_id": request_id,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.prediction import Prediction
        from ..models.prediction_response_model import PredictionResponseModel

        d = dict(src_dict)
        predictions = []
        _predictions = d.pop("predictions")
        for predictions_item_data in _predictions:
            predictions_item = Prediction.from_dict(predictions_item_data)

            predictions.append(predictions_item)

        model = PredictionResponseModel.from_dict(d.pop("model"))

        request_id = d.pop("request_id")

        prediction_response = cls(
            predictions=predictions,
            model=model,
            request_id=request_id,
        )

        return prediction_response
