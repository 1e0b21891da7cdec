"""Decides which versions of a model cleaning must keep, and why: by aliases, decisions of people, and releases."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from ml_platform.registry.approvals import APPROVAL_KIND, DECISION_KEY
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import RETIRE, ChampionRecord, champion_history
from ml_platform.registry.dvc_release import RELEASE_FILE

RELEASES = "releases"


def protected_versions(
    audit: AuditLog,
    model: str,
    *,
    aliases: Mapping[str, int],
    repository: Path,
    champions_since: datetime | None,
) -> dict[int, str]:
    """Return the numbers of the versions of ``model`` that must stay, each with the reason.

    These are versions with an alias (champion, previous, challenger, or one that a person set), the champion and its
    predecessor in the audit log, champions that were replaced after ``champions_since`` (None: all), versions that a
    person approved and nobody rejected, and the version in the release folder of ``repository``.
    """
    history = champion_history(audit, model)
    reasons = {
        version: "released" for name in (model, *audit.former_names(model)) for version in _released(repository, name)
    }
    reasons |= dict.fromkeys(_approved(audit, model), "approved")
    reasons |= dict.fromkeys(_recent_champions(history, champions_since), "former champion")
    reasons |= {version: alias for alias, version in aliases.items()}
    if history and history[-1].action != RETIRE:
        if history[-1].previous_version is not None:
            reasons[history[-1].previous_version] = "previous champion"
        reasons[history[-1].version] = "champion"
    return reasons


def champion_versions(audit: AuditLog, model: str) -> set[int]:
    """Return the numbers of all versions of ``model`` that were ever champion."""
    return {record.version for record in champion_history(audit, model)}


def _recent_champions(history: Sequence[ChampionRecord], since: datetime | None) -> set[int]:
    ends = [(record.version, later.since) for record, later in pairwise(history)]
    return {version for version, end in ends if since is None or end >= since}


def _approved(audit: AuditLog, model: str) -> set[int]:
    """Return the versions that a person approved and that nobody rejects, by the last decision of each person."""
    decisions: dict[int, dict[str, str]] = {}
    for record in audit.records(APPROVAL_KIND, model):
        decisions.setdefault(int(record.facts["version"]), {})[record.actor.casefold()] = record.facts[DECISION_KEY]
    return {version for version, last in decisions.items() if set(last.values()) == {"approve"}}


def _released(repository: Path, model: str) -> set[int]:
    path = repository / RELEASES / model / RELEASE_FILE
    return {int(json.loads(path.read_bytes())["version"])} if path.exists() else set()
