"""A model whose labels land up to 30 days after its examples: training sets as of each cut, and closed windows only."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from ml_platform.components.declaration import DeclarationError, partition_mapping, partitions_definition
from ml_platform.components.model.automation import due_window
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.training import training_set
from ml_platform.components.model.validation import validate_declaration
from ml_platform.console.materialization_plan import _Input, _Numbers
from ml_platform.data.lake import Lake
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.view import INSTANT
from ml_platform.monitoring.outcomes import current_outcomes
from ml_platform.monitoring.prediction_log import ingest_log_files
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.tracking import run_tags
from ml_platform.registry.verdict_record import VERDICT_KIND
from ml_platform.steps.candidates import assemble_partition, build_training_sets, make_candidate
from ml_platform.steps.closed_window import OpenWindowError, require_closed_window
from ml_platform.steps.labels import count_labels
from ml_platform.steps.late_arrivals import record_late_partitions
from ml_platform.steps.monitoring import join_outcomes, label_clock
from ml_platform.steps.reproduction import reproduce_version
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import VIEWS, deliveries, delivery_model

DAYS = PartitionScheme(cadence="day", start="2013-01-01")
NOW = datetime(2013, 6, 1, tzinfo=UTC)
EXAMPLE_DAYS = DAYS.between("2013-01-01", "2013-01-06")
LABEL_DAYS = DAYS.between("2013-01-01", "2013-02-05")
HORIZON = timedelta(days=30)


def model(**changes: Any) -> ModelAssets:
    declared: dict[str, Any] = {
        "partitions": {"cadence": "day", "start": "2013-01-01"},
        "examples": {"function": "ml_platform_tests.steps.late_label_functions:examples", "sources": ["deliveries"]},
        "labels": {
            "dataset": "complaints",
            "join": {"example_id": "delivery"},
            "label": "late",
            "known_at": "reported_at",
            "horizon": "30d",
            "absent": 0,
        },
        "features": ["order", "when"],
        "split": {"validation": "40d", "minimum_rows": 20},
    }
    made = delivery_model(**(declared | changes))
    return ModelAssets(made.declared, VIEWS[1:], schemes={"deliveries": DAYS, "complaints": DAYS})


def orders() -> pl.DataFrame:
    return deliveries("2013-01").filter(pl.col("ordered_at") < DAYS.bounds(EXAMPLE_DAYS[-1])[1])


def complaints() -> pl.DataFrame:
    """Return reports up to 30 days after a third of the orders; every fourth is corrected later, within its horizon."""
    random = np.random.default_rng(5)
    reported = orders().select("delivery", "ordered_at").sample(fraction=0.33, seed=5)
    first = random.uniform(0.01, 29.0, reported.height)
    second = first + random.uniform(0.001, 1, reported.height) * (29.9 - first)
    rows = [
        (delivery, at + timedelta(days=float(wait)), late)
        for place, (delivery, at) in enumerate(reported.iter_rows())
        for wait, late in [(first[place], 1), (second[place], 0)][: 2 if place % 4 == 0 else 1]
    ]
    frame = pl.DataFrame(rows, orient="row", schema=["delivery", "reported_at", "late"])
    return frame.with_columns(pl.col("reported_at").cast(INSTANT), pl.col("late").cast(pl.Int8))


def land(lake: Lake, table: str, rows: pl.DataFrame, column: str, days: list[str]) -> None:
    for day in days:
        start, end = DAYS.bounds(day)
        lake.write(f"datasets/{table}", rows.filter(pl.col(column).is_between(start, end, closed="left")), day)


def brute_force(cut: datetime) -> dict[str, int | None]:
    """Return the label of every order as of ``cut``, by the words of the definition."""
    reports = complaints().rows()
    found: dict[str, int | None] = {}
    for delivery, at in orders().select("delivery", "ordered_at").iter_rows():
        own = [(known, late) for key, known, late in reports if key == delivery and at < known < min(at + HORIZON, cut)]
        found[delivery] = None if at + HORIZON > cut else max(own)[1] if own else 0
    return found


@pytest.fixture(scope="module", autouse=True)
def functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make the functions of the test domain importable."""
    with open_platform(tmp_path_factory.mktemp("functions") / "home"):
        yield


@pytest.fixture(scope="module")
def all_landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with all orders and all complaints."""
    root = tmp_path_factory.mktemp("lake")
    made = Lake.standalone(root)
    land(made, "deliveries", orders(), "ordered_at", EXAMPLE_DAYS)
    land(made, "complaints", complaints(), "reported_at", LABEL_DAYS)
    return root


@pytest.fixture
def lake(all_landed: Path, tmp_path: Path) -> Lake:
    shutil.copytree(all_landed, tmp_path, dirs_exist_ok=True)
    return Lake.standalone(tmp_path)


def assembled(lake: Lake) -> dict[str, pl.DataFrame]:
    return {each: assemble_partition(model(), each, lake, {}) for each in EXAMPLE_DAYS}


def test_training_sets_equal_a_brute_force_join_as_of_each_cut_and_only_mapped_partitions_change(lake: Lake) -> None:
    mapping = training_set(model()).get_partition_mapping(dg.AssetKey(["datasets", "complaints"]))
    assert mapping is not None
    definition = partitions_definition(DAYS)
    after: dict[str, pl.DataFrame] = {}
    absent: list[str] = []
    for last in (35, 34, 32, 30, 20, 5):
        lake.drop_partitions("datasets/complaints", absent)
        now = assembled(lake)
        labels = pl.concat(now.values()).select("example_id", "label").rows()
        assert dict(labels) == brute_force(DAYS.bounds(LABEL_DAYS[last])[1])
        changed = {each for each in EXAMPLE_DAYS if after and not now[each].equals(after[each])}
        mapped = mapping.get_downstream_partitions_for_partitions(
            definition.subset_with_partition_keys(absent), definition, definition, NOW
        )
        assert changed <= set(mapped.get_partition_keys())
        if not after:
            assert 10 < pl.concat(now.values())["label"].sum() < 60
        after, before = now, {35: 34, 34: 32, 32: 30, 30: 20, 20: 5}.get(last, 0)
        absent = LABEL_DAYS[before + 1 : last + 1]
    assert pl.concat(after.values())["label"].null_count() == len(labels)


def test_correction_rebuilds_exactly_the_partitions_of_its_examples(lake: Lake) -> None:
    before = assembled(lake)
    order = orders().filter(pl.col("ordered_at") >= DAYS.bounds("2013-01-05")[0]).row(0, named=True)
    ids = before["2013-01-05"]["example_id"]
    was = before["2013-01-05"].filter(ids == order["delivery"])["label"]
    correction = pl.DataFrame({"delivery": [order["delivery"]], "late": 1 - was}).with_columns(
        pl.lit(order["ordered_at"] + timedelta(days=29.95)).cast(INSTANT).alias("reported_at")
    )
    land(lake, "complaints", pl.concat([complaints(), correction], how="diagonal"), "reported_at", ["2013-02-04"])
    after = assembled(lake)

    changed = [each for each in EXAMPLE_DAYS if not after[each].equals(before[each])]
    assert changed == ["2013-01-05"]


def test_gap_in_the_labels_ends_the_cut_and_is_filled_by_the_missing_day(lake: Lake) -> None:
    lake.drop_partitions("datasets/complaints", ["2013-02-02"])
    built = {day: rows["label"].null_count() for day, rows in assembled(lake).items()}
    # The gap begins on February 2nd, 30 days after January 3rd.
    assert [each for each, unlabelled in built.items() if unlabelled == 0] == ["2013-01-01", "2013-01-02"]
    with pytest.raises(
        OpenWindowError, match=r"1 of 33 partitions of datasets/complaints have not landed \('2013-02-02'\)"
    ):
        require_closed_window(model(), "2013-01-03", lake, NOW)


def test_metadata_counts_labels_and_rows_that_match_no_example(lake: Lake) -> None:
    unknown = (
        complaints()
        .head(2)
        .with_columns(
            pl.Series("delivery", ["x", "y"]), pl.lit(DAYS.bounds("2013-01-05")[0]).cast(INSTANT).alias("reported_at")
        )
    )
    land(lake, "complaints", pl.concat([complaints(), unknown]), "reported_at", ["2013-01-05"])
    lake.drop_partitions("datasets/complaints", LABEL_DAYS[-2:])
    build_training_sets(model(), EXAMPLE_DAYS, lake)
    counted = count_labels(model(), ["2013-01-04", "2013-01-05", "2013-01-06"], lake)

    assert [each.without_example for each in counted.values()] == [0, 2, 0]
    # Labels landed until February 4th has begun, which is 30 days after January 5th has begun.
    assert [each.unlabelled for each in counted.values()] == [0, 30, 30]
    assert counted["2013-01-05"].until == DAYS.bounds("2013-02-03")[1] == counted["2013-01-04"].due
    assert label_clock(model(), lake) == DAYS.bounds("2013-02-03")[1]


@pytest.mark.parametrize(
    ("own", "labels", "zone", "partition", "last", "corrected", "affected"),
    [
        ("day", "day", "UTC", "2013-03-01", "2013-03-31", "2013-04-15", ("2013-03-16", "2013-04-15")),
        # A day more where clocks change: the horizon may end at one o'clock.
        ("day", "day", "America/New_York", "2013-03-01", "2013-04-01", "2013-04-15", ("2013-03-15", "2013-04-15")),
        ("week", "day", "UTC", "2013-03-03", "2013-04-13", "2013-04-15", ("2013-03-10", "2013-04-14")),
        ("month", "day", "UTC", "2013-03", "2013-05-31", "2013-04-15", ("2013-02", "2013-04")),
    ],
)
def test_mapping_covers_the_horizon_both_ways(
    own: str, labels: str, zone: str, partition: str, last: str, corrected: str, affected: tuple[str, str]
) -> None:
    first = {"day": "2013-01-01", "week": "2013-01-06", "month": "2013-01"}
    mine = PartitionScheme.model_validate({"cadence": own, "start": first[own], "time_zone": zone})
    theirs = PartitionScheme.model_validate({"cadence": labels, "start": first[labels], "time_zone": zone})
    mapping = partition_mapping(theirs, mine, ahead=HORIZON)
    assert mapping is not None
    consumer, labelled = partitions_definition(mine), partitions_definition(theirs)

    up = mapping.get_upstream_mapped_partitions_result_for_partitions(
        consumer.subset_with_partition_keys([partition]), consumer, labelled, NOW
    )
    keys = list(up.partitions_subset.get_partition_keys())
    assert (keys[0], keys[-1]) == (theirs.key_at(mine.bounds(partition)[0]), last)
    down = mapping.get_downstream_partitions_for_partitions(
        labelled.subset_with_partition_keys([corrected]), labelled, consumer, NOW
    )
    keys = list(down.get_partition_keys())
    assert (keys[0], keys[-1]) == affected


def test_mapping_allows_partitions_of_labels_that_do_not_exist_yet() -> None:
    mapping = training_set(model()).get_partition_mapping(dg.AssetKey(["datasets", "complaints"]))
    assert mapping is not None
    definition, now = partitions_definition(DAYS), datetime(2013, 1, 20, tzinfo=UTC)
    mapped = mapping.get_upstream_mapped_partitions_result_for_partitions(
        definition.subset_with_partition_keys(["2013-01-10"]), definition, definition, now
    )
    assert list(mapped.partitions_subset.get_partition_keys()) == DAYS.between("2013-01-10", "2013-01-19")
    assert list(mapped.required_but_nonexistent_subset.get_partition_keys()) == []


def test_plan_of_commands_reads_labels_ahead_of_the_partition() -> None:
    numbers = _Numbers()
    read = _Input.of(DAYS, {}, ["2013-01-31"], numbers)
    assert read.last_read("2013-01-01", DAYS, 30, numbers) == DAYS.number("2013-01-31")
    weeks = PartitionScheme(cadence="week", start="2013-01-06")
    assert read.last_read("2013-01-06", weeks, 1, numbers) == DAYS.number("2013-01-19")


LANDED = DAYS.between("2013-01-01", "2013-01-08")
"""Days of orders in the home with training sets; complaints landed one day longer."""


def trained_model() -> ModelAssets:
    """Return the model with a horizon of two days."""
    labels = model().declared.labels
    assert labels is not None
    return model(
        labels=labels.model_dump() | {"horizon": "2d"},
        split={"validation": "3d", "minimum_rows": 20},
        trainers={"lightgbm": {"settings": {"max_rounds": 5, "num_threads": 1}}},
    )


def early_complaints() -> pl.DataFrame:
    """Return the late deliveries of January, each reported one day after its order."""
    late = deliveries("2013-01").filter(pl.col("late") == 1)
    return late.select("delivery", (pl.col("ordered_at") + timedelta(days=1)).alias("reported_at"), "late")


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which January 7th is the last closed window."""
    root = tmp_path_factory.mktemp("landed") / "home"
    with open_platform(root) as opened:
        land(opened.lake, "deliveries", deliveries("2013-01"), "ordered_at", LANDED)
        land(opened.lake, "complaints", early_complaints(), "reported_at", [*LANDED, "2013-01-09"])
        build_training_sets(trained_model(), LANDED, opened.lake)
    return root


@pytest.fixture
def platform(landed: Path, tmp_path: Path) -> Iterator[PlatformFixture]:
    shutil.copytree(landed, tmp_path / "home")
    with open_platform(tmp_path / "home") as opened:
        yield opened


def test_sensor_trains_on_the_last_closed_window_and_names_what_the_next_waits_for(platform: PlatformFixture) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        due = due_window(instance, trained_model(), platform.lake, NOW)
        assert isinstance(due, tuple)
        assert due[0] == "2013-01-07"
        open_still = due_window(instance, trained_model(), platform.lake, datetime(2013, 1, 7, 12, tzinfo=UTC))
        assert isinstance(open_still, dg.SkipReason)
        assert "2013-01-07 is not closed: 2013-01-07 ends at 2013-01-08T00:00" in str(open_still.skip_message)

        for key in (trained_model().key("training_set"), *trained_model().candidate_keys.values()):
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="2013-01-07"))
        waiting = due_window(instance, trained_model(), platform.lake, NOW)
    assert isinstance(waiting, dg.SkipReason)
    assert (
        "2013-01-08 is not closed: its labels are due at 2013-01-11T00:00+00:00, and 1 of 10 partitions of "
        "datasets/complaints have not landed ('2013-01-10')"
    ) in str(waiting.skip_message)


def test_labels_that_landed_after_the_training_set_was_built_are_waited_for(platform: PlatformFixture) -> None:
    land(platform.lake, "complaints", early_complaints(), "reported_at", ["2013-01-10"])
    with dg.DagsterInstance.ephemeral() as instance:
        waiting = due_window(instance, trained_model(), platform.lake, NOW)
    assert isinstance(waiting, dg.SkipReason)
    assert "labels landed after the training sets of '2013-01-08' were built" in str(waiting.skip_message)
    with pytest.raises(OpenWindowError, match="labels landed after the training sets of '2013-01-08' were built"):
        require_closed_window(trained_model(), "2013-01-08", platform.lake, NOW)
    build_training_sets(trained_model(), ["2013-01-08"], platform.lake)
    require_closed_window(trained_model(), "2013-01-08", platform.lake, NOW)


def test_candidate_by_hand_is_refused_while_its_window_is_open(platform: PlatformFixture) -> None:
    tags = run_tags(asset="late/candidate_lightgbm", partition="2013-01-08", attempt=1, dagster_run_id="run")
    with (
        platform.stores.registry.tracking.run("late", "lightgbm 2013-01-08", tags) as run,
        pytest.raises(OpenWindowError, match="its labels are due at 2013-01-11T00:00"),
    ):
        make_candidate(
            trained_model(), "lightgbm", "2013-01-08", platform.stores, run=run, dagster_run_id="run", now=NOW
        )


@pytest.mark.slow
def test_candidate_pins_its_labels_and_is_reproduced_after_corrections(platform: PlatformFixture) -> None:
    metadata = platform.make(trained_model(), "2013-01-07")

    # Validation rows of the last two days are not labelled when the test part begins.
    assert metadata["test_rows"] == 30
    assert metadata["validation_rows"] == 30
    (version,) = platform.stores.registry.versions("late")
    pinned = platform.stores.registry.manifest(version).tables
    assert pinned["datasets/complaints"] == platform.lake.version("datasets/complaints")

    # Later labels and corrections do not change what the version is rebuilt from.
    changed = early_complaints().with_columns(late=pl.lit(0, pl.Int8))
    land(platform.lake, "complaints", changed, "reported_at", DAYS.between("2013-01-05", "2013-01-10"))
    assert reproduce_version(trained_model(), version.version, platform.stores).equal


def test_label_that_lands_after_the_verdict_leaves_a_record_of_the_decision(platform: PlatformFixture) -> None:
    audit = AuditLog(platform.lake.state)
    audit.append(
        VERDICT_KIND,
        actor="gates",
        at=NOW,
        facts={"model": "late", "partition": "2013-01-07", "decision": "PROMOTE"},
    )
    earlier = platform.lake.digests(trained_model().table)
    changed = early_complaints().with_columns(late=pl.lit(0, pl.Int8))
    land(platform.lake, "complaints", changed, "reported_at", ["2013-01-05"])
    written = build_training_sets(trained_model(), DAYS.between("2013-01-03", "2013-01-06"), platform.lake)

    late = record_late_partitions(trained_model(), earlier, written, audit, NOW)
    assert [(each.partition, each.judged) for each in late] == [("2013-01-04", {"2013-01-07": "PROMOTE"})]


def test_prediction_has_no_outcome_until_its_label_is_due_and_then_that_of_its_example(lake: Lake) -> None:
    fields = ["shop", "distance", "ordered_at"]
    predicted = orders().filter(pl.col("ordered_at") < DAYS.bounds("2013-01-02")[1]).with_row_index("place")
    logs = Path(lake.root) / "logs"
    logs.mkdir()
    with (logs / "a.jsonl").open("w") as opened:
        for row in predicted.iter_rows(named=True):
            at = row["ordered_at"]
            request = {name: at.isoformat() if name == "ordered_at" else row[name] for name in fields}
            line = {
                "prediction_id": row["delivery"],
                "request_id": "r",
                "row": row["place"],
                "model": "late",
                "version": "1",
                "role": "stable",
                "predict_at": at.isoformat(),
                "as_of": at.isoformat(),
                "logged_at": at.isoformat(),
                "request": request,
                "features": {},
                "score": 0.5,
            }
            opened.write(json.dumps(line) + "\n")
    ingest_log_files(lake, "late", logs)

    landed = {day: lake.scan("datasets/complaints", partitions=[day]).drop("partition").collect() for day in LABEL_DAYS}
    lake.drop_partitions("datasets/complaints", LABEL_DAYS[31:])
    build_training_sets(model(), EXAMPLE_DAYS[:2], lake)
    first = join_outcomes(model(), lake, NOW)
    # Labels landed until February 1st, 30 days after January 1st ended 24 hours earlier.
    assert first is not None
    assert first.labelled == 30

    for day in LABEL_DAYS[31:]:
        lake.write("datasets/complaints", landed[day], day)
    build_training_sets(model(), EXAMPLE_DAYS[:2], lake)
    second = join_outcomes(model(), lake, NOW)
    assert second is not None
    assert second.labelled == predicted.height == 60
    known = dict(current_outcomes(lake, "late", ["2013-01-01", "2013-01-02"]).select("prediction_id", "outcome").rows())
    labels = brute_force(DAYS.bounds(LABEL_DAYS[-1])[1])
    assert known == {delivery: labels[delivery] for delivery in predicted["delivery"]}


def test_labels_that_cannot_be_due_are_rejected_at_load() -> None:
    short = model(split={"validation": "14d", "minimum_rows": 20})
    with pytest.raises(DeclarationError, match="a validation part longer than the horizon of the labels, 30d"):
        validate_declaration(short.declared, short)  # type: ignore[arg-type]
    late_start = ModelAssets(
        model().declared,
        VIEWS[1:],
        schemes={"deliveries": DAYS, "complaints": PartitionScheme(cadence="day", start="2013-02-01")},
    )
    with pytest.raises(DeclarationError, match="labels from the first partition of the model on, 2013-01-01"):
        validate_declaration(late_start.declared, late_start)  # type: ignore[arg-type]
    whole = ModelAssets(model().declared, VIEWS[1:], schemes={"deliveries": DAYS, "complaints": None})
    with pytest.raises(DeclarationError, match="so that it is known until when labels landed"):
        validate_declaration(whole.declared, whole)  # type: ignore[arg-type]
