"""A fit that is killed by SIGKILL several times ends with the same model as an uninterrupted fit."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_platform.training.checkpoint import Checkpoints, fingerprint
from ml_platform.training.trainer import Matrix, TrainerSettings, make_trainer
from ml_platform_tests.training.killed_fit import rows

LIGHTGBM = {
    "max_rounds": 200,
    "patience": 200,
    "segment_rounds": 20,
    "num_leaves": 15,
    "min_data_in_leaf": 20,
    "num_threads": 1,
    "bagging_fraction": 0.7,
    "feature_fraction": 0.5,
    "extra_trees": True,
}
TORCH = {
    "max_epochs": 16,
    "patience": 16,
    "batch_rows": 128,
    "checkpoint_steps": 7,
    "width": 16,
    "members": 2,
    "threads": 1,
    "dropout": 0.2,
}
SCRIPT = Path(__file__).parent / "killed_fit.py"


def start(trainer: str, settings: dict[str, Any], checkpoint: Path, out: Path) -> subprocess.Popen[str]:
    """Start `killed_fit.py` in a process."""
    command = [sys.executable, str(SCRIPT), trainer, json.dumps(settings), str(checkpoint), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_after_lines(process: subprocess.Popen[str], lines: int) -> None:
    """Kill the process after it has printed ``lines`` lines."""
    assert process.stdout is not None
    for _ in range(lines):
        if not process.stdout.readline():
            break
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "settings"), [("lightgbm", LIGHTGBM), ("torch", TORCH)])
def test_fit_killed_at_random_moments_predicts_as_an_uninterrupted_fit(
    tmp_path: Path, trainer: str, settings: dict[str, Any]
):
    whole = start(trainer, settings, tmp_path / "whole", tmp_path / "whole.npz")
    whole.communicate()
    chance = random.Random(17)
    for _ in range(2):
        reports = 60 if trainer == "lightgbm" else 4
        kill_after_lines(
            start(trainer, settings, tmp_path / "killed", tmp_path / "killed.npz"), chance.randint(1, reports)
        )
    assert not (tmp_path / "killed.npz").exists(), "the fit ended before it was killed"

    output, _ = start(trainer, settings, tmp_path / "killed", tmp_path / "killed.npz").communicate()

    with np.load(tmp_path / "whole.npz") as undisturbed, np.load(tmp_path / "killed.npz") as resumed:
        assert np.array_equal(undisturbed["scores"], resumed["scores"])
        assert np.array_equal(undisturbed["losses"], resumed["losses"])
    assert "Resumed from the checkpoint" in output


@pytest.mark.slow
def test_fit_on_a_full_disk_fails_and_resumes_later_from_the_last_complete_checkpoint(tmp_path: Path):
    # A limit on file sizes simulates a full disk: later checkpoints have more trees and exceed it.
    program = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    arguments = [str(SCRIPT), "lightgbm", json.dumps(LIGHTGBM), str(tmp_path / "full"), str(tmp_path / "full.npz")]
    failed = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "File too large" in failed.stderr
    (kept,) = (tmp_path / "full").glob("step-*")
    assert 0 < json.loads((kept / "state.json").read_text())["step"] < LIGHTGBM["max_rounds"]

    declared = TrainerSettings(settings=LIGHTGBM)
    parts = rows().part(0, 2400), rows().part(2400, 3000)
    resumed = make_trainer(declared, "binary").fit(*parts, checkpoint=tmp_path / "full")
    whole = make_trainer(declared, "binary").fit(*parts)
    assert resumed.notes
    assert np.array_equal(resumed.predict(rows().features), whole.predict(rows().features))


def write(checkpoints: Checkpoints, step: int, text: str) -> None:
    """Write a checkpoint whose state and only file contain ``text``."""

    def save(folder: Path) -> None:
        (folder / "file.txt").write_text(text)

    checkpoints.write(step, {"at": text}, save)


def test_latest_checkpoint_is_read_and_older_ones_are_removed(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, "these rows")
    write(checkpoints, 10, "ten")
    write(checkpoints, 20, "twenty")

    latest = Checkpoints(tmp_path, "these rows").latest()

    assert latest is not None
    assert (latest.step, latest.state, (latest.folder / "file.txt").read_text()) == (20, {"at": "twenty"}, "twenty")
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000020"]


def test_checkpoint_of_other_rows_is_ignored(tmp_path: Path):
    write(Checkpoints(tmp_path, "these rows"), 10, "ten")

    assert Checkpoints(tmp_path, "other rows").latest() is None


def test_incomplete_checkpoint_of_a_killed_write_is_ignored(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, "these rows")
    write(checkpoints, 10, "ten")
    shutil.copytree(tmp_path / "step-00000010", tmp_path / ".staged-00000020")
    (tmp_path / "step-00000030").mkdir()

    latest = checkpoints.latest()

    assert latest is not None
    assert latest.step == 10


def test_fingerprint_changes_with_a_single_value_a_name_and_a_setting(matrix: Matrix):
    changed = matrix.features.copy()
    changed[7, 1] += 1e-6
    prints = {
        fingerprint({"rate": 0.1}, matrix, None),
        fingerprint({"rate": 0.2}, matrix, None),
        fingerprint({"rate": 0.1}, matrix, matrix),
        fingerprint({"rate": 0.1}, Matrix(changed, matrix.label, matrix.names, matrix.categories), None),
        fingerprint({"rate": 0.1}, Matrix(matrix.features, matrix.label, ["other", *matrix.names[1:]], {2: 6}), None),
    }

    assert len(prints) == 5
    assert fingerprint({"rate": 0.1}, matrix, None) in prints
