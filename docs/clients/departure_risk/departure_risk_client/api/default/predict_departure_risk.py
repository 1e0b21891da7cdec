from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.error_response import ErrorResponse
from ...models.predict_departure_risk_reasons_method import PredictDepartureRiskReasonsMethod
from ...models.prediction_response import PredictionResponse
from ...models.request import Request
from ...types import UNSET, Response, Unset


def _get_kwargs(
    *,
    body: Request,
    reasons: int | Unset = UNSET,
    reasons_method: PredictDepartureRiskReasonsMethod | Unset = UNSET,
    x_request_id: str | Unset = UNSET,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    if not isinstance(x_request_id, Unset):
        headers["x-request-id"] = x_request_id

    params: dict[str, Any] = {}

    params["reasons"] = reasons

    json_reasons_method: str | Unset = UNSET
    if not isinstance(reasons_method, Unset):
        json_reasons_method = reasons_method.value

    params["reasons_method"] = json_reasons_method

    params = {k: v for k, v in params.items() if v is not UNSET and v is not None}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/v1/departure_risk/predict",
        "params": params,
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> ErrorResponse | PredictionResponse | None:
    if response.status_code == 200:
        response_200 = PredictionResponse.from_dict(response.json())

        return response_200

    if response.status_code == 400:
        response_400 = ErrorResponse.from_dict(response.json())

        return response_400

    if response.status_code == 401:
        response_401 = ErrorResponse.from_dict(response.json())

        return response_401

    if response.status_code == 403:
        response_403 = ErrorResponse.from_dict(response.json())

        return response_403

    if response.status_code == 404:
        response_404 = ErrorResponse.from_dict(response.json())

        return response_404

    if response.status_code == 405:
        response_405 = ErrorResponse.from_dict(response.json())

        return response_405

    if response.status_code == 408:
        response_408 = ErrorResponse.from_dict(response.json())

        return response_408

    if response.status_code == 413:
        response_413 = ErrorResponse.from_dict(response.json())

        return response_413

    if response.status_code == 415:
        response_415 = ErrorResponse.from_dict(response.json())

        return response_415

    if response.status_code == 422:
        response_422 = ErrorResponse.from_dict(response.json())

        return response_422

    if response.status_code == 429:
        response_429 = ErrorResponse.from_dict(response.json())

        return response_429

    if response.status_code == 431:
        response_431 = ErrorResponse.from_dict(response.json())

        return response_431

    if response.status_code == 500:
        response_500 = ErrorResponse.from_dict(response.json())

        return response_500

    if response.status_code == 503:
        response_503 = ErrorResponse.from_dict(response.json())

        return response_503

    if response.status_code == 504:
        response_504 = ErrorResponse.from_dict(response.json())

        return response_504

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[ErrorResponse | PredictionResponse]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient | Client,
    body: Request,
    reasons: int | Unset = UNSET,
    reasons_method: PredictDepartureRiskReasonsMethod | Unset = UNSET,
    x_request_id: str | Unset = UNSET,
) -> Response[ErrorResponse | PredictionResponse]:
    """Predict departure_risk for 1 to 1000 rows.

    Args:
        reasons (int | Unset):
        reasons_method (PredictDepartureRiskReasonsMethod | Unset):
        x_request_id (str | Unset):
        body (Request):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[ErrorResponse | PredictionResponse]
    """

    kwargs = _get_kwargs(
        body=body,
        reasons=reasons,
        reasons_method=reasons_method,
        x_request_id=x_request_id,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)


def sync(
    *,
    client: AuthenticatedClient | Client,
    body: Request,
    reasons: int | Unset = UNSET,
    reasons_method: PredictDepartureRiskReasonsMethod | Unset = UNSET,
    x_request_id: str | Unset = UNSET,
) -> ErrorResponse | PredictionResponse | None:
    """Predict departure_risk for 1 to 1000 rows.

    Args:
        reasons (int | Unset):
        reasons_method (PredictDepartureRiskReasonsMethod | Unset):
        x_request_id (str | Unset):
        body (Request):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        ErrorResponse | PredictionResponse
    """

    return sync_detailed(
        client=client,
        body=body,
        reasons=reasons,
        reasons_method=reasons_method,
        x_request_id=x_request_id,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient | Client,
    body: Request,
    reasons: int | Unset = UNSET,
    reasons_method: PredictDepartureRiskReasonsMethod | Unset = UNSET,
    x_request_id: str | Unset = UNSET,
) -> Response[ErrorResponse | PredictionResponse]:
    """Predict departure_risk for 1 to 1000 rows.

    Args:
        reasons (int | Unset):
        reasons_method (PredictDepartureRiskReasonsMethod | Unset):
        x_request_id (str | Unset):
        body (Request):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[ErrorResponse | PredictionResponse]
    """

    kwargs = _get_kwargs(
        body=body,
        reasons=reasons,
        reasons_method=reasons_method,
        x_request_id=x_request_id,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient | Client,
    body: Request,
    reasons: int | Unset = UNSET,
    reasons_method: PredictDepartureRiskReasonsMethod | Unset = UNSET,
    x_request_id: str | Unset = UNSET,
) -> ErrorResponse | PredictionResponse | None:
    """Predict departure_risk for 1 to 1000 rows.

    Args:
        reasons (int | Unset):
        reasons_method (PredictDepartureRiskReasonsMethod | Unset):
        x_request_id (str | Unset):
        body (Request):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        ErrorResponse | PredictionResponse
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
            reasons=reasons,
            reasons_method=reasons_method,
            x_request_id=x_request_id,
        )
    ).parsed
