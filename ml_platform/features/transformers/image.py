"""Images as features: the principal components of their pixels, after all have been scaled to one size."""

import json
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.features.feature import Feature
from ml_platform.features.transformers.pca import Pca
from ml_platform.features.transformers.transformer import TransformerError, chosen_columns

FORMATS = ("PNG", "JPEG")
"""Formats that are read; Pillow's rarer ones have had most of its faults."""

MAX_PIXELS = 16_000_000
"""Greatest number of pixels of an image before it is scaled: a small file can hold a huge one."""

MAX_VALUES = 4_096
"""Greatest number of values of a scaled image: finding the components takes time by its cube."""

SUBJECT = "Transformer image"

_SETTINGS = "image.json"


class ImageComponents(Pca):
    """The first principal components of images, as one vector; a null or unreadable image has a null vector.

    The images are PNG or JPEG in a field of type binary. Each is scaled to ``width`` times ``height`` pixels, in shades
    of grey or with ``colour`` in red, green and blue. Without ``columns``, all fields count, and the pixels of several
    images of a row stand side by side. The size is that of the declared vector.
    """

    libraries = ("pillow",)

    def __init__(
        self,
        features: Sequence[Feature],
        columns: Sequence[str] | None = None,
        width: int = 32,
        height: int = 32,
        colour: bool = False,
    ) -> None:
        """Make a transformer for the one vector of ``features``. Raises :class:`TransformerError` for others."""
        super().__init__(features, columns)
        self.width, self.height, self.colour = width, height, colour
        if not (width >= 1 and height >= 1 and self._values_of_image <= MAX_VALUES):
            raise TransformerError(
                SUBJECT,
                expected=f"width and height of at least 1, and at most {MAX_VALUES} values in an image",
                found=f"{width} x {height} pixels{' of three colours' if colour else ''}",
                fix="Correct its parameters.",
            )

    def fit(self, frame: pl.DataFrame, seed: int) -> None:
        """Find the components. Raises :class:`TransformerError` for an image that cannot be read, and as `pca`."""
        for column in self._images(frame):
            unreadable = [row for row, image in enumerate(column, 1) if image is not None and self._read(image) is None]
            if unreadable:
                raise TransformerError(
                    SUBJECT,
                    expected=f"images in {' or '.join(FORMATS)} of at most {MAX_PIXELS:,} pixels",
                    found=f"{len(unreadable)} of {frame.height} train rows with others in '{column.name}' "
                    f"(first: row {unreadable[0]})",
                    fix="Correct the table, or leave these rows out in the examples function.",
                )
        super().fit(frame, seed)

    def save(self, folder: Path) -> None:
        """Write the settings, the mean and the components."""
        super().save(folder)
        settings = {"width": self.width, "height": self.height, "colour": self.colour}
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the transformer in ``folder``."""
        loaded = super().load(folder)
        settings = json.loads((folder / _SETTINGS).read_text())
        loaded.width, loaded.height, loaded.colour = settings["width"], settings["height"], settings["colour"]
        return loaded

    @property
    def _values_of_image(self) -> int:
        return self.width * self.height * (3 if self.colour else 1)

    def _values(self, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Return the pixels from 0 to 1, shape (rows, values); those of a row without an image are NaN."""
        parts = []
        for column in self._images(frame):
            pixels = np.full((frame.height, self._values_of_image), np.nan)
            for row, image in enumerate(column):
                found = None if image is None else self._read(image)
                if found is not None:
                    pixels[row] = found
            parts.append(pixels)
        return np.hstack(parts)

    def _images(self, frame: pl.DataFrame) -> list[pl.Series]:
        columns = [frame[name] for name in chosen_columns(frame, self.columns, SUBJECT)]
        other = [each for each in columns if each.dtype not in (pl.Binary, pl.Null)]
        if other:
            raise TransformerError(
                SUBJECT,
                expected="columns of type binary",
                found=f"{other[0].dtype} in '{other[0].name}'",
                fix="Name the images in 'columns' of its parameters.",
            )
        return columns

    def _read(self, image: bytes) -> npt.NDArray[np.float64] | None:
        """Return the scaled pixels of ``image`` in one row, or None if it cannot be read."""
        from PIL import Image

        try:
            with Image.open(BytesIO(image), formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    return None
                same_mode = opened.convert("RGB" if self.colour else "L")
                scaled = same_mode.resize((self.width, self.height), Image.Resampling.BOX)
        # All that Pillow raises for files that are cut off or damaged.
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error):
            return None
        except Image.DecompressionBombError:
            return None
        return np.asarray(scaled, dtype=np.float64).ravel() / 255
