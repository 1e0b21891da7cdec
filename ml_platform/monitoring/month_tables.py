"""Conversion of predictions and outcomes of earlier releases, which were stored by month and without prediction ids.

Predictions go to the partitions of the days on which they were logged, and get the ids that their log lines get when
they are read again. Known outcomes become facts. The positions in the log files move to the state store.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePath

import polars as pl

from ml_platform.data.lake import PARTITION, Lake, StagedRows
from ml_platform.monitoring.known_ids import PREDICTION_ID
from ml_platform.monitoring.log_lines import PREDICTION_SCHEMA, derived_prediction_id
from ml_platform.monitoring.outcomes import FACT_SCHEMA, OUTCOME, RECORDED_AT, outcomes_table
from ml_platform.monitoring.prediction_days import add_outcomes, add_predictions, day_name, forget_days
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform.state.cursors import read_cursor, write_cursor

_IDENTITY = ("request_id", "row", "model", "version", "role")
_ROWS_AT_ONCE = 50_000


def import_predictions_by_month(lake: Lake, model: str, cursor: Path) -> list[str]:
    """Convert the tables of ``model`` and the file ``cursor``; return one text per change, none if all is converted.

    All changes are one transaction, so a killed conversion can be repeated. The older versions of the tables stay until
    they are cleaned.
    """
    now = datetime.now(UTC)
    predictions = _staged(lake, predictions_table(model), _converted_predictions(lake, predictions_table(model)))
    outcomes = _staged(lake, outcomes_table(model), _converted_outcomes(lake, outcomes_table(model), now))
    positions = json.loads(cursor.read_text()) if cursor.exists() else {}
    changes = []
    with lake.state.write():
        if predictions:
            forget_days(lake.state, model)
            _replace(lake, predictions_table(model), [staged for staged, _ in predictions])
            for _, rows in predictions:
                add_predictions(lake.state, model, rows)
            # The converted outcomes belong to these predictions: a join compares them with the labels, not adds them.
            last = max(each.id for each in lake.catalog.segments(predictions_table(model), with_files=False))
            write_cursor(lake.state, f"outcomes/{model}", {"segment": last, "recorded_at": now.isoformat()})
            changes.append(f"split {sum(rows.height for _, rows in predictions)} predictions of '{model}' into days")
        if outcomes:
            _replace(lake, outcomes_table(model), [staged for staged, _ in outcomes])
            for _, rows in outcomes:
                add_outcomes(lake.state, model, rows.with_columns(labelled=pl.lit(1)))
            changes.append(f"split {sum(rows.height for _, rows in outcomes)} outcomes of '{model}' into days")
        moved = 0
        for path, position in positions.items():
            name = f"predictions/{model}/{PurePath(path).name}"
            if read_cursor(lake.state, name) is None:
                write_cursor(lake.state, name, {**position, "read_to": None})
                moved += 1
        if moved:
            changes.append(f"added the positions in {moved} log files of '{model}'")
    for table, converted in ((predictions_table(model), predictions), (outcomes_table(model), outcomes)):
        # The old log has other columns, so it cannot show the new version. An object store keeps its log.
        if converted and lake.files.local is not None:
            lake.rewrite_delta_log(table)
    return changes


def _converted_predictions(lake: Lake, table: str) -> Iterator[pl.DataFrame]:
    """Yield the predictions of an old table with ids, in the columns of the new one."""
    for month in _old_partitions(lake, table):
        for rows in _slices(lake.scan(table, partitions=[month]).drop(PARTITION)):
            absent = [pl.lit(None, dtype).alias(name) for name, dtype in PREDICTION_SCHEMA.items() if name not in rows]
            yield (
                _with_ids(rows)
                .with_columns(each for each in absent if each.meta.output_name() != PREDICTION_ID)
                .select(list(PREDICTION_SCHEMA))
            )


def _converted_outcomes(lake: Lake, table: str, now: datetime) -> Iterator[pl.DataFrame]:
    """Yield the facts about the known outcomes of an old table."""
    if not _has_old_layout(lake, table):
        return
    known = lake.scan(table).filter(pl.col(OUTCOME).is_not_null())
    for rows in _slices(known):
        yield (
            _with_ids(rows)
            .with_columns(pl.lit(now, FACT_SCHEMA[RECORDED_AT]).alias(RECORDED_AT))
            .select(list(FACT_SCHEMA))
        )


def _has_old_layout(lake: Lake, table: str) -> bool:
    stored = lake.catalog.table(table)
    return stored is not None and PREDICTION_ID not in stored.columns.columns


def _old_partitions(lake: Lake, table: str) -> list[str]:
    return lake.partitions(table) if _has_old_layout(lake, table) else []


def _slices(rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    yield from rows.sort("logged_at", maintain_order=True).collect().iter_slices(_ROWS_AT_ONCE)


def _with_ids(rows: pl.DataFrame) -> pl.DataFrame:
    logged_us = rows["logged_at"].dt.epoch("us")
    identities = rows.select(_IDENTITY).rows()
    ids = [derived_prediction_id(identity, at) for identity, at in zip(identities, logged_us, strict=True)]
    return rows.with_columns(pl.Series(PREDICTION_ID, ids, pl.String))


def _staged(lake: Lake, table: str, parts: Iterator[pl.DataFrame]) -> list[tuple[StagedRows, pl.DataFrame]]:
    """Write the rows of ``parts`` by day; return each file with the times of its rows."""
    return [
        (lake.stage(table, rows, str(day)), rows.select("logged_at", "predict_at"))
        for part in parts
        for (day,), rows in part.group_by(day_name("logged_at"), maintain_order=True)
    ]


def _replace(lake: Lake, table: str, staged: list[StagedRows]) -> None:
    """Make the staged rows the whole content of ``table``, also where its columns change."""
    current = lake.catalog.segments(table, with_files=False)
    lake.catalog.record(
        table,
        staged[0].columns,
        partitioned=True,
        added=[each.segment for each in staged],
        replaced=[each.id for each in current],
    )
