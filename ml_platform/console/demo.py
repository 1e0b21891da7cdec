"""`ml-platform demo`: land, materialize, promote, serve and predict, then print the results.

The module `assets/<domain>/demo.py` declares the data that is shown; this module names no dataset and no column. It
defines MODEL, FIRST_PARTITION and LAST_PARTITION (empty where nothing has partitions), ROW_NOUN, LABELS (texts of
answers; others are shown as they are), `request_rows` and `display_columns`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from rich.console import Console
from rich.table import Table

from ml_platform.components.not_loaded import FIX, NOT_LOADED
from ml_platform.components.project import DomainNotLoadedError
from ml_platform.console.arguments import domain_module
from ml_platform.console.materialization_plan import data_of_model
from ml_platform.console.materialize import bring_up_to_date, load_definitions
from ml_platform.console.partition_selection import Schemes, schemes_of
from ml_platform.console.progress import live_progress
from ml_platform.console.runs import Listener
from ml_platform.console.services import serving_processes
from ml_platform.console.status import metric_labels, status
from ml_platform.data.landing import Landing
from ml_platform.data.scratch import scratch_folder
from resources.addresses import address
from resources.home import Home
from resources.orchestration import open_instance

if TYPE_CHECKING:
    from ml_platform.registry.champion_history import ChampionRecord

ROWS_SHOWN = 10
TIMED_REQUESTS = 200
SINGLE_PARTITION_ASSETS = ("evaluation", "champion", "model_card", "bento", "rollout", "drift")


@dataclass
class Stages:
    """Duration of each stage in seconds, in the order of execution."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


def run_demo(domain: str, home: Home, console: Console) -> dict[str, Any]:
    """Run the whole loop of ``domain`` on ``home``, print it on ``console``, and return its figures.

    It materializes only the data that the model of the demo needs. The figures are the status of the model, seconds by
    stage, and the request latency in milliseconds. A second call finds all assets up to date, and only serves and
    predicts again. When the first candidate is on HOLD or rejected, nothing serves, and the reason is printed.
    """
    declared, land = domain_module(domain, "demo"), domain_module(domain, "landing").land
    stages = Stages()
    with stages.stage("land"):
        landed = land(Landing(home.landing), declared.LAST_PARTITION)
        if _live_partition(declared):
            declared.land_live(Landing(home.landing))
    console.print(_landed_text(declared, len(landed)))
    with open_instance(home) as instance, live_progress(console) as listener:
        _materialize(declared, home, instance, listener, stages)
    if _champion(declared.MODEL, home) is None:
        found = status(home)["models"][declared.MODEL]
        _show_no_champion(declared.MODEL, found, console)
        return {"model": found, "stages": stages.seconds, "latency_ms": None}
    with scratch_folder("demo") as scratch:
        rows = declared.request_rows(scratch)
    with stages.stage("serve and predict"):
        response = _predict(declared.MODEL, home, rows, declared.LABELS)
    found = status(home)["models"][declared.MODEL]
    _show_predictions(declared, rows, response, console)
    _show_summary(declared, found, response, stages, home, console)
    return {"model": found, "stages": stages.seconds, "latency_ms": response.latency_ms()}


def require_loaded(loaded: dg.Definitions, domain: str) -> None:
    """Raise :class:`~ml_platform.components.project.DomainNotLoadedError` if ``domain`` was left out of ``loaded``."""
    graph, key = loaded.resolve_asset_graph(), dg.AssetKey([domain, NOT_LOADED])
    if graph.has(key):
        raise DomainNotLoadedError(
            f"Domain '{domain}'",
            expected="declarations that load",
            found=str(graph.get(key).metadata["error"].value),
            fix=FIX,
        )


@dataclass(frozen=True)
class PredictionResponse:
    """The endpoint's predictions of all rows, and the duration in seconds of each request with one row.

    ``answers`` are the texts of the labels, or of the intervals of a task that answers a number.
    """

    scores: list[float]
    answers: list[str]
    version: str
    seconds: list[float]

    def latency_ms(self) -> dict[str, float]:
        """Return the median and the 99th percentile of the request durations in milliseconds."""
        ordered = sorted(self.seconds)
        return {
            "p50": 1000 * ordered[len(ordered) // 2],
            "p99": 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        }


def _champion(model: str, home: Home) -> "ChampionRecord | None":
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.champion_history import current_champion
    from resources.state import open_state

    return current_champion(AuditLog(open_state(home)), model)


def _show_no_champion(model: str, found: dict[str, Any], console: Console) -> None:
    """Print why no version of ``model`` serves yet, and what to do."""
    verdict = found["verdict"]
    console.print(f"No version of '{model}' is champion, so nothing serves yet.", highlight=False)
    for line in [verdict["title"], *verdict["reasons"]] if verdict else ["No candidate was evaluated."]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print("Read its model card; `ml-platform status` shows the verdict again.", highlight=False, soft_wrap=True)


def _materialize(declared: Any, home: Home, instance: dg.DagsterInstance, listener: Listener, stages: Stages) -> None:
    loaded = load_definitions()
    require_loaded(loaded, declared.__name__.split(".")[1])
    first, last = declared.FIRST_PARTITION, declared.LAST_PARTITION
    partitions = f"{first}...{last}" if last else ""
    landed = f"{first}...{live}" if (live := _live_partition(declared)) else partitions
    keys = loaded.resolve_asset_graph().get_all_asset_keys()
    of_model = {key for key in keys if key.path[0] == declared.MODEL}
    data = data_of_model(loaded, declared.MODEL)
    inputs = [key for key in data if key not in of_model]
    judged = _model_partitions(declared, schemes_of(loaded.resolve_asset_graph(), data))
    candidates = [key for key in of_model if key.path[-1].startswith("candidate_")]
    rest = [dg.AssetKey([declared.MODEL, name]) for name in SINGLE_PARTITION_ASSETS]
    for name, selected, named in (
        ("datasets and features", inputs, landed),
        ("training set", [key for key in data if key in of_model], f"{judged[0]}...{judged[-1]}" if judged else ""),
        ("training", candidates, judged[-1] if judged else ""),
        ("evaluation to rollout", rest, judged[-1] if judged else ""),
    ):
        with stages.stage(name):
            bring_up_to_date(loaded, instance, home, selected, named, listener=listener)


def _model_partitions(declared: Any, schemes: Schemes) -> list[str]:
    """Return the partitions of the model whose time is within that of the demo; empty for a model without any.

    The demo may name days of data while its model has weeks. ``schemes`` are those of the model and its data.
    """
    scheme = schemes[dg.AssetKey([declared.MODEL, "training_set"])]
    if scheme is None:
        return []
    first, last = declared.FIRST_PARTITION, declared.LAST_PARTITION
    if scheme.names_key(first) and scheme.names_key(last):
        return scheme.between(first, last)
    named = next(each for each in schemes.values() if each and each.names_key(first) and each.names_key(last))
    start, end = named.bounds(first)[0], named.bounds(last)[1]
    return [each for each in scheme.starting_in(start, end) if scheme.bounds(each)[1] <= end]


def _live_partition(declared: Any) -> str | None:
    """Return the partition that has not ended: only its data are materialized. None for a demo of whole partitions.

    The module of such a demo has ``LIVE_PARTITION``, ``LIVE_AT`` and ``land_live``.
    """
    return getattr(declared, "LIVE_PARTITION", None)


def _landed_text(declared: Any, files: int) -> str:
    if not declared.LAST_PARTITION:
        return f"Landed {files} files."
    text = f"Landed {declared.FIRST_PARTITION} to {declared.LAST_PARTITION}"
    live = _live_partition(declared)
    return f"{text}, and the part of {live} until {declared.LIVE_AT:%Y-%m-%d %H:%M}." if live else f"{text}."


def _predict(model: str, home: Home, rows: pl.DataFrame, labels: Mapping[Any, str]) -> PredictionResponse:
    import httpx

    from ml_platform.serving.processes import serve_temporarily

    fields = [name for name in rows.columns if name not in ("outcome_text", "outcome")]
    payload = [
        {name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()}
        for row in rows.select(fields).to_dicts()
    ]
    with serve_temporarily(serving_processes(home)) as address, httpx.Client(base_url=address) as client:
        path = f"/v1/{model}/predict"
        answer = client.post(path, json={"rows": payload}, timeout=30).raise_for_status().json()
        seconds = []
        for at in range(TIMED_REQUESTS):
            started = time.perf_counter()
            client.post(path, json={"rows": [payload[at % len(payload)]]}).raise_for_status()
            seconds.append(time.perf_counter() - started)
    predictions = answer["predictions"]
    return PredictionResponse(
        scores=[each["score"] for each in predictions],
        answers=[_answer_text(each, labels) for each in predictions],
        version=str(answer["model"]["version"]),
        seconds=seconds,
    )


def _answer_text(prediction: Mapping[str, Any], labels: Mapping[Any, str]) -> str:
    """Return the label of ``prediction`` in words, or its interval; empty for an answer without either."""
    label, interval = prediction["label"], prediction.get("interval")
    if label is not None:
        return str(labels.get(label, label))
    return f"{interval['lower']:.1f} to {interval['upper']:.1f}" if interval else ""


def _show_predictions(declared: Any, rows: pl.DataFrame, response: PredictionResponse, console: Console) -> None:
    displayed = declared.display_columns(rows)
    table = Table(title="Predictions of the running endpoint, with the outcomes")
    for name in (*displayed.columns, "score", "answer", "outcome"):
        table.add_column(name, justify="right" if name == "score" else "left", overflow="fold")
    for at in range(0, rows.height, max(1, rows.height // ROWS_SHOWN)):
        table.add_row(
            *map(str, displayed.row(at)),
            f"{response.scores[at]:.3f}",
            response.answers[at],
            rows["outcome_text"][at],
        )
    console.print(table)
    if line := ranking_line(rows["outcome"], response.scores, declared.ROW_NOUN):
        console.print(line, highlight=False)


def ranking_line(outcomes: pl.Series, scores: Sequence[float], noun: str) -> str:
    """Return how often the event happened among the tenth with the highest scores, and among all.

    A table of single rows misleads: most rows of a rare event are below the threshold. Rows without an outcome are
    left out. Empty for outcomes that are not true or false, and for fewer than ten rows.
    """
    known = pl.DataFrame({"outcome": outcomes, "score": pl.Series(scores, dtype=pl.Float64)}).drop_nulls("outcome")
    tenth = known.height // 10
    if outcomes.dtype != pl.Boolean or not tenth:
        return ""
    top, events = known.top_k(tenth, by="score")["outcome"].sum(), known["outcome"].sum()
    return (
        f"The event happened for {top} of the {tenth} {noun} with the highest scores, a tenth "
        f"({top / tenth:.0%}), and for {events} of all {known.height} ({events / known.height:.0%})."
    )


def _show_summary(
    declared: Any, found: dict[str, Any], response: PredictionResponse, stages: Stages, home: Home, console: Console
) -> None:
    champion = found["champion"]
    metrics, latency = champion["metrics"], response.latency_ms()
    partition = champion["manifest"]["partition"]
    table = Table(title=f"{declared.MODEL} on rows of {partition} outside its training data", show_header=False)
    for name, value in (
        ("champion", f"version {champion['version']} (served: {response.version})"),
        *_last_verdict_lines(found),
        *_metric_lines(metrics),
        ("evaluated on", f"{metrics['rows']:,.0f} {declared.ROW_NOUN}"),
        ("request latency", f"{latency['p50']:.1f} ms median, {latency['p99']:.1f} ms p99"),
        ("", f"{len(response.seconds)} requests of one row, through the gateway"),
    ):
        table.add_row(name, value)
    table.add_section()
    for name, seconds in stages.seconds.items():
        table.add_row(f"time: {name}", f"{seconds:.1f} s")
    table.add_row("time: total", f"{sum(stages.seconds.values()):.1f} s")
    console.print(table)
    # Print paths without wrapping: a path broken over two lines cannot be opened.
    of = f"{declared.MODEL}/{partition}"
    reports = {"Model card": f"model_card/{of}/card.html", "Drift report": f"drift/{of}/report.html"}
    for name, where in (
        *((name, shortened(home.reports / path)) for name, path in reports.items() if (home.reports / path).exists()),
        ("Next", f"`make up`, then the Dagster UI at {address('webserver')}; `ml-platform status`"),
    ):
        console.print(f"{name:<14}{where}", highlight=False, soft_wrap=True)


def _last_verdict_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the last verdict, if it did not promote its candidate."""
    verdict = found["verdict"]
    if verdict is None or verdict["decision"] == "PROMOTE":
        return []
    return [("last verdict", "\n".join([verdict["title"], *verdict["reasons"]]))]


def _metric_lines(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Return label and value of the metrics that `status` shows for a classifier, else of all, with their intervals."""
    shown = metric_labels(metrics) if "auc" in metrics and "base_rate" in metrics else dict.fromkeys(metrics)
    return [
        (label or name.replace("_", " "), f"{metrics[name]:.4f}{_interval(metrics, name)}")
        for name, label in shown.items()
        if name in metrics and name != "rows" and not name.endswith(("_low", "_high"))
    ]


def _interval(metrics: dict[str, float], name: str) -> str:
    if f"{name}_low" not in metrics:
        return ""
    return f"  ({metrics[f'{name}_low']:.4f} to {metrics[f'{name}_high']:.4f})"


def shortened(path: Path) -> str:
    """Return ``path`` relative to the working directory if it is below it, else the whole path."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
