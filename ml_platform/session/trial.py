"""A trial from a notebook: functions and settings in place of declared ones, evaluated beside the champion."""

import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import polars as pl

from ml_platform.errors import did_you_mean, listed
from ml_platform.session.opening import SessionError
from ml_platform.session.records import Records
from ml_platform.steps.trial_run import TrialResult, TriedAgainst, try_window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_platform.data.lake import Lake
    from ml_platform.steps.model import BoundModel
    from ml_platform.training.resource_usage import PriceList

MODULE = "ml_platform_trial"
"""Module in which the tried functions and classes are found by their references."""

Views = Mapping[str, Callable[..., Any]]
Trainers = Mapping[str, Mapping[str, Any]]


class Trial(Records[TrialResult]):
    """The results of a trial, one for each trainer and window."""

    def metrics_table(self) -> pl.DataFrame:
        """Return one row for each metric of each result: champion, trial, and the improvement with its interval."""
        rows = [
            {
                "trainer": each.trainer,
                "partition": each.partition,
                "metric": metric.metric,
                "champion": None if metric.first is None else metric.first.value,
                "trial": None if metric.second is None else metric.second.value,
                "improvement": None if metric.improvement is None else metric.improvement.value,
                "low": None if metric.improvement is None else metric.improvement.low,
                "high": None if metric.improvement is None else metric.improvement.high,
            }
            for each in self
            for metric in each.metrics
        ]
        numbers = dict.fromkeys(("champion", "trial", "improvement", "low", "high"), pl.Float64)
        texts = dict.fromkeys(("trainer", "partition", "metric"), pl.String)
        return pl.DataFrame(rows, schema={**texts, **numbers})

    def __repr__(self) -> str:
        with pl.Config(tbl_rows=60, tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True):
            return f"{self.title}\n{self.metrics_table()}"

    def _repr_html_(self) -> str:
        with pl.Config(tbl_rows=60, tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True):
            return f"<p>{self.title}</p>{self.metrics_table()._repr_html_()}"


def run_trial(
    model: "BoundModel",
    lake: "Lake",
    *,
    windows: int,
    views: Views,
    trainers: Trainers,
    champion: TriedAgainst | None,
    default_trainer: str | None,
    prices: "PriceList",
    now: datetime,
) -> Trial:
    """Return the results of the last ``windows`` windows; see :meth:`~.session.Session.trial`."""
    from ml_platform.data.overlay_lake import OverlayLake
    from ml_platform.data.scratch import scratch_folder

    with _tried_module() as module, scratch_folder("try") as folder:
        changed = changed_model(model, views, trainers, module)
        names = list(trainers) or ([default_trainer] if default_trainer in model.declared.trainers else [])
        # A change of the code gives the training set another table, which may be absent.
        tables = [name for name in lake.catalog.tables() if name.startswith(f"models/{model.name}/training_set/")]
        known = model.partitions.sort({key for name in tables for key in lake.partitions(name)})
        chosen = [key for key in known if len(known) - known.index(key) <= windows]
        if not chosen:
            raise SessionError(
                f"Trial of '{model.name}'",
                expected="at least one materialized partition of its training set",
                found="none",
                fix=f"Materialize {model.name}/training_set first.",
            )
        overlay = OverlayLake(Path(folder), lake)
        try:
            found = [
                result
                for key in chosen
                for result in try_window(
                    changed,
                    key,
                    names or list(changed.declared.trainers),
                    overlay,
                    champion=champion,
                    prices=prices,
                    now=now,
                )
            ]
        finally:
            overlay.state.close()
    return Trial(f"Trial of '{model.name}' beside its champion", TrialResult, found)


def changed_model(model: "BoundModel", views: Views, trainers: Trainers, module: ModuleType) -> "BoundModel":
    """Return ``model`` with the functions ``views`` and the declarations ``trainers`` in place of its own.

    Raises :class:`~.opening.SessionError` for a view that the model does not have, and for an invalid trainer.
    """
    from pydantic import ValidationError

    from ml_platform.steps.model import BoundModel
    from ml_platform.training.trainer import TrainerSettings

    known = {view.name: view for view in model.views}
    for name, function in views.items():
        if name not in known or known[name].fitted is not None:
            raise SessionError(
                f"View '{name}'",
                expected=f"a view of '{model.name}' with a function: {listed(known, 30)}",
                found="no such view",
                fix=f"Correct the name, or declare the view first.{did_you_mean(name, known)}",
            )
        setattr(module, f"view_{name.replace('.', '_')}", function)
        changed = {"function": f"{MODULE}:view_{name.replace('.', '_')}", "code_version": "trial"}
        known[name] = known[name].model_copy(update=changed).versioned()
    declared = dict(model.declared.trainers)
    for name, settings in trainers.items():
        of_trainer = dict(settings)
        if isinstance(of_trainer.get("trainer"), type):
            setattr(module, of_trainer["trainer"].__name__, of_trainer["trainer"])
            of_trainer["trainer"] = f"{MODULE}:{of_trainer['trainer'].__name__}"
        base = declared[name].model_dump(exclude_unset=True) if name in declared else {}
        try:
            declared[name] = TrainerSettings.model_validate({**base, **of_trainer})
        except ValidationError as error:
            raise SessionError(
                f"Trainer '{name}'",
                expected="the attributes of a trainer in defs.yaml",
                found="; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()),
                fix="Correct the settings.",
            ) from error
    tried = model.declared.model_copy(update={"trainers": declared})
    return BoundModel(tried, [known[view.name] for view in model.views], model.example_pii, model.schemes)


@contextmanager
def _tried_module() -> "Iterator[ModuleType]":
    module = ModuleType(MODULE, "Functions and classes of a trial.")
    module.__spec__ = ModuleSpec(MODULE, None)
    sys.modules[MODULE] = module
    try:
        yield module
    finally:
        del sys.modules[MODULE]
