"""The model card of the version that a window's verdict evaluates, written from its evidence and its registry entry.

The approver reads the card before a promotion; the promotion writes it again, with the decisions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ml_platform.data.atomic import write_text
from ml_platform.evaluation.evidence import CANDIDATE, Evidence
from ml_platform.evaluation.look import looks_table
from ml_platform.evaluation.model_card import ModelCard, render_html, render_markdown
from ml_platform.evaluation.plots import reliability_plot
from ml_platform.evaluation.reliability import reliability_bins
from ml_platform.evaluation.summary import summarize_metrics
from ml_platform.registry.approvals import APPROVAL_KIND, DECISION_KEY
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import champion_history
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.verdict_record import PromotionError, verdict_metrics
from ml_platform.steps.evaluation import load_evidence, weakest_slices
from ml_platform.steps.freshness import curve_table
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import model_directory
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.prices import read_prices
from ml_platform.steps.promotion import evaluated_version, latest_verdict
from ml_platform.tasks.task import Task
from ml_platform.training.calibration import Calibration
from ml_platform.training.model_directory import read_model
from ml_platform.training.splits import TimeSplit
from ml_platform.training.threshold import AnswerQuality, ThresholdChoice, ThresholdSettings, answer_quality

MAX_FEATURES_SHOWN = 15

LOOKS = "Looks at this candidate, all windows so far together"
"""Title of the table of looks."""


@dataclass(frozen=True)
class ModelCardFiles:
    """The files of the card of ``version``, and the digest of the verdict that it shows; MLflow stores copies."""

    version: ModelVersion
    verdict_digest: str
    html_path: Path
    markdown_path: Path


def write_model_card(
    model: BoundModel, window: str, stores: PlatformStores, links: Mapping[str, str]
) -> ModelCardFiles:
    """Write the card of the version that the verdict on ``window`` evaluates, to the reports and to MLflow.

    ``links`` maps texts to addresses; MLflow's copy has no link that is a path. Raises
    :class:`~ml_platform.registry.verdict_record.PromotionError` when the window has no verdict, or the evidence table
    of the verdict is missing or changed.
    """
    verdict = latest_verdict(model, window, stores)
    registry = stores.registry
    version = evaluated_version(model, verdict, registry)
    manifest = registry.manifest(version)
    evidence = load_evidence(model, verdict, stores.home)
    stored_model = read_model(model_directory(version, stores))
    importance = stored_model.fitted.importance()
    candidate = evidence.predictions[CANDIDATE]
    task = evidence.task
    bins = {name: reliability_bins(*each) for name, each in task.probabilities(evidence.label, candidate).items()}
    title = "Predicted beside observed"
    card = ModelCard(
        model=model.name,
        version=str(version.version),
        owner=", ".join(model.declared.owners),
        intended_use=model.declared.intended_use or model.declared.description,
        limits=model.declared.limits,
        trainer=version.trainer,
        manifest=manifest.model_dump(mode="json"),
        evaluated_rows=len(evidence.label),
        evaluated_partition=_evaluated_partition(model, window),
        metrics=summarize_metrics(evidence),
        slices=weakest_slices(model, evidence),
        slice_metric=task.slice_metric,
        verdict=verdict,
        waiting=" ".join(verdict.notes),
        feature_importance=dict(list(importance.items())[:MAX_FEATURES_SHOWN]),
        cost=training_cost(registry, version, manifest, read_prices(stores.repository).currency),
        approvals=decision_history(stores.audit, version),
        calibration=_calibration_text(manifest, task, stored_model.calibration),
        metric_notes={"recall_at_rate": f"alerts for {model.declared.evaluation.bootstrap.alert_rate:.3g} of the rows"},
        threshold=" ".join([_threshold_text(manifest, task), *_costs_text(manifest, evidence)]),
        answers=_answers(manifest, evidence),
        reliability=[] if task.output_names else [each for of_class in bins.values() for each in of_class],
        tables={
            **({LOOKS: looks_table(verdict.looks)} if len(verdict.looks) > 1 else {}),
            **_freshness(model, stores.audit, verdict.digest),
            **task.tables(evidence.label, candidate),
        },
        plots={
            f"{title}: {name}" if task.output_names else title: reliability_plot(each) for name, each in bins.items()
        },
        links=links,
    )
    page = card_page(model, window, stores)
    card_files = ModelCardFiles(version, verdict.digest, page, page.with_suffix(".md"))
    write_text(card_files.html_path, render_html(card))
    write_text(card_files.markdown_path, render_markdown(card))
    # A path leads to the other servers only from a page that `ml-platform up` serves, which MLflow's are not.
    elsewhere = replace(card, links={text: link for text, link in links.items() if not link.startswith("/")})
    markdown = render_markdown(elsewhere)
    for name, text in ((page.name, render_html(elsewhere)), (card_files.markdown_path.name, markdown)):
        registry.tracking.client.log_text(version.run_id, text, f"model_card/{name}")
    registry.set_description(version, markdown)
    return card_files


def card_page(model: BoundModel, window: str, stores: PlatformStores) -> Path:
    """Return the path of the model card of ``window`` as HTML; it need not be written yet."""
    return stores.home.reports / "model_card" / model.name / window / "card.html"


def refresh_model_card(write: Callable[[], ModelCardFiles]) -> str:
    """Write the card again with ``write`` (see :func:`write_model_card`); return that, or why it was not written.

    A promotion is valid without its card, so missing evidence is reported in the message and not raised.
    """
    try:
        written = write()
    except PromotionError as error:
        return f"Not written again: {error}"
    return f"Written again for version {written.version.version}, verdict {written.verdict_digest[:12]}."


def _evaluated_partition(model: BoundModel, window: str) -> str:
    """Return the partition, with the length of the test part if it is not that of the partition."""
    split = model.declared.split
    length = split.evaluation if isinstance(split, TimeSplit) else None
    return window if length is None else f"{window} and before it, {length} in all"


def _calibration_text(manifest: Manifest, task: Task, calibration: Calibration) -> str:
    if calibration.half_width is not None:
        widths = calibration.half_widths or [calibration.half_width]
        low, high = (f"± {width:.4g}" for width in (min(widths), max(widths)))
        sizes = low if low == high else f"{low} to {high}, by the size of the value,"
        share = manifest.parameters.get("interval")
        return f"Intervals of {sizes} around each value, calibrated to contain {share:.0%} of the outcomes."
    if not task.has_probabilities:
        return "Not applicable: the task predicts no probabilities."
    method = manifest.parameters.get("calibration", "none")
    if method == "none":
        return "Scores are the probabilities of the trainer, without calibration."
    by = method["type"] if isinstance(method, dict) else method
    return f"Scores are calibrated to probabilities by {by}, fitted on the validation rows."


def _threshold_text(manifest: Manifest, task: Task) -> str:
    if not task.has_threshold:
        return task.answer_text
    if manifest.threshold is None:
        return "Not recorded: the version was trained before thresholds were chosen on validation rows."
    choice = ThresholdChoice.model_validate(manifest.threshold)
    chosen = f"chosen on {choice.rows:,} validation rows by {choice.rule}"
    return f"The endpoint returns true for scores of at least {choice.value:.4f}, {chosen}. {choice.note}".rstrip()


def _costs_text(manifest: Manifest, evidence: Evidence) -> list[str]:
    """Return a sentence on the cost of the answers on the test rows; nothing for another rule than that of cost."""
    rule = None if manifest.threshold_rule is None else ThresholdSettings.model_validate(manifest.threshold_rule)
    if rule is None or rule.cost is None or manifest.threshold is None:
        return []
    threshold = ThresholdChoice.model_validate(manifest.threshold).value
    at, everything, nothing = (
        rule.cost.per_row(evidence.label, answer)
        for answer in (evidence.predictions[CANDIDATE] >= threshold, True, False)
    )
    text = f"On the test rows, wrong answers cost {at:.4g} a row at this threshold, {everything:.4g} if all rows were "
    return [text + f"answered true, and {nothing:.4g} if none were."]


def _freshness(model: BoundModel, audit: AuditLog, verdict_digest: str) -> dict[str, list[dict[str, object]]]:
    """Return the table of quality by delay, of the metrics that the verdict was recorded with; empty without one."""
    rows = curve_table(verdict_metrics(audit.state, verdict_digest), model.arrivals)
    return {"Quality by the arrival of facts": rows} if rows else {}


def _answers(manifest: Manifest, evidence: Evidence) -> dict[str, AnswerQuality]:
    """Return the quality of the answers at the threshold, on the validation rows and on the test rows."""
    if manifest.threshold is None:
        return {}
    choice = ThresholdChoice.model_validate(manifest.threshold)
    tested = answer_quality(evidence.label, evidence.predictions[CANDIDATE], choice.value)
    return {"validation": choice, "test": tested}


def training_cost(registry: ModelRegistry, version: ModelVersion, manifest: Manifest, currency: str) -> dict[str, str]:
    """Return the resources and cost of training ``version`` as texts by name; quantities not recorded are absent."""
    metrics = dict(registry.tracking.client.get_run(version.run_id).data.metrics)
    formats = {
        "wall_seconds": ("Wall time", "{:,.1f} s"),
        "cpu_seconds": ("CPU time", "{:,.1f} s"),
        "gpu_seconds": ("GPU time", "{:,.1f} s"),
        "peak_memory_bytes": ("Peak memory", "{:,.2f} GB"),
        "cost": ("Cost", f"{{:,.4f}} {currency}"),
    }
    if "peak_memory_bytes" in metrics:
        metrics["peak_memory_bytes"] /= 1e9
    texts = {
        name: template.format(metrics[metric]) for metric, (name, template) in formats.items() if metric in metrics
    }
    hardware = manifest.hardware
    return {"Device": f"{hardware.device} ({hardware.machine}, {hardware.cpu_count} cores)", **texts}


def decision_history(audit: AuditLog, version: ModelVersion) -> list[str]:
    """Return the approvals and rejections of ``version`` and its promotions as texts, oldest first."""
    decisions = [
        (record.at, f"{record.actor}, {record.facts[DECISION_KEY]}: {record.facts['reason']}")
        for record in audit.records(APPROVAL_KIND, version.name)
        if record.facts["version"] == version.version
    ]
    promotions = [
        (one.since, f"champion ({one.action.replace('_', ' ')}) by {one.decided_by}: {one.reason}")
        for one in champion_history(audit, version.name)
        if one.version == version.version
    ]
    return [f"{at:%Y-%m-%d %H:%M} UTC, {text}" for at, text in sorted([*decisions, *promotions])]
