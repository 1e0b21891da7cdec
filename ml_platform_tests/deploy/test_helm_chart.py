"""The Helm chart: every rendered object is valid, hardened, and names only what exists."""

import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from bento.metrics import Metrics
from ml_platform.cli import app
from ml_platform_tests.deploy.conftest import CHART, ROOT, Objects, Render, finished, tool
from ml_platform_tests.deploy.kubernetes_schemas import KubernetesSchemas
from resources.cluster_settings import ClusterSettings
from resources.profiles import REPOSITORY

FORMS = ("envoy", "kserve", "platform")

STABLE = {"role": "stable", "version": "4", "bento": "4-aaaa", "weight": 90}
CANDIDATE = {"role": "candidate", "version": "5", "bento": "5-bbbb", "weight": 10}
DOMAINS: dict[str, Any] = {
    "aviation": {
        "models": {
            "departure_risk": {
                "versions": [{"version": each["version"], "bento": each["bento"]} for each in (STABLE, CANDIDATE)],
                "routes": [STABLE, CANDIDATE],
                "shadow": "5-bbbb",
                "successor": {"model": "delay_risk", "since": 1700000000},
                "timeoutSeconds": 7.5,
                "replicas": {"min": 2, "max": 6},
                "predictionLog": {"claimName": "home"},
            }
        }
    },
    "credit": {
        "quota": {"pods": "9"},
        "models": {
            "credit.default": {
                "gpus": 1,
                "versions": [{"version": "1", "bento": "1-cccc"}],
                "routes": [{"role": "stable", "version": "1", "bento": "1-cccc", "weight": 100}],
                "replicas": {"min": 1, "max": 3},
                "autoscaling": {"kind": "hpa"},
            }
        },
    },
}
FULL: dict[str, Any] = {
    "domains": DOMAINS,
    "gateway": {"hostname": "models.example.org", "certificateSecret": "models-tls"},
    "jobs": {"backup": {"target": "s3://company/backups"}},
    "networkPolicies": {"peopleFrom": [{"podSelector": {"matchLabels": {"app": "oauth2-proxy"}}}]},
    "ray": {
        "enabled": True,
        "jobs": [{"name": "fit_risk", "select": "departure_risk/candidates", "partitions": "2013-06", "gpus": 1}],
    },
}


def with_form(form: str) -> dict[str, Any]:
    return {**FULL, "serving": {"form": form}}


def of_kind(objects: Objects, kind: str) -> Objects:
    found = [each for each in objects if each["kind"] == kind]
    assert found, f"no {kind}"  # a loop over nothing would pass
    return found


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    return found


def pods(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the specification of each pod."""
    places = {
        "Deployment": ["spec", "template", "spec"],
        "Job": ["spec", "template", "spec"],
        "CronJob": ["spec", "jobTemplate", "spec", "template", "spec"],
        "InferenceService": ["spec", "predictor"],
    }
    for each in objects:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] in places:
            yield name, reduce(lambda value, key: value[key], places[each["kind"]], each)
        if each["kind"] == "RayCluster":
            spec = each["spec"]
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                yield name, group["template"]["spec"]


def containers(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods(objects):
        for each in (*pod["containers"], *pod.get("initContainers", [])):
            yield f"{name} {each['name']}", each


@pytest.fixture(scope="session")
def everything(render: Render) -> Objects:
    return [each for form in FORMS for each in render(with_form(form))]


def test_lint_finds_nothing() -> None:
    completed = finished(tool("helm"), "lint", "--strict", CHART)
    assert completed.returncode == 0, completed.stdout


@pytest.mark.parametrize("values", [{}, *map(with_form, FORMS)], ids=["defaults", *FORMS])
def test_every_object_is_valid(render: Render, schemas: KubernetesSchemas, values: Mapping[str, Any]) -> None:
    objects = render(values)
    assert len(objects) > 15
    assert schemas.problems(objects) == []


def test_wrong_objects_are_found(schemas: KubernetesSchemas) -> None:
    metadata = {"name": "x"}
    pod = {"containers": [{"name": "a", "imagee": "b"}], "canaryTrafficPercent": "ten"}
    wrong = [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": "x"}]}},
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": metadata,
            "spec": {"predictor": pod},
        },
        {"apiVersion": "example.org/v1", "kind": "Unknown", "metadata": metadata},
    ]
    found = "\n".join(schemas.problems(wrong))
    for expected in (
        "ports.0.port",
        "'imagee' was unexpected",
        "canaryTrafficPercent: 'ten'",
        "no schema of example.org/v1",
    ):
        assert expected in found


def test_an_unknown_value_is_refused() -> None:
    completed = finished(
        tool("helm"), "template", "release", CHART, "--set", "serving.form=knative,webservers.replicas=3"
    )
    assert completed.returncode != 0
    assert "webservers" in completed.stderr
    assert "/serving/form" in completed.stderr


def test_no_object_has_two_definitions(render: Render) -> None:
    for form in FORMS:
        keys = [
            (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
            for each in render(with_form(form))
        ]
        assert len(keys) == len(set(keys))


# Hardening.


def test_every_container_runs_without_privileges(everything: Objects) -> None:
    for name, each in containers(everything):
        security = each["securityContext"]
        assert security["readOnlyRootFilesystem"], name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
    for name, pod in pods(everything):
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name


def test_every_container_requests_resources_and_limits_memory(everything: Objects) -> None:
    for name, each in containers(everything):
        assert {"cpu", "memory"} <= each["resources"]["requests"].keys(), name
        assert "memory" in each["resources"]["limits"], name


def test_every_server_has_probes(everything: Objects) -> None:
    for name, pod in pods(everything):
        for each in pod["containers"]:
            if each.get("ports"):
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= each.keys(), name


def test_secrets_are_references(everything: Objects) -> None:
    assert [each for each in everything if each["kind"] == "Secret"] == []
    settings = yaml.safe_load(of_kind(everything, "ConfigMap")[0]["data"]["cluster.yaml"])
    assert settings["postgres"]["password"] == {"file": "/var/run/secrets/ml-platform/postgres-password"}
    for name, each in containers(everything):
        for variable in each.get("env", []):
            assert "valueFrom" in variable or "PASSWORD" not in variable["name"], name


def test_only_components_with_several_pods_have_a_disruption_budget(render: Render) -> None:
    names = {each["metadata"]["name"] for each in of_kind(render(with_form("envoy")), "PodDisruptionBudget")}
    assert names == {
        "release-ml-platform-webserver",
        "release-ml-platform-mlflow",
        "departure-risk-4-aaaa",
        "departure-risk-5-bbbb",
    }


# Names in the objects exist.


def test_commands_exist(everything: Objects) -> None:
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    scripts = Path(importlib.util.find_spec("dagster").origin).parents[4] / "bin"  # type: ignore[union-attr, arg-type]
    seen = set()
    for name, each in containers(everything):
        command = each.get("command")
        if not command:
            continue
        if command[0] == "sh":
            command = shlex.split(command[-1].partition("exec ")[2])
        program, *arguments = command
        seen.add(program)
        if program == "ml-platform":
            assert arguments[0] in verbs, name
        elif program == "python":
            assert importlib.util.find_spec(arguments[arguments.index("-m") + 1]), name
        else:
            assert (scripts / program).is_file(), name
    assert seen == {"ml-platform", "python", "dagster", "dagster-webserver", "dagster-daemon"}


def test_module_of_a_code_location_exists(render: Render) -> None:
    command = named(render(), "Deployment", "release-ml-platform-code-ml-platform")["spec"]["template"]["spec"][
        "containers"
    ][0]["command"]
    module = command[command.index("-m") + 1]
    workspace = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    assert module == workspace["module_name"]
    assert command[command.index("--location-name") + 1] == workspace["location_name"]


def test_workspace_names_the_services_of_the_code_locations(render: Render) -> None:
    objects = render({"codeLocations": [{"name": "one", "module": "a"}, {"name": "two_b", "module": "b", "gpus": 1}]})
    workspace = yaml.safe_load(of_kind(objects, "ConfigMap")[0]["data"]["workspace.yaml"])
    servers = [each["grpc_server"] for each in workspace["load_from"]]
    assert [each["location_name"] for each in servers] == ["one", "two_b"]
    for server in servers:
        (port,) = named(objects, "Service", server["host"])["spec"]["ports"]
        assert port["port"] == server["port"]


def test_cluster_settings_are_those_of_the_profile(render: Render) -> None:
    text = of_kind(render(), "ConfigMap")[0]["data"]["cluster.yaml"]
    settings = ClusterSettings.model_validate(yaml.safe_load(text))
    assert settings.mlflow.address == "http://release-ml-platform-mlflow:5000"
    assert settings.object_store.lake == "s3://ml-platform/lake"


def test_steps_with_compute_find_the_ray_cluster(render: Render) -> None:
    objects = render(with_form("envoy"))
    (cluster,) = of_kind(objects, "RayCluster")
    settings = ClusterSettings.model_validate(yaml.safe_load(of_kind(objects, "ConfigMap")[0]["data"]["cluster.yaml"]))
    # KubeRay names the Service of the head after the cluster.
    assert settings.ray.address == f"http://{cluster['metadata']['name']}-head-svc:8265"
    without = yaml.safe_load(of_kind(render(), "ConfigMap")[0]["data"]["cluster.yaml"])
    assert ClusterSettings.model_validate(without).ray.address == ""


def test_services_lead_to_ports_of_pods(render: Render) -> None:
    for form in FORMS:
        objects = render(with_form(form))
        for service in of_kind(objects, "Service"):
            selector = service["spec"]["selector"].items()
            found = [
                each["spec"]["template"]
                for each in of_kind(objects, "Deployment")
                if selector <= each["spec"]["template"]["metadata"]["labels"].items()
                and each["metadata"]["namespace"] == service["metadata"]["namespace"]
            ]
            assert len(found) == 1, service["metadata"]["name"]
            ports = {port["name"] for each in found[0]["spec"]["containers"] for port in each.get("ports", [])}
            assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports


def test_volumes_of_mounts_are_declared(everything: Objects) -> None:
    for name, pod in pods(everything):
        declared = {each["name"] for each in pod["volumes"]}
        for each in (*pod["containers"], *pod.get("initContainers", [])):
            assert {mount["name"] for mount in each["volumeMounts"]} <= declared, name


# Models.


def test_a_route_divides_requests_as_desired(render: Render) -> None:
    route = named(render(with_form("envoy")), "HTTPRoute", "departure-risk")
    (rule,) = route["spec"]["rules"]
    assert [(each["name"], each["weight"]) for each in rule["backendRefs"]] == [
        ("departure-risk-4-aaaa", 90),
        ("departure-risk-5-bbbb", 10),
    ]
    assert [each["path"]["value"] for each in rule["matches"]] == ["/v1/departure_risk", "/v2/models/departure_risk"]
    assert rule["timeouts"] == {"request": "7500ms"}
    mirror, headers = rule["filters"]
    assert mirror["requestMirror"]["backendRef"] == {"name": "departure-risk-5-bbbb", "port": 80}
    assert headers["responseHeaderModifier"]["set"][0] == {"name": "deprecation", "value": "@1700000000"}


def test_routes_lead_to_services_of_their_namespace(render: Render) -> None:
    objects = render(with_form("envoy"))
    services = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in of_kind(objects, "Service")}
    for route in of_kind(objects, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for each in rule["backendRefs"]:
                assert (route["metadata"]["namespace"], each["name"]) in services


def test_gateway_accepts_routes_of_the_namespaces_of_domains(render: Render) -> None:
    objects = render(with_form("envoy"))
    (gateway,) = of_kind(objects, "Gateway")
    (listener,) = gateway["spec"]["listeners"]
    wanted = listener["allowedRoutes"]["namespaces"]["selector"]["matchLabels"].items()
    assert listener["tls"]["certificateRefs"] == [{"kind": "Secret", "name": "models-tls"}]
    assert all(wanted <= each["metadata"]["labels"].items() for each in of_kind(objects, "Namespace"))


def test_canary_of_kserve_has_the_weight_of_the_candidate(render: Render) -> None:
    objects = render(with_form("kserve"))
    predictor = named(objects, "InferenceService", "departure-risk")["spec"]["predictor"]
    assert predictor["canaryTrafficPercent"] == 10
    assert predictor["containers"][0]["image"] == "registry.internal/bentos/departure_risk:5-bbbb"
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 6)
    alone = named(objects, "InferenceService", "credit-default")["spec"]["predictor"]
    assert "canaryTrafficPercent" not in alone


def test_keda_scales_by_request_rate_and_latency(render: Render) -> None:
    scaled = named(render(with_form("envoy")), "ScaledObject", "departure-risk-5-bbbb")["spec"]
    rate, latency = scaled["triggers"]
    assert 'ml_platform_request_seconds_count{model="departure_risk",version="5"}' in rate["metadata"]["query"]
    assert latency["metadata"]["query"].startswith("histogram_quantile(0.99")
    assert (rate["metadata"]["threshold"], latency["metadata"]["threshold"]) == ("200", "0.1")
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 6)
    deployment = named(render(with_form("envoy")), "Deployment", "departure-risk-5-bbbb")
    assert "replicas" not in deployment["spec"]  # else each release would undo the scaling


def test_hpa_takes_the_place_of_keda(render: Render) -> None:
    objects = render(with_form("envoy"))
    scaler = named(objects, "HorizontalPodAutoscaler", "credit-default-1-cccc")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (1, 3)
    assert [each["metadata"]["name"] for each in of_kind(objects, "ScaledObject")] == [
        "departure-risk-4-aaaa",
        "departure-risk-5-bbbb",
    ]


def test_gpus_bring_their_node(render: Render) -> None:
    objects = render(with_form("envoy"))
    pod = named(objects, "Deployment", "credit-default-1-cccc")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"] == {"ml-platform/accelerator": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    other = named(objects, "Deployment", "departure-risk-4-aaaa")["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in other["containers"][0]["resources"]["limits"]
    assert "nodeSelector" not in other


def test_each_domain_has_a_quota_and_policies_of_its_own(render: Render) -> None:
    objects = render(with_form("envoy"))
    quotas = {each["metadata"]["namespace"]: each["spec"]["hard"]["pods"] for each in of_kind(objects, "ResourceQuota")}
    assert quotas == {"ml-aviation": "60", "ml-credit": "9"}
    for namespace in quotas:
        policies = {
            each["metadata"]["name"]: each["spec"]
            for each in of_kind(objects, "NetworkPolicy")
            if each["metadata"]["namespace"] == namespace
        }
        assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        domain = namespace.removeprefix("ml-")
        assert policies["models"]["podSelector"] == {"matchLabels": {"ml-platform/domain": domain}}


def test_a_release_of_one_domain_has_nothing_of_the_platform(render: Render) -> None:
    objects = render({"platform": {"enabled": False}, "domains": {"aviation": DOMAINS["aviation"]}})
    namespaces = {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"}
    assert namespaces == {"ml-aviation"}


# Metrics.


def test_rules_of_the_chart_are_those_of_prometheus() -> None:
    assert (CHART / "files" / "rules.yml").read_bytes() == (ROOT / "deploy/prometheus/rules.yml").read_bytes()


def test_rules_of_the_own_gateway_need_it(render: Render) -> None:
    def alerts(form: str) -> set[str]:
        (rules,) = of_kind(render(with_form(form)), "PrometheusRule")
        return {each.get("alert", "") for group in rules["spec"]["groups"] for each in group["rules"]} - {""}

    assert "GatewayDown" in alerts("platform")
    assert alerts("platform") - alerts("envoy") == {"GatewayDown", "ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly"}
    assert "PredictionLogFails" in alerts("kserve")


def test_queries_name_metrics_of_the_services(render: Render) -> None:
    metrics = Metrics("model", "1")
    metrics.count_error("bug")
    known = {
        sample.name for family in text_string_to_metric_families(metrics.page().decode()) for sample in family.samples
    }
    rules = yaml.safe_load((CHART / "files" / "service-rules.yml").read_text())["groups"]
    queries = [each["expr"] for group in rules for each in group["rules"]]
    for scaled in of_kind(render(with_form("envoy")), "ScaledObject"):
        queries += [each["metadata"]["query"] for each in scaled["spec"]["triggers"]]
    names = {name for query in queries for name in re.findall(r"\bml_platform_\w+", query)}
    assert len(names) >= 4
    assert names <= known


def test_promtool_accepts_the_rules_of_services() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    completed = finished(promtool, "check", "rules", CHART / "files" / "service-rules.yml")
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_monitors_select_what_serves_metrics(render: Render) -> None:
    objects = render(with_form("envoy"))
    (monitor,) = of_kind(objects, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [each for each in of_kind(objects, "Service") if wanted <= each["metadata"]["labels"].items()]
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "ml_platform"
    assert {each["port"] for each in monitor["spec"]["endpoints"]} == {
        each["name"] for each in service["spec"]["ports"]
    }


def test_ray_job_is_a_command_with_its_resources(render: Render) -> None:
    job = named(render(with_form("envoy")), "RayJob", "release-ml-platform-fit-risk")["spec"]
    assert shlex.split(job["entrypoint"]) == [
        *("ml-platform", "materialize", "--select", "departure_risk/candidates", "--partitions", "2013-06")
    ]
    assert (job["entrypointNumCpus"], job["entrypointNumGpus"]) == (1, 1)
    cluster = named(render(with_form("envoy")), "RayCluster", job["clusterSelector"]["ray.io/cluster"])["spec"]
    gpu = next(each for each in cluster["workerGroupSpecs"] if each["groupName"] == "gpu")
    assert gpu["rayStartParams"] == {"num-gpus": "1"}
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.slow
def test_checkov_finds_nothing_in_manifests_terraform_and_dockerfiles(everything: Objects, tmp_path: Path) -> None:
    different = {json.dumps(each, sort_keys=True): each for each in everything}
    items = list(different.values())
    (tmp_path / "chart.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    folders = [tmp_path, ROOT / "deploy" / "terraform", ROOT / "deploy" / "docker"]
    given = [part for folder in folders for part in ("--directory", folder)]
    frameworks = ["--framework", "kubernetes", "terraform", "dockerfile"]
    completed = finished(tool("checkov"), "--config-file", ROOT / ".checkov.yaml", *given, *frameworks)
    assert completed.returncode == 0, completed.stdout
    # The output repeats the results of the earlier folders for each further one.
    assert len(set(re.findall(r"Passed checks: [1-9]\d+, Failed checks: 0", completed.stdout))) == 3
