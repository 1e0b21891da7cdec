"""Computes request views by the code that a bento carries, in a process of its own.

The code of a view in this process may be newer than the version in the bento. The functions of the platform that the
views need come from the bento too.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ml_platform.data.scratch import scratch_folder
from ml_platform.serving.bento_digest import MODEL_FOLDER
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.smoke_test import bento_code_environment

TIMEOUT_SECONDS = 600

_SCRIPT = """
import json, sys
from pathlib import Path
import polars as pl
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.fitted_views import load_transformers
from ml_platform.features.request_values import run_request_view

folder, given, result, *names = sys.argv[1:]
features = FeatureSet.from_dict(json.loads((Path(folder) / "features.json").read_text()))
views = {view.name: view for view in features.views}
rows = pl.read_ipc(Path(given).read_bytes())
for name in names:
    view = views[name]
    if view.fitted is not None:
        one = load_transformers(FeatureSet([views[each] for each in (*view.inputs, name)]), Path(folder))
        rows = one.transformed(rows)
        continue
    inputs = [column for each in view.inputs for column in views[each].columns]
    clock = ["predict_at", *(["as_of"] if view.inputs else [])]
    rows = rows.hstack(run_request_view(view, rows.select(*view.fields, *clock, *inputs)))
rows.select([column for name in names for column in views[name].columns]).write_ipc(result)
"""
"""It uses no function of this release: the bento may be of an earlier one."""


def views_by_bento(bento: Path, names: Sequence[str], rows: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of the request views ``names`` for ``rows``, by the code in ``bento``, in the same order.

    ``rows`` has the request fields of the views, ``predict_at``, ``as_of`` for views with inputs, and the columns of
    inputs that are not among ``names``; an input comes before the view that reads it. A fitted view is computed by its
    transformer in the bento. The process sees the code of the bento alone; the caller has verified its content. Raises
    :class:`~.bento_sources.BentoError` when it fails.
    """
    source = bento / "src"
    with scratch_folder("bento-features") as folder:
        rows.write_ipc(folder / "rows.arrow")
        arguments = [str(source.resolve() / MODEL_FOLDER), str(folder / "rows.arrow"), str(folder / "views.arrow")]
        completed = subprocess.run(
            [sys.executable, "-c", _SCRIPT, *arguments, *names],
            cwd=source,
            env=bento_code_environment(source),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        if completed.returncode:
            # The last line alone: the lines before it may quote values of rows.
            lines = completed.stderr.strip().splitlines() or ["nothing"]
            raise BentoError(
                f"Request views of the bento {bento.name}",
                expected=f"the values of {', '.join(names)}, computed by its own code",
                found=f"exit code {completed.returncode}: {lines[-1][:500]}",
                fix="Install the libraries of the bento, or promote a candidate of today's code.",
            )
        return pl.read_ipc((folder / "views.arrow").read_bytes())
