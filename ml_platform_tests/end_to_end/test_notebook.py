"""The notebook of the tutorials runs unchanged on the home of the demo, and its function moves into the domain."""

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from ml_platform_tests.conftest import DemoHome
from ml_platform_tests.end_to_end.checkout import BIN, Checkout
from resources.home import Home

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "explore-in-a-notebook.ipynb"
GUARD = """
import ipaddress, os, sys

def refuse_network(event, arguments):
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[-1], tuple):
        host = arguments[-1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    try:
        inside = host in (None, "", b"", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        with open(os.environ["REFUSED"], "a") as file:
            print(host, file=file)
        raise PermissionError(f"a connection to {host} from the kernel")

sys.addaudithook(refuse_network)
"""
"""Python runs this as `sitecustomize` at the start of the kernel and of every process that the kernel starts."""

VALUES = """
import json

print(json.dumps({
    "flights": june.scan().select(pl.len()).collect().item(),
    "weather": weather_then.to_dicts(),
    "tested": parts.counts["test_rows"],
    "scored": scored.select("label", "score").to_dict(as_series=False),
    "versions": [comparison.first.version, comparison.second.version],
    "facts": both.select("wind_speed", "wind_speed_stored").collect().to_dict(as_series=False),
    "unchanged": unchanged.metrics_table().to_dicts(),
    "changed": changed.metrics_table().to_dicts(),
    "computed": [each.computed for each in changed],
}))
"""
OUTSIDE = """
import socket

try:
    socket.create_connection(("192.0.2.1", 80))
except PermissionError:
    print("refused")
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Executed:
    """The cells of the notebook after it ran, the values of its names, and the refused hosts."""

    cells: list[NotebookNode]
    values: dict[str, Any]
    refused: str

    def source(self, cell_id: str) -> str:
        (found,) = [cell for cell in self.cells if cell["id"] == cell_id]
        return str(found["source"])


@pytest.fixture(scope="module")
def executed(demo_home: DemoHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executed]:
    """Run the notebook in its folder, and then a cell that prints values and one that leaves the machine."""
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "sitecustomize.py").write_text(GUARD)
    environment = {
        **os.environ,
        "ML_PLATFORM_HOME": str(demo_home.root),
        "PYTHONPATH": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
        "REFUSED": str(folder / "refused"),
    }
    content = nbformat.read(NOTEBOOK, as_version=4)
    content.cells += [nbformat.v4.new_code_cell(source) for source in (VALUES, OUTSIDE)]
    # The path of a socket is short, and that of a test's folder is not.
    with tempfile.TemporaryDirectory(prefix="kernel-") as sockets, pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", sockets)
        patch.setenv("JUPYTER_DATA_DIR", str(folder / "jupyter"))  # kernels of this environment alone
        where = {"metadata": {"path": str(NOTEBOOK.parent)}}
        client = NotebookClient(content, timeout=800, startup_timeout=180, resources=where)
        client.create_kernel_manager()
        assert client.km is not None
        client.km.transport, client.km.ip = "ipc", f"{sockets}/kernel"
        client.execute(env=environment)
    *shown, values, outside = content.cells
    assert printed(outside) == "refused\n"  # else the guard would find nothing
    yield Executed(shown, json.loads(printed(values)), (folder / "refused").read_text())
    shutil.rmtree(folder)


def printed(cell: NotebookNode) -> str:
    return "".join(output["text"] for output in cell["outputs"] if output.get("name") == "stdout")


def test_notebook_shows_tables_features_and_the_champion_of_the_demo(executed: Executed, demo_home: DemoHome) -> None:
    values = executed.values
    assert values["flights"] == 28_243  # of June in the package of the data
    assert [each["origin"] for each in values["weather"]] == ["EWR", "JFK", "LGA"]
    assert all(each["weather__age_minutes"] >= 60 for each in values["weather"])
    assert len(values["scored"]["score"]) == values["tested"] > 25_000
    scored = pl.DataFrame(values["scored"])
    by_score = scored.sort("score")["label"]
    assert by_score.tail(2_000).mean() > 2 * scored["label"].mean() > 8 * by_score.head(2_000).mean()  # type: ignore[operator] # not null
    assert f"{len(scored):,} flights" in demo_home.printed
    assert values["versions"] == [1, 1]
    assert [cell["id"] for cell in executed.cells if cell["cell_type"] == "code" and not cell["outputs"]] == [
        "changed-feature",
        "close-session",
    ]


def test_changed_feature_of_the_notebook_is_evaluated(executed: Executed) -> None:
    facts = pl.DataFrame(executed.values["facts"])
    assert facts.height == 72  # three airports, 24 hours
    assert (facts["wind_speed"] >= facts["wind_speed_stored"].cast(pl.Float32) - 1e-3).all()
    assert (facts["wind_speed"] > facts["wind_speed_stored"] + 1).any()
    assert executed.values["computed"] == [["weather"]]
    (loss,) = [row for row in executed.values["changed"] if row["metric"] == "log_loss"]
    assert loss["low"] < loss["improvement"] < loss["high"]
    assert loss["trial"] != next(row["trial"] for row in executed.values["unchanged"] if row["metric"] == "log_loss")


def test_kernel_reaches_nothing_beyond_this_machine(executed: Executed) -> None:
    assert executed.refused.split() == ["192.0.2.1"]  # the cell of the test


def test_function_that_moved_into_the_domain_is_tried_as_it_was(
    executed: Executed, demo_home: DemoHome, tmp_path: Path
) -> None:
    checkout = Checkout(tmp_path, Home(demo_home.root))
    (checkout.root / ".venv").symlink_to(BIN.parent)
    prose = executed.source("about-moving")
    module = re.search(r"the new module `(assets/[\w/]+\.py)`", prose)
    declared = re.search(r"in place of `([\w.:]+)`:\s+`function: ([\w.:]+)`", prose)
    assert module is not None
    assert declared is not None
    (checkout.root / module[1]).write_text(executed.source("changed-feature"))
    declarations = checkout.root / "assets/aviation/features/defs.yaml"
    change(declarations, f"function: {declared[1]}\n", f"function: {declared[2]}\n")
    # The fit of the notebook, so that its numbers must come out again.
    quick = re.search(r"^quick = (.*)$", executed.source("try-change"), flags=re.MULTILINE)
    assert quick is not None
    settings = json.dumps(json.loads(quick[1])["lightgbm"]["settings"])
    model = checkout.root / "assets/aviation/departure_risk/defs.yaml"
    change(model, "      trainer: lightgbm\n", f"      trainer: lightgbm\n      settings: {settings}\n")
    (commands,) = re.findall(r"^```\n(.*?)^```", prose, flags=re.MULTILINE | re.DOTALL)

    check, trial = (shlex.split(line) for line in commands.splitlines())
    assert check == [".venv/bin/dg", "check", "defs"]  # test_dg_verbs.py runs it
    (found,) = json.loads(checkout.run(*trial, "--json", seconds=600))

    assert (found["champion"], found["computed"]) == (1, ["weather"])
    tried = {each["metric"]: each["second"]["value"] for each in found["metrics"]}
    assert tried == {row["metric"]: row["trial"] for row in executed.values["changed"]}


def change(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))
