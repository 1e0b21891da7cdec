"""A step that is killed at any moment can be run again, and the home then equals that of an undisturbed life."""

import random
import shutil
from pathlib import Path

import pytest

from ml_platform_tests.chaos.small_life import BACKUPS, Life, StepProgram, difference, done

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = 20130101
KILLS = {
    "land": 2,
    "datasets": 3,
    "features": 3,
    "training_sets": 2,
    "train": 4,
    "evaluate": 2,
    "promote": 3,
    "bento": 1,
    "rollout": 2,
    "ingest": 3,
    "outcomes": 2,
    "compact": 1,
    "backup": 2,
}
"""Number of kills in each step, in the order of the life of a home. A bento takes long, so it is killed once."""

BEFORE_END = 3
"""Operations at the end of a step that are never the moment of a kill, because their number may vary a little."""


def test_killed_steps_that_are_repeated_give_the_home_of_an_undisturbed_life(
    program: StepProgram, tmp_path: Path
) -> None:
    moments = random.Random(SEED)
    undisturbed = Life(tmp_path / "undisturbed")
    done(program, "create", undisturbed)
    disturbed = undisturbed.copy(tmp_path / "disturbed")
    kills, differences, expected = 0, [], {}

    for step, count in KILLS.items():
        (whole,) = program.run_together((step, undisturbed.home, {}))
        assert (whole.error, whole.killed) == ("", False), whole.message
        (expected,) = done(program, "describe", undisturbed)

        # The last one of the killed homes goes on to the next step; the others end here.
        others = [disturbed.copy(tmp_path / f"disturbed_{number}") for number in range(1, count)]
        lives = [*others, disturbed]
        limits = [moments.randint(1, max(1, whole.operations - BEFORE_END)) for _ in lives]
        killed = program.run_together(
            *((step, life.home, {"kill_at": limit}) for life, limit in zip(lives, limits, strict=True))
        )
        assert [each.killed for each in killed] == [True] * count, (step, limits, killed)
        kills += count
        done(program, step, *lives)
        for life, limit, content in zip(lives, limits, done(program, "describe", *lives), strict=True):
            left = done(program, "leftovers", life)[0]
            differences += [
                f"{step} killed at operation {limit} of {whole.operations}: {text}"
                for name in expected
                if (text := difference(expected[name], content[name], name))
            ]
            differences += [f"{step} killed at operation {limit} left {name}" for name in left]
        for life in others:
            shutil.rmtree(life.folder)

    assert not differences, "\n".join(differences)
    assert kills == 30
    assert expected["problems"] == []
    restored = Life(tmp_path / "restored")
    restored.folder.mkdir()
    done(program, "restore_backup", disturbed, into=str(restored.home))
    assert done(program, "describe", restored) == done(program, "describe", undisturbed)
    assert (disturbed.folder / BACKUPS).is_dir()
