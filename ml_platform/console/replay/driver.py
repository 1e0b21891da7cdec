"""Drives a replay: lands the windows one after another, sends their requests, and records what the platform did.

It only does what the world around a platform does. The data arrive in the landing zone, clients ask the gateway, and
the clock of the data moves on. Sensors, queue, gates, promotion and rollout are those of `ml-platform up`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import polars as pl

from ml_platform.console.arguments import domain_module
from ml_platform.console.replay.incidents import PlantedLanding, plant
from ml_platform.console.replay.platform import RunningPlatform, only_replay, replay_environment, running_platform
from ml_platform.console.replay.records import window_record
from ml_platform.console.replay.steps import (
    Policy,
    ReplayError,
    ReplayPlan,
    ReplayRecords,
    WindowRecord,
    WindowSent,
    windows_between,
)
from ml_platform.console.replay.traffic import request_prefix, requests_of, send
from ml_platform.data.landing import Landing
from ml_platform.data.names import identifier
from ml_platform.data.scratch import scratch_folder
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.components.model.model_assets import ModelAssets
    from ml_platform.data.lake import Lake

SETTLE_SECONDS = 900
"""Longest time in which a window may keep the platform busy."""

ANSWER_SECONDS = 120
"""Longest time in which a request may stay without an answer."""

AFTER_CLOSING = timedelta(minutes=30)
"""Data time from the end of a window until its monitor runs."""

SENDINGS = 6
"""Highest number of times that rows without a logged prediction are sent."""


@dataclass(frozen=True)
class Replay:
    """A replay of ``plan`` in ``home``: the model, the domain's module, and the running platform."""

    plan: ReplayPlan
    home: Home
    model: "ModelAssets"
    declared: ModuleType
    platform: RunningPlatform
    records: ReplayRecords
    echo: Callable[[str], None]

    def run(self) -> list[WindowRecord]:
        """Replay each window that has no record yet, and return the records of all."""
        self.platform.require_schedule(self._monitor)
        first = self.plan.windows[0]
        landing = PlantedLanding(
            self.home.landing, plant(self.declared, self.plan.incidents, self.plan.windows), window=first
        )
        if self.records.window(first) is None:
            self.declared.land_before(landing, first)
            self.platform.settle(SETTLE_SECONDS)
        for window in self.plan.windows:
            if self.records.window(window) is None:
                landing.window = window
                self.records.store_window(self._replayed(window, landing))
                self.echo(_line(self.records.window(window)))
        return self.records.windows(self.plan)

    def _replayed(self, window: str, landing: Landing) -> WindowRecord:
        begun, is_repeated = self.records.begin_window(window, time.time())
        sent = self.records.sent(window)
        if sent is None:
            self.declared.land_arriving(landing, window)
            self._wait_for_features(window)
            sent = self._send(window, is_repeated=is_repeated)
            self.records.store_sent(sent)
        self.declared.land_closed(landing, window)
        self.platform.settle(SETTLE_SECONDS)
        # The labels of the window have landed: performance is measured, and the policy looks at it.
        self._run_monitor(self.model.partitions.bounds(window)[1] + AFTER_CLOSING)
        self.platform.settle(SETTLE_SECONDS)
        return window_record(
            self.model.name, window, sent, self.platform, since=begun.at, seconds=time.time() - begun.at
        )

    def _wait_for_features(self, window: str) -> None:
        """Wait for the training set of ``window``, after which its facts are online, or until nothing follows any more.

        Data that break their contract never get there, and the endpoint then answers with older facts.
        """
        table, started = self.model.table, time.time()

        def arrived() -> bool:
            stored = window in self._lake().digests(table, [window])
            return self.platform.is_idle() if stored else self.platform.is_quiet(started)

        self.platform.wait_until(arrived, f"the training set of {window}", SETTLE_SECONDS)
        self.platform.wait_until(self.platform.serves_desired, "serving of the desired state", SETTLE_SECONDS)

    def _send(self, window: str, *, is_repeated: bool) -> WindowSent:
        """Send the requests of ``window`` until each row has a logged prediction."""
        import httpx

        started = time.monotonic()
        champion = current_champion(AuditLog(self.platform.state), self.model.name)
        with scratch_folder("replay") as scratch:
            rows = self.declared.request_rows(scratch, window)
        if champion is None:
            return WindowSent(window=window, rows=rows.height, resent=0, seconds=0, champion=None)
        prediction_time = self.model.declared.prediction_time
        if prediction_time is None:
            raise ReplayError(
                f"Model '{self.model.name}'",
                expected="a prediction_time of a request field, which a replay can set",
                found="none",
                fix="Declare prediction_time, or do not replay this model.",
            )
        requests = requests_of(window, rows, prediction_time, self.model.arrivals, self.model.declared.maximum_rows)
        logged = self._logged(window, 0) if is_repeated else set()
        missing, resent = [each for each in requests if each[0] not in logged], 0
        path = f"/v1/{self.model.name}/predict"
        for sending in range(1, SENDINGS + 1):
            with httpx.Client(base_url=self.platform.gateway, timeout=60) as client:
                send(client, path, missing, self.platform.require_running, ANSWER_SECONDS)
            logged = self._logged(window, sending)
            missing = [each for each in requests if each[0] not in logged]
            if not missing:
                break
            resent += sum(len(each) for _, each in missing)
        else:
            raise ReplayError(
                f"Predictions of {window}",
                expected=f"a logged prediction for each request after {SENDINGS} times",
                found=f"{len(missing)} of {len(requests)} requests without one",
                fix="Read the logs of the services, then repeat the command.",
            )
        return WindowSent(
            window=window,
            rows=rows.height,
            resent=resent,
            seconds=time.monotonic() - started,
            champion=champion.version,
        )

    def _logged(self, window: str, sending: int) -> set[str]:
        """Return the ids of the requests of ``window`` that the predictions table has after a run of the monitor."""
        from ml_platform.monitoring.prediction_log import predictions_table

        end = self.model.partitions.bounds(window)[1]
        self._run_monitor(end - timedelta(minutes=30) + timedelta(seconds=sending))
        table, lake = predictions_table(self.model.name), self._lake()
        if not lake.exists(table):
            return set()
        mine = pl.col("request_id").str.starts_with(request_prefix(window))
        return set(lake.scan(table).filter(mine).select("request_id").unique().collect()["request_id"])

    @property
    def _monitor(self) -> str:
        return f"{identifier(self.model.name)}_monitor"

    def _run_monitor(self, at: datetime) -> None:
        """Run the monitor of the model for the data time ``at``, and wait for its end."""
        run = self.platform.tick(self._monitor, at)
        self.platform.wait_for_run(run, SETTLE_SECONDS)

    def _lake(self) -> "Lake":
        from resources.home_lake import open_lake

        return open_lake(self.home)


def replay(
    domain: str,
    first: str,
    last: str,
    root: Path,
    policies: Sequence[Policy],
    echo: Callable[[str], None],
    *,
    headless: bool,
    incidents: Mapping[str, str] | None = None,
) -> dict[Policy, Home]:
    """Replay the windows ``first`` to ``last`` of ``domain`` by each of ``policies``; return the home of each.

    Each policy has a home below ``root``, which a repeated call continues. ``incidents`` are first windows by name of
    an incident. Raises :class:`.steps.ReplayError` when it cannot go on.
    """
    declared = domain_module(domain, "replay")
    homes: dict[Policy, Home] = {policy: Home(root / policy) for policy in policies}
    for policy, home in homes.items():
        with replay_environment(home, overlay_of(domain, declared, policy)), only_replay(home):
            from ml_platform.components.loading import bound_model

            model = bound_model(declared.MODEL)
            windows = windows_between(_known(model), first, last, model.name)
            planted = dict(incidents or {})
            plan = ReplayPlan(domain=domain, model=model.name, policy=policy, windows=windows, incidents=planted)
            plant(declared, planted, windows)
            records = ReplayRecords(home)
            records.begin(plan)
            if len(records.windows(plan)) == len(windows):
                continue
            echo(f"Replay of '{model.name}' by the policy '{policy}' in {home.root}, {first} to {last}.")
            with running_platform(home, headless=headless) as platform:
                Replay(plan, home, model, declared, platform, records, echo).run()
    return homes


def overlay_of(domain: str, declared: ModuleType, policy: Policy) -> dict[str, Any]:
    """Return the overlay of the home of ``policy``: only ``domain`` is loaded, and the model follows the policy.

    A domain's replay may have its own ``POLICY`` in place of the declared one, to try it before it is declared.
    """
    chosen = None if policy == "every_window" else getattr(declared, "POLICY", None)
    changes = {"retraining": {"policy": chosen}} if chosen is not None or policy == "every_window" else {}
    return {"domains": [domain.split(".")[0]], "models": {declared.MODEL: changes}}


def _known(model: "ModelAssets") -> list[str]:
    """Return the windows of ``model`` from its first candidate on."""
    scheme = model.partitions
    first = model.declared.first_candidate or scheme.first
    return [first] if scheme.last is None else scheme.between(first, scheme.last)


def _line(record: WindowRecord | None) -> str:
    assert record is not None
    trained = f"{record.trainings} trainings in {record.training_seconds:.0f} s"
    return (
        f"{record.window}: {record.sent.rows} rows by version {record.sent.champion}, {record.runs} runs, {trained}, "
        f"champion then version {record.champion}; {record.seconds:.0f} s."
    )
