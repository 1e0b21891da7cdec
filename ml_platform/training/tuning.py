"""Search for trainer settings on the validation rows by Optuna, with a budget, pruning, and resumption after a kill.

The study is stored in a database: a SQLite file, or Postgres if several machines read it. Its name contains the digest
of rows and search, so trials on other data never count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ValidationError

from ml_platform.errors import did_you_mean, listed
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task
from ml_platform.training.checkpoint import fingerprint
from ml_platform.training.search_space import Choices, FloatRange, SearchRange, TuningSettings
from ml_platform.training.trainer import (
    Matrix,
    Trainer,
    TrainerSettings,
    TrainingError,
    make_trainer,
    trainer_class,
)

if TYPE_CHECKING:
    import optuna

ROUNDS_ATTRIBUTE = "rounds"
REJECTED_ATTRIBUTE = "refused"
MINIMUM_TRIALS_FOR_IMPORTANCE = 4
BOOSTING_PRUNING_STEPS = (10, 30)
"""Boosting rounds between two pruning checks, and rounds before the first check."""
EPOCH_PRUNING_STEPS = (1, 1)
"""Epochs between two pruning checks, and epochs before the first check; a fit has few epochs."""
FRACTIONAL_SHARE = 0.381966
"""Position within a range, as a share, that is unlikely to be a whole number."""


@dataclass(frozen=True)
class Trial:
    """One trial with its settings, duration and validation loss.

    The loss of a pruned trial is the last reported one, and that of a failed trial is None.
    """

    number: int
    state: str
    settings: dict[str, Any]
    loss: float | None
    rounds: int | None
    seconds: float


@dataclass(frozen=True)
class TuningResult:
    """Result of a search: the settings of the best trial, all trials in order, and the importance of settings.

    ``importance`` is each setting's share of the variance of the loss, largest first, and empty for fewer than four
    trials (fANOVA: Hutter, Hoos and Leyton-Brown 2014, An efficient approach for assessing hyperparameter importance).
    """

    best: dict[str, Any]
    best_loss: float
    trials: list[Trial]
    importance: dict[str, float]

    def history(self) -> list[tuple[int, float]]:
        """Return (trial, lowest loss so far) of the completed trials."""
        lowest, found = float("inf"), []
        for trial in self.trials:
            if trial.state == "COMPLETE" and trial.loss is not None:
                lowest = min(lowest, trial.loss)
                found.append((trial.number, lowest))
        return found


OnTrial = Callable[[Trial], None]


def tune(
    train: Matrix,
    validation: Matrix,
    declared: TrainerSettings,
    task: Task | str,
    *,
    storage: str | None = None,
    on_trial: OnTrial | None = None,
) -> TuningResult:
    """Return the settings in ``declared.tuning`` with the lowest validation loss; the first trial has declared ones.

    ``storage`` is the URL of the database (None: memory, which cannot be resumed). Trials of an earlier, killed call
    count towards the budget. Trials that it left running are repeated, so only one process may work on a study. The
    draws depend on the seed and on the number of finished trials: uninterrupted searches are equal, and a resumed
    search draws other settings. Settings that the trainer rejects count as a failed trial. ``on_trial`` is called
    after each trial of this call, in the thread of the trial.

    Raises :class:`TrainingError` when the space is invalid (see :func:`validate_search_space`) or no trial completed.
    """
    import optuna

    search = declared.tuning
    if search is None:
        raise TrainingError("Tuning", expected="a search space", found="none", fix="Declare 'tuning' of the trainer.")
    validate_search_space(declared)
    task = as_task(task)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    identity = declared.model_dump(include={"trainer", "seed", "settings"}) | {
        "space": {name: each.model_dump() for name, each in search.space.items()},
        "task": task.model_dump(),
    }
    interval, warmup = _pruning_steps(declared, search)
    study = optuna.create_study(
        storage=storage,
        study_name=f"{declared.trainer}/{fingerprint(identity, train, validation)[:16]}",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=warmup, interval_steps=interval)
        if search.pruning
        else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    _queue_trials(study, declared, search)
    ended_before = sum(each.state.is_finished() for each in study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(
        seed=_sampler_seed(search.seed, ended_before), constant_liar=search.parallel > 1
    )

    def objective(trial: "optuna.Trial") -> float:
        trial_settings = {name: _suggest(trial, name, each) for name, each in search.space.items()}

        def report(step: int, loss: float) -> None:
            if search.pruning and step % interval == 0:
                trial.report(loss, step)
                if trial.should_prune():
                    raise optuna.TrialPruned

        try:
            fitted = _trainer_with(declared, trial_settings, task).fit(train, validation, report=report)
        except TrainingError as error:
            trial.set_user_attr(REJECTED_ATTRIBUTE, str(error))
            raise
        trial.set_user_attr(ROUNDS_ATTRIBUTE, fitted.rounds)
        return min(loss for _, loss in fitted.history)

    def report_ended(_: "optuna.Study", frozen: "optuna.trial.FrozenTrial") -> None:
        if on_trial is not None:
            on_trial(_trial_record(frozen))

    remaining = search.trials - len([each for each in study.trials if _counts_towards_budget(each)])
    if remaining > 0:
        study.optimize(
            objective,
            n_trials=remaining,
            timeout=None if search.minutes is None else search.minutes * 60,
            n_jobs=search.parallel,
            catch=(TrainingError,),
            callbacks=[report_ended],
        )
    return _tuning_result(study)


def validate_search_space(declared: TrainerSettings) -> None:
    """Raise :class:`TrainingError` when the search space of ``declared.tuning`` is invalid.

    Each name must be a setting of the trainer, and each value must be valid for this setting. A logarithmic range must
    be above 0. Invalid combinations of settings are found only in their trials. Without tuning, nothing is checked.
    """
    if declared.tuning is None:
        return
    settings_class, space = trainer_class(declared.trainer).Settings, declared.tuning.space
    subject = f"Tuning of '{declared.trainer}'"
    unknown = [name for name in space if name not in settings_class.model_fields]
    if unknown:
        raise TrainingError(
            subject,
            expected=f"settings of the trainer: {listed(settings_class.model_fields, 40)}",
            found=listed(unknown),
            fix=f"Correct 'tuning.space'.{did_you_mean(unknown[0], settings_class.model_fields)}",
        )
    for name, each in space.items():
        if not isinstance(each, Choices) and each.log and each.low <= 0:
            raise TrainingError(
                subject,
                expected=f"'{name}' with a low above 0 for a search on a logarithmic scale",
                found=f"low {each.low}",
                fix="Raise 'low', or set log: false.",
            )
        for value in _probe_values(each):
            message = _rejection_message(settings_class, {**declared.settings, name: value}, name)
            if message:
                raise TrainingError(
                    subject,
                    expected=f"values of '{name}' that the trainer accepts",
                    found=f"{value!r}: {message}",
                    fix=f"Correct 'tuning.space.{name}'.",
                )


def _probe_values(each: SearchRange) -> list[Any]:
    if isinstance(each, Choices):
        return list(each.values)
    # A fraction between the bounds detects a setting that accepts whole numbers only.
    between = [each.low + (each.high - each.low) * FRACTIONAL_SHARE] if isinstance(each, FloatRange) else []
    return [each.low, each.high, *between]


def _rejection_message(settings_class: type[BaseModel], settings: dict[str, Any], name: str) -> str | None:
    """Return the message with which ``settings_class`` rejects the setting ``name``, or None."""
    try:
        settings_class.model_validate(settings)
    except ValidationError as error:
        return next((each["msg"] for each in error.errors() if each["loc"][:1] == (name,)), None)
    return None


def with_settings(declared: TrainerSettings, trial_settings: dict[str, Any]) -> TrainerSettings:
    """Return ``declared`` with ``trial_settings`` in place of its own values, validated."""
    return TrainerSettings.model_validate(declared.model_dump() | {"settings": {**declared.settings, **trial_settings}})


def _sampler_seed(seed: int, ended_before: int) -> int:
    # With the same seed, a resumed search would draw the settings of the first trials again.
    return seed if ended_before == 0 else int(np.random.SeedSequence([seed, ended_before]).generate_state(1)[0])


def _pruning_steps(declared: TrainerSettings, search: TuningSettings) -> tuple[int, int]:
    """Return the rounds between two pruning checks and the rounds before the first, as declared or by default."""
    interval, warmup = (
        BOOSTING_PRUNING_STEPS if trainer_class(declared.trainer).rounds_follow_rows else EPOCH_PRUNING_STEPS
    )
    return (
        interval if search.pruning_interval_steps is None else search.pruning_interval_steps,
        warmup if search.pruning_warmup_steps is None else search.pruning_warmup_steps,
    )


def _trainer_with(declared: TrainerSettings, trial_settings: dict[str, Any], task: Task) -> Trainer:
    """Return the trainer of one trial. Raises :class:`TrainingError` for an invalid combination of settings."""
    try:
        return make_trainer(with_settings(declared, trial_settings), task)
    except ValidationError as error:
        raise TrainingError(
            f"Trial of '{declared.trainer}'",
            expected="settings that the trainer accepts together",
            found="; ".join(each["msg"] for each in error.errors()),
            fix="Narrow 'tuning.space' to valid combinations.",
        ) from error


def _queue_trials(study: "optuna.Study", declared: TrainerSettings, search: TuningSettings) -> None:
    """Queue the declared settings in a new study; in an existing one, queue the interrupted trials again."""
    from optuna.trial import TrialState

    if not study.trials:
        fields = trainer_class(declared.trainer).Settings.model_fields
        declared_values = {
            name: declared.settings.get(name, fields[name].get_default(call_default_factory=True))
            for name in search.space
        }
        first_trial = {
            name: declared_values[name]
            for name, each in search.space.items()
            if _is_in_range(declared_values[name], each)
        }
        if first_trial:
            study.enqueue_trial(first_trial)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _is_in_range(value: Any, each: SearchRange) -> bool:
    if isinstance(each, Choices):
        return value in each.values
    # The default of a setting may be None or a string.
    return isinstance(value, int | float) and each.low <= value <= each.high


def _suggest(trial: "optuna.Trial", name: str, each: SearchRange) -> Any:
    if isinstance(each, Choices):
        return trial.suggest_categorical(name, each.values)
    if isinstance(each, FloatRange):
        return trial.suggest_float(name, each.low, each.high, log=each.log)
    return trial.suggest_int(name, each.low, each.high, log=each.log)


def _counts_towards_budget(trial: "optuna.trial.FrozenTrial") -> bool:
    # A failed trial that was not rejected was interrupted by a kill and is repeated.
    return trial.state.is_finished() and (trial.state.name != "FAIL" or REJECTED_ATTRIBUTE in trial.user_attrs)


def _trial_record(trial: "optuna.trial.FrozenTrial") -> Trial:
    loss = trial.value if trial.value is not None else next(iter(reversed(trial.intermediate_values.values())), None)
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    rounds = trial.user_attrs.get(ROUNDS_ATTRIBUTE)
    return Trial(trial.number, trial.state.name, dict(trial.params), loss, rounds, seconds)


def _tuning_result(study: "optuna.Study") -> TuningResult:
    import optuna

    trials = [_trial_record(each) for each in study.trials if _counts_towards_budget(each)]
    complete = [each for each in trials if each.state == "COMPLETE" and each.loss is not None]
    if not complete:
        raise TrainingError(
            f"Tuning '{study.study_name}'",
            expected="a completed trial",
            found=f"none of {len(trials)}",
            fix="Increase the budget, or narrow the space to settings that can be fitted.",
        )
    best = min(complete, key=lambda each: (each.loss, each.number))
    importance: dict[str, float] = {}
    if len(complete) >= MINIMUM_TRIALS_FOR_IMPORTANCE and len({each.loss for each in complete}) > 1:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert best.loss is not None
    return TuningResult(best.settings, best.loss, trials, importance)
