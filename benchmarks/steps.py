"""Time of steps by executor: in the process of their run, isolated by a fork, and by Dagster's multiprocess executor.

    python -m benchmarks.steps [--steps 10] [--heavy 4] [--json]

Each run is a program of its own in a home of its own, with `--steps` empty assets without dependencies. `total` counts
from the start of the program, `run` from the start of the run. The heavy runs have `--heavy` steps that each import
mlflow, Great Expectations, Evidently and LightGBM. `ratio` divides by the total of the isolated run of the same kind.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository

from resources import environment
from resources.home import HOME_VARIABLE, Home
from resources.isolated_steps import imports_tag
from resources.orchestration import open_instance
from resources.steps_executor import STEPS_VARIABLE, steps_executor

PROJECT = Path(__file__).resolve().parents[1]
HEAVY = ("mlflow", "great_expectations", "evidently", "lightgbm")
EXECUTORS = {"in_process": steps_executor, "isolated": steps_executor, "multiprocess": dg.multiprocess_executor}
STEPS, EXECUTOR, IS_HEAVY = "BENCHMARK_STEPS", "BENCHMARK_EXECUTOR", "BENCHMARK_HEAVY"


def _asset(number: int, *, heavy: bool) -> dg.AssetsDefinition:
    @dg.asset(name=f"step_{number}", op_tags=imports_tag(*HEAVY) if heavy else {})
    def step() -> None:
        for name in HEAVY if heavy else ():
            importlib.import_module(name)

    return step


@dg.definitions
def defs() -> dg.Definitions:
    """Return the assets that the environment of the program names."""
    heavy = os.environ[IS_HEAVY] == "1"
    return dg.Definitions(
        assets=[_asset(number, heavy=heavy) for number in range(int(os.environ[STEPS]))],
        jobs=[dg.define_asset_job("steps")],
        executor=EXECUTORS[os.environ[EXECUTOR]],
    )


def execute(home: Home) -> None:
    """Execute the steps in this process, as a run worker does, and print the seconds of the run."""
    environment.apply()
    job = ReconstructableRepository.for_module("benchmarks.steps", "defs").get_reconstructable_job("steps")
    with open_instance(home) as instance:
        job.get_definition()
        begin = time.perf_counter()
        assert dg.execute_job(job, instance).success
        print(json.dumps({"run": time.perf_counter() - begin}))


def measure(executor: str, steps: int, root: Path, *, heavy: bool) -> dict[str, float]:
    """Return the seconds of the whole program and of its run, in a new home below ``root``."""
    home = root / f"{executor}_{heavy}"
    added = {
        HOME_VARIABLE: str(home),
        STEPS: str(steps),
        EXECUTOR: executor,
        IS_HEAVY: str(int(heavy)),
        STEPS_VARIABLE: "isolated" if executor == "isolated" else "in_process",
    }
    with open_instance(Home(home)):
        pass  # a home is made once, and not by each run
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.steps", "--program", str(home)],
        cwd=PROJECT,
        env={**os.environ, **added},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    total = time.perf_counter() - begin
    return {"total": round(total, 2), "run": round(json.loads(done.stdout.splitlines()[-1])["run"], 2)}


def main() -> None:
    """Print one line per executor, or everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--heavy", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--program", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.program:
        execute(Home(given.program))
        return
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as folder:
        for name, steps, heavy in (("empty", given.steps, False), ("heavy", given.heavy, True)):
            seconds = {each: measure(each, steps, Path(folder), heavy=heavy) for each in EXECUTORS}
            base = seconds["isolated"]["total"]
            ratios = {each: round(values["total"] / base, 2) for each, values in seconds.items()}
            found[name] = {"steps": steps, "seconds": seconds, "ratio": ratios}
    if given.json:
        print(json.dumps(found))
        return
    for name in ("empty", "heavy"):
        for each, values in found[name]["seconds"].items():
            ratio = found[name]["ratio"][each]
            print(
                f"{name:6} {each:13} {values['total']:6.1f} s in total, {values['run']:6.1f} s the run, ratio {ratio}"
            )


if __name__ == "__main__":
    main()
