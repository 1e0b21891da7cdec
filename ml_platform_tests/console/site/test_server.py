"""The pages show what the state store has, cost the same after years, and give files of the reports only."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from benchmarks.home_page import SyntheticDeclarations, write_records
from ml_platform.alerts.alert import Alert
from ml_platform.alerts.lifecycle import transitions
from ml_platform.alerts.records import store_transitions
from ml_platform.console.site.home_overview import NO_DOMAIN, Declarations, DeclaredDataset
from ml_platform.console.site.model_overview import DeclaredModel
from ml_platform.console.site.server import ANY_HOST, site_app
from ml_platform.data.contract_record import record_failed
from ml_platform.data.domains import Budget
from ml_platform.monitoring.cost_records import StepCost, Used, record_step
from ml_platform.monitoring.label_doubts import Doubt
from ml_platform.monitoring.performance import Period
from ml_platform.registry.audit import AuditLog
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.state.schema import performance_periods
from ml_platform.state.store import StateStore
from ml_platform.steps.alert_sources import Declared, contract_alerts
from ml_platform_tests.console.test_lineage import project

DOCS = Path(__file__).resolve().parents[3] / "docs"

FAILURES: list[dict[str, Any]] = [
    {"what": "schedule m00_retrain", "at": "2026-01-02T05:06:00+00:00", "reason": "no <lake>", "run_id": None},
    {"what": "run 5e2a of m00", "at": "2026-01-02T03:04:00+00:00", "reason": "broken", "run_id": "5e2a" * 8},
]


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    (folder / "drift" / "inner").mkdir(parents=True)
    (folder / "drift" / "report.html").write_text("<p>drift</p>")
    (folder / "drift" / "inner" / "index.html").write_text("<p>docs</p>")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "out").symlink_to(tmp_path)
    return folder


class Site:
    """The application on a state store, queried in this process."""

    def __init__(self, reports: Path, state: StateStore, declared: Declarations) -> None:
        self.reports, self.state, self.declared = reports, state, declared
        self.failures = FAILURES

    def current(self) -> Declarations:
        return self.declared

    def answers(self, *requests: tuple[str, str], host: str = "127.0.0.1:4000") -> list[httpx.Response]:
        """Return the answers to ``requests`` (method, path) that name ``host``."""

        async def send() -> list[httpx.Response]:
            app = site_app(self.reports, AuditLog(self.state), self, lambda: self.failures, docs=DOCS)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4000") as client:
                return [await client.request(method, path, headers={"host": host}) for method, path in requests]

        return asyncio.run(send())

    def page(self, path: str) -> str:
        (answer,) = self.answers(("GET", path))
        assert answer.status_code == 200
        return answer.text


@pytest.fixture
def site(reports: Path, state_store: StateStore) -> Site:
    return Site(reports, state_store, SyntheticDeclarations(2).current())


@pytest.fixture
def used_site(site: Site) -> Site:
    """A site whose first model has 30 days of records."""
    write_records(site.state, ["m00"], 30)
    return site


def test_page_of_costs_has_the_budgets_and_what_could_be_saved(used_site: Site) -> None:
    now = datetime.now(UTC)
    record_step(
        used_site.state,
        StepCost("run", "m00/champion", 0, "domain_0", "m00", False, now, Used(cpu_seconds=5400.0, money=45.5)),
    )
    served = DesiredState(stable=ServedVersion(version="3", bento="m00/<b>"), weights={"stable": 100})
    swap_desired_state(used_site.state, "m00", served, expected_generation=0)
    budgets = {"domain_0": Budget(per_month=50), "empty": Budget(per_month=10, warn_at=0.5)}
    used_site.declared = replace(used_site.declared, budgets=budgets)

    page = used_site.page("/costs")
    assert "45.5 of 50 USD (91 %)" in page
    assert page.count("meter wait") == 1
    assert "idle endpoint" in page
    assert "Version 3 had no request in the last 14 days" in page
    home = used_site.page("/")
    assert "91 % of the budget" in home
    assert 'href="/costs"' in home


def test_reports_are_served_and_nothing_else(site: Site) -> None:
    report, docs = site.answers(("GET", "/drift/report.html"), ("GET", "/drift/inner/"))
    assert (report.text, docs.text) == ("<p>drift</p>", "<p>docs</p>")
    refused = ["/drift/", "/link.txt", "/out/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", "/missing.html"]
    assert [each.status_code for each in site.answers(*(("GET", path) for path in refused))] == [404] * len(refused)
    posted = site.answers(("POST", "/drift/report.html"), ("POST", "/"), ("POST", "/models/m00"))
    assert [each.status_code for each in posted] == [405] * 3


@pytest.mark.parametrize(("host", "status"), [("localhost:4000", 200), ("evil.example", 400), ("127.0.0.1.evil", 400)])
def test_request_that_names_another_host_is_refused(site: Site, host: str, status: int) -> None:
    answers = site.answers(("GET", "/drift/report.html"), ("GET", "/"), host=host)
    assert [each.status_code for each in answers] == [status, status]


def test_any_host_may_be_named_where_a_proxy_checks_it(site: Site) -> None:
    async def send() -> int:
        app = site_app(site.reports, AuditLog(site.state), site, list, hosts=ANY_HOST)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://10.0.0.7:3001") as client:
            return (await client.get("/drift/report.html")).status_code

    assert asyncio.run(send()) == 200


def test_home_page_of_a_new_home_says_what_is_missing(site: Site) -> None:
    site.failures = []
    page = site.page("/")
    for text in (
        "domain_0",
        "no champion yet",
        "no version is served yet",
        "No alert is open.",
        "No failure of a run, schedule or sensor is unresolved.",
        "No decision is",
    ):
        assert text in page
    assert "Needs attention" not in page


def test_pages_show_the_cost_of_the_domain_and_of_the_assets_of_the_model(site: Site) -> None:
    now = datetime.now(UTC)
    for asset, money in (("m00/candidate_trees", 12.5), ("m00/evaluation", 0.25)):
        used = Used(300.0, 400.0, 0.0, 2_000_000_000, 3_000_000, money)
        record_step(site.state, StepCost("run", asset, 0, "domain_0", "m00", asset == "m00/evaluation", now, used))

    assert "12.75 USD this month" in site.page("/")
    page = site.page("/models/m00")
    for text in (
        '<span class="value">12.75 USD</span>',
        "<td>m00/candidate_trees</td>",
        "6.7 min",
        "2.00 GB",
        "0.25 USD",
    ):
        assert text in page
    assert "No step of the model has ended" in site.page("/models/m01")


def test_home_page_shows_open_alerts_the_worst_first_with_link_and_runbook(site: Site) -> None:
    firing = [
        Alert("drift", "m00", "Scores <moved>.", "/models/m00"),
        Alert("automation_failed", "schedule m00_retrain", "Its last tick failed. no lake", "/go/webserver/x"),
    ]
    store_transitions(site.state, transitions([], firing, {}, (), datetime(2026, 1, 2, 3, 4, tzinfo=UTC)))
    page = site.page("/")
    assert page.index("A schedule or sensor failed: schedule m00_retrain") < page.index("Drift alert: m00")
    for text in (
        '<span class="mark bad">critical</span>',
        '<a href="/go/webserver/x">A schedule or sensor failed: schedule m00_retrain</a>',
        '<a href="/docs/runbooks/automation-failed.md">Runbook</a>',
        "Scores &lt;moved&gt;.",
        "since 2026-01-02 03:04Z",
    ):
        assert text in page


def test_pages_of_the_documentation_are_shown_and_nothing_beside_them(site: Site) -> None:
    page = site.page("/docs/runbooks/drift-alert.md")
    assert "<h1>Drift alert</h1>" in page
    assert '<a href="../how-to/read-a-drift-report.md">' in page
    refused = ["/docs/generate_reference.py", "/docs/../README.md", "/docs/%2e%2e/README.md", "/docs/none.md", "/docs/"]
    assert [each.status_code for each in site.answers(*(("GET", path) for path in refused))] == [404] * 5


def test_home_page_shows_champion_quality_decisions_and_failures(used_site: Site) -> None:
    served = ServedVersion(version="3", bento="bentos/m00/3-aa")
    swap_desired_state(used_site.state, "m00", DesiredState(stable=served, weights={"stable": 100}), 0)
    page = used_site.page("/")
    for text in (
        '<a href="/models/m00">m00</a>',
        "champion version 3",
        "version 3 (stable) 100 %",
        "evaluated on 2023-01-30",
        '<svg class="chart"',
        "last verdict, on 2023-01-30",
        f'/runs/{"5e2a" * 8}">run 5e2a of m00</a>',
        "schedule m00_retrain",
        "no &lt;lake&gt;",
        "2026-01-02 03:04",
        'gates passed.<div class="muted">by gates',
    ):
        assert text in page, text
    (answer,) = used_site.answers(("GET", "/"))
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_model_page_shows_verdicts_drift_and_links_of_existing_reports(used_site: Site) -> None:
    card = used_site.reports / "model_card" / "m00" / "2023-01-30" / "card.html"
    card.parent.mkdir(parents=True)
    card.write_text("<p>card</p>")
    page = used_site.page("/models/m00")
    assert page.count('class="mark PROMOTE"') == 3
    assert page.count("Model card") == 1
    assert '<a href="/model_card/m00/2023-01-30/card.html">Model card</a>' in page
    assert "feature_3" in page
    assert page.count("<svg") == 2  # AUC and log loss
    assert 'class="mark HOLD"' in page


def test_unknown_model_is_named(site: Site) -> None:
    (answer,) = site.answers(("GET", "/models/<b>x"))
    assert answer.status_code == 404
    assert "No model &#39;&lt;b&gt;x&#39; is declared, was promoted or is served." in answer.text


def test_comparison_is_made_once_and_kept_among_the_reports(used_site: Site) -> None:
    page = used_site.reports / "comparison" / "m00" / "1-2" / "comparison.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>kept</p>")
    assert used_site.page("/models/m00/comparison?first=1&second=2") == "<p>kept</p>"
    assert 'action="/models/m00/comparison"' in used_site.page("/models/m00")


@pytest.mark.parametrize("query", ["", "first=1", "first=0&second=2", "first=1&second=x", "first=-1&second=../2"])
def test_comparison_without_two_versions_is_refused(used_site: Site, query: str) -> None:
    (answer,) = used_site.answers(("GET", f"/models/m00/comparison?{query}"))
    assert answer.status_code == 400
    assert "needs two versions, like ?first=1&amp;second=2" in answer.text


def test_comparison_that_fails_says_why(used_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path / "home"))
    unknown, failed = used_site.answers(
        ("GET", "/models/other/comparison?first=1&second=2"), ("GET", "/models/m00/comparison?first=1&second=2")
    )
    assert (unknown.status_code, failed.status_code) == (404, 422)
    assert "Comparison of versions 1 and 2 of &#39;m00&#39;: expected two versions that can be compared" in failed.text
    assert not (used_site.reports / "comparison" / "m00" / "1-2" / "comparison.html").exists()


def test_served_model_without_a_declaration_stands_apart(used_site: Site) -> None:
    used_site.declared = Declarations([DeclaredModel("m01", "domain_0")], (), {"bikes": "assets/bikes: <broken>"})
    page = used_site.page("/")
    assert f"<h2>{NO_DOMAIN}</h2>" in page
    assert '<a href="/models/m00">m00</a>' in page
    assert "Domain bikes does not load" in page
    assert "&lt;broken&gt;" in page


def test_failed_contract_needs_attention(site: Site, state_store: StateStore) -> None:
    site.declared = Declarations((), [DeclaredDataset("flights", "aviation")], {})
    record_failed(state_store, "flights", "2013-03", check="valid_values", landed_sha256=None)
    assert "dataset flights: check valid_values failed on 2013-03" in site.page("/")


def test_open_alert_is_not_repeated_under_needs_attention(site: Site, state_store: StateStore) -> None:
    site.declared = Declarations((), [DeclaredDataset("flights", "aviation")], {})
    record_failed(state_store, "flights", "2013-03", check="valid_values", landed_sha256=None)
    found = contract_alerts(state_store, Declared({}, {"flights": "aviation"}))
    store_transitions(state_store, transitions([], found, {}, (), datetime.now(UTC)))
    page = site.page("/")
    assert "Needs attention" not in page
    assert "A contract check failed: datasets/flights 2013-03" in page


def test_pages_read_the_same_number_of_rows_after_a_longer_time(reports: Path, tmp_path: Path) -> None:
    sizes = []
    for days in (60, 180):
        folder = tmp_path / str(days)
        folder.mkdir()
        with_years = Site(reports, StateStore.in_folder(folder), SyntheticDeclarations(1).current())
        write_records(with_years.state, ["m00"], days)
        sizes.append([_rows_read(with_years, path) for path in ("/", "/models/m00")])
        with_years.state.close()
    assert sizes[0] == sizes[1]


def _rows_read(site: Site, path: str) -> Sequence[int]:
    """Return the number of charts' points, table rows and cells of the page."""
    page = site.page(path)
    return [page.count(text) for text in ("<circle", "<tr>", "<td", "<li>")]


def test_pages_show_the_lineage_of_columns_both_ways(site: Site) -> None:
    site.declared = Declarations([DeclaredModel("early", "air")], (), {}, project())
    overview, model, dataset = (site.page(f"/lineage{path}") for path in ("", "/models/early", "/datasets/flights"))
    assert '<a href="/lineage/models/early">early</a>' in overview
    assert '<a href="/lineage/datasets/flights">flights</a>' in overview
    assert '<a href="/lineage/datasets/flights#delay">flights.delay</a>' in model
    assert "shop:ratio" in model
    assert "As declared: no materialization has recorded its columns yet." in model
    assert 'id="delay"' in dataset
    assert "<code>shop:rows</code> gets all columns" in dataset
    assert '<a href="/lineage/models/early">Columns</a>' in site.page("/models/early")
    unknown = site.answers(("GET", "/lineage/models/<b>"), ("GET", "/lineage/datasets/other"))
    assert [each.status_code for each in unknown] == [404, 404]
    assert "No model &#39;&lt;b&gt;&#39; is declared." in unknown[0].text


def test_estimate_stands_beside_realised_quality_and_missing_labels_need_attention(used_site: Site) -> None:
    with used_site.state.write() as connection:
        rows = connection.execute(sa.select(performance_periods).order_by(performance_periods.c.start)).all()
        last = Period.model_validate_json(rows[-1].result)
        doubt = Doubt(kind="coverage", text="60.0% of the due labels are known.")
        before = Period.model_validate_json(rows[-2].result).model_copy(
            update={"doubts": [doubt], "label_state": "marked"}
        )
        open_one = last.model_copy(update={"evaluated": False, "metrics": {}, "intervals": {}, "labelled": 0})
        for row, each in ((rows[-1], open_one), (rows[-2], before)):
            changed = sa.update(performance_periods).where(performance_periods.c.start == row.start)
            connection.execute(changed.values(result=each.model_dump_json()))
    home, model = used_site.page("/"), used_site.page("/models/m00")
    for page in (home, model):
        assert f"estimated, labels not known yet: 0.7800 (0.7600 to 0.8000), {last.start:%Y-%m-%d}" in page
        assert 'class="realised doubtful"' in page
        assert 'class="estimated"' in page
    assert f"labels are missing in the period from {before.start:%Y-%m-%d}. 60.0% of the due labels" in home
    assert '<span class="wait">marked</span><div class="muted">60.0% of the due labels are known.' in model
    assert "Estimates: " in model
