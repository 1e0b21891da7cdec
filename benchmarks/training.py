"""Cost that the platform adds to a fit: the candidate asset and `fit_candidate`, compared with `lgb.train` alone.

All three fit the same models on the same arrays: one model with early stopping on validation and, with refit (the
default of candidates), one more on all rows before the test. The ratio with refit therefore compares two fits with two
fits. `fit_candidate` adds encoding, checks, checkpoints, calibration and accounting. The asset also reads the training
set of the year from the lake, hashes it, logs the run in MLflow on SQLite and registers the version.

Rows come from a seed. With ``--year FOLDER`` they are the year of `departure_risk`, from the lake that
`benchmarks/quality.py --home FOLDER` keeps.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console
from rich.table import Table

from ml_platform.components.loading import bound_model
from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.lake import Lake
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.encoder import Encoder
from ml_platform.features.stores import open_store
from ml_platform.features.view import FeatureView
from ml_platform.registry.models import ModelRegistry
from ml_platform.registry.tracking import Tracking
from ml_platform.steps.candidates import make_candidate, read_training_set
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.lightgbm_boosting import seeds_of_segment
from ml_platform.training.lightgbm_trainer import LightGBMSettings
from ml_platform.training.splits import LABEL, Split, TimeSplit, split_by_time
from ml_platform.training.trainer import TrainerSettings
from resources.home import Home

GOAL = 1.5
MONTH = "2013-12"
MONTHS = PartitionScheme(start="2013-01")
VIEW = "made"
REPOSITORY = Path(__file__).parents[1]
WARM_UP_ROWS = 5000


@dataclass(frozen=True)
class Arrays:
    """Input of bare LightGBM: features of shape (rows, features), labels, row counts and categorical columns."""

    features: npt.NDArray[np.float32]
    label: npt.NDArray[np.float64]
    train_rows: int
    validation_rows: int
    categories: list[int]


def year(rows: int, features: int, seed: int) -> pl.DataFrame:
    """Return a training set over 2013: numbers with nulls, a column of 100 categories, a label of a few features."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, features), dtype=np.float32)
    place = rng.integers(0, 100, rows)
    score = values[:, 0] + values[:, 1] * values[:, 2] + 0.3 * (place % 5) + 2 * rng.standard_normal(rows)
    values[rng.random((rows, features), dtype=np.float32) < 0.05] = np.nan
    start = datetime(2013, 1, 1, tzinfo=UTC)
    predict_at = pl.datetime_range(start, start + timedelta(days=365), eager=True, interval="1s").gather(
        np.sort(rng.integers(0, 365 * 86_400, rows))
    )
    return pl.DataFrame({f"{VIEW}__f{at}": values[:, at] for at in range(features)}).with_columns(
        pl.Series(f"{VIEW}__place", place.astype(str)),
        pl.Series("example_id", [f"e{at:07}" for at in range(rows)]),
        pl.Series("predict_at", predict_at.cast(pl.Datetime("us", "UTC"))),
        pl.Series(LABEL, (score > 1.5).astype(np.int8)),
        label_known_at=predict_at.cast(pl.Datetime("us", "UTC")) + timedelta(hours=2),
    )


def bare(arrays: Arrays, settings: LightGBMSettings, refit: bool) -> int:
    """Train with early stopping, with ``refit`` again on all rows, as a plain script would; return the best round."""
    parameters = settings.parameters("binary") | seeds_of_segment(0, 0)
    train = slice(0, arrays.train_rows)
    held_out = slice(len(arrays.label) - arrays.validation_rows, None)

    def dataset(rows: slice, reference: lgb.Dataset | None = None) -> lgb.Dataset:
        return lgb.Dataset(
            arrays.features[rows],
            arrays.label[rows],
            categorical_feature=arrays.categories,
            params=parameters,
            reference=reference,
        )

    data = dataset(train)
    booster = lgb.train(
        parameters,
        data,
        settings.max_rounds,
        valid_sets=[dataset(held_out, data)],
        callbacks=[lgb.early_stopping(settings.patience, verbose=False)],
    )
    if refit:
        grown = round(booster.best_iteration * len(arrays.label) / arrays.train_rows)
        lgb.train(parameters, dataset(slice(None)), grown)
    return int(booster.best_iteration)


def flights(folder: Path) -> pl.DataFrame:
    """Return the training set of `departure_risk` over 2013, with features named as in :func:`year`."""
    from benchmarks.quality import MODEL, prepare

    model = bound_model(MODEL)
    rows = read_training_set(model, MONTH, prepare(model, folder)).filter(pl.col("predict_at").dt.year() == 2013)
    kinds = rows.select(model.feature_set.feature_names).schema
    named = [
        (pl.col(name) if dtype == pl.String else pl.col(name).cast(pl.Float32)).alias(f"{VIEW}__{name}")
        for name, dtype in kinds.items()
    ]
    return rows.select("example_id", "predict_at", LABEL, "label_known_at", *named)


def compare(frame: pl.DataFrame, rounds: int, repeats: int, threads: int = 0) -> dict[str, Any]:
    """Return the seconds of all three on ``frame``, with and without refit: medians of ``repeats`` after a warm-up."""
    # Patience equals the rounds, so that both sides run the same number of rounds with any seed.
    fixed = {"max_rounds": rounds, "patience": rounds, "num_threads": threads}
    settings = LightGBMSettings.model_validate(fixed)
    split = split_by_time(frame, MONTH, MONTHS, TimeSplit(), model="benchmark")
    names = [name for name in frame.columns if name.startswith(f"{VIEW}__")]
    arrays = _arrays(split, names)
    bare(arrays, LightGBMSettings(max_rounds=2), refit=False)
    found: list[dict[str, Any]] = []
    for refit in (False, True):
        declared = TrainerSettings(settings=fixed, refit=refit, calibration="platt")
        plain, platform, asset = [], [], []
        for _ in range(repeats):
            plain.append(_seconds(lambda refit=refit: bare(arrays, settings, refit)))
            with tempfile.TemporaryDirectory() as folder:
                platform.append(
                    _seconds(
                        lambda declared=declared, folder=folder: fit_candidate(
                            split, names, declared, task="binary", checkpoint=Path(folder) / "checkpoint"
                        )
                    )
                )
            with tempfile.TemporaryDirectory() as folder:
                asset.append(the_asset(frame, names, declared, Path(folder)))
        one, fitted, whole = (float(np.median(seconds)) for seconds in (plain, platform, asset))
        found.append(
            {
                "refit": refit,
                "bare_seconds": one,
                "platform_seconds": fitted,
                "asset_seconds": whole,
                "ratio": fitted / one,
                "asset_ratio": whole / one,
            }
        )
    return {"rows": frame.height, "features": len(names), "rounds": rounds, "goal_ratio": GOAL, "fits": found}


def the_asset(frame: pl.DataFrame, names: list[str], declared: TrainerSettings, folder: Path) -> float:
    """Return the seconds to read, fit, log and register the candidate of ``frame`` in ``folder``.

    A candidate of a few rows runs first. It creates the MLflow store and imports all modules.
    """
    tracking = Tracking(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")

    def make(rows: pl.DataFrame, lake: Lake, model: ModelAssets) -> float:
        for month in MONTHS.between("2013-01", MONTH):
            lake.write(model.table, rows.filter(pl.col("predict_at").dt.strftime("%Y-%m") == month), month)

        stores = PlatformStores(
            home=Home(folder),
            repository=REPOSITORY,
            lake=lake,
            open_registry=lambda: ModelRegistry(tracking),
            open_online_store=lambda: open_store(str(folder / "online")),
        )

        def work() -> None:
            with tracking.run(model.name, "candidate", {}) as run:
                make_candidate(
                    model,
                    "lightgbm",
                    MONTH,
                    stores,
                    run=run,
                    dagster_run_id="benchmark",
                    now=datetime.now(UTC),
                )

        return _seconds(work)

    few = frame.gather_every(max(1, frame.height // WARM_UP_ROWS))
    quick = declared.model_copy(update={"settings": {**declared.settings, "max_rounds": 2}})
    make(few, Lake.standalone(folder / "few"), bound(frame.select(names).schema, quick))
    return make(frame, Lake.standalone(folder / "lake"), bound(frame.select(names).schema, declared))


def bound(features: pl.Schema, declared: TrainerSettings) -> ModelAssets:
    """Return a model whose training set has these features, with the trainer ``declared``."""
    view = {
        "name": VIEW,
        "kind": "request",
        "function": "benchmarks.training:year",
        "fields": ["asked_at"],
        "features": [
            {
                "name": name.removeprefix(f"{VIEW}__"),
                "description": "From a seed",
                "type": "category" if dtype == pl.String else "float32",
            }
            for name, dtype in features.items()
        ],
    }
    model = {
        "name": "benchmark",
        "description": "Rows from a seed",
        "owners": ["team:benchmark"],
        "target": "label",
        "partitions": {"start": "2013-01", "end": "2013-12", "time_zone": "UTC"},
        "examples": {"function": "benchmarks.training:year", "sources": ["none"]},
        "request": [{"name": "asked_at", "type": "datetime"}],
        "prediction_time": {"field": "asked_at"},
        "features": [VIEW],
        "trainers": {"lightgbm": declared},
        "gates": [{"type": "leak"}],
    }
    return ModelAssets(Model.model_validate(model), [FeatureView.model_validate(view)])


def _arrays(split: Split, names: list[str]) -> Arrays:
    known = split.known
    encoder = Encoder.fit(known, names)
    label = known[LABEL].cast(pl.Float64).to_numpy()
    return Arrays(
        encoder.transform(known), label, split.train.height, split.validation.height, encoder.category_indices
    )


def _seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Print a table, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--year", type=Path, help="folder of the year's data; default: rows from the seed")
    parser.add_argument("--rows", type=int, default=330_000, help="number of rows")
    parser.add_argument("--features", type=int, default=236, help="number of numerical features")
    parser.add_argument("--rounds", type=int, default=200, help="boosting rounds")
    parser.add_argument("--repeats", type=int, default=1, help="number of repetitions; the median counts")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows")
    parser.add_argument("--threads", type=int, default=0, help="threads of LightGBM; 0: one per core")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    frame = flights(arguments.year) if arguments.year else year(arguments.rows, arguments.features, arguments.seed)
    found = compare(frame, arguments.rounds, arguments.repeats, arguments.threads)
    if arguments.json:
        print(json.dumps(found))
        return
    table = Table(title=f"{found['rows']:,} rows x {found['features']} features, {found['rounds']} rounds")
    for heading in ("fit", "bare lgb.train, s", "fit_candidate, s", "ratio", "asset, s", f"ratio (goal ≤ {GOAL})"):
        table.add_column(heading, justify="left" if heading == "fit" else "right")
    for each in found["fits"]:
        table.add_row(
            "early stopping, then refit" if each["refit"] else "early stopping",
            f"{each['bare_seconds']:.2f}",
            f"{each['platform_seconds']:.2f}",
            f"{each['ratio']:.2f}",
            f"{each['asset_seconds']:.2f}",
            f"{each['asset_ratio']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
