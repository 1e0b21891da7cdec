"""The model directory: native files with a model and all that serving needs, for the registry and the bento.

`model.json` describes the model. `encoder.json`, `calibration.json`, `features.json` and `contract.json` describe how a
request becomes a probability. `fitted/` has the files of the transformers of fitted views. The trainer's own files
contain the fitted model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.data.atomic import write_json, write_text
from ml_platform.errors import PlatformError
from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.fitted_views import load_transformers, save_transformers, transformer_libraries
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task, answered_numbers
from ml_platform.training.calibration import Calibration
from ml_platform.training.candidate import Candidate
from ml_platform.training.trainer import FittedModel, scorer_of, trainer_class

FORMAT = "ml_platform/1"


class ModelDirectoryError(PlatformError):
    """Raised when a folder has no complete model, or a model of another format."""


@dataclass(frozen=True)
class StoredModel:
    """A model read back from its directory; ``features`` has its transformers, None: it has no fitted view."""

    description: Mapping[str, Any]
    task: Task
    fitted: FittedModel
    encoder: Encoder
    calibration: Calibration
    features: FeatureSet | None = None

    def predict(self, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Return the prediction of the rows of ``frame``, which has the features as columns; see :class:`Task`."""
        return self.calibration.apply(self.task.prediction(self.fitted.predict(self.matrix(frame))))

    def matrix(self, frame: pl.DataFrame) -> npt.NDArray[np.float32]:
        """Return the matrix of the model for the rows of ``frame``, which has the columns of a training set."""
        return self.encoder.transform(frame if self.features is None else self.features.transformed(frame))

    @property
    def required_columns(self) -> list[str]:
        """Columns of a training set from which the model predicts."""
        features = self.features
        if features is None:
            return list(self.encoder.feature_names)
        computed = {name for view in features.fitted for name in view.feature_names}
        read = [column for view in features.fitted for column in features.read_columns(view)]
        return list(dict.fromkeys([*(name for name in self.encoder.feature_names if name not in computed), *read]))

    def answer_numbers(self, frame: pl.DataFrame, requests: pl.DataFrame | None = None) -> npt.NDArray[np.float64]:
        """Return the numbers that an endpoint answers for the rows of ``frame``, score first.

        ``requests`` has the request fields of these rows, by default as columns of ``frame``.
        The shape is (rows,) for a task without further numbers, else (rows, numbers).
        """
        prediction = self.predict(frame)
        scores = self.task.scores(prediction)
        context = self.task.answer_context(frame if requests is None else requests)
        details = self.task.answer_details(prediction, self.calibration.half_width_at(prediction), context)
        numbers = [answered_numbers(row) for row in details or []]
        return np.column_stack([scores, numbers]) if numbers and numbers[0] else scores


def write_model(
    directory: Path,
    candidate: Candidate,
    *,
    name: str,
    target: str,
    threshold: float | None,
    features: Mapping[str, Any],
    contract: Mapping[str, Any],
) -> None:
    """Write ``candidate`` with the features it reads and the contract of its endpoint into the empty ``directory``.

    ``threshold`` is the lowest score that is answered as true, and None for a task without one. A fitted model and a
    transformer may have ``libraries``, the packages that their files need besides those that their code imports.
    """
    directory.mkdir(parents=True, exist_ok=True)
    description = {
        "format": FORMAT,
        "name": name,
        "trainer": candidate.trainer,
        "task": candidate.task.model_dump(mode="json"),
        "target": target,
        "threshold": threshold,
        "feature_names": list(candidate.encoder.feature_names),
    }
    scorer = scorer_of(candidate.trainer)
    if scorer is not None:
        description["scorer"] = scorer
    libraries = list(getattr(candidate.fitted, "libraries", []))
    if candidate.features is not None:
        libraries += transformer_libraries(candidate.features.fitted)
    if libraries:
        description["libraries"] = libraries
    write_text(directory / "encoder.json", candidate.encoder.to_json())
    write_json(directory / "calibration.json", candidate.calibration.model_dump())
    write_json(directory / "features.json", features)
    write_json(directory / "contract.json", contract)
    if candidate.features is not None:
        save_transformers(candidate.features.transformers, directory)
    candidate.fitted.save(directory)
    # Write model.json last, so a folder with this file is complete.
    write_json(directory / "model.json", description)


def read_model(directory: Path) -> StoredModel:
    """Return the model in ``directory``. Raises :class:`ModelDirectoryError` if there is no complete model."""
    description = _read_description(directory)
    return StoredModel(
        description=description,
        task=as_task(description["task"]),
        fitted=trainer_class(description["trainer"]).load(directory),
        encoder=Encoder.from_json((directory / "encoder.json").read_text()),
        calibration=Calibration.model_validate_json((directory / "calibration.json").read_text()),
        features=_fitted_features(directory),
    )


def _fitted_features(directory: Path) -> FeatureSet | None:
    stored = json.loads((directory / "features.json").read_text())
    if not any(view.get("fitted") for view in stored.get("views", [])):
        return None
    return load_transformers(FeatureSet.from_dict(stored), directory)


def _read_description(directory: Path) -> dict[str, Any]:
    path = directory / "model.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if stored.get("format") != FORMAT:
        raise ModelDirectoryError(
            f"Model directory {directory}",
            expected=f"a model.json of format {FORMAT}",
            found=f"format {stored.get('format')}" if stored else "none",
            fix="Materialize the candidate again; a folder without model.json is incomplete.",
        )
    return stored
