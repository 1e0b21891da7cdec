"""The protocol of gates of a team's own, which a model declares under `gates`."""

from abc import abstractmethod
from typing import ClassVar

from ml_platform.data.extensions import Extension
from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.gate_result import GateResult


class OwnGate(Extension):
    """A condition on the evidence of an evaluation; a candidate that fails it is not promoted.

    The first line of the docstring of the class describes the check in the UI.
    """

    kind: ClassVar[str] = "gate"

    @property
    def name(self) -> str:
        """Name of the check in the UI and in verdicts. Override it where a model declares the class twice."""
        return self.default_name()

    @abstractmethod
    def evaluate(self, evidence: Evidence) -> GateResult:
        """Return the result, whose name is :attr:`name`.

        ``evidence`` has the labels, the predictions of candidate, champion and baselines, and the slices of the rows.
        :meth:`~ml_platform.evaluation.evidence.Evidence.resampled` gives metrics with intervals. Set ``undecided`` when
        more labels may turn a failure into a pass.
        """
