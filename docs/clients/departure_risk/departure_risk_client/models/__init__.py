"""Contains all the data models used in inputs/outputs"""

from .degraded import Degraded
from .error_response import ErrorResponse
from .error_response_error import ErrorResponseError
from .error_response_error_details_item import ErrorResponseErrorDetailsItem
from .predict_departure_risk_reasons_method import PredictDepartureRiskReasonsMethod
from .prediction import Prediction
from .prediction_reasons_method import PredictionReasonsMethod
from .prediction_response import PredictionResponse
from .prediction_response_model import PredictionResponseModel
from .reason import Reason
from .request import Request
from .row import Row
from .row_origin import RowOrigin

__all__ = (
    "Degraded",
    "ErrorResponse",
    "ErrorResponseError",
    "ErrorResponseErrorDetailsItem",
    "PredictDepartureRiskReasonsMethod",
    "Prediction",
    "PredictionReasonsMethod",
    "PredictionResponse",
    "PredictionResponseModel",
    "Reason",
    "Request",
    "Row",
    "RowOrigin",
)
