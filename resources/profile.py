"""The active profile: where the stores of a home are.

`local` keeps everything in the home. `cluster` uses Postgres, an object store and Valkey, as its settings say.
Addresses contain passwords, so they are computed where a store is opened, and never stored or shown.
"""

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

from ml_platform.errors import PlatformError, did_you_mean, listed
from resources.cluster_settings import PREFIX, ClusterSettings, ClusterSettingsError, cluster_settings, settings_file
from resources.home import ARTIFACT_ROOT, Home

PROFILE_VARIABLE = "ML_PLATFORM_PROFILE"
STATE_VARIABLE = "ML_PLATFORM_STATE"
"""Environment variable with the address of a Postgres store, such as ``postgresql+psycopg://host/state``."""

ONLINE_VARIABLE = "ML_PLATFORM_ONLINE"
"""Environment variable with the folder or the address of the online store."""

STUDIES_VARIABLE = "ML_PLATFORM_STUDIES"
"""Environment variable with the address of the database of the searches for settings."""

Profile = Literal["local", "cluster"]


class ProfileError(PlatformError):
    """Raised for an unknown profile."""


@dataclass(frozen=True)
class Locations:
    """Where the stores of a home are: folders, or addresses with their passwords, which its text leaves out.

    ``lake_options`` are the options of object_store, ``dagster`` is the address of a Postgres database or None for the
    folder of the home, and ``studies`` is empty for files of the home.
    """

    state: str = field(repr=False)
    lake: str
    lake_options: dict[str, str] = field(repr=False)
    online: str = field(repr=False)
    studies: str = field(repr=False)
    tracking: str = field(repr=False)
    artifacts: str
    dagster: str | None = field(repr=False)


def active_profile() -> Profile:
    """Return the profile that the environment names; raises :class:`ProfileError` for an unknown one."""
    name = os.environ.get(PROFILE_VARIABLE) or "local"
    known = get_args(Profile)
    if name not in known:
        raise ProfileError(
            PROFILE_VARIABLE,
            expected=listed(known),
            found=f"'{name}'",
            fix=f"Set one of the profiles, or unset the variable for 'local'.{did_you_mean(name, known)}",
        )
    return cast("Profile", name)


def locations(home: Home) -> Locations:
    """Return where the stores of ``home`` are under the active profile.

    Raises :class:`ProfileError` for an unknown profile, and under `cluster`
    :class:`~resources.cluster_settings.ClusterSettingsError` for wrong or contradictory settings and
    :class:`~resources.secret_reference.SecretError` for a secret that is not where its reference says.
    """
    if active_profile() == "local":
        return Locations(
            state=os.environ.get(STATE_VARIABLE) or str(home.state),
            lake=str(home.lake),
            lake_options={},
            online=os.environ.get(ONLINE_VARIABLE) or str(home.online),
            studies=os.environ.get(STUDIES_VARIABLE, ""),
            tracking=home.tracking_uri,
            artifacts=ARTIFACT_ROOT,
            dagster=None,
        )
    settings = active_settings()
    found = Locations(
        state=settings.postgres.url("state", "psycopg"),
        lake=settings.object_store.lake,
        lake_options=settings.object_store.options(),
        online=settings.valkey.url(),
        studies=settings.postgres.url("studies", "psycopg"),
        tracking=settings.mlflow.address or settings.postgres.url("mlflow", "psycopg"),
        artifacts=settings.object_store.artifacts,
        dagster=settings.postgres.url("dagster", "psycopg2"),
    )
    own = {STATE_VARIABLE: found.state, ONLINE_VARIABLE: found.online, STUDIES_VARIABLE: found.studies}
    for name, location in own.items():
        if os.environ.get(name, location) != location:
            raise ClusterSettingsError(
                f"{PROFILE_VARIABLE}=cluster",
                expected=f"{name} unset: the settings of the profile name this store",
                found="the address of another store in it",
                fix=f"Unset {name}, or set the store in {settings_file()}.",
            )
    return found


def active_settings() -> ClusterSettings:
    """Return the settings of the profile `cluster`; the file is read again when it was changed."""
    file = settings_file()
    changed = file.stat().st_mtime_ns if file.exists() else 0
    values = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(PREFIX)))
    return _settings_of(file, changed, values)


@lru_cache(maxsize=4)
def _settings_of(_file: Path, _changed: int, _values: tuple[tuple[str, str], ...]) -> ClusterSettings:
    return cluster_settings()
