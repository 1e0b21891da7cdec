"""Runs the services that share memory: one host for each code, whose plan has its services.

A plan is a file, so the reconciler can be killed at any line and the next pass continues. Each run of the platform has
folders of its own, because the hosts of a killed run serve until the new ones do.
"""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from bento.host_plan import PLAN_FILE, STATUS_FILE, HostedService, HostPlan, HostStatus
from ml_platform.data.atomic import write_text
from ml_platform.serving.bento_digest import DIGEST_DIGITS, code_digest
from ml_platform.serving.marked_processes import PROCESS_VARIABLE

logger = logging.getLogger("reconcile")

HOSTS_FOLDER = "hosts"
HOST_MODULE = Path("src", "bento", "host.py")


class ServiceHosts:
    """The hosts of a process manager, under names that begin with ``prefix``; their folders are in ``run``.

    ``send`` sends a command to the manager. ``max_loaded`` is that of each host's plan.
    """

    def __init__(
        self, run: Path, logs: Path, send: Callable[..., Any], prefix: str, max_loaded: int | None = None
    ) -> None:
        self._hosts, self._logs, self._send, self._prefix = run / HOSTS_FOLDER, logs, send, prefix
        self._max_loaded = max_loaded
        self._folder = self._hosts / str(os.getppid())
        self._remove_ended_runs()

    @staticmethod
    def accepts(bento: Path) -> bool:
        """Return whether ``bento`` has the code of a host, which those of earlier releases lack."""
        return (bento / HOST_MODULE).is_file()

    def services(self, watchers: Collection[str]) -> set[str]:
        """Return the names of the services in hosts that are among the processes ``watchers`` of the manager."""
        return {
            service.name
            for folder, plan in self._plans()
            if self._watcher(folder) in watchers
            for service in plan.services
        }

    def add(self, service: HostedService, *, online: str, environment: Mapping[str, str], options: Any) -> None:
        """Run ``service`` in the host of its code, which starts if it does not run."""
        code = code_digest(service.bento)
        folder = self._folder / code[:DIGEST_DIGITS]
        plan = _read_plan(folder) or HostPlan(code=code, online=online)
        others = [each for each in plan.services if each.name != service.name]
        folder.mkdir(parents=True, exist_ok=True)
        _write_plan(folder, plan.model_copy(update={"services": [*others, service], "max_loaded": self._max_loaded}))
        name = self._watcher(folder)
        if name not in self._send("list")["watchers"]:
            log = self._logs / f"host.{folder.name}.log"
            self._send(
                "add",
                name=name,
                cmd=sys.executable,
                args=["-m", "ml_platform.serving.host_server", str(folder), str(log)],
                options={**options, "env": {**environment, PROCESS_VARIABLE: name}},
                start=True,
            )
            logger.info("started host %s", folder.name)

    def remove(self, name: str) -> bool:
        """Stop the service ``name`` and return True; False when no host runs it. A host without services stops."""
        for folder, plan in self._plans():
            kept = [each for each in plan.services if each.name != name]
            if len(kept) == len(plan.services):
                continue
            if kept:
                _write_plan(folder, plan.model_copy(update={"services": kept}))
            else:
                self._send("rm", name=self._watcher(folder), waiting=True)
                (folder / PLAN_FILE).unlink()
            return True
        return False

    def _watcher(self, folder: Path) -> str:
        return f"{self._prefix}{folder.name}"

    def _plans(self) -> Iterator[tuple[Path, HostPlan]]:
        for file in sorted(self._folder.glob(f"*/{PLAN_FILE}")):
            if (plan := _read_plan(file.parent)) is not None:
                yield file.parent, plan

    def _remove_ended_runs(self) -> None:
        for run in self._hosts.glob("*"):
            if run != self._folder and not any(_runs(file) for file in run.glob(f"*/{STATUS_FILE}")):
                shutil.rmtree(run, ignore_errors=True)


def _read_plan(folder: Path) -> HostPlan | None:
    file = folder / PLAN_FILE
    return HostPlan.model_validate_json(file.read_bytes()) if file.is_file() else None


def _write_plan(folder: Path, plan: HostPlan) -> None:
    write_text(folder / PLAN_FILE, plan.model_dump_json(indent=2))


def _runs(status_file: Path) -> bool:
    try:
        return psutil.pid_exists(HostStatus.model_validate_json(status_file.read_bytes()).pid)
    except (OSError, ValueError):
        return False
