"""Progress of a fit while it runs: a line every few seconds with an estimate of its end, and curves of the losses.

It gets numbers that the fit has anyway and passes them on, so a fit gives the same model with and without it.
"""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_platform.training.tuning import Trial

SECONDS_BETWEEN_LINES = 10.0
"""Time between two lines, and between two writes of the curves."""

Tell = Callable[[str], None]
"""``tell(line)`` shows one line of progress."""

SendCurve = Callable[[str, list[float], int], None]
"""``send(name, losses, first)`` stores the losses of the rounds from ``first`` on, counted from 0."""


class FitProgress:
    """A callback for the rounds and trials of one fit.

    ``most`` is the highest number of rounds, and ``trials`` that of a search; None: unknown. ``clock`` returns seconds.
    """

    def __init__(
        self,
        tell: Tell,
        send: SendCurve | None = None,
        *,
        most: int | None = None,
        trials: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        seconds_between_lines: float = SECONDS_BETWEEN_LINES,
    ) -> None:
        self._tell, self._send, self._most, self._trials = tell, send, most, trials
        self._clock, self._between = clock, seconds_between_lines
        self._began = self._last = clock()
        self._first_round: tuple[int, float] | None = None
        self._curves: dict[str, dict[int, float]] = {"validation_loss": {}, "training_loss": {}}
        self._sent = dict.fromkeys(self._curves, 0)
        self._ended_trials = 0

    def __call__(self, at: int, loss: float) -> None:
        """Take the validation loss of the round ``at``, counted from 1; see :data:`.trainer.ReportProgress`."""
        self._note("validation_loss", at, loss)
        now = self._clock()
        if self._first_round is None:
            self._first_round = (at, now)
        if now - self._last >= self._between:
            self._last = now
            self._tell(self._round_line(at, loss, now))
            self._flush()

    def training_loss(self, at: int, loss: float) -> None:
        """Take the loss on the training rows; a trainer that measures it calls this before the validation loss."""
        self._note("training_loss", at, loss)

    def phase(self, text: str) -> None:
        """Show that another part of the fit begins, at once."""
        self._last = self._clock()
        self._tell(text)

    def trial(self, trial: "Trial") -> None:
        """Show a trial of a search that has ended, at once, with the time that the others need at this speed."""
        self._ended_trials += 1
        loss = "no loss" if trial.loss is None else f"loss {trial.loss:.5g}"
        line = f"Trial {trial.number}: {trial.state.lower()}, {loss}"
        if self._trials is not None:
            left = max(self._trials - self._ended_trials, 0)
            seconds = (self._clock() - self._began) / self._ended_trials * left
            line += f"; {left} trials left, about {duration(seconds)}"
        self._tell(f"{line}.")

    def complete(self, losses: list[float]) -> None:
        """Store the rest of the validation losses, those of all rounds; a resumed fit reports its last rounds only."""
        self._curves["validation_loss"] |= dict(enumerate(losses))
        self._flush()

    def _note(self, curve: str, at: int, loss: float) -> None:
        if math.isfinite(loss):
            self._curves[curve][at - 1] = loss

    def _round_line(self, at: int, loss: float, now: float) -> str:
        losses = self._curves["validation_loss"]
        best = min(losses, key=lambda each: (losses[each], each)) + 1 if losses else at
        line = f"Round {at}, validation loss {loss:.5g}, lowest in round {best}"
        if self._most is not None and self._first_round is not None and at > self._first_round[0]:
            speed = (now - self._first_round[1]) / (at - self._first_round[0])
            line += f"; at most {self._most} rounds, which take {duration(speed * (self._most - at))} more"
        return f"{line}."

    def _flush(self) -> None:
        for name, losses in self._curves.items():
            first = self._sent[name]
            new: list[float] = []
            while first + len(new) in losses:
                new.append(losses[first + len(new)])
            if new and self._send is not None:
                self._send(name, new, first)
            self._sent[name] = first + len(new)


def duration(seconds: float) -> str:
    """Return a length of time in two units at most.

    >>> duration(8.2), duration(75), duration(7322)
    ('8 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
