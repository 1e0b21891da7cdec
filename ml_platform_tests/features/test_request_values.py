"""A request view of one row has the values, and the errors, that it has among many rows."""

from typing import Any

import numpy as np
import pytest

from ml_platform.features.request_values import RequestViewRunner
from ml_platform.features.view import FeatureView, ViewError

VIEW = FeatureView.model_validate(
    {
        "name": "made_up",
        "kind": "request",
        "function": f"{__name__}:values",
        "takes": "arrays",
        "code_version": "1",
        "fields": ["x", "text"],
        "features": [
            {"name": "small", "type": "int8", "description": "x"},
            {"name": "kind", "type": "category", "description": "text"},
            {"name": "rounded", "description": "x in 32 bits"},
            {"name": "exact", "type": "float64", "description": "x"},
            {"name": "flag", "type": "boolean", "description": "x is positive"},
        ],
    }
)
LEGAL = [0.0, -0.0, 1.0, -128.0, 127.0, np.nan]
WRONG = [128.0, -129.0, 0.5, -0.25, np.inf, -np.inf, 1e300]


def values(rows: Any) -> Any:
    x = rows["x"]
    return {"small": x, "kind": rows["text"], "rounded": x / 3, "exact": x / 3, "flag": x > 0}


def found(runner: RequestViewRunner, x: list[float]) -> Any:
    text = np.empty(len(x), dtype=object)
    text[:] = ["a" if number == number else None for number in x]
    return runner.of_arrays({"x": np.array(x), "text": text}, len(x))


def test_row_alone_has_the_bits_that_it_has_among_others() -> None:
    runner = RequestViewRunner(VIEW)
    together = found(runner, LEGAL)
    alone = [found(runner, [x]) for x in LEGAL]
    assert (
        np.concatenate([each.numbers for each in alone]).tobytes() == np.ascontiguousarray(together.numbers).tobytes()
    )
    assert [each.texts[1] for each in alone] == [[text] for text in together.texts[1]]
    third = float(np.float32(1 / 3))
    assert alone[2].numbers[0].tolist()[2:] == [third, 1 / 3, 1.0]


@pytest.mark.parametrize("x", WRONG)
def test_value_that_does_not_fit_is_refused_alone_and_among_others(x: float) -> None:
    runner = RequestViewRunner(VIEW)
    messages = []
    for rows in ([x], [1.0, x]):
        with pytest.raises(ViewError, match="column 'small'") as caught, np.errstate(invalid="ignore"):
            found(runner, rows)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "column", [np.array([1.0, 2.0]), np.array("2013", dtype="datetime64[Y]")[np.newaxis], np.array(["1"]), 1.0]
)
def test_column_of_another_shape_or_kind_is_refused(column: Any) -> None:
    runner = RequestViewRunner(VIEW)
    runner._function = lambda rows: {**values(rows), "exact": column}
    with pytest.raises(ViewError, match="of shape \\(1,\\) in column 'exact'"):
        found(runner, [1.0])


def test_whole_numbers_and_flags_of_other_types_are_taken() -> None:
    runner = RequestViewRunner(VIEW)
    runner._function = lambda rows: {**values(rows), "small": np.array([7], np.int64), "exact": [2.5]}
    assert found(runner, [1.0]).numbers[0].tolist()[0::3] == [7.0, 2.5]
