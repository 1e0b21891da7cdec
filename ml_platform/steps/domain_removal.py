"""The end of a whole domain: of all that a home serves and stores for it after its folder was deleted.

The state store remembers which domain declared each dataset, view and model, because a deleted declaration cannot say.
"""

from collections.abc import Mapping, Sequence

from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.registry.approvals import require_decider
from ml_platform.state.cursors import cursors_below, write_cursor
from ml_platform.state.store import StateStore
from ml_platform.steps.lifecycle import (
    LifecycleDecision,
    LifecycleStep,
    removal_of_dataset,
    removal_of_tables,
    retirement_of_model,
)
from ml_platform.steps.orphans import DeclaredNames, Orphan, orphans
from ml_platform.steps.platform_stores import PlatformStores

DOMAINS = "domains/"
"""Cursors below this name have the domain of a declaration: ``domains/datasets/orders`` → ``sales``."""

AREAS: Mapping[str, str] = {"model": "models", "dataset": "datasets"}
"""Kind of an orphan → the area of its name; the name of a table begins with its area."""


class DomainRemovalError(PlatformError):
    """Raised when a domain must not end, or left nothing."""


def remember_domains(state: StateStore, declared: Mapping[str, str]) -> None:
    """Record the domain of each declaration, given by area and name like ``features/shops``; equal ones stay."""
    known = cursors_below(state, DOMAINS)
    for name, domain in declared.items():
        if domain and known.get(name) != domain:
            write_cursor(state, DOMAINS + name, domain)


def removal_of_domain(
    domain: str,
    stores: PlatformStores,
    decision: LifecycleDecision,
    declared: DeclaredNames,
    domains: Sequence[str],
    also: Sequence[str] = (),
) -> list[LifecycleStep]:
    """Return the steps that end all that ``domain`` left: services and champions, then tables and datasets.

    ``domains`` are the domains that exist. ``also`` names orphans like ``features/shops`` whose domain is not known,
    because their declarations were deleted before it was recorded. Each step has its own audit record.
    Raises :class:`DomainRemovalError` for a domain that exists, for a name in ``also`` that is no orphan, and for a
    domain that left nothing, and :class:`~ml_platform.registry.approvals.ApprovalError` without a name and a reason.
    """
    require_decider(f"Removal of the domain '{domain}'", decision.by, decision.reason)
    if domain in domains:
        raise DomainRemovalError(
            f"Domain '{domain}'",
            expected="a domain whose folder was deleted",
            found=f"the folder assets/{domain}",
            fix="Delete the folder first; otherwise the next run makes everything again.",
        )
    found = {_name(each): each for each in orphans(stores.state, declared)}
    if unknown := [name for name in also if name not in found]:
        raise DomainRemovalError(
            f"Names {listed(unknown)}",
            expected=f"what has no declaration: {listed(found, 20)}",
            found="no such orphan",
            fix=f"Correct the name; `ml-platform status` lists the orphans.{did_you_mean(unknown[0], found)}",
        )
    owners = cursors_below(stores.state, DOMAINS)
    own = [
        each
        for name, each in found.items()
        if owners.get(_view_of(name)) == domain or name.partition("/")[2].startswith(f"{domain}.") or name in also
    ]
    if not own and domain not in owners.values():
        raise DomainRemovalError(
            f"Domain '{domain}'",
            expected=f"a domain that this home knows: {listed(sorted(set(owners.values())))}",
            found="nothing of that domain",
            fix=f"Correct the name, or list the orphans with --also.{did_you_mean(domain, owners.values())}",
        )
    return [step for each in own for step in _end(each, stores, decision, declared)]


def _name(orphan: Orphan) -> str:
    return f"{AREAS[orphan.kind]}/{orphan.name}" if orphan.kind in AREAS else orphan.name


def _view_of(name: str) -> str:
    """Return the declaration to which the tables ``name`` belong: last facts are those of a view."""
    area, _, rest = name.partition("/")
    return f"features/{rest}" if area == "online" else name


def _end(
    orphan: Orphan, stores: PlatformStores, decision: LifecycleDecision, declared: DeclaredNames
) -> list[LifecycleStep]:
    if orphan.kind == "model":
        return retirement_of_model(orphan.name, stores, decision)
    if orphan.kind == "dataset":
        return removal_of_dataset(orphan.name, stores.lake, stores.audit, decision, declared)
    return removal_of_tables(orphan.name, stores.lake, stores.audit, decision, declared)
