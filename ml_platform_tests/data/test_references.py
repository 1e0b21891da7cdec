"""Functions by name: found, or refused with what is there instead."""

import math

import pytest

from ml_platform.data.references import FunctionNotFoundError, load_function


def test_a_reference_leads_to_the_function_itself() -> None:
    assert load_function("math:sqrt") is math.sqrt


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("math.sqrt", "expected the form 'package.module:function'"),
        (":sqrt", "found no module"),
        ("maths:sqrt", "expected a module 'maths', found no module 'maths'"),
        ("ml_platform.dataa.partitions:shift_month", "found no module 'ml_platform.dataa'"),
        ("ml_platform.data.partitions.months:shift", "found no module 'ml_platform.data.partitions.months'"),
        ("ml_platform.data.partitions:shift_months", r"a function 'shift_months'.*Did you mean 'shift_month'\?"),
        ("math:pi", "found a float"),
    ],
)
def test_what_leads_nowhere_is_refused(reference: str, message: str) -> None:
    with pytest.raises(FunctionNotFoundError, match=message):
        load_function(reference)
