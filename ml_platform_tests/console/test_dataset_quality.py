"""`ml-platform dataset quality`: landings as text and as JSON, the latest first."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from ml_platform.console import dataset_quality
from ml_platform.data.partition_profile import profile_partition
from ml_platform.data.quality_findings import Finding
from ml_platform.data.quality_record import record_landing
from resources.home import Home
from resources.state import open_state


def test_landings_are_shown_with_their_findings_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / "home")
    profile = profile_partition(pl.DataFrame({"id": [1, 2]}), datetime(2024, 1, 1, 6, tzinfo=UTC))
    finding = Finding("Dataset 'orders', partition 2024-01-02", "volume", "critical", "2 rows", 9.5, None, "2024-01-02")
    for partition, content, judged, reason, found in (
        ("2024-01-01", "abc", "not judged", "Comparable partitions: 0; at least 6 are needed.", []),
        ("2024-01-02", None, "critical", None, [finding.record()]),
    ):
        record_landing(
            open_state(home),
            "orders",
            partition,
            profile,
            content=content,
            judged=judged,
            reason=reason,
            findings=found,
        )
    found_landings = dataset_quality.landings(home, "orders", 5)
    dataset_quality.show(found_landings, "orders", Console(width=100))

    assert capsys.readouterr().out.splitlines() == [
        "2024-01-01T06:00:00Z  2024-01-02  2 rows: critical, not published",
        "    critical: 2 rows (since 2024-01-02)",
        "2024-01-01T06:00:00Z  2024-01-01  2 rows: not judged",
        "    Comparable partitions: 0; at least 6 are needed.",
    ]
    values = dataset_quality.json_values(found_landings[0])
    assert (values["published"], values["state"], values["findings"][0]["how_bad"]) == (False, "critical", 9.5)
    assert dataset_quality.json_values(found_landings[1])["not_judged"].startswith("Comparable partitions: 0")
