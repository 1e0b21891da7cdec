"""`ml-platform status`: data clock, champions, verdicts, served versions with their traffic shares, and failures."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ml_platform.data.landing import Landing
from ml_platform.tasks.metrics import RARE_SHARE
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.components.dataset.component import Dataset
    from ml_platform.console.verdicts import VerdictEntry
    from ml_platform.data.partitions import PartitionScheme
    from ml_platform.registry.waiting import WaitingCandidate

METRIC_LABELS = {"auc": "AUC", "log_loss": "log loss", "ece": "calibration error", "base_rate": "base rate"}
"""The metrics shown for a classifier, with their labels; other models show all metrics."""

RARE_LABELS = {"average_precision": "average precision", "recall_at_rate": "recall at alert rate"}
"""The metrics shown besides where positives are rare: AUC and losses hardly notice the order of the first rows."""

SHOWN_SCALING_STEPS = 3
"""Changes of the number of replicas that the text shows; the JSON has all that are kept."""

BUSY_SECONDS = 0.5
"""Time that the check of MLflow's database waits for a writer."""


def status(home: Home) -> dict[str, Any]:
    """Return the data clock (ISO 8601, or None) and the state of every model.

    The models are those with a declaration, a promotion or a desired state. ``champion`` is None before the first
    promotion; ``endpoint`` is None while the services are down. ``waiting`` are the candidates on HOLD.
    ``verdict`` is the last one on a candidate, with its reasons, or None.
    ``streams`` has one line for each stream whose requests the endpoint answers, ``replicas`` those that are ready by
    version, and ``scaling`` the last changes of their number, the oldest first.
    ``retraining`` is the last decision on retraining with the state of its training, or None.
    ``failures`` are the failed runs, schedules and sensors that no later success has replaced.
    ``not_loaded`` has the errors of each domain that does not load. ``orphans`` names what the home serves or stores
    without a declaration, with the verb that ends it.
    """
    from ml_platform.components.dataset.component import Dataset
    from ml_platform.components.model.component import Model
    from ml_platform.components.project import read_project
    from ml_platform.console.lifecycle import declared_domains, declared_names
    from ml_platform.console.load_check import domains_not_loaded
    from ml_platform.console.retraining_decisions import last_decision_values
    from ml_platform.console.verdicts import last_verdict
    from ml_platform.definitions import PROJECT_ROOT
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.champion_history import CHAMPION_KIND, current_champion
    from ml_platform.registry.verdict_record import verdict_metrics
    from ml_platform.registry.waiting import waiting_candidates
    from ml_platform.serving.desired_state import all_desired_states
    from ml_platform.serving.scaling_record import all_scaling_steps
    from ml_platform.serving.serving_status import read_serving_status
    from ml_platform.serving.streams.stream_status import stream_lines
    from ml_platform.steps.domain_removal import remember_domains
    from ml_platform.steps.orphans import orphans
    from resources.state import open_state

    store = open_state(home)
    audit, stored = AuditLog(store), all_desired_states(store)
    desired = stored.readable
    serving, streams = read_serving_status(home.run / "status.json"), stream_lines(store, home.run)
    scaling = all_scaling_steps(store)
    project = read_project(PROJECT_ROOT)
    remember_domains(store, declared_domains(project))
    maximum_looks = {each.name: each.maximum_looks for each in project.components(Model)}
    declared = set(maximum_looks)
    names = sorted({*declared, *audit.models(CHAMPION_KIND), *desired, *stored.unreadable})
    models: dict[str, Any] = {}
    champions = {name: current_champion(audit, name) for name in names}
    deleted = _deleted_in_mlflow(home, {name: one.version for name, one in champions.items() if one is not None})
    for name, champion in champions.items():
        state = desired.get(name)
        served = serving.models.get(name) if serving else None
        models[name] = {
            "champion": None
            if champion is None
            else {
                "version": champion.version,
                "metrics": verdict_metrics(store, champion.verdict),
                "manifest": dict(champion.manifest),
                **({"problem": deleted[name]} if name in deleted else {}),
            },
            "serving": {
                "stable": state.stable.version if state and state.stable else None,
                "candidate": state.candidate.version if state and state.candidate else None,
                "weights": state.weights if state else {},
                "generation": state.generation if state else 0,
                **({"problem": str(stored.unreadable[name])} if name in stored.unreadable else {}),
            },
            "endpoint": served.endpoint if served else None,
            "verdict": _verdict_values(last_verdict(audit, name)),
            "retraining": last_decision_values(store, name),
            "streams": streams.get(name, []),
            "replicas": served.replicas if served else {},
            "scaling": [each.model_dump(mode="json") | {"text": each.text} for each in scaling.get(name, [])],
            "waiting": [
                _waiting_values(each, maximum_looks[name])
                for each in (waiting_candidates(audit, name, maximum_looks[name]) if name in declared else ())
            ],
        }
    return {
        "data_clock": data_clock(home, project.components(Dataset)),
        "models": models,
        "not_loaded": domains_not_loaded(home, project),
        # The names of a domain that does not load are not known, so nothing is an orphan for certain.
        "orphans": [] if project.not_loaded else [str(each) for each in orphans(store, declared_names(project))],
        "failures": _failures(home),
    }


def data_clock(home: Home, datasets: "Sequence[Dataset]") -> str | None:
    """Return the end of the latest landed partition of ``datasets``, as ISO 8601, or None.

    Of a materialized partition that is still arriving, the time until which it has arrived counts.
    """
    landing = Landing(home.landing)
    ends = [
        _arrived_end(home, dataset, dataset.partitions, latest)
        for dataset in datasets
        if dataset.partitions is not None
        and dataset.partitions.is_timed
        and (latest := landing.latest_partition(dataset.name, dataset.partitions.contains))
    ]
    return max(ends).isoformat() if ends else None


def _arrived_end(home: Home, dataset: "Dataset", partitions: "PartitionScheme", latest: str) -> datetime:
    from ml_platform.features.materialize import arrived_until
    from resources.home_lake import open_lake

    arrival = dataset.arrival_in_zone
    if arrival is None:
        return partitions.bounds(latest)[1]
    return arrived_until(arrival, open_lake(home), latest, partitions)


def _failures(home: Home) -> list[dict[str, Any]]:
    """Return the failures in the Dagster instance of ``home``, or that its storage cannot be read."""
    import sqlalchemy as sa

    from resources.orchestration import open_instance
    from resources.run_failures import unresolved_failures

    try:
        with open_instance(home) as instance:
            return unresolved_failures(instance)
    except sa.exc.SQLAlchemyError as error:
        unreadable = {"what": "storage of Dagster", "at": None, "reason": f"its runs cannot be read: {error}"}
        return [{**unreadable, "run_id": None}]


def last_decisions(home: Home, limit: int = 5) -> list[dict[str, Any]]:
    """Return the last ``limit`` records of the audit log, latest first."""
    from ml_platform.registry.audit import AuditLog
    from resources.state import open_state

    return [
        {"at": record.at.isoformat(), "kind": record.kind, "by": record.actor, **_summary(record.facts)}
        for record in islice(AuditLog(open_state(home)).newest_first(), limit)
    ]


def show(found: dict[str, Any], last: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the results of :func:`status` and :func:`last_decisions`: models, what is broken, then the decisions."""
    console.print(f"Data clock  {found['data_clock'] or 'no data has landed yet'}", highlight=False)
    for name, model in found["models"].items():
        console.print(Text(f"\n{name}", style="bold"))
        console.print(Padding(_model_table(model), (0, 0, 0, 2), expand=False))
    for name, problem in found.get("not_loaded", {}).items():
        console.print(Text(f"\nDomain {name} does not load, so it is left out", style="bold red"))
        console.print(Padding(Text(problem, overflow="fold"), (0, 0, 0, 2), expand=False))
    if found.get("orphans"):
        console.print(Text("\nWithout a declaration", style="bold yellow"))
    for orphan in found.get("orphans", []):
        console.print(Padding(Text(orphan, overflow="fold"), (0, 0, 0, 2), expand=False))
    if found.get("failures"):
        console.print(Text("\nFailed, and not repeated with success since", style="bold red"))
    for failure in found.get("failures", []):
        console.print(Text(f"  {_second(failure['at'])}  {failure['what']}"), soft_wrap=True)
        console.print(Padding(Text(failure["reason"], style="dim", overflow="fold"), (0, 0, 0, 6), expand=False))
    if last:
        console.print(Text("\nLast decisions", style="bold"))
    for decision in last:
        on = f"version {decision['version']}" if "version" in decision else decision.get("partition", "")
        on = f"generation {decision['generation']}" if "generation" in decision else on
        what = decision.get("action") or f"{decision['kind']} {decision.get('decision', '')}".rstrip()
        console.print(Text(f"  {_second(decision['at'])}  {decision.get('model', '')} {on}: {what}"), soft_wrap=True)
        for line in (decision.get("reason"), f"by {decision['by']}"):
            if line:
                console.print(Padding(Text(line, style="dim"), (0, 0, 0, 6), expand=False))


def _second(at: str | None) -> str:
    return "" if at is None else f"{at[:19].replace('T', ' ')}Z"


def _model_table(model: dict[str, Any]) -> Table:
    champion, serving = model["champion"], model["serving"]
    lines = {"champion": "none yet"}
    if champion is not None:
        lines["champion"] = f"version {champion['version']}, evaluated on {champion['manifest'].get('partition')}"
        lines["metrics"] = _metrics_text(champion["metrics"])
        if "problem" in champion:
            lines["problem"] = champion["problem"]
    shares = [
        f"version {serving[role]} ({role}) at {share} %" for role, share in serving["weights"].items() if serving[role]
    ]
    lines["serving"] = f"{', '.join(shares)}; generation {serving['generation']}" if shares else "no version yet"
    lines["endpoint"] = model["endpoint"] or "not running; start it with `ml-platform up`"
    if model.get("scaling"):
        ready = [f"{count} of version {version}" for version, count in model["replicas"].items()]
        last = [each["text"] for each in model["scaling"][-SHOWN_SCALING_STEPS:]]
        lines["replicas"] = "\n".join([", ".join(ready) or "none", *reversed(last)])
    if model.get("streams"):
        lines["streams"] = "\n".join(model["streams"])
    if verdict := model.get("verdict"):
        lines["last verdict"] = "\n".join([f"{verdict['title']}, {_second(verdict['at'])}", *verdict["reasons"]])
    if retraining := model.get("retraining"):
        lines["retraining"] = f"{retraining['window']}: {retraining['text']} {retraining['training']}".strip()
    if model.get("waiting"):
        lines["on hold"] = "; ".join(each["text"] for each in model["waiting"])
    if "problem" in serving:
        lines["serving"] = serving["problem"]
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in lines.items():
        table.add_row(name, Text(value, overflow="fold"))
    return table


def _verdict_values(verdict: "VerdictEntry | None") -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {**asdict(verdict), "at": verdict.at.isoformat(), "title": verdict.title}


def _waiting_values(waiting: "WaitingCandidate", maximum_looks: int) -> dict[str, Any]:
    """Return the looks at a waiting candidate, and about how many more windows would decide, with a text."""
    from ml_platform.evaluation.look import waiting_text, windows_needed

    needed = windows_needed(waiting.labels_needed, waiting.rows, len(waiting.windows))
    text = waiting_text(waiting.look, maximum_looks, needed)
    return {
        "partition": waiting.partition,
        "look": waiting.look,
        "maximum_looks": maximum_looks,
        "windows": list(waiting.windows),
        "rows": waiting.rows,
        "windows_needed": needed,
        "text": f"candidate of {waiting.partition}, {waiting.rows:,} rows so far. {text}",
    }


def metric_labels(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return the labels of the metrics to show for a classifier; with rare positives, those of their order first."""
    return METRIC_LABELS if metrics.get("base_rate", 1.0) >= RARE_SHARE else RARE_LABELS | METRIC_LABELS


def _metrics_text(metrics: dict[str, float]) -> str:
    """Return the metrics of the champion without the bounds of their intervals, and without those of other delays."""
    labels = metric_labels(metrics)
    names = [name for name in labels if name in metrics]
    names = names or [name for name in metrics if not name.endswith(("_low", "_high")) and "_delay_" not in name]
    return ", ".join(f"{labels.get(name, name)} {metrics[name]:.4f}" for name in names) or "none recorded"


def _deleted_in_mlflow(home: Home, champions: Mapping[str, int]) -> dict[str, str]:
    """Return one text for each of ``champions`` (versions by model) that the home's MLflow no longer has.

    It reads MLflow's database directly, because importing MLflow takes seconds. A registry on a server is not checked.
    """
    file = home.mlflow / "mlflow.db"
    if not champions or not file.exists():
        return {}
    query = "SELECT name, version FROM model_versions WHERE current_stage <> 'Deleted_Internal'"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as connection:
            present = set(connection.execute(query))
    except sqlite3.Error:
        return {}  # `ml-platform doctor` names a damaged or busy database
    return {
        name: f"version {version} was deleted in MLflow: restore it with `ml-platform restore-version {name}`, "
        f"or end it with `ml-platform retire {name}`"
        for name, version in champions.items()
        if (name, version) not in present
    }


def _summary(facts: Any) -> dict[str, Any]:
    from ml_platform.registry.approvals import DECISION_KEY

    names = ("model", "version", "partition", "action", "decision", "reason", "generation")
    approval = {"action": facts[DECISION_KEY]} if DECISION_KEY in facts else {}
    return {**approval, **{name: facts[name] for name in names if name in facts}}
