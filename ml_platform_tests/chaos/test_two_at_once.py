"""Two processes do the same step on one home at once: one waits for the other or says so, and nothing is doubled."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ml_platform_tests.chaos.small_life import Life, Outcome, StepProgram, difference, done

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PREPARED = ("land", "datasets", "features", "training_sets", "train", "evaluate", "promote", "ingest", "outcomes")
"""The steps before those that need a bento, in the order of a life."""


@pytest.fixture(scope="module")
def before(program: StepProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Life]]:
    """Return the life before each of the prepared steps, by step, and the life after all of them as ``end``."""
    folder = tmp_path_factory.mktemp("lives")
    life = Life(folder / "life")
    done(program, "create", life)
    found = {}
    for step in PREPARED:
        found[step] = life.copy(folder / f"before_{step}")
        done(program, step, life)
    yield {**found, "end": life}
    shutil.rmtree(folder)


def at_once(program: StepProgram, life: Life, *steps: tuple[str, dict[str, Any]]) -> list[Outcome]:
    """Perform the steps on one home, each in its own process, beginning at the same moment."""
    return program.run_together(*((step, life.home, arguments) for step, arguments in steps))


@pytest.mark.parametrize("step", PREPARED)
def test_same_step_twice_gives_the_home_of_one(
    program: StepProgram, before: dict[str, Life], tmp_path: Path, step: str
) -> None:
    alone, together = before[step].copy(tmp_path / "alone"), before[step].copy(tmp_path / "together")
    done(program, step, alone)
    outcomes = at_once(program, together, (step, {}), (step, {}))
    assert [each.error for each in outcomes] == ["", ""], [each.message for each in outcomes]
    (expected,), (content,) = done(program, "describe", alone), done(program, "describe", together)
    assert difference(expected, content) == ""
    assert done(program, "leftovers", together) == [[]]


def test_different_candidates_at_once_are_two_versions(
    program: StepProgram, before: dict[str, Life], tmp_path: Path
) -> None:
    life = before["train"].copy(tmp_path / "life")
    outcomes = at_once(program, life, ("train", {"rounds": 10}), ("train", {"rounds": 20}))
    assert [each.error for each in outcomes] == ["", ""], [each.message for each in outcomes]
    (content,) = done(program, "describe", life)
    assert [version for version, _, _ in content["registry"]] == [2, 1]
    assert len({digest for _, digest, _ in content["registry"]}) == 2


def test_of_two_candidates_one_becomes_champion_and_the_other_says_why_not(
    program: StepProgram, before: dict[str, Life], tmp_path: Path
) -> None:
    life = before["evaluate"].copy(tmp_path / "life")
    done(program, "evaluate", life)
    done(program, "train", life, rounds=20)
    done(program, "evaluate", life, rounds=20)
    outcomes = at_once(program, life, ("promote_version", {"version": 1}), ("promote_version", {"version": 2}))
    (content,) = done(program, "describe", life)

    winners = [each.result for each in outcomes if not each.error]
    losers = [each for each in outcomes if each.error]
    assert len(winners) == len(losers) == 1, outcomes
    assert losers[0].error == "PromotionError"
    assert "champion" in losers[0].message
    champions = [facts for kind, _, _, facts in content["audit"] if kind == "champion"]
    assert [facts["version"] for facts in champions] == winners
    assert content["aliases"] == {"champion": winners[0], "challenger": None, "previous": None}


def test_writers_of_the_facts_at_once_lose_and_double_nothing(
    program: StepProgram, before: dict[str, Life], tmp_path: Path
) -> None:
    life = before["ingest"].copy(tmp_path / "life")
    outcomes = at_once(program, life, ("ingest", {}), ("outcomes", {}), ("ingest", {}), ("compact", {}))
    assert [each.error for each in outcomes] == [""] * 4, [each.message for each in outcomes]
    done(program, "outcomes", life)
    (content,), (expected,) = done(program, "describe", life), done(program, "describe", before["end"])
    for table in ("models/late/predictions", "models/late/outcomes"):
        assert content["tables"][table] == expected["tables"][table]


def test_backups_and_cleaning_wait_for_each_other_or_say_so(
    program: StepProgram, before: dict[str, Life], tmp_path: Path
) -> None:
    life, restored = before["end"].copy(tmp_path / "life"), Life(tmp_path / "restored")
    outcomes = at_once(program, life, ("backup", {}), ("backup", {}), ("clean", {}))
    assert [each.error for each in outcomes[:2]] == ["", ""], [each.message for each in outcomes]
    assert outcomes[2].error in ("", "StateLockedError"), outcomes[2].message
    assert "Lock 'cleaning'" in (outcomes[2].message or "Lock 'cleaning'")
    restored.folder.mkdir()
    done(program, "restore_backup", life, into=str(restored.home))
    (content,), (expected,) = done(program, "describe", restored), done(program, "describe", before["end"])
    for name in ("tables", "registry", "desired"):
        assert content[name] == expected[name]


def test_two_bento_builds_at_once_give_one_verified_bento(
    program: StepProgram, before: dict[str, Life], tmp_path: Path
) -> None:
    life = before["end"].copy(tmp_path / "life")
    outcomes = at_once(program, life, ("bento", {}), ("bento", {}))
    assert [each.error for each in outcomes] == ["", ""], [each.message for each in outcomes]
    done(program, "rollout", life)
    (content,) = done(program, "describe", life)
    assert len(content["rows"]["verified_bentos"]) == 1
    assert content["problems"] == []
    assert done(program, "leftovers", life) == [[]]
    outcomes = at_once(program, life, ("rollout", {}), ("rollout", {}))
    assert [each.error for each in outcomes] == ["", ""]
    assert done(program, "describe", life) == [content]


def test_two_upgrades_at_once_migrate_one_home_once(program: StepProgram, tmp_path: Path) -> None:
    life = Life(tmp_path / "life")
    done(program, "create", life)
    (life.home / "home.json").unlink()
    for path in life.home.glob("state.db*"):
        path.unlink()
    outcomes = at_once(program, life, ("upgrade", {}), ("upgrade", {}), ("upgrade", {}))
    assert [each.error for each in outcomes] == [""] * 3, [each.message for each in outcomes]
    with closing(sqlite3.connect(life.home / "state.db")) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchall() == [(1,)]
        assert connection.execute("SELECT id, sequence FROM audit_head").fetchall() == [(1, 0)]
    assert done(program, "leftovers", life) == [[]]
