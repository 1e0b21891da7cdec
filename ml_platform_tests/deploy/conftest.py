"""Helm, and the schemas of Kubernetes, from the environment of `make kubernetes`."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_platform_tests.deploy.kubernetes_schemas import KubernetesSchemas

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".venv" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "ml-platform"

Objects = list[dict[str, Any]]
Render = Callable[..., Objects]


def tool(name: str) -> Path:
    """Return the program ``name`` of `make kubernetes`; without it, the test skips."""
    program = TOOLS / "bin" / name
    if not program.is_file():
        pytest.skip(f"{name} is not installed: make kubernetes")
    return program


def finished(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``command`` and return how it ended, with its output as text."""
    return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def schemas() -> KubernetesSchemas:
    tool("helm")
    (folder,) = TOOLS.glob("lib/python3*/site-packages/kubernetes_validate/kubernetes-json-schema")
    return KubernetesSchemas(folder)


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Return the function that renders the chart with values; equal values are rendered once."""
    helm, folder = tool("helm"), tmp_path_factory.mktemp("values")
    rendered: dict[str, Objects] = {}

    def render(values: Mapping[str, Any] | None = None) -> Objects:
        text = json.dumps(values or {}, sort_keys=True)
        if text not in rendered:
            file = folder / f"{len(rendered)}.json"
            file.write_text(text)
            completed = finished(helm, "template", "release", CHART, "--namespace", "platform", "--values", file)
            assert completed.returncode == 0, completed.stderr
            loaded = yaml.load_all(completed.stdout, yaml.CSafeLoader)
            rendered[text] = [each for each in loaded if each]
        return rendered[text]

    return render
