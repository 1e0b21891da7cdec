"""Any estimator of scikit-learn's interface, saved by skops: no pickle is written or read.

The estimator gets numbers without missing values unless the declaration keeps them. It has no rounds, so early stopping
and checkpoints do not apply.
"""

import inspect
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bento.sklearn_scorer import (
    DESCRIPTION_FILE,
    MODEL_FILE,
    SklearnScorer,
    import_skops_alone,
    load,
    typical_row,
)
from ml_platform.data.atomic import write_json
from ml_platform.data.references import load_function
from ml_platform.data.settings import Settings
from ml_platform.errors import did_you_mean, listed
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task
from ml_platform.training.explain import shares
from ml_platform.training.trainer import Matrix, ReportProgress, TrainingError, require_labels

IMPORTANCE_ROWS = 200
"""Training rows, evenly spaced, whose mean absolute contributions are the importance."""

TRUSTED_TYPES = ("numpy.dtype",)
"""Types of no estimator's package that every file may hold."""

ESTIMATOR_KINDS = {"log_loss": "classifier", "multinomial": "classifier", "squared_error": "regressor"}
"""The kind of estimator for each loss of a task."""


class SklearnSettings(Settings):
    """An estimator with its settings, and the preparation of its features."""

    estimator: str = Field(
        pattern=r"^[\w.]+:\w+$",
        description="package.module:Class of the estimator, for example sklearn.linear_model:LogisticRegression.",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="Arguments of the class.")
    prepare: Literal["standard", "none"] = Field(
        default="standard",
        description="standard: means for missing values, unit variance, and a column per category; none: the encoded "
        "features as they are, for an estimator that takes missing values.",
    )
    max_categories: int = Field(
        default=50, ge=2, description="Columns of one categorical feature; rarer categories share the last one."
    )
    num_threads: int = Field(
        default=0, ge=0, description="Threads of the numerical libraries in a fit; 0: one per core."
    )
    trusted: list[str] = Field(
        default_factory=list,
        description="Further types that the file of the model may hold, as package.module.Class; those of scikit-learn "
        "and of the estimator's own package are trusted.",
    )

    @property
    def package(self) -> str:
        """Top-level package of the estimator."""
        return self.estimator.partition(".")[0].partition(":")[0]

    @property
    def libraries(self) -> list[str]:
        """Packages that a bento needs besides those that its scorer imports."""
        return [] if self.package == "sklearn" else [self.package]


class SklearnModel(SklearnScorer):
    """A fitted estimator that scores as in serving; the description has its importance."""

    def __init__(self, estimator: Any, description: dict[str, Any]) -> None:
        super().__init__(estimator, description)
        self.rounds = 1
        self.history: list[tuple[int, float]] = []
        self.notes: list[str] = []

    @property
    def libraries(self) -> list[str]:
        return list(self.description["libraries"])

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return :meth:`SklearnScorer.contributions`."""
        return self.contributions(features)

    def importance(self) -> dict[str, float]:
        return dict(self.description["importance"])

    def save(self, directory: Path) -> None:
        """Write the estimator and its description. Raises :class:`TrainingError` for types that are not trusted."""
        skops_io = import_skops_alone()
        content = skops_io.dumps(self.estimator)
        packages = ("sklearn", *self.description["libraries"])
        types = sorted(skops_io.get_untrusted_types(data=content))
        refused = [
            name
            for name in types
            if name.partition(".")[0] not in packages and name not in (*TRUSTED_TYPES, *self.description["trusted"])
        ]
        if refused:
            raise TrainingError(
                "File of the estimator",
                expected=f"types of {listed(packages)}, or types under 'trusted'",
                found=listed(refused),
                fix="Add the types to 'trusted' in the settings of the trainer if you trust their code.",
            )
        (directory / MODEL_FILE).write_bytes(content)
        write_json(directory / DESCRIPTION_FILE, {**self.description, "types": types})


class SklearnTrainer:
    """Fit one estimator on prepared features."""

    Settings = SklearnSettings
    rounds_follow_rows = False
    losses = frozenset(ESTIMATOR_KINDS)

    def __init__(self, settings: SklearnSettings, *, task: Task | str, seed: int) -> None:
        self.settings, self.task, self.seed = settings, as_task(task), seed

    @classmethod
    def require_task(cls, settings: SklearnSettings, task: Task) -> None:
        """Raise :class:`TrainingError` for an estimator that does not exist, suits another task, or lacks a setting."""
        from sklearn.base import is_classifier, is_regressor

        estimator = _make(settings, seed=0)
        if ESTIMATOR_KINDS[task.loss] == "classifier":
            needed, suits = "a classifier with predict_proba", is_classifier(estimator)
            suits = suits and hasattr(estimator, "predict_proba")
        else:
            needed, suits = "a regressor", is_regressor(estimator)
        if not suits:
            raise TrainingError(
                f"Estimator '{settings.estimator}'",
                expected=f"{needed} for task {task.name}",
                found="another kind of estimator",
                fix="Choose another estimator, or another trainer.",
            )

    def fit(
        self,
        train: Matrix,
        validation: Matrix | None = None,
        *,
        rounds: int | None = None,
        checkpoint: Path | None = None,
        report: ReportProgress | None = None,
    ) -> SklearnModel:
        """Return the fitted estimator; ``rounds`` and ``checkpoint`` have no effect. Raises :class:`TrainingError`."""
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits

        require_labels(train, self.task)
        self.require_task(self.settings, self.task)
        estimator = self._pipeline(train)
        label = train.label.astype(int) if self.task.has_probabilities else train.label
        threads = threadpool_limits(self.settings.num_threads or None)
        with threads, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            estimator.fit(train.features, label)
        model = SklearnModel(
            estimator,
            {
                "estimator": self.settings.estimator,
                "outputs": self.task.outputs,
                "probabilities": self.task.has_probabilities,
                "typical": typical_row(train.features, list(train.categories)),
                "libraries": self.settings.libraries,
                "trusted": self.settings.trusted,
            },
        )
        model.notes = list(dict.fromkeys(str(each.message) for each in caught if each.category is ConvergenceWarning))
        sample = train.features[:: max(1, train.rows // IMPORTANCE_ROWS)][:IMPORTANCE_ROWS]
        model.description = {
            **model.description,
            "importance": shares(train.names, np.abs(model.contributions(sample)).mean(axis=0)),
        }
        if validation is not None:
            losses = self.task.losses(validation.label, model.predict(validation.features))
            model.history = [(1, float(losses.mean()))]
            if report is not None:
                report(*model.history[0])
        return model

    @classmethod
    def load(cls, directory: Path) -> SklearnModel:
        """Return the estimator in ``directory``, checked as in serving."""
        scorer = load(directory)
        return SklearnModel(scorer.estimator, dict(scorer.description))

    def _pipeline(self, train: Matrix) -> Any:
        from sklearn.compose import ColumnTransformer
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        estimator = _make(self.settings, self.seed)
        if self.settings.prepare == "none":
            # Some estimators that take missing values fail on a column without any value.
            kept = np.flatnonzero(np.isfinite(train.features).any(axis=0)).tolist()
            return make_pipeline(ColumnTransformer([("kept", "passthrough", kept)]), estimator)
        categories = list(train.categories)
        numbers = [column for column in range(train.features.shape[1]) if column not in categories]
        scaled = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
        coded = OneHotEncoder(
            handle_unknown="infrequent_if_exist", max_categories=self.settings.max_categories, sparse_output=False
        )
        prepared = ColumnTransformer([("numbers", scaled, numbers), ("categories", coded, categories)])
        return make_pipeline(prepared, estimator)


def _make(settings: SklearnSettings, seed: int) -> Any:
    """Return the estimator before its fit, with ``seed`` where the declaration gives none."""
    from sklearn.base import BaseEstimator

    kind = load_function(settings.estimator)
    if not (isinstance(kind, type) and issubclass(kind, BaseEstimator)):
        raise TrainingError(
            f"Estimator '{settings.estimator}'",
            expected="a subclass of sklearn.base.BaseEstimator",
            found=f"a {type(kind).__name__}",
            fix="Name an estimator of scikit-learn's interface.",
        )
    known = [name for name in inspect.signature(kind).parameters if name != "kwargs"]
    unknown = [name for name in settings.settings if name not in known]
    if unknown:
        raise TrainingError(
            f"Estimator '{settings.estimator}'",
            expected=f"settings of {listed(known, 12)}",
            found=listed(unknown),
            fix=f"Correct the name.{did_you_mean(unknown[0], known)}",
        )
    seeded = {"random_state": seed} if "random_state" in known else {}
    return kind(**{**seeded, **settings.settings})
