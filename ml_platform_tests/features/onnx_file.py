"""Writes small ONNX files, from the field numbers of `onnx.proto`, so that the tests need no library that exports."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FLOAT, STRING = 1, 8


def layer(weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], *, rows: int | None = None) -> bytes:
    """Return a model of one layer, tanh(x @ weight + bias), with the input `x` and the output `code`.

    ``rows`` is the fixed number of rows; None leaves it open.
    """
    nodes = [_node("Gemm", ["x", "weight", "bias"], "sum"), _node("Tanh", ["sum"], "code")]
    constants = [_tensor("weight", weight), _tensor("bias", bias)]
    width, size = weight.shape
    return _model(nodes, constants, [_value("x", FLOAT, [rows, width])], [_value("code", FLOAT, [rows, size])])


def positions(texts: Sequence[str]) -> bytes:
    """Return a model of text: the position of the input `x` in ``texts``, and -1 for another text."""
    keys = b"".join(_bytes(9, text.encode()) for text in texts)
    values = _bytes(7, np.arange(len(texts), dtype="<f4").tobytes())
    node = _node("LabelEncoder", ["x"], "code", domain="ai.onnx.ml")
    node += _bytes(5, _bytes(1, b"keys_strings") + keys + _number(20, 8))
    node += _bytes(5, _bytes(1, b"values_floats") + values + _number(20, 6))
    node += _bytes(5, _bytes(1, b"default_float") + bytes([2 << 3 | 5]) + np.float32(-1).tobytes() + _number(20, 1))
    return _model([node], [], [_value("x", STRING, [None, 1])], [_value("code", FLOAT, [None, 1])])


def two_inputs() -> bytes:
    """Return a model that adds two inputs."""
    inputs = [_value(name, FLOAT, [None, 2]) for name in ("x", "y")]
    return _model([_node("Add", ["x", "y"], "code")], [], inputs, [_value("code", FLOAT, [None, 2])])


def _model(nodes: list[bytes], constants: list[bytes], inputs: list[bytes], outputs: list[bytes]) -> bytes:
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, b"encoder")
    for number, parts in ((5, constants), (11, inputs), (12, outputs)):
        graph += b"".join(_bytes(number, part) for part in parts)
    versions = _bytes(8, _number(2, 17)) + _bytes(8, _bytes(1, b"ai.onnx.ml") + _number(2, 3))
    return _number(1, 8) + _bytes(7, graph) + versions


def _node(kind: str, inputs: list[str], output: str, domain: str = "") -> bytes:
    return (
        b"".join(_bytes(1, name.encode()) for name in inputs)
        + _bytes(2, output.encode())
        + _bytes(4, kind.encode())
        + _bytes(7, domain.encode())
    )


def _tensor(name: str, values: npt.NDArray[np.float32]) -> bytes:
    dims = b"".join(_number(1, size) for size in values.shape)
    return dims + _number(2, FLOAT) + _bytes(8, name.encode()) + _bytes(9, values.astype("<f4").tobytes())


def _value(name: str, kind: int, shape: Sequence[int | None]) -> bytes:
    sizes = [_bytes(1, _bytes(2, b"rows") if size is None else _number(1, size)) for size in shape]
    tensor = _number(1, kind) + _bytes(2, b"".join(sizes))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
