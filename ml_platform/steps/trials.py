"""Logs a hyperparameter search to MLflow: one nested run per trial, the history and the importance of settings."""

from typing import TYPE_CHECKING

from ml_platform.evaluation.plots import importance_plot, search_plot
from ml_platform.training.tuning import OnTrial, Trial, TuningResult

if TYPE_CHECKING:
    from ml_platform.registry.tracking import TrackedRun

TRIAL_TAG, STATE_TAG = "ml_platform.trial", "ml_platform.trial_state"


def trial_logger(run: "TrackedRun") -> OnTrial:
    """Return a callback that logs a trial as a nested run of ``run``: settings, loss, rounds and seconds."""

    def record(trial: Trial) -> None:
        tags = {TRIAL_TAG: str(trial.number), STATE_TAG: trial.state}
        with run.child(f"trial {trial.number}", tags) as child:
            child.log_params(trial.settings)
            numbers = {"validation_loss": trial.loss, "rounds": trial.rounds, "seconds": trial.seconds}
            child.log_metrics({name: float(value) for name, value in numbers.items() if value is not None})

    return record


def log_search(run: "TrackedRun", tuning: TuningResult) -> None:
    """Log the plots of a search to ``run``: best loss by trial and, with enough trials, importance of the settings."""
    run.log_metrics({"trials": float(len(tuning.trials)), "best_validation_loss": tuning.best_loss})
    run.log_bytes(search_plot(tuning.history()), "plots/tuning_history.png")
    if tuning.importance:
        run.log_bytes(importance_plot(tuning.importance), "plots/tuning_importance.png")
