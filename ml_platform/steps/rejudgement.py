"""Judges the candidate of a partition: first on its own window, and while it is on HOLD on later windows too.

A later look scores candidate and champion on the rows of one more window, and pools them with the stored evidence of
the looks before. The baselines are those of the evaluation of that window, which has judged its own candidate first.
A window whose rows were corrected since is scored again, so that the labels of a broken sensor decide nothing for good.
"""

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.data.contract_record import broken_contracts
from ml_platform.data.lake import PARTITION, Lake
from ml_platform.errors import PlatformError, listed
from ml_platform.evaluation.evidence import CANDIDATE, CHAMPION, Evidence, SystemChecks, UnscoredChampion
from ml_platform.evaluation.look import Look, LookWindow
from ml_platform.evaluation.sequential import pool_windows, split_windows
from ml_platform.evaluation.verdict import Verdict, parse_verdict
from ml_platform.features.view import PREDICT_AT
from ml_platform.registry.verdict_record import PromotionError, judged_partitions, latest_verdict_of, stored_verdict
from ml_platform.registry.waiting import end_waits
from ml_platform.state.store import StateStore
from ml_platform.steps.evaluation import (
    EvaluationResult,
    collect_evidence,
    compared_versions,
    described,
    evaluate_candidate,
    load_evidence,
    record_evaluation,
    system_checks,
    weakest_slices,
)
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import reuse_or_package
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.scoring import ComparedVersions, has_newer_data, score_versions
from ml_platform.training.splits import LABEL, MARGIN_PARTITIONS, TimeSplit, split_times


class NotWaitingError(PlatformError):
    """Raised when a candidate should be judged again that does not wait, or for whom no window has closed."""


@dataclass(frozen=True)
class UnscoredWindow:
    """The window of a look: its rows after those of the looks before, and the baselines on these rows."""

    window: LookWindow
    rows: pl.DataFrame
    evaluated: Evidence


def judge_candidate(
    model: BoundModel, window: str, stores: PlatformStores, *, now: datetime, only_waiting: bool = False
) -> EvaluationResult:
    """Judge the best candidate of ``window`` and record the verdict.

    A candidate that waits is judged on its windows so far and the next one that closed. One that was judged on several
    windows is judged on the same ones again, with the corrected rows of those that were corrected. Every other
    candidate is evaluated on its own window. With ``only_waiting``, raises :class:`NotWaitingError` for a candidate
    that neither waits nor was judged on a window that was corrected. Raises otherwise as
    :func:`~ml_platform.steps.evaluation.evaluate_candidate`.
    """
    waits = end_waits(stores.audit, model.name, model.maximum_looks, at=now)
    compared = compared_versions(model, window, stores)
    judged = judged_so_far(model, window, compared, stores)
    last = None if judged is None else judged.digest
    is_waiting, is_corrected = (last in [each.verdict for each in found] for found in (waits.waiting, waits.corrected))
    later = next_window(model, judged, stores) if judged is not None and is_waiting else None
    if only_waiting and later is None and not is_corrected:
        raise NotWaitingError(
            f"Candidate of '{model.name}', {window}",
            expected="a candidate on HOLD against the current champion, and a later window that was evaluated",
            found="no such window" if is_waiting else "a candidate that does not wait",
            fix="Nothing is to do: the audit log has the reason. Materialize the evaluation by hand to start again.",
        )
    if judged is not None and (later is not None or len(judged.looks) > 1):
        result = _judge_pooled(model, compared, judged, later, stores, now)
    else:
        violations = broken_contracts(stores.lake, model.source_datasets, model.reads_until(window))
        result = evaluate_candidate(model, window, stores, broken_contracts=violations, now=now)
    end_waits(stores.audit, model.name, model.maximum_looks, at=now)
    return result


def judged_so_far(model: BoundModel, window: str, compared: ComparedVersions, stores: PlatformStores) -> Verdict | None:
    """Return the last verdict on ``window`` if it has looks and compares the same two versions; None otherwise."""
    found = latest_verdict_of(stores.audit, model.name, window)
    if found is None or model.maximum_looks == 1:
        return None
    verdict = parse_verdict(found.content)
    champion = None if compared.champion is None else compared.champion.content_digest
    same = (verdict.candidate, verdict.champion) == (compared.candidate.content_digest, champion)
    return verdict if same and verdict.looks else None


def pending_windows(model: BoundModel, last: str, state: StateStore) -> dict[str, str]:
    """Return the evaluated windows after ``last`` in order of time, each with the digest of its latest verdict."""
    scheme = model.partitions
    # Keys of time of one cadence are in order as text. After a change of the cadence, all keys are compared once.
    judged = judged_partitions(state, model.name, last if scheme.is_timed and scheme.names_key(last) else None)
    # Verdicts from before a change of the cadence were reached on other partitions.
    later = [key for key in judged if scheme.names_key(key) and scheme.precedes(last, key)]
    return {key: judged[key] for key in scheme.sort(later)}


def next_window(model: BoundModel, judged: Verdict, stores: PlatformStores) -> UnscoredWindow | None:
    """Return the first evaluated window after those of ``judged`` with new rows; None when none has closed.

    Only the rows of one window are read. A window whose rows have changed since its evaluation is passed over; raises
    :class:`NotWaitingError`, which names it, when there is no other.
    """
    last, changed = judged.looks[-1], []
    for key, digest in pending_windows(model, last.window, stores.state).items():
        rows, own = window_rows(model, key, stores.lake), parse_verdict(stored_verdict(stores.state, digest).content)
        evaluated = _evaluated_rows(model, own, rows, stores)
        if evaluated is None:
            changed.append(key)
        elif window := _rows_since(model, key, rows, evaluated, last.until):
            return window
    if changed:
        raise NotWaitingError(
            f"Waiting candidate of '{model.name}', {judged.partition}",
            expected=f"the rows on which {listed(changed)} was evaluated",
            found="other rows in its training set, or no evidence",
            fix=f"Materialize {model.name}/evaluation for {changed[-1]} again, or wait for the next window.",
        )
    return None


def _corrected_window(
    model: BoundModel, judged: Verdict, look: Look, stored: Evidence, stores: PlatformStores
) -> UnscoredWindow | None:
    """Return the window of a later ``look`` with its corrected rows; None if they are those of its evidence ``stored``.

    Rows on which the window itself was not evaluated yet do not count: late labels alone repeat no evaluation.
    """
    rows, since = window_rows(model, look.window, stores.lake), judged.looks[look.number - 2].until
    if _has_rows(stored, rows.filter(pl.col(PREDICT_AT) >= datetime.fromisoformat(since))):
        return None
    own = latest_verdict_of(stores.audit, model.name, look.window)
    evaluated = None if own is None else _evaluated_rows(model, parse_verdict(own.content), rows, stores)
    return None if evaluated is None else _rows_since(model, look.window, rows, evaluated, since)


def _rows_since(
    model: BoundModel, key: str, rows: pl.DataFrame, evaluated: Evidence, since: str
) -> UnscoredWindow | None:
    """Return the window ``key`` with those of its ``rows`` from the time ``since`` on; None without any."""
    is_new = rows[PREDICT_AT] >= datetime.fromisoformat(since)
    if not is_new.any():
        return None
    new = rows.filter(is_new)
    until = split_times(key, model.partitions, _split_of(model)).test_end.isoformat()
    return UnscoredWindow(LookWindow(key, new.height, until), new, _selected(evaluated, is_new.to_numpy()))


def _evaluated_rows(model: BoundModel, own: Verdict, rows: pl.DataFrame, stores: PlatformStores) -> Evidence | None:
    """Return the evidence of the own window of the verdict ``own`` if it has ``rows``; None if others, or none."""
    try:
        evidence = load_evidence(model, own, stores.home)
    except PromotionError:
        return None  # its version was removed with its evidence
    evidence = split_windows(evidence, [look.rows for look in own.looks])[0] if own.looks else evidence
    return evidence if _has_rows(evidence, rows) else None


def window_rows(model: BoundModel, key: str, lake: Lake) -> pl.DataFrame:
    """Return the labelled rows of the test part of ``key``, in the order of its evaluation; no other row is read."""
    times, scheme = split_times(key, model.partitions, _split_of(model)), model.partitions
    start = scheme.shift(scheme.key_at(times.test_start), -MARGIN_PARTITIONS)
    rows = lake.scan(model.table, partitions=scheme.between(scheme.latest([scheme.first, start]), key))
    is_tested = pl.col(PREDICT_AT).is_between(times.test_start, times.test_end, closed="left")
    return rows.filter(is_tested & pl.col(LABEL).is_not_null()).drop(PARTITION).sort(PREDICT_AT, "example_id").collect()


def _judge_pooled(
    model: BoundModel,
    compared: ComparedVersions,
    judged: Verdict,
    later: UnscoredWindow | None,
    stores: PlatformStores,
    now: datetime,
) -> EvaluationResult:
    """Judge the windows of ``judged`` and ``later`` together; None repeats the last look."""
    at = judged.looks[-1].window if later is None else later.window.partition
    packaged = reuse_or_package(model, compared.candidate, at, stores)
    violations = broken_contracts(stores.lake, model.source_datasets, model.reads_until(at))
    checks = system_checks(model, compared.candidate, at, packaged, stores, violations)
    windows = _stored_windows(model, compared, judged, checks, stores)
    looks = [
        look.model_copy(update={"rows": len(each.label)}) for look, each in zip(judged.looks, windows, strict=True)
    ]
    if later is None:
        *earlier, last = looks
        window = LookWindow(last.window, last.rows, last.until)
    else:
        earlier, window = looks, later.window
        windows.append(_window_evidence(model, compared, later, checks, stores))
    pooled = pool_windows(windows)
    metrics, metric_values = described(pooled)
    verdict = record_evaluation(
        model, compared, pooled, metric_values, stores, now, earlier=earlier, window=window, judged=judged
    )
    return EvaluationResult(
        version=compared.candidate,
        verdict=verdict,
        evidence=pooled,
        metrics=metrics,
        metric_values=metric_values,
        slices=weakest_slices(model, pooled),
        package=packaged.package,
    )


def _stored_windows(
    model: BoundModel, compared: ComparedVersions, judged: Verdict, checks: SystemChecks, stores: PlatformStores
) -> list[Evidence]:
    """Return the evidence of each look of ``judged``, with what its table does not have.

    A later window whose rows were corrected since is scored again.
    """
    windows = split_windows(load_evidence(model, judged, stores.home), [look.rows for look in judged.looks])
    newer = compared.champion is not None and has_newer_data(model, compared.candidate, compared.champion)
    found = []
    for evidence, look in zip(windows, judged.looks, strict=True):
        corrected = None if look.number == 1 else _corrected_window(model, judged, look, evidence, stores)
        if corrected is not None:
            found.append(_window_evidence(model, compared, corrected, checks, stores))
            continue
        found.append(
            replace(
                evidence,
                system_checks=checks,
                candidate_is_newer=newer,
                champion_fitted_on_rows=_champion_saw(model, compared, look.window),
                unscored_champion=_unscored(model, compared, evidence, look.window),
            )
        )
    return found


def _window_evidence(
    model: BoundModel, compared: ComparedVersions, later: UnscoredWindow, checks: SystemChecks, stores: PlatformStores
) -> Evidence:
    scores = score_versions(model, later.rows, compared, stores)
    evaluated = later.evaluated
    baselines = {name: scores.task.aligned(evaluated.predictions[name], evaluated.task) for name in evaluated.baselines}
    scores = replace(
        scores,
        predictions=scores.predictions | baselines,
        champion_fitted_on_rows=_champion_saw(model, compared, later.window.partition),
    )
    return collect_evidence(model, later.rows, compared, scores, checks)


def _champion_saw(model: BoundModel, compared: ComparedVersions, window: str) -> bool:
    champion = compared.champion
    return champion is not None and model.partitions.precedes(window, champion.partition)


def _unscored(
    model: BoundModel, compared: ComparedVersions, evidence: Evidence, window: str
) -> UnscoredChampion | None:
    """Return why the stored ``evidence`` of ``window`` lacks predictions of the champion; None if it lacks none."""
    if compared.champion is None or CHAMPION in evidence.predictions:
        return None
    alone = model.declared.evaluation.unscored_champion == "judge_alone"
    return UnscoredChampion(f"Its own features could not be had for the window {window}.", judged_alone=alone)


def _has_rows(evaluated: Evidence, rows: pl.DataFrame) -> bool:
    """Return whether ``rows`` are those of the evidence ``evaluated``, by their number, labels and slices."""
    if len(evaluated.label) != rows.height:
        return False
    label = evaluated.task.encode(rows[LABEL], "Rows of a window")
    slices = pl.DataFrame() if evaluated.slices is None else evaluated.slices
    names = [name for name in slices.columns if name in rows.columns]
    return np.array_equal(label, evaluated.label) and slices.select(names).equals(rows.select(names))


def _selected(evidence: Evidence, kept: npt.NDArray[np.bool_]) -> Evidence:
    """Return the predictions of the candidate and the baselines for the rows ``kept``."""
    names = evidence.baselines
    return Evidence(
        label=evidence.label[kept],
        predictions={name: evidence.predictions[name][kept] for name in (CANDIDATE, *names)},
        block=evidence.block[kept],
        task=evidence.task,
        settings=evidence.settings,
    )


def _split_of(model: BoundModel) -> TimeSplit:
    split = model.declared.split
    assert isinstance(split, TimeSplit)  # only such a model has looks
    return split
