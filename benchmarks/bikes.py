"""Rolling origin of `bike_demand`: a candidate every four weeks of 2011, beside the seasonal naive forecast.

    python benchmarks/bikes.py --home /var/tmp/bikes

Datasets, features and training sets are those of the platform, as they had arrived by their declaration; contracts are
not checked. The windows of 28 days do not overlap.
"""

import argparse
from pathlib import Path

import numpy as np

from assets.bikes.demand import hours
from assets.bikes.landing import DAYS, land
from ml_platform.components.loading import bound_model
from ml_platform.data.landing import Landing
from ml_platform.features.materialize import materialize
from ml_platform.steps.candidates import build_training_sets, read_training_set, split_of
from ml_platform.training.candidate import fit_candidate
from resources.home import Home
from resources.lake import LakeResource
from resources.online_store import OnlineStoreResource

FIRST, LAST, STEP = "2011-04-03", "2011-12-11", 4
COLUMNS = ("rmse", "naive rmse", "mae", "naive mae", "coverage")


def measure(home: Home) -> dict[str, tuple[float, ...]]:
    """Return :data:`COLUMNS` by week; those of the naive forecast count the rows that have one."""
    model, lake = bound_model("bike_demand"), LakeResource.for_home(home).lake()
    weeks = model.partitions.between(model.partitions.first, LAST)
    for file in land(Landing(home.landing), DAYS.last or ""):
        lake.write("datasets/bike_hours", hours(file.path), file.partition)
    days, store = DAYS.between(DAYS.first, DAYS.last or ""), OnlineStoreResource.for_home(home).store()
    for view in model.stored_views:
        materialize(view, lake, store, days, DAYS)
    build_training_sets(model, weeks, lake)
    found: dict[str, tuple[float, ...]] = {}
    for week in weeks[weeks.index(FIRST) :: STEP]:
        split = split_of(model, week, read_training_set(model, week, lake))
        declared = model.declared.trainers["lightgbm"]
        candidate = fit_candidate(split, model.feature_set.feature_names, declared, task=model.declared.task)
        label, predicted = split.test["label"].to_numpy().astype(np.float64), candidate.predict(split.test)
        scored = candidate.task.score(label, predicted, candidate.calibration.bounds(predicted))
        errors = candidate.task.context(split.test)["naive"] - label
        errors = errors[np.isfinite(errors)]
        naive = float(np.sqrt(np.square(errors).mean())), float(np.abs(errors).mean())
        found[week] = (scored["rmse"], naive[0], scored["mae"], naive[1], scored["coverage"])
    return found


def main() -> None:
    """Run the benchmark and print a row for each week, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="empty folder for the home of the benchmark")
    found = measure(Home(parser.parse_args().home))
    print(f"{'week':12}", *(f"{name:>12}" for name in COLUMNS))
    for week, values in [*found.items(), ("mean", tuple(np.mean(list(found.values()), axis=0)))]:
        print(f"{week:12}", *(f"{value:12.3f}" for value in values))


if __name__ == "__main__":
    main()
