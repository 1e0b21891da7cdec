"""A changed function or trainer is tried on past windows beside the champion, and nothing of it stays."""

import hashlib
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

import ml_platform as mp
from ml_platform.cli import app
from ml_platform.console import trial as console_trial
from ml_platform.console.arguments import ArgumentError
from ml_platform.features.view import ViewError
from ml_platform.session.opening import SessionError
from ml_platform_tests.components.delivery_home import PlatformFixture

FAST = {"trainer": "lightgbm", "settings": {"max_rounds": 30, "num_threads": 1}}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "from-notebook-to-asset.md"
SMALL_HOME = {
    "assets.aviation.features.history": "assets.shop_deliveries",
    "import route as declared": "import lateness as declared",
    "departure_risk": "late",
    "route": "shops",
    '"flights"': '"deliveries"',
    '"carrier"': '"shop"',
    '"OO"': '"s9"',
    "2013-06": "2013-04",
}
"""Names on the page, and their replacements for the small home in which its examples run."""


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def constant_lateness(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the facts of the shops without what they say."""
    return sources["deliveries"].select(
        "shop", pl.col("came_at").alias("known_at"), pl.lit(0.0, pl.Float32).alias("last_late")
    )


def without_distance(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("distance").cast(pl.Float32) * 0)


def test_unchanged_model_equals_the_champion_of_its_window(platform: PlatformFixture) -> None:
    with mp.open(platform.home.root) as session:
        (result,) = session.trial("late")
    assert (result.trainer, result.partition, result.champion) == ("lightgbm", "2013-04", 2)
    assert result.computed == []
    values = {each.metric: each for each in result.metrics}
    for name in ("auc", "log_loss"):
        both = values[name]
        assert both.first is not None
        assert both.second is not None
        assert both.second.value == both.first.value


def test_worse_view_is_found_worse_and_the_home_does_not_change(platform: PlatformFixture) -> None:
    before = digests(platform.home.root)
    with mp.open(platform.home.root) as session:
        found = session.trial("late", views={"order": without_distance, "shops": constant_lateness}, windows=2)
        first, second = found
        # The champion of April was fitted on the test rows of March.
        assert (first.partition, first.champion) == ("2013-03", None)
        assert (second.partition, second.champion) == ("2013-04", 2)
        assert first.computed == ["shops"]
        losses = {each.metric: each for each in second.metrics}
        assert losses["log_loss"].improvement is not None
        assert losses["log_loss"].improvement.high < 0
        # The champion reads its own features, and not those of the changed views.
        assert losses["log_loss"].first is not None
        assert losses["log_loss"].first.value == pytest.approx(session.champion("late").manifest.metrics["log_loss"])
        assert losses["log_loss"].differs
        table = found.metrics_table().filter(metric="log_loss")
        assert table["champion"].to_list()[0] is None
        assert np.isfinite(table["trial"].to_numpy()).all()
        assert repr(found).startswith("Trial of 'late' beside its champion\n")
    assert digests(platform.home.root) == before


def test_trainer_with_other_settings_is_tried(platform: PlatformFixture) -> None:
    with mp.open(platform.home.root) as session:
        stump = {"settings": {"max_rounds": 1, "num_threads": 1}}
        (changed,) = session.trial("late", trainers={"lightgbm": stump})
        added = session.trial("late", trainers={"logistic": {"trainer": "assets.logistic:LogisticTrainer"}})
        assert [each.trainer for each in added] == ["logistic"]
        with pytest.raises(SessionError, match=r"Trainer 'lightgbm'.*seed"):
            session.trial("late", trainers={"lightgbm": {"seed": "none"}})
    loss = {each.metric: each.improvement for each in changed.metrics}["log_loss"]
    assert loss is not None
    assert loss.value < 0


def test_unknown_view_and_wrong_result_are_refused(platform: PlatformFixture) -> None:
    with mp.open(platform.home.root) as session:
        with pytest.raises(SessionError, match=r"View 'shop'.*Did you mean 'shops'"):
            session.trial("late", views={"shop": constant_lateness})
        with pytest.raises(ViewError, match="last_late"):
            session.trial("late", views={"shops": lambda sources: constant_lateness(sources).drop("last_late")})


def notebook(path: Path, cells: list[str]) -> Path:
    content = {"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]}
    path.write_text(json.dumps(content))
    return path


def test_function_of_a_notebook_is_tried_without_its_other_cells(platform: PlatformFixture, tmp_path: Path) -> None:
    cells = [
        "%matplotlib inline\nimport polars as pl\nSCALE = 0",
        "%%bash\nfor each in 1 2; do echo $each; done",
        "raise RuntimeError('a cell that trains')",
        "def order(rows):\n    return rows.select(pl.col('distance').cast(pl.Float32) * SCALE)",
    ]
    file = notebook(tmp_path / "changes.ipynb", cells)
    found = console_trial.trial(platform.home, "late", 1, [f"order={file}:order"], ["lightgbm"])
    output = io.StringIO()
    console_trial.show(found, Console(file=output, width=100))
    printed = output.getvalue()
    assert "lightgbm on 2013-04, " in printed
    assert "version 2" in printed
    assert "worse" in printed
    assert "not registered" in printed
    with pytest.raises(ArgumentError, match=r"a function or class 'ordr', found 'order'. .*Did you mean 'order'"):
        console_trial.trial(platform.home, "late", 1, [f"order={file}:ordr"], [])
    with pytest.raises(ArgumentError, match="Write NAME=FILE:FUNCTION"):
        console_trial.trial(platform.home, "late", 1, ["order"], [])
    with pytest.raises(ArgumentError, match="a Python file or a notebook, found no such file"):
        console_trial.trial(platform.home, "late", 1, [f"order={tmp_path}/none.py:order"], [])


def test_function_and_class_of_a_python_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "changes.py"
    file.write_text("class Mine:\n    pass\n\n\ndef order(rows):\n    return rows\n")
    module = console_trial.read_definitions(file)
    assert (module.Mine.__name__, module.order(3)) == ("Mine", 3)


def test_code_of_the_page_runs_in_python_and_from_its_notebook(
    platform: PlatformFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text()
    for name, small in SMALL_HOME.items():
        assert name in text
        text = text.replace(name, small)
    # All blocks are matched, because the end of one without a language would look like the start of another.
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    blocks = [code for language, code in found if language == "python"]
    (shell,) = [code for language, code in found if not language]
    monkeypatch.setenv("ML_PLATFORM_HOME", str(platform.home.root))
    monkeypatch.chdir(tmp_path)

    scope: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
    scope["session"].close()
    assert set(scope["facts"].collect()["shop"]) == {"s0", "s1", "s2"}
    of_page = {each.partition: each for each in scope["trial"]}
    assert list(of_page) == ["2013-03", "2013-04"]

    notebook(tmp_path / "changes.ipynb", blocks)
    (tmp_path / "changes.py").write_text(next(block for block in blocks if "LogisticTrainer" in block).split("\n\n")[0])
    commands = [shlex.split(line)[1:] for line in shell.splitlines()]
    assert [arguments[:2] for arguments in commands] == [["try", "late"]] * 2
    views, trainers = (json.loads(run([*arguments, "--json"])) for arguments in commands)
    assert [each["computed"] for each in views] == [["shops"], ["shops"]]
    for each in views:
        values = {metric.metric: metric.second.value for metric in of_page[each["partition"]].metrics if metric.second}
        assert len(values) > 3
        assert {metric["metric"]: metric["second"]["value"] for metric in each["metrics"]} == values
    assert [each["trainer"] for each in trainers] == ["logistic"]


def run(arguments: list[str]) -> str:
    """Run `ml-platform` in this process and return its output."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout
