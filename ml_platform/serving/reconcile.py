"""Makes services and gateway match the desired state: `python -m ml_platform.serving.reconcile PLAN CONTROL`.

Every pass observes the current state and takes the next steps. It can be killed at any line, and the next pass
continues:

1. Start the missing services: the replicas of the versions that answer and of those that are kept ready, and the
   service of constants.
2. When all services of a model are ready, write their clusters for the gateway, then the routes of the model.
3. When no route names a service and no request is in flight there, remove its cluster and stop it.

It also runs the consumer of streams while a rollout has declared any.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bento.host_plan import HostedService
from ml_platform.data.atomic import write_json
from ml_platform.data.pseudonyms import PII_KEY_FILE_VARIABLE
from ml_platform.errors import PlatformError
from ml_platform.features.stores import open_store
from ml_platform.serving.arm_counts import requests_at_once
from ml_platform.serving.bento_server import REFUSE
from ml_platform.serving.bento_signature import TRUSTED_KEYS_VARIABLE
from ml_platform.serving.constant_server import PLAN_FILE as CONSTANTS_FILE
from ml_platform.serving.constant_server import write_constants
from ml_platform.serving.desired_state import DesiredState, ServedVersion, all_desired_states
from ml_platform.serving.gateway_admin import query_gateway
from ml_platform.serving.gateway_clusters import (
    CONSTANT_SERVICE,
    FALLBACK_MARK,
    REQUESTS_AT_ONCE,
    cluster_name,
    fallback_name,
    fallbacks_of,
    read_clusters,
    write_clusters,
)
from ml_platform.serving.gateway_routes import ANY_MODEL
from ml_platform.serving.marked_processes import PROCESS_VARIABLE, SERVICE_PREFIX
from ml_platform.serving.ordered_stop import STREAMS
from ml_platform.serving.processes import STOP_SECONDS, ProcessPlan
from ml_platform.serving.readiness import HTTP_TIMEOUT_SECONDS, ReadinessProbes
from ml_platform.serving.replicas import ReplicaScaler, ScaledLoad, port_file, replica_names, service_of
from ml_platform.serving.scaling_record import KEPT, ScalingStep, add_scaling_steps
from ml_platform.serving.service_hosts import ServiceHosts
from ml_platform.serving.serving_settings import BentoSettings, Constant
from ml_platform.serving.serving_status import ServedModel, ServingStatus, write_serving_status
from ml_platform.serving.smoke_test import ONE_THREAD_ENVIRONMENT
from ml_platform.serving.streams.consumer_process import StreamPlan
from ml_platform.serving.streams.declared_streams import stored_streams
from ml_platform.serving.streams.stream_status import STATUS_FILE as STREAMS_FILE
from ml_platform.serving.takeover import APPLIED_FILE, applied_states, connected_ports

logger = logging.getLogger("reconcile")

HOST_PREFIX = f"{SERVICE_PREFIX}host."
PASS_INTERVAL_SECONDS = 0.2
GATEWAY_SECONDS = 15.0

RECOVERED_SECONDS = 30.0
"""Time that a stable version must be ready before a previous one that is its fallback may end."""

CLIENT_PLACES_FILE = "client_places"
"""File by which all services count the requests under way of each client; it stays empty."""

FALLBACK_SECONDS = 30.0
"""Time that a model without routes waits for its versions, before its declared fallback answers in their place."""


class Reconciler:
    """Makes services and gateway match the desired state; ``control`` is the address of the process manager."""

    def __init__(self, plan: ProcessPlan, control: str, stopping: threading.Event | None = None) -> None:
        from circus.client import CircusClient

        self.plan = plan
        self.stopping = stopping or threading.Event()
        self._state = plan.open_state()
        self._manager = CircusClient(endpoint=control, timeout=STOP_SECONDS + 5)
        self._clusters: dict[str, list[int]] | None = None
        self._fallbacks: set[tuple[str, ...]] = set()
        self._idle: set[str] = set()
        self._hosts = ServiceHosts(plan.run, plan.logs, self._send, HOST_PREFIX, plan.max_loaded)
        self._models: set[str] = {ANY_MODEL}
        self._settings_of = BentoSettings(plan.bentos)
        self._probes = ReadinessProbes()
        self._scaler = ReplicaScaler(REQUESTS_AT_ONCE)
        self._waiting_since: dict[str, float] = {}
        self._ready_since: dict[str, float] = {}
        self._unrecorded: dict[str, list[ScalingStep]] = {}
        self._has_streams: bool | None = None

    def run(self) -> None:
        """Run passes until ``stopping`` is set."""
        while not self.stopping.is_set():
            try:
                self.step()
            except OSError as error:
                # The gateway or a service restarts; the next pass tries again.
                logger.warning("this pass failed, the next one retries: %s", error)
            self.stopping.wait(PASS_INTERVAL_SECONDS)

    def step(self) -> ServingStatus:
        """Run one pass and return the status of serving after it."""
        stored, unreadable, problems = self._read_desired_states()
        applied = applied_states(self.plan.run)
        now = time.time()
        desired = {model: self._without_ended_previous(model, state, applied, now) for model, state in stored.items()}
        running = self._running_services()
        needed = self._needed_replicas(_needed_services_of(desired), running, now)
        constants = self._constants({**desired, **applied})
        write_constants(self._constants_file, constants)
        expected = {*needed, *([CONSTANT_SERVICE] if constants else [])}
        for name in sorted(needed.keys() - running):
            self._start(name, *needed[name])
        if CONSTANT_SERVICE in expected - running:
            self._start_constants()
        # Also those that may stop: one that hangs is killed then.
        answering = self._probes.ready({name: port_file(self.plan.run, name) for name in expected | running})
        ready = {name: port for name, port in answering.items() if name in expected}
        self._ready_since = {name: self._ready_since.get(name, now) for name in map(service_of, ready)}
        served = {
            model: state if self._can_answer(model, state, ready, applied, now) else applied.get(model)
            for model, state in desired.items()
        }
        target = {model: state for model, state in served.items() if state is not None}
        self._apply(target, applied, expected, ready, starting=(desired.keys() | unreadable) - target.keys())
        # All replicas of a version that the gateway still routes to, and that is desired no more, stay until it leaves.
        left = _services_of(target).keys() - {service_of(name) for name in needed}
        kept = expected | {name for name in running if service_of(name) in left}
        self._stop_unused(running - kept, {service_of(name) for name in kept} | left, answering)
        routed = _services_of(desired)
        waiting = sorted(name for name in needed.keys() - ready.keys() if service_of(name) in routed)
        status = self._status(target, ready, [*problems, *waiting])
        write_serving_status(self.plan.status_file, status)
        self._record_scaling()
        self._run_streams()
        return status

    def _without_ended_previous(
        self, model: str, state: DesiredState, applied: Mapping[str, DesiredState], now: float
    ) -> DesiredState:
        """Return ``state`` without its previous version if that must not run at ``now``.

        One that is the fallback stays beyond its time until the stable version was ready for
        :data:`RECOVERED_SECONDS`; but one that has stopped does not start again.
        """
        ended = state.without_ended_previous(now)
        if ended is state or state.stable is None or self._settings_of(state.stable).fallback != "previous":
            return ended
        is_routed = model in applied and applied[model].previous == state.previous
        ready_since = self._ready_since.get(cluster_name(model, state.stable), now)
        return state if is_routed and now - ready_since < RECOVERED_SECONDS else ended

    def _can_answer(
        self,
        model: str,
        state: DesiredState,
        ready: Collection[str],
        applied: Mapping[str, DesiredState],
        now: float,
    ) -> bool:
        """Return whether the gateway can route to ``state``: each version is ready, or a fallback must do.

        A version that the gateway routes to already is ready with one replica, a new one with all that always run.
        """
        known = applied[model].served_versions if model in applied else []
        needed = {
            cluster_name(model, each): 1 if each in known else self._settings_of(each).replicas.min
            for each in state.served_versions
        }
        ready_replicas = Counter(map(service_of, ready))
        if all(ready_replicas[name] >= count for name, count in needed.items()):
            self._waiting_since.pop(model, None)
            return True
        waited = now - self._waiting_since.setdefault(model, now)
        (_, *fallback) = fallbacks_of(model, state, self._settings_of).get("stable", [""])
        must_do = model not in applied and state.served_versions == [state.stable] and waited >= FALLBACK_SECONDS
        return must_do and any(ready_replicas[name] for name in fallback)

    def _needed_replicas(
        self, needed: Mapping[str, tuple[str, ServedVersion]], running: Collection[str], now: float
    ) -> dict[str, tuple[str, ServedVersion]]:
        """Return the replicas that must run of the services ``needed``, at their load ``now``.

        A service of an earlier run, of which none runs in this one yet, begins with as many as it had.
        """
        settings = {name: self._settings_of(served).replicas for name, (_, served) in needed.items()}
        self._scaler.forget(set(needed))
        counts = Counter(map(service_of, running))
        if self._clusters is None:
            earlier = read_clusters(self.plan.gateway.folder)
            counts.update({name: len(earlier.get(name, [])) for name in needed if not counts[name]})
        for name, declared in settings.items():
            self._scaler.count(name, declared, counts[name], now)
        scaled = [name for name, declared in settings.items() if declared.most > declared.min]
        if scaled and self._clusters:
            with suppress(OSError):  # the gateway restarts
                for name, requests in requests_at_once(self.plan.gateway.folder, scaled).items():
                    changed = self._scaler.add_sample(name, settings[name], requests, now)
                    if changed is not None:
                        self._note_scaling(needed[name], changed, settings[name].target, now)
        return {
            replica: needed[name]
            for name, declared in settings.items()
            for replica in replica_names(name, self._scaler.count(name, declared, counts[name], now))
        }

    def _note_scaling(self, scaled: tuple[str, ServedVersion], change: ScaledLoad, target: float, now: float) -> None:
        model, served = scaled
        step = ScalingStep(
            at=datetime.fromtimestamp(now, UTC),
            version=served.version,
            before=change.before,
            after=change.after,
            load=round(change.share, 3),
            target=target,
        )
        self._unrecorded = {**self._unrecorded, model: [*self._unrecorded.get(model, []), step][-KEPT:]}

    def _record_scaling(self) -> None:
        """Store the changes of the replicas; without the state store, the next pass tries again."""
        with suppress(PlatformError):
            for model, steps in list(self._unrecorded.items()):
                add_scaling_steps(self._state, model, steps)
                del self._unrecorded[model]

    def _constants(self, states: Mapping[str, DesiredState]) -> dict[str, tuple[Path, str, float]]:
        """Return the bento, the version and the score of the models that declare a constant."""
        found = {}
        for model, state in states.items():
            fallback = self._settings_of(state.stable).fallback if state.stable is not None else None
            if state.stable is not None and isinstance(fallback, Constant):
                bento = (self.plan.bentos / state.stable.bento).resolve()
                found[model] = bento, state.stable.version, fallback.constant
        return found

    @property
    def _constants_file(self) -> Path:
        return self.plan.run / CONSTANTS_FILE

    def _run_streams(self) -> None:
        """Run the consumer of streams exactly while one is declared; without the state store, change nothing."""
        try:
            declared = self.plan.streams and bool(stored_streams(self._state))
        except PlatformError:
            return
        if declared == self._has_streams:
            return
        runs = STREAMS in self._manager.send_message("list")["watchers"]
        if declared and not runs:
            plan = StreamPlan(
                run=self.plan.run,
                log=self.plan.logs / f"{STREAMS}.log",
                state=self.plan.state,
                gateway=self.plan.gateway.url,
                certificate=self.plan.certificate,
            )
            arguments = [plan.model_dump_json()]
            self._add(STREAMS, "ml_platform.serving.streams.consumer_process", arguments, _options(STREAMS))
            logger.info("started the consumer of streams")
        if runs and not declared:
            self._manager.send_message("rm", name=STREAMS, waiting=True)
            (self.plan.run / STREAMS_FILE).unlink(missing_ok=True)
        self._has_streams = declared

    def _read_desired_states(self) -> tuple[dict[str, DesiredState], set[str], list[str]]:
        """Return the desired states, the models whose state cannot be read, and what is wrong.

        The applied state takes the place of one that cannot be read. Without the state store, these are the models
        that it had when it was read last, or any model.
        """
        try:
            stored = all_desired_states(self._state)
        except PlatformError as error:
            # The store is locked, full or deleted: everything that serves continues.
            return applied_states(self.plan.run), self._models, [str(error)]
        self._models = {*stored.readable, *stored.unreadable}
        if not stored.unreadable:
            return dict(stored.readable), set(), []
        kept = {model: state for model, state in applied_states(self.plan.run).items() if model in stored.unreadable}
        return {**kept, **stored.readable}, set(stored.unreadable), list(map(str, stored.unreadable.values()))

    def _running_services(self) -> set[str]:
        names = self._manager.send_message("list")["watchers"]
        own = {name for name in names if name.startswith(SERVICE_PREFIX) and not name.startswith(HOST_PREFIX)}
        return {name.removeprefix(SERVICE_PREFIX) for name in own} | self._hosts.services(names)

    def _send(self, command: str, **properties: Any) -> Any:
        return self._manager.send_message(command, **properties)

    def _start(self, name: str, model: str, served: ServedVersion) -> None:
        log, bento = self.plan.logs / f"{SERVICE_PREFIX}{name}.log", self.plan.bentos / served.bento
        declared = self._settings_of(served)
        arguments = [str(bento), str(port_file(self.plan.run, name)), str(log)]
        if declared.replicas.most > 1 or declared.fallback != "unavailable":
            arguments.append(REFUSE)
        online, predictions = open_store(self.plan.online).location, (self.plan.predictions / model).resolve()
        process = f"{SERVICE_PREFIX}{name}"
        options = _options(
            process,
            {
                "ML_PLATFORM_ONLINE": online,
                "ML_PLATFORM_PREDICTION_LOG": str(predictions),
                "ML_PLATFORM_CLIENT_PLACES": str((self.plan.run / CLIENT_PLACES_FILE).resolve()),
                **ONE_THREAD_ENVIRONMENT,
                **({} if self.plan.pii_key is None else {PII_KEY_FILE_VARIABLE: str(self.plan.pii_key.resolve())}),
                **({} if self.plan.trusted_keys is None else {TRUSTED_KEYS_VARIABLE: str(self.plan.trusted_keys)}),
            },
        )
        if declared.isolation == "shared" and self._hosts.accepts(bento):
            service = HostedService(
                name=name,
                bento=bento.resolve(),
                port_file=port_file(self.plan.run, name).resolve(),
                log=log.resolve(),
                predictions=predictions,
                warm=declared.warm,
            )
            # The plan of a host is a file, so it names the variable of an address with a password.
            shared = self.plan.online if self.plan.online.startswith("$") else online
            self._hosts.add(service, online=shared, environment=options["env"], options=options)
            logger.info("started service %s in a host", name)
            return
        self._add(process, "ml_platform.serving.bento_server", arguments, options)
        logger.info("started service %s", name)

    def _start_constants(self) -> None:
        process = f"{SERVICE_PREFIX}{CONSTANT_SERVICE}"
        arguments = [str(self._constants_file), str(port_file(self.plan.run, CONSTANT_SERVICE))]
        options = _options(process, ONE_THREAD_ENVIRONMENT)
        self._add(process, "ml_platform.serving.constant_server", arguments, options)
        logger.info("started the service of constants")

    def _add(self, name: str, module: str, arguments: Sequence[str], options: Mapping[str, Any]) -> None:
        """Let the process manager run ``module`` as the process ``name``."""
        self._send("add", name=name, cmd=sys.executable, args=["-m", module, *arguments], options=options, start=True)

    def _apply(
        self,
        target: dict[str, DesiredState],
        applied: dict[str, DesiredState],
        expected: Collection[str],
        ready: Mapping[str, int],
        *,
        starting: Collection[str],
    ) -> None:
        routed = {*_services_of(target), *_services_of(applied)}
        names = {*(self._clusters or {}), *routed, *map(service_of, ready)}
        published = read_clusters(self.plan.gateway.folder) if self._clusters is None else self._clusters
        replicas: dict[str, list[str]] = {name: [] for name in names}
        for name in sorted(expected, key=lambda name: (len(name), name)):
            replicas.setdefault(service_of(name), []).append(name)
        ports = {
            name: self._ports(found or [name], published.get(name, []), ready, is_routed=name in routed)
            for name, found in replicas.items()
        }
        clusters = {name: found for name, found in ports.items() if found}
        self._set_clusters(clusters, self._fallbacks_of(target) | self._fallbacks_of(applied))
        applied_file = self.plan.run / APPLIED_FILE
        version = self._routes_version(target, starting)
        if target != applied or self._gateway_routes_version() != version:
            self.plan.gateway.write_routes(target, version=version, starting=starting, settings_of=self._settings_of)
            self._wait_for_gateway(lambda: self._gateway_routes_version() == version, f"routes {version}")
            write_json(applied_file, {model: state.model_dump() for model, state in target.items()})
            logger.info("the gateway loaded routes %s", version)

    def _ports(
        self, replicas: Sequence[str], published: Sequence[int], ready: Collection[str], *, is_routed: bool
    ) -> list[int]:
        """Return the ports of the cluster of ``replicas``, which has the ports ``published`` now.

        A replica joins when it is ready. One that restarts keeps its port, so it stays. Ports of an earlier run, or of
        a replica that is to stop, stay until all replicas are ready. A cluster that a route needs is never empty.
        """
        files = {name: port_file(self.plan.run, name) for name in replicas}
        known = {name: int(file.read_text()) for name, file in files.items() if file.exists()}
        joined = [port for name, port in known.items() if name in ready or port in published]
        if all(name in ready for name in replicas):
            return joined
        others = [port for port in published if port not in joined]
        return [*joined, *others] or (list(known.values()) if is_routed else [])

    def _set_clusters(self, clusters: dict[str, list[int]], fallbacks: set[tuple[str, ...]]) -> None:
        if clusters == self._clusters and fallbacks == self._fallbacks:
            return
        names = {*clusters, *(fallback_name(*each) for each in fallbacks)}
        ports = {name: "+".join(map(str, found)) for name, found in clusters.items()}
        version = ",".join(f"{name}:{ports.get(name, 0)}" for name in sorted(names))
        write_clusters(self.plan.gateway.folder, clusters, fallbacks, version=version or "none")
        self._wait_for_gateway(lambda: self._gateway_clusters() == names, f"clusters {version}")
        self._clusters, self._fallbacks = clusters, fallbacks

    def _stop_unused(self, unused: set[str], kept: set[str], answering: Collection[str]) -> None:
        """Stop each replica of ``unused`` after two passes in a row without a request in flight there.

        ``kept`` are the services of which other replicas go on, ``answering`` the replicas that do not hang.
        """
        idle = {name for name in unused if self._is_idle(name, kept)}
        for name in sorted(idle & self._idle):
            left = {each: ports for each, ports in (self._clusters or {}).items() if each in kept}
            self._set_clusters(left, self._fallbacks)
            if not self._hosts.remove(name):
                if name not in answering:
                    # It would not end by itself, and the loop would wait for it.
                    self._send("signal", name=f"{SERVICE_PREFIX}{name}", signum=int(signal.SIGKILL), recursive=True)
                self._manager.send_message("rm", name=f"{SERVICE_PREFIX}{name}", waiting=True)
            port_file(self.plan.run, name).unlink(missing_ok=True)
            logger.info("stopped service %s", name)
        self._idle = idle

    def _is_idle(self, name: str, kept: set[str]) -> bool:
        service, file = service_of(name), port_file(self.plan.run, name)
        if service not in kept:
            return self._active_requests(service) == 0
        # The gateway counts the requests of all replicas together.
        if not file.exists():
            return True
        port = int(file.read_text())
        return port not in (self._clusters or {}).get(service, []) and port not in connected_ports({port})

    def _active_requests(self, name: str) -> int:
        text = self._query_gateway(f"/stats?filter=^cluster.{name}.upstream_rq_active$")
        return int(text.rpartition(":")[2]) if ":" in text else 0

    def _gateway_routes_version(self) -> str | None:
        dump = json.loads(self._query_gateway("/config_dump?resource=dynamic_route_configs"))
        configs = dump.get("configs", [])
        return configs[0].get("version_info") if configs else None

    def _gateway_clusters(self) -> set[str]:
        dump = json.loads(self._query_gateway("/clusters?format=json"))
        return {each["name"] for each in dump.get("cluster_statuses", []) if each.get("added_via_api")}

    def _fallbacks_of(self, states: Mapping[str, DesiredState]) -> set[tuple[str, ...]]:
        """Return the services that the gateway tries in turn, for each model and role that has a fallback."""
        found = (fallbacks_of(model, state, self._settings_of).values() for model, state in states.items())
        return {tuple(names) for each in found for names in each}

    def _routes_version(self, desired: Mapping[str, DesiredState], starting: Collection[str]) -> str:
        """Return the version of the routes, which differs when they do: also when a previous version ended."""
        served = []
        for model, state in sorted(desired.items()):
            fallback = fallbacks_of(model, state, self._settings_of).get("stable", [])
            served.append(f"{model}:{state.generation}{FALLBACK_MARK if fallback else ''}")
        return ",".join([*served, *(f"{model}:starting" for model in sorted(starting))]) or "none"

    def _query_gateway(self, path: str) -> str:
        return query_gateway(self.plan.gateway.folder, path, seconds=HTTP_TIMEOUT_SECONDS)

    def _wait_for_gateway(self, is_reached: Callable[[], bool], subject: str) -> None:
        tries = int(GATEWAY_SECONDS / 0.02)
        for _ in range(tries):
            if is_reached():
                return
            if self.stopping.wait(0.02):
                break
        raise OSError(f"the gateway did not load {subject} within {GATEWAY_SECONDS:g} s")

    def _status(self, target: Mapping[str, DesiredState], ready: Collection[str], waiting: list[str]) -> ServingStatus:
        replicas = Counter(map(service_of, ready))
        models = {
            model: ServedModel(
                endpoint=f"{self.plan.gateway.url}/v1/{model}/predict",
                stable=state.stable.version if state.stable else None,
                candidate=state.candidate.version if state.candidate else None,
                weights=state.weights,
                shadow=state.shadow.version if state.shadow else None,
                generation=state.generation,
                replicas={each.version: replicas[cluster_name(model, each)] for each in state.served_versions},
            )
            for model, state in target.items()
        }
        return ServingStatus(gateway=self.plan.gateway.url, models=models, waiting=waiting)


def _options(process: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the options of ``process`` for the process manager, with ``environment`` added to that of this one."""
    return {
        "env": {**os.environ, **(environment or {}), PROCESS_VARIABLE: process},
        "graceful_timeout": STOP_SECONDS - 5,
        "stop_children": True,
    }


def _services_of(desired: Mapping[str, DesiredState]) -> dict[str, tuple[str, ServedVersion]]:
    """Return the model and version of each service that must run, by the name of the service."""
    return {
        cluster_name(model, each): (model, each) for model, state in desired.items() for each in state.served_versions
    }


def _needed_services_of(desired: Mapping[str, DesiredState]) -> dict[str, tuple[str, ServedVersion]]:
    """Return the services that must run, with those of previous versions that are kept ready for a rollback."""
    return {
        cluster_name(model, each): (model, each) for model, state in desired.items() for each in state.needed_versions
    }


def _main(arguments: list[str]) -> Any:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stopping = threading.Event()
    manager = os.getppid()

    def stop(*_: object) -> None:
        stopping.set()
        if os.getppid() != manager:
            sys.exit()  # the process manager was killed, so a command to it would wait in vain

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    plan = ProcessPlan.model_validate_json(Path(arguments[0]).read_text())
    Reconciler(plan, arguments[1], stopping).run()


if __name__ == "__main__":
    _main(sys.argv[1:])
