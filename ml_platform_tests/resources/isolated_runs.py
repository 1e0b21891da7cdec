"""Assets whose steps crash, wait or compute, and a program that runs a job of them as a run worker does.

    isolated_runs.py HOME JOB [computed]

With `computed`, the process of the run computes with Polars before it executes the job.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository

from ml_platform_tests.polling import until
from resources import environment
from resources.home import HOME_VARIABLE, Home
from resources.isolated_steps import imports_tag
from resources.orchestration import open_instance
from resources.step_process import THREADS_TAG
from resources.steps_executor import ISOLATED_TAG, steps_executor

FRAME_ROWS = 100_000


def folder() -> Path:
    return Path(os.environ[HOME_VARIABLE])


@dg.asset(op_tags={ISOLATED_TAG: "true"})
def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dg.asset(op_tags=imports_tag("sklearn.linear_model", "no_such_library", "sqlite3.dump"))
def segfault() -> None:
    ctypes.string_at(0)


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
def killed_once() -> dg.MaterializeResult:
    mark = folder() / "killed_once"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return dg.MaterializeResult(metadata={"pid": os.getpid()})


@dg.asset(deps=[killed])
def after_killed() -> None: ...


@dg.asset(deps=[killed_once], check_specs=[dg.AssetCheckSpec("positive", asset="after_killed_once")])
def after_killed_once(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    print("printed in the step")
    found = context.instance.get_latest_materialization_event(dg.AssetKey("killed_once"))
    assert found is not None
    assert found.asset_materialization is not None
    return dg.MaterializeResult(
        metadata={"seen": found.asset_materialization.metadata["pid"]},
        check_results=[dg.AssetCheckResult(passed=True, check_name="positive")],
    )


@dg.asset(op_tags={THREADS_TAG: "1", **imports_tag("sklearn.linear_model", "no_such_library")})
def one_thread() -> dg.MaterializeResult:
    import polars as pl
    from threadpoolctl import threadpool_info

    return dg.MaterializeResult(
        metadata={
            "imported": [name for name in ("sklearn.linear_model", "sqlite3.dump") if name in sys.modules],
            "polars": pl.thread_pool_size(),
            "others": max(each["num_threads"] for each in threadpool_info()),
        }
    )


def _computes(number: int) -> dg.AssetsDefinition:
    @dg.asset(name=f"computes_{number}", deps=[f"computes_{number - 1}"] if number else [])
    def computes() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"total": compute(), "pid": os.getpid()})

    return computes


@dg.asset(op_tags={ISOLATED_TAG: "true"})
def computes_once() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"total": compute()})


def compute() -> int:
    """Return a sum that Polars computes in several threads."""
    import polars as pl

    frame = pl.DataFrame({"value": range(FRAME_ROWS)}).with_columns(group=pl.col("value") % 7)
    totals = frame.lazy().group_by("group").agg(pl.col("value").sum()).collect(engine="streaming")
    return int(totals["value"].sum())


@dg.asset(op_tags={ISOLATED_TAG: "true"})
def waiting() -> None:
    (folder() / "pid").write_text(str(os.getpid()))
    until((folder() / "go").exists, seconds=600)


CRASHES = [killed, segfault, killed_once, after_killed, after_killed_once, one_thread]
COMPUTES = [_computes(number) for number in range(4)]

defs = dg.Definitions(
    assets=[*CRASHES, *COMPUTES, computes_once, waiting],
    jobs=[
        dg.define_asset_job("crash", selection=dg.AssetSelection.assets(*CRASHES)),
        dg.define_asset_job("compute", selection=dg.AssetSelection.assets(*COMPUTES)),
        dg.define_asset_job("compute_once", selection=dg.AssetSelection.assets(computes_once)),
        dg.define_asset_job("wait", selection=dg.AssetSelection.assets(waiting)),
    ],
    executor=steps_executor,
)


if __name__ == "__main__":
    environment.apply()
    job = ReconstructableRepository.for_file(__file__, "defs").get_reconstructable_job(sys.argv[2])
    if sys.argv[3:] == ["computed"]:
        compute()
    with open_instance(Home(Path(sys.argv[1]))) as opened:
        dg.execute_job(job, opened)
