"""Makes what serves match what is wanted: `python -m ml_platform.serving.reconcile PLAN CONTROL`.

Every pass looks at the world and takes the next step, so it can be killed at any line and the next one goes on:
start the services that are missing; when all of a model's are ready, give the gateway their clusters, then its routes;
when nothing is under way at a service that no route names, take it out of the clusters and stop it.
"""

import json
import logging
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ml_platform.data.atomic import write_json
from ml_platform.features.stores import open_store
from ml_platform.serving.gateway import cluster_name, write_clusters, write_routes
from ml_platform.serving.processes import APPLIED_FILE, STOP_SECONDS, Plan
from ml_platform.serving.rehearsal import ONE_THREAD
from ml_platform.serving.status import ServedModel, Status, write_status
from ml_platform.serving.wanted import WANTED_FILE, Release, WantedState, read_wanted

logger = logging.getLogger("reconcile")

PREFIX = "service."
PAUSE_SECONDS = 0.2
ASK_SECONDS = 2.0
GATEWAY_SECONDS = 15.0


class Reconciler:
    """Takes the steps; ``control`` is the address of the process manager."""

    def __init__(self, plan: Plan, control: str, stopping: threading.Event | None = None) -> None:
        from circus.client import CircusClient

        self.plan = plan
        self.stopping = stopping or threading.Event()
        self._manager = CircusClient(endpoint=control, timeout=STOP_SECONDS + 5)
        self._clusters: dict[str, int] | None = None
        self._idle: set[str] = set()

    def run(self) -> None:
        """Take steps until told to stop."""
        while not self.stopping.is_set():
            try:
                self.step()
            except OSError as error:
                # The gateway or a service is restarting: the next pass sees it again.
                logger.warning("next try in a moment: %s", error)
            self.stopping.wait(PAUSE_SECONDS)

    def step(self) -> Status:
        """Look at the world, bring it nearer to what is wanted, and say what serves now."""
        wanted, waiting = self._wanted()
        needed = _services(wanted)
        running = self._running()
        for name in needed.keys() - running:
            self._start(name, *needed[name])
        ready = {name: port for name in needed if (port := self._ready(name)) is not None}
        applied = self._applied()
        served = {
            model: state if all(cluster_name(model, each) in ready for each in state.releases) else applied.get(model)
            for model, state in wanted.items()
        }
        target = {model: state for model, state in served.items() if state is not None}
        self._apply(target, applied, ready)
        self._retire(running - needed.keys() - _services(target).keys(), needed.keys() | _services(target).keys())
        status = self._status(target, [*waiting, *sorted(needed.keys() - ready.keys())])
        write_status(self.plan.status_file, status)
        return status

    def _wanted(self) -> tuple[dict[str, WantedState], list[str]]:
        found, waiting = {}, []
        applied = self._applied()
        for path in sorted(self.plan.serving.glob(f"*/{WANTED_FILE}")):
            model = path.parent.name
            try:
                found[model] = read_wanted(path.parent)
            except (ValidationError, json.JSONDecodeError) as error:
                # What serves goes on serving; the file is named until someone mends it.
                waiting.append(f"{path}: {str(error).splitlines()[0]}")
                if model in applied:
                    found[model] = applied[model]
        return found, waiting

    def _applied(self) -> dict[str, WantedState]:
        """Return the states whose routes the gateway was given last."""
        path = self.plan.run / APPLIED_FILE
        held = json.loads(path.read_text()) if path.exists() else {}
        return {model: WantedState.model_validate(state) for model, state in held.items()}

    def _running(self) -> set[str]:
        names = self._manager.send_message("list")["watchers"]
        return {name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)}

    def _start(self, name: str, model: str, release: Release) -> None:
        log = self.plan.logs / f"{PREFIX}{name}.log"
        arguments = [release.bento, str(self._port_file(name)), str(log)]
        environment = {
            **os.environ,
            "ML_PLATFORM_ONLINE": open_store(self.plan.online).location,
            "ML_PLATFORM_PREDICTION_LOG": str((self.plan.predictions / model).resolve()),
            **ONE_THREAD,
        }
        options = {"env": environment, "graceful_timeout": STOP_SECONDS - 5, "stop_children": True}
        self._manager.send_message(
            "add",
            name=f"{PREFIX}{name}",
            cmd=sys.executable,
            args=["-m", "ml_platform.serving.launch", *arguments],
            options=options,
            start=True,
        )
        logger.info("started %s", name)

    def _ready(self, name: str) -> int | None:
        """Return the port of a service that says it is ready."""
        file = self._port_file(name)
        if not file.exists():
            return None
        port = int(file.read_text())
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=ASK_SECONDS) as answer:
                return port if answer.status == 200 else None
        except (OSError, urllib.error.URLError):
            return None

    def _apply(self, target: dict[str, WantedState], applied: dict[str, WantedState], ready: Mapping[str, int]) -> None:
        clusters = {**(self._clusters or {}), **ready}
        for name in _services(target).keys() | _services(applied).keys():
            # A service that restarts keeps its port: its cluster stays.
            if name not in clusters and self._port_file(name).exists():
                clusters[name] = int(self._port_file(name).read_text())
        self._give_clusters(clusters)
        routes = self.plan.run / APPLIED_FILE
        version = _version(target)
        if target != applied or self._routes_version() != version:
            write_routes(self.plan.gateway.folder, target, version=version)
            self._await(lambda: self._routes_version() == version, f"routes {version}")
            write_json(routes, {model: state.model_dump() for model, state in target.items()})
            logger.info("routes %s", version)

    def _give_clusters(self, clusters: dict[str, int]) -> None:
        if clusters == self._clusters:
            return
        version = ",".join(f"{name}:{port}" for name, port in sorted(clusters.items()))
        write_clusters(self.plan.gateway.folder, clusters, version=version or "none")
        self._await(lambda: self._known_clusters() == set(clusters), f"clusters {version}")
        self._clusters = clusters

    def _retire(self, surplus: set[str], kept: set[str]) -> None:
        """Stop services that no route names, each when nothing has been under way there for two passes."""
        idle = {name for name in surplus if self._requests_at(name) == 0}
        for name in sorted(idle & self._idle):
            self._give_clusters({each: port for each, port in (self._clusters or {}).items() if each in kept})
            self._manager.send_message("rm", name=f"{PREFIX}{name}", waiting=True)
            self._port_file(name).unlink(missing_ok=True)
            logger.info("stopped %s", name)
        self._idle = idle

    def _requests_at(self, name: str) -> int:
        told = self._ask(f"/stats?filter=^cluster.{name}.upstream_rq_active$")
        return int(told.rpartition(":")[2]) if ":" in told else 0

    def _routes_version(self) -> str | None:
        told = json.loads(self._ask("/config_dump?resource=dynamic_route_configs"))
        configs = told.get("configs", [])
        return configs[0].get("version_info") if configs else None

    def _known_clusters(self) -> set[str]:
        told = json.loads(self._ask("/clusters?format=json"))
        return {each["name"] for each in told.get("cluster_statuses", [])}

    def _ask(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.plan.gateway.admin_url}{path}", timeout=ASK_SECONDS) as answer:
            text: str = answer.read().decode()
        return text

    def _await(self, reached: Callable[[], bool], what: str) -> None:
        tries = int(GATEWAY_SECONDS / 0.02)
        for _ in range(tries):
            if reached():
                return
            if self.stopping.wait(0.02):
                break
        raise OSError(f"the gateway did not take {what} within {GATEWAY_SECONDS:g} s")

    def _port_file(self, name: str) -> Path:
        return self.plan.run / f"{name}.port"

    def _status(self, target: Mapping[str, WantedState], waiting: list[str]) -> Status:
        models = {
            model: ServedModel(
                endpoint=f"{self.plan.gateway.url}/v1/{model}/predict",
                stable=state.stable.version if state.stable else None,
                candidate=state.candidate.version if state.candidate else None,
                weights=state.weights,
                shadow=state.shadow.version if state.shadow else None,
                generation=state.generation,
            )
            for model, state in target.items()
        }
        return Status(gateway=self.plan.gateway.url, models=models, waiting=waiting)


def _services(wanted: Mapping[str, WantedState]) -> dict[str, tuple[str, Release]]:
    """Return what must run, by name of the service."""
    return {cluster_name(model, each): (model, each) for model, state in wanted.items() for each in state.releases}


def _version(wanted: Mapping[str, WantedState]) -> str:
    return ",".join(f"{model}:{state.generation}" for model, state in sorted(wanted.items())) or "none"


def _main(arguments: list[str]) -> Any:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    plan = Plan.model_validate_json(Path(arguments[0]).read_text())
    Reconciler(plan, arguments[1], stopping).run()


if __name__ == "__main__":
    _main(sys.argv[1:])
