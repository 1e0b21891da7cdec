"""Renders the desired states of the models as values of the Helm chart: the models of each domain in a file of its own.

The files are a release: a commit of them is what a pull request reviews and what the cluster then becomes. They are
functions of the desired states alone, so an unchanged state gives the same bytes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from ml_platform.data.names import FULL_NAME
from ml_platform.errors import PlatformError, listed
from ml_platform.serving.desired_state import DesiredState, ServedVersion
from ml_platform.serving.serving_settings import ReplicaSettings, ServingSettings, SettingsOf

CHART = "deploy/helm/ml-platform"
"""Folder of the chart in the repository."""

VALUES_FILE, APPLICATION_FILE = "values.yaml", "application.yaml"
SHARED_FILE, SETTINGS_FILE, PLATFORM_FOLDER = "shared.yaml", "settings.yaml", "ml-platform"
"""Values that people write: for all domains, and for one domain or the platform."""

HEADER = "# Written by `ml-platform render kubernetes` from the desired state; review and commit it, do not edit it.\n"
MAX_NAME = 63
"""Longest name of a Service in Kubernetes."""

Form = Literal["envoy", "kserve"]


class ReleaseFileError(PlatformError):
    """Raised when a desired state cannot be a release for Kubernetes."""


@dataclass(frozen=True)
class GitSource:
    """The Git repository that Argo CD watches: its address, its branch, and the folder of the release in it."""

    address: str
    revision: str
    folder: str


def release_files(
    states: Mapping[str, DesiredState],
    domains: Mapping[str, str],
    settings_of: SettingsOf,
    *,
    form: Form,
    now: float,
    source: GitSource | None = None,
) -> dict[str, str]:
    """Return path → text of the release of ``states`` (model → desired state).

    ``domains`` has the domain of each model, and ``settings_of`` returns the settings of a version. A previous version
    whose time is over at ``now`` (seconds since 1970) is left out. With ``source`` each domain and the platform have an
    application of Argo CD. Raises :class:`ReleaseFileError` for a served model without a domain, or with a name that
    Kubernetes does not allow.
    """
    kept = {model: state.without_ended_previous(now) for model, state in sorted(states.items())}
    kept = {model: state for model, state in kept.items() if state.needed_versions}
    _require_domains(kept, domains)
    _require_names(kept)
    files = {}
    for domain in sorted({domains[model] for model in kept}):
        models = {model: _model(state, settings_of) for model, state in kept.items() if domains[model] == domain}
        values = {"platform": {"enabled": False}, "serving": {"form": form}, "domains": {domain: {"models": models}}}
        files[f"{domain}/{VALUES_FILE}"] = _text(values)
        if source is not None:
            files[f"{domain}/{APPLICATION_FILE}"] = _text(_application(domain, source))
    if source is not None:
        files[f"{PLATFORM_FOLDER}/{APPLICATION_FILE}"] = _text(_application(None, source))
    return files


def value_files(domain: str) -> list[str]:
    """Return the files of values of ``domain`` in the release folder; a later one replaces values of an earlier one."""
    return [SHARED_FILE, f"{domain}/{VALUES_FILE}", f"{domain}/{SETTINGS_FILE}"]


def _application(domain: str | None, source: GitSource) -> dict[str, Any]:
    """Return the application of Argo CD that makes the cluster match the release of ``domain``; None: of the platform.

    It applies each commit, removes what has left the release, and undoes changes by hand, but for the number of
    replicas, which autoscalers set.
    """
    up = "/".join([".."] * len(PurePosixPath(CHART).parts))
    name = "ml-platform" if domain is None else f"models-{domain.replace('_', '-')}"
    files = [SHARED_FILE, f"{PLATFORM_FOLDER}/{SETTINGS_FILE}"] if domain is None else value_files(domain)
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": name, "namespace": "argocd"},
        "spec": {
            "project": "default",
            "source": {
                "repoURL": source.address,
                "targetRevision": source.revision,
                "path": CHART,
                "helm": {
                    "releaseName": name,
                    "valueFiles": [f"{up}/{PurePosixPath(source.folder) / each}" for each in files],
                    "ignoreMissingValueFiles": True,
                },
            },
            "destination": {"server": "https://kubernetes.default.svc", "namespace": "ml-platform"},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True},
                "syncOptions": ["CreateNamespace=true", "RespectIgnoreDifferences=true", "PruneLast=true"],
            },
            "ignoreDifferences": [{"group": "apps", "kind": "Deployment", "jsonPointers": ["/spec/replicas"]}],
        },
    }


def release_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return what differs between two releases (path → text), one line for each changed model, for a commit message."""
    old, new = _routes_of(before), _routes_of(after)
    return [
        f"{model}: {_shares(old.get(model))} → {_shares(new.get(model))}"
        for model in sorted(old.keys() | new.keys())
        if old.get(model) != new.get(model)
    ]


def service_name(model: str, served: ServedVersion) -> str:
    """Return the name of the Service of ``served``, as the chart gives it.

    >>> service_name("credit.default", ServedVersion(version="4", bento="bentos/credit.default/4-ab12"))
    'credit-default-4-ab12'
    """
    return f"{model}-{_bento(served)}".replace("_", "-").replace(".", "-")


def _model(state: DesiredState, settings_of: SettingsOf) -> dict[str, Any]:
    """Return the values of one model in the chart."""
    roles = {"stable": state.stable, "candidate": state.candidate}
    settings = [settings_of(each) for each in roles.values() if each is not None]
    values: dict[str, Any] = {
        "versions": [{"version": each.version, "bento": _bento(each)} for each in state.needed_versions],
        "routes": [
            {"role": role, "version": each.version, "bento": _bento(each), "weight": state.weights.get(role, 0)}
            for role, each in roles.items()
            if each is not None
        ],
        # A route has one limit: a candidate is not judged by a shorter one than it declares.
        "timeoutSeconds": max((each.timeout_seconds for each in settings), default=ServingSettings().timeout_seconds),
    }
    declared = settings[0].replicas if settings else ReplicaSettings()
    if declared != ReplicaSettings():
        values["replicas"] = {"min": declared.min, "max": declared.most, "downSeconds": int(declared.down_seconds)}
    if state.shadow is not None:
        values["shadow"] = _bento(state.shadow)
    if state.successor is not None:
        values["successor"] = {"model": state.successor, "since": state.deprecated_since}
    return values


def _bento(served: ServedVersion) -> str:
    return PurePosixPath(served.bento).name


def _require_domains(states: Mapping[str, DesiredState], domains: Mapping[str, str]) -> None:
    unknown = sorted(states.keys() - domains.keys())
    if unknown:
        raise ReleaseFileError(
            "Release for Kubernetes",
            expected="a declared domain for each served model",
            found=f"none for {listed(unknown)}",
            fix="Declare the model again, or end it: ml-platform model retire. A release without it would stop it.",
        )


def _require_names(states: Mapping[str, DesiredState]) -> None:
    owners: dict[str, str] = {}
    for model, state in states.items():
        for served in state.needed_versions:
            name = service_name(model, served)
            if not re.fullmatch(FULL_NAME, model) or len(name) > MAX_NAME or owners.setdefault(name, model) != model:
                raise ReleaseFileError(
                    f"Release for Kubernetes, model '{model}'",
                    expected=f"a name of a Service of its own with at most {MAX_NAME} characters",
                    found=f"'{name}' ({len(name)} characters) of '{owners.get(name, model)}'",
                    fix="Rename the model: ml-platform model rename.",
                )


def _text(values: Mapping[str, Any]) -> str:
    import yaml

    return HEADER + yaml.safe_dump(dict(values), sort_keys=False, width=120)


def _routes_of(files: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    import yaml

    values = [yaml.safe_load(text) for path, text in files.items() if path.endswith(f"/{VALUES_FILE}")]
    models = [domain["models"] for each in values for domain in each["domains"].values()]
    return {model: state["routes"] for each in models for model, state in each.items()}


def _shares(routes: list[dict[str, Any]] | None) -> str:
    return " + ".join(f"version {each['version']} ({each['weight']} %)" for each in routes or []) or "none"
