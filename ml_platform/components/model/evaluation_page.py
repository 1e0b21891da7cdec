"""The summary at the top of the page of `evaluation`: decision, reasons, metrics and links, for who decides."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from ml_platform.steps.evaluation import EvaluationResult

CONSEQUENCES: Mapping[str, str] = {
    "PROMOTE": "Every gate passed. The version becomes champion when it has the approvals that the model declares.",
    "HOLD": "The comparison is not decided yet. The champion serves on, and nothing failed.",
    "REJECT": "A gate did not pass that more labels would not change. The champion serves on, and nothing failed.",
}
"""The effect of each decision, as the summary says it."""


def summary(result: "EvaluationResult", links: Mapping[str, str]) -> dg.MarkdownMetadataValue:
    """Return the verdict on one version as Markdown: numbers have 4 digits, and ``links`` maps texts to addresses."""
    verdict, others = result.verdict, list(dict.fromkeys(name for each in result.metrics for name in each.others))
    head = ["metric", "candidate", "interval", *others]
    rows = [
        [
            each.metric,
            f"{each.candidate.value:.4f}",
            f"{each.candidate.low:.4f} to {each.candidate.high:.4f}",
            *(f"{each.others[name]:.4f}" if name in each.others else "–" for name in others),
        ]
        for each in result.metrics
    ]
    windows = ", ".join(look.window for look in verdict.looks) or verdict.partition
    on = f"{len(result.evidence.label):,} rows of {windows}"
    lines = [
        f"**{verdict.decision}**: version {result.version.version}, on {on}.",
        CONSEQUENCES[verdict.decision],
        "\n".join(f"- {reason}" for reason in verdict.reasons),
        "\n".join(_row(each) for each in (head, ["---"] * len(head), *rows)),
        " · ".join(f"[{text}]({address})" for text, address in links.items()),
    ]
    return dg.MetadataValue.md("\n\n".join(lines))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
