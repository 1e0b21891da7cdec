"""A small network in an ONNX file, run by the optional library onnxruntime, as the encoder of a fitted view."""

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.data.project_modules import module_file
from ml_platform.errors import listed
from ml_platform.features.feature import Feature
from ml_platform.features.transformers.transformer import TransformerError, chosen_columns, numeric_matrix, one_vector

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SUBJECT = "Transformer onnx"

_SETTINGS, _MODEL = "onnx.json", "model.onnx"
_NUMBERS = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_TEXT = "tensor(string)"


class OnnxEncoder:
    """The output of an ONNX model for the numbers or texts that the view reads, as one vector of 32 bits.

    ``file`` is a path from the root of the project, such as ``assets/shop/encoder.onnx``, and ``sha256`` is the digest
    of its content, which pins it: a changed file is refused. The model has one input of shape (rows, values) of float,
    double or string, and its output, by default the only one, has shape (rows, size of the declared vector).
    ``columns`` names fields and inputs, without it all count; a row with a null has a null vector.

    The model is trained elsewhere, so ``fit`` changes nothing and only tries it. It is saved with the candidate.
    """

    libraries = ("onnxruntime",)
    """Packages that a bento needs for this transformer; the manifest has their versions."""

    def __init__(
        self,
        features: Sequence[Feature],
        file: str,
        sha256: str,
        columns: Sequence[str] | None = None,
        output: str | None = None,
    ) -> None:
        """Read ``file``. Raises :class:`TransformerError` for a missing library, another file and another shape."""
        path = _path_of(file)
        if not path.is_file():
            raise TransformerError(
                f"{SUBJECT}, file {file}",
                expected="a file, by its path from the root of the project",
                found="none",
                fix="Correct 'file' in its parameters.",
            )
        content = path.read_bytes()
        _require_digest(content, sha256, file, "If the change is wanted, correct 'sha256' in its parameters.")
        self._set(features, content, columns, output)

    def fit(self, frame: pl.DataFrame, seed: int) -> None:
        """Encode the first row without a null. Raises :class:`TransformerError` where the model does not take it."""
        values = self._values(frame)
        self._encoded(values[self._is_complete(values)][:1])

    def transform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the output of the model for each row."""
        values = self._values(frame)
        complete = self._is_complete(values)
        found = np.zeros((len(values), self.size), dtype=np.float32)
        found[complete] = self._encoded(values[complete])
        vectors = pl.Series(self.name, found, dtype=pl.Array(pl.Float32, self.size))
        return pl.DataFrame([vectors if complete.all() else vectors.set(pl.Series(~complete), None)])

    def save(self, folder: Path) -> None:
        """Write the settings and the file of the model."""
        settings = {
            "name": self.name,
            "size": self.size,
            "columns": self.columns,
            "output": self.output,
            "sha256": hashlib.sha256(self._content).hexdigest(),
        }
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2))
        (folder / _MODEL).write_bytes(self._content)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the transformer in ``folder``. Raises :class:`TransformerError` for a changed file."""
        settings = json.loads((folder / _SETTINGS).read_text())
        content = (folder / _MODEL).read_bytes()
        _require_digest(content, settings["sha256"], str(folder / _MODEL), "Download the model or build it again.")
        feature = Feature(name=settings["name"], type="vector", size=settings["size"], description="Encoding.")
        loaded = cls.__new__(cls)
        loaded._set([feature], content, settings["columns"], settings["output"])
        return loaded

    def _set(
        self, features: Sequence[Feature], content: bytes, columns: Sequence[str] | None, output: str | None
    ) -> None:
        self.name, self.size = one_vector("onnx", features, "{name: code, type: vector, size: 16}")
        self.columns = None if columns is None else list(columns)
        self._content = content
        session = _session(content)
        self._input, self._type, self._width = _require_input(session)
        self.output = _require_output(session, output, self.size)
        # One row at a time: with more rows, a library may add in another order, and serving has one.
        self._run: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = lambda row: session.run(
            [self.output], {self._input: row}
        )[0]

    def _values(self, frame: pl.DataFrame) -> npt.NDArray[Any]:
        """Return the values that the model reads, shape (rows, values); a null is NaN or None."""
        seen = frame.select(chosen_columns(frame, self.columns, SUBJECT))
        if self._type == _TEXT:
            other = [name for name, dtype in seen.schema.items() if dtype not in (pl.String, pl.Null)]
            if other:
                raise _input_error("columns of text, which the model reads", f"{seen.schema[other[0]]} in '{other[0]}'")
            values: npt.NDArray[Any] = np.array(seen.rows(), dtype=object).reshape(seen.height, seen.width)
        else:
            values = numeric_matrix(seen, SUBJECT).astype(_NUMBERS[self._type])
        if self._width is not None and values.shape[1] != self._width:
            raise _input_error(f"{self._width} values in a row, which the model reads", f"{values.shape[1]}")
        return values

    def _is_complete(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        if self._type == _TEXT:
            return np.array([all(text is not None for text in row) for row in values], dtype=bool)
        return np.asarray(~np.isnan(values).any(axis=1))

    def _encoded(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        encoded = np.empty((len(values), self.size), dtype=np.float32)
        for place in range(len(values)):
            try:
                found = self._run(values[place : place + 1])
            except Exception as error:  # the library has no common type for what a model raises
                raise _input_error("rows that the model takes", _first_line(error)) from error
            if found.size != self.size:
                raise _size_error(self.output, self.size, list(found.shape))
            encoded[place] = found.reshape(-1)
        return encoded


def _path_of(file: str) -> Path:
    """Return the file at the path ``file`` from the root of the project, or at an absolute path."""
    path = Path(file)
    folder = None if path.is_absolute() else module_file(".".join(path.parent.parts))
    if folder is None:
        return path
    return (folder if folder.is_dir() else folder.parent) / path.name


def _require_digest(content: bytes, expected: str, file: str, fix: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected.lower():
        raise TransformerError(
            f"{SUBJECT}, file {file}", expected=f"content with the sha256 {expected}", found=found, fix=fix
        )


def _session(content: bytes) -> "InferenceSession":
    if find_spec("onnxruntime") is None:
        raise TransformerError(
            SUBJECT, expected="the library onnxruntime", found="not installed", fix="Run make onnx, which installs it."
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised as well
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library has no common type for what a file raises
        raise TransformerError(
            SUBJECT,
            expected="one ONNX file with all weights in it, which onnxruntime can run",
            found=_first_line(error),
            fix="Export the model again, without external data and operators of your own.",
        ) from error


def _require_input(session: "InferenceSession") -> tuple[str, str, int | None]:
    """Return name, type and width of the one input; None for a width that the model leaves open."""
    inputs = session.get_inputs()
    types = [*_NUMBERS, _TEXT]
    if len(inputs) == 1 and inputs[0].type in types and len(inputs[0].shape) == 2:
        rows, width = inputs[0].shape
        if not isinstance(rows, int) or rows == 1:
            return inputs[0].name, inputs[0].type, width if isinstance(width, int) else None
    found = listed(f"{each.name}: {each.type} {each.shape}" for each in inputs)
    raise TransformerError(
        SUBJECT,
        expected=f"a model with one input of {listed(types)}, shape (rows, values)",
        found=found or "no input",
        fix="Export it with one such input and an open number of rows.",
    )


def _require_output(session: "InferenceSession", name: str | None, size: int) -> str:
    """Return the name of the output, whose last dimension must be ``size`` where the model declares it."""
    outputs = {each.name: each for each in session.get_outputs()}
    if name is None and len(outputs) == 1:
        name = next(iter(outputs))
    if name is None or name not in outputs:
        raise TransformerError(
            SUBJECT,
            expected="the name of one output of the model",
            found=f"{name or 'none'} of {listed(outputs)}",
            fix="Name it as 'output' in its parameters.",
        )
    shape, kind = outputs[name].shape, outputs[name].type
    if kind not in _NUMBERS:
        raise TransformerError(
            SUBJECT,
            expected=f"an output of {listed(_NUMBERS)}",
            found=f"{kind} of '{name}'",
            fix="Name another output as 'output' in its parameters.",
        )
    if shape and isinstance(shape[-1], int) and shape[-1] != size:
        raise _size_error(name, size, shape)
    return name


def _size_error(output: str, size: int, shape: Sequence[Any]) -> TransformerError:
    return TransformerError(
        SUBJECT,
        expected=f"an output of {size} values for each row, the size of the declared vector",
        found=f"the shape {list(shape)} of '{output}'",
        fix="Declare the size that the model has.",
    )


def _input_error(expected: str, found: str) -> TransformerError:
    return TransformerError(
        SUBJECT, expected=expected, found=found, fix="Name the columns of the model in 'columns' of its parameters."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
