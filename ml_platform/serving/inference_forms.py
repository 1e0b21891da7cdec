"""Translates between the gRPC form and the REST form of the Open Inference Protocol.

Tensors in `raw_input_contents`, as Triton's clients send them, become binary tensors of the REST form byte by byte.
Typed contents become lists of JSON, which has the same numbers. The REST form checks everything else.
"""

import struct
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import orjson

from ml_platform.errors import PlatformError
from ml_platform.serving.inference_messages import message

JSON_SIZE_HEADER = "inference-header-content-length"
"""Header with the size of the JSON before binary tensors."""

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Field of the contents by datatype; FP16 has none."""

_FORMATS = {"BOOL": "?", "INT64": "q", "FP64": "d"}
"""Datatypes of answers, besides BYTES, as formats of ``struct``."""


class InvalidMessageError(PlatformError):
    """Raised for a message that no request of the REST form corresponds to."""


def rest_request(request: Any) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers by which the REST form asks what the `ModelInferRequest` asks.

    Raises :class:`InvalidMessageError` when the contents of a tensor are not where they belong.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidMessageError(
            "raw_input_contents",
            expected=f"one for each of {len(request.inputs)} tensors, or none",
            found=f"{len(raw)}",
            fix="Send the contents of all tensors in one way.",
        )
    inputs = [_tensor(tensor, raw[place] if raw else None, place) for place, tensor in enumerate(request.inputs)]
    payload: dict[str, Any] = {"inputs": inputs}
    if request.id:
        payload["id"] = request.id
    if request.outputs:
        payload["outputs"] = [{"name": output.name} for output in request.outputs]
    content = orjson.dumps(payload)
    if not raw:
        return content, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", JSON_SIZE_HEADER: str(len(content))}
    return b"".join([content, *raw]), headers


def infer_response(answer: Mapping[str, Any], *, raw: bool) -> Any:
    """Return the `ModelInferResponse` with the ``answer`` of the REST form, its contents in raw or in typed form.

    A null among numbers is NaN. Parameters that are no texts are texts of JSON.
    """
    response = message("ModelInferResponse")(
        model_name=answer["model_name"], model_version=answer["model_version"], id=answer.get("id", "")
    )
    for output in answer["outputs"]:
        datatype = output["datatype"]
        tensor = response.outputs.add(name=output["name"], datatype=datatype, shape=output["shape"])
        for name, value in output.get("parameters", {}).items():
            tensor.parameters[name].string_param = value if isinstance(value, str) else orjson.dumps(value).decode()
        if raw:
            response.raw_output_contents.append(_packed(datatype, output["data"]))
        else:
            getattr(tensor.contents, _CONTENTS[datatype]).extend(_values(datatype, output["data"]))
    return response


def metadata_response(answer: Mapping[str, Any]) -> Any:
    """Return the `ModelMetadataResponse` with the ``answer`` of the REST form."""
    return message("ModelMetadataResponse")(**answer)


def _tensor(tensor: Any, raw: bytes | None, place: int) -> dict[str, Any]:
    found = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    expected = _CONTENTS.get(tensor.datatype, "raw_input_contents") if raw is None else "raw_input_contents"
    if any(name != expected for name in filled):
        raise InvalidMessageError(
            f"inputs[{place}].contents",
            expected=f"{tensor.datatype[:20] or 'no datatype'} in {expected}",
            found=" and ".join(filled),
            fix="Send the values where their datatype belongs.",
        )
    if raw is not None:
        return {**found, "parameters": {"binary_data_size": len(raw)}}
    return {**found, "data": _listed(tensor.contents, filled, place)}


def _listed(contents: Any, filled: Sequence[str], place: int) -> list[Any]:
    values = list(getattr(contents, filled[0])) if filled else []
    if filled != ["bytes_contents"]:
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise InvalidMessageError(
            f"inputs[{place}].contents",
            expected="texts in UTF-8",
            found="other bytes",
            fix="Send the texts in UTF-8.",
        ) from None


def _values(datatype: str, data: Sequence[Any]) -> list[Any]:
    if datatype == "BYTES":
        return [text.encode() for text in data]
    return [nan if value is None else value for value in data]


def _packed(datatype: str, data: Sequence[Any]) -> bytes:
    """Return little-endian numbers, or texts with their lengths in front."""
    values = _values(datatype, data)
    if datatype != "BYTES":
        return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
    return b"".join(part for text in values for part in (len(text).to_bytes(4, "little"), text))
