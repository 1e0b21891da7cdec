"""Verifies that serving reads the features that training read, before a bento may serve.

The reads are compared twice, because a fact that is known today was often not known when an example was made:

- As of the last prediction times of the version's training set, with snapshots of the pinned change logs at these
  times. Serving must read the values that the training set stores.
- As of now, with the snapshots that are published. They must give what an offline read of the change logs gives.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from ml_platform.data.exact_json import json_value
from ml_platform.data.lake import Lake
from ml_platform.data.scratch import scratch_folder
from ml_platform.errors import PlatformError, listed
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import OnlineStore, Snapshot
from ml_platform.features.skew import Mismatch, differing_features, recompute_features
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import INSTANT, KNOWN_AT, PREDICT_AT, FeatureView
from ml_platform.registry.manifest import MANIFEST_FILE, Manifest
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.request_contract import RequestContract
from ml_platform.steps.model import BoundModel
from ml_platform.steps.untimed import written_at

REFERENCE_ROWS = 50
"""Largest number of rows on which a bento must reproduce the reads and scores of training before it may serve."""

INSTANTS = 3
"""Number of prediction times at which the reads of training are repeated; each needs its own snapshots."""


def require_reads_of_training(
    model: BoundModel, directory: Path, features: FeatureSet, lake: Lake, subject: str
) -> int:
    """Require that serving reads what the training set of the version in ``directory`` stores; return the rows read.

    The rows are the last requests of the version's window, at :data:`INSTANTS` prediction times. They take the way of a
    request: JSON, the contract of the version, the typed lookup in a snapshot file. Raises :class:`BentoError` when a
    value differs, or when a row cannot be read.
    """
    manifest = Manifest.read(directory / MANIFEST_FILE)
    contract = RequestContract.model_validate_json((directory / "contract.json").read_text())
    table, version = model.pinned_training_set(manifest.tables)
    stored = lake.scan(table, version, model.stored_partitions(manifest.partition))
    if not model.has_time:
        # Another time than in training: features must not depend on the time of a request.
        stored = stored.with_columns(pl.lit(written_at(model, lake), INSTANT).alias(PREDICT_AT))
    stored = stored.sort(PREDICT_AT, "example_id")
    last = stored.tail(min(REFERENCE_ROWS, contract.max_rows))
    trained = features.transformed(last.select(*contract.dtypes, PREDICT_AT, *features.training_columns).collect())
    instants = trained[PREDICT_AT].unique().sort().tail(INSTANTS).to_list()
    trained = trained.filter(pl.col(PREDICT_AT).is_in(instants))
    logs = features.logs(lake, {view.name: manifest.tables[view.table] for view in features.stored})
    try:
        facts = _facts_of(trained, features, logs)
        read = [
            _read_at(instant, trained.filter(pl.col(PREDICT_AT) == instant), features, facts, contract)
            for instant in instants
        ]
        mismatches = differing_features(features, trained, pl.concat(read), model.pii_columns)
    except PlatformError as error:
        raise BentoError(
            subject,
            expected=f"reads of the last rows of {manifest.partition} as in training",
            found=str(error),
            fix="Make the request, the examples and the feature views agree, and materialize the candidate again.",
        ) from error
    _raise_if_different(
        mismatches,
        subject,
        expected=f"the features that training read for the last {trained.height} rows of {manifest.partition}",
        fix=f"If a change log is newer than the training set, materialize {model.name}/training_set and the candidate "
        "again; otherwise make the request, the examples and the feature views agree.",
    )
    return trained.height


def require_published_reads(
    rows: pl.DataFrame,
    features: FeatureSet,
    store: OnlineStore,
    lake: Lake,
    subject: str,
    pii_columns: Collection[str] = (),
) -> pl.DataFrame:
    """Return the features of ``rows`` (request fields, predict_at) as an offline read of the change logs gives them.

    It is the read of training, at the time and with the watermarks of the published snapshots. Raises
    :class:`BentoError` when ``store`` gives other values; it masks the values of ``pii_columns``.
    """
    served = features.serve(rows, store)
    offline = recompute_features(features, rows, served.as_of, features.logs(lake), served.watermarks)
    _raise_if_different(
        differing_features(features, rows.hstack(offline), served.frame, pii_columns),
        subject,
        expected=f"published features of {rows.height} rows that equal an offline read of the change logs",
        fix="Materialize the feature views again: this publishes their snapshots.",
    )
    return offline


def request_rows(fields: Sequence[str], frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return ``fields`` of ``frame`` as an app sends them: times as ISO 8601 text, decimals as text."""
    return [{name: json_value(value) for name, value in row.items()} for row in frame.select(fields).to_dicts()]


def _facts_of(trained: pl.DataFrame, features: FeatureSet, logs: Mapping[str, pl.LazyFrame]) -> dict[str, pl.DataFrame]:
    """Return the facts of each view that the rows of ``trained`` may have read: their entities, up to their times."""
    keys, latest = features.entity_keys(trained), trained[PREDICT_AT].max()
    found = {}
    for view in features.stored:
        log = logs[view.name].with_columns(pl.col(KNOWN_AT).cast(INSTANT)).filter(pl.col(KNOWN_AT) <= latest)
        if view.entity:
            entities = keys.select(view.entity).unique().drop_nulls()
            # Keys of another type match no fact here; the lookup then names the fault.
            log = log.join(_as_in(log, entities).lazy(), on=view.entity, how="semi", maintain_order="left")
        found[view.name] = log.collect()
    return found


def _as_in(log: pl.LazyFrame, entities: pl.DataFrame) -> pl.DataFrame:
    schema = log.collect_schema()
    return entities.select(pl.col(name).cast(schema[name], strict=False) for name in entities.columns).drop_nulls()


def _read_at(
    instant: datetime,
    trained: pl.DataFrame,
    features: FeatureSet,
    facts: Mapping[str, pl.DataFrame],
    contract: RequestContract,
) -> pl.DataFrame:
    """Return the features that a service reads for ``trained`` from snapshots of ``facts`` at ``instant``."""
    body = json.dumps({"rows": request_rows(list(contract.dtypes), trained)}).encode()
    rows = contract.validate(body).frame().hstack([trained[PREDICT_AT]])
    with scratch_folder("reads-of-training") as folder:
        store = SnapshotStore(folder)
        for view in features.stored:
            store.publish(Snapshot(view, _last_facts(view, facts[view.name], instant), instant))
        return features.serve(rows, store).frame


def _last_facts(view: FeatureView, facts: pl.DataFrame, instant: datetime) -> pl.DataFrame:
    """Return the last fact of each entity that had arrived at ``instant``, as the sources of ``view`` declare it."""
    cut_off = min((arrival.cut_off(instant) for arrival in view.arrivals), default=None)
    usable = pl.col(KNOWN_AT) <= instant if cut_off is None else pl.col(KNOWN_AT) < cut_off
    known = facts.filter(usable).sort(KNOWN_AT, maintain_order=True)
    return known.unique(subset=view.entity, keep="last", maintain_order=True) if view.entity else known.tail(1)


def _raise_if_different(mismatches: Sequence[Mismatch], subject: str, *, expected: str, fix: str) -> None:
    if mismatches:
        first = mismatches[0]
        example = first.examples[0]
        raise BentoError(
            subject,
            expected=expected,
            found=f"{len(mismatches)} features that differ: {listed(each.feature for each in mismatches)} "
            f"(first: {first.feature} in {first.rows} rows, {example['logged']} in training and "
            f"{example['recomputed']} in serving)",
            fix=fix,
        )
