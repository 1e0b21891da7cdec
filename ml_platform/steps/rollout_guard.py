"""The guard of rollouts: `python -m ml_platform.steps.rollout_guard PLAN` compares, advances and rolls back.

It needs neither Dagster nor MLflow, so it acts while these are stopped. It changes the desired state only; the
reconciler establishes it.
"""

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from ml_platform.errors import PlatformError
from ml_platform.serving.arm_counts import ArmCounts, read_counts, recent_scores
from ml_platform.serving.desired_state import read_desired_state
from ml_platform.serving.gateway_clusters import cluster_name
from ml_platform.serving.processes import ProcessPlan
from ml_platform.serving.rollout import Rollout, running_rollouts
from ml_platform.serving.score_pairs import PairCounts, ScorePairs
from ml_platform.serving.takeover import APPLIED_FILE
from ml_platform.state.store import StateStore
from ml_platform.steps.rollouts import pass_over

logger = logging.getLogger("rollout_guard")

PASS_INTERVAL_SECONDS = 0.25


class RolloutGuard:
    """Passes over all running rollouts until ``stopping`` is set."""

    def __init__(self, plan: ProcessPlan, stopping: threading.Event | None = None) -> None:
        self.plan = plan
        self.stopping = stopping or threading.Event()
        self._state: StateStore = plan.open_state()
        self._pairs: dict[tuple[str, datetime], ScorePairs] = {}

    def run(self) -> None:
        """Run passes until ``stopping`` is set."""
        while not self.stopping.is_set():
            try:
                self.step()
            except (OSError, PlatformError) as error:
                logger.warning("this pass failed, the next one retries: %s", error)
            self.stopping.wait(PASS_INTERVAL_SECONDS)

    def step(self) -> None:
        """Run one pass: read the counters of both arms of each running rollout, and do what follows."""
        running = running_rollouts(self._state)
        started = {(model, rollout.started) for model, rollout in running.items()}
        self._pairs = {each: pairs for each, pairs in self._pairs.items() if each in started}
        for model, rollout in running.items():
            judgement = pass_over(
                self._state, model, self._counts(model, rollout), datetime.now(UTC), seed=time.time_ns()
            )
            if judgement.action != "wait":
                logger.info("%s: %s, %s", model, judgement.action, judgement.reason)

    def _counts(self, model: str, rollout: Rollout) -> dict[str, ArmCounts]:
        """Return the counters of both arms; empty until the gateway routes the current step."""
        if self._applied_generation(model) != read_desired_state(self._state, model).generation:
            return {}
        names = {
            arm: cluster_name(model, served)
            for arm, served in (("candidate", rollout.candidate), ("stable", rollout.stable))
        }
        limit = rollout.settings.guardrails.slow_ms
        found = read_counts(self.plan.gateway.folder, dict.fromkeys(names.values(), limit), self.plan.run)
        counts = {arm: found[name] for arm, name in names.items()}
        if rollout.current_step.weight in (0, 100):  # both versions answer each request
            compared, changed = self._compared(model, rollout, names)
            counts["candidate"] = counts["candidate"].model_copy(update={"compared": compared, "changed": changed})
        return counts

    def _compared(self, model: str, rollout: Rollout, names: Mapping[str, str]) -> PairCounts:
        """Return the pairs of scores since this guard first saw the rollout; a lost pair is only less evidence."""
        key = (model, rollout.started)
        pairs = self._pairs.setdefault(key, ScorePairs(rollout.settings.guardrails.changed_by))
        return pairs.add(
            (arm, replica, page)
            for arm, name in names.items()
            for replica, page in recent_scores(self.plan.run, name).items()
        )

    def _applied_generation(self, model: str) -> int | None:
        file = self.plan.run / APPLIED_FILE
        stored = json.loads(file.read_text()) if file.exists() else {}
        return stored[model]["generation"] if model in stored else None


def _main(arguments: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    RolloutGuard(ProcessPlan.model_validate_json(Path(arguments[0]).read_text()), stopping).run()


if __name__ == "__main__":
    _main(sys.argv[1:])
