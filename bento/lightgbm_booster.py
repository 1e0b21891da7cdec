"""A LightGBM booster through the library's C interface, which scores one row in half the time of its Python package.

The package prepares every call; the interface prepares once for rows that come one at a time. It is documented at
LightGBM's C API page, and the results are equal to the last bit.
"""

import ctypes
import threading
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bento.hidden_modules import hidden_modules
from bento.scorer import Features, ModelUnreadableError, Scores

_FLOAT32, _ROW_MAJOR = 0, 1
_NORMAL, _LEAF_NUMBERS, _CONTRIBUTIONS = 0, 2, 3
_ALL_ROUNDS = -1
_ONE_THREAD = b"num_threads=1"
"""With several threads, one request in a hundred waits until they start."""


class Booster:
    """The booster in ``model_file``. Safe to share between threads."""

    def __init__(self, model_file: Path) -> None:
        """Load the booster. Raises :class:`.scorer.ModelUnreadableError` when the file is none."""
        self._library = library()
        self._handle, rounds = ctypes.c_void_p(), ctypes.c_int()
        self._require(
            self._library.LGBM_BoosterCreateFromModelfile(
                str(model_file).encode(), ctypes.byref(rounds), ctypes.byref(self._handle)
            ),
            f"Booster {model_file}",
        )
        self.features, self.outputs = ctypes.c_int(), ctypes.c_int()
        self._library.LGBM_BoosterGetNumFeature(self._handle, ctypes.byref(self.features))
        self._library.LGBM_BoosterGetNumClasses(self._handle, ctypes.byref(self.outputs))
        self.trees = ctypes.c_int()
        self._library.LGBM_BoosterNumberOfTotalModel(self._handle, ctypes.byref(self.trees))
        self._one_row = ctypes.c_void_p()
        self._require(
            self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._handle,
                _NORMAL,
                0,
                _ALL_ROUNDS,
                _FLOAT32,
                self.features,
                _ONE_THREAD,
                ctypes.byref(self._one_row),
            ),
            f"Booster {model_file}",
        )
        # The prepared call has one buffer.
        self._lock = threading.Lock()
        self._answer = np.zeros(self.outputs.value)
        self._answer_at = ctypes.c_void_p(self._answer.ctypes.data)
        self._length = ctypes.c_int64()

    def predict(self, features: Features) -> Scores:
        """Return the outputs (rows, outputs) of ``features`` (rows, features)."""
        if len(features) != 1:
            return self._predict(features, _NORMAL, self.outputs.value)
        row = self._checked(features)
        with self._lock:
            self._require(
                self._library.LGBM_BoosterPredictForMatSingleRowFast(
                    self._one_row, row.ctypes.data, ctypes.byref(self._length), self._answer_at
                )
            )
            return self._answer.copy().reshape(1, -1)

    def contributions(self, features: Features) -> Scores:
        """Return the contributions of the features and the expected value, for each output side by side."""
        return self._predict(features, _CONTRIBUTIONS, self.outputs.value * (self.features.value + 1))

    def leaf_numbers(self, features: Features) -> npt.NDArray[np.int64]:
        """Return the number of the leaf in which each row ends, shape (rows, trees)."""
        return self._predict(features, _LEAF_NUMBERS, self.trees.value).astype(np.int64)

    def _predict(self, features: Features, kind: int, width: int) -> Scores:
        rows = self._checked(features)
        found = np.zeros((len(rows), width))
        length = ctypes.c_int64()
        self._require(
            self._library.LGBM_BoosterPredictForMat(
                self._handle,
                ctypes.c_void_p(rows.ctypes.data),
                _FLOAT32,
                ctypes.c_int32(rows.shape[0]),
                ctypes.c_int32(rows.shape[1]),
                _ROW_MAJOR,
                kind,
                0,
                _ALL_ROUNDS,
                _ONE_THREAD,
                ctypes.byref(length),
                ctypes.c_void_p(found.ctypes.data),
            )
        )
        return found

    def _checked(self, features: Features) -> Features:
        if features.ndim != 2 or features.shape[1] != self.features.value:
            # The library reads beyond the end of a row that is too short.
            raise ModelUnreadableError(
                "Booster",
                expected=f"rows of {self.features.value} features",
                found=f"an array of shape {features.shape}",
                fix="Use the encoder that was fitted with the booster.",
            )
        return np.ascontiguousarray(features, dtype=np.float32)

    def _require(self, status: int, subject: str = "Booster") -> None:
        if status:
            raise ModelUnreadableError(
                subject,
                expected="a booster that LightGBM reads",
                found=self._library.LGBM_GetLastError().decode(errors="replace"),
                fix="Use the file that the trainer wrote.",
            )

    def __del__(self) -> None:
        library = getattr(self, "_library", None)
        if library is not None and self._handle:
            if getattr(self, "_one_row", None):
                library.LGBM_FastConfigFree(self._one_row)
            library.LGBM_BoosterFree(self._handle)


@cache
def library() -> ctypes.CDLL:
    """Return the library, loaded once."""
    # LightGBM imports pandas, scikit-learn and others where they are installed: seconds at every start, for no use.
    with hidden_modules(("pandas", "sklearn", "pyarrow", "dask", "matplotlib")):
        import lightgbm
    folder = Path(lightgbm.__file__).parent
    files = sorted(folder.glob("**/lib_lightgbm.*"))
    if not files:
        raise ModelUnreadableError(
            "LightGBM",
            expected=f"its library lib_lightgbm below {folder}",
            found="none",
            fix="Install the package lightgbm from its wheel.",
        )
    library = ctypes.CDLL(str(files[0]))
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    library.LGBM_BoosterPredictForMatSingleRowFast.argtypes = [ctypes.c_void_p] * 4
    return library
