"""A search for settings as MLflow shows it: a nested run for each trial, its course and what mattered."""

from typing import TYPE_CHECKING

from ml_platform.evaluation.plots import importance_plot, search_plot
from ml_platform.training.tuning import OnTrial, Trial, TuningResult

if TYPE_CHECKING:
    from ml_platform.registry.tracking import TrackedRun

TRIAL_TAG, STATE_TAG = "ml_platform.trial", "ml_platform.trial_state"


def trial_logger(run: "TrackedRun") -> OnTrial:
    """Return what records each trial as a nested run of ``run``: its settings, loss, rounds and seconds."""

    def record(trial: Trial) -> None:
        tags = {TRIAL_TAG: str(trial.number), STATE_TAG: trial.state}
        with run.child(f"trial {trial.number}", tags) as child:
            child.log_params(trial.settings)
            numbers = {"validation_loss": trial.loss, "rounds": trial.rounds, "seconds": trial.seconds}
            child.log_metrics({name: float(value) for name, value in numbers.items() if value is not None})

    return record


def log_search(run: "TrackedRun", tuning: TuningResult) -> None:
    """Attach the course of the search to ``run``, and which settings mattered where enough trials tell."""
    run.log_metrics({"trials": float(len(tuning.trials)), "best_validation_loss": tuning.best_loss})
    run.log_bytes(search_plot(tuning.history()), "plots/tuning_history.png")
    if tuning.importance:
        run.log_bytes(importance_plot(tuning.importance), "plots/tuning_importance.png")
