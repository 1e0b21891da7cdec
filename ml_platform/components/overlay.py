"""The overlay of a deployment: a YAML file with values that replace declared ones, such as another retraining policy.

`$ML_PLATFORM_OVERLAY` names it. Two homes of one project can then differ in a setting without a change of its files::

    domains: [aviation]
    models:
      departure_risk:
        retraining: {policy: null}
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed

OVERLAY_VARIABLE = "ML_PLATFORM_OVERLAY"

Declared = TypeVar("Declared", bound=BaseModel)


class OverlayError(PlatformError):
    """Raised for an overlay that cannot be read, or that does not fit the declarations."""


class Overlay(Settings):
    """The values of an overlay; the empty one changes nothing."""

    domains: list[str] = Field(
        default_factory=list, description="Folders below assets/ that are loaded; empty: all of them."
    )
    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Attributes by model. An object replaces the values that it names, and anything else the whole "
        "attribute.",
    )

    def includes(self, domain: str) -> bool:
        """Return whether the folder ``domain`` is loaded."""
        return not self.domains or domain in self.domains

    def applied(self, declared: Declared) -> Declared:
        """Return ``declared`` with the values for its name, validated like a declaration.

        Raises :class:`OverlayError` for an unknown attribute and for a value that is not valid.
        """
        changes = self.models.get(str(getattr(declared, "name", "")), {})
        for name, change in changes.items():
            field = type(declared).model_fields.get(name)
            if field is None:
                raise self._error(
                    declared, name, f"no such attribute.{did_you_mean(name, type(declared).model_fields)}"
                )
            current = getattr(declared, name)
            value = change
            if isinstance(current, BaseModel) and isinstance(change, Mapping):
                value = merged(current.model_dump(mode="json", exclude_unset=True), change)
            try:
                annotation: Any = field.annotation
                found = TypeAdapter(annotation).validate_python(value)
            except ValidationError as error:
                raise self._error(declared, name, " ".join(str(error).split())) from error
            setattr(declared, name, found)
        return declared

    @staticmethod
    def _error(declared: BaseModel, name: str, found: str) -> OverlayError:
        return OverlayError(
            f"Overlay of '{getattr(declared, 'name', '')}', attribute '{name}'",
            expected="an attribute of the model with a valid value",
            found=found,
            fix=f"Correct the file that {OVERLAY_VARIABLE} names.",
        )


def merged(declared: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``declared`` with the values of ``changes``; objects are merged name by name.

    >>> merged({"policy": {"budget": {"runs": 2}}, "cron": None}, {"policy": {"max_age_days": 30}})
    {'policy': {'budget': {'runs': 2}, 'max_age_days': 30}, 'cron': None}
    """
    found = dict(declared)
    for name, value in changes.items():
        current = found.get(name)
        if isinstance(value, Mapping) and isinstance(current, Mapping):
            found[name] = merged(current, value)
        else:
            found[name] = value
    return found


def read_overlay() -> Overlay:
    """Return the overlay that the environment names; the empty one without the variable."""
    path = os.environ.get(OVERLAY_VARIABLE)
    if not path:
        return Overlay()
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
        return Overlay.model_validate(content)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise OverlayError(
            f"Overlay {path}",
            expected=f"a YAML file with {listed(Overlay.model_fields)}",
            found=" ".join(str(error).split()),
            fix=f"Correct it, or unset {OVERLAY_VARIABLE}.",
        ) from error
