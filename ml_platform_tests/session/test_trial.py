"""A changed function or trainer is tried on past windows beside the champion, and nothing of it stays."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import ml_platform as mp
from ml_platform.console import trial as console_trial
from ml_platform.console.arguments import ArgumentError
from ml_platform.features.view import ViewError
from ml_platform.session.opening import SessionError
from ml_platform_tests.components.delivery_home import PlatformFixture

FAST = {"trainer": "lightgbm", "settings": {"max_rounds": 30, "num_threads": 1}}


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


def notebook(path: Path) -> Path:
    """Write a notebook with a view, a cell that must not run, and a command of IPython."""
    cells = [
        "%matplotlib inline\nimport polars as pl\nSCALE = 0",
        "raise RuntimeError('a cell that trains')",
        "def order(rows):\n    return rows.select(pl.col('distance').cast(pl.Float32) * SCALE)",
    ]
    content = {"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]}
    path.write_text(json.dumps(content))
    return path


def test_function_of_a_notebook_is_tried_without_its_other_cells(platform: PlatformFixture, tmp_path: Path) -> None:
    file = notebook(tmp_path / "changes.ipynb")
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
