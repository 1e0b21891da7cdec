"""The page "from a CSV to an endpoint": its files are those of the domain, and its last block answers a request."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.penguins.demo import display_columns, request_rows
from assets.penguins.landing import land
from assets.penguins.species import MEASURES, examples, penguins
from ml_platform.components.loading import bound_model
from ml_platform.components.model import evaluation, model_card, monitoring, promotion, serving, training
from ml_platform.data.contract_record import record_passed
from ml_platform.data.landing import Landing
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.steps.untimed import training_set_key
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from resources.state import open_state

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorials" / "from-a-csv-to-an-endpoint.md"
FOLDER = ROOT / "assets" / "penguins"


def blocks(language: str) -> list[tuple[str, str]]:
    """Return title and code of each block of the page in ``language``; the title may be empty."""
    pattern = rf'^```{language}(?: title="([^"]*)")?\n(.*?)^```'
    return re.findall(pattern, PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


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


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    """A home in which the model is trained, judged, promoted and packaged by its real assets."""
    root = tmp_path_factory.mktemp("penguins") / ".ml_platform"
    with open_platform(root) as made, dg.DagsterInstance.ephemeral() as instance:
        (file,) = land(Landing(made.home.landing))
        written = made.lake.write("datasets/penguins", penguins(file.path), None)
        record_passed(made.lake.state, "penguins", None, content_digest=written.sha256, landed_sha256=file.sha256)
        model = bound_model("penguin_species")
        cycle = [
            training.training_set(model),
            training.candidate(model, "lightgbm"),
            evaluation.evaluation(model),
            model_card.model_card(model),
            promotion.champion(model),
            serving.bento(model),
            monitoring.drift(model),
        ]
        assert dg.materialize(cycle, resources=made.resources, instance=instance).success
        yield made


@pytest.mark.slow
def test_last_block_of_the_page_answers_a_request(platform: PlatformFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(platform.home.root))
    (block,) = [code for title, code in blocks("python") if not title]
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)

    assert names["species"] == "Gentoo"
    assert set(names["probabilities"]["probabilities"]) == {"Adelie", "Chinstrap", "Gentoo"}
    assert names["probabilities"]["probabilities"]["Gentoo"] > 0.8


@pytest.mark.slow
def test_champion_names_the_rows_that_it_comes_from(platform: PlatformFixture) -> None:
    key = training_set_key(bound_model("penguin_species"), platform.lake)
    champion = current_champion(AuditLog(open_state(platform.home)), "penguin_species")
    assert champion is not None
    assert champion.partition == champion.manifest["partition"] == key
    assert champion.manifest["declared"]["split"] == {
        "by": "hash", "minimum_rows": 30, "seed": 0, "train": 0.6, "validation": 0.2, "test": 0.2,
    }  # fmt: skip
    card = (platform.home.reports / "model_card" / "penguin_species" / key / "card.md").read_text()
    assert key in card
    evidence = pl.read_parquet(next(platform.home.evidence.glob("*.parquet")))
    assert not [name for name in evidence.columns if "request_only" in name]
    assert evidence["block"].n_unique() == evidence.height  # each row is a block
