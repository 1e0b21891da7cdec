"""The attribute `serving` of a model: the process that its versions run in, and when they are loaded."""

import json
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from ml_platform.data.settings import Settings


class ServingSettings(Settings):
    """How the versions of a model run. A bento carries them, so a change takes effect with the next bento."""

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

    @property
    def is_default(self) -> bool:
        return self == ServingSettings()


def serving_settings_of(bento: Path) -> ServingSettings:
    """Return the settings that ``bento`` carries; the defaults for one without any, or without a readable file."""
    try:
        package = json.loads((bento / "src" / "package.json").read_bytes())
        return ServingSettings.model_validate(package.get("serving", {}))
    except (OSError, ValueError):
        return ServingSettings()
