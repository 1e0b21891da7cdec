"""Classes of a team's own work from candidate to bento and reproduction, without a change in the engine."""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import numpy as np
import pytest

from ml_platform.components.model import evaluation, model_card, promotion, serving, training
from ml_platform.steps.reproduction import reproduce_version
from ml_platform.training.trainer import Matrix, TrainerSettings, make_trainer
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import deliveries, delivery_model

LOGISTIC = {"trainer": "assets.logistic:LogisticTrainer", "settings": {"penalty": 0.5}}
OWN = "assets.own_classes"
"""The module with the team's own metric, gate, baseline, calibrator and sampler."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    with open_platform(tmp_path_factory.mktemp("repository") / ".ml_platform") as made:
        made.land()
        yield made


def materialized_metadata(platform: PlatformFixture, asset: dg.AssetsDefinition, **config: str) -> dict[str, Any]:
    """Materialize ``asset`` for 2013-03 and return its metadata."""
    done = dg.materialize(
        [asset],
        partition_key="2013-03",
        resources=platform.resources,
        run_config={"ops": {asset.node_def.name: {"config": config}}} if config else None,
    )
    (event,) = done.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def test_logistic_regression_estimates_the_true_weights(platform: PlatformFixture) -> None:
    random = np.random.default_rng(3)
    features = random.normal(size=(20_000, 2)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(2.0 * features[:, 0] - 1.0 * features[:, 1] + 0.5)))
    label = (random.random(20_000) < chance).astype(np.float64)
    fitted = make_trainer(TrainerSettings.model_validate(LOGISTIC), "binary").fit(Matrix(features, label, ["a", "b"]))
    assert fitted.weight == pytest.approx([2.0, -1.0, 0.5], abs=0.08)  # type: ignore[attr-defined]


@pytest.mark.slow  # builds a bento and serves rows from it
def test_candidate_of_a_custom_trainer_is_packaged_verified_and_reproduced(platform: PlatformFixture) -> None:
    shops = deliveries("2013-03")["shop"].value_counts().sort("count", descending=True)
    most = shops["count"][0]
    model = delivery_model(
        trainers={"own": {**LOGISTIC, "calibration": f"{OWN}:Bins", "sampler": {"type": f"{OWN}:FewerNegatives"}}},
        approval={"mode": "manual"},
        gates=[
            {"type": "paired_test", "metric": "log_loss"},
            {"type": "slices", "columns": ["shop"]},
            {"type": "latency", "maximum_p99_ms": 10_000},
            {"type": f"{OWN}:AlertBudget", "maximum_share": 0.6},
            {"type": "metric_limit", "metric": "profit", "limit": 0.0},
            {"type": "baseline", "required": ["shop_rate"]},
        ],
        evaluation={
            "minimum_support": most,
            "request_only": ["when"],
            "bootstrap": {"resamples": 200},
            "primary_metric": "profit",
            "metrics": {"profit": {"type": f"{OWN}:Profit", "saved": 4}},
            "baselines": {"shop_rate": f"{OWN}:ShopRate"},
        },
    )
    candidate = materialized_metadata(platform, training.candidate(model, "own"))
    verdict = materialized_metadata(platform, evaluation.evaluation(model))

    assert verdict["decision"] == "PROMOTE"
    assert {"profit", "profit_low", "profit_shop_rate", "log_loss_shop_rate"} <= set(verdict)
    assert 0 < verdict["profit"] < 1.5
    checks = {spec.name: spec.description for spec in evaluation.evaluation(model).check_specs}
    assert checks["alert_budget"] == "Require that no more alerts are raised than people can handle."
    # Slices below the declared minimum support are not listed.
    assert [(row.data["value"], row.data["rows"]) for row in verdict["weakest_slices"].records] == [
        (shops["shop"][0], most)
    ]

    pending = dg.materialize(
        [model_card.model_card(model), promotion.champion(model), serving.bento(model)],
        partition_key="2013-03",
        resources=platform.resources,
    )
    made = [event.asset_key for event in pending.get_asset_materialization_events()]
    card = platform.home.reports / "model_card" / "late" / "2013-03" / "card.md"
    assert made == [model.key("model_card")]  # the version waits as challenger and has a model card
    assert "ada, approve" not in card.read_text()  # a digest may contain the name
    for shown in ("| profit |", "shop_rate", "alert_budget", f"calibrated to probabilities by {OWN}:Bins"):
        assert shown in card.read_text()

    champion = materialized_metadata(platform, promotion.champion(model), approved_by="ada", reason="read the card")
    bento = materialized_metadata(platform, serving.bento(model))

    assert "ada, approve: read the card" in card.read_text()
    assert [candidate["version"], verdict["version"], champion["version"], bento["version"]] == [1, 1, 1, 1]
    source = platform.home.root / bento["path"] / "src"
    assert json.loads((source / "model" / "model.json").read_text())["scorer"] == "assets.logistic_scorer:load"
    # The bento carries the scorer but not the trainer.
    assert (source / "assets" / "logistic_scorer.py").exists()
    assert not (source / "assets" / "logistic.py").exists()
    assert not (source / "assets" / "own_classes.py").exists()
    assert json.loads((source / "model" / "calibration.json").read_text())["method"] == "isotonic"
    rebuilt = reproduce_version(model, 1, platform.stores)
    assert rebuilt.equal, rebuilt.lines()
