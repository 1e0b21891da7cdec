"""The settings of a domain, a folder directly below `assets/`, in its optional `domain.yaml`."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, listed

DOMAIN_FILE = "domain.yaml"

Owner = Annotated[str, Field(pattern=r"^(team:[\w.-]+|[^@\s]+@[^@\s]+)$")]


class DomainError(PlatformError):
    """Raised for an invalid `domain.yaml`, and for a name that means nothing in a domain."""


class Budget(Settings):
    """A limit of the cost of the fits of a domain."""

    per_month: float = Field(
        gt=0,
        description="Cost of all fits of a calendar month (UTC), by the prices in params.yaml, from which no sensor or "
        "schedule trains a model of the domain; a person still can.",
    )


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
    budget: Budget | None = Field(default=None, description="A limit of the cost of the fits; none: no limit.")


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
    pools: dict[str, int] = {}
    for file in sorted(root.glob(f"*/{DOMAIN_FILE}")):
        try:
            slots = read_domain(file.parent).concurrent_fits
        except DomainError:
            continue  # the domain does not load, and shows the error
        if slots is not None:
            pools[fits_pool(file.parent.name)] = slots
    return pools
