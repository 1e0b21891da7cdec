"""A program that runs a platform whose daemon has the assets of `waiting_runs`: `waiting_platform.py HOME`."""

import sys
from pathlib import Path

from ml_platform.console.services import serving_processes
from ml_platform.console.up_hooks import up_hooks
from ml_platform.serving.processes import ProcessSpec, up
from ml_platform_tests.resources import waiting_runs
from resources.home import Home
from resources.orchestration import prepare

if __name__ == "__main__":
    home = Home(Path(sys.argv[1]))
    prepare(home)
    command = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-f", str(waiting_runs.__file__)]
    plan = serving_processes(home).model_copy(update={"processes": [ProcessSpec(name="daemon", command=command)]})
    up(plan, print, up_hooks(home, plan.run, print))
