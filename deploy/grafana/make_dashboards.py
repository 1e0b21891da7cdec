"""Writes the Grafana dashboards beside this file: `python deploy/grafana/make_dashboards.py`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, COLUMNS = 12, 8, 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One panel: its queries by the text of their legend, and the unit of their values in Grafana's names."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    kind: str = "timeseries"


OPERATOR = (
    Panel(
        "Platform and gateway", {"platform": 'up{job="ml_platform"}', "gateway": "ml_platform_gateway_up"}, kind="stat"
    ),
    Panel("Open alerts", {"{{severity}}": "ml_platform_open_alerts"}, kind="stat"),
    Panel("Requests", {"{{model}} {{version}} {{arm}}": "ml_platform:requests:rate5m"}, "reqps"),
    Panel("Share of 5xx", {"{{model}}": "ml_platform:error_ratio:rate5m"}, "percentunit"),
    Panel("Latency, 99 % of requests", {"{{model}}": "ml_platform:latency_seconds:p99_5m"}, "s"),
    Panel("Shares of a rollout", {"{{model}} {{version}} {{arm}}": "ml_platform_rollout_weight_percent"}, "percent"),
    Panel("Runs by status", {"{{status}}": "ml_platform_runs"}),
    Panel("Failed steps in an hour", {"{{domain}}": "sum by (domain) (increase(ml_platform_step_failures_total[1h]))"}),
    Panel(
        "Duration of a step, mean of an hour",
        {
            "{{domain}} {{model}}": "rate(ml_platform_step_seconds_total[1h]) "
            "/ (rate(ml_platform_steps_total[1h]) > 0)",
        },
        "s",
    ),
    Panel(
        "Age of the latest partition", {"{{dataset}}": "time() - ml_platform_dataset_published_timestamp_seconds"}, "s"
    ),
    Panel("Broken contracts", {"{{dataset}}": "ml_platform_dataset_contract_failing"}, kind="stat"),
    Panel("Free disk of the home", {"free": "ml_platform_home_free_bytes"}, "bytes"),
)

DATA_SCIENTIST = (
    Panel("Champion", {"{{model}}": "ml_platform_champion_version"}, kind="stat"),
    *(
        Panel(
            f"{title}: promised, estimated, realised",
            {"{{model}} {{kind}}": f'ml_platform_model_quality{{metric="{metric}"}}'},
        )
        for metric, title in (("auc", "AUC"), ("log_loss", "Log loss"), ("rmse", "RMSE"))
    ),
    Panel("Shares of a rollout", {"{{model}} {{version}} {{arm}}": "ml_platform_rollout_weight_percent"}, "percent"),
    Panel("Processor time of steps in a day", {"{{model}}": "increase(ml_platform_step_cpu_seconds_total[1d])"}, "s"),
)

STAKEHOLDER = (
    Panel("Requests in a day", {"{{model}}": "sum by (model) (increase(ml_platform_requests_total[1d]))"}, kind="stat"),
    Panel(
        "Answered without an error, 30 days",
        {
            "{{model}}": '1 - sum by (model) (increase(ml_platform_requests_total{code="5xx"}[30d])) '
            "/ sum by (model) (increase(ml_platform_requests_total[30d]))"
        },
        "percentunit",
        "stat",
    ),
    Panel("Cost since the month began", {"{{domain}}": "sum by (domain) (ml_platform_step_cost_total)"}, kind="stat"),
    Panel(
        "Processor hours since the month began",
        {"{{domain}}": "sum by (domain) (ml_platform_step_cpu_seconds_total) / 3600"},
        "h",
    ),
    Panel(
        "Quality promised and realised",
        {"{{model}} {{metric}} {{kind}}": 'ml_platform_model_quality{kind!="estimated"}'},
    ),
)

DASHBOARDS: Mapping[str, tuple[str, Sequence[Panel]]] = {
    "operator": ("ml_platform: operator", OPERATOR),
    "data-scientist": ("ml_platform: data scientist", DATA_SCIENTIST),
    "stakeholder": ("ml_platform: stakeholder", STAKEHOLDER),
}


def dashboard(name: str) -> dict[str, Any]:
    """Return the dashboard ``name`` as Grafana imports it; its data source is chosen in Grafana."""
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"ml-platform-{name}",
        "title": title,
        "tags": ["ml_platform"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": [_panel(number, each) for number, each in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    place = {
        "x": number * WIDTH % COLUMNS,
        "y": number // (COLUMNS // WIDTH) * HEIGHT,
        "w": WIDTH,
        "h": HEIGHT,
    }
    return {
        "id": number + 1,
        "title": panel.title,
        "type": panel.kind,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend, "datasource": SOURCE}
            for at, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def text(name: str) -> str:
    """Return the file of the dashboard ``name``."""
    return json.dumps(dashboard(name), indent=2) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        Path(__file__).with_name(f"{each}.json").write_text(text(each))
