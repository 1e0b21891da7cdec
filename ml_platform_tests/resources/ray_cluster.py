"""A Ray cluster on this machine: a head without processors, and nodes that are killed with all their processes."""

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ml_platform.serving.processes import free_port
from ml_platform_tests.polling import until

PROGRAM = Path(sys.executable).parent / "ray"
COMMON = ["--block", "--disable-usage-stats", "--object-store-memory=80000000", "--node-ip-address=127.0.0.1"]


class RayCluster:
    """The processes of a cluster; ``folder`` has a short path, because Ray makes sockets there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port, dashboard, client, *self._agents = (free_port() for _ in range(9))
        self.address = f"http://127.0.0.1:{dashboard}"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._start(
            "head",
            "--head",
            f"--port={self._port}",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}",
            f"--temp-dir={folder}",
            "--num-cpus=0",
        )
        until(lambda: self.nodes() is not None, 120)

    def add(self, name: str) -> None:
        """Start a node with one processor and the resource `trainer`, and wait until the cluster has it."""
        resources = json.dumps({"trainer": 1})
        self._start(name, f"--address=127.0.0.1:{self._port}", "--num-cpus=1", f"--resources={resources}")
        expected = len(self._nodes)
        until(lambda: len(self.nodes() or []) == expected, 120)

    def kill(self, name: str) -> None:
        """End all processes of the node ``name`` at once."""
        process = self._nodes.pop(name)
        node = psutil.Process(process.pid)
        processes = [node, *node.children(recursive=True)]
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        psutil.wait_procs(processes, 30)

    def stop(self) -> None:
        """End all processes of the cluster."""
        for name in list(self._nodes):
            self.kill(name)

    @property
    def names(self) -> set[str]:
        """The names of the started nodes."""
        return set(self._nodes)

    def jobs(self) -> list[Any]:
        """Return the submitted jobs."""
        with urllib.request.urlopen(f"{self.address}/api/jobs/", timeout=30) as answer:
            found: list[Any] = json.load(answer)
        return found

    def nodes(self) -> list[Any] | None:
        """Return the nodes that are alive, or None while the dashboard does not answer."""
        try:
            with urllib.request.urlopen(f"{self.address}/nodes?view=summary", timeout=10) as answer:
                found = json.load(answer)["data"]["summary"]
        except OSError:
            return None
        return [each for each in found if each["raylet"].get("state") == "ALIVE"]

    def _start(self, name: str, *arguments: str) -> None:
        listen, grpc = self._agents.pop(), self._agents.pop()
        ports = [f"--dashboard-agent-listen-port={listen}", f"--dashboard-agent-grpc-port={grpc}"]
        with (self.folder.parent / f"{name}.log").open("wb") as log:
            self._nodes[name] = subprocess.Popen(
                [str(PROGRAM), "start", *arguments, *ports, *COMMON],
                stdout=log,
                stderr=log,
                env={**os.environ, "RAY_NODE": name},
            )
