"""A candidate depends on the code of its own fit and features, and on its declared settings, and on nothing else."""

import importlib
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import assets
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.code_dependencies import code_dependencies
from ml_platform.features.view import FeatureView
from ml_platform.steps.candidate_inputs import (
    FIT_CODE,
    FITTED_SETTINGS,
    LATER_SETTINGS,
    LEFT_OUT,
    READ_SETTINGS,
    candidate_version,
    code_of_candidate,
    declared_inputs,
)
from ml_platform.steps.candidates import candidate_results
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.model_directory import write_model
from ml_platform.training.threshold import ThresholdSettings
from ml_platform.training.trainer import BUILT_IN, TrainerSettings
from ml_platform_tests.components.delivery_model import DOMAIN, VIEWS, delivery_model
from ml_platform_tests.conftest import Importable
from ml_platform_tests.training.test_candidate import FEATURES, split, training_set

CODE = {
    "examples": "from .labels import LATE\n\n\ndef rows(sources):\n    return sources['deliveries'].filter(LATE)\n",
    "labels": "LATE = 15\n",
    "views": (
        "from .windows import last\n\n\ndef shops(sources):\n    return last(sources)\n\n\n"
        "def other(sources):\n    return 1\n"
    ),
    "windows": "def last(sources):\n    return sources['deliveries']\n",
    "trainer": (
        "from ml_platform.training.lightgbm_trainer import LightGBMTrainer\nfrom .rounds import ROUNDS\n\n\n"
        "class Trainer(LightGBMTrainer):\n    scorer = 'shop.scorer:load'\n    rounds = ROUNDS\n"
    ),
    "rounds": "ROUNDS = 100\n",
    "scorer": "def load(folder):\n    return 1\n",
    "other_model": "from .views import other\n\n\ndef rows(sources):\n    return other(sources)\n",
}
"""A domain `shop` with two models, a custom trainer and its scorer."""


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, importable: Importable) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, source in {"__init__": "", **CODE}.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setattr(assets, "__path__", [*assets.__path__, str(DOMAIN)])
    importable(tmp_path, "shop")
    return folder


def model(**changes: Any) -> ModelAssets:
    """Return a model whose examples and first view are functions of the domain `shop`."""
    declared = delivery_model(examples={"function": "shop.examples:rows", "sources": ["deliveries"]}, **changes)
    views = [VIEWS[0].model_copy(update={"function": "shop.views:shops"}), *VIEWS[1:]]
    return ModelAssets(declared.declared, views)


def digest() -> str:
    return code_of_candidate(model(), TrainerSettings(trainer="shop.trainer:Trainer"))


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("labels", "15", "20"),
        ("examples", "filter(LATE)", "filter(LATE > 1)"),
        ("windows", "sources['deliveries']", "sources['deliveries'].head()"),
        ("trainer", "rounds =", "most_rounds ="),
        ("rounds", "100", "200"),
    ],
)
def test_changed_code_of_the_model_at_any_depth_changes_its_digest(
    domain: Path, module: str, old: str, new: str
) -> None:
    before = digest()
    assert old in CODE[module]
    (domain / f"{module}.py").write_text(CODE[module].replace(old, new))
    assert digest() != before


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("other_model", "def rows(sources):\n    return 3\n"),
        ("views", CODE["views"].replace("return 1", "return 2")),
        ("scorer", "def load(folder):\n    return 2\n"),
        ("dashboard", "X = 1\n"),
        *((name, f'"""Text."""\n\n# A comment.\n{source}\n"""Text."""\n') for name, source in CODE.items()),
    ],
)
def test_other_code_and_comments_leave_the_digest(domain: Path, module: str, source: str) -> None:
    before = digest()
    (domain / f"{module}.py").write_text(source)
    assert digest() == before


def test_declared_code_version_of_a_view_replaces_the_hash_of_its_code(domain: Path) -> None:
    def pinned() -> str:
        views = [view.model_copy(update={"code_version": "1"}) for view in model().views]
        return code_of_candidate(ModelAssets(model().declared, views), TrainerSettings())

    before = pinned()
    (domain / "windows.py").write_text("def last(sources):\n    return 2\n")
    assert pinned() == before


def test_trainers_have_digests_of_their_own(domain: Path) -> None:
    own = [TrainerSettings(trainer=name) for name in ("lightgbm", "torch", "shop.trainer:Trainer")]
    blends = [
        TrainerSettings.model_validate({"trainer": "blend", "settings": {"members": [{"trainer": name, "seeds": 2}]}})
        for name in ("lightgbm", "torch")
    ]
    assert len({code_of_candidate(model(), each) for each in [*own, *blends]}) == 5
    lightgbm = code_dependencies([*FIT_CODE, BUILT_IN["lightgbm"]], LEFT_OUT)
    assert "ml_platform.training.lightgbm_trainer:LightGBMTrainer" in lightgbm
    assert not [name for name in lightgbm if "torch_trainer" in name]


def test_code_that_only_shows_serves_or_monitors_does_not_count() -> None:
    parts = code_dependencies([*FIT_CODE, BUILT_IN["lightgbm"]], LEFT_OUT)
    assert "ml_platform.training.splits:split_by_time" in parts  # an empty list would pass
    engine = ("components", "console", "monitoring", "serving", "state")
    outside = (*(f"ml_platform.{name}" for name in engine), "resources", "bento", "assets")
    assert not [name for name in parts if name.startswith(outside)]


@pytest.mark.parametrize("reference", [*FIT_CODE, *LEFT_OUT])
def test_named_definitions_exist(reference: str) -> None:
    module, _, name = reference.partition(":")
    assert hasattr(importlib.import_module(module), name)


def test_every_function_that_runs_in_a_fit_is_in_the_digest(tmp_path: Path) -> None:
    rows, ran = split(training_set()), set()
    settings = TrainerSettings(calibration="isotonic", settings={"max_rounds": 5, "num_threads": 1})

    def note(frame: FrameType, event: str, argument: object) -> None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname.partition(".")[0]
        in_a_file = frame.f_code.co_filename.endswith(".py")  # not made by a dataclass
        if event == "call" and module.startswith("ml_platform.") and in_a_file and name[0] != "<":
            ran.add(f"{module}:{name}")

    sys.setprofile(note)
    try:
        candidate = fit_candidate(rows, FEATURES, settings, task="binary")
        results = candidate_results(candidate, rows, ThresholdSettings.model_validate({"f_beta": 1}))
        write_model(
            tmp_path / "model",
            candidate,
            name="late",
            target="late",
            threshold=results["threshold"]["value"],
            features={},
            contract={},
        )
    finally:
        sys.setprofile(None)

    parts = code_dependencies([*FIT_CODE, BUILT_IN["lightgbm"]], LEFT_OUT)
    assert "ml_platform.training.calibration:_fit_isotonic" in ran
    left_out = ("ml_platform.training.resource_usage:", "ml_platform.data.scratch:", "ml_platform.state.")
    assert {name for name in ran - set(parts) if not name.startswith(left_out)} == set()


def with_view(**changes: Any) -> ModelAssets:
    return ModelAssets(model().declared, [VIEWS[0].model_copy(update=changes), *VIEWS[1:]])


@pytest.mark.parametrize(
    "changed",
    [
        lambda: model(split={"validation_months": 2}),
        lambda: model(split={"minimum_rows": 50}),
        lambda: model(partitions={"start": "2013-01", "end": "2013-12", "time_zone": "America/New_York"}),
        lambda: ModelAssets(model().declared, VIEWS[::-1]),
        lambda: with_view(tolerance_minutes=60),
        lambda: with_view(code_version="2"),
        lambda: with_view(features=[VIEWS[0].features[0].model_copy(update={"hidden": True})]),
        lambda: with_view(features=[VIEWS[0].features[0].model_copy(update={"type": "float64"})]),
    ],
)
def test_declared_setting_that_determines_the_fit_is_an_input(domain: Path, changed: Any) -> None:
    assert declared_inputs(changed()) != declared_inputs(with_view())


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "Other text"},
        {"target": "other text"},
        {"owners": ["team:other"]},
        {"limits": ["None known"]},
        {"maximum_rows": 5},
        {"gates": [{"type": "leak"}]},
        {"monitors": {}},
        {"retraining": {"cron": "0 1 * * *"}},
    ],
)
def test_declared_text_gates_and_monitors_are_no_inputs(domain: Path, changes: dict[str, Any]) -> None:
    assert declared_inputs(model(**changes)) == declared_inputs(model())


def version(**changes: Any) -> list[str]:
    declared = model(**changes)
    return candidate_version(declared, declared.declared.trainers["lightgbm"]).split("-")


def test_version_tells_changed_code_from_a_changed_declaration(domain: Path) -> None:
    code, declaration = version()
    trainers = {"lightgbm": {"trainer": "lightgbm", "settings": {"max_rounds": 31, "num_threads": 1}}}
    assert version(description="Other text", gates=[{"type": "leak"}]) == [code, declaration]
    changed_code, other_declaration = version(trainers=trainers)
    assert changed_code == code
    assert other_declaration != declaration
    (domain / "labels.py").write_text("LATE = 20\n")
    edited_code, same_declaration = version()
    assert edited_code != code
    assert same_declaration == declaration


def test_description_of_a_feature_is_no_input(domain: Path) -> None:
    described = VIEWS[0].features[0].model_copy(update={"description": "Other text", "unit": "share"})
    assert declared_inputs(with_view(features=[described], description="Other")) == declared_inputs(with_view())


def test_every_setting_of_a_view_is_an_input_or_named_here() -> None:
    # The content hash of the training set covers the rows that these give.
    by_rows = {"sources", "lookback_days", "arrivals"}
    for_reports = {"description", "owner", "pii_columns"}
    settings = {*READ_SETTINGS, *FITTED_SETTINGS, *LATER_SETTINGS}
    assert set(FeatureView.model_fields) == {*settings, "features", *by_rows, *for_reports}
