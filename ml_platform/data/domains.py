"""The settings of a domain, a folder directly below `assets/`, in its optional `domain.yaml`."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, listed

DOMAIN_FILE = "domain.yaml"

Owner = Annotated[str, Field(pattern=r"^(team:[\w.-]+|[^@\s]+@[^@\s]+)$")]


class DomainError(PlatformError):
    """Raised for an invalid `domain.yaml`, and for a name that means nothing in a domain."""


class Budget(Settings):
    """Limits of the cost of all steps of a domain in a calendar month (UTC).

    From a limit on, no sensor or schedule trains a model of the domain; a person still can.
    """

    per_month: float | None = Field(
        default=None, gt=0, description="Cost of a calendar month (UTC), by the prices in params.yaml; none: no limit."
    )
    cpu_hours_per_month: float | None = Field(
        default=None, gt=0, description="Processor time of a calendar month (UTC) in hours; none: no limit."
    )
    warn_at: float = Field(default=0.8, gt=0, le=1, description="Share of a limit from which an alert warns.")

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.per_month is None and self.cpu_hours_per_month is None:
            raise ValueError("a budget needs per_month, cpu_hours_per_month or both")
        return self


class DomainSettings(Settings):
    """The settings of a domain."""

    namespace: bool = Field(
        default=False,
        description="Whether the names of datasets, views and models belong to the domain: their full names are "
        "<domain>.<name>, and other domains write <domain>/<name>.",
    )
    owners: list[Owner] = Field(
        default_factory=list,
        description="Responsible people or teams of all declarations that name none: team:<name> or an e-mail address.",
    )
    concurrent_fits: int | None = Field(
        default=None,
        ge=1,
        description="Fits of the domain that run at the same time, in its pool <domain>_fits; none: as many as runs. "
        "Fits on a GPU are in the pool gpu.",
    )
    share: float = Field(
        default=1.0,
        gt=0,
        description="Weight of the domain in the queue of launched runs: while several domains wait, one with 2 gets "
        "twice the slots of one with 1.",
    )
    budget: Budget | None = Field(default=None, description="Limits of the monthly cost of all steps; none: no limit.")


def read_domain(folder: Path) -> DomainSettings:
    """Return the settings in `domain.yaml` of ``folder``, or the defaults; raises :class:`DomainError` if invalid."""
    file = folder / DOMAIN_FILE
    if not file.is_file():
        return DomainSettings()
    try:
        return DomainSettings.model_validate(yaml.safe_load(file.read_text()) or {})
    except (yaml.YAMLError, ValidationError) as error:
        found = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DomainError(
            f"{folder.name}/{DOMAIN_FILE}",
            expected=f"the settings of a domain: {listed(DomainSettings.model_fields)}",
            found=found,
            fix="Correct the file.",
        ) from error


def fits_pool(domain: str) -> str:
    """Return the pool that limits the concurrent fits of ``domain``."""
    return f"{domain}_fits"


def declared_pools(root: Path) -> dict[str, int]:
    """Return pool → slots of the domains in ``root``; a `domain.yaml` that is invalid leaves its domain out."""
    declared = _declared_settings(root).items()
    return {fits_pool(name): found.concurrent_fits for name, found in declared if found.concurrent_fits is not None}


def declared_shares(root: Path) -> dict[str, float]:
    """Return the weights by domain in ``root``; a domain without a valid `domain.yaml` has none."""
    return {name: found.share for name, found in _declared_settings(root).items()}


def declared_budgets(root: Path) -> dict[str, Budget]:
    """Return the budgets by domain in ``root``; a `domain.yaml` that is invalid leaves its domain out."""
    return {name: found.budget for name, found in _declared_settings(root).items() if found.budget is not None}


def _declared_settings(root: Path) -> dict[str, DomainSettings]:
    found = {}
    for file in sorted(root.glob(f"*/{DOMAIN_FILE}")):
        with suppress(DomainError):  # the domain does not load, and shows the error
            found[file.parent.name] = read_domain(file.parent)
    return found
