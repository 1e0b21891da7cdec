"""Makes the OpenAPI document of a model's endpoint from its request contract and its task."""

from typing import Any

from ml_platform.serving.field_types import YEARS, base64_length
from ml_platform.serving.nested_fields import MAX_LIST_ITEMS
from ml_platform.serving.request_contract import (
    MAX_REASONS,
    MAX_ROWS_WITH_REASONS,
    REASON_METHODS,
    RequestContract,
    RequestField,
)
from ml_platform.tasks.binary import BinaryTask
from ml_platform.tasks.task import Task

JSON_SCHEMA_TYPES: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "int": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "double"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "duration": {"type": ["number", "string"], "format": "duration"},
    "decimal": {"type": ["string", "number"], "format": "decimal"},
}

NDJSON = "application/x-ndjson"
"""Media type of requests and answers with one row in each line."""

MAX_REQUEST_ID_LENGTH = 200
"""Maximum number of characters of a client's request id; the access log of the gateway cuts longer ones."""

ERROR_RESPONSES = {
    "400": "The body is not JSON, or the header x-request-id is no id.",
    "401": "The gateway asks for keys, and the request has no valid one.",
    "403": "The gateway forbids the request, or the key is for other models.",
    "404": "There is no such path, or no such model.",
    "405": "The path takes another method, which the header allow names.",
    "408": "The body did not arrive in time.",
    "413": "Too many rows or bytes.",
    "415": f"The body is compressed, or its content type is neither application/json nor {NDJSON}.",
    "422": "A field or parameter is missing, unknown, wrong or against a rule; `details` names the path of each.",
    "429": "Too many requests at once, or the client is at a limit; Retry-After says when to try again.",
    "431": "The headers are too large.",
    "500": "The service failed; its log has the cause under the request id.",
    "503": "The service cannot answer now, for example because a feature view was never published.",
    "504": "The model did not answer in time.",
}
"""Description of each error response, by status."""

_DEPRECATION_HEADERS = {
    "deprecation": {
        "description": "Time from which apps should use another endpoint: @ and Unix seconds (RFC 9745).",
        "schema": {"type": "string", "pattern": "^@[0-9]+$"},
    },
    "sunset": {
        "description": "Time at which the endpoint may end (RFC 8594); absent if it is not decided.",
        "schema": {"type": "string"},
    },
}


def openapi_document(contract: RequestContract, version: str, task: Task | None = None) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the endpoint of ``contract``, served by ``version`` of the model.

    ``task`` is that of the model and describes the answers; without one, it is the binary task.
    """
    task = task or BinaryTask()
    error_responses = {
        status: {"description": text, "content": _json_content({"$ref": "#/components/schemas/ErrorResponse"})}
        for status, text in ERROR_RESPONSES.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": contract.model, "version": version},
        # The gateway may ask for no key, so a request without one may be right, too.
        "security": [{}, {"apiKey": []}, {"bearer": []}],
        "paths": {
            contract.path: {
                "post": {
                    "operationId": f"predict_{contract.model}",
                    **({"deprecated": True} if contract.deprecated else {}),
                    "summary": f"Predict {contract.model} for 1 to {contract.max_rows} rows.",
                    "parameters": [
                        {
                            "name": "x-request-id",
                            "in": "header",
                            "required": False,
                            "description": (
                                "Id under which the request is logged; it need not be unique. Without one, the service "
                                "makes one."
                            ),
                            "schema": {
                                "type": "string",
                                "minLength": 1,
                                "maxLength": MAX_REQUEST_ID_LENGTH,
                                "pattern": "^[!-~]+$",
                            },
                        },
                        {
                            "name": "reasons",
                            "in": "query",
                            "required": False,
                            "description": (
                                "Number of reasons to return for each prediction; none when absent. With reasons, a "
                                f"request can have at most {MAX_ROWS_WITH_REASONS} rows."
                            ),
                            "schema": {"type": "integer", "minimum": 1, "maximum": MAX_REASONS},
                        },
                        {
                            "name": "reasons_method",
                            "in": "query",
                            "required": False,
                            "description": (
                                "Preferred method of the reasons: full for the model's own (TreeSHAP for trees), path "
                                "for the decision paths of its trees, which takes less time. When absent: full, or "
                                "path if full takes more than 3 ms a row."
                            ),
                            "schema": {"enum": list(REASON_METHODS)},
                        },
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {
                            **_json_content({"$ref": "#/components/schemas/Request"}),
                            NDJSON: {
                                "schema": {
                                    "type": "string",
                                    "description": "A Row in each line, for many rows: up to 256 MiB.",
                                }
                            },
                        },
                    },
                    "responses": {
                        "200": {
                            "description": "One prediction per row, in the order of the rows.",
                            "headers": {
                                "x-request-id": {
                                    "description": "Id of the request, as sent or as replaced.",
                                    "schema": {"type": "string", "maxLength": MAX_REQUEST_ID_LENGTH},
                                },
                                "x-prediction-id": {
                                    "description": (
                                        "Id of the prediction of the first row, unique for each response. The last "
                                        "six hexadecimal digits are the row: 000001 in place of 000000 gives the id "
                                        "of the second row."
                                    ),
                                    "schema": {"type": "string", "format": "uuid"},
                                },
                                **(_DEPRECATION_HEADERS if contract.deprecated else {}),
                            },
                            "content": {
                                **_json_content({"$ref": "#/components/schemas/PredictionResponse"}),
                                NDJSON: {
                                    "schema": {
                                        "type": "string",
                                        "description": (
                                            "For a request of lines: for each line a Prediction with its "
                                            "`prediction_id`, or an `error` with the number of the `line`."
                                        ),
                                    }
                                },
                            },
                        },
                        **error_responses,
                    },
                }
            }
        },
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {
                "Row": _row_schema(contract),
                "Request": _object_schema(
                    {
                        "rows": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": contract.max_rows,
                            "items": {"$ref": "#/components/schemas/Row"},
                        }
                    }
                ),
                "Prediction": _object_schema(
                    {
                        "score": {"type": "number", "description": task.score_text},
                        "label": task.answer_schema,
                        **task.details,
                    },
                    optional={
                        "reasons": {
                            "type": "array",
                            "maxItems": MAX_REASONS,
                            "description": "Features that moved the score most, strongest first; only on request.",
                            "items": {"$ref": "#/components/schemas/Reason"},
                        },
                        "reasons_method": {"enum": list(REASON_METHODS), "description": "Method of the reasons."},
                        "degraded": {"$ref": "#/components/schemas/Degraded"},
                    },
                ),
                "Degraded": {
                    "type": "object",
                    "description": "Present when the prediction rests on less than usual; each key only if it applies.",
                    "properties": {
                        "missing": _names("Feature views without a fact for this row."),
                        "stale": _names("Feature views with a fact that is too old to use."),
                        "unknown": _names("Features with a text that did not occur in training."),
                        "rules": _names("Rules of the request that the row breaks."),
                        "fallback": {
                            "type": "boolean",
                            "description": "True if no version was healthy: this is a constant, and no prediction.",
                        },
                        "facts_of": {
                            "type": "string",
                            "format": "date-time",
                            "description": "Time of the newest facts, if the prediction is about a much earlier time.",
                        },
                    },
                    "minProperties": 1,
                    "additionalProperties": False,
                },
                "Reason": _object_schema(
                    {
                        "feature": {"type": "string", "description": "Name of the feature: <view>__<column>."},
                        "value": {
                            "type": ["number", "string", "boolean", "null"],
                            "description": "Value as read; null: no fact was known, or none recent enough.",
                        },
                        "contribution": {
                            "type": "number",
                            "description": (
                                "Amount by which it raised the score: log-odds before calibration, or units of the "
                                "label for a task that predicts a number."
                            ),
                        },
                    }
                ),
                "PredictionResponse": _object_schema(
                    {
                        "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
                        "model": _object_schema({"name": {"const": contract.model}, "version": {"type": "string"}}),
                        "request_id": {"type": "string"},
                    }
                ),
                "ErrorResponse": _object_schema(
                    {
                        "error": _object_schema(
                            {
                                "status": {"type": "integer"},
                                "reason": {"type": "string"},
                                "message": {"type": "string"},
                                "details": {
                                    "type": "array",
                                    "items": _object_schema(
                                        {name: {"type": "string"} for name in ("path", "expected", "found", "hint")}
                                    ),
                                },
                            }
                        ),
                        "request_id": {"type": "string"},
                    }
                ),
            },
        },
    }


def _row_schema(contract: RequestContract) -> dict[str, Any]:
    schemas = {field.name: _field_schema(field) for field in contract.fields}
    comparisons = []
    for rule in contract.rules:
        if rule.on_breach != "refuse":
            continue
        schema = schemas[rule.field]
        if rule.allowed is not None:
            schema["enum"] = [*rule.allowed, *([None] if "null" in schema["type"] else [])]
        elif rule.compare is not None:
            comparisons.append(f"`{rule.field}` {rule.compare} `{rule.other}`")
        elif schema["type"] == "string" or "string" in schema["type"]:
            schema["description"] = f"{schema.get('description', '')} ({rule.expected})".strip()
        else:
            limits = {"minimum": rule.at_least, "maximum": rule.at_most}
            schema |= {name: limit for name, limit in limits.items() if limit is not None}
    optional = {field.name: schemas.pop(field.name) for field in contract.fields if field.optional}
    row = _object_schema(schemas, optional)
    return row | ({"description": f"A row has {' and '.join(comparisons)}."} if comparisons else {})


def _names(description: str) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": {"type": "string"}, "description": description}


def _field_schema(field: RequestField) -> dict[str, Any]:
    schema = _type_schema(field)
    if field.nullable:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*types, "null"]
    if field.description:
        bounds = f" {schema['description']}" if "description" in schema else ""
        schema["description"] = field.description.rstrip(".") + "." + bounds if bounds else field.description
    if field.examples:
        schema["examples"] = field.examples
    if field.deprecated:
        schema["deprecated"] = True
    return schema


def _type_schema(field: RequestField) -> dict[str, Any]:
    if field.type == "vector":
        return {"type": "array", "items": {"type": "number"}, "minItems": field.size, "maxItems": field.size}
    if field.max_bytes is not None:
        return {"type": "string", "contentEncoding": "base64", "maxLength": base64_length(field.max_bytes)}
    if field.items is not None:
        return {"type": "array", "items": _scalar_schema(field, field.items), "maxItems": MAX_LIST_ITEMS}
    return _scalar_schema(field, field.type)


def _scalar_schema(field: RequestField, kind: str) -> dict[str, Any]:
    schema = dict(JSON_SCHEMA_TYPES[kind])
    if kind == "string":
        schema["maxLength"] = field.max_length
    if kind in ("date", "datetime"):
        schema["description"] = f"In the years {YEARS[0]} to {YEARS[-1]}."
    return schema


def _object_schema(properties: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties | (optional or {}),
        "additionalProperties": False,
    }


def _json_content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
