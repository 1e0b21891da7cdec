"""Serves the home page, pages of models and reports: `python -m ml_platform.console.site.server PORT HOME [HOST]`.

The reports are files below a folder of the home: Data Docs, drift reports and model cards. Only files are served: no
list of a folder, and no link that leads out of it. Requests that name another host are refused, so a web page that
binds its name to this machine reads nothing. With another HOST than loopback, a proxy in front has to check that.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_platform.console.costs import cost_report
from ml_platform.console.lineage import RecordedLineage, recorded_lineage
from ml_platform.console.link_redirects import LinkRedirects
from ml_platform.console.savings import SavingSettings, read_saving_settings
from ml_platform.console.site.comparison_pages import ComparisonError, ComparisonPages
from ml_platform.console.site.costs_overview import costs_overview
from ml_platform.console.site.home_overview import (
    DeclarationReader,
    DeclarationSource,
    home_overview,
    known_model,
)
from ml_platform.console.site.lineage_pages import (
    RecordReader,
    dataset_lineage_page,
    lineage_overview,
    model_lineage_page,
)
from ml_platform.console.site.model_overview import last_champions, model_overview
from ml_platform.console.site.pages import costs_page, documentation_page, home_page, missing_page, model_page
from ml_platform.console.site.platform_metrics import CONTENT_TYPE, PlatformMetrics, run_counts
from ml_platform.console.site.recent import Recent
from ml_platform.registry.audit import AuditLog
from ml_platform.training.resource_usage import PriceList
from resources.addresses import ALLOWED_HOSTS, LOOPBACK
from resources.home import Home
from resources.run_failures import unresolved_failures

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PARTITIONS_SHOWN, DECISIONS_SHOWN = 36, 40
"""Rows of a model's page."""

FAILURES_SHOWN = 8
COST_DAYS = 30
"""Days whose costs a model's page shows."""

ANY_HOST = ("*",)
VERSION = re.compile("[1-9][0-9]{0,8}")

HEADERS = {
    # The pages have no script and load nothing.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


def site_app(
    reports: Path,
    audit: AuditLog,
    declared: DeclarationSource,
    failures: Callable[[], Sequence[Mapping[str, Any]]],
    recorded: RecordReader = lambda _: {},
    docs: Path | None = None,
    prices: Callable[[], PriceList] = PriceList,
    metrics: PlatformMetrics | None = None,
    home_folders: Home | None = None,
    savings: Callable[[], SavingSettings] = SavingSettings,
    hosts: Sequence[str] = ALLOWED_HOSTS,
) -> "Starlette":
    """Return the application of the folder ``reports``; ``failures`` returns those of Dagster's instance.

    ``recorded`` returns the lineage of columns that materializations recorded there. ``docs`` is the folder of the
    documentation, whose pages are shown below `/docs/`, such as the runbooks of alerts. ``prices`` returns
    those of now. ``metrics`` gives the page `/metrics`; None: there is none. ``savings`` returns when something counts
    as unused; the running services in ``home_folders`` are counted for an idle endpoint. ``hosts`` are the host names
    that requests may name.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, HTMLResponse
    from starlette.responses import Response as PlainResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    # Functions without `async` run in threads: a page that waits for a database holds no other one.
    def home(_: "Request") -> "Response":
        overview = home_overview(audit, declared.current(), failures(), datetime.now(UTC).date())
        now = prices()
        page = home_page(overview, now.shown_currency)
        return HTMLResponse(page, headers=HEADERS)

    def model(request: "Request") -> "Response":
        name = request.path_params["name"]
        found = known_model(audit, declared.current(), name)
        if found is None:
            return unknown(name)
        costs = cost_report(audit.state, COST_DAYS, datetime.now(UTC).date(), prices(), model=name)
        shown = model_overview(audit, *found, partitions=PARTITIONS_SHOWN, decisions=DECISIONS_SHOWN)
        shown = replace(shown, costs=costs)
        has_columns = name in declared.current().lineage.models
        page = model_page(shown, last_champions(audit, name), reports, has_columns=has_columns)
        return HTMLResponse(page, headers=HEADERS)

    def costs(_: "Request") -> "Response":
        today = datetime.now(UTC).date()
        found = costs_overview(audit.state, declared.current(), prices(), savings(), today, home_folders)
        return HTMLResponse(costs_page(found), headers=HEADERS)

    def lineage(_: "Request") -> "Response":
        return HTMLResponse(lineage_overview(declared.current().lineage), headers=HEADERS)

    def columns_of_model(request: "Request") -> "Response":
        name = request.path_params["name"]
        page = model_lineage_page(declared.current().lineage, recorded, name)
        return message(f"No model '{name}' is declared.", 404) if page is None else HTMLResponse(page, headers=HEADERS)

    def columns_of_dataset(request: "Request") -> "Response":
        name = request.path_params["name"]
        page = dataset_lineage_page(declared.current().lineage, recorded, name)
        return (
            message(f"No dataset '{name}' is declared.", 404) if page is None else HTMLResponse(page, headers=HEADERS)
        )

    def comparison(request: "Request") -> "Response":
        name = request.path_params["name"]
        if known_model(audit, declared.current(), name) is None:
            return unknown(name)
        versions = [request.query_params.get(side, "") for side in ("first", "second")]
        if not all(VERSION.fullmatch(each) for each in versions):
            return message(f"A comparison needs two versions, like ?first=1&second=2; found {versions}.", 400)
        try:
            page = comparisons.page(name, int(versions[0]), int(versions[1]))
        except ComparisonError as error:
            return message(str(error), 422)
        return FileResponse(page, media_type="text/html", headers=HEADERS)

    def documentation(request: "Request") -> "Response":
        path = request.path_params["path"]
        page = None if docs is None else (docs / path).resolve()
        if docs is None or page is None or page.suffix != ".md" or not page.is_relative_to(docs.resolve()):
            return message(f"There is no page '{path}' of the documentation.", 404)
        if not page.is_file():
            return message(f"There is no page '{path}' of the documentation; `make docs` writes generated ones.", 404)
        return HTMLResponse(documentation_page(page.read_text(encoding="utf-8")), headers=HEADERS)

    def metrics_page(_: "Request") -> "Response":
        if metrics is None:
            return message("This server has no metrics.", 404)
        return PlainResponse(metrics.page(datetime.now(UTC)), media_type=CONTENT_TYPE, headers=HEADERS)

    def unknown(name: str) -> "Response":
        return message(f"No model '{name}' is declared, was promoted or is served.", 404)

    def message(text: str, status: int) -> "Response":
        return HTMLResponse(missing_page(text), status_code=status, headers=HEADERS)

    reports.mkdir(parents=True, exist_ok=True)
    comparisons = ComparisonPages(reports)
    files = StaticFiles(directory=reports, html=True, follow_symlink=False)
    return Starlette(
        routes=[
            Route("/", home),
            Route("/models/{name}", model),
            Route("/models/{name}/comparison", comparison),
            Route("/metrics", metrics_page),
            Route("/costs", costs),
            Route("/lineage", lineage),
            Route("/lineage/models/{name}", columns_of_model),
            Route("/lineage/datasets/{name}", columns_of_dataset),
            Route("/docs/{path:path}", documentation),
            Mount("/", files),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)), Middleware(LinkRedirects)],
    )


def main(port: int, root: Path, host: str = LOOPBACK) -> None:
    """Serve the home at ``root`` on ``port`` of the address ``host`` until the process ends."""
    import uvicorn

    from ml_platform.steps.prices import read_prices
    from resources.orchestration import open_instance
    from resources.profiles import REPOSITORY
    from resources.state import open_state

    home, priced = Home(root), read_prices(REPOSITORY)
    currency = priced.shown_currency
    with open_instance(home) as instance:
        failures = Recent[int, list[dict[str, Any]]](lambda limit: unresolved_failures(instance, limit))
        # The key is all views of the project, so one set is kept.
        lineage = Recent[frozenset[str], Mapping[str, RecordedLineage]](
            lambda views: recorded_lineage(instance, sorted(views))
        )
        runs = Recent[int, dict[str, int]](lambda _: run_counts(instance))
        audit, declared = AuditLog(open_state(home)), DeclarationReader(REPOSITORY)
        app = site_app(
            home.reports,
            audit,
            declared,
            lambda: failures.current(FAILURES_SHOWN),
            lambda views: lineage.current(frozenset(views)),
            docs=REPOSITORY / "docs",
            prices=lambda: read_prices(REPOSITORY),
            metrics=PlatformMetrics(audit, declared, lambda: runs.current(0), currency, home),
            home_folders=home,
            savings=lambda: read_saving_settings(REPOSITORY),
            hosts=ALLOWED_HOSTS if ip_address(host).is_loopback else ANY_HOST,
        )
        uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4])
