"""The REST form of the Open Inference Protocol, version 2: columns instead of rows, for clients of KServe and Triton.

Specification: https://github.com/kserve/open-inference-protocol, with the extension for binary tensors in requests. A
tensor has one value for each row, or one vector for each row of a field of type vector or list. Times, dates, durations
and decimals are tensors of type BYTES, with the text that the endpoint's own form has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import orjson

from ml_platform.errors import did_you_mean, listed
from ml_platform.serving.field_types import describe_value
from ml_platform.serving.request_contract import FieldError, InvalidRequestError, RequestContract, RequestField

PREFIX = "/v2"
MAX_ID_LENGTH = 128
_INTEGERS = [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
_FLOATS = ["FP64", "FP32", "FP16", *_INTEGERS]
_DATATYPES = {"int": ["INT64", *_INTEGERS], "float": _FLOATS, "vector": _FLOATS, "bool": ["BOOL"]}
_NUMPY_TYPES = {
    "BOOL": "?",
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
}
_OWN_LENGTH = ("vector", "list")
"""Types whose tensors have a second dimension."""


@dataclass(frozen=True)
class InferenceRequest:
    """A request with tensors: its ``rows`` in the endpoint's own form, and what its answer repeats or chooses."""

    rows: list[dict[str, Any]]
    id: str | None
    outputs: list[str] | None

    @property
    def body(self) -> bytes:
        """The same request in the endpoint's own form."""
        return orjson.dumps({"rows": self.rows})


def read_inference(body: bytes, contract: RequestContract, json_size: int | None = None) -> InferenceRequest:
    """Return the request ``body`` for the endpoint of ``contract``; its values are not yet checked.

    With ``json_size``, the first bytes of the body are the JSON, and binary tensors follow in the order of the inputs.
    Raises :class:`~ml_platform.serving.request_contract.InvalidRequestError` when it is no request of the protocol, or
    when a tensor is missing, unknown, of another type or of another size.
    """
    if len(body) > contract.max_bytes:
        raise InvalidRequestError(
            413, "size", [FieldError("body", f"at most {contract.max_bytes} bytes", f"{len(body)} bytes")]
        )
    content, binary = (body, b"") if json_size is None else (body[:json_size], body[json_size:])
    try:
        payload = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        found = f"{error.msg} (line {error.lineno}, column {error.colno})" if body else "an empty body"
        raise InvalidRequestError(400, "json", [FieldError("body", "JSON", found)]) from None
    if not isinstance(payload, dict) or not isinstance(payload.get("inputs"), list):
        raise _wrong("inputs", "a list of tensors", describe_value(payload))
    columns = _columns(_with_binary_data(payload["inputs"], binary), contract)
    names = list(columns)
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return InferenceRequest(rows, _request_id(payload.get("id")), _wanted(payload.get("outputs")))


def inference_answer(
    predictions: Sequence[Mapping[str, Any]], request: InferenceRequest, model: str, version: str
) -> dict[str, Any]:
    """Return the answer to ``request``: one tensor for each field of the ``predictions``.

    A field with named numbers, such as `probabilities`, is a tensor with one column for each name; the names are its
    parameter `names`. Raises :class:`~ml_platform.serving.request_contract.InvalidRequestError` for an output that the
    model does not have.
    """
    tensors = {name: _tensor(name, [one.get(name) for one in predictions]) for name in _output_names(predictions)}
    wanted = list(tensors) if request.outputs is None else request.outputs
    for place, name in enumerate(wanted):
        if name not in tensors:
            raise _wrong(
                f"outputs[{place}].name", listed(list(tensors)), describe_value(name), did_you_mean(name, list(tensors))
            )
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        answer["id"] = request.id
    return {**answer, "outputs": [tensors[name] for name in wanted]}


def model_metadata(contract: RequestContract, version: str) -> dict[str, Any]:
    """Return the protocol's description of the model: the tensors that it takes."""
    inputs = [
        {"name": field.name, "datatype": _datatypes(field)[0], "shape": [-1, *_second_dimension(field)]}
        for field in contract.fields
    ]
    outputs = [{"name": "score", "datatype": "FP64", "shape": [-1]}]
    return {
        "name": contract.model,
        "versions": [version],
        "platform": "ml_platform",
        "inputs": inputs,
        "outputs": outputs,
    }


def _with_binary_data(inputs: Sequence[Any], binary: bytes) -> list[Any]:
    """Return ``inputs`` with the values of their binary tensors as data."""
    found, start = [], 0
    for place, tensor in enumerate(inputs):
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            found.append(tensor)
            continue
        if type(size) is not int or not 0 <= size <= len(binary) - start:
            raise _wrong(f"inputs[{place}].parameters.binary_data_size", "the bytes that follow", describe_value(size))
        part = binary[start : start + size]
        start += size
        found.append({**tensor, "data": _read_binary(part, tensor.get("datatype"), f"inputs[{place}]")})
    if start != len(binary):
        raise _wrong("body", f"{start} bytes of binary tensors", f"{len(binary)}")
    return found


def _read_binary(part: bytes, datatype: Any, path: str) -> list[Any]:
    """Return the values of a binary tensor: little-endian numbers, or texts with their lengths in front."""
    if datatype in _NUMPY_TYPES:
        dtype = np.dtype(_NUMPY_TYPES[datatype])
        if len(part) % dtype.itemsize:
            raise _wrong(path, f"values of {dtype.itemsize} bytes", f"{len(part)} bytes")
        values: list[Any] = np.frombuffer(part, dtype).tolist()
        return values
    texts, start = [], 0
    while start < len(part):
        end = start + 4 + int.from_bytes(part[start : start + 4], "little")
        try:
            texts.append(part[start + 4 : end].decode())
        except UnicodeDecodeError:
            raise _wrong(path, "texts in UTF-8", "other bytes") from None
        start = end
    if start != len(part):
        raise _wrong(path, "texts with their lengths in front", "a text that is cut off")
    return texts


def _columns(inputs: Sequence[Any], contract: RequestContract) -> dict[str, list[Any]]:
    fields = {field.name: field for field in contract.fields}
    if len(inputs) > len(fields):
        raise _wrong("inputs", f"at most {len(fields)} tensors", f"{len(inputs)}")
    columns: dict[str, list[Any]] = {}
    count: int | None = None
    for place, tensor in enumerate(inputs):
        path = f"inputs[{place}]"
        if not isinstance(tensor, dict) or not isinstance(name := tensor.get("name"), str):
            raise _wrong(path, "an object with name, datatype, shape and data", describe_value(tensor))
        if name not in fields or name in columns:
            found = f"{describe_value(name)} twice" if name in columns else describe_value(name)
            raise _wrong(f"{path}.name", listed(list(fields), 20), found, did_you_mean(name[:100], list(fields)[:100]))
        columns[name] = _values(tensor, fields[name], path)
        count = len(columns[name]) if count is None else count
        if not 1 <= len(columns[name]) <= contract.max_rows:
            raise InvalidRequestError(
                413,
                "size",
                [FieldError(f"{path}.shape", f"1 to {contract.max_rows} rows", f"{len(columns[name])} rows")],
            )
        if len(columns[name]) != count:
            raise _wrong(f"{path}.shape", f"{count} rows, as in the first tensor", f"{len(columns[name])} rows")
    missing = [name for name, field in fields.items() if name not in columns and not field.optional]
    if missing:
        raise _wrong("inputs", f"a tensor {listed(missing, 20)}", "none", "Send one tensor for each field.")
    return columns


def _values(tensor: Mapping[str, Any], field: RequestField, path: str) -> list[Any]:
    """Return one value for each row."""
    shape, data, allowed = tensor.get("shape"), tensor.get("data"), _datatypes(field)
    if tensor.get("datatype") not in allowed:
        raise _wrong(f"{path}.datatype", " or ".join(allowed), describe_value(tensor.get("datatype")))
    sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(shape, list) or not sizes or not 1 <= len(shape) <= 2:
        raise _wrong(f"{path}.shape", f"[rows{', values' if field.type in _OWN_LENGTH else ''}]", _shown(shape))
    if not isinstance(data, list):
        raise _wrong(f"{path}.data", "a list", describe_value(data))
    is_nested = len(shape) == 2 and len(data) == shape[0] and all(isinstance(row, list) for row in data)
    if is_nested and any(len(row) != shape[1] for row in data):
        raise _wrong(f"{path}.data", f"rows of {shape[1]} values", "rows of other lengths")
    flat = list(chain.from_iterable(data)) if is_nested else data
    if len(flat) != prod(shape):
        raise _wrong(f"{path}.data", f"{prod(shape)} values, as the shape says", f"{len(flat)}")
    if field.type in _OWN_LENGTH:
        if len(shape) == 1:
            raise _wrong(f"{path}.shape", "[rows, values]", _shown(shape))
        width = shape[1]
        return [flat[start : start + width] for start in range(0, len(flat), width)] if width else [[]] * shape[0]
    if len(shape) == 2 and shape[1] != 1:
        raise _wrong(f"{path}.shape", "[rows] or [rows, 1]", _shown(shape))
    return flat


def _shown(shape: Any) -> str:
    return str(shape)[:100] if isinstance(shape, list) and len(shape) < 10 else describe_value(shape)


def _datatypes(field: RequestField) -> list[str]:
    if field.type == "list":
        return _DATATYPES.get(str(field.items), ["BYTES"])
    return _DATATYPES.get(field.type, ["BYTES"])


def _second_dimension(field: RequestField) -> list[int]:
    return [field.size or -1] if field.type in _OWN_LENGTH else []


def _request_id(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH):
        raise _wrong("id", f"a text of at most {MAX_ID_LENGTH} characters", describe_value(value))
    return value


def _wanted(outputs: Any) -> list[str] | None:
    if outputs is None or outputs == []:
        return None
    names = [each.get("name") if isinstance(each, dict) else None for each in outputs if isinstance(outputs, list)]
    if not names or len(names) > 20 or not all(isinstance(name, str) for name in names):
        raise _wrong("outputs", "a list of at most 20 objects with a name", describe_value(outputs))
    return [str(name) for name in names]


def _output_names(predictions: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(chain.from_iterable(predictions)))
    return [name for name in names if any(one.get(name) is not None for one in predictions)]


def _tensor(name: str, values: Sequence[Any]) -> dict[str, Any]:
    first = next(value for value in values if value is not None)
    if isinstance(first, dict) and all(isinstance(number, int | float) for number in first.values()):
        data = [number for value in values for number in (value or {}).values()]
        shape, parameters = [len(values), len(first)], {"parameters": {"names": list(first)}}
        return {"name": name, "datatype": "FP64", "shape": shape, "data": data, **parameters}
    if isinstance(first, bool | int | float):
        datatype = "BOOL" if isinstance(first, bool) else "INT64" if isinstance(first, int) else "FP64"
        return {"name": name, "datatype": datatype, "shape": [len(values)], "data": list(values)}
    texts = [value if isinstance(value, str) else orjson.dumps(value).decode() for value in values]
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": texts}


def _wrong(path: str, expected: str, found: str, hint: str = "") -> InvalidRequestError:
    return InvalidRequestError(422, "field", [FieldError(path, expected, found, hint.strip())])
