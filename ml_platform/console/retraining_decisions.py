"""`ml-platform decisions`: the decisions on retraining a model, with the finding of each rule and the run they started.

`ml-platform history` shows the decisions on its versions: verdicts, approvals and champions.
"""

from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ml_platform.monitoring.retraining_records import RecordedDecision, last_decisions
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.state.store import StateStore


def retraining_decisions(home: Home, model: str, last: int) -> list[RecordedDecision]:
    """Return the last ``last`` decisions on retraining ``model``, latest first.

    Raises :class:`~ml_platform.components.loading.DeclarationUnknownError` when ``model`` has neither one nor a
    declaration.
    """
    from ml_platform.components.loading import bound_model
    from resources.state import open_state

    found = last_decisions(open_state(home), model, last)
    if not found:
        bound_model(model)
    return found


def json_values(recorded: RecordedDecision) -> dict[str, Any]:
    """Return one decision as JSON values; ``because`` has the finding of each rule, the decisive ones first."""
    decision = recorded.decision
    others = [each for each in decision.because if each not in decision.decisive]
    return {
        "window": recorded.window,
        "decision": decision.action,
        "text": decision.text,
        "because": [each.model_dump(mode="json") for each in (*decision.decisive, *others)],
        "data_time": decision.data_time.isoformat(),
        "decided_at": recorded.decided_at.isoformat(),
        "policy": recorded.policy or None,
        "state": recorded.state,
        "training": recorded.training,
        "run_id": recorded.run_id,
        "runs": recorded.runs,
        "failures": recorded.failures,
        "run_seconds": recorded.run_seconds,
    }


def last_decision_values(state: "StateStore", model: str) -> dict[str, Any] | None:
    """Return the last decision on retraining ``model`` as JSON values; None before the first one."""
    found = last_decisions(state, model, 1)
    return json_values(found[0]) if found else None


def show(found: Sequence[RecordedDecision], model: str, console: Console) -> None:
    """Print each decision: window, time, the finding of each rule, and the run."""
    if not found:
        console.print(f"No decision on retraining '{model}' is recorded yet.", highlight=False)
    for each in found:
        values = json_values(each)
        decided = f"{each.decided_at.astimezone(UTC):%Y-%m-%d %H:%M}Z"
        title = (
            f"{each.window}  {values['decision']}  (data clock {each.decision.data_time:%Y-%m-%d}, decided {decided})"
        )
        console.print(Text(title, style="bold"))
        for reason in values["because"]:
            line = Text(f"{reason['effect']}: {reason['text']}")
            console.print(Padding(line, (0, 0, 0, 4), expand=False), highlight=False)
        if each.training:
            console.print(Padding(Text(each.training, style="dim"), (0, 0, 0, 4), expand=False), highlight=False)
