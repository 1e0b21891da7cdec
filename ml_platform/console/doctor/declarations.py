"""Reads the declarations of the project in another process, because the modules of a domain may import anything."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ml_platform.console.doctor.finding import Subject, capped

LOADING_SECONDS = 120
"""Time that all domains may take to load."""

DECLARATIONS_AS_JSON = """
import json, pathlib, sys
from resources import environment
environment.apply()
from ml_platform.components.dataset.component import Dataset
from ml_platform.components.feature_view.component import FeatureView
from ml_platform.components.model.component import Model
from ml_platform.components.project import load_project
project = load_project(pathlib.Path(sys.argv[1]))
names = {kind.__name__: [each.name for each in project.components(kind)] for kind in (Dataset, FeatureView, Model)}
print(json.dumps({"not_loaded": dict(project.not_loaded), "names": names}))
"""


@dataclass(frozen=True)
class Declarations:
    """The errors of each domain that does not load, and the declared names of the others by kind."""

    not_loaded: Mapping[str, str]
    names: Mapping[str, list[str]]


@lru_cache(maxsize=1)
def read_declarations(subject: Subject) -> Declarations | str:
    """Return what the project of ``subject`` declares, or why it cannot be read."""
    command = [sys.executable, "-W", "ignore", "-c", DECLARATIONS_AS_JSON, str(subject.repository)]
    done = subprocess.run(
        command, cwd=subject.repository, capture_output=True, text=True, timeout=LOADING_SECONDS, check=False
    )
    if done.returncode != 0:
        return capped(done.stderr.splitlines()[-1:])
    return Declarations(**json.loads(done.stdout.splitlines()[-1]))
