"""What a model's declaration promises and cannot keep: refused when definitions load, with file and line.

Apart from the settings themselves because it takes the whole of a declaration, its feature views, and the teams' own
code to see it; without this it would be seen hours later, after the training.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ml_platform.components.declaration import DeclarationError
from ml_platform.data.references import FunctionNotFoundError, load_function
from ml_platform.errors import PlatformError, listed
from ml_platform.evaluation.evidence import BASE_RATE
from ml_platform.evaluation.gates import BaselineGate, CalibrationGate, FloorGate, PairedTestGate, SliceGate
from ml_platform.evaluation.metrics import CLASSIFICATION_METRICS, REGRESSION_METRICS
from ml_platform.serving.sources import PackageRefused, sources_of
from ml_platform.steps.model import SCHEDULE_ONLY
from ml_platform.training.trainer import BUILT_IN, TrainerSettings, TrainingError, scorer_of, trainer_class
from ml_platform.training.tuning import demand_searchable

if TYPE_CHECKING:
    from ml_platform.components.model import Model
    from ml_platform.steps.model import BoundModel

Path = Sequence[str | int]

SPANS = ("hour", "day", "week")
"""Units of time that a bootstrap can draw whole."""

OF_AN_INTERVAL = "coverage"
"""The metric of predicted intervals: baselines and slices have none, and those of validation were fitted there."""


def refuse_what_cannot_be_kept(model: "Model", bound: "BoundModel") -> None:
    """Raise :class:`DeclarationError` for the first thing in ``model`` that a later step would fail on.

    Imports the modules of the team's own trainers and of their scorers, and no library of those of the house.
    """
    for name, declared in model.trainers.items():
        _refuse_trainer(model, name, declared)
    _refuse_evaluation(model, bound)
    _refuse_gates(model)
    _refuse_baselines(model, bound)


def _refuse_trainer(model: "Model", name: str, declared: TrainerSettings) -> None:
    path = ["trainers", name]
    try:
        kind = trainer_class(declared.trainer)
        if declared.trainer not in BUILT_IN:
            scorer = str(scorer_of(declared.trainer))
            load_function(scorer)
            sources_of([scorer.partition(":")[0]])
    except (TrainingError, FunctionNotFoundError, PackageRefused) as error:
        raise _placed(model, [*path, "trainer"], error) from error
    try:
        kind.Settings.model_validate(declared.settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise model.refuse(
            [*path, "settings", *first["loc"]],
            expected=f"settings of {declared.trainer} ({listed(kind.Settings.model_fields, 10)})",
            found=f"{first['input']!r}",
            mend=f"{first['msg'].removeprefix('Value error, ')}",
        ) from error
    if model.task == "regression" and declared.calibration != "none":
        raise model.refuse(
            [*path, "calibration"],
            expected="none: the model predicts values, not probabilities",
            found=f"'{declared.calibration}'",
            mend="Take it away; how sure a value is, 'interval' says.",
        )
    if declared.tuning is not None:
        try:
            demand_searchable(declared)
        except TrainingError as error:
            raise _placed(model, [*path, "tuning", "space"], error) from error


def _placed(model: "Model", path: Path, error: PlatformError) -> DeclarationError:
    return model.refuse(path, expected=error.expected, found=f"{error.thing}: {error.found}", mend=error.mend)


def _refuse_evaluation(model: "Model", bound: "BoundModel") -> None:
    fields = bound.request_fields
    declared = model.evaluation
    if declared.primary_metric is not None:
        _refuse_metric(model, ["evaluation", "primary_metric"], declared.primary_metric, intervals=False)
    for at, column in enumerate(declared.slices):
        if column not in fields:
            raise model.refuse_name(["evaluation", "slices", at], column, fields, "a field of the request")
    unit = declared.bootstrap.unit
    if unit not in (*SPANS, *fields):
        path, units = ["evaluation", "bootstrap", "unit"], [*SPANS, *fields]
        raise model.refuse_name(path, unit, units, "hour, day, week or a field of the request")
    views = [view.name for view in bound.views if view.kind == "request"]
    for at, name in enumerate(declared.schedule_only):
        if name not in views:
            raise model.refuse_name(
                ["evaluation", "schedule_only", at], name, views, "a request view among the model's features"
            )


def _refuse_gates(model: "Model") -> None:
    fields = [field.name for field in model.request]
    names: list[str] = []
    for at, gate in enumerate(model.gates):
        path: list[str | int] = ["gates", at]
        if gate.name in names:
            raise model.refuse(
                path,
                expected="each gate once per metric",
                found=f"'{gate.name}' a second time",
                mend="Merge the two.",
            )
        names.append(gate.name)
        if isinstance(gate, CalibrationGate) and model.task == "regression":
            raise model.refuse(
                [*path, "type"],
                expected="a gate of a regression",
                found="'calibration', which is about probabilities",
                mend="Declare {type: floor, metric: coverage, limit: …} for its intervals.",
            )
        if isinstance(gate, PairedTestGate | FloorGate):
            _refuse_metric(model, [*path, "metric"], gate.metric, intervals=True)
        if isinstance(gate, BaselineGate | SliceGate):
            _refuse_metric(model, [*path, "metric"], gate.metric, intervals=False)
        for place, column in enumerate(gate.columns if isinstance(gate, SliceGate) else []):
            if column not in fields:
                raise model.refuse_name([*path, "columns", place], column, fields, "a field of the request")


def _refuse_metric(model: "Model", path: Path, metric: str, *, intervals: bool) -> None:
    of_task = CLASSIFICATION_METRICS if model.task == "classification" else REGRESSION_METRICS
    known = [each for each in of_task if intervals or each != OF_AN_INTERVAL]
    if metric not in known:
        raise model.refuse_name(path, metric, known, f"a metric of a {model.task} here")


def _refuse_baselines(model: "Model", bound: "BoundModel") -> None:
    """Refuse a model of which only the base rate would be beaten without anybody having said so."""
    required: list[str] | None = None
    for at, gate in enumerate(model.gates):
        if isinstance(gate, BaselineGate) and gate.required:
            required = [*(required or []), *gate.required]
            for place, name in enumerate(gate.required):
                if name not in (BASE_RATE, SCHEDULE_ONLY):
                    path: Path = ["gates", at, "required", place]
                    raise model.refuse_name(path, name, [BASE_RATE, SCHEDULE_ONLY], "a baseline")
    if not bound.schedule_only and (required is None or SCHEDULE_ONLY in required):
        raise model.refuse(
            ["evaluation", "schedule_only"],
            expected="a baseline that knows the request alone: request views that read no other view",
            found="none among the model's features",
            mend="Name request views under evaluation.schedule_only, add one to 'features', or say that beating the "
            "base rate is enough: {type: baseline, required: [base_rate]} among the gates.",
        )
