"""From landed images to answers: a binary column, a fitted view that reads it, and requests with base64."""

import io
import json
import shutil
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from ml_platform.components.project import load_definitions_of
from ml_platform.console.materialize import bring_up_to_date
from ml_platform.serving.in_process import ServedModel
from ml_platform.serving.request_contract import InvalidRequestError
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.project_loading import PROJECT_FILE
from ml_platform_tests.conftest import importable_from

pytestmark = pytest.mark.slow

DOMAIN = Path(__file__).parent / "digits_domain"
STEPS = ("training_set", "candidate_lightgbm", "evaluation", "champion", "bento")
HELD_OUT = 20


def photos() -> pl.DataFrame:
    """Return the digits 0 to 4 that scikit-learn carries, as PNG of 16 x 16 pixels."""
    from sklearn.datasets import load_digits

    found = load_digits(n_class=5)
    images = [png((pixels * (255 / 16)).astype(np.uint8)) for pixels in found.images]
    return pl.DataFrame({"photo": range(len(images)), "image": images, "digit": found.target.astype(str)})


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).resize((16, 16)).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class ScanHome:
    """The home, the served model, and photos that it has never seen."""

    platform: PlatformFixture
    served: ServedModel
    unseen: pl.DataFrame


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScanHome]:
    root = tmp_path_factory.mktemp("digits")
    shutil.copytree(DOMAIN, root / "shop" / "digits", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "pyproject.toml").write_text(PROJECT_FILE)
    rows = photos()
    with (
        importable_from() as make_importable,
        open_platform(root / ".ml_platform") as platform,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        make_importable(root, "shop")
        landing = platform.home.landing / "digits"
        landing.mkdir(parents=True)
        landed = rows.head(-HELD_OUT).with_columns(pl.col("image").bin.encode("base64"))
        landed.write_csv(landing / "whole.csv")
        project, loaded = load_definitions_of(
            root, dg.Definitions(resources=platform.resources, executor=dg.in_process_executor)
        )
        assert not project.not_loaded
        keys = [dg.AssetKey(["datasets", "digits"]), *(dg.AssetKey(["digit", name]) for name in STEPS)]
        bring_up_to_date(loaded, instance, platform.home, keys, "")
        served = ServedModel.load("digit", version=1, home=platform.home.root)
        yield ScanHome(platform, served, rows.tail(HELD_OUT))


def test_images_are_stored_as_they_were(scan: ScanHome) -> None:
    stored = scan.platform.lake.scan("datasets/digits").sort("photo").collect()
    assert stored["image"].to_list() == photos()["image"].to_list()[:-HELD_OUT]


def test_served_model_reads_digits_that_it_has_never_seen(scan: ScanHome) -> None:
    answers = scan.served.predict_table(scan.unseen.select("image"))
    right = (answers["label"] == scan.unseen["digit"]).sum()
    assert right >= HELD_OUT - 4


def test_request_with_base64_is_read_and_other_text_is_refused_by_its_path(scan: ScanHome) -> None:
    image = scan.unseen["image"][0]
    (answer,) = scan.served.predict([{"image": b64encode(image).decode()}])
    (same,) = scan.served.predict([{"image": image}])
    assert answer == same
    with pytest.raises(InvalidRequestError, match=r"rows\[1\]\.image.*base64 of at most 2000 bytes"):
        scan.served.predict([{"image": image}, {"image": "no base64!"}])


def test_bento_carries_the_code_and_the_library_that_read_images(scan: ScanHome, tmp_path: Path) -> None:
    (version,) = scan.platform.stores.registry.versions("digit")
    downloaded = scan.platform.stores.registry.download(version, tmp_path)
    assert "pillow" in json.loads((downloaded / "manifest.json").read_text())["libraries"]
    (code,) = scan.platform.home.bentos.rglob("features/transformers/image.py")
    assert (code.parent / "pca.py").is_file()
    (locked,) = scan.platform.home.bentos.rglob("env/python/requirements.txt")
    assert "pillow==" in locked.read_text()
