"""The page "from a CSV to an endpoint": its files are those of the domain, and its commands run one after another."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from assets.penguins.demo import display_columns, request_rows
from assets.penguins.landing import land
from assets.penguins.species import MEASURES, examples, penguins
from ml_platform.cli import app
from ml_platform.components.loading import bound_model
from ml_platform.data.landing import Landing
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.serving.desired_state import read_desired_state
from ml_platform.steps.untimed import training_set_key
from ml_platform_tests.end_to_end.csv_page import PAGE, blocks
from resources.home import Home
from resources.home_lake import open_lake
from resources.state import open_state

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "assets" / "penguins"
PROGRAM = ".venv/bin/ml-platform "


def test_files_on_the_page_are_those_of_the_domain() -> None:
    shown = {title: code for title, code in blocks("python") + blocks("yaml") if title}
    assert set(shown) == {f"assets/penguins/{name}" for name in ("landing.py", "species.py", "defs.yaml")}
    assert {path: (ROOT / path).read_text() for path in shown} == shown


def test_domain_has_at_most_200_lines() -> None:
    lines = sum(len(file.read_text().splitlines()) for file in FOLDER.iterdir() if file.suffix in (".py", ".yaml"))
    assert 50 < lines <= 200


def test_table_is_read_as_published(tmp_path: Path) -> None:
    (file,) = land(Landing(tmp_path))
    rows = penguins(file.path)
    assert rows.row(0) == (1, "Adelie", "Torgersen", 39.1, 18.7, 181.0, 3750.0, "male", 2007)
    assert dict(rows["species"].value_counts().rows()) == {"Adelie": 152, "Chinstrap": 68, "Gentoo": 124}
    assert rows.select(*MEASURES).null_count().row(0) == (2, 2, 2, 2)
    made = examples({"penguins": rows.lazy()}).collect()
    assert made["example_id"].n_unique() == 344
    requests = request_rows(tmp_path / "other")
    assert display_columns(requests).row(0) == ("Biscoe", "35.0 × 17.9 mm")


@dataclass(frozen=True)
class Followed:
    """The home of the commands of the page, and their verbs in order."""

    home: Home
    verbs: list[str]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """A home in which the commands of the page have run one after another; each ended without an error."""
    home, verbs = Home(tmp_path_factory.mktemp("penguins") / ".ml_platform"), []
    for line in [line for _, code in blocks("") for line in code.splitlines() if line.startswith(PROGRAM)]:
        arguments = shlex.split(line.removeprefix(PROGRAM), comments=True)
        # In this process, because each new one would import everything again.
        done = CliRunner().invoke(app, arguments, env={"ML_PLATFORM_HOME": str(home.root)}, catch_exceptions=False)
        assert done.exit_code == 0, line
        verbs.append(arguments[0])
    return Followed(home, verbs)


@pytest.mark.slow
def test_commands_of_the_page_land_train_promote_and_serve(followed: Followed) -> None:
    assert followed.verbs == ["land", "materialize", "status", "demo"]
    assert (followed.home.landing / "penguins" / "whole.csv").is_file()
    stable = read_desired_state(open_state(followed.home), "penguin_species").stable
    assert stable is not None
    assert stable.version == "1"
    assert (followed.home.bentos / stable.bento).is_dir()
    # The demo served the version and sent it requests.
    assert [path for path in (followed.home.prediction_logs / "penguin_species").iterdir() if path.stat().st_size]


@pytest.mark.slow
def test_last_block_of_the_page_answers_a_request(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(followed.home.root))
    (block,) = [code for title, code in blocks("python") if not title]
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)

    assert names["species"] == "Gentoo"
    assert set(names["probabilities"]["probabilities"]) == {"Adelie", "Chinstrap", "Gentoo"}
    assert names["probabilities"]["probabilities"]["Gentoo"] > 0.8


@pytest.mark.slow
def test_champion_names_the_rows_that_it_comes_from(followed: Followed) -> None:
    home = followed.home
    key = training_set_key(bound_model("penguin_species"), open_lake(home))
    champion = current_champion(AuditLog(open_state(home)), "penguin_species")
    assert champion is not None
    assert champion.partition == champion.manifest["partition"] == key
    assert champion.manifest["declared"]["split"] == {
        "by": "hash", "minimum_rows": 30, "seed": 0, "train": 0.6, "validation": 0.2, "test": 0.2,
    }  # fmt: skip
    card = (home.reports / "model_card" / "penguin_species" / key / "card.md").read_text()
    assert key in card
    evidence = pl.read_parquet(next(home.evidence.glob("*.parquet")))
    assert not [name for name in evidence.columns if "request_only" in name]
    assert evidence["block"].n_unique() == evidence.height  # each row is a block
