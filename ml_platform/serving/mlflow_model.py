"""The flavor `python_function` of a registered version: `mlflow.pyfunc.load_model` imports this module by its name.

It predicts from features, with the files and the predictor of the services, and needs neither a home nor a store.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.serving.scored_table import answer_columns

if TYPE_CHECKING:
    import pandas as pd

    from bento.predictor import Predictor


class FeatureModel:
    """A version that MLflow calls with a table of features."""

    def __init__(self, predictor: "Predictor") -> None:
        self._predictor = predictor

    def predict(self, model_input: "pd.DataFrame", params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """Return the answer of each row: ``score`` (calibrated), ``label`` if the task has one, and those of the task.

        ``model_input`` has the columns of the signature, null where a feature is unknown; ``params`` has no effect.
        Raises :class:`~ml_platform.features.encoder.EncoderError` for an absent column and one of another kind.
        """
        frame = self._predictor.features.transformed(pl.from_pandas(model_input))
        predicted, _ = self._predictor.predict_features(frame)
        answers = self._predictor.answers_to(predicted, frame)
        return answer_columns(answers).to_pandas()


def _load_pyfunc(path: str) -> FeatureModel:
    """Return the model in the folder ``path``, as MLflow requires of the module of a flavor."""
    from bento.predictor import Predictor

    # All features come with the rows, so the online store of this model stays empty.
    return FeatureModel(Predictor(Path(path), SnapshotStore(Path(path) / "online")))
