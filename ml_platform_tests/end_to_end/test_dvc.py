"""`dvc repro` finds the same assets as the demo, and `dvc pull` restores the raw data from the remote."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ml_platform_tests.conftest import DemoHome

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
LANDING = Path(".ml_platform/landing")

pytestmark = pytest.mark.slow


class Checkout:
    """A copy of the tracked files in a new Git repository, with this virtual environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, root / name)
        (root / ".venv").symlink_to(BIN.parent)
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("ML_PLATFORM_HOME", "DAGSTER_HOME")}
        return {**kept, "PYTHONPATH": str(self.root)}

    def dvc(self, *arguments: str) -> str:
        done = subprocess.run(
            [BIN / "dvc", *arguments], cwd=self.root, env=self.environment,
            capture_output=True, text=True, timeout=550,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
        return done.stdout

    def landed(self) -> dict[str, str]:
        files = sorted(file for file in (self.root / LANDING).rglob("*") if file.is_file())
        return {str(file.relative_to(self.root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def reproduced(demo_home: DemoHome, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Return a checkout with the home of the demo, in which one month is then landed and evaluated by the stages."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    demo_home.copy(checkout.root / ".ml_platform")
    checkout.dvc("repro")
    return checkout


def test_landed_files_match_the_digests_in_dvc_lock(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    subprocess.run([BIN / "ml-platform", "land", "aviation", "--through", "2013-06"], cwd=tmp_path,
                   env=checkout.environment, check=True, capture_output=True)  # fmt: skip
    # 'modified' would mean that other bytes landed, 'changed deps' that dvc.lock is older than the landing code.
    assert json.loads(checkout.dvc("status", "--json", "land")) == {
        "land": [{"changed outs": {str(LANDING): "not in cache"}}]
    }


def test_metrics_are_plausible_for_the_evaluated_month(reproduced: Checkout) -> None:
    (shown,) = json.loads(reproduced.dvc("metrics", "show", "--json"))[""]["data"].values()
    assert 0.65 < shown["data"]["auc"] < 0.9
    assert 0.13 < shown["data"]["base_rate"] < 0.32  # range of the monthly base rates in 2013


def test_plots_show_roc_reliability_and_importance(reproduced: Checkout) -> None:
    reproduced.dvc("plots", "show", "--out", "plots_page")
    page = (reproduced.root / "plots_page" / "index.html").read_text()
    assert [name for name in ("true_positive_rate", "observed_share", "importance") if name not in page] == []


def test_second_repro_runs_no_stage(reproduced: Checkout) -> None:
    assert "Data and pipelines are up to date." in reproduced.dvc("repro")


def test_raw_data_is_restored_from_the_remote(reproduced: Checkout) -> None:
    landed = reproduced.landed()
    assert len(landed) >= 6  # at least three months of flights and of weather
    reproduced.dvc("push", "land")
    shutil.rmtree(reproduced.root / LANDING)
    shutil.rmtree(reproduced.root / ".dvc" / "cache")
    reproduced.dvc("pull", "land")
    assert reproduced.landed() == landed


def test_changed_raw_file_is_reported_as_modified(reproduced: Checkout) -> None:
    planes = next((reproduced.root / LANDING / "planes").iterdir())
    kept = planes.read_bytes()
    planes.unlink()  # the file may be a link into the cache
    planes.write_bytes(kept + b"\n")
    try:
        status = json.loads(reproduced.dvc("status", "--json", "land"))
    finally:
        planes.write_bytes(kept)
    assert status["land"] == [{"changed outs": {str(LANDING): "modified"}}]
