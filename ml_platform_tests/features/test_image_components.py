"""The transformer `image`: pixels of PNG and JPEG become components, and damaged files become nulls or errors."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ml_platform.features.feature import Feature
from ml_platform.features.transformers.image import MAX_PIXELS, ImageComponents
from ml_platform.features.transformers.transformer import TransformerError

CODE = [Feature(name="code", type="vector", size=3, description="…")]


def encoded(pixels: np.ndarray[Any, np.dtype[np.uint8]], kind: str = "PNG") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def drawings(rows: int = 40, seed: int = 0) -> list[bytes]:
    """Return images of 8 x 8 pixels, dark on one side and light on the other, with some noise."""
    random = np.random.default_rng(seed)
    sides = np.where(np.arange(8) < 4, 40, 210) + random.integers(-30, 30, (rows, 8, 8))
    flipped = np.where(random.random(rows)[:, None, None] < 0.5, sides, sides[:, :, ::-1])
    return [encoded(one.astype(np.uint8)) for one in flipped]


def fitted(images: list[bytes], **parameters: Any) -> ImageComponents:
    made = ImageComponents(CODE, width=4, height=4, **parameters)
    made.fit(pl.DataFrame({"photo": images}), 0)
    return made


def test_first_component_is_the_difference_between_the_images(tmp_path: Path) -> None:
    made, seen = fitted(drawings()), pl.DataFrame({"photo": drawings(20, seed=1)})
    first = made.transform(seen)["code"].arr.get(0).to_numpy()
    left = np.array([np.asarray(_decoded(one), dtype=float)[:, :4].mean() for one in seen["photo"]])
    assert abs(np.corrcoef(first, left)[0, 1]) > 0.99

    made.save(tmp_path)
    loaded = ImageComponents.load(tmp_path)
    assert loaded.transform(seen).equals(made.transform(seen))
    assert pl.concat([loaded.transform(seen[row]) for row in range(seen.height)]).equals(made.transform(seen))


def test_size_format_and_colour_of_a_file_do_not_matter() -> None:
    made = fitted(drawings())
    pixels = np.full((8, 8), 120, np.uint8)
    coloured = np.stack([pixels] * 3, axis=2)
    large = np.full((80, 80), 120, np.uint8)
    files = [encoded(pixels), encoded(coloured), encoded(large), encoded(pixels, "JPEG"), encoded(coloured, "JPEG")]

    found = made.transform(pl.DataFrame({"photo": files}))["code"].to_list()
    assert found == [pytest.approx(found[0], abs=1e-6)] * len(files)
    red, blue = coloured.copy(), coloured.copy()
    red[:, :, 0], blue[:, :, 2] = 255, 255
    images = [encoded(red), encoded(blue), *(encoded(coloured) for _ in range(4))]
    of_colour = fitted(images, colour=True)
    codes = of_colour.transform(pl.DataFrame({"photo": images}))["code"].to_list()
    assert codes[0] != pytest.approx(codes[1], abs=0.1)


def test_null_and_damaged_images_have_null_vectors_when_serving() -> None:
    made, whole = fitted(drawings()), drawings(1)[0]
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 0xFF
    rows = [None, b"", b"no image", whole[:50], bytes(changed), b"GIF89a" + bytes(40), whole]

    codes = made.transform(pl.DataFrame({"photo": rows}, schema={"photo": pl.Binary}))["code"]
    assert codes.is_null().to_list() == [True] * 6 + [False]


def test_small_file_with_a_huge_image_is_not_decoded() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    huge = encoded(np.zeros((side, side), np.uint8))
    assert len(huge) < 100_000
    assert fitted(drawings()).transform(pl.DataFrame({"photo": [huge]}))["code"].to_list() == [None]


def test_training_names_the_rows_that_it_cannot_read() -> None:
    with pytest.raises(TransformerError, match=r"found 1 of 41 train rows with others in 'photo' \(first: row 41\)"):
        fitted([*drawings(), b"no image"])
    with pytest.raises(TransformerError, match="expected columns of type binary, found String in 'photo'"):
        ImageComponents(CODE).fit(pl.DataFrame({"photo": ["text"]}), 0)


@pytest.mark.parametrize(
    "parameters", [{"width": 0}, {"width": 65, "height": 64}, {"width": 64, "height": 64, "colour": True}]
)
def test_sizes_whose_components_would_take_too_long_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(TransformerError, match="at most 4096 values"):
        ImageComponents(CODE, **parameters)


def _decoded(image: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(image))
