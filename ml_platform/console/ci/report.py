"""The content of the report of a candidate for a pull request, from the last evaluation in a home.

Everything is read from records: the verdict with its evidence, manifests, drift, landings and the model card.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ml_platform.console.arguments import ArgumentError
from ml_platform.console.lineage import ProjectLineage
from ml_platform.data.contract_record import contract_counts
from ml_platform.data.quality_record import last_landings
from ml_platform.evaluation.evidence import BASE_RATE, CANDIDATE, CHAMPION, Evidence
from ml_platform.evaluation.plots import importance_plot, improvement_plot, reliability_plot
from ml_platform.evaluation.reliability import reliability_bins
from ml_platform.evaluation.slices import SliceComparison, SliceScore
from ml_platform.evaluation.summary import summarize_metrics
from ml_platform.evaluation.verdict import Verdict, parse_verdict
from ml_platform.evaluation.version_comparison import MetricComparison
from ml_platform.monitoring.drift_history import DriftSummary, drift_history
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.verdict_record import latest_verdict_on_model
from ml_platform.state.store import StateStore
from ml_platform.steps.evaluation import load_evidence, weakest_slices
from ml_platform.steps.model import BoundModel
from ml_platform.steps.model_card import card_page, training_cost
from ml_platform.steps.packaging import model_directory
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.prices import read_prices
from ml_platform.steps.promotion import evaluated_version, latest_verdict
from ml_platform.steps.version_comparison import (
    ManifestChanges,
    manifest_changes,
    metric_comparisons,
    slice_comparisons,
)
from ml_platform.training.model_directory import read_model


@dataclass(frozen=True)
class DatasetLine:
    """A dataset: partitions that passed or fail their contract, and the state of its last landing with the findings."""

    name: str
    passed: int
    failed: int
    last: str
    state: str
    findings: Sequence[str]


@dataclass(frozen=True)
class CiReport:
    """The report of ``version``. ``champion`` is the version that it was compared with; None: there was none.

    ``drift`` is None where it was not measured, ``changes`` are those since the champion, and ``costs`` are texts of
    candidate and champion by quantity. ``card`` is the model card as Markdown, empty when it is not written.
    ``images`` are PNG images by title.
    """

    model: str
    verdict: Verdict
    version: int
    champion: int | None
    manifest: Manifest
    rows: int
    metrics: Sequence[MetricComparison]
    slice_metric: str
    slices: Sequence[SliceComparison]
    weakest: Sequence[SliceScore]
    drift: DriftSummary | None
    changes: ManifestChanges | None
    datasets: Sequence[DatasetLine]
    costs: Mapping[str, tuple[str, str]]
    card: str
    images: Mapping[str, bytes]

    @property
    def passed(self) -> int:
        """The number of gates that passed."""
        return sum(gate.passed for gate in self.verdict.gates)


def ci_report(model: BoundModel, partition: str, stores: PlatformStores, lineage: ProjectLineage) -> CiReport:
    """Return the report on the candidate of ``partition``; empty: on the one that was judged last.

    Raises :class:`~ml_platform.console.arguments.ArgumentError` when no candidate was judged, and
    :class:`~ml_platform.registry.verdict_record.PromotionError` when the evidence of the verdict is gone.
    """
    verdict = latest_verdict(model, partition, stores) if partition else _last_verdict(model, stores)
    registry = stores.registry
    version = evaluated_version(model, verdict, registry)
    champion = None if verdict.champion is None else registry.by_content(model.name, verdict.champion)
    manifest = registry.manifest(version)
    evidence = load_evidence(model, verdict, stores.home)
    currency = read_prices(stores.repository).currency
    costs = training_cost(registry, version, manifest, currency)
    earlier = None if champion is None else registry.manifest(champion)
    other = {} if champion is None or earlier is None else training_cost(registry, champion, earlier, currency)
    card = card_page(model, verdict.partition, stores).with_suffix(".md")
    drift = {each.partition: each for each in drift_history(stores.state, model.name)}
    importance = read_model(model_directory(version, stores)).fitted.importance()
    return CiReport(
        model=model.name,
        verdict=verdict,
        version=version.version,
        champion=None if champion is None else champion.version,
        manifest=manifest,
        rows=len(evidence.label),
        metrics=metric_comparisons(evidence),
        slice_metric=evidence.task.slice_metric,
        slices=slice_comparisons(model, evidence),
        weakest=weakest_slices(model, evidence),
        drift=drift.get(verdict.partition),
        changes=None if earlier is None else manifest_changes(earlier, manifest),
        datasets=[_dataset(stores.state, name) for name in lineage.datasets_of(model.name)],
        costs={name: (text, other.get(name, "–")) for name, text in costs.items()},
        card=card.read_text(encoding="utf-8") if card.is_file() else "",
        images=_images(evidence, importance),
    )


def _last_verdict(model: BoundModel, stores: PlatformStores) -> Verdict:
    found = latest_verdict_on_model(stores.audit, model.name)
    if found is None:
        raise ArgumentError(
            f"Report on '{model.name}'",
            expected="a judged candidate in the home",
            found="none",
            fix=f"Materialize {model.name}/evaluation first.",
        )
    return parse_verdict(found.content)


def _dataset(state: StateStore, name: str) -> DatasetLine:
    passed, failed = contract_counts(state, name)
    landed = last_landings(state, name)
    if not landed:
        return DatasetLine(name, passed, failed, "–", "not profiled", [])
    findings = [str(each["what"]) for each in landed[0].findings]
    return DatasetLine(name, passed, failed, landed[0].partition or "the table", landed[0].state, findings)


def _images(evidence: Evidence, importance: Mapping[str, float]) -> dict[str, bytes]:
    """Return the images by title: improvement over the champion or the simplest baseline, reliability, importance."""
    summaries = summarize_metrics(evidence)
    opponent = next((name for name in (CHAMPION, BASE_RATE, *evidence.baselines) if name in evidence.predictions), "")
    images = (
        {f"Improvement over the {opponent.replace('_', ' ')}": improvement_plot(summaries, opponent)}
        if opponent
        else {}
    )
    for name, each in evidence.task.probabilities(evidence.label, evidence.predictions[CANDIDATE]).items():
        of = f": {name}" if evidence.task.output_names else ""
        images[f"Predicted beside observed{of}"] = reliability_plot(reliability_bins(*each))
    if importance:
        images["Importance of features"] = importance_plot(importance)
    return images
