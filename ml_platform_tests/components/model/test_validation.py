"""Errors in the declaration of a model are reported with file and line when definitions load."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.components.model.scaffolder import ModelScaffolder
from ml_platform_tests.components.project_loading import error_chain, load, make_project
from ml_platform_tests.conftest import Importable

OWN = """\
from pydantic import BaseModel

class Own:
    class Settings(BaseModel):
        depth: int = 3

    rounds_follow_rows = False
    scorer = "{scorer}"
    def fit(self): ...
    def load(self): ...

from ml_platform.evaluation.own_gate import OwnGate
from ml_platform.monitoring.own_monitor import Monitor
from ml_platform.tasks.own_metric import Metric

class Empty(OwnGate):
    pass

class Gated(OwnGate):
    limit: float = 0.5
    def evaluate(self, evidence): ...

class Cost(Metric):
    def value(self, label, prediction, weight): ...

class Watched(Monitor):
    def check(self, reference, current): ...

class Scorerless:
    Settings, rounds_follow_rows, fit, load = Own.Settings, False, None, None
"""
SCORER = "def load(model_dir): ...\n"

TRAINERS = "lightgbm: {trainer: lightgbm, settings: {num_leaves: 15}}"
EVALUATION = "evaluation: {primary_metric: log_loss, slices: [desk], request_only: [late_case_request]}"
METRIC_LIMIT = "- {type: metric_limit, metric: auc, limit: 0.6}"
OWN_METRIC = (EVALUATION, "evaluation: {metrics: {cost: 'shop.own:Cost'}, request_only: [late_case_request]}")
GATES = "gates:"
BASELINE = "- {type: baseline, metric: log_loss, required: [base_rate, request_only]}"
CALIBRATION = "- {type: calibration, maximum_ece: 0.1, maximum_bias: 0.1}"
NUMBER = "- {name: desk, type: int}"
NOT_DERIVED = ("- {name: desk, type: category", "- {name: desk_name, type: category")
"""The key `desk` is then a request field, and not a feature of the request view."""

FEATURES = "    - late_case_request\n"
PERSON = ("allowed: [a, b, c, d, e],", "pii: true,")
"""Changes the contract of the cases, so that the desk identifies a person."""

DESK_FIELD = "- {name: desk, type: string, description: Desk that works on it, examples: [a]}"
DUE_PERSON = ("- {name: due_at, type: datetime,", "- {name: due_at, pii: hash, type: datetime,")


@pytest.fixture
def project(tmp_path: Path, importable: Importable) -> Callable[..., Path]:
    """A project with the scaffolded model `late_case`, the trainer `shop.own` and its scorer `shop.scoring`."""
    make_project(tmp_path, importable)

    def write(*changes: tuple[str, str], scorer: str = "shop.scoring:load", scoring: str = SCORER) -> Path:
        folder = tmp_path / "shop" / "late_case"
        folder.mkdir(parents=True)
        ModelScaffolder().scaffold(
            dg.ScaffoldRequest(
                type_name="", target_path=folder, scaffold_format="yaml", project_root=tmp_path, params=None
            )
        )
        (tmp_path / "shop" / "own.py").write_text(OWN.replace("{scorer}", scorer))
        (tmp_path / "shop" / "scoring.py").write_text(scoring)
        text = (folder / "defs.yaml").read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (folder / "defs.yaml").write_text(text)
        return tmp_path

    return write


def trainer(declared: str) -> tuple[str, str]:
    return TRAINERS, f"mine: {{{declared}}}"


def evaluation(declared: str) -> tuple[str, str]:
    return EVALUATION, f"evaluation: {{{declared}}}"


def gate(declared: str) -> tuple[str, str]:
    return CALIBRATION, f"- {{{declared}}}"


REGRESSION = (
    ("  target:", "  task: regression\n  target:"),
    ("- {type: paired_test, metric: log_loss, margin: 0.005}", "- {type: paired_test, metric: rmse}"),
    (BASELINE, "- {type: baseline, metric: rmse}"),
    (METRIC_LIMIT, "- {type: metric_limit, metric: coverage, limit: 0.7}"),
    (EVALUATION, "evaluation: {primary_metric: rmse, slices: [desk]}"),
)
VALID_REGRESSION = (*REGRESSION, (f"    {CALIBRATION}\n", ""))


def quantiles(task: str) -> list[tuple[str, str]]:
    """Return the changes that make the model one of quantiles, with a gate that tests may replace."""
    return [
        ("- {type: paired_test, metric: log_loss, margin: 0.005}", "- {type: paired_test, metric: pinball}"),
        (BASELINE, "- {type: baseline, metric: pinball}"),
        (METRIC_LIMIT, "- {type: metric_limit, metric: coverage, limit: 0.7}"),
        (EVALUATION, "evaluation: {primary_metric: pinball, slices: [desk]}"),
        ("  target:", f"  task: {task}\n  target:"),
    ]


@pytest.mark.parametrize(
    ("changes", "attribute", "message"),
    [
        pytest.param(
            [("available_from: {done_at: [done_at, minutes_late]}", "columns: [done_at, minutes_late]")],
            "features",
            "expected for every column, when it becomes known, found Feature view 'late_case_desk', "
            "source 'late_case_cases': nothing about 'done_at', 'minutes_late'. Move columns",
            id="known time",
        ),
        pytest.param([trainer("trainer: lightgmb")], "trainers.mine.trainer", "Did you mean 'lightgbm'?", id="name"),
        pytest.param(
            [trainer("trainer: 'shop.nowhere:Own'")], "trainers.mine.trainer", "no module 'shop.nowhere'", id="module"
        ),
        pytest.param(
            [trainer("trainer: 'shop.own:Ownn'")], "trainers.mine.trainer", "a function 'Ownn' in shop.own", id="class"
        ),
        pytest.param(
            [trainer("trainer: 'shop.own:Scorerless'")], "trainers.mine.trainer", "no 'scorer'", id="no scorer"
        ),
        pytest.param(
            [trainer("trainer: 'shop.own:Own', settings: {depth: deep}")],
            "trainers.mine.settings.depth",
            "found 'deep'. Input should be a valid integer",
            id="setting",
        ),
        pytest.param(
            [trainer("trainer: lightgbm, tuning: {space: {num_leafs: {kind: int, low: 2, high: 4}}}")],
            "trainers.mine.tuning.space",
            "Did you mean 'num_leaves'?",
            id="searched setting",
        ),
        pytest.param(
            [trainer("trainer: 'shop.own:Own', tuning: {space: {dept: {kind: int, low: 2, high: 4}}}")],
            "trainers.mine.tuning.space",
            "Did you mean 'depth'?",
            id="searched setting of an own trainer",
        ),
        pytest.param(
            [*VALID_REGRESSION, trainer("trainer: lightgbm, calibration: isotonic")],
            "trainers.mine.calibration",
            "values, not probabilities, found 'isotonic'",
            id="calibration of a regression",
        ),
        pytest.param(
            [evaluation("primary_metric: rmse")],
            "evaluation.primary_metric",
            "a metric of task binary here ('auc', 'average_precision', 'recall_at_rate', 'log_loss', 'brier' …",
            id="primary metric",
        ),
        pytest.param(
            [evaluation("slices: [desc]")], "evaluation.slices.0", "found 'desc'. Did you mean 'desk'?", id="slice"
        ),
        pytest.param(
            [PERSON, evaluation("slices: [desk]")],
            "evaluation.slices.0",
            "expected a field whose values reports may show, found 'desk', which identifies a person",
            id="slice of persons",
        ),
        pytest.param(
            [PERSON, evaluation("primary_metric: log_loss"), gate("type: slices, columns: [desk]")],
            "gates.3.columns.0",
            "found 'desk', which identifies a person",
            id="gated slice of persons",
        ),
        pytest.param(
            [gate("type: fairness, groups: [desk, dsk], maximum_difference: 0.1")],
            "gates.3.groups.1",
            "Did you mean 'desk'?",
            id="group of a fairness gate",
        ),
        pytest.param(
            [gate("type: fairness, groups: [desk], metric: mean_error, maximum_difference: 0.1")],
            "gates.3.metric",
            "expected one of 'selection_rate', 'true_positive_rate', 'false_positive_rate' for the task binary, "
            "found 'mean_error'",
            id="rate of another task",
        ),
        pytest.param(
            [(DESK_FIELD, f"{DESK_FIELD[:-1]}, pii: drop}}")],
            "request.0.pii",
            "expected a logged value of 'desk', which identifies an example: outcomes join by it, found 'drop'. "
            "Declare pii: hash, by which outcomes still join, or leave the field out of examples.identity.",
            id="dropped identity",
        ),
        pytest.param(
            [DUE_PERSON],
            "request.1",
            "expected a time that identifies no person, because the log has the time of each prediction, "
            "found 'due_at', which identifies a person",
            id="time of persons",
        ),
        pytest.param(
            [evaluation("bootstrap: {unit: days}")],
            "evaluation.bootstrap.unit",
            "found 'days'. Did you mean 'day'?",
            id="unit",
        ),
        pytest.param(
            [evaluation("request_only: [late_case_desk]")],
            "evaluation.request_only.0",
            "a request view among the model's features ('late_case_request'), found 'late_case_desk'",
            id="request_only",
        ),
        pytest.param(
            [gate("type: metric_limit, metric: mae, limit: 5")], "gates.3.metric", "found 'mae'", id="metric limit"
        ),
        pytest.param([gate("type: paired_test, metric: rmse")], "gates.3.metric", "found 'rmse'", id="paired test"),
        pytest.param(
            [
                ("  target:", "  split: {evaluation: 7d}\n  target:"),
                evaluation("request_only: [late_case_request], bootstrap: {unit: week}"),
            ],
            "evaluation.bootstrap.unit",
            "at least two blocks in the evaluation window of 168 hours, found blocks of a week",
            id="one block",
        ),
        pytest.param(
            [trainer("trainer: sklearn, settings: {estimator: 'no_such_library:Model'}")],
            "trainers.mine.trainer",
            "the libraries of trainer 'sklearn' installed, found no package 'no_such_library'",
            id="library",
        ),
        pytest.param(
            [trainer("trainer: sklearn, settings: {estimator: 'sklearn.linear_model:Ridge'}")],
            "trainers.mine.settings",
            "a classifier with predict_proba for task binary, found another kind of estimator",
            id="estimator of another task",
        ),
        pytest.param(
            [OWN_METRIC, gate("type: metric_limit, metric: cots, limit: 5")],
            "gates.3.metric",
            "Did you mean 'cost'?",
            id="own metric",
        ),
        pytest.param(
            [evaluation("metrics: {brier: 'shop.own:Cost'}, request_only: [late_case_request]")],
            "evaluation.metrics.brier",
            "a name that no built-in one has",
            id="own metric with a taken name",
        ),
        pytest.param(
            [(GATES, f"monitors: {{own: {{no_drift: 'shop.own:Watched'}}}}\n  {GATES}")],
            "monitors.own.no_drift",
            "a name that no built-in one has ('no_drift')",
            id="own monitor with a taken name",
        ),
        pytest.param(REGRESSION, "gates.3.type", "'calibration', which needs probabilities", id="calibration gate"),
        pytest.param(
            [*REGRESSION, gate("type: slices, columns: [desk]")],
            "gates.3.metric",
            "a metric of task regression here ('mae', 'rmse', 'pinball'), found 'log_loss'",
            id="slices of a regression by default",
        ),
        pytest.param(
            [("  target:", "  task: {type: ranking, group: dsk}\n  target:")],
            "task.group",
            "a field of the request ('desk', 'due_at'), found 'dsk'. Did you mean 'desk'?",
            id="group that is no request field",
        ),
        pytest.param(
            quantiles("{type: quantile, season_feature: late_case_request__dsk}"),
            "task.season_feature",
            "Did you mean 'late_case_request__desk'?",
            id="seasonal naive forecast that is no feature",
        ),
        pytest.param(
            [*quantiles("quantile"), gate("type: metric_limit, metric: mase, limit: 1")],
            "gates.3.metric",
            "a metric of task quantile here ('pinball', 'mae', 'coverage'), found 'mase'",
            id="metric of a naive forecast that is not declared",
        ),
        pytest.param(
            [gate("type: slices, columns: [desk, dsk]")], "gates.3.columns.1", "Did you mean 'desk'?", id="gated slice"
        ),
        pytest.param(
            [gate("type: metric_limit, metric: auc, limit: 0.7")],
            "gates.3",
            "a second gate 'metric_limit_auc'",
            id="gate twice",
        ),
        pytest.param(
            [(BASELINE, "- {type: baseline, required: [base_rat]}")],
            "gates.1.required.0",
            "Did you mean 'base_rate'?",
            id="baseline",
        ),
        pytest.param(
            [NOT_DERIVED, ("- {name: desk, type: string, description: Desk that works on it, examples: [a]}", NUMBER)],
            "request.0.type",
            "the type of the key 'desk' of feature view 'late_case_desk': 'string', found 'int'",
            id="request field of another type than the key",
        ),
        pytest.param(
            [NOT_DERIVED, ("{name: desk, type: string, allowed: [a, b, c, d, e]", "{name: desk, type: integer")],
            "request.0.type",
            "the type of the key 'desk' of feature view 'late_case_desk': 'int', found 'string'",
            id="column of another type than the request field",
        ),
        pytest.param(
            [NOT_DERIVED, ("  entity: [desk]\n", "  entity: [desk]\n  key_types: {desk: int}\n")],
            "request.0.type",
            "the type of the key 'desk' of feature view 'late_case_desk': 'int', found 'string'",
            id="declared key type",
        ),
        pytest.param(
            [("  entity: [desk]\n", "  entity: [desk]\n  key_types: {desk: int}\n")],
            "features",
            "'late_case_request', feature 'desk', which is a key of other views",
            id="derived key of another type",
        ),
        pytest.param(
            [("{name: desk, type: string, allowed: [a, b, c, d, e]", "{name: desk, type: float")],
            "entity.0",
            "one type ('string', 'int', 'bool') of the key 'desk', found 'float' in 'late_case_cases'",
            id="column of a type that no key can have",
        ),
        pytest.param(
            [("  entity: [desk]\n", "  entity: [counter]\n")],
            "entity.0",
            "found no column of that name in 'late_case_cases'. Declare it, for example key_types: {counter: string}",
            id="key without a type",
        ),
        pytest.param(
            [("  entity: [desk]\n", "  entity: [counter]\n  key_types: {counter: int}\n")],
            "request",
            "all fields that the views 'late_case_desk' read ('desk', 'due_at'), found 'counter'",
            id="key without a request field",
        ),
        pytest.param(
            [(FEATURES, ""), evaluation("slices: [desk]")],
            "evaluation.request_only",
            "If beating the base rate is enough, declare the gate {type: baseline, required: [base_rate]}.",
            id="no request view",
        ),
    ],
)
def test_invalid_declaration_is_rejected_with_its_line(
    project: Callable[..., Path], changes: list[tuple[str, str]], attribute: str, message: str
) -> None:
    root = project(*changes)
    lines = (root / "shop/late_case/defs.yaml").read_text().splitlines()
    wrong = next(number for number, line in enumerate(lines, 1) if changes[-1][1].splitlines()[0] in line)
    with pytest.raises(Exception) as error:  # Dagster wraps the error in its own type
        load(root)
    place = f"shop/late_case/defs.yaml:{wrong}, attribute '{attribute}': expected "
    if attribute not in (
        "gates.3.type",
        "request.0.type",
        "entity.0",
        "request",
        "features",
    ):  # their line is not the changed one
        assert place in error_chain(error.value)
    assert f"attribute '{attribute}'" in error_chain(error.value)
    assert message in error_chain(error.value)


def test_renamed_gate_type_is_rejected_with_its_new_name(project: Callable[..., Path]) -> None:
    root = project((METRIC_LIMIT, "- {type: floor, metric: auc, limit: 0.6}"))
    with pytest.raises(Exception) as error:  # Dagster wraps the error in its own type
        load(root)
    assert "gates.2" in error_chain(error.value)
    assert "gate type 'floor' was renamed to metric_limit in 0.2.0" in error_chain(error.value)


@pytest.mark.parametrize(
    ("lock", "own", "attribute", "message"),
    [
        ("polars==2.1.0\n", "", "trainers.lightgbm.trainer", "for each library, found none for 'lightgbm'"),
        ("polars==2.1.0\n", "polars==1.0.0\n", "examples.function", "both pin (polars 2.1.0), found 'polars 1.0.0'"),
    ],
)
def test_library_without_a_pin_is_refused_before_any_training(
    project: Callable[..., Path], lock: str, own: str, attribute: str, message: str
) -> None:
    root = project()
    (root / "requirements.lock").write_text(lock + "numpy==2\n")
    if own:
        (root / "shop" / "late_case" / "requirements.lock").write_text(own)
    with pytest.raises(Exception) as error:  # Dagster wraps the error in its own type
        load(root)
    assert f"attribute '{attribute}'" in error_chain(error.value)
    assert message in error_chain(error.value)


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (
            evaluation("baselines: {mine: 'shop.own:Cost'}"),
            "evaluation.baselines.mine",
            "expected a subclass of ml_platform.training.own_baseline:Baseline, found a class without this base",
        ),
        (
            gate("type: 'shop.own:Empty'"),
            "gates.3",
            "expected the methods of ml_platform.evaluation.own_gate:OwnGate: 'evaluate', found no 'evaluate'",
        ),
        (gate("type: 'shop.own:Gated', limits: 1"), "gates.3.own.limits", "Did you mean 'limit'?"),
    ],
)
def test_own_class_is_refused_with_file_attribute_and_protocol(
    project: Callable[..., Path], change: tuple[str, str], place: str, message: str
) -> None:
    root = project(change)
    with pytest.raises(Exception) as error:  # Dagster wraps the error in its own type
        load(root)
    chain = error_chain(error.value)
    assert "late_case/defs.yaml" in chain
    assert place in chain
    assert message in chain


@pytest.mark.parametrize(
    ("scorer", "scoring", "message"),
    [
        ("shop.scoring:laod", SCORER, "Did you mean 'load'?"),
        ("shop.scorings:load", SCORER, "no module 'shop.scorings'"),
        ("ml_platform.training.explain:reasons", SCORER, "the entry points imports ml_platform.training.explain"),
    ],
)
def test_invalid_scorer_is_rejected_with_the_line_of_its_trainer(
    project: Callable[..., Path], scorer: str, scoring: str, message: str
) -> None:
    root = project(trainer("trainer: 'shop.own:Own'"), scorer=scorer, scoring=scoring)
    with pytest.raises(Exception) as error:  # Dagster wraps the error in its own type
        load(root)
    assert "attribute 'trainers.mine.trainer'" in error_chain(error.value)
    assert message in error_chain(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        [trainer("trainer: 'shop.own:Own', settings: {depth: 4}")],
        VALID_REGRESSION,
        # The declaration says that beating the base rate is enough.
        [(FEATURES, ""), evaluation("slices: [desk]"), (BASELINE, "- {type: baseline, required: [base_rate]}")],
        [gate("type: slices, columns: [desk]"), evaluation("primary_metric: auc, bootstrap: {unit: desk}")],
        [gate("type: fairness, groups: [desk], minimum_ratio: 0.8, metric: selection_rate")],
        [gate("type: 'shop.own:Gated', limit: 0.4"), OWN_METRIC, (METRIC_LIMIT, METRIC_LIMIT.replace("auc", "cost"))],
    ],
    ids=["as scaffolded", "own trainer", "regression", "base rate alone", "slices", "fairness", "own classes"],
)
def test_valid_declaration_loads(project: Callable[..., Path], changes: list[tuple[str, str]]) -> None:
    definitions = load(project(*changes))
    assert dg.AssetKey(["late_case", "evaluation"]) in {asset.key for asset in definitions.assets or []}  # type: ignore[union-attr]
