"""From a verdict to a champion and its card: where evaluation and registry meet.

Apart from the assets because the command line approves and promotes by the same steps.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import polars as pl

from ml_platform.components.candidates import read_training_set, split_of
from ml_platform.components.judgement import VERDICTS
from ml_platform.components.model import BoundModel
from ml_platform.components.packaging import model_directory
from ml_platform.data.atomic import write_text
from ml_platform.data.lake import Lake
from ml_platform.evaluation.calibration import reliability
from ml_platform.evaluation.evidence import CANDIDATE, Evidence, blocks_of
from ml_platform.evaluation.model_card import ModelCard, render_html, render_markdown
from ml_platform.evaluation.plots import importance_plot, reliability_plot
from ml_platform.evaluation.slices import worst_slices
from ml_platform.evaluation.summary import summarize
from ml_platform.evaluation.verdict import Verdict, verified
from ml_platform.registry.approvals import approve
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.championship import Championship, history
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.promotion import ApprovalAwaited, VersionRejected, decline, promote
from ml_platform.registry.verdict_record import (
    VERDICT_KIND,
    PromotionRefused,
    newest_evidence,
    newest_verdict_digest,
)
from ml_platform.training.model_directory import read_model
from ml_platform.training.splits import LABEL
from resources.home import Home


@dataclass(frozen=True)
class Word:
    """What a person says to a version, and why."""

    word: Literal["approve", "reject"]
    by: str
    reason: str


@dataclass(frozen=True)
class Held:
    """A version that passed its gates and is not champion: a person's yes is awaited, or a person said no."""

    version: int
    rejected: bool
    reason: str


def crown(
    model: BoundModel,
    month: str,
    *,
    registry: ModelRegistry,
    audit: AuditLog,
    verdicts: Path,
    word: Word | None,
    decided_by: str,
    now: datetime,
) -> Championship | Held:
    """Promote the candidate of ``month`` on its newest verdict and return its record, or what holds it.

    A person's ``word`` is entered first, on the evidence of that verdict. Raises :class:`PromotionRefused` when there
    is no verdict on the month, or it does not allow promotion.
    """
    verdict, path = newest_verdict(model, month, audit, verdicts)
    version = judged_version(model, verdict, registry)
    return _settled(model, version, path, word, decided_by, registry, audit, now)


def say(
    model: BoundModel,
    version: int,
    word: Word,
    *,
    registry: ModelRegistry,
    audit: AuditLog,
    verdicts: Path,
    now: datetime,
) -> Championship | Held:
    """Enter a person's ``word`` on ``version``; if nothing else is missing it is champion at once.

    Raises :class:`PromotionRefused` when there is no verdict on the version, or it does not allow promotion.
    """
    chosen = registry.version(model.name, version)
    path = verdicts / f"{newest_verdict_digest(audit, chosen)}.json"
    return _settled(model, chosen, path, word, word.by, registry, audit, now)


def _settled(
    model: BoundModel,
    version: ModelVersion,
    verdict_path: Path,
    word: Word | None,
    decided_by: str,
    registry: ModelRegistry,
    audit: AuditLog,
    now: datetime,
) -> Championship | Held:
    if word is not None and word.word == "reject":
        decline(registry, audit, version, by=word.by, reason=word.reason, at=now)
        return Held(version.version, True, f"Rejected by {word.by}: {word.reason}")
    if word is not None:
        evidence = newest_evidence(audit, version)
        approve(
            audit, model=model.name, version=version.version, evidence=evidence, by=word.by, reason=word.reason, at=now
        )
    try:
        return promote(
            registry,
            audit,
            version,
            verdict_path=verdict_path,
            approval=model.declared.approval,
            decided_by=word.by if word else decided_by,
            reason=word.reason
            if word
            else f"All {len(verified(verdict_path).gates)} gates passed on {version.partition}.",
            at=now,
        )
    except (ApprovalAwaited, VersionRejected) as held:
        return Held(version.version, isinstance(held, VersionRejected), f"{held.found}. {held.mend}")


def newest_verdict(model: BoundModel, month: str, audit: AuditLog, verdicts: Path) -> tuple[Verdict, Path]:
    """Return the newest recorded verdict on ``month`` and where it is stored."""
    known = [
        record.facts["digest"]
        for record in audit.records(VERDICT_KIND)
        if (record.facts["model"], record.facts["partition"]) == (model.name, month)
    ]
    if not known:
        raise PromotionRefused(
            f"Model '{model.name}', {month}",
            expected="a recorded verdict",
            found="none",
            mend=f"Materialize {model.name}/evaluation for {month} first.",
        )
    path = verdicts / f"{known[-1]}.json"
    return verified(path), path


def write_card(
    model: BoundModel, month: str, *, lake: Lake, registry: ModelRegistry, audit: AuditLog, folders: Home
) -> tuple[Path, Path]:
    """Write the card of the version that ``month``'s verdict is about; return the page and the text."""
    verdict, _ = newest_verdict(model, month, audit, folders.records / VERDICTS)
    version = judged_version(model, verdict, registry)
    stored = read_model(model_directory(registry, version, folders.models))
    test = split_of(model, month, read_training_set(model, month, lake)).test
    declared = model.declared
    slices = test.select(declared.evaluation.slices)
    evidence = Evidence(
        label=test[LABEL].cast(pl.Float64).to_numpy(),
        predictions={CANDIDATE: stored.predict(test)},
        block=blocks_of(
            test,
            declared.evaluation.bootstrap.unit,
            time=declared.prediction_time.field,
            time_zone=declared.partitions.time_zone,
        ),
        task=declared.task,
        settings=declared.evaluation.bootstrap,
    )
    importance = stored.fitted.importance()
    card = ModelCard(
        model=model.name,
        version=str(version.version),
        owner=", ".join(declared.owners),
        intended_use=declared.intended_use or declared.description,
        limits=declared.limits,
        trainer=version.trainer,
        manifest=registry.manifest(version).model_dump(mode="json"),
        evaluated_rows=test.height,
        evaluated_partition=month,
        metrics=summarize(evidence),
        slices=worst_slices(evidence.label, evidence.predictions[CANDIDATE], slices, task=declared.task),
        slice_metric="log_loss",
        verdict=verdict,
        explanations=dict(list(importance.items())[:15]),
        approvals=[
            f"{one.since:%Y-%m-%d %H:%M} UTC: version {one.version} by {one.decided_by}. {one.reason}"
            for one in history(audit, model.name)
        ],
        plots={
            "Reliability": reliability_plot(reliability(evidence.label, evidence.predictions[CANDIDATE])),
            "Importance": importance_plot(importance),
        },
    )
    folder = folders.reports / "model_card" / model.name / month
    write_text(folder / "card.html", render_html(card))
    write_text(folder / "card.md", render_markdown(card))
    return folder / "card.html", folder / "card.md"


def judged_version(model: BoundModel, verdict: Verdict, registry: ModelRegistry) -> ModelVersion:
    """Return the registered version that ``verdict`` is about; raises :class:`PromotionRefused` where there is none."""
    version = registry.by_content(model.name, verdict.candidate)
    if version is None:
        raise PromotionRefused(
            f"Model '{model.name}', {verdict.partition}",
            expected=f"a registered version with content {verdict.candidate[:12]}",
            found="none",
            mend="Materialize the candidate again.",
        )
    return version
