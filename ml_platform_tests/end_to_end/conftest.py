"""The home of bikes and credit with their features and training sets; each part is made once in a run of the tests."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock

from ml_platform.components.loading import bound_model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.contract_record import record_passed
from ml_platform.data.landing import LandedFile, Landing
from ml_platform.features.materialize import materialize
from ml_platform.steps.candidates import build_training_sets, read_training_set
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform

BIKES_DAY, BIKES_WEEK = "2011-03-26", "2011-03-20"
"""The last day that has landed, after a change of the clock, and the week that closes with it."""

CREDIT_CUT, CREDIT_DAY, CREDIT_MONTH = "2024-04-30", "2024-05-30", "2024-04"
"""The last day of the outcomes at first and later, and the month whose labels are due then."""


@dataclass(frozen=True)
class CreditHome(PlatformFixture):
    """The home after all outcomes have landed; ``as_of_cut`` has the training sets before the later ones did."""

    as_of_cut: pl.DataFrame


def publish(platform: PlatformFixture, read: Callable[[Path], pl.DataFrame], files: Sequence[LandedFile]) -> None:
    """Write the landed ``files`` to the lake and record that they keep their contracts."""
    for file in files:
        written = platform.lake.write(f"datasets/{file.dataset}", read(file.path), file.partition)
        digest, name, key = written.sha256, file.dataset, file.partition
        record_passed(platform.lake.state, name, key, content_digest=digest, landed_sha256=file.sha256)


@pytest.fixture(scope="module")
def demand() -> ModelAssets:
    return bound_model("bike_demand")


@pytest.fixture(scope="module")
def credit() -> ModelAssets:
    return bound_model("credit_default")


@pytest.fixture(scope="module")
def bikes_home(tmp_path_factory: pytest.TempPathFactory, demand: ModelAssets) -> Iterator[PlatformFixture]:
    """The home with the days of bikes until :data:`BIKES_DAY`, their features and training sets."""
    from assets.bikes.demand import hours
    from assets.bikes.landing import DAYS, land

    def make(platform: PlatformFixture, folder: Path) -> None:
        publish(platform, hours, land(Landing(platform.home.landing), BIKES_DAY))
        days, store = DAYS.between(DAYS.first, BIKES_DAY), platform.resources["online_store"].store()
        for view in demand.stored_views:
            materialize(view, platform.lake, store, days, DAYS)
        build_training_sets(demand, demand.partitions.between(demand.partitions.first, BIKES_WEEK), platform.lake)

    with _part_of_home(tmp_path_factory, "bikes", make) as (platform, _):
        yield platform


@pytest.fixture(scope="module")
def credit_home(tmp_path_factory: pytest.TempPathFactory, credit: ModelAssets) -> Iterator[CreditHome]:
    """The home with the applications of credit until May, and the outcomes until :data:`CREDIT_DAY`."""
    from assets.credit.landing import DAYS, MONTHS, land
    from assets.credit.lending import rows

    months = ["2024-02", "2024-03", CREDIT_MONTH]

    def make(platform: PlatformFixture, folder: Path) -> None:
        landed, store = land(Landing(platform.home.landing), CREDIT_DAY), platform.resources["online_store"].store()
        late = [each for each in landed if each.dataset == "credit_outcomes" and str(each.partition) > CREDIT_CUT]
        publish(platform, rows, [each for each in landed if each not in late])
        for view in credit.stored_views:
            by_day = view.entity == ["branch"]
            scheme, last = (DAYS, CREDIT_CUT) if by_day else (MONTHS, "2024-05")
            materialize(view, platform.lake, store, scheme.between(scheme.first, last), scheme)
        build_training_sets(credit, months, platform.lake)
        read_training_set(credit, CREDIT_MONTH, platform.lake).write_parquet(folder / "as_of_cut.parquet")

        publish(platform, rows, late)
        (view,) = [each for each in credit.stored_views if each.entity == ["branch"]]
        materialize(view, platform.lake, store, DAYS.between(DAYS.shift(CREDIT_CUT, 1), CREDIT_DAY), DAYS)
        build_training_sets(credit, months, platform.lake)

    with _part_of_home(tmp_path_factory, "credit", make) as (platform, folder):
        yield CreditHome(platform.home, platform.resources, pl.read_parquet(folder / "as_of_cut.parquet"))


@contextmanager
def _part_of_home(
    factory: pytest.TempPathFactory, part: str, make: Callable[[PlatformFixture, Path], None]
) -> Iterator[tuple[PlatformFixture, Path]]:
    """Open the home, with its folder, after ``make`` made ``part``; the first worker makes it and the others wait."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "domains"
    folder.mkdir(exist_ok=True)
    with open_platform(folder / ".ml_platform") as platform:
        with FileLock(folder / "domains.lock"):
            if not (made := folder / f"{part}.made").exists():
                make(platform, folder)
                made.touch()
        yield platform, folder
