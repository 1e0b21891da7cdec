"""TabM on small rows: accuracy, equal results on every path of execution, and recovery from lack of memory."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task
from ml_platform.training import torch_loop, torch_trainer
from ml_platform.training.torch_batches import is_resident
from ml_platform.training.torch_network import NetworkSpec, network_spec_for
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_state import reproducible_fit
from ml_platform.training.torch_trainer import TorchModel, TorchTrainer, chosen_device
from ml_platform.training.trainer import Matrix, ReportProgress, TrainingError

SMALL = {
    "batch_rows": 100,
    "max_epochs": 4,
    "width": 16,
    "members": 4,
    "threads": 1,
    "patience": 4,
    "device": "cpu",
    "learning_rate": 1e-2,
}


def fit(
    matrix: Matrix,
    task: Task | str = "binary",
    seed: int = 3,
    rounds: int | None = None,
    report: ReportProgress | None = None,
    **changes: Any,
) -> TorchModel:
    """Return the model of the first 900 rows, validated on the others unless ``rounds`` are given."""
    trainer = TorchTrainer(TorchSettings.model_validate(SMALL | changes), task=task, seed=seed)
    validation = None if rounds else matrix.part(900, 1200)
    return trainer.fit(matrix.part(0, 900), validation, rounds=rounds, report=report)


def test_network_scores_positive_rows_higher(matrix: Matrix):
    scores = fit(matrix).predict(matrix.features)

    assert scores[matrix.label == 1].mean() - scores[matrix.label == 0].mean() > 0.4


def test_predictions_depend_on_the_seed_only(matrix: Matrix):
    first, again, other = (fit(matrix, seed=seed).predict(matrix.features) for seed in (3, 3, 4))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_streamed_rows_give_the_same_bits_as_resident_ones(matrix: Matrix):
    resident = fit(matrix, resident="always").predict(matrix.features)
    streamed = fit(matrix, resident="never", chunk_rows=250).predict(matrix.features)

    assert np.array_equal(resident, streamed)


@pytest.mark.slow
def test_two_processes_give_the_same_model_as_one(matrix: Matrix):
    alone = fit(matrix, dropout=0.0).predict(matrix.features)
    together = fit(matrix, dropout=0.0, processes=2).predict(matrix.features)

    assert np.abs(alone - together).max() < 1e-3


def test_lack_of_memory_halves_the_batch_and_does_not_change_the_model(matrix: Matrix, monkeypatch: pytest.MonkeyPatch):
    undisturbed = fit(matrix, dropout=0.0)
    build_network = torch_loop.build_network  # type: ignore[attr-defined]

    def build_with_little_memory(spec: NetworkSpec) -> torch.nn.Module:
        network = build_network(spec)

        def allocate(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if network.training and len(inputs[0]) > 30:
                raise torch.OutOfMemoryError("no room for more than 30 rows")

        network.register_forward_pre_hook(allocate)
        return network

    monkeypatch.setattr(torch_loop, "build_network", build_with_little_memory)
    halved = fit(matrix, dropout=0.0)

    assert halved.notes == [
        "Out of memory on cpu: batches continue in parts of 50 rows instead of 100.",
        "Out of memory on cpu: batches continue in parts of 25 rows instead of 50.",
    ]
    assert np.abs(halved.predict(matrix.features) - undisturbed.predict(matrix.features)).max() < 1e-3


def run_rank_with_little_memory(rank: int, *work: Any) -> None:
    """Run one rank; rank 1 has no memory for more than 30 rows after its first eight passes."""
    build_network = torch_loop.build_network  # type: ignore[attr-defined]

    def build_with_little_memory(spec: NetworkSpec) -> torch.nn.Module:
        network = build_network(spec)
        passes: list[int] = []

        def allocate(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            passes.append(len(inputs[0]))
            if rank == 1 and network.training and len(passes) > 8 and len(inputs[0]) > 30:
                raise torch.OutOfMemoryError("no room for more than 30 rows")

        network.register_forward_pre_hook(allocate)
        return network

    torch_loop.build_network = build_with_little_memory  # type: ignore[attr-defined]
    torch_trainer._run_rank(rank, *work)


@pytest.mark.slow
def test_lack_of_memory_in_one_of_two_processes_halves_the_batch_of_both(
    matrix: Matrix, monkeypatch: pytest.MonkeyPatch
):
    alone = fit(matrix, dropout=0.0, max_epochs=2).predict(matrix.features)
    seen: list[tuple[int, float]] = []
    monkeypatch.setattr(torch_trainer, "_run_rank", run_rank_with_little_memory)

    halved = fit(matrix, dropout=0.0, max_epochs=2, processes=2, report=lambda epoch, loss: seen.append((epoch, loss)))

    assert halved.notes == [
        "Out of memory on cpu: batches continue in parts of 25 rows instead of 50 in each of 2 processes.",
    ]
    assert np.abs(halved.predict(matrix.features) - alone).max() < 1e-3
    assert seen == halved.history


@pytest.mark.slow
def test_error_and_pruning_in_one_of_several_processes_reach_the_caller(matrix: Matrix):
    endless = Matrix(matrix.features, np.where(np.arange(1200) == 1000, np.inf, matrix.label), matrix.names, {2: 6})
    with pytest.raises(TrainingError, match="torch, epoch 1: expected a validation loss that is a number, found inf"):
        fit(endless, task="regression", processes=2)

    def prune(epoch: int, loss: float) -> None:
        raise InterruptedError(f"pruned after epoch {epoch}")

    with pytest.raises(InterruptedError, match="pruned after epoch 1"):
        fit(matrix, processes=2, max_epochs=200, patience=200, report=prune)


def test_lack_of_memory_for_one_row_is_an_error(matrix: Matrix, monkeypatch: pytest.MonkeyPatch):
    def nothing_left(*_: object) -> None:
        raise torch.OutOfMemoryError("nothing left")

    monkeypatch.setattr(torch_loop.TrainingLoop, "_accumulate", nothing_left)

    with pytest.raises(TrainingError, match="expected memory for a batch of 1 rows on cpu, found out of memory"):
        fit(matrix)


def test_refit_runs_the_given_epochs(matrix: Matrix):
    seen: list[int] = []

    fitted = fit(matrix, rounds=3, report=lambda epoch, loss: seen.append(epoch))

    assert fitted.rounds == 3
    assert seen == [1, 2, 3]
    assert fitted.history == []


def test_fit_stops_when_validation_does_not_improve_and_keeps_the_best_epoch(matrix: Matrix):
    fitted = fit(matrix, max_epochs=60, patience=1, learning_rate=0.05)

    losses = [loss for _, loss in fitted.history]
    assert len(losses) < 60
    assert fitted.rounds == len(losses) - 1 == int(np.argmin(losses)) + 1
    own = fitted.task.losses(matrix.label[900:], fitted.predict(matrix.features[900:])).mean()
    assert own == pytest.approx(min(losses))


def test_saved_network_predicts_the_same_and_has_no_pickle(matrix: Matrix, tmp_path: Path):
    fitted = fit(matrix)

    fitted.save(tmp_path)
    read = TorchTrainer.load(tmp_path)

    assert np.array_equal(read.predict(matrix.features), fitted.predict(matrix.features))
    assert read.importance() == fitted.importance()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npz"}


def test_missing_unseen_and_infinite_values_get_a_finite_score(matrix: Matrix):
    rows = np.array([[np.nan, np.nan, np.nan, np.nan], [np.inf, 0, 2, 0], [-1e30, 0, 5, 1]], dtype=np.float32)

    scores = fit(matrix).predict(np.where(np.isinf(rows), np.nan, rows))

    assert np.isfinite(scores).all()


def test_unseen_category_has_the_mean_embedding_of_the_seen_ones(matrix: Matrix):
    fitted = fit(Matrix(matrix.features, matrix.label, matrix.names, {2: 8}))

    table = fitted.network.categories[0].weight.detach().numpy()  # type: ignore[index, union-attr]
    rows = np.bincount(matrix.features[:900, 2].astype(int), minlength=9)
    assert list(np.flatnonzero(rows == 0)) == [6, 7, 8]  # two codes without rows, and missing
    assert table[6:] == pytest.approx(np.tile(rows[:6] @ table[:6] / 900, (3, 1)), abs=1e-6)
    # The label depends on the place, and the score of an unseen place is between those of the seen ones.
    queried = np.array([[0.0, 0, place, np.nan] for place in (*range(6), np.nan)], dtype=np.float32)
    scores = fitted.predict(queried)
    assert scores[:6].min() < scores[6] < scores[:6].max()


@pytest.mark.parametrize(("share", "value"), [(0.001, 1e9), (0.01, -9999.0), (0.01, 99999.0)])
def test_a_few_extreme_values_do_not_take_bins_from_the_others(share: float, value: float):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6000, 2)).astype(np.float32)
    label = (features[:, 0] + rng.normal(size=6000) > 0).astype(np.float64)
    odd = features.copy()
    odd[rng.random(6000) < share, 0] = value
    trainer = TorchTrainer(TorchSettings.model_validate(SMALL), task="binary", seed=0)
    found = []

    for kind in (features, odd):
        rows = Matrix(kind, label, ["strong", "weak"])
        fitted = trainer.fit(rows.part(0, 4000), rows.part(4000, 6000))
        found.append(roc_auc_score(label[4000:], fitted.predict(features[4000:])))

    assert found[0] > 0.8
    assert found[1] == pytest.approx(found[0], abs=0.02)
    assert len(fitted.spec.edges[0]) == 17


def test_values_beyond_the_outermost_edges_are_clipped_to_them(matrix: Matrix):
    fitted = fit(matrix)
    highest = np.nanmax(matrix.features[:900, 0])
    queried = np.array([[far, 0, 1, 0] for far in (highest, highest + 1, 1e30)], dtype=np.float32)

    assert fitted.predict(queried) == pytest.approx(np.full((3, 1), fitted.predict(queried)[0]), abs=1e-6)


def test_feature_without_values_is_left_out_of_the_network(matrix: Matrix):
    spec = network_spec_for(matrix, TorchSettings(), as_task("binary"), 0)

    assert spec.numbers == [0, 1]
    assert spec.categories == {2: 6}


def test_values_that_are_equal_in_float32_are_one_bin_edge(matrix: Matrix):
    near = (1.0 + 1e-7 * (np.arange(matrix.rows) % 2)).astype(np.float32)
    near[:10] = 1e6
    features = np.column_stack([matrix.features, near])
    wider = replace(matrix, features=features, names=[*matrix.names, "near"])

    spec = network_spec_for(wider, TorchSettings(), as_task("binary"), seed=0)

    assert all(right - left > 1e-4 for edges in spec.edges for left, right in pairwise(edges))
    assert all(len(edges) >= 2 for edges in spec.edges)
    assert np.isfinite(fit(wider).predict(features)).all()


def test_regression_predicts_in_the_unit_of_the_label(matrix: Matrix):
    minutes = 600 + 100 * np.nan_to_num(matrix.features[:, 0].astype(np.float64))
    rows = Matrix(matrix.features, minutes, matrix.names, matrix.categories)

    predicted = fit(rows, task="regression", max_epochs=15).predict(rows.features)[:, 0]

    assert np.abs(predicted - minutes).mean() < 30


def test_constant_label_is_rejected(matrix: Matrix):
    with pytest.raises(TrainingError, match=r"expected labels of more than one value .* found 900 times 1"):
        fit(Matrix(matrix.features, np.ones(1200), matrix.names, matrix.categories))


def test_nan_validation_label_is_rejected(matrix: Matrix):
    label = np.where(np.arange(1200) == 1000, np.nan, matrix.label)

    with pytest.raises(TrainingError, match="torch, epoch 1: expected a validation loss that is a number, found nan"):
        fit(Matrix(matrix.features, label, matrix.names, matrix.categories))


def test_rows_without_any_value_are_rejected(matrix: Matrix):
    rows = Matrix(np.full_like(matrix.features, np.nan), matrix.label, matrix.names)

    with pytest.raises(TrainingError, match="expected a feature with more than one value, found none among 4"):
        fit(rows)


def test_importance_is_largest_for_the_decisive_feature(matrix: Matrix):
    fitted = fit(matrix)

    importance = fitted.importance()

    assert next(iter(importance)) == "strong"
    assert importance["empty"] == 0
    assert sum(importance.values()) == pytest.approx(1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests a machine without a GPU")
def test_missing_device_is_rejected_and_auto_finds_one():
    assert chosen_device(TorchSettings()).type in ("cpu", "mps")
    with pytest.raises(TrainingError, match="expected a machine with cuda, found none"):
        chosen_device(TorchSettings(device="cuda"))


def test_rows_are_resident_as_declared(matrix: Matrix):
    cpu = torch.device("cpu")

    assert [is_resident(matrix, cpu, TorchSettings(resident=how)) for how in ("auto", "always", "never")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"members": 2},
        {"width": 8},
        {"blocks": 1},
        {"dropout": 0.5},
        {"embedding_size": 2},
        {"bins": 4},
        {"learning_rate": 1e-3},
        {"weight_decay": 0.5},
        {"warmup_share": 0.5},
        {"clip_norm": 0.01},
        {"batch_rows": 50},
        {"max_epochs": 2},
        {"precision": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_setting_changes_the_model(matrix: Matrix, change: dict[str, Any]):
    assert not np.array_equal(fit(matrix, **change).predict(matrix.features), fit(matrix).predict(matrix.features))


@pytest.mark.parametrize("strict", [False, True])
def test_global_state_of_torch_is_restored(matrix: Matrix, strict: bool):
    torch.manual_seed(9)
    before = torch.get_rng_state()
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(strict)
    try:
        fit(matrix)

        assert torch.equal(torch.get_rng_state(), before)
        assert torch.get_num_threads() == threads
        assert torch.are_deterministic_algorithms_enabled() == strict
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_fits_of_several_threads_do_not_disturb_each_other(matrix: Matrix, tmp_path: Path):
    alone = fit(matrix, max_epochs=2)
    alone.save(tmp_path)

    with ThreadPoolExecutor(3) as threads:
        fits = [threads.submit(fit, matrix, max_epochs=2) for _ in range(5)]
        while not all(each.done() for each in fits):
            TorchTrainer.load(tmp_path)
        together = [each.result().history for each in fits]

    assert together == [alone.history] * 5
    assert not torch.are_deterministic_algorithms_enabled()


def test_cuda_is_configured_as_deterministic_before_it_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that monkeypatch restores it
    cuda = torch.device("cuda")

    for settings, before, after in (
        (TorchSettings(), None, ":4096:8"),
        (TorchSettings(), ":16:8", ":16:8"),
        (TorchSettings(deterministic=False), None, None),
    ):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        if before:
            monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before)
        with reproducible_fit(settings, cuda):
            assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == after
