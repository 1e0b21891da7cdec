"""The result of one gate, as verdicts store it."""

from pydantic import BaseModel, ConfigDict

Numbers = dict[str, float | None]


class GateResult(BaseModel):
    """Result of one gate. ``undecided`` marks a failure that more labels may turn into a pass.

    ``labels_needed`` estimates how many more labels would decide, whichever way, if the measured values are the true
    ones.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    passed: bool
    numbers: Numbers
    reason: str
    undecided: bool = False
    labels_needed: int | None = None
