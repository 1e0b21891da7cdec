"""Quality of the declared model: rolling origin over 2013, compared with a plain script and a request-only model.

    python -m benchmarks.quality [--home FOLDER] [--facts known] [--methods platform,blend] [--months 2013-04 …]

For each month a candidate is trained as the platform does it: datasets, change logs and training sets in a lake, a
split by time, the declared trainer. The candidate learns from the months before and stops early on the last of them. It
is scored on every flight of the month that has a label. The plain script gets the same flights and the same split.

With ``--facts known``, the features of all rows are read as if each fact arrived when it became known, in place of the
declared arrival. ``blend`` averages three members: the declared settings, extremely randomized trees, and larger trees.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console
from rich.table import Table

from assets.aviation.landing import land
from ml_platform.components.dataset.component import Dataset
from ml_platform.components.loading import bound_model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.console.materialize import declared_components
from ml_platform.data.canonical import value_digest
from ml_platform.data.dataset import load_and_publish
from ml_platform.data.lake import Lake
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.source_hash import source_hash
from ml_platform.definitions import PROJECT_ROOT
from ml_platform.features.materialize import materialize
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.steps.candidates import assemble_partition, build_training_sets, read_training_set, split_of
from ml_platform.steps.freshness import features_with_delay
from ml_platform.steps.scoring import request_only
from ml_platform.tasks.metrics import score
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.splits import LABEL, Split
from ml_platform.training.trainer import TrainerSettings
from resources.home import Home
from resources.lake import LakeResource

DOMAIN, MODEL = "aviation", "departure_risk"
TRAINER = "lightgbm"
MONTHS = PartitionScheme(start="2013-04").between("2013-04", "2013-12")
GOALS = {"auc": 0.775, "log_loss": 0.443}
BLEND: tuple[dict[str, Any], ...] = ({}, {"extra_trees": True}, {"num_leaves": 127, "min_data_in_leaf": 400})
"""Settings of the members of the blend, where they differ from the declared ones."""

Scores = dict[str, float]
Probabilities = npt.NDArray[np.float64]
Predict = Callable[[Split], Probabilities]
ReadRows = Callable[[str], pl.DataFrame]


def prepare(model: ModelAssets, folder: Path) -> Lake:
    """Return a lake with the datasets, change logs and training sets of 2013; existing partitions are kept.

    The folder is named by a digest of the code that builds the lake, so a changed view or loader gets a new lake.
    """
    datasets = [each for each in declared_components(Dataset) if each.domain == DOMAIN]
    made_by = [model.code_version, {each.name: source_hash(each.loader) for each in datasets if each.loader}]
    home = Home(folder / value_digest(made_by)[:12])
    resource, store = LakeResource.for_home(home), SnapshotStore(home.online)
    lake = resource.lake()
    land(resource.landing(), "2013-12")
    for each in sorted(datasets, key=lambda dataset: len(dataset.lookups)):
        for partitions in _absent(lake, f"datasets/{each.name}", each.partitions):
            load_and_publish(each.engine_source(resource), partitions, resource.landing(), lake)
    months = {each.name: each.partitions for each in datasets}
    for view in model.stored_views:
        own = next((months[source.dataset] for source in view.sources if months[source.dataset]), None)
        for partitions in _absent(lake, view.table, own):
            materialize(view, lake, store, partitions, own)
    for partitions in _absent(lake, model.table, model.declared.partitions):
        build_training_sets(model, [month for month in partitions if month], lake)
    return lake


def the_platform(model: ModelAssets, threads: int) -> Predict:
    """Return a function that fits the declared candidate on a split and predicts its test rows."""
    declared = model.declared.trainers[TRAINER]
    return _fit_and_predict(
        model, declared.model_copy(update={"settings": {**declared.settings, "num_threads": threads}})
    )


def the_blend(model: ModelAssets, threads: int) -> Predict:
    """Return a function that fits the members of :data:`BLEND` on a split and predicts its test rows."""
    own = {**model.declared.trainers[TRAINER].settings, "num_threads": threads}
    members = [{"trainer": TRAINER, "settings": {**own, **changes}} for changes in BLEND]
    return _fit_and_predict(model, TrainerSettings(trainer="blend", settings={"members": members}))


def known_facts(model: ModelAssets, lake: Lake) -> ReadRows:
    """Return a function from a month to its training set with each fact used from the time at which it was known."""
    features, logs = features_with_delay(model, "0m"), model.feature_set.logs(lake)

    @cache
    def rows_of(month: str) -> pl.DataFrame:
        return assemble_partition(model, month, lake, logs, features=features)

    def read(month: str) -> pl.DataFrame:
        scheme = model.partitions
        return pl.concat(map(rows_of, scheme.between(scheme.first, month))).sort("predict_at", "example_id")

    return read


def _fit_and_predict(model: ModelAssets, declared: TrainerSettings) -> Predict:
    def predict(split: Split) -> Probabilities:
        candidate = fit_candidate(split, model.feature_set.feature_names, declared, task=model.declared.task)
        return candidate.predict(split.test)

    return predict


def the_plain_script(flights: pl.DataFrame, weather: pl.DataFrame, planes: pl.DataFrame, threads: int) -> Predict:
    """Return a function that does the same with hand-written features and plain LightGBM, as a notebook would."""
    import lightgbm as lgb

    features = plain_features(flights, weather, planes).sort("example_id")
    names = [name for name in features.columns if name != "example_id"]
    parameters = {"objective": "binary", "learning_rate": 0.05, "num_threads": threads, "verbose": -1, "seed": 7}

    def predict(split: Split) -> Probabilities:
        def matrix(rows: pl.DataFrame) -> Any:
            return rows.select("example_id").join(features, on="example_id", maintain_order="left").select(names)

        train = lgb.Dataset(matrix(split.train).to_numpy(), split.train[LABEL].to_numpy(), params=parameters)
        held_out = lgb.Dataset(matrix(split.validation).to_numpy(), split.validation[LABEL].to_numpy(), reference=train)
        stop = lgb.early_stopping(50, verbose=False)
        found = lgb.train(parameters, train, 1000, valid_sets=[held_out], callbacks=[stop])
        # Refit on all known rows, as the platform does: the last month is the most informative.
        known = lgb.Dataset(matrix(split.known).to_numpy(), split.known[LABEL].to_numpy(), params=parameters)
        rounds = round(found.best_iteration * split.known.height / split.train.height)
        booster = lgb.train(parameters, known, rounds)
        return np.asarray(booster.predict(matrix(split.test).to_numpy()), dtype=np.float64)

    return predict


def plain_features(flights: pl.DataFrame, weather: pl.DataFrame, planes: pl.DataFrame) -> pl.DataFrame:
    """Return ``example_id`` and simple features: schedule, delays of the last day, weather, plane."""
    due = pl.col("scheduled_departure")
    local = due.dt.convert_time_zone("America/New_York")
    rows = flights.select(
        "tailnum",
        "origin",
        "carrier",
        "dest",
        predict_at=due - pl.duration(hours=2),
        example_id=pl.concat_str(due.dt.strftime("%Y%m%dT%H%MZ"), "carrier", "flight", "origin", "dest", separator="-"),
        minute_of_day=local.dt.hour().cast(pl.Int32) * 60 + local.dt.minute(),
        weekday=local.dt.weekday(),
        month=local.dt.month(),
        block=(pl.col("scheduled_arrival") - due).dt.total_minutes(),
        distance="distance",
    ).sort("predict_at")
    landed = flights.filter(pl.col("arr_delay").is_not_null()).sort("arrived_at")
    left = flights.filter(pl.col("dep_delay").is_not_null()).sort("departed_at")
    for keys, events, at, value, span in (
        (["origin"], left, "departed_at", "dep_delay", "2h"),
        (["origin"], landed, "arrived_at", "arr_delay", "6h"),
        (["carrier"], landed, "arrived_at", "arr_delay", "1d"),
        (["dest"], landed, "arrived_at", "arr_delay", "1d"),
        (["origin", "dest"], landed, "arrived_at", "arr_delay", "7d"),
        (["tailnum"], landed.drop_nulls("tailnum"), "arrived_at", "arr_delay", "1d"),
    ):
        name = f"{'_'.join(keys)}_{value}_{span}"
        # Of several events in one minute the last row includes all of them.
        known = events.rolling(at, period=span, group_by=keys).agg(pl.col(value).mean().alias(name))
        facts = known.unique([*keys, at], keep="last").sort(at)
        rows = _as_of(rows, facts, at, keys, span)
    observed = weather.select(
        "origin", "temp", "wind_speed", "precip", "visib", "pressure", at=pl.col("observed_at") + pl.duration(hours=1)
    )
    rows = _as_of(rows, observed.sort("at"), "at", ["origin"], "6h")
    rows = rows.join(planes.select("tailnum", "built_in", "seats"), on="tailnum", how="left")
    codes = [pl.col(name).cast(pl.Categorical).to_physical() for name in ("origin", "carrier", "dest")]
    return rows.with_columns(codes).drop("tailnum", "predict_at")


def roll(
    model: ModelAssets, read: ReadRows, months: Sequence[str], ways: Mapping[str, Predict], console: Console
) -> dict[str, dict[str, Scores]]:
    """Return AUC and log loss of each method and month; ``read`` returns the rows up to a month."""
    found: dict[str, dict[str, Scores]] = {name: {} for name in ways}
    for month in months:
        split = split_of(model, month, read(month))
        label = split.test[LABEL].to_numpy()
        for name, predict in ways.items():
            started, processor = time.perf_counter(), time.process_time()
            scores = score(label, predict(split))
            found[name][month] = {metric: round(scores[metric], 5) for metric in GOALS}
            line = ", ".join(f"{metric} {value:.4f}" for metric, value in found[name][month].items())
            seconds = f"{time.perf_counter() - started:.0f} s, {time.process_time() - processor:.0f} s of processors"
            console.print(f"{month} {name}: {line} ({seconds}, {len(label):,} flights)")
    return found


def summary(found: Mapping[str, dict[str, Scores]]) -> dict[str, Any]:
    """Return months and means of the first method, and those of the other methods under their names."""
    own, *others = (_with_means(months) for months in found.values())
    return own | dict(zip(list(found)[1:], others, strict=True))


def main() -> None:
    """Print a table, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--months", nargs="+", default=MONTHS, help="months to predict; default: all nine")
    parser.add_argument("--home", type=Path, help="folder that keeps lake and training sets for the next run")
    parser.add_argument("--threads", type=int, default=0, help="threads of LightGBM; 0: one per core")
    parser.add_argument(
        "--methods",
        default="platform,plain,request_only",
        help="of platform, blend, plain and request_only, with commas",
    )
    parser.add_argument(
        "--facts", choices=["declared", "known"], default="declared", help="arrival of facts; known: without a delay"
    )
    arguments = parser.parse_args()
    model = bound_model(MODEL)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="quality-") as scratch:
        lake = prepare(model, arguments.home or Path(scratch))
        flights, weather, planes = (
            lake.scan(f"datasets/{name}").collect() for name in ("flights", "weather", "planes")
        )
        ways = {
            "platform": the_platform(model, arguments.threads),
            "blend": the_blend(model, arguments.threads),
            "plain": the_plain_script(flights, weather, planes, arguments.threads),
            "request_only": lambda split: request_only(model, split, PROJECT_ROOT),
        }
        read = known_facts(model, lake) if arguments.facts == "known" else partial(_declared_facts, model, lake)
        chosen = {name: ways[name] for name in arguments.methods.split(",")}
        found = roll(model, read, arguments.months, chosen, console)
    if arguments.json:
        print(json.dumps(summary(found)))
    else:
        Console().print(_table(found))


def _declared_facts(model: ModelAssets, lake: Lake, month: str) -> pl.DataFrame:
    return read_training_set(model, month, lake)


def _absent(lake: Lake, table: str, months: PartitionScheme | None) -> list[list[str | None]]:
    """Return the partitions that ``table`` lacks as the arguments of calls: no call, or one for all of them."""
    if months is None:
        return [] if lake.exists(table) else [[None]]
    stored = lake.partitions(table)
    absent = [month for month in months.between(months.first, months.end or MONTHS[-1]) if month not in stored]
    return [[*absent]] if absent else []


def _as_of(rows: pl.DataFrame, facts: pl.DataFrame, at: str, keys: list[str], span: str) -> pl.DataFrame:
    """Return ``rows``, each with the latest of ``facts`` (sorted by ``at``) at its prediction time."""
    # Polars cannot check the order within groups and would warn.
    found = rows.join_asof(
        facts, left_on="predict_at", right_on=at, by=keys, tolerance=span, coalesce=False, check_sortedness=False
    )
    return found.drop(at)


def _with_means(months: dict[str, Scores]) -> dict[str, Any]:
    means = {f"mean_{metric}": round(float(np.mean([each[metric] for each in months.values()])), 5) for metric in GOALS}
    return {"months": months, **means}


def _table(found: Mapping[str, dict[str, Scores]]) -> Table:
    goals = ", ".join(f"{metric} {'≥' if metric == 'auc' else '≤'} {goal}" for metric, goal in GOALS.items())
    table = Table(title=f"Rolling origin; goals of the means: {goals}")
    table.add_column("month")
    for name in found:
        for metric in GOALS:
            table.add_column(f"{name.replace('_', ' ')} {metric.replace('_', ' ')}", justify="right")
    summaries = {name: _with_means(months) for name, months in found.items()}
    for month in next(iter(found.values())):
        table.add_row(month, *(f"{found[name][month][metric]:.4f}" for name in found for metric in GOALS))
    table.add_section()
    table.add_row("mean", *(f"{summaries[name][f'mean_{metric}']:.4f}" for name in found for metric in GOALS))
    return table


if __name__ == "__main__":
    main()
