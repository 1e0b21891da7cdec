"""The list of the doctor's checks in their order, their execution, and the output for people and for programs."""

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ml_platform.console.doctor import home_state, installation, machine, services
from ml_platform.console.doctor.finding import Finding, State, Subject, failed

CHECKS: Mapping[str, Callable[[Subject], Finding]] = {
    "Python": installation.python_version,
    "compiled code": installation.compiled_code,
    "packages": installation.locked_versions,
    "domains": installation.domains,
    "accelerator": installation.accelerator,
    "disk": machine.free_disk,
    "memory": machine.memory,
    "ports": machine.ports,
    "clock": machine.clock,
    "time zones": machine.time_zones,
    "profile": services.profile,
    "postgres": services.postgres,
    "object store": services.object_store,
    "valkey": services.valkey,
    "mlflow": services.tracking_server,
    "home": home_state.home_version,
    "access": home_state.access,
    "databases": home_state.databases,
    "tracking": home_state.tracking_store,
    "audit log": home_state.audit_log,
    "desired states": home_state.desired_states,
    "streams": home_state.streams,
    "tables": home_state.lake_tables,
    "orphans": home_state.undeclared,
}

STYLES: Mapping[State, tuple[str, str]] = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}


def diagnose(subject: Subject, checks: Mapping[str, Callable[[Subject], Finding]] = CHECKS) -> dict[str, Finding]:
    """Return the finding of each of ``checks`` by its name, in their order. Nothing is created or changed."""
    return {name: _finding_of(check, subject) for name, check in checks.items()}


def has_failed(findings: Mapping[str, Finding]) -> bool:
    """Return whether any check failed; warnings do not count."""
    return any(finding.state == "failed" for finding in findings.values())


def as_json(findings: Mapping[str, Finding]) -> dict[str, object]:
    """Return ``findings`` for programs: ``ok``, and one object per check with its state, finding and fix."""
    checks = [
        {"check": name, "state": finding.state, "found": finding.found, "fix": finding.fix}
        for name, finding in findings.items()
    ]
    return {"ok": not has_failed(findings), "checks": checks}


def show(findings: Mapping[str, Finding], console: Console) -> None:
    """Print one line per check with its fix below, then the numbers of failures and warnings."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, finding in findings.items():
        mark, style = STYLES[finding.state]
        text = Text(finding.found, overflow="fold")
        if finding.fix:
            text.append(f"\n{finding.fix}", style="bold")
        table.add_row(Text(f"{mark} {finding.state}", style=style), name, text)
    console.print(table)
    counts = {state: sum(each.state == state for each in findings.values()) for state in ("failed", "warning")}
    console.print(
        f"{len(findings)} checks: {counts['failed']} failed, {counts['warning']} with a warning.", highlight=False
    )


def _finding_of(check: Callable[[Subject], Finding], subject: Subject) -> Finding:
    try:
        return check(subject)
    except Exception as error:  # a check may crash on a broken machine, and the other checks must still run
        return failed(
            f"the check could not run: {type(error).__name__}: {error}", "Correct the cause, then run doctor again."
        )
