"""The ranking task: its metrics, training by groups, and the ranks that a service answers."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import ndcg_score

from bento.predictor import Predictor
from ml_platform.evaluation.bootstrap import BootstrapSettings, bootstrap
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import FeatureView
from ml_platform.serving.openapi import openapi_document
from ml_platform.serving.request_contract import RequestContract
from ml_platform.tasks.metrics import EvaluationError
from ml_platform.tasks.ranking import BY_FEATURE, GROUP, RankingTask
from ml_platform.tasks.task import LabelError
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.model_directory import read_model, write_model
from ml_platform.training.splits import Split
from ml_platform.training.torch_batches import BatchLoader, epoch_order
from ml_platform.training.torch_loop import listwise_loss
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_trainer import TorchTrainer
from ml_platform.training.trainer import Matrix, TrainerSettings, TrainingError, require_task

TASK = RankingTask(group="search", k=2, baseline_feature="item__popularity")
VIEW = FeatureView.model_validate(
    {
        "name": "item",
        "kind": "request",
        "fields": ["match", "popularity"],
        "function": f"{__name__}:item_features",
        "features": [{"name": name, "description": name, "type": "float32"} for name in ("match", "popularity")],
    }
)
CONTRACT = RequestContract.model_validate(
    {
        "model": "items",
        "fields": [
            {"name": "search", "type": "string"},
            {"name": "match", "type": "float"},
            {"name": "popularity", "type": "float"},
        ],
    }
)
RIDGE = {"estimator": "sklearn.linear_model:Ridge"}
FEATURES = ["item__match", "item__popularity"]
LABEL = np.array([0.0, 2.0, 1.0, 0.0, 1.0, 0.0, 0.0])
SCORE = np.array([0.9, 0.8, 0.1, 0.2, 0.5, 0.4, 0.3])
CONTEXT = {GROUP: np.array([0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0])}


def item_features(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("match", "popularity").cast(pl.Float32))


def searches(count: int = 200) -> pl.DataFrame:
    """Return five items for each search; their relevance depends on the match within the search."""
    random = np.random.default_rng(0)
    rows = count * 5
    level = np.repeat(random.normal(0, 1, count), 5)
    match = random.normal(0, 1, rows)
    relevance = np.digitize(match + random.normal(0, 0.3, rows), [0.5, 1.2])
    return pl.DataFrame(
        {
            "search": [f"s{at}" for at in np.repeat(np.arange(count), 5)],
            "item__match": (level + match).astype(np.float32),
            "item__popularity": random.normal(0, 1, rows).astype(np.float32),
            "label": relevance,
        }
    )


def test_metrics_equal_those_computed_by_hand() -> None:
    found = TASK.score(LABEL, SCORE, context=CONTEXT)
    # Group 0 is ordered 0, 2, 1, group 1 is 1, 0, and group 2 has no relevant row.
    gain, best = 3 / np.log2(3), 3 + 1 / np.log2(3)
    assert found["ndcg"] == pytest.approx((gain / best + 1) / 2)
    assert found["mean_average_precision"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)


def test_ndcg_equals_that_of_scikit_learn() -> None:
    random = np.random.default_rng(3)
    label, scores = random.integers(0, 4, (30, 8)), random.normal(size=(30, 8))
    context = {GROUP: np.repeat(np.arange(30.0), 8)}
    task = RankingTask(group="search", k=5)
    expected = ndcg_score(np.exp2(label) - 1, scores, k=5)
    assert task.score(label.ravel(), scores.ravel(), context=context)["ndcg"] == pytest.approx(expected)


def test_groups_are_drawn_whole() -> None:
    rows = np.array([0, 1, 2, 0, 1, 2, 5, 6])
    codes, counts = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([[2.0, 0.0, 1.0]])
    drawn = TASK.resampled(LABEL, SCORE, codes, counts, TASK.metrics, context=CONTEXT)
    twice = {GROUP: np.array([0.0, 0, 0, 1, 1, 1, 2, 2])}
    expected = TASK.score(LABEL[rows], SCORE[rows], context=twice)
    assert {name: value[0] for name, value in drawn.items()} == pytest.approx(expected)


def test_constant_score_ranks_like_chance() -> None:
    rows = searches(400)
    label = TASK.encode(rows["label"], "test")
    chance = TASK.score(label, TASK.baseline(label, rows.height), context=TASK.context(rows))["ndcg"]
    random = np.random.default_rng(9).random(rows.height)
    assert chance == pytest.approx(TASK.score(label, random, context=TASK.context(rows))["ndcg"], abs=0.04)


@pytest.mark.parametrize(
    ("label", "message"),
    [([0.5, 1.0], "1 of 2 others, for example 0.5"), ([-1, 0], "for example -1"), ([31, 0], "for example 31")],
)
def test_relevance_that_is_no_grade_is_refused(label: list[float], message: str) -> None:
    with pytest.raises(LabelError, match=f"whole numbers from 0 to 30, found .*{message}"):
        TASK.encode(pl.Series(label), "Training set")


def test_rows_without_any_relevance_are_refused() -> None:
    with pytest.raises(LabelError, match="none among 2 rows"):
        TASK.require_evaluable(np.zeros(2), "Test rows")
    with pytest.raises(EvaluationError, match="none among 1 groups"):
        TASK.score([0, 0], [1, 2])


def test_task_is_refused_for_a_trainer_without_its_loss_also_in_a_blend() -> None:
    blend = TrainerSettings.model_validate(
        {"trainer": "blend", "settings": {"members": [{"seeds": 2}, {"trainer": "sklearn", "settings": RIDGE}]}}
    )
    for declared in (TrainerSettings.model_validate({"trainer": "sklearn", "settings": RIDGE}), blend):
        with pytest.raises(TrainingError, match=r"Trainer 'sklearn': .* found task 'ranking' with lambdarank"):
            require_task(declared, TASK)
    for name in ("lightgbm", "torch"):
        require_task(TrainerSettings(trainer=name), TASK)


def network_settings(**changes: object) -> TrainerSettings:
    settings = {"max_epochs": 12, "members": 2, "width": 16, "blocks": 1, "bins": 8, "batch_rows": 64, "device": "cpu"}
    return TrainerSettings.model_validate({"trainer": "torch", "refit": False, "settings": settings | changes})


def test_network_ranks_nearly_as_well_as_the_trees_and_is_the_same_when_loaded(tmp_path: Path) -> None:
    rows, tested = searches()[:800], searches()[800:]
    split = Split(rows[:600], rows[600:], tested, rows[:0], 0, {})
    candidate = fit_candidate(split, FEATURES, network_settings(), task=TASK)
    label = TASK.encode(tested["label"], "test")

    found = TASK.score(label, candidate.predict(tested), context=TASK.context(tested))["ndcg"]
    by_popularity = TASK.baselines(label, {}, TASK.context(tested))[BY_FEATURE]
    assert found > TASK.score(label, by_popularity, context=TASK.context(tested))["ndcg"] + 0.1
    importance = candidate.fitted.importance()
    assert importance["item__match"] > importance["item__popularity"]
    candidate.fitted.save(tmp_path)
    loaded = TorchTrainer.load(tmp_path)
    assert (
        loaded.predict(candidate.matrix(tested)).tolist() == candidate.fitted.predict(candidate.matrix(tested)).tolist()
    )


def test_listwise_loss_is_that_of_the_task_and_its_gradient_follows_the_shares() -> None:
    import torch

    scores = torch.tensor(SCORE, dtype=torch.float64)[:, None].requires_grad_()
    loss = listwise_loss(scores, torch.tensor(LABEL), torch.tensor(CONTEXT[GROUP]))
    assert loss.item() == pytest.approx(TASK.losses(LABEL, SCORE[:, None], CONTEXT).sum() / 2)
    torch.autograd.backward(loss)
    share = np.exp(SCORE[:3]) / np.exp(SCORE[:3]).sum()
    assert scores.grad is not None
    assert scores.grad[:3, 0].tolist() == pytest.approx(((share - LABEL[:3] / 3) / 2).tolist())
    assert scores.grad[5:].abs().sum() == 0


@pytest.mark.parametrize("batch_rows", [1, 4, 7, 1000])
def test_batches_have_whole_groups_and_each_row_once(batch_rows: int) -> None:
    import torch

    sizes = np.random.default_rng(3).integers(1, 9, 40)
    group = np.random.default_rng(4).permutation(np.repeat(np.arange(40), sizes))
    features = np.arange(len(group), dtype=np.float32)[:, None]
    matrix = Matrix(features, np.zeros(len(group)), ["row"], context={GROUP: group * 10.0})
    loader = BatchLoader(matrix, torch.device("cpu"), TorchSettings(batch_rows=batch_rows, chunk_rows=batch_rows))
    order = epoch_order(len(group), 0, 0, loader.group)

    batches = [(found[:, 0].tolist(), label[:, 1].tolist()) for found, label in loader.batches(order)]
    assert sorted(row for rows, _ in batches for row in rows) == features[:, 0].tolist()
    of_batch = [set(groups) for _, groups in batches]
    assert sum(map(len, of_batch)) == 40
    assert len(of_batch) <= np.ceil(len(group) / batch_rows)
    assert order.tolist() != epoch_order(len(group), 0, 1, loader.group).tolist()


def test_several_processes_are_refused_for_groups() -> None:
    rows = searches(20)
    split = Split(rows, rows, rows, rows[:0], 0, {})
    with pytest.raises(TrainingError, match="several processes would divide each group"):
        fit_candidate(split, FEATURES, network_settings(processes=2), task=TASK)


def test_losses_of_a_group_add_up_to_its_cross_entropy() -> None:
    share = np.exp(SCORE[:3]) / np.exp(SCORE[:3]).sum()
    expected = -(2 / 3 * np.log(share[1]) + 1 / 3 * np.log(share[2]))
    losses = TASK.losses(LABEL, SCORE[:, np.newaxis], CONTEXT)
    assert losses[:3].sum() == pytest.approx(expected)
    assert losses[5:].tolist() == [0.0, 0.0]


def test_order_is_learned_stored_and_answered_as_ranks(tmp_path: Path) -> None:
    rows = searches()
    # Rows of a group need not follow each other.
    rows = pl.concat([part.sample(fraction=1.0, shuffle=True, seed=1) for part in (rows[:600], rows[600:800])])
    test = searches()[800:]
    declared = TrainerSettings.model_validate(
        {"settings": {"max_rounds": 40, "num_leaves": 8, "min_data_in_leaf": 10, "num_threads": 1,
                      "feature_fraction": 1.0, "learning_rate": 0.1}}
    )  # fmt: skip
    features = ["item__match", "item__popularity"]
    split = Split(rows[:600], rows[600:], test, rows[:0], 0, {})
    candidate = fit_candidate(split, features, declared, task=TASK)
    label, context = TASK.encode(test["label"], "test"), TASK.context(test)
    known = TASK.encode(rows["label"], "known")
    predictions = {
        "candidate": candidate.predict(test),
        "base_rate": TASK.baseline(known, test.height),
        BY_FEATURE: TASK.baselines(known, TASK.context(rows), context)[BY_FEATURE],
    }
    resampled = bootstrap(
        label, predictions, context[GROUP], BootstrapSettings(resamples=100), task=TASK, context=context
    )
    assert resampled.points["candidate"] == pytest.approx(TASK.score(label, predictions["candidate"], context=context))
    for baseline in ("base_rate", BY_FEATURE):
        assert resampled.difference("candidate", baseline, "ndcg").low > 0
    directory = tmp_path / "model"
    write_model(
        directory,
        candidate,
        name="items",
        target="relevance",
        threshold=None,
        features=FeatureSet([VIEW.pinned()]).to_dict(),
        contract=CONTRACT.model_dump(mode="json"),
    )
    stored = read_model(directory)
    predictor = Predictor(directory, SnapshotStore(tmp_path / "online"))
    requested = test.head(20).sample(fraction=1.0, shuffle=True, seed=2)
    body = json.dumps(
        {"rows": requested.select("search", match="item__match", popularity="item__popularity").to_dicts()}
    ).encode()
    prediction = predictor.predict(CONTRACT.validate(body), datetime(2026, 1, 1, tzinfo=UTC))
    assert prediction.details is not None
    answered = requested.with_columns(
        score=pl.Series(prediction.scores),
        rank=pl.Series([each["rank"] for each in prediction.details]),
        number=pl.Series([each["group"] for each in prediction.details]),
    )
    expected = pl.col("score").rank("ordinal", descending=True).over("search")
    assert answered["rank"].to_list() == answered.select(expected).to_series().to_list()
    assert answered["number"][0] == 1
    assert answered.group_by("search").agg(pl.col("number").n_unique())["number"].to_list() == [1] * 4
    numbers = stored.answer_numbers(requested)
    assert numbers[:, 0].tolist() == prediction.scores
    assert numbers[:, 1:].tolist() == [[each["rank"], each["group"]] for each in prediction.details]
    answer = openapi_document(CONTRACT, "1", predictor.task)["components"]["schemas"]["Prediction"]["properties"]
    assert answer["rank"]["type"] == "integer"
    details = [json.dumps(each) for each in prediction.details]
    outcomes = pl.DataFrame(
        {"outcome": requested["label"], "score": prediction.scores, "request_id": ["r"] * 20, "details": details}
    )
    graded = TASK.encode(requested["label"], "test")
    realised = TASK.realised_metrics(outcomes)
    assert realised["ndcg"] == pytest.approx(
        TASK.score(graded, np.array(prediction.scores), context=TASK.context(requested))["ndcg"]
    )
