"""Aviation, bikes, credit and penguins behind one gateway: answers, pages, and errors and load that stay apart.

Bikes, credit and penguins are trained in one home. The bento of aviation and its facts come from the home of the demo.
"""

import json
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import numpy as np
import polars as pl
import pytest
from jsonschema import Draft202012Validator

from assets.bikes.demand import REQUEST_FIELDS as BIKES_FIELDS
from assets.bikes.demand import hours
from assets.bikes.landing import DAYS
from assets.bikes.landing import land as land_bikes
from assets.credit.demo import request_rows as credit_requests
from assets.credit.lending import REQUEST_FIELDS as CREDIT_FIELDS
from assets.penguins.demo import request_rows as penguin_requests
from assets.penguins.landing import land as land_penguins
from assets.penguins.species import REQUEST_FIELDS as PENGUIN_FIELDS
from assets.penguins.species import penguins
from ml_platform.components.loading import bound_model
from ml_platform.components.model import evaluation, model_card, promotion, serving, training
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.console.services import serving_processes
from ml_platform.data.landing import Landing
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.desired_state import change_desired_state, read_desired_state, with_stable
from ml_platform.serving.gateway_clusters import REQUESTS_AT_ONCE, REQUESTS_WAITING
from ml_platform.serving.processes import serve_temporarily
from ml_platform.steps.candidates import read_training_set, split_of
from ml_platform.training.model_directory import read_model
from ml_platform_tests.components.delivery_home import PlatformFixture
from ml_platform_tests.conftest import DemoHome
from ml_platform_tests.end_to_end.conftest import BIKES_DAY, BIKES_WEEK, CREDIT_MONTH, CreditHome, publish
from ml_platform_tests.end_to_end.csv_page import blocks
from ml_platform_tests.polling import until
from resources.home import Home
from resources.state import open_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

AVIATION, BIKES, CREDIT, PENGUINS = MODELS = ("departure_risk", "bike_demand", "credit_default", "penguin_species")
CLIENTS = Path(__file__).resolve().parents[2] / "docs" / "clients"
FLIGHT = {
    "carrier": "UA",
    "flight": 1545,
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "scheduled_departure": "2013-07-25T22:00:00+00:00",
    "scheduled_arrival": "2013-07-26T02:00:00+00:00",
}
FLOOD_CLIENTS = 2 * (REQUESTS_AT_ONCE + REQUESTS_WAITING)
"""Clients that ask at once without a pause: twice what the gateway lets to one service and keeps waiting."""


@dataclass(frozen=True)
class Gateway:
    """The gateway of the home, a client of it, and one request for each model."""

    platform: PlatformFixture
    client: httpx.Client
    rows: dict[str, list[dict[str, Any]]]

    def predict(self, model: str, rows: list[dict[str, Any]] | None = None) -> httpx.Response:
        return self.client.post(f"/v1/{model}/predict", json={"rows": self.rows[model] if rows is None else rows})

    def openapi(self, model: str) -> dict[str, Any]:
        document: dict[str, Any] = self.client.get(f"/v1/{model}/openapi.json").raise_for_status().json()
        return document

    def valid_predictions(self, model: str) -> list[dict[str, Any]]:
        """Ask ``model`` and return its predictions, after a check of the answer against the model's own page."""
        answered, document = self.predict(model).raise_for_status().json(), self.openapi(model)
        schema = {"$ref": "#/components/schemas/PredictionResponse", "components": document["components"]}
        assert [error.message for error in Draft202012Validator(schema).iter_errors(answered)] == []
        assert answered["model"] == {"name": model, "version": "1"}
        assert len(answered["predictions"]) == len(self.rows[model]) > 0
        predictions: list[dict[str, Any]] = answered["predictions"]
        return predictions


def bike_requests(scratch: Path) -> pl.DataFrame:
    """Return the hours that are predicted between the arrival of the last day and that of the next one."""
    first = DAYS.bounds(BIKES_DAY)[1] + timedelta(hours=25)
    landed = land_bikes(Landing(scratch), "2011-03-29")
    return (
        pl.concat(hours(each.path) for each in landed[-2:])
        .filter(pl.col("starts_at").is_between(first, first + timedelta(days=1), closed="left"))
        .select(BIKES_FIELDS)
    )


def serve_version_of(demo: DemoHome, model: str, platform: PlatformFixture) -> None:
    """Copy the bento of ``model``, its public key and the facts of its views from ``demo``, and make it serve."""
    source, home = Home(demo.root), platform.home
    stable = read_desired_state(open_state(source), model).stable
    assert stable is not None
    shutil.copytree(source.bentos / stable.bento, home.bentos / stable.bento)
    trusted = SigningKeys(home.signing_keys).trusted
    shutil.copytree(SigningKeys(source.signing_keys).trusted, trusted, dirs_exist_ok=True)
    shutil.copytree(source.online, home.online, dirs_exist_ok=True)
    change_desired_state(platform.lake.state, model, lambda current: with_stable(current, stable))


@pytest.fixture(scope="module")
def trained(
    demo_home: DemoHome, bikes_home: PlatformFixture, credit_home: CreditHome, demand: ModelAssets, credit: ModelAssets
) -> PlatformFixture:
    """The home in which each of the four models has a version to serve."""
    species = bound_model("penguin_species")
    (file,) = land_penguins(Landing(bikes_home.home.landing))
    publish(bikes_home, penguins, [file])
    with dg.DagsterInstance.ephemeral() as instance:
        for model, key in ((demand, BIKES_WEEK), (credit, CREDIT_MONTH), (species, None)):
            cycle = [training.candidate(model, "lightgbm"), evaluation.evaluation(model), promotion.champion(model),
                     serving.bento(model), serving.rollout(model)]  # fmt: skip
            cycle.append(model_card.model_card(model) if key else training.training_set(model))
            assert dg.materialize(
                cycle, partition_key=key, resources=bikes_home.resources, instance=instance
            ).success, model.name
    serve_version_of(demo_home, AVIATION, bikes_home)
    return bikes_home


@pytest.fixture(scope="module")
def gateway(trained: PlatformFixture, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The running gateway of the home, in the run folder that `ml-platform status` reads."""
    scratch, home = tmp_path_factory.mktemp("requests"), trained.home
    requests = {
        BIKES: bike_requests(scratch / "bikes"),
        CREDIT: credit_requests(scratch / "credit").select(CREDIT_FIELDS),
        PENGUINS: penguin_requests(scratch / "penguins").head(5).select(PENGUIN_FIELDS),
    }
    rows = {model: json.loads(json.dumps(frame.to_dicts(), default=lambda at: at.isoformat()))
            for model, frame in requests.items()}  # fmt: skip
    plan = serving_processes(home).model_copy(update={"run": home.run, "processes": []})
    with serve_temporarily(plan) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield Gateway(trained, client, {AVIATION: [FLIGHT], **rows})


def test_each_domain_answers_a_prediction_of_its_kind(gateway: Gateway) -> None:
    flight, *_ = gateway.valid_predictions(AVIATION)
    assert 0 < flight["score"] < 1
    assert isinstance(flight["label"], bool)
    assert all(
        each["interval"]["lower"] <= each["score"] <= each["interval"]["upper"]
        for each in gateway.valid_predictions(BIKES)
    )
    assert all(0 < each["score"] < 1 for each in gateway.valid_predictions(CREDIT))
    for each in gateway.valid_predictions(PENGUINS):
        assert each["probabilities"][each["label"]] == max(each["probabilities"].values()) == each["score"]
        assert sum(each["probabilities"].values()) == pytest.approx(1)


def test_curl_on_the_page_of_the_penguins_is_answered(gateway: Gateway) -> None:
    (command,) = [code for _, code in blocks("") if code.startswith("curl ")]
    assert "localhost:8080/" in command
    here = command.replace("localhost:8080", gateway.client.base_url.netloc.decode())
    done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True)
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert prediction["label"] == "Gentoo"
    assert prediction["probabilities"]["Gentoo"] > 0.8


def test_openapi_page_is_that_of_its_model(gateway: Gateway) -> None:
    documents = {model: gateway.openapi(model) for model in MODELS}
    schemas = {model: document["components"]["schemas"] for model, document in documents.items()}

    assert {model: document["info"]["title"] for model, document in documents.items()} == {
        name: name for name in MODELS
    }
    assert [list(documents[model]["paths"]) for model in MODELS] == [[f"/v1/{model}/predict"] for model in MODELS]
    assert {model: set(schemas[model]["Row"]["properties"]) for model in MODELS} == {
        AVIATION: set(FLIGHT), BIKES: set(BIKES_FIELDS), CREDIT: set(CREDIT_FIELDS), PENGUINS: set(PENGUIN_FIELDS),
    }  # fmt: skip
    common = {"score", "label", "reasons", "reasons_method", "degraded"}
    assert {model: set(schemas[model]["Prediction"]["properties"]) - common for model in MODELS} == {
        AVIATION: set(), BIKES: {"interval"}, CREDIT: set(), PENGUINS: {"probabilities"},
    }  # fmt: skip
    assert schemas[PENGUINS]["Prediction"]["properties"]["label"]["enum"] == ["Adelie", "Chinstrap", "Gentoo"]


def test_generated_python_client_asks_the_gateway_and_reads_answers_and_refusals(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(CLIENTS / AVIATION)
    package = import_module(f"{AVIATION}_client")
    endpoint = import_module(f"{AVIATION}_client.api.default.predict_{AVIATION}")
    models = import_module(f"{AVIATION}_client.models")
    client, flight = package.Client(str(gateway.client.base_url)), models.Row.from_dict(FLIGHT)

    answer = endpoint.sync(client=client, body=models.Request([flight]), reasons=2)
    (prediction,) = answer.predictions
    assert prediction.score == gateway.predict(AVIATION, [FLIGHT]).json()["predictions"][0]["score"]
    assert [each.contribution != 0 for each in prediction.reasons] == [True, True]

    flight.dest = FLIGHT["origin"]
    refused = endpoint.sync_detailed(client=client, body=models.Request([flight]))
    assert refused.status_code == 422
    assert refused.parsed.error.details[0].path == "rows[0].origin"


def test_status_lists_all_four_with_their_endpoints(gateway: Gateway) -> None:
    found = json.loads(DemoHome(gateway.platform.home.root, "").run("status", "--json"))

    address = str(gateway.client.base_url).rstrip("/")
    assert {name: (model["serving"]["stable"], model["endpoint"]) for name, model in found["models"].items()} == {
        name: ("1", f"{address}/v1/{name}/predict") for name in MODELS
    }
    assert found["not_loaded"] == {}


@pytest.mark.parametrize("model", MODELS)
def test_bad_request_to_one_model_is_refused_and_the_others_answer(gateway: Gateway, model: str) -> None:
    foreign = gateway.rows[MODELS[MODELS.index(model) - 1]]
    refused = gateway.predict(model, foreign[:1])

    assert refused.status_code == 422
    details = {each["path"] for each in refused.json()["error"]["details"]}
    assert {f"rows[0].{name}" for name in gateway.rows[model][0].keys() - foreign[0].keys()} <= details
    assert [gateway.predict(each).status_code for each in MODELS if each != model] == [200] * 3


def test_flood_of_one_model_leaves_the_others_answering(gateway: Gateway) -> None:
    answers, stop = Counter[tuple[int, str | None]](), threading.Event()
    rows = gateway.rows[PENGUINS] * 10
    limits = httpx.Limits(max_connections=FLOOD_CLIENTS, max_keepalive_connections=FLOOD_CLIENTS)

    with (
        httpx.Client(base_url=gateway.client.base_url, timeout=30, limits=limits) as flooding,
        ThreadPoolExecutor(FLOOD_CLIENTS) as clients,
    ):

        def flood() -> None:
            while not stop.is_set():
                answer = flooding.post(f"/v1/{PENGUINS}/predict?reasons=3", json={"rows": rows})
                answers[answer.status_code, answer.headers.get("retry-after")] += 1

        floods = [clients.submit(flood) for _ in range(FLOOD_CLIENTS)]
        try:
            until(lambda: answers[503, "1"])
            before = answers.total()
            others = [len(gateway.valid_predictions(each)) for _ in range(3) for each in MODELS if each != PENGUINS]
            during = answers.total() - before
        finally:
            stop.set()
        for each in floods:
            each.result()

    assert others == [len(gateway.rows[each]) for each in MODELS if each != PENGUINS] * 3
    assert during > 0  # the flood went on while the others answered
    assert answers.keys() == {(200, None), (503, "1")}
    gateway.valid_predictions(PENGUINS)


def test_bikes_are_served_with_the_offline_features(gateway: Gateway, demand: ModelAssets, tmp_path: Path) -> None:
    platform, requests = gateway.platform, bike_requests(tmp_path / "bikes")
    assert requests.height == 23  # one hour of the night had no riders
    card = (platform.home.reports / "model_card" / BIKES / BIKES_WEEK / "card.md").read_text()
    assert f"rows of {BIKES_WEEK} and before it, 28d in all" in card
    examples = requests.with_columns(predict_at=pl.col("starts_at") - timedelta(days=1))
    offline = demand.feature_set.as_of(examples.lazy(), demand.feature_set.logs(platform.lake)).collect()
    (version,) = platform.stores.registry.versions(BIKES)
    model = read_model(platform.stores.registry.download(version, tmp_path / "model"))
    predictions = gateway.valid_predictions(BIKES)
    served = [[each["score"], each["interval"]["lower"], each["interval"]["upper"]] for each in predictions]
    assert np.abs(model.answer_numbers(offline) - np.array(served)).max() < 1e-9
    assert len({round(upper - lower, 6) for _, lower, upper in served}) > 1  # quiet hours have narrower intervals


def test_credit_is_served_with_the_offline_features_and_the_decision_by_cost(
    gateway: Gateway, credit: ModelAssets, tmp_path: Path
) -> None:
    platform = gateway.platform
    card = (platform.home.reports / "model_card" / CREDIT / CREDIT_MONTH / "card.md").read_text()
    tested = split_of(credit, CREDIT_MONTH, read_training_set(credit, CREDIT_MONTH, platform.lake)).test
    late = float(tested["label"].to_numpy().mean())
    assert f"{1 - late:.4g} if all rows were answered true, and {10 * late:.4g} if none were." in card
    assert "recall_at_rate (alerts for 0.05 of the rows)" in card
    examples = credit_requests(tmp_path / "credit").select(*CREDIT_FIELDS, predict_at="applied_at")
    offline = credit.feature_set.as_of(examples.lazy(), credit.feature_set.logs(platform.lake)).collect()
    (version,) = platform.stores.registry.versions(CREDIT)
    model = read_model(platform.stores.registry.download(version, tmp_path / "model"))
    predictions = gateway.valid_predictions(CREDIT)
    scores = np.array([each["score"] for each in predictions])
    assert np.abs(model.predict(offline) - scores).max() < 1e-9
    # A default costs ten times a declined loan, so about one in eleven decides, and not one in two.
    declined = np.array([each["label"] for each in predictions])
    assert 0 < declined.sum() < len(declined)
    assert 0.02 < scores[declined.astype(bool)].min() < 0.3
