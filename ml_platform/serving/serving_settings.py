"""The attribute `serving` of a model: the process of its versions, its time limit, and the streams that it answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from ml_platform.data.settings import Settings
from ml_platform.errors import listed
from ml_platform.serving.desired_state import ServedVersion
from ml_platform.serving.streams.kinds import DeclaredStream

MAX_REPLICAS = 64

MAX_TIMEOUT_SECONDS = 60
"""A gateway that is replaced waits a little longer than this for the answers under way."""


class Constant(Settings):
    """An answer that is given without a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    constant: float = Field(allow_inf_nan=False, description="Score of every row.")


class ReplicaSettings(Settings):
    """Number of equal processes of one version, between which the gateway distributes the requests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int = Field(default=1, ge=1, le=MAX_REPLICAS, description="Replicas that always run.")
    max: int | None = Field(
        default=None, ge=1, le=MAX_REPLICAS, description="Replicas at high load; null: as many as always."
    )
    target: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Share of the requests that the replicas take at once (48 each), above which one more starts.",
    )
    up_seconds: float = Field(default=10, ge=1, description="Time over which the load must be above the target.")
    down_seconds: float = Field(
        default=120, ge=1, description="Time over which one replica less must be enough, before one stops."
    )

    @model_validator(mode="after")
    def _most_is_not_least(self) -> Self:
        if self.most < self.min:
            raise ValueError(f"max: expected at least min ({self.min}), found {self.max}")
        return self

    @property
    def most(self) -> int:
        """Replicas that run at most."""
        return self.min if self.max is None else self.max


class ServingSettings(Settings):
    """How the versions of a model run. A bento carries them, so a change takes effect with the next bento.

    The streams belong to the endpoint instead, and take effect with the next rollout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    isolation: Literal["process", "shared"] = Field(
        default="process",
        description="process: each version imports its code and libraries itself; shared: versions with equal code and "
        "libraries run in worker processes of one host, which share this memory.",
    )
    warm: bool = Field(
        default=True,
        description="Whether the model stays loaded. false, with isolation shared: it may be unloaded when "
        "ML_PLATFORM_MAX_LOADED others are in use, and its next request loads it again.",
    )
    timeout_seconds: float = Field(
        default=10,
        ge=0.1,
        le=MAX_TIMEOUT_SECONDS,
        description="Time after which the gateway answers a request with 504, which counts as an error of the version "
        "that did not answer. Requests of lines are answered as long as answers come.",
    )
    log_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the requests that the prediction log keeps, for very high rates; each kept prediction "
        "has the weight 1 / share.",
    )
    streams: tuple[DeclaredStream, ...] = Field(
        default=(), description="Streams whose requests the endpoint answers while the platform runs."
    )
    fallback: Literal["unavailable", "previous"] | Constant = Field(
        default="unavailable",
        description="Answer while no version that should answer is healthy. unavailable: 503 with Retry-After; "
        "previous: that of the version before, as long as it is kept ready for a rollback; constant: this score, "
        "marked as degraded.",
    )

    replicas: ReplicaSettings = Field(
        default=ReplicaSettings(), description="Processes of each version, so that one can end and nobody waits."
    )

    @property
    def of_version(self) -> dict[str, Any]:
        """The settings that a bento carries; empty for the defaults."""
        declared = self.model_dump(exclude={"streams"})
        return {} if declared == ServingSettings().model_dump(exclude={"streams"}) else declared

    @model_validator(mode="after")
    def _streams_fit(self) -> Self:
        """Two consumers of one name would share the requests, and each answer a part of them."""
        found = [each.consumer for each in self.streams]
        twice = sorted({name for name in found if found.count(name) > 1})
        if twice:
            raise ValueError(f"streams: the consumer {listed(twice)} is declared twice; each stream needs its own")
        for each in self.streams:
            if each.timeout_seconds <= self.timeout_seconds:
                raise ValueError(
                    f"streams: timeout_seconds of '{each.requests}', {each.timeout_seconds:g}, is not above that of "
                    f"the endpoint, {self.timeout_seconds:g}: a request that hangs would be repeated for ever"
                )
        return self


SettingsOf = Callable[[ServedVersion], ServingSettings]
"""Returns the settings of a version."""


def default_settings(_: ServedVersion) -> ServingSettings:
    """Return the settings of a version whose bento declares none."""
    return ServingSettings()


class BentoSettings:
    """Returns the settings of versions whose bentos are below ``root``; the defaults for one without a readable file.

    Each file is read once, because bentos do not change.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[str, ServingSettings] = {}

    def __call__(self, served: ServedVersion) -> ServingSettings:
        if served.bento not in self._read:
            settings = _read_settings(self._root / served.bento)
            if settings is None:
                return ServingSettings()
            self._read[served.bento] = settings
        return self._read[served.bento]


def _read_settings(bento: Path) -> ServingSettings | None:
    try:
        package = json.loads((bento / "src" / "package.json").read_bytes())
        return ServingSettings.model_validate(package.get("serving", {}))
    except (OSError, ValueError):
        return None
