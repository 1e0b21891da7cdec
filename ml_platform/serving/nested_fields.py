"""Request fields with several values: vectors of a fixed size and lists of scalars, with the place of a wrong one."""

from collections.abc import Callable
from typing import Any

import polars as pl

from ml_platform.serving.field_types import Problem, TypeRules, describe_value

MAX_VECTOR_SIZE = 4_096
"""Largest number of components of a vector in a request."""

MAX_LIST_ITEMS = 10_000
"""Largest number of items of a list in a request."""

FLOAT32_MAX = 3.4028234663852886e38
"""Largest number of 32 bits."""


def vector_rules(size: int) -> TypeRules:
    """Return the rules of a vector of ``size`` finite numbers of 32 bits."""
    return TypeRules(
        pl.Array(pl.Float32, size), f"a list of {size} finite numbers", _read_vectors(size), _vector_problem(size)
    )


def list_rules(item: TypeRules) -> TypeRules:
    """Return the rules of a list of values with the rules ``item``; none of them is null."""
    return TypeRules(
        pl.List(item.dtype),
        f"a list of at most {MAX_LIST_ITEMS} items, each {item.expected}",
        _read_lists(item),
        _list_problem(item),
    )


def _read_vectors(size: int) -> Callable[[list[Any], bool], list[Any] | None]:
    def read(values: list[Any], nullable: bool) -> list[Any] | None:
        found: list[Any] = []
        for value in values:
            if value is None and nullable:
                found.append(None)
                continue
            if type(value) is not list or len(value) != size or not set(map(type, value)) <= {int, float}:
                return None
            # Every comparison with NaN is false.
            if not all(-FLOAT32_MAX <= each <= FLOAT32_MAX for each in value):
                return None
            # Polars takes no mixture of whole numbers and fractions in one list.
            found.append(list(map(float, value)))
        return found

    return read


def _vector_problem(size: int) -> Callable[[Any], Problem | None]:
    def find(value: Any) -> Problem | None:
        if type(value) is not list or len(value) != size:
            return Problem(describe_value(value))
        for place, each in enumerate(value):
            if type(each) not in (int, float) or not -FLOAT32_MAX <= each <= FLOAT32_MAX:
                return Problem(describe_value(each), f"[{place}]", "a finite number of 32 bits")
        return None

    return find


def _read_lists(item: TypeRules) -> Callable[[list[Any], bool], list[Any] | None]:
    def read(values: list[Any], nullable: bool) -> list[Any] | None:
        found: list[Any] = []
        for value in values:
            if value is None and nullable:
                found.append(None)
                continue
            if type(value) is not list or len(value) > MAX_LIST_ITEMS:
                return None
            # The type of an empty list is right.
            items = item.read(value, False) if value else []
            if items is None:
                return None
            found.append(list(map(float, items)) if item.dtype.is_float() else items)
        return found

    return read


def _list_problem(item: TypeRules) -> Callable[[Any], Problem | None]:
    def find(value: Any) -> Problem | None:
        if type(value) is not list or len(value) > MAX_LIST_ITEMS:
            return Problem(describe_value(value))
        for place, each in enumerate(value):
            problem = item.problem(each, False)
            if problem is not None:
                return Problem(problem.found, f"[{place}]", item.expected)
        return None

    return find
