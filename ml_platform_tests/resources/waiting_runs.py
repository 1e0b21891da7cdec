"""Assets that wait until a file exists, and a program that materializes them in its own process.

As a program (`waiting_runs.py HOME ASSET`) it runs until a test kills it or makes the file. As a code location it gives
a daemon runs that a test can kill.
"""

import os
import sys
from pathlib import Path

import dagster as dg

from ml_platform.console.runs import execute
from ml_platform.data.scratch import scratch_folder
from ml_platform_tests.polling import until
from resources.home import HOME_VARIABLE, Home
from resources.orchestration import GPU_POOL, open_instance


def _wait() -> None:
    until((Path(os.environ[HOME_VARIABLE]) / "go").exists, seconds=600)


@dg.asset
def waiting() -> None:
    with scratch_folder("waiting"):
        _wait()


@dg.asset(pool=GPU_POOL)
def waiting_with_a_slot() -> None:
    _wait()


@dg.asset(pool=GPU_POOL)
def needs_the_slot() -> None: ...


@dg.asset
def quick() -> None: ...


defs = dg.Definitions(
    assets=[waiting, waiting_with_a_slot, needs_the_slot, quick],
    jobs=[dg.define_asset_job("wait", selection="waiting"), dg.define_asset_job("be_quick", selection="quick")],
    executor=dg.in_process_executor,
)


if __name__ == "__main__":
    with open_instance(Home(Path(sys.argv[1]))) as opened:
        execute(defs, opened, [dg.AssetKey(sys.argv[2])])
