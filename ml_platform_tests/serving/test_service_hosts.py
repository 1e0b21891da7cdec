"""The hosts of the reconciler, with a stand-in for the process manager; `test_shared_services.py` runs real ones."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bento.host_plan import PLAN_FILE, STATUS_FILE, HostedService, HostPlan, HostStatus
from ml_platform.serving.desired_state import ServedVersion
from ml_platform.serving.marked_processes import PROCESS_VARIABLE
from ml_platform.serving.service_hosts import HOSTS_FOLDER, ServiceHosts
from ml_platform.serving.serving_settings import BentoSettings, ServingSettings


class ProcessManager:
    """Keeps the names of the processes that it runs."""

    def __init__(self) -> None:
        self.watchers: list[str] = []
        self.marks: list[str] = []

    def send(self, command: str, **properties: Any) -> dict[str, Any]:
        if command == "add":
            self.watchers.append(properties["name"])
            self.marks.append(properties["options"]["env"][PROCESS_VARIABLE])
        if command == "rm":
            self.watchers.remove(properties["name"])
        return {"watchers": self.watchers}


class Hosts:
    def __init__(self, root: Path) -> None:
        self.root, self.manager = root, ProcessManager()
        self.hosts = self.restarted()

    def restarted(self) -> ServiceHosts:
        """Return hosts that remember nothing, as after a crash of the reconciler."""
        return ServiceHosts(self.root, self.root, self.manager.send, "host.", max_loaded=3)

    def add(self, name: str, code: str = "1") -> None:
        bento = self.root / name
        (bento / "src" / "bento").mkdir(parents=True, exist_ok=True)
        (bento / "src" / "bento" / "host.py").write_text(code)
        (bento / "src" / "package.json").write_text(json.dumps({"requirements": [], "model": name}))
        service = HostedService(name=name, bento=bento, port_file=self.root / "port", log=self.root / "log")
        self.hosts.add(service, online="online", environment={}, options={})

    @property
    def plans(self) -> list[list[str]]:
        """The services of each plan."""
        files = (self.root / HOSTS_FOLDER / str(os.getppid())).glob(f"*/{PLAN_FILE}")
        plans = [HostPlan.model_validate_json(file.read_text()) for file in files]
        assert all((plan.max_loaded, plan.online) == (3, "online") for plan in plans)
        return sorted([each.name for each in plan.services] for plan in plans)


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


def test_services_of_equal_code_share_a_host(hosts: Hosts) -> None:
    for name, code in (("a", "1"), ("b", "1"), ("c", "2")):
        hosts.add(name, code)
    assert hosts.plans == [["a", "b"], ["c"]]
    assert len(hosts.manager.watchers) == 2
    assert hosts.manager.marks == hosts.manager.watchers
    assert hosts.hosts.services(hosts.manager.watchers) == {"a", "b", "c"}


def test_host_stops_with_its_last_service(hosts: Hosts) -> None:
    for name in ("a", "b"):
        hosts.add(name)
    assert hosts.hosts.remove("a")
    assert (hosts.plans, len(hosts.manager.watchers)) == ([["b"]], 1)
    assert hosts.hosts.remove("b")
    assert (hosts.plans, hosts.manager.watchers) == ([], [])
    assert not hosts.hosts.remove("b")


def test_killed_reconciler_starts_the_host_whose_plan_it_had_written(hosts: Hosts) -> None:
    hosts.add("a")
    hosts.manager.watchers.clear()  # as if it was killed between the plan and the command
    hosts.hosts = hosts.restarted()
    assert hosts.hosts.services(hosts.manager.watchers) == set()
    hosts.add("a")
    assert (hosts.plans, len(hosts.manager.watchers)) == ([["a"]], 1)
    hosts.hosts = hosts.restarted()
    assert hosts.hosts.services(hosts.manager.watchers) == {"a"}


def test_folders_of_an_earlier_run_stay_until_its_hosts_have_ended(hosts: Hosts) -> None:
    folders = {}
    for pid in (os.getpid(), 2**22 + 1):  # Linux has no process of the second number
        folder = folders[pid] = hosts.root / HOSTS_FOLDER / f"1{pid}" / "abc"
        folder.mkdir(parents=True)
        (folder / STATUS_FILE).write_text(HostStatus(pid=pid, services={}).model_dump_json())
    hosts.add("a")
    hosts.hosts = hosts.restarted()
    assert [folder.exists() for folder in folders.values()] == [True, False]
    assert hosts.plans == [["a"]]


def test_bento_without_a_host_or_readable_settings_has_the_defaults(tmp_path: Path) -> None:
    assert not ServiceHosts.accepts(tmp_path)
    served = ServedVersion(version="1", bento=tmp_path.name)
    settings_of = BentoSettings(tmp_path.parent)
    assert settings_of(served) == ServingSettings()
    (tmp_path / "src").mkdir()
    package = tmp_path / "src" / "package.json"
    for text in ("{", "{}", '{"serving": {"isolation": "moon"}}'):
        package.write_text(text)
        assert BentoSettings(tmp_path.parent)(served) == ServingSettings(isolation="process", warm=True)
    package.write_text('{"serving": {"isolation": "shared", "warm": false}}')
    for _ in range(2):
        assert settings_of(served) == ServingSettings(isolation="shared", warm=False)
        package.unlink(missing_ok=True)
