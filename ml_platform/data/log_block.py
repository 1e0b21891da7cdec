"""The lines of a prediction log: a layout, then blocks of predictions, compressed column by column.

A service writes blocks, and the platform reads them back as one record for each prediction. Names of features stand in
the layout, the first line of a file; a block has the numbers of its rows as float64, whose bytes are ordered by their
significance, because equal bytes that lie together compress well. After Collet and Alted (Blosc, 2010), byte shuffle.
"""

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ml_platform.data.instants import instant_of

FORMAT = 1
BLOCK_START, LAYOUT_START = b'{"block":', b'{"layout":'

_LEVEL = 1
"""Level of compression: the highest speed. A higher level gains a tenth."""


class BlockError(ValueError):
    """Raised when a line is no block, or does not fit the layout of its file."""


@dataclass(frozen=True)
class Layout:
    """Writer, model and version of all blocks of a file, the stored views, and the features by kind.

    A kind is float, int, bool, instant or text. All but text are kept as float64: an instant in microseconds since
    1970, NaN for null.
    """

    writer: str
    model: str
    version: str
    views: Sequence[str]
    features: Sequence[tuple[str, str]]
    format: int = FORMAT

    def to_line(self) -> bytes:
        """Return the first line of a file, with its newline."""
        return orjson.dumps({"layout": asdict(self)}, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_line(cls, line: bytes) -> "Layout":
        """Return the layout of a first line. Raises :class:`BlockError` when it is none, or of another format."""
        try:
            found = orjson.loads(line)["layout"]
            features = [(str(name), str(kind)) for name, kind in found.pop("features")]
            layout = cls(features=features, **found)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BlockError(f"expected the layout of a log file, found {line[:60]!r}") from error
        if layout.format != FORMAT:
            raise BlockError(f"expected the format {FORMAT}, found {layout.format}: written by a newer release")
        return layout


@dataclass(frozen=True)
class Block:
    """n predictions of r requests, which were read with the same ``watermarks``.

    ``ids``, ``request_ids``, ``roles``, ``answered_at`` (microseconds), ``row_counts``, ``clients``, ``latencies_ms``
    and ``trace_ids`` (empty: none) are by request, ``weight`` is that of each request, and the others are by row.
    ``numbers`` (n × features) has NaN for text, whose values are in ``texts`` by position of the feature.
    """

    ids: Sequence[str]
    request_ids: Sequence[str]
    roles: Sequence[str]
    answered_at: Sequence[int]
    row_counts: Sequence[int]
    watermarks: Mapping[str, datetime]
    requests: Sequence[Mapping[str, Any]]
    scores: Sequence[float]
    labels: Sequence[Any]
    details: Sequence[Mapping[str, Any] | None]
    predict_at: npt.NDArray[Any]
    as_of: npt.NDArray[Any]
    ages: npt.NDArray[Any]
    numbers: npt.NDArray[np.float64]
    texts: Mapping[int, Sequence[str | None]]
    clients: Sequence[str | None]
    latencies_ms: Sequence[float | None]
    trace_ids: Sequence[str | None] = ()
    weight: float = 1.0


_ARRAYS = ("predict_at", "as_of", "ages", "numbers")


def pack_block(block: Block) -> bytes:
    """Return the line of ``block``, with its newline."""
    rows = len(block.scores)
    head = {name: value for name, value in vars(block).items() if name not in _ARRAYS}
    head["texts"] = {str(place): texts for place, texts in block.texts.items()}
    if block.weight == 1:
        del head["weight"]
    if not any(block.details):
        head["details"] = None
    if not any(block.trace_ids):
        del head["trace_ids"]
    matrix = np.column_stack(
        [block.predict_at, block.as_of, block.ages.astype(np.float32), block.numbers],
    ).astype(np.float64, copy=False)
    ordered = np.ascontiguousarray(matrix.T).view(np.uint8).reshape(-1, 8).T
    payload = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n" + ordered.tobytes()
    data = base64.b64encode(zlib.compress(payload, _LEVEL))
    return BLOCK_START + b'{"rows":%d,"data":"%b"}}\n' % (rows, data)


def unpack_block(line: bytes, layout: Layout) -> list[dict[str, Any]]:
    """Return one record for each prediction of the block in ``line``.

    Raises :class:`BlockError` when the line is damaged, or has another number of columns than ``layout``.
    """
    try:
        payload = zlib.decompress(base64.b64decode(orjson.loads(line)["block"]["data"], validate=True))
        head_text, _, numbers = payload.partition(b"\n")
        head = orjson.loads(head_text)
        rows = len(head["scores"])
        matrix = np.frombuffer(numbers, np.uint8).reshape(8, -1).T.copy().view(np.float64).reshape(-1, rows).T
        return _records(head, matrix, layout)
    except (orjson.JSONDecodeError, binascii.Error, zlib.error, KeyError, TypeError, ValueError, IndexError) as error:
        raise BlockError(f"expected a block of predictions, found a damaged one: {error}") from error


def _records(head: Mapping[str, Any], matrix: npt.NDArray[np.float64], layout: Layout) -> list[dict[str, Any]]:
    views, features = len(layout.views), len(layout.features)
    if matrix.shape[1] != 2 + views + features:
        raise BlockError(f"expected {2 + views + features} columns as in the layout, found {matrix.shape[1]}")
    ages = _plain(matrix[:, 2 : 2 + views], ["float"] * views, {})
    kinds = [kind for _, kind in layout.features]
    texts = {int(place): values for place, values in head["texts"].items()}
    values = _plain(matrix[:, 2 + views :], kinds, texts)
    names = [name for name, _ in layout.features]
    details = head["details"] or [None] * len(matrix)
    weight = {"weight": head["weight"]} if "weight" in head else {}
    unknown = [None] * len(head["row_counts"])  # in blocks of earlier releases
    clients, latencies_ms = head.get("clients", unknown), head.get("latencies_ms", unknown)
    trace_ids = head.get("trace_ids", unknown)
    records = []
    position = 0
    for request, count in enumerate(head["row_counts"]):
        for row in range(count):
            label = head["labels"][position]
            extra = details[position]
            records.append(
                {
                    "prediction_id": head["ids"][request][:-6] + f"{row:06x}",
                    "request_id": head["request_ids"][request],
                    "model": layout.model,
                    "version": layout.version,
                    "role": head["roles"][request],
                    "logged_at": instant_of(head["answered_at"][request]),
                    "watermarks": head["watermarks"],
                    "row": row,
                    "predict_at": instant_of(matrix[position, 0]),
                    "as_of": instant_of(matrix[position, 1]),
                    "ages": dict(zip(layout.views, ages[position], strict=True)),
                    "request": head["requests"][position],
                    "features": dict(zip(names, values[position], strict=True)),
                    "client": clients[request],
                    "latency_ms": latencies_ms[request],
                    "trace_id": trace_ids[request],
                    "score": head["scores"][position],
                    "label": label if extra is None else None,
                    **weight,
                    **({} if extra is None else {"details": {"label": label, **extra}}),
                }
            )
            position += 1
    return records


def _plain(
    numbers: npt.NDArray[np.float64], kinds: Sequence[str], texts: Mapping[int, Sequence[str | None]]
) -> list[list[Any]]:
    rows: list[list[Any]] = [[None if value != value else value for value in row] for row in numbers.tolist()]
    for place, kind in enumerate(kinds):
        if kind == "float":
            continue
        for position, row in enumerate(rows):
            value = row[place]
            if kind == "text":
                row[place] = texts[place][position]
            elif value is not None:
                row[place] = instant_of(value) if kind == "instant" else bool(value) if kind == "bool" else int(value)
    return rows
