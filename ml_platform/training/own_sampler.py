"""The protocol of samplers of a team's own, which a trainer declares under `sampler`."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ml_platform.data.extensions import Extension


class Sampler(Extension):
    """A choice of the rows that a model is fitted on, for example fewer rows of a frequent class.

    Validation and test rows are never sampled, so calibration restores the share of positives.
    """

    kind: ClassVar[str] = "sampler"

    @abstractmethod
    def rows(
        self,
        features: npt.NDArray[np.float32],
        label: npt.NDArray[np.float64],
        names: Sequence[str],
        random: np.random.Generator,
    ) -> npt.NDArray[np.int64]:
        """Return the numbers of the rows to fit on, in the order of the fit; a number may occur more than once.

        ``features`` has shape (rows, features) with the columns ``names``, and ``label`` has shape (rows,), both in
        order of time. ``random`` is seeded with the seed of the trainer, so equal rows give an equal sample.
        """


def sampled_rows(
    sampler: Sampler,
    features: npt.NDArray[np.float32],
    label: npt.NDArray[np.float64],
    names: Sequence[str],
    seed: int,
) -> npt.NDArray[np.int64]:
    """Return the numbers of the rows that ``sampler`` chooses with ``seed``.

    Raises :class:`~ml_platform.data.extensions.ExtensionError` for numbers outside of the rows, and for none.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    chosen = np.asarray(sampler.rows(features, label, names, random))
    are_numbers = chosen.ndim == 1 and chosen.size > 0 and np.issubdtype(chosen.dtype, np.integer)
    if not are_numbers or chosen.min() < 0 or chosen.max() >= len(label):
        raise sampler.error(
            expected=f"numbers of rows from 0 to {len(label) - 1}, at least one",
            found=f"{chosen.min()} to {chosen.max()}" if are_numbers else f"{chosen.dtype} of shape {chosen.shape}",
        )
    return chosen.astype(np.int64)
