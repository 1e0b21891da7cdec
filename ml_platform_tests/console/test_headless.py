"""A platform without people starts no server for them, and loads its code once."""

from pathlib import Path

import pytest
import yaml

from ml_platform.console.services import headless_workspace, platform_processes
from resources.home import Home
from resources.profiles import REPOSITORY


def names(home: Home, *, headless: bool) -> set[str]:
    return {each.name for each in platform_processes(home, REPOSITORY, headless=headless).processes}


def test_headless_leaves_out_the_servers_for_people(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert names(home, headless=False) - names(home, headless=True) == {"webserver", "mlflow", "reports"}
    assert names(home, headless=True) == {"rollout_guard", "daemon", "code_server"}


def test_daemon_and_code_server_share_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home(Path("h"))
    plan = {each.name: each.command for each in platform_processes(home, REPOSITORY, headless=True).processes}
    if "code_server" not in plan:
        pytest.skip("the folder of temporary files is too deep for a socket")
    (server,) = yaml.safe_load((home.run / "workspace.yaml").read_text())["load_from"]
    assert server["grpc_server"]["socket"] in plan["code_server"]
    assert str(home.run / "workspace.yaml") in plan["daemon"]


def test_in_a_deep_home_the_daemon_loads_the_code_itself(tmp_path: Path) -> None:
    home = Home(tmp_path / ("deep" * 30))
    assert headless_workspace(home, REPOSITORY) == REPOSITORY / "workspace.yaml"
    assert names(home, headless=True) == {"rollout_guard", "daemon"}
