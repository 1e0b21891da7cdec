"""Renders the pages: templates, filters, and the links to the other servers of the platform."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_platform.alerts.alert import StoredAlert, kind_of
from ml_platform.console.costs import cost_text, duration_text
from ml_platform.console.site.charts import heat, lines_chart, quality_chart, reliability_chart
from ml_platform.console.site.costs_overview import CostsOverview
from ml_platform.console.site.home_overview import HomeOverview
from ml_platform.console.site.model_overview import ModelOverview
from ml_platform.console.site.monthly_report import MonthlyReport
from ml_platform.console.status import METRIC_LABELS
from ml_platform.console.version_comparison import side_rows
from ml_platform.evaluation.version_comparison import VersionComparison
from ml_platform.monitoring.cost_budget import budget_use
from resources.addresses import address

if TYPE_CHECKING:
    from jinja2 import Environment

COLUMNS_SHOWN = 15
"""Rows of the heat map: the columns with the largest effects."""

LABELS = METRIC_LABELS | {"rmse": "RMSE", "ndcg": "NDCG"}
"""Names of metrics that are not their words."""

PAGES = {"Model card": "model_card/{model}/{partition}/card.html", "Drift": "drift/{model}/{partition}/report.html"}
"""Paths of the reports of a partition, relative to the folder of reports, by the text of their link."""


def home_page(home: HomeOverview, currency: str | None = None) -> str:
    """Return the home page as HTML; costs are in ``currency``, or in hours of processors if nothing has a price."""
    budgets = {name: budget_use(each, home.costs.get(name), currency) for name, each in home.budgets.items()}
    content = {"home": home, "cost": partial(cost_text, currency=currency), "budgets": budgets}
    return render("home.html.j2", **content, webserver=address("webserver"), runbook=_runbook)


def costs_page(costs: CostsOverview) -> str:
    """Return the page of costs, budgets and savings as HTML."""
    return render("costs.html.j2", found=costs, cost=partial(cost_text, currency=costs.report.currency))


def model_page(model: ModelOverview, champions: Sequence[int], reports: Path, *, has_columns: bool = False) -> str:
    """Return the page of a model as HTML; it links to the pages of its partitions that exist in ``reports``.

    ``champions`` are the last versions that were champion, in order; the page offers to compare two. ``has_columns``
    says whether there is a page of the lineage of its columns.
    """
    name = model.name
    links = {
        **({"Columns": f"/lineage/models/{name}"} if has_columns else {}),
        "Assets": f"{address('webserver')}/assets/{name}/champion",
        "Versions": f"{address('mlflow')}/#/models/{name}",
        "Endpoint": f"{address('gateway')}/v1/{name}/",
    }
    pages = {each.partition: _pages(name, each.partition, reports) for each in model.judged}
    content = {"model": model, "model_links": links, "pages": pages, "champions": champions, "cost": cost_text}
    return render("model.html.j2", **content, columns=heat_columns(model), webserver=address("webserver"))


def comparison_page(found: VersionComparison) -> str:
    """Return the comparison of two versions as HTML, complete in itself."""
    # It is kept as a file: links to the other servers would carry the ports of today.
    return render("comparison.html.j2", links={}, found=found, sides=side_rows(found.first, found.second))


def month_page(report: MonthlyReport, currency: str | None) -> str:
    """Return the report of a month as HTML, complete in itself; costs are in ``currency``, None: in hours."""
    return render("month.html.j2", links={}, report=report, currency=currency, cost=cost_text)


def documentation_page(text: str) -> str:
    """Return a page of the documentation (Markdown) as HTML; raw HTML in it is shown as text."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    title = next((line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")), "Documentation")
    return render("documentation.html.j2", title=title, body=markdown.render(text))


def replay_page(report: Mapping[str, Any], period: str) -> str:
    """Return the report of a replay as HTML, complete in itself; ``period`` names its windows, like ``month``."""
    windows = report[f"{period}s"]
    largest: dict[str, float] = {}
    for each in windows:
        for name, ratio in ((each["drift"] or {}).get("columns") or {}).items():
            largest[name] = max(ratio, largest.get(name, 0.0))
    columns = sorted(largest, key=lambda name: -largest[name])[:COLUMNS_SHOWN]
    content = {"report": report, "windows": windows, "period": period, "columns": columns}
    return render("replay.html.j2", links={}, **content)


def missing_page(message: str) -> str:
    """Return a page with a message, for a request without a result, as HTML."""
    return render("missing.html.j2", message=message)


def render(template: str, **content: Any) -> str:
    """Return the page of ``template`` as HTML, with links to the other servers of the platform."""
    links = {"Dagster": address("webserver"), "MLflow": f"{address('mlflow')}/"}
    return _environment().get_template(template).render(**{"links": links, **content})


def heat_columns(model: ModelOverview) -> list[str]:
    """Return the columns with the largest effect over limit in any partition, largest first."""
    largest: dict[str, float] = {}
    for each in model.drift:
        for name, ratio in each.columns.items():
            largest[name] = max(ratio, largest.get(name, 0.0))
    return sorted(largest, key=lambda name: -largest[name])[:COLUMNS_SHOWN]


def _runbook(alert: StoredAlert) -> str:
    return f"/docs/runbooks/{kind_of(alert.kind).runbook}"


def _pages(model: str, partition: str, reports: Path) -> Mapping[str, str]:
    paths = {name: path.format(model=model, partition=partition) for name, path in PAGES.items()}
    return {name: f"/{path}" for name, path in paths.items() if (reports / path).is_file()}


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("ml_platform.console.site"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "chart": quality_chart,
        "duration": duration_text,
        "heat": heat,
        "lines": lines_chart,
        "reliability": reliability_chart,
        "minute": _minute,
        "day": _day,
        "words": _words,
    }
    return environment


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}Z"


def _day(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d}"


def _words(metric: str) -> str:
    """Return the name of a metric in words."""
    return LABELS.get(metric, metric.replace("_", " "))
