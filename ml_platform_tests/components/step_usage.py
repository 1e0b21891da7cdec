"""The metadata of a materialization without what its step used, which differs from run to run."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ml_platform.training.resource_usage import ResourceUsage

USAGE = {each.name for each in fields(ResourceUsage)}


def without_usage(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``metadata`` without the values of :data:`USAGE`."""
    return {name: value for name, value in metadata.items() if name not in USAGE}
