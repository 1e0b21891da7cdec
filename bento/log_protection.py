"""Hides values that identify a person before they reach the prediction log, as the contract of the model declares.

The thread of the log does it, so no request waits. A hashed feature is logged as text, whatever its type; a dropped one
as null, and a dropped request field not at all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.data.pseudonyms import PseudonymKey
from ml_platform.features.served_features import BlockColumns, ServedFeatures
from ml_platform.serving.request_contract import LogTreatment, RequestContract


class UnhashableValueError(ValueError):
    """Raised in place of an error whose text could show a hidden value."""


class LogProtection:
    """The hidden fields and features of ``contract``; ``key`` is needed only if one of them is hashed."""

    def __init__(self, contract: RequestContract | None = None, key: PseudonymKey | None = None) -> None:
        fields = {} if contract is None else {field.name: field for field in contract.fields}
        self._key = key
        self._fields = {} if contract is None else {name: fields[name] for name in contract.pii_fields}
        self.features: Mapping[str, LogTreatment] = {} if contract is None else contract.pii_features

    @staticmethod
    def needs_key(contract: RequestContract) -> bool:
        """Return whether the log stores a pseudonym of a field or feature."""
        return "hash" in (*contract.pii_fields.values(), *contract.pii_features.values())

    def requests(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return ``rows`` as the log stores them."""
        if not self._fields:
            return rows
        hidden: dict[str, list[str | None]] = {}
        for name, field in self._fields.items():
            if field.pii == "hash":
                read = field.rules.read([row[name] for row in rows], field.nullable)
                if read is None:
                    raise UnhashableValueError(f"field '{name}' has a value of another type than declared")
                hidden[name] = self._pseudonyms(name, read)
        return [
            {name: value for name, value in row.items() if name not in self._fields}
            | {name: column[at] for name, column in hidden.items()}
            for at, row in enumerate(rows)
        ]

    def kinds(self, kinds: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the features with their kinds in the log."""
        return [(name, "text" if self.features.get(name) == "hash" else kind) for name, kind in kinds]

    def hide(
        self,
        columns: BlockColumns,
        served: Sequence[ServedFeatures],
        numbers: npt.NDArray[np.float64],
        texts: dict[int, list[str | None]],
    ) -> None:
        """Replace the hidden features in ``numbers`` (rows × features) and ``texts`` (by position of the feature)."""
        for position, name in enumerate(columns.feature_names):
            treatment = self.features.get(name)
            if treatment is None:
                continue
            if treatment == "hash":
                column = pl.concat([each.column(name) for each in served])
                assert self._key is not None
                texts[position] = self._key.of_feature(column).to_list()
            elif position in texts:
                texts[position] = [None] * len(numbers)
            numbers[:, position] = np.nan

    def _pseudonyms(self, name: str, values: Sequence[Any]) -> list[str | None]:
        assert self._key is not None
        return self._key.pseudonyms(name, values)


UNPROTECTED = LogProtection()
"""For a contract without hidden fields."""
