"""The transformers of a model's fitted views: made from a declaration, fitted, and kept in a model directory."""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import polars as pl

from ml_platform.data.pii import shown_error
from ml_platform.data.references import load_function
from ml_platform.errors import PlatformError
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.transformers.transformer import FeatureTransformer, TransformerError, transformer_input
from ml_platform.features.view import FeatureView

FOLDER = "fitted"
"""Folder of a model directory with one folder for each fitted view."""

METHODS = ("fit", "transform", "save", "load")
"""Methods of every transformer."""


def transformer_class(view: FeatureView) -> type[FeatureTransformer]:
    """Return the class that the fitted ``view`` names. Raises :class:`TransformerError` when a method is missing."""
    found = load_function(view.code)
    missing = [name for name in METHODS if not callable(getattr(found, name, None))]
    if missing or not inspect.isclass(found):
        raise TransformerError(
            f"Feature view '{view.name}', fitted: {view.code}",
            expected=f"a class with the methods {', '.join(METHODS)}",
            found=f"no {', '.join(missing)}" if missing else type(found).__name__,
            fix="Write a class as ml_platform.features.transformers.transformer:FeatureTransformer describes.",
        )
    return cast("type[FeatureTransformer]", found)


def transformer_libraries(views: Iterable[FeatureView]) -> list[str]:
    """Return the packages that the transformers of the fitted ones of ``views`` name as their ``libraries``."""
    classes = [transformer_class(view) for view in views if view.fitted is not None]
    return sorted({library for each in classes for library in getattr(each, "libraries", ())})


def make_transformer(view: FeatureView) -> FeatureTransformer:
    """Return a new transformer of the fitted ``view``, with its features and parameters, for ``fit``.

    Raises :class:`TransformerError` for a class without the methods, and for parameters that it does not take.
    """
    made = transformer_class(view)
    try:
        return made(features=view.features, **view.parameters)  # type: ignore[call-arg]
    except TypeError as error:
        raise TransformerError(
            f"Feature view '{view.name}', fitted: {view.code}",
            expected="parameters that its class takes",
            found=str(error),
            fix="Correct 'parameters' of the view.",
        ) from error


def fit_transformers(features: FeatureSet, rows: pl.DataFrame, seed: int) -> FeatureSet:
    """Return ``features`` with transformers that are fitted on ``rows`` of a training set, and on no other row.

    Raises the errors of a transformer; a message that may quote a value of a column with personal data is hidden.
    """
    fitted: dict[str, FeatureTransformer] = {}
    for view in features.fitted:
        transformer = make_transformer(view)
        seen = transformer_input(rows, features.read_columns(view), view.fields)
        try:
            transformer.fit(seen, seed)
        except Exception as error:
            hidden = features.pii_columns & set(seen.columns)
            if isinstance(error, PlatformError) or not hidden:
                raise
            raise TransformerError(
                f"Feature view '{view.name}', fitted: {view.code}",
                expected="a fit on the train rows",
                found=shown_error(error, hidden),
                fix="Fix the class. Its message is hidden, because its columns identify a person.",
            ) from None
        fitted[view.name] = transformer
    return features.with_transformers(fitted) if fitted else features


def save_transformers(transformers: Mapping[str, FeatureTransformer], directory: Path) -> None:
    """Write each transformer to its folder in the model ``directory``."""
    for name, transformer in transformers.items():
        folder = directory / FOLDER / name
        folder.mkdir(parents=True)
        transformer.save(folder)


def load_transformers(features: FeatureSet, directory: Path) -> FeatureSet:
    """Return ``features`` (`features.json`) with the transformers saved in the model ``directory``.

    Raises :class:`TransformerError` when the folder of a fitted view is missing.
    """
    loaded: dict[str, FeatureTransformer] = {}
    for view in features.fitted:
        folder = directory / FOLDER / view.name
        if not folder.is_dir():
            raise TransformerError(
                f"Model directory {directory}",
                expected=f"the folder {FOLDER}/{view.name} of a fitted view",
                found="none",
                fix="Materialize the candidate again; the directory is incomplete.",
            )
        loaded[view.name] = transformer_class(view).load(folder)
    return features.with_transformers(loaded) if loaded else features
