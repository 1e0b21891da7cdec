"""The metrics of the platform in Prometheus' text format: one page for runs, data, models, alerts, serving and costs.

Each scrape reads a bounded number of rows, and the number of series depends on what is declared and served, not on age.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml_platform.alerts.alert import SEVERITIES
from ml_platform.alerts.records import open_alerts
from ml_platform.console.site.home_overview import DeclarationSource, known_models
from ml_platform.console.site.model_overview import evaluation_of, interval_metrics
from ml_platform.data.contract_record import latest_result
from ml_platform.monitoring.cost_records import sums_by_model
from ml_platform.monitoring.performance_periods import last_periods
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.registry.verdict_record import last_judged
from ml_platform.serving.desired_state import ROLES, DesiredState, all_desired_states
from ml_platform.serving.gateway_clusters import cluster_name
from ml_platform.serving.gateway_traffic import Traffic, read_traffic
from ml_platform.steps.free_disk import free_bytes
from resources.home import Home

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "ml_platform_"

JUDGED_READ, PERIODS_READ = 24, 12
"""Windows and periods that are read for the promise of a champion and its latest realised and estimated metrics."""

RunCounts = Callable[[], Mapping[str, int]]


class PlatformMetrics:
    """The metrics of a home, read again for each page.

    ``runs`` returns the number of kept runs by status. ``home`` None leaves out the gateway and the disk, for a page
    without a running platform.
    """

    def __init__(
        self, audit: AuditLog, declared: DeclarationSource, runs: RunCounts, currency: str | None, home: Home | None
    ) -> None:
        self._audit, self._declared, self._runs = audit, declared, runs
        self._currency, self._home = currency, home

    def page(self, now: datetime) -> bytes:
        """Return all metrics as text, as of ``now``."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.registry import Collector

        families = list(self.families(now))

        class Read(Collector):
            def collect(self) -> "Iterable[Metric]":
                return families

        registry = CollectorRegistry()
        registry.register(Read())
        return generate_latest(registry)

    def families(self, now: datetime) -> "Iterator[Metric]":
        """Yield each metric with its samples."""
        with self._audit.state.read():
            served = all_desired_states(self._audit.state).readable
            yield from self._data()
            yield from self._alerts()
            yield from self._models(served)
            yield from self._costs(now)
        yield _gauge("runs", "Runs of Dagster that are kept, by status", ["status"], self._runs().items())
        yield from self._serving(served)

    def _data(self) -> "Iterator[Metric]":
        published: list[tuple[Sequence[str], float]] = []
        failing: list[tuple[Sequence[str], float]] = []
        for each in self._declared.current().datasets:
            result = latest_result(self._audit.state, each.name)
            labels = (each.name, each.domain)
            if result is not None and result.passed_at is not None:
                published.append((labels, datetime.fromisoformat(result.passed_at).timestamp()))
            if result is not None:
                failing.append((labels, float(result.failed_check is not None)))
        names = ["dataset", "domain"]
        meaning = "When the latest partition of a dataset was published (Unix time); time() minus it is its age"
        yield _gauge("dataset_published_timestamp_seconds", meaning, names, published)
        yield _gauge("dataset_contract_failing", "1 while the latest partition breaks its contract", names, failing)

    def _alerts(self) -> "Iterator[Metric]":
        counts = dict.fromkeys(SEVERITIES, 0)
        for each in open_alerts(self._audit.state):
            counts[each.severity] += 1
        yield _gauge("open_alerts", "Open alerts by severity", ["severity"], counts.items())

    def _models(self, served: Mapping[str, DesiredState]) -> "Iterator[Metric]":
        state = self._audit.state
        champions: list[tuple[Sequence[str], float]] = []
        quality: list[tuple[Sequence[str], float]] = []
        for each in known_models(self._audit, self._declared.current(), served):
            champion = current_champion(self._audit, each.name)
            if champion is None:
                continue
            champions.append(((each.name, each.domain), float(champion.version)))
            evaluated = evaluation_of(champion, last_judged(state, each.name, JUDGED_READ))
            if evaluated is not None:
                promised = interval_metrics(evaluated.metrics)
                quality += [((each.name, name, "promised"), evaluated.metrics[name]) for name in promised]
            own = [
                found
                for found in last_periods(state, each.name, PERIODS_READ)
                if found.version == str(champion.version)
            ]
            realised = next((found for found in reversed(own) if found.evaluated), None)
            if realised is not None:
                quality += [((each.name, name, "realised"), value) for name, value in realised.metrics.items()]
            estimated = next((found for found in reversed(own) if found.estimates), None)
            if estimated is not None:
                quality += [
                    ((each.name, name, "estimated"), value.value) for name, value in estimated.estimates.items()
                ]
        yield _gauge("champion_version", "Version that is champion", ["model", "domain"], champions)
        meaning = "Metric of the champion: promised by its evaluation, latest realised, latest estimated before labels"
        yield _gauge("model_quality", meaning, ["model", "metric", "kind"], quality)

    def _costs(self, now: datetime) -> "Iterator[Metric]":
        today = now.astimezone(UTC).date()
        sums = sums_by_model(self._audit.state, today.replace(day=1), today)
        names, labels = ["domain", "model"], [(each.domain, each.model) for each in sums]

        def family(name: str, meaning: str, values: Iterable[float]) -> "Metric":
            text = f"{meaning}, since the month began (UTC); model is empty for datasets and views"
            return _counter(name, text, names, zip(labels, values, strict=True))

        yield family("steps", "Ended steps", (each.steps for each in sums))
        yield family("step_failures", "Failed steps", (each.failures for each in sums))
        yield family("step_seconds", "Duration of steps (seconds)", (each.used.wall_seconds for each in sums))
        yield family("step_cpu_seconds", "Processor time of steps", (each.used.cpu_seconds for each in sums))
        yield family("step_gpu_seconds", "Accelerator time of steps", (each.used.gpu_seconds for each in sums))
        yield family("step_written_bytes", "Bytes that steps wrote", (each.used.bytes_written for each in sums))
        if self._currency is not None:
            money = f"Cost of steps ({self._currency})"
            yield family("step_cost", money, (each.used.money for each in sums))

    def _serving(self, served: Mapping[str, DesiredState]) -> "Iterator[Metric]":
        weights: list[tuple[Sequence[str], float]] = []
        arms: dict[str, tuple[str, str, str]] = {}
        for model, state in served.items():
            for role in ROLES:
                version = getattr(state, role)
                if version is not None:
                    weights.append(((model, version.version, role), float(state.weights.get(role, 0))))
                    arms.setdefault(cluster_name(model, version), (model, version.version, role))
        names = ["model", "version", "arm"]
        yield _gauge("rollout_weight_percent", "Share of requests of a version in service", names, weights)
        if self._home is None:
            return
        yield _gauge("home_free_bytes", "Free bytes on the disk of the home", [], [((), free_bytes(self._home.root))])
        try:
            traffic, is_up = read_traffic(self._home.run / "gateway", list(arms)), 1.0
        except OSError:
            traffic, is_up = {}, 0.0
        yield _gauge("gateway_up", "1 if the gateway answers", [], [((), is_up)])
        yield from _traffic({arms[name]: each for name, each in traffic.items()})


def _traffic(traffic: Mapping[tuple[str, str, str], Traffic]) -> "Iterator[Metric]":
    from prometheus_client.core import HistogramMetricFamily

    names = ["model", "version", "arm"]
    answers = [((*arm, code), float(count)) for arm, each in traffic.items() for code, count in each.answers.items()]
    meaning = "Requests that a version answered through the gateway, by class of status"
    yield _counter("requests", meaning, [*names, "code"], answers)
    durations = HistogramMetricFamily(f"{PREFIX}gateway_seconds", "Time until the answer of a version", labels=names)
    for arm, each in traffic.items():
        if each.durations:
            # Envoy's own buckets end below infinity.
            buckets = {**each.durations, float("inf"): max(each.durations.values())}
            listed = [(_limit(upper), float(count)) for upper, count in sorted(buckets.items())]
            durations.add_metric(list(arm), listed, each.seconds)
    yield durations


def _limit(upper: float) -> str:
    """Return the upper limit of a bucket as Prometheus writes it."""
    return "+Inf" if upper == float("inf") else str(upper)


Samples = Iterable[tuple[Sequence[str] | str, float]]


def _gauge(name: str, meaning: str, labels: Sequence[str], samples: Samples) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(PREFIX + name, meaning, labels=labels), samples)


def _counter(name: str, meaning: str, labels: Sequence[str], samples: Samples) -> "Metric":
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(PREFIX + name, meaning, labels=labels), samples)


def _filled(family: "GaugeMetricFamily | CounterMetricFamily", samples: Samples) -> "Metric":
    """Return ``family`` with ``samples``, each the value of its one label or the values of all, and a number."""
    for values, value in samples:
        family.add_metric([values] if isinstance(values, str) else list(values), value)
    return family


def run_counts(instance: "DagsterInstance") -> dict[str, int]:
    """Return the number of runs that ``instance`` keeps, by status in lower case, open ones included."""
    import dagster as dg

    return {
        status.value.lower(): instance.get_runs_count(dg.RunsFilter(statuses=[status]))
        for status in dg.DagsterRunStatus
    }
