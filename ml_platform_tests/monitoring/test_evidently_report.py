"""The drift page: one real report for most tests, and small reports for the settings."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ml_platform.monitoring.evidently_report import (
    PageHeading,
    ReportInputError,
    ReportSettings,
    write_evidently_report,
)


def rows(shift: float, seed: int, count: int = 2_000) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "score": random.beta(2, 5, count),
            "wind_speed": random.normal(10 + shift, 2, count),
            "carrier": random.choice(["AA", "UA"], count),
            "holiday": random.choice([True, False], count),
            "never_known": pl.Series([None] * count, dtype=pl.Float64),
        }
    )


FEATURES = ["wind_speed", "carrier", "holiday", "never_known"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    path = tmp_path_factory.mktemp("reports") / "departure_risk" / "2013-06" / "drift.html"
    distances = write_evidently_report(
        rows(0, 1), rows(4, 2), path, features=FEATURES, score="score", settings=ReportSettings()
    )
    return path, distances


def test_page_shows_the_distances_of_the_drift_check(page: tuple[Path, dict[str, float]]) -> None:
    from scipy.stats import ks_2samp

    expected = ks_2samp(rows(0, 1)["wind_speed"], rows(4, 2)["wind_speed"]).statistic
    assert page[1]["wind_speed"] == pytest.approx(expected)


def test_column_without_values_is_omitted(page: tuple[Path, dict[str, float]]) -> None:
    assert sorted(page[1]) == ["carrier", "holiday", "score", "wind_speed"]


def test_page_loads_nothing_from_a_network(page: tuple[Path, dict[str, float]]) -> None:
    html = page[0].read_text()
    assert len(html) > 100_000  # an empty page would pass
    assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[\"']https?://[^\"']+", html) == []


def test_folder_contains_only_the_page(page: tuple[Path, dict[str, float]]) -> None:
    assert [file.name for file in page[0].parent.iterdir()] == ["drift.html"]


def test_evidently_is_configured_not_to_track(page: tuple[Path, dict[str, float]]) -> None:
    assert os.environ["DO_NOT_TRACK"] == "1"


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_page_renders_the_drifted_column_in_a_browser(page: tuple[Path, dict[str, float]]) -> None:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    shown = subprocess.run(
        ["chromium", *options, "--virtual-time-budget=10000", "--dump-dom", page[0].as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    text = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", shown, flags=re.DOTALL)
    assert "wind_speed" in text
    assert "Drift in column 'score'" in text.replace("&#39;", "'")


def small(path: Path, **settings: float) -> tuple[str, dict[str, float]]:
    chosen = ReportSettings.model_validate(settings)
    distances = write_evidently_report(
        rows(0.6, 1), rows(0, 2).with_columns(pl.lit("AA").alias("carrier")), path,
        features=["wind_speed", "carrier"], settings=chosen,
    )  # fmt: skip
    return path.read_text(), distances


def shown_as_drifted(html: str) -> int:
    return html.count('"Detected"') + html.count("\\u0022Detected")


def test_minimum_distances_decide_what_is_shown_as_drifted(tmp_path: Path) -> None:
    both, _ = small(tmp_path / "both.html", minimum_ks=0.05, minimum_total_variation=0.1)
    numbers, _ = small(tmp_path / "numbers.html", minimum_ks=0.05, minimum_total_variation=0.9)
    none, _ = small(tmp_path / "none.html", minimum_ks=0.9, minimum_total_variation=0.9)
    assert [shown_as_drifted(html) for html in (both, numbers, none)] == [2, 1, 0]


def drift_shown_for_score(path: Path, **arguments: object) -> bool:
    """Return whether the page that ``arguments`` describe shows the score as drifted."""
    write_evidently_report(rows(0, 1), rows(4, 2), path, settings=ReportSettings(), **arguments)  # type: ignore[arg-type]
    html = path.read_text()
    found = re.findall(r"Data drift (not )?detected\. Drift detection method", html)
    assert found
    return not found[0]


def test_page_shows_the_decision_of_the_drift_check(tmp_path: Path) -> None:
    shown = [
        drift_shown_for_score(tmp_path / "page.html", features=["wind_speed"], score="score", drifted=drifted)
        for drifted in (["score"], [])
    ]
    assert shown == [True, False]


def test_heading_replaces_the_decision_of_evidently(tmp_path: Path) -> None:
    heading = PageHeading("Drift of sales, 2013-06", "notice", "features shifted (1 of 2): <wind>.")
    arguments = {"features": ["wind_speed", "carrier"], "settings": ReportSettings(), "drifted": ["wind_speed"]}
    write_evidently_report(rows(0, 1), rows(4, 2), tmp_path / "own.html", **arguments)  # type: ignore[arg-type]
    write_evidently_report(rows(0, 1), rows(4, 2), tmp_path / "page.html", heading=heading, **arguments)  # type: ignore[arg-type]
    assert "Dataset Drift is" in (tmp_path / "own.html").read_text()  # otherwise nothing would be replaced
    html = (tmp_path / "page.html").read_text()
    assert "Dataset Drift is" not in html
    assert '{"value": "Notice", "label": "Decision of the drift check"}' in html
    assert "<title>Drift of sales, 2013-06</title>" in html
    assert "Decision of the drift check: <b>notice</b>. features shifted (1 of 2): &lt;wind&gt;." in html


def test_drifted_column_is_drawn_before_a_column_with_a_larger_distance(tmp_path: Path) -> None:
    drawn = write_evidently_report(
        rows(0, 1), rows(4, 2), tmp_path / "page.html", features=["wind_speed", "carrier"],
        settings=ReportSettings(maximum_features=1), drifted=["carrier"],
    )  # fmt: skip
    assert list(drawn) == ["carrier"]


def test_score_is_sampled_from_the_rows_that_have_one(tmp_path: Path) -> None:
    few = rows(0, 1).with_columns(pl.when(pl.int_range(pl.len()) < 100).then("score").alias("score"))
    first, again = (
        write_evidently_report(
            reference, rows(0, 2), tmp_path / "page.html", features=["wind_speed"], score="score",
            settings=ReportSettings(sample_rows=100, seed=0),
        )
        for reference in (few, few.head(100))
    )  # fmt: skip
    assert first["score"] == again["score"]


def test_sample_rows_and_seed_decide_which_rows_are_drawn(tmp_path: Path) -> None:
    seen = {
        small(tmp_path / "page.html", sample_rows=size, seed=seed)[1]["wind_speed"]
        for size, seed in ((100, 0), (100, 1), (200, 0))
    }
    assert len(seen) == 3


def test_maximum_features_draws_the_features_with_the_largest_distance(tmp_path: Path) -> None:
    assert sorted(small(tmp_path / "two.html", maximum_features=2)[1]) == ["carrier", "wind_speed"]
    assert sorted(small(tmp_path / "one.html", maximum_features=1)[1]) == ["carrier"]


def test_minimum_category_share_groups_rare_categories(tmp_path: Path) -> None:
    tails = [
        pl.DataFrame({"tailnum": np.random.default_rng(seed).integers(0, 4_000, 2_000).astype(str)}) for seed in (1, 2)
    ]
    each, folded = (
        write_evidently_report(
            tails[0], tails[1], tmp_path / "page.html",
            features=["tailnum"], settings=ReportSettings(minimum_category_share=share),
        )["tailnum"]
        for share in (0.0, 0.01)
    )  # fmt: skip
    assert each > 0.5
    assert folded == 0.0


def test_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportInputError, match=r"current table: .*1 missing: 'wind_sped'.*Did you mean 'wind_speed'"):
        write_evidently_report(
            rows(0, 1).with_columns(wind_sped=1.0), rows(0, 2), tmp_path / "page.html",
            features=["wind_sped"], settings=ReportSettings(),
        )  # fmt: skip


def test_tables_without_a_common_value_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ReportInputError, match="values on both sides, found 2000 reference and 0 current rows"):
        write_evidently_report(
            rows(0, 1), rows(0, 2, count=0), tmp_path / "page.html", features=FEATURES, settings=ReportSettings()
        )
