"""Validates the declaration of a model across its attributes, feature views and custom code.

The settings models validate single attributes. The validation here reports other errors with file and line when
definitions load; without it, a step would fail hours later, after the training.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from importlib.util import find_spec

from pydantic import ValidationError

from bento.scorer import SCORERS
from ml_platform.components.declaration import EQUAL_HOURS, HOURS, DeclarationError
from ml_platform.components.model.declaration import ModelDeclaration
from ml_platform.data.cadences import span_length
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.references import FunctionNotFoundError, load_function
from ml_platform.errors import PlatformError, listed
from ml_platform.evaluation.bootstrap import ROW_UNIT, TIME_UNITS
from ml_platform.evaluation.evidence import BASE_RATE, CANDIDATE, CHAMPION
from ml_platform.evaluation.fairness_gate import FAIRNESS_RATES, FairnessGate
from ml_platform.evaluation.gates import (
    BaselineGate,
    CalibrationGate,
    MetricLimitGate,
    PairedTestGate,
    SliceGate,
)
from ml_platform.features.fitted_views import transformer_libraries
from ml_platform.features.key_types import KEY_DTYPES
from ml_platform.features.leak import column_availability
from ml_platform.features.view import ViewError
from ml_platform.serving.bento_locks import LockError
from ml_platform.serving.bento_sources import BentoError, find_sources, require_pins
from ml_platform.steps.model import REQUEST_ONLY, BoundModel
from ml_platform.training.splits import TimeSplit, split_times
from ml_platform.training.trainer import (
    TrainerSettings,
    TrainingError,
    libraries_of,
    require_task,
    scorer_of,
    trainer_class,
    trainers_of,
)
from ml_platform.training.tuning import validate_search_space

Path = Sequence[str | int]

LONGEST_BLOCK_HOURS = {"hour": 1, "day": 25, "week": 169}
"""Length of the longest block of a unit; a clock is put back within some of them."""


def validate_declaration(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` for the first value in ``model`` on which a later step would fail.

    This imports the modules of custom trainers and their scorers, but no library of the built-in trainers.
    """
    for name, declared in model.trainers.items():
        _validate_trainer(model, name, declared)
    _validate_task(model, bound)
    _validate_pins(model, bound)
    _validate_partitions(model, bound)
    _validate_label_time(model, bound)
    _validate_request(model, bound)
    _validate_pii(model, bound)
    _validate_evaluation(model, bound)
    _validate_gates(model, bound)
    _validate_known_times(model, bound)
    _validate_baselines(model, bound)


def _validate_trainer(model: ModelDeclaration, name: str, declared: TrainerSettings) -> None:
    path = ["trainers", name]
    try:
        kind = trainer_class(declared.trainer)
    except (TrainingError, FunctionNotFoundError) as error:
        raise _located_error(model, [*path, "trainer"], error) from error
    try:
        kind.Settings.model_validate(declared.settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise model.error_at(
            [*path, "settings", *first["loc"]],
            expected=f"settings of {declared.trainer} ({listed(kind.Settings.model_fields, 10)})",
            found=f"{first['input']!r}",
            fix=f"{first['msg'].removeprefix('Value error, ')}",
        ) from error
    try:
        for scorer in filter(None, map(scorer_of, trainers_of(declared))):
            load_function(scorer)
            find_sources([scorer.partition(":")[0]])
    except (TrainingError, FunctionNotFoundError, BentoError) as error:
        raise _located_error(model, [*path, "trainer"], error) from error
    missing = [library for library in libraries_of(declared) if find_spec(library) is None]
    if missing:
        raise model.error_at(
            [*path, "trainer"],
            expected=f"the libraries of trainer '{declared.trainer}' installed",
            found=f"no package {listed(missing)}",
            fix="Run make boosting for xgboost and catboost; add others to requirements.lock in the domain's folder.",
        )
    try:
        require_task(declared, model.task)
    except (TrainingError, FunctionNotFoundError) as error:
        raise _located_error(model, [*path, "settings"], error) from error
    if not model.task.has_probabilities and declared.calibration != "none":
        raise model.error_at(
            [*path, "calibration"],
            expected="'none', because the model predicts values, not probabilities",
            found=f"'{declared.calibration_name}'",
            fix="Remove it. For intervals, declare 'interval' of a regression, or task: quantile.",
        )
    if declared.tuning is not None:
        try:
            validate_search_space(declared)
        except TrainingError as error:
            raise _located_error(model, [*path, "tuning", "space"], error) from error


def _validate_pins(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` for a library of a scorer or a request view that no lock pins for the bento.

    A project without a lock of the platform, as in tests, is not checked.
    """
    locks = None if model.repository is None else bound.locks(model.repository)
    if locks is None or not locks.platform.exists():
        return
    try:
        locks.require_usable()
    except LockError as error:
        raise _located_error(model, ["examples", "function"], error) from error
    views = [view for view in bound.views if view.kind == "request"]
    try:
        sources = find_sources(view.code.partition(":")[0] for view in views)
        require_pins([*sources.libraries, *transformer_libraries(views)], locks)
    except BentoError as error:
        raise _located_error(model, ["features"], error) from error
    for name, declared in model.trainers.items():
        scorers = [scorer_of(each) or SCORERS[each] for each in trainers_of(declared)]
        sources = find_sources(scorer.partition(":")[0] for scorer in scorers)
        try:
            require_pins([*sources.libraries, *libraries_of(declared)], locks)
        except BentoError as error:
            raise _located_error(model, ["trainers", name, "trainer"], error) from error


def _validate_known_times(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` for a column without a known time, on which the leak gate would fail."""
    if not bound.has_time or not any(gate.type == "leak" for gate in bound.gates):
        return
    try:
        column_availability(bound.feature_set)
    except ViewError as error:
        raise _located_error(model, ["features"], error) from error


def _located_error(model: ModelDeclaration, path: Path, error: PlatformError) -> DeclarationError:
    return model.error_at(path, expected=error.expected, found=f"{error.subject}: {error.found}", fix=error.fix)


def _validate_task(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` for a feature or a request field that the task reads and the model lacks."""
    for setting, feature in model.task.context_features.items():
        if feature not in bound.feature_set.feature_names:
            known = bound.feature_set.feature_names
            raise model.unknown_name_error(["task", setting], feature, known, "a feature of the model")
    for setting, name in model.task.context_fields.items():
        if name not in bound.request_fields:
            raise model.unknown_name_error(["task", setting], name, bound.request_fields, "a field of the request")


def _validate_partitions(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` for partitions without a time, and for examples that arrive in longer ones."""
    own = model.partitions
    if own is None:
        _validate_untimed(model, bound)
        return
    column = model.split.split_column
    if column is not None and column not in bound.request_fields:
        raise model.unknown_name_error(["split", "column"], column, bound.request_fields, "a field of the request")
    if not own.is_timed:
        raise model.error_at(
            ["partitions"],
            expected="partitions of time, because the split of a model is by time",
            found=own.describe(),
            fix="Declare a cadence: hour, day, week, month, quarter or year; or 'time: none' for one whole table.",
        )
    if model.first_candidate is not None and not own.names_key(model.first_candidate):
        raise model.error_at(
            ["first_candidate"],
            expected=f"a {own.cadence}, like {own.calendar.example}",
            found=f"'{model.first_candidate}'",
            fix="Name the first partition with a candidate.",
        )
    _validate_step(model, own)
    for at, name in enumerate(model.examples.sources):
        scheme = bound.dataset_scheme(name)
        if scheme is None or scheme == own:
            continue
        if not scheme.is_timed or HOURS[scheme.cadence] > HOURS[own.cadence]:
            raise model.error_at(
                ["examples", "sources", at],
                expected=f"a dataset whose partitions are not longer than those of the model, {own.describe()}",
                found=scheme.describe(),
                fix=f"Give the model the cadence of '{name}', or a longer one.",
            )


def _validate_step(model: ModelDeclaration, own: PartitionScheme) -> None:
    """Raise :class:`DeclarationError` for a step that is not a whole number of the model's partitions."""
    step = model.split.step if isinstance(model.split, TimeSplit) else None
    if step is None:
        return
    # Days have 23 to 25 hours, and months have no common length.
    has_length = own.cadence in EQUAL_HOURS and (own.cadence == "hour" or not step.endswith("h"))
    if not has_length or span_length(step) % timedelta(hours=EQUAL_HOURS[own.cadence]):
        raise model.error_at(
            ["split", "step"],
            expected=f"a whole number of partitions of the model, {own.describe()}",
            found=f"'{step}'",
            fix="Declare a multiple of the cadence, or leave the step out: then every partition ends a test part. The "
            "step of months, quarters and years is the cadence.",
        )


def _validate_untimed(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` for what needs a time, in a model with ``time: none``."""
    path: Path = ["features"]
    for view in bound.stored_views:
        path = ["features", model.features.index(view.name)] if view.name in model.features else path
        scheme = bound.view_scheme(view)
        ages = [name for name, used in (("age", view.age), ("tolerance_minutes", view.tolerance_minutes)) if used]
        if scheme is not None or ages:
            raise model.error_at(
                path,
                expected="request views, and stored views of datasets without partitions: a model with 'time: none' "
                "reads the last facts",
                found=f"'{view.name}', which has "
                + (f"partitions, {scheme.describe()}" if scheme is not None else listed(ages)),
                fix="Leave the view out, or declare partitions and prediction_time.",
            )
    if model.examples.available_from:
        raise model.error_at(
            ["examples", "available_from"],
            expected="nothing, because the model declares 'time: none'",
            found=listed(model.examples.available_from),
            fix="Remove it, or declare partitions and prediction_time.",
        )
    unit = model.evaluation.bootstrap.unit
    if unit in TIME_UNITS:
        raise model.error_at(
            ["evaluation", "bootstrap", "unit"],
            expected="'row' or a column of groups, because the model declares 'time: none'",
            found=f"'{unit}'",
            fix="Write row, or the column whose values are independent groups.",
        )


def _validate_label_time(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` for labels without a time, that begin too late, or that no validation row has."""
    if model.labels is None:
        return
    if not bound.has_time:
        raise model.error_at(
            ["labels"],
            expected="examples with labels, because the model declares 'time: none'",
            found=f"labels of '{model.labels.dataset}', which are late by a time",
            fix="Return label from the examples function, or declare partitions and prediction_time.",
        )
    scheme, own = bound.dataset_scheme(model.labels.dataset), bound.partitions
    if scheme is None or not scheme.is_timed:
        raise model.error_at(
            ["labels", "dataset"],
            expected="a dataset with partitions of time, so that it is known until when labels landed",
            found="a table that is replaced as a whole" if scheme is None else scheme.describe(),
            fix="Partition the dataset by the time at which its rows become known.",
        )
    begins = own.bounds(own.first)[0]
    if scheme.bounds(scheme.first)[0] > begins:
        raise model.error_at(
            ["labels", "dataset"],
            expected=f"labels from the first partition of the model on, {own.first}",
            found=scheme.describe(),
            fix="Begin the partitions of the labels earlier, or those of the model later.",
        )
    if not isinstance(model.split, TimeSplit):
        return
    times = split_times(own.first, own, model.split)
    if model.labels.absent is not None and times.validation_end - times.validation_start <= model.labels.wait:
        raise model.error_at(
            ["split"],
            expected=f"a validation part longer than the horizon of the labels, {model.labels.horizon}: the labels of "
            "its last rows are not due when the test part begins",
            found=f"{(times.validation_end - times.validation_start).total_seconds() / 86_400:g} days",
            fix="Declare a longer split.validation, for example twice the horizon.",
        )


def _validate_request(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` unless the request has all fields of the views, and its keys in their types."""
    try:
        features = bound.feature_set
    except ViewError as error:
        raise _located_error(model, ["features"], error) from error
    fields = {field.name: (at, field.type) for at, field in enumerate(model.request)}
    for name in features.fields:
        if name not in fields:
            needing = [view.name for view in features.views if name in (*view.entity, *view.fields)]
            raise model.unknown_name_error(
                ["request"], name, list(fields), f"all fields that the views {listed(needing)} read"
            )
    for key in features.key_fields:
        at, found = fields[key]
        expected = features.key_types.get(key, found)
        if found != expected or expected not in KEY_DTYPES:
            views = [view.name for view in features.stored if key in view.entity]
            raise model.error_at(
                ["request", at, "type"],
                expected=f"the type of the key '{key}' of feature view {listed(views)}: "
                + (f"'{expected}'" if expected in KEY_DTYPES else listed(KEY_DTYPES)),
                found=f"'{found}'",
                fix="Give the field that type, or change the type of the key in the dataset's contract or in the "
                "view's key_types; otherwise training finds facts that serving does not.",
            )


def _validate_pii(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` for a dropped field by which outcomes join, and for a time that is logged."""
    for at, field in enumerate(model.request):
        treatment = bound.pii_fields.get(field.name)
        if treatment == "drop" and field.name in bound.identity:
            raise model.error_at(
                ["request", at, "pii"],
                expected=f"a logged value of '{field.name}', which identifies an example: outcomes join by it",
                found="'drop'",
                fix="Declare pii: hash, by which outcomes still join, or leave the field out of examples.identity.",
            )
        if treatment and model.prediction_time is not None and model.prediction_time.field == field.name:
            raise model.error_at(
                ["request", at],
                expected="a time that identifies no person, because the log has the time of each prediction",
                found=f"'{field.name}', which identifies a person",
                fix="Name another field in prediction_time, or remove the mark pii of this column.",
            )


def _validate_evaluation(model: ModelDeclaration, bound: BoundModel) -> None:
    fields = bound.request_fields
    declared = model.evaluation
    _validate_own_names(model)
    if declared.primary_metric is not None:
        _validate_metric(model, ["evaluation", "primary_metric"], declared.primary_metric, intervals=False)
    for at, column in enumerate(declared.slices):
        if column not in fields:
            raise model.unknown_name_error(["evaluation", "slices", at], column, fields, "a field of the request")
        _require_shown(model, bound, ["evaluation", "slices", at], column)
    unit = declared.bootstrap.unit
    units = [*TIME_UNITS, ROW_UNIT, *fields, *bound.kept_columns]
    if unit not in units:
        path = ["evaluation", "bootstrap", "unit"]
        raise model.unknown_name_error(path, unit, units, "hour, day, week, row or a field of the request")
    _validate_blocks(model, bound)
    views = [view.name for view in bound.views if view.kind == "request"]
    for at, name in enumerate(declared.request_only):
        if name not in views:
            raise model.unknown_name_error(
                ["evaluation", "request_only", at], name, views, "a request view among the model's features"
            )


def _validate_blocks(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` for an evaluation window that holds one block of the bootstrap only."""
    unit = model.evaluation.bootstrap.unit
    if not bound.has_time or unit not in TIME_UNITS or not isinstance(model.split, TimeSplit):
        return
    own = bound.partitions
    times = split_times(own.first, own, model.split)
    hours = (times.test_end - times.test_start).total_seconds() / 3600
    # A week that begins on another day than the window would be cut in two, so only longer windows hold two blocks.
    if hours <= LONGEST_BLOCK_HOURS[unit]:
        raise model.error_at(
            ["evaluation", "bootstrap", "unit"],
            expected=f"at least two blocks in the evaluation window of {hours:g} hours",
            found=f"blocks of a {unit}",
            fix="Declare a smaller unit, or a longer split.evaluation.",
        )


def _validate_own_names(model: ModelDeclaration) -> None:
    """Raise :class:`DeclarationError` for a class of the team's own that has a name of a built-in one."""
    taken = {
        "metrics": [*model.task.metrics, "rows", "base_rate"],
        "baselines": [CANDIDATE, CHAMPION, BASE_RATE, REQUEST_ONLY],
        "monitors": ["no_drift"],
    }
    own: dict[str, tuple[list[str], Iterable[str]]] = {
        "metrics": (["evaluation", "metrics"], model.evaluation.metrics),
        "baselines": (["evaluation", "baselines"], model.evaluation.baselines),
        "monitors": (["monitors", "own"], model.monitors.own),
    }
    for attribute, names in taken.items():
        path, declared = own[attribute]
        for name in declared:
            if name in names:
                raise model.error_at(
                    [*path, name],
                    expected=f"a name that no built-in one has ({listed(names, 10)})",
                    found=f"'{name}'",
                    fix="Give it another name.",
                )


def _require_shown(model: ModelDeclaration, bound: BoundModel, path: Path, column: str) -> None:
    if column in bound.pii_columns:
        raise model.error_at(
            path,
            expected="a field whose values reports may show",
            found=f"'{column}', which identifies a person",
            fix="Slice by a coarser field, for example a region or an age group.",
        )


def _validate_gates(model: ModelDeclaration, bound: BoundModel) -> None:
    fields = [field.name for field in model.request]
    names: list[str] = []
    for at, gate in enumerate(model.gates):
        path: list[str | int] = ["gates", at]
        if gate.name in names:
            raise model.error_at(
                path,
                expected="at most one gate of a type per metric",
                found=f"a second gate '{gate.name}'",
                fix="Merge the two gates.",
            )
        names.append(gate.name)
        if isinstance(gate, CalibrationGate) and not model.task.has_probabilities:
            raise model.error_at(
                [*path, "type"],
                expected=f"a gate of task {model.task.name}",
                found="'calibration', which needs probabilities",
                fix="Declare {type: metric_limit, metric: coverage, limit: …} to check its intervals.",
            )
        if isinstance(gate, PairedTestGate | MetricLimitGate):
            _validate_metric(model, [*path, "metric"], gate.metric, intervals=True)
        if isinstance(gate, BaselineGate | SliceGate):
            _validate_metric(model, [*path, "metric"], gate.metric, intervals=False)
        for place, column in enumerate(gate.columns if isinstance(gate, SliceGate) else []):
            if column not in fields:
                raise model.unknown_name_error([*path, "columns", place], column, fields, "a field of the request")
            _require_shown(model, bound, [*path, "columns", place], column)
        if isinstance(gate, FairnessGate):
            _validate_fairness(model, bound, path, gate)


def _validate_fairness(model: ModelDeclaration, bound: BoundModel, path: Path, gate: FairnessGate) -> None:
    fields = [field.name for field in model.request]
    for place, column in enumerate(gate.groups):
        if column not in fields:
            raise model.unknown_name_error([*path, "groups", place], column, fields, "a field of the request")
        _require_shown(model, bound, [*path, "groups", place], column)
    rates = FAIRNESS_RATES.get(model.task.name, ())
    if gate.metric not in rates:
        raise model.error_at(
            [*path, "metric"],
            expected=f"one of {listed(rates)} for the task {model.task.name}" if rates else "a task with such rates",
            found=f"'{gate.metric}'",
            fix="Correct the metric." if rates else "Remove the gate: only binary and regression tasks have it.",
        )


def _validate_metric(model: ModelDeclaration, path: Path, metric: str, *, intervals: bool) -> None:
    built_in = [each for each in model.task.usable_metrics if intervals or each not in model.task.interval_metrics]
    known = [*built_in, *model.evaluation.metrics]
    if metric not in known:
        raise model.unknown_name_error(path, metric, known, f"a metric of task {model.task.name} here")


def _validate_baselines(model: ModelDeclaration, bound: BoundModel) -> None:
    """Raise :class:`DeclarationError` if the base rate is the only baseline, unless the declaration says so."""
    required: list[str] | None = None
    for at, gate in enumerate(model.gates):
        if isinstance(gate, BaselineGate) and gate.required:
            required = [*(required or []), *gate.required]
            for place, name in enumerate(gate.required):
                known = [BASE_RATE, REQUEST_ONLY, *model.task.baseline_names, *model.evaluation.baselines]
                if name not in known:
                    path: Path = ["gates", at, "required", place]
                    raise model.unknown_name_error(path, name, known, "a baseline")
    if bound.is_request_only:
        if required is not None and REQUEST_ONLY in required:
            raise model.error_at(
                ["gates"],
                expected="baselines other than the model itself, which has request features only",
                found=f"'{REQUEST_ONLY}' among those of the gate 'baseline'",
                fix="Declare {type: baseline, required: [base_rate]}, or name fewer views under "
                "evaluation.request_only.",
            )
        return
    own = model.evaluation.baselines
    if not bound.request_only and (REQUEST_ONLY in required if required is not None else not own):
        raise model.error_at(
            ["evaluation", "request_only"],
            expected="request views without inputs, for the baseline on request features alone",
            found="none among the model's features",
            fix="List request views under evaluation.request_only, or add one to 'features'. If beating the base rate "
            "is enough, declare the gate {type: baseline, required: [base_rate]}.",
        )
