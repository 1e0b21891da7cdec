"""The training set of a model without time, and its key, which stands where other models have a partition.

The table is replaced as a whole. Its key is the beginning of the digest of its rows, so equal rows have one key, and a
candidate, its verdict and its card name the rows that they come from.
"""

from datetime import UTC, datetime

import polars as pl

from ml_platform.data.lake import Lake, LakeError, TableVersion
from ml_platform.steps.model import BoundModel
from ml_platform.training.training_set import EXAMPLE_ID

KEY_LENGTH = 12


def training_set_key(model: BoundModel, lake: Lake) -> str:
    """Return the key of the rows that the training set of ``model`` has now.

    Raises :class:`~ml_platform.data.lake.LakeError` before the first training set.
    """
    digest = lake.digests(model.table).get(None) if lake.exists(model.table) else None
    if digest is None:
        raise LakeError(
            f"Model '{model.name}'",
            expected="a training set",
            found="none",
            fix=f"Materialize {model.name}/training_set first.",
        )
    return key_of(digest)


def key_of(digest: str) -> str:
    """Return the key of a training set whose rows have ``digest``."""
    return digest[:KEY_LENGTH]


def read_untimed_set(model: BoundModel, key: str, lake: Lake) -> pl.DataFrame:
    """Return the rows of the training set, by example_id; raises :class:`LakeError` when they are not those of ``key``.

    The table was then replaced, and a candidate of the new rows is needed.
    """
    current = training_set_key(model, lake)
    if current != key:
        raise LakeError(
            f"Training set of '{model.name}'",
            expected=f"the rows {key}",
            found=f"the rows {current}, because the table was replaced",
            fix=f"Materialize the candidates of {model.name} again.",
        )
    return read_untimed_version(lake, (model.table, None))


def read_untimed_version(lake: Lake, table: tuple[str, int | None]) -> pl.DataFrame:
    """Return the rows of a ``table`` in a version (None: the latest), by example_id."""
    return lake.scan(*table).sort(EXAMPLE_ID).collect()


def written_at(model: BoundModel, lake: Lake) -> datetime:
    """Return when the current training set was written: the time that counts as now for its labels."""
    return lake.catalog.written_at(model.table) or datetime.min.replace(tzinfo=UTC)


def write_untimed_set(model: BoundModel, frame: pl.DataFrame, lake: Lake) -> TableVersion:
    """Replace the training set by ``frame`` and return the written version; equal rows change nothing."""
    return lake.write(model.table, frame, None)
