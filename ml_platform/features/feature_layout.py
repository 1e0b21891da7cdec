"""Positions of a set's features in its two inputs: lookups in the online store, and columns of request views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from ml_platform.features.encoder import Encoder
from ml_platform.features.online_store import LookupColumns
from ml_platform.features.view import FeatureView

MAX_PLANS = 16
"""Encoders whose plans a layout keeps; a service has one per model version that it serves."""


@dataclass(frozen=True)
class LookupPlan:
    """Source of each feature of an encoder: a column of a lookup, an age, or a column of a request view.

    The three arrays describe numbers: feature ``positions[i]`` is column ``columns[i]`` of the lookup, from stored view
    ``views[i]``. ``texts``: (feature position, lookup column, view position, name). ``ages``: (feature position, view
    position). ``request_columns``: (feature position, request column, name).
    """

    positions: np.ndarray
    columns: np.ndarray
    views: np.ndarray
    texts: list[tuple[int, int, int, str]]
    ages: list[tuple[int, int]]
    request_columns: list[tuple[int, int, str]]


class FeatureLayout:
    """Positions of features in the online reads of a feature set, computed once and used by all requests."""

    def __init__(
        self,
        stored_views: Sequence[FeatureView],
        request_dtypes: Mapping[str, pl.DataType],
        feature_names: Sequence[str],
    ) -> None:
        """Lay out ``feature_names``; ``request_dtypes`` has the columns of all request views, in the order of runs."""
        self.stored_views = stored_views
        self.request_dtypes = request_dtypes
        self.request_columns = list(request_dtypes)
        self.feature_names = list(feature_names)
        self._plans: dict[int, tuple[Encoder, LookupPlan]] = {}

    @cached_property
    def stored_columns(self) -> LookupColumns:
        """Positions of the features of stored views in a lookup of :attr:`stored_views`."""
        return self.lookup_columns(self.feature_names)

    def lookup_columns(self, names: Sequence[str]) -> LookupColumns:
        """Return the positions in a lookup of :attr:`stored_views` for ``names``, without columns of request views."""
        return LookupColumns.of(self.stored_views, [name for name in names if name not in self.request_dtypes])

    @cached_property
    def feature_positions(self) -> list[int]:
        """Position of each feature in a row of :attr:`request_columns` followed by :attr:`stored_columns`."""
        columns = [*self.request_columns, *self.stored_columns.dtypes]
        positions = {name: position for position, name in enumerate(columns)}
        return [positions[name] for name in self.feature_names]

    def lookup_plan(self, encoder: Encoder) -> LookupPlan:
        """Return the source of each feature of ``encoder``, computed once for each of the last :data:`MAX_PLANS`."""
        cached = self._plans.get(id(encoder))
        if cached is None or cached[0] is not encoder:
            cached = encoder, self._make_plan(encoder)
            # Other threads read the dictionary meanwhile, so it is replaced and never changed.
            kept = [each for each in self._plans.values() if each[0] is not encoder]
            self._plans = {id(each[0]): each for each in [*kept[-(MAX_PLANS - 1) :], cached]}
        return cached[1]

    def _make_plan(self, encoder: Encoder) -> LookupPlan:
        stored: dict[str, tuple[int, int, pl.DataType]] = {}
        for view_position, view in enumerate(self.stored_views):
            for name, dtype in view.dtypes.items():
                stored[view.column(name)] = (len(stored), view_position, dtype)
        view_of_age = {view.age_column: position for position, view in enumerate(self.stored_views)}
        numbers, texts, ages, requested = [], [], [], []
        for position, name in enumerate(encoder.feature_names):
            if name in view_of_age:
                ages.append((position, view_of_age[name]))
            elif name not in stored:
                encoder.require_kind(name, self.request_dtypes[name])
                requested.append((position, self.request_columns.index(name), name))
            elif stored[name][2] == pl.String:
                texts.append((position, *stored[name][:2], name))
            else:
                numbers.append((position, *stored[name][:2]))
        table = np.array(numbers, dtype=np.int64).reshape(-1, 3)
        return LookupPlan(table[:, 0], table[:, 1], table[:, 2], texts, ages, requested)
