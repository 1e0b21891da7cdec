"""The card of the version that a month's verdict is about, from what the gates saw and the registry keeps.

Apart from the judging because whoever has to approve reads it before there is a champion, and again afterwards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ml_platform.data.atomic import write_text
from ml_platform.evaluation.calibration import reliability
from ml_platform.evaluation.evidence import CANDIDATE
from ml_platform.evaluation.model_card import ModelCard, render_html, render_markdown
from ml_platform.evaluation.plots import reliability_plot
from ml_platform.evaluation.summary import summarize
from ml_platform.registry.approvals import APPROVAL_KIND
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.championship import history
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.verdict_record import PromotionRefused
from ml_platform.steps.candidates import prices_of
from ml_platform.steps.crowning import judged_version, newest_verdict
from ml_platform.steps.judgement import SLICE_METRIC, seen_evidence, weakest_slices
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import model_directory
from ml_platform.training.model_directory import read_model
from resources.home import Home

FEATURES_SHOWN = 15


@dataclass(frozen=True)
class WrittenCard:
    """The card of ``version`` as a page and as text, which MLflow holds too, and the verdict that it shows."""

    version: ModelVersion
    verdict_digest: str
    page: Path
    text: Path


def write_card(
    model: BoundModel,
    month: str,
    *,
    registry: ModelRegistry,
    audit: AuditLog,
    folders: Home,
    repository: Path,
    links: Mapping[str, str],
) -> WrittenCard:
    """Write the card of the version that ``month``'s verdict is about, here and on its pages in MLflow.

    Raises :class:`~ml_platform.registry.verdict_record.PromotionRefused` when there is no verdict, or the table that
    its gates saw is gone.
    """
    verdict, _ = newest_verdict(model, month, audit, folders.verdicts)
    version = judged_version(model, verdict, registry)
    manifest = registry.manifest(version)
    evidence = seen_evidence(model, verdict, folders)
    stored = read_model(model_directory(registry, version, folders.models))
    importance = stored.fitted.importance()
    candidate = evidence.predictions[CANDIDATE]
    bins = reliability(evidence.label, candidate) if evidence.task == "classification" else []
    card = ModelCard(
        model=model.name,
        version=str(version.version),
        owner=", ".join(model.declared.owners),
        intended_use=model.declared.intended_use or model.declared.description,
        limits=model.declared.limits,
        trainer=version.trainer,
        manifest=manifest.model_dump(mode="json"),
        evaluated_rows=len(evidence.label),
        evaluated_partition=month,
        metrics=summarize(evidence),
        slices=weakest_slices(model, evidence),
        slice_metric=SLICE_METRIC[evidence.task],
        verdict=verdict,
        explanations=dict(list(importance.items())[:FEATURES_SHOWN]),
        cost=cost_of(registry, version, manifest, prices_of(repository).currency),
        approvals=decisions_on(audit, version),
        calibration=_calibration(manifest, stored.calibration.half_width),
        reliability=bins,
        plots={"Predicted beside observed": reliability_plot(bins)} if bins else {},
        links=links,
    )
    folder = folders.reports / "model_card" / model.name / month
    written = WrittenCard(version, verdict.digest, folder / "card.html", folder / "card.md")
    write_text(written.page, render_html(card))
    write_text(written.text, render_markdown(card))
    for path in (written.page, written.text):
        registry.tracking.client.log_artifact(version.run_id, str(path), "model_card")
    registry.describe(version, written.text.read_text())
    return written


def renewed_card(write: Callable[[], WrittenCard]) -> str:
    """Let ``write`` (see :func:`write_card`) make the card anew, and say where, or why not.

    For after a promotion, which stands without the card: where what the gates saw is gone, that is said, not raised.
    """
    try:
        written = write()
    except PromotionRefused as refused:
        return f"Not made anew: {refused}"
    return f"Made anew: {written.page}"


def _calibration(manifest: Manifest, half_width: float | None) -> str:
    if half_width is not None:
        share = manifest.parameters.get("interval")
        return f"Intervals of ± {half_width:.4g} around each value, made to hold {share:.0%} of the outcomes."
    method = manifest.parameters.get("calibration", "none")
    if method == "none":
        return "Scores are probabilities as the trainer gives them."
    return f"Scores are made probabilities by {method}, fitted on the validation rows."


def cost_of(registry: ModelRegistry, version: ModelVersion, manifest: Manifest, currency: str) -> dict[str, str]:
    """Return what training ``version`` used and cost, in words, as its run recorded it; what it did not is left out."""
    used = dict(registry.tracking.client.get_run(version.run_id).data.metrics)
    words = {
        "wall_seconds": ("Wall time", "{:,.1f} s"),
        "cpu_seconds": ("CPU time", "{:,.1f} s"),
        "gpu_seconds": ("GPU time", "{:,.1f} s"),
        "peak_memory_bytes": ("Peak memory", "{:,.2f} GB"),
        "cost": ("Cost", f"{{:,.4f}} {currency}"),
    }
    if "peak_memory_bytes" in used:
        used["peak_memory_bytes"] /= 1e9
    told = {name: shape.format(used[metric]) for metric, (name, shape) in words.items() if metric in used}
    hardware = manifest.hardware
    return {"Device": f"{hardware.device} ({hardware.machine}, {hardware.cpu_count} cores)", **told}


def decisions_on(audit: AuditLog, version: ModelVersion) -> list[str]:
    """Return who said what to ``version``, and when it became champion, oldest first."""
    said = [
        (record.at, f"{record.actor} said {record.facts['word']}: {record.facts['reason']}")
        for record in audit.records(APPROVAL_KIND)
        if (record.facts["model"], record.facts["version"]) == (version.name, version.version)
    ]
    crowned = [
        (one.since, f"champion ({one.action.replace('_', ' ')}) by {one.decided_by}: {one.reason}")
        for one in history(audit, version.name)
        if one.version == version.version
    ]
    return [f"{at:%Y-%m-%d %H:%M} UTC, {words}" for at, words in sorted([*said, *crowned])]
