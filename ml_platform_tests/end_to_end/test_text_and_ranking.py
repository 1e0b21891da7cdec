"""From landed files to answers of the endpoint: a model that ranks, with a fitted view on the text of the request."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import numpy as np
import polars as pl
import pytest

import ml_platform as mp
from ml_platform.components.project import load_definitions_of
from ml_platform.console.materialize import bring_up_to_date
from ml_platform.console.services import serving_processes
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.serving.processes import serve_temporarily
from ml_platform_tests.components.delivery_home import open_platform
from ml_platform_tests.components.project_loading import PROJECT_FILE
from ml_platform_tests.conftest import importable_from
from resources.home import Home
from resources.state import open_state

pytestmark = pytest.mark.slow

DOMAIN = Path(__file__).parent / "search_domain"
MONTHS = ("2024-01", "2024-02", "2024-03", "2024-04")
LAST = MONTHS[-1]
MODEL = "result_order"
STEPS = ("candidate_lightgbm", "evaluation", "model_card", "champion", "bento", "rollout")
FIELDS = ("search", "item", "title", "distance", "shown_at")
ITEMS, SHOWN, SEARCHES = 24, 6, 120
COLOURS = ("red", "blue", "green", "grey")


def results(month: str) -> pl.DataFrame:
    """Return the items that searches of ``month`` showed: red, near and odd ones are wanted, and items stay odd."""
    random = np.random.default_rng(int(month.replace("-", "")))
    rows = SEARCHES * SHOWN
    search = np.repeat(np.arange(SEARCHES), SHOWN)
    item = np.concatenate([random.choice(ITEMS, SHOWN, replace=False) for _ in range(SEARCHES)])
    distance = random.normal(size=rows)
    colour = random.integers(0, len(COLOURS), rows)
    wish = 2.0 * (colour == 0) + 3.0 * (item % 2) - 1.5 * distance + random.normal(0, 0.5, rows)
    shown = [datetime.fromisoformat(f"{month}-01T08:00:00+00:00") + timedelta(hours=5 * int(one)) for one in search]
    return pl.DataFrame(
        {
            "result": [f"{month}-{one}-{each}" for one, each in zip(search, item, strict=True)],
            "search": [f"{month}-{one}" for one in search],
            "item": [f"item {each}" for each in item],
            "title": [f"{COLOURS[one]} chair number {each}" for one, each in zip(colour, item, strict=True)],
            "distance": distance,
            "shown_at": shown,
            "graded_at": [at + timedelta(hours=1) for at in shown],
            "grade": np.digitize(wish, [2.0, 4.0]),
        }
    )


@dataclass(frozen=True)
class SearchHome:
    """The home, the metadata of each asset of the last month by its name, and a client of the gateway."""

    home: Home
    recorded: dict[str, dict[str, Any]]
    client: httpx.Client

    def predict(self, rows: pl.DataFrame) -> list[dict[str, Any]]:
        sent = rows.with_columns(shown_at=pl.col("shown_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_dicts()
        answer = self.client.post(f"/v1/{MODEL}/predict", json={"rows": sent}).raise_for_status().json()
        predictions: list[dict[str, Any]] = answer["predictions"]
        return predictions


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchHome]:
    root = tmp_path_factory.mktemp("search")
    shutil.copytree(DOMAIN, root / "shop" / "search", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "pyproject.toml").write_text(PROJECT_FILE)
    with (
        importable_from() as make_importable,
        open_platform(root / ".ml_platform") as platform,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        make_importable(root, "shop")
        landing = platform.home.landing / "results"
        landing.mkdir(parents=True)
        for month in MONTHS:
            results(month).write_csv(landing / f"{month}.csv", datetime_format="%Y-%m-%dT%H:%M:%SZ")
        shared = dg.Definitions(resources=platform.resources, executor=dg.in_process_executor)
        project, loaded = load_definitions_of(root, shared)
        assert not project.not_loaded
        data = [dg.AssetKey(names) for names in (["datasets", "results"], ["features", "item_grades"])]
        model = {name: dg.AssetKey([MODEL, name]) for name in ("training_set", *STEPS)}
        bring_up_to_date(loaded, instance, platform.home, [*data, model["training_set"]], f"{MONTHS[0]}...{LAST}")
        bring_up_to_date(loaded, instance, platform.home, [model[name] for name in STEPS], LAST)
        events = {name: instance.get_latest_materialization_event(key) for name, key in model.items()}
        recorded = {
            name: {each: value.value for each, value in event.asset_materialization.metadata.items()}
            for name, event in events.items()
            if event is not None and event.asset_materialization is not None
        }
        with (
            serve_temporarily(serving_processes(platform.home)) as address,
            httpx.Client(base_url=address, timeout=30) as client,
        ):
            yield SearchHome(platform.home, recorded, client)


def test_ranking_is_judged_by_the_gain_of_its_first_rows_and_becomes_champion(search: SearchHome) -> None:
    assert set(search.recorded) == {"training_set", *STEPS}
    judged = search.recorded["evaluation"]
    assert judged["decision"] == "PROMOTE"
    # Neither the last grade alone nor the request alone knows both what is wanted and what is near.
    assert judged["ndcg"] > judged["ndcg_request_only"] + 0.02
    assert judged["ndcg"] > judged["ndcg_by_feature"] + 0.1
    assert judged["ndcg_by_feature"] > judged["ndcg_base_rate"] + 0.1
    champion = current_champion(AuditLog(open_state(search.home)), MODEL)
    assert champion is not None
    assert (champion.version, champion.partition) == (1, LAST)


def test_bento_carries_the_words_that_the_fitted_view_learned_in_training(search: SearchHome) -> None:
    bento = search.home.root / search.recorded["bento"]["path"]
    (fitted,) = bento.rglob("fitted/title/terms.json")
    learned = json.loads(fitted.read_text())
    assert {*COLOURS, "chair"} <= set(learned["weights"])


def test_endpoint_ranks_each_search_by_its_own_rows(search: SearchHome) -> None:
    rows = results("2024-05").head(3 * SHOWN)
    answered = search.predict(rows.select(FIELDS))
    assert [each["group"] for each in answered] == [1] * SHOWN + [2] * SHOWN + [3] * SHOWN
    for first in range(0, rows.height, SHOWN):
        group = answered[first : first + SHOWN]
        ordered = sorted(group, key=lambda each: -each["score"])
        assert [each["rank"] for each in ordered] == list(range(1, SHOWN + 1))


def test_mlflow_ranks_rows_with_features_like_a_session(search: SearchHome, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", search.home.tracking_uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion")
    with mp.open(search.home.root) as session:
        champion = session.champion(MODEL)
        table = next(name for name in champion.manifest.tables if name.startswith(f"models/{MODEL}/training_set"))
        rows = session.lake.scan(table, partitions=[LAST]).collect()
        expected = champion.predict(rows)
    assert {"rank", "group"} < set(expected.columns)
    found = loaded.predict(rows.to_pandas())
    for name in ("score", "rank", "group"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_served_score_follows_the_text_the_distance_and_the_last_grade(search: SearchHome) -> None:
    grades = {row["item"]: row["grade"] for row in results(LAST).sort("graded_at").to_dicts()}
    liked, disliked = (next(item for item, grade in grades.items() if grade == wished) for wished in (2, 0))
    at = datetime(2024, 5, 1, 8, tzinfo=UTC)
    base: dict[str, Any] = {"search": "one", "item": liked, "title": "red chair", "distance": 0.0, "shown_at": at}
    other: list[dict[str, Any]] = [
        {"title": "grey chair"},
        {"distance": 2.0},
        {"item": disliked},
        {"title": "red chair of oak"},
    ]
    red, grey, far, unwanted, oak = search.predict(pl.DataFrame([base, *(base | each for each in other)]))
    assert red["score"] > max(grey["score"], far["score"], unwanted["score"])
    assert oak["score"] > grey["score"]  # a word that no title of the training had
