"""Boosting rounds of one LightGBM booster, with checkpoints from which a resumed fit gives the same bits.

The random state of a booster cannot be saved. The rounds are therefore split into segments with their own seeds, and
checkpoints are written between segments. A fit resumed from a checkpoint then draws the same rows and features as an
uninterrupted fit, and both predict the same bits.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_platform.data.atomic import write_text
from ml_platform.training.checkpoint import Checkpoint, Checkpoints, fingerprint
from ml_platform.training.trainer import Matrix, ReportProgress, TrainingError

if TYPE_CHECKING:
    from lightgbm import Booster, Dataset

MODEL_FILE = "model.txt"
VALIDATION, TRAINING = "validation", "training"
SEEDS = ("bagging_seed", "feature_fraction_seed", "extra_seed", "objective_seed")
CHANGED_SHARE_FACTOR = 0.99


@dataclass(frozen=True)
class Rounds:
    """The largest number of rounds, the rounds without improvement that end the fit, and those of a segment."""

    most: int
    patience: int
    segment: int


@dataclass(frozen=True)
class Boosted:
    """A booster, its trees at the best round, the (round, validation loss) of the fit, and notes about it."""

    booster: "Booster"
    trees: int
    history: list[tuple[int, float]]
    notes: list[str]


def boost(
    parameters: Mapping[str, Any],
    rounds: Rounds,
    train: Matrix,
    validation: Matrix | None,
    *,
    seed: int,
    checkpoint: Path | None,
    identity: Mapping[str, Any],
    report: ReportProgress | None,
) -> Boosted:
    """Return the booster of ``train``, stopped early by the loss on ``validation`` if there is one.

    ``identity`` names the fit in the folder ``checkpoint``, from which a fit of the same rows resumes. Raises
    :class:`TrainingError` when the validation loss is not a number.
    """
    import lightgbm as lgb

    # LightGBM samples the rows for the bins once, before the first segment.
    parameters = {**parameters, "data_random_seed": seed}
    checkpoints = None if checkpoint is None else Checkpoints(checkpoint, fingerprint(identity, train, validation))
    resumed_from = None if checkpoints is None else checkpoints.latest()
    progress = _BoostingProgress(rounds, resumed_from, checkpoints, report)
    if resumed_from is not None and progress.is_finished():
        booster = lgb.Booster(model_file=resumed_from.folder / MODEL_FILE)
    else:
        data = _dataset(train, parameters)
        measured = [data] if validation is not None and hasattr(report, "training_loss") else []
        booster = lgb.train(
            parameters | seeds_of_segment(seed, progress.round // rounds.segment),
            data,
            num_boost_round=rounds.most - progress.round,
            valid_sets=[] if validation is None else [_dataset(validation, parameters, data), *measured],
            valid_names=[] if validation is None else [VALIDATION, *([TRAINING] if measured else [])],
            init_model=None if resumed_from is None else resumed_from.folder / MODEL_FILE,
            callbacks=[_SegmentSeeds(rounds.segment, seed, progress.round), progress],
        )
        progress.write_checkpoint(booster)
    return Boosted(booster, progress.best_trees, progress.history, progress.notes)


def seeds_of_segment(seed: int, segment: int) -> dict[str, int]:
    """Return LightGBM's seeds for the rounds of ``segment``; they differ from each other and between segments."""
    digest = hashlib.sha256(f"{seed}/{segment}".encode()).digest()
    return {name: int.from_bytes(digest[4 * at : 4 * at + 4]) >> 1 for at, name in enumerate(SEEDS)}


class _SegmentSeeds:
    """Callback that sets the segment's seeds before the first round of each segment after the first."""

    before_iteration = True

    def __init__(self, segment_rounds: int, seed: int, first_round: int) -> None:
        self.segment_rounds = segment_rounds
        self.seed = seed
        self.first_round = first_round

    def __call__(self, env: Any) -> None:
        segment, index = divmod(self.first_round + env.iteration - env.begin_iteration, self.segment_rounds)
        if index == 0 and env.iteration > env.begin_iteration:
            seeds, share = seeds_of_segment(self.seed, segment), env.params["bagging_fraction"]
            if share < 1:
                # LightGBM uses a new bagging seed only when the share changes too, and ignores it for a share of 1.
                env.model.reset_parameter({"bagging_fraction": share * CHANGED_SHARE_FACTOR})
            env.model.reset_parameter({"bagging_fraction": share, **seeds})


class _BoostingProgress:
    """Callback that records and reports each loss, writes checkpoints between segments, and stops early."""

    def __init__(
        self,
        rounds: Rounds,
        resumed_from: Checkpoint | None,
        checkpoints: Checkpoints | None,
        report: ReportProgress | None,
    ) -> None:
        self.rounds = rounds
        self.checkpoints = checkpoints
        self.report = report
        self.first_round = self.round = resumed_from.step if resumed_from else 0
        # A round without a possible split adds no tree, so the numbers of rounds and trees can differ.
        self.trees: list[int] = list(resumed_from.state["trees"]) if resumed_from else []
        self.history: list[tuple[int, float]] = (
            [(at, loss) for at, loss in resumed_from.state["history"]] if resumed_from else []
        )
        self.notes = [f"Resumed from the checkpoint after round {self.round}."] if resumed_from else []

    @property
    def best_round(self) -> int:
        """The first round with the lowest validation loss, or without validation the last round."""
        return min(self.history, key=lambda each: (each[1], each[0]))[0] if self.history else self.round

    @property
    def best_trees(self) -> int:
        """Number of trees after the best round."""
        return self.trees[self.best_round - 1]

    def is_finished(self) -> bool:
        """Return whether fitting has reached its rounds or run out of patience."""
        return self.round >= self.rounds.most or (
            bool(self.history) and self.round - self.best_round >= self.rounds.patience
        )

    def write_checkpoint(self, booster: "Booster") -> None:
        """Write a checkpoint if the fit has a checkpoint folder."""
        if self.checkpoints is not None:
            # Write all rounds, not only those up to the best: a later segment may have a better one.
            text = booster.model_to_string(num_iteration=-1)
            state = {"history": self.history, "trees": self.trees}
            self.checkpoints.write(self.round, state, lambda folder: write_text(folder / MODEL_FILE, text))

    def __call__(self, env: Any) -> None:
        from lightgbm.callback import EarlyStopException

        self.round = self.first_round + env.iteration - env.begin_iteration + 1
        self.trees.append(env.model.current_iteration())
        found = [each for each in env.evaluation_result_list or [] if each[0] == VALIDATION]
        if found:
            loss = _loss(found[0])
            if not np.isfinite(loss):
                raise TrainingError(
                    f"LightGBM, round {self.round}",
                    expected="a validation loss that is a number",
                    found=str(loss),
                    fix="Lower the learning rate, or remove infinite labels.",
                )
            self.history.append((self.round, loss))
            for each in env.evaluation_result_list or []:
                if each[0] == TRAINING and self.report is not None:
                    self.report.training_loss(self.round, _loss(each))  # type: ignore[attr-defined]
                    break  # of several metrics, the first is the loss
            if self.report is not None:
                self.report(self.round, loss)
        if self.round % self.rounds.segment == 0 and self.round < self.rounds.most:
            self.write_checkpoint(env.model)
        if self.is_finished() and self.round < self.rounds.most:
            raise EarlyStopException(env.iteration, found)


def _loss(result: Any) -> float:
    """Return the loss of one of LightGBM's results: dataset, metric, value, whether a higher value is better."""
    value = float(result[2])
    return 1 - value if result[3] else value


def _dataset(rows: Matrix, parameters: dict[str, Any], reference: "Dataset | None" = None) -> "Dataset":
    import lightgbm as lgb

    group = None
    if parameters["objective"] == "lambdarank":
        # LightGBM takes the rows of a group one after the other, and the sizes of the groups.
        order = np.argsort(rows.context["group"], kind="stable")
        group = np.unique(rows.context["group"], return_counts=True)[1]
        rows = replace(rows, features=rows.features[order], label=rows.label[order])
    return lgb.Dataset(
        rows.features,
        rows.label,
        group=group,
        feature_name=[_feature_name(name) for name in rows.names],
        categorical_feature=list(rows.categories),
        params=parameters,
        reference=reference,
    )


def _feature_name(name: str) -> str:
    # LightGBM rejects names with special characters of JSON.
    return "".join("_" if character in '[]{}":,' else character for character in name)
