"""Takes over from a run that was killed: its gateway and its services go on until the new ones serve.

The new services start beside the old ones. The gateway keeps its clusters and routes until the reconciler replaces
them one by one, and a service of the earlier run ends when no gateway knows it and no request is under way there.
"""

import json
import signal
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ml_platform.serving.desired_state import DesiredState
from ml_platform.serving.gateway import Gateway
from ml_platform.serving.gateway_admin import query_gateway
from ml_platform.serving.gateway_clusters import clusters_of, read_clusters, services_of_cluster
from ml_platform.serving.gateway_process import ADMIN_SECONDS, gateways_of, server_info
from ml_platform.serving.marked_processes import (
    BRIDGE,
    SERVICE_PREFIX,
    is_alive,
    process_name,
    processes_of,
    signal_process,
)
from ml_platform.serving.serving_settings import SettingsOf, default_settings

APPLIED_FILE = "applied.json"
"""The desired states whose routes the gateway loaded last, by model."""


@dataclass
class EarlierRun:
    """Gateways, services and bridges of an earlier run that still serve, and the ports that they listen on."""

    gateways: list[psutil.Process]
    gateway_ports: set[int]
    services: list[psutil.Process]
    ports: set[int]
    bridges: list[psutil.Process] = field(default_factory=list)
    _unused: set[psutil.Process] = field(default_factory=set)

    @classmethod
    def find(cls, run: Path, gateway: Gateway) -> "EarlierRun":
        """Return what serves in ``run``: the gateways if one answers, and the services that ``gateway`` routes to."""
        gateways = gateways_of(run) if server_info(gateway.folder) is not None else []
        known = {port for ports in read_clusters(gateway.folder).values() for port in ports}
        own = processes_of(run)
        marked = [each for each in own if process_name(each).startswith(SERVICE_PREFIX)]
        ports = {each: found for each in marked if (found := known & listening_ports(each))}
        # A service may be the child of a process that started several ones and listens nowhere.
        started_by = {parent for each in ports for parent in _parent_ids(each)}
        services = [each for each in marked if each in ports or each.pid in started_by]
        gateway_ports = {port for each in gateways for port in listening_ports(each)}
        # The next bridge ends this one.
        bridges = [each for each in own if process_name(each) == BRIDGE] if gateway.grpc else []
        return cls(gateways, gateway_ports, services, {port for found in ports.values() for port in found}, bridges)

    @property
    def processes(self) -> list[psutil.Process]:
        """All its processes."""
        return [*self.gateways, *self.services, *self.bridges]

    def serving(
        self, run: Path, gateway: Gateway, settings_of: SettingsOf = default_settings
    ) -> tuple[dict[str, DesiredState], set[str]]:
        """Return the applied states of the models whose services all go on, and the clusters of services that do.

        ``settings_of`` returns the settings of a version. A cluster of several services needs only its first one.
        """
        if not self.ports:
            return {}, set()
        stored = read_clusters(gateway.folder)
        alive = {name for name, ports in stored.items() if self.ports & set(ports)}
        clusters = {name for name in stored if services_of_cluster(name)[0] in alive}
        try:
            applied = applied_states(run)
        except ValueError:
            applied = {}  # another release wrote it; the models start
        serving = {
            model: state
            for model, state in applied.items()
            if state.served_versions and clusters >= clusters_of(model, state, settings_of)
        }
        return serving, clusters

    def retire(self, gateway: Gateway) -> None:
        """End each service that no request can reach any more; call it from time to time.

        An old gateway ends when its successor tells it to. Until then it may use the old services as long as clients
        are connected to it.
        """
        self.gateways = [each for each in self.gateways if is_alive(each)]
        self.services = [each for each in self.services if is_alive(each)]
        if not self.services or any(_has_connections(each, self.gateway_ports) for each in self.gateways):
            return
        try:
            known = _ports_of_gateway(gateway.folder)
        except (OSError, ValueError):
            return  # it starts, or it restarts
        unused = {each for each in self.services if self._is_unused(each, known)}
        # A process ends its own children, so it ends when none of them is used either.
        used_by = {parent for each in self.services if each not in unused for parent in _parent_ids(each)}
        unused = {each for each in unused if each.pid not in used_by}
        pids = {each.pid for each in self.services}
        # Twice in a row, since a request may have been on its way.
        for process in unused & self._unused:
            if not pids & _parent_ids(process):
                signal_process(process, signal.SIGTERM)
        self._unused = unused

    @staticmethod
    def _is_unused(service: psutil.Process, known: Collection[int]) -> bool:
        ports = listening_ports(service)
        return not ports & set(known) and not _has_connections(service, ports)


def applied_states(run: Path) -> dict[str, DesiredState]:
    """Return the states whose routes the gateway of ``run`` loaded last."""
    path = run / APPLIED_FILE
    stored = json.loads(path.read_text()) if path.exists() else {}
    return {model: DesiredState.model_validate(state) for model, state in stored.items()}


def _ports_of_gateway(folder: Path) -> set[int]:
    """Return the ports of the services that the gateway has loaded."""
    dump = json.loads(query_gateway(folder, "/clusters?format=json", seconds=ADMIN_SECONDS))
    return {
        host["address"]["socket_address"]["port_value"]
        for cluster in dump.get("cluster_statuses", [])
        if cluster.get("added_via_api")
        for host in cluster.get("host_statuses", [])
    }


def _connections(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections("tcp"))
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return []


def connected_ports(ports: Collection[int]) -> set[int]:
    """Return those of the local ``ports`` at which a connection stands."""
    connections = psutil.net_connections("tcp")
    found = {each.laddr.port for each in connections if each.laddr and each.status == psutil.CONN_ESTABLISHED}
    return found & set(ports)


def listening_ports(process: psutil.Process) -> set[int]:
    return {each.laddr.port for each in _connections(process) if each.status == psutil.CONN_LISTEN}


def _has_connections(process: psutil.Process, ports: Collection[int]) -> bool:
    """Return whether connections to ``process`` stand at its ``ports``."""
    return any(each.status == psutil.CONN_ESTABLISHED and each.laddr.port in ports for each in _connections(process))


def _parent_ids(process: psutil.Process) -> set[int]:
    try:
        return {each.pid for each in process.parents()}
    except psutil.NoSuchProcess:
        return set()
