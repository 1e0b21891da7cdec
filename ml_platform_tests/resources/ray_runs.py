"""An asset that a Ray cluster executes, and a program that runs its job as a run worker does: `ray_runs.py HOME`."""

import json
import os
import sys
from pathlib import Path

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository

from ml_platform_tests.polling import until
from resources import environment
from resources.home import HOME_VARIABLE, Home
from resources.orchestration import open_instance
from resources.ray_steps import RAY_TAG
from resources.steps_executor import steps_executor


def folder() -> Path:
    return Path(os.environ[HOME_VARIABLE])


@dg.asset(op_tags={RAY_TAG: json.dumps({"num_cpus": 1, "num_gpus": 0, "resources": {"trainer": 1}})})
def fitted() -> dg.MaterializeResult:
    attempt = len(list(folder().glob("attempt_*")))
    (folder() / f"attempt_{attempt}").write_text(os.environ["RAY_NODE"])
    until((folder() / "go").exists, seconds=300)
    return dg.MaterializeResult(metadata={"attempt": attempt, "node": os.environ["RAY_NODE"], "pid": os.getpid()})


@dg.asset(deps=[fitted])
def after_fitted() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"on_ray": "RAY_NODE" in os.environ})


defs = dg.Definitions(assets=[fitted, after_fitted], jobs=[dg.define_asset_job("fit")], executor=steps_executor)


if __name__ == "__main__":
    environment.apply()
    job = ReconstructableRepository.for_file(__file__, "defs").get_reconstructable_job("fit")
    with open_instance(Home(Path(sys.argv[1]))) as opened:
        dg.execute_job(job, opened)
