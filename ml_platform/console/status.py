"""What stands now: data clock, champions, what serves at which weight, the last decisions."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from ml_platform.data.landing import Landing
from resources.home import Home


def status(home: Home) -> dict[str, Any]:
    """Return the state of every model that has a champion or a wanted state, and the data clock (ISO 8601, or None)."""
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.championship import CHAMPION_KIND, current
    from ml_platform.serving.status import read_status
    from ml_platform.serving.wanted import all_wanted

    audit = AuditLog(home.records / "audit.jsonl")
    wanted = all_wanted(home.serving)
    serving = read_status(home.run / "status.json")
    names = sorted({record.facts["model"] for record in audit.records(CHAMPION_KIND)} | set(wanted))
    models: dict[str, Any] = {}
    for name in names:
        champion = current(audit, name)
        state = wanted.get(name)
        served = serving.models.get(name) if serving else None
        models[name] = {
            "champion": None
            if champion is None
            else {
                "version": champion.version,
                "metrics": _metrics(home, champion.verdict),
                "manifest": dict(champion.manifest),
            },
            "serving": {
                "stable": state.stable.version if state and state.stable else None,
                "candidate": state.candidate.version if state and state.candidate else None,
                "weights": state.weights if state else {},
                "generation": state.generation if state else 0,
            },
            "endpoint": served.endpoint if served else None,
        }
    return {"data_clock": data_clock(home), "models": models, "decisions": decisions(home)}


def data_clock(home: Home) -> str | None:
    """Return the end of the newest landed month, in the zone in which its dataset counts months."""
    from ml_platform.components.dataset import Dataset
    from ml_platform.console.materialize import components
    from ml_platform.data.partitions import month_bounds

    landing = Landing(home.landing)
    ends = [
        month_bounds(landed[-1], dataset.partitions.time_zone)[1]
        for dataset in components(Dataset)
        if dataset.partitions is not None and (landed := landing.partitions(dataset.name))
    ]
    return max(ends).isoformat() if ends else None


def decisions(home: Home, most: int = 5) -> list[dict[str, Any]]:
    """Return the last ``most`` records of the audit log, newest first."""
    from ml_platform.registry.audit import AuditLog

    records = list(AuditLog(home.records / "audit.jsonl").records())[-most:]
    return [
        {"at": record.at.isoformat(), "kind": record.kind, "by": record.actor, **_short(record.facts)}
        for record in reversed(records)
    ]


def show(found: dict[str, Any], console: Console) -> None:
    """Print what :func:`status` returned, for people."""
    console.print(f"Data clock: {found['data_clock'] or 'nothing has landed yet'}")
    table = Table("model", "champion", "auc", "log loss", "stable", "weights", "generation", "endpoint")
    for name, model in found["models"].items():
        champion, serving = model["champion"] or {}, model["serving"]
        metrics = champion.get("metrics", {})
        table.add_row(
            name,
            str(champion.get("version", "none")),
            f"{metrics['auc']:.4f}" if "auc" in metrics else "",
            f"{metrics['log_loss']:.4f}" if "log_loss" in metrics else "",
            serving["stable"] or "none",
            json.dumps(serving["weights"]),
            str(serving["generation"]),
            model["endpoint"] or "not up",
        )
    console.print(table)
    for decision in found["decisions"]:
        console.print(
            f"  {decision['at'][:19]}  {decision['kind']:<10} {decision.get('model', '')}  by {decision['by']}"
        )


def _metrics(home: Home, verdict: str | None) -> dict[str, float]:
    """Return the metrics that the evaluation recorded beside the verdict of a champion."""
    path = home.records / "metrics" / f"{verdict}.json"
    return json.loads(path.read_text()) if verdict and path.exists() else {}


def _short(facts: Any) -> dict[str, Any]:
    return {name: facts[name] for name in ("model", "version", "partition", "decision", "reason") if name in facts}
