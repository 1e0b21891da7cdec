"""Output of `ml-platform status`: a model without versions, and the last decisions."""

from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

from rich.console import Console

from ml_platform.console.status import last_decisions, metric_labels, show
from ml_platform.registry.approvals import APPROVAL_KIND
from ml_platform.registry.audit import AuditLog
from ml_platform.serving.scaling_record import ScalingStep
from resources.home import Home
from resources.state import open_state

UNSERVED = {"stable": None, "candidate": None, "weights": {}, "generation": 0}  # type: ignore[var-annotated]


def test_approval_is_listed_with_its_decision_reason_and_person(tmp_path: Path) -> None:
    home = Home(tmp_path)
    facts = {"model": "late", "version": 3, "word": "approve", "reason": "stable in summer", "evidence": "ab12"}
    AuditLog(open_state(home)).append(APPROVAL_KIND, actor="ada", at=datetime(2024, 5, 1, 12, tzinfo=UTC), facts=facts)
    output = StringIO()
    streams = ["trips.requests: 3 waiting", "more: 0 waiting"]
    step = ScalingStep(at=datetime(2024, 5, 1, tzinfo=UTC), version="3", before=1, after=2, load=0.84, target=0.7)
    scaled = {"replicas": {"3": 2}, "scaling": [{"text": "left out"}] + [{"text": step.text}] * 3}
    models = {"late": {"champion": None, "serving": UNSERVED, "endpoint": None, "streams": streams, **scaled}}

    show({"data_clock": None, "models": models}, last_decisions(home), Console(file=output, width=100))

    assert [line.rstrip() for line in output.getvalue().splitlines()] == [
        "Data clock  no data has landed yet",
        "",
        "late",
        "  champion  none yet",
        "  serving   no version yet",
        "  endpoint  not running; start it with `ml-platform up`",
        "  replicas  2 of version 3",
        *["            version 3, 1 → 2 at 0.84 of their requests (target 0.7), 2024-05-01 00:00:00Z"] * 3,
        "  streams   trips.requests: 3 waiting",
        "            more: 0 waiting",
        "",
        "Last decisions",
        "  2024-05-01 12:00:00Z  late version 3: approve",
        "      stable in summer",
        "      by ada",
    ]


def test_orphans_are_shown_with_the_verb_that_ends_them() -> None:
    output = StringIO()
    orphan = "model 'late' has no declaration, but it is served. End it with `ml-platform model retire late`."
    show({"data_clock": None, "models": {}, "orphans": [orphan]}, [], Console(file=output, width=200))
    assert output.getvalue().splitlines()[-2:] == ["Without a declaration", f"  {orphan}"]


def test_rare_positives_are_shown_with_the_metrics_of_their_order() -> None:
    assert list(metric_labels({"base_rate": 0.031}))[:2] == ["average_precision", "recall_at_rate"]
    assert next(iter(metric_labels({"base_rate": 0.25}))) == "auc"
    assert "average_precision" not in metric_labels({"accuracy": 0.9})
