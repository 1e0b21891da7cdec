"""Loading a function by name returns it, or an error that offers the closest name."""

import math

import pytest

from ml_platform.data.references import FunctionNotFoundError, load_function


def test_reference_loads_the_function() -> None:
    assert load_function("math:sqrt") is math.sqrt


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("math.sqrt", "expected the form 'package.module:function'"),
        (":sqrt", "found no module"),
        ("maths:sqrt", "expected a module 'maths', found no module 'maths'"),
        ("ml_platform.dataa.partitions:file_stem", "found no module 'ml_platform.dataa'"),
        ("ml_platform.data.partitions.months:shift", "found no module 'ml_platform.data.partitions.months'"),
        ("ml_platform.data.partitions:file_stems", r"a function 'file_stems'.*Did you mean 'file_stem'\?"),
        ("math:pi", "found a float"),
    ],
)
def test_reference_without_a_function_is_rejected(reference: str, message: str) -> None:
    with pytest.raises(FunctionNotFoundError, match=message):
        load_function(reference)
