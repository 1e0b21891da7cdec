"""The base class of all settings models: it rejects unknown names and offers the closest valid one.

Two readers check a declaration: pydantic when it is loaded, and the JSON schema in `dg check yaml` and in editors. A
JSON schema offers only names that it contains, so this class writes the close matches into the schema.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails

from ml_platform.errors import did_you_mean

RENAMED_IN_VERSION = "0.2.0"

RENAMED_ATTRIBUTES = {
    "beforehand": "known_upfront",
    "revealed": "available_from",
    "revealed_after_minutes": "available_after_minutes",
    "schedule_only": "request_only",
    "sentinel": "leakage_screen",
    "newest": "latest",
    "demand": "criterion",
    "on_new_month": "on_new_partition",
    "watch_cron": "monitoring_cron",
}
"""Attributes of declarations that were renamed in version 0.2.0: old name → new name."""


class Settings(BaseModel):
    """A settings model that rejects misspelt names and offers the closest valid one.

    Validation raises ``ValidationError`` with the place of each wrong key, for example ``columns.0.nam: … there is no
    attribute 'nam'. Did you mean 'name'?``. The JSON schema reports the same as ``columns.0.nam: 'name' was expected``.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_names(cls, values: Any) -> Any:
        known_names = list(cls.model_fields)
        unknown_names = [key for key in values if key not in known_names] if isinstance(values, dict) else []
        if unknown_names:
            # Raise a ValidationError with the place of each wrong key; a plain ValueError would lose the places.
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(
                        type="value_error",
                        loc=(str(key),),
                        input=values[key],
                        ctx={"error": ValueError(_unknown_name_message(str(key), known_names))},
                    )
                    for key in unknown_names
                ],
            )
        return values

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        known_names = sorted(resolved.get("properties", {}))
        if known_names and resolved.get("additionalProperties") is False:
            # A JSON schema cannot compute edit distances, so the patterns list the close spellings of each name.
            resolved["patternProperties"] = {
                **{_near_misses(name, known_names): {"const": name} for name in known_names},
                **{
                    f"^{old}$": {"const": f"renamed to {new} in {RENAMED_IN_VERSION}"}
                    for old, new in RENAMED_ATTRIBUTES.items()
                    if new in known_names and old not in known_names
                },
            }
            resolved["additionalProperties"] = {"const": f"one of: {', '.join(known_names)}"}
        return schema


def _unknown_name_message(name: str, known_names: list[str]) -> str:
    new_name = RENAMED_ATTRIBUTES.get(name)
    if new_name in known_names:
        return f"'{name}' was renamed to {new_name} in {RENAMED_IN_VERSION}."
    suggestion = did_you_mean(name, known_names)
    return f"there is no attribute '{name}'.{suggestion} Known are: {', '.join(sorted(known_names))}."


def _near_misses(name: str, known_names: list[str]) -> str:
    """Return a regular expression for the spellings one edit away from ``name`` that are not names themselves."""
    positions = range(len(name))
    inserted = [f"{name[:at]}.{name[at:]}" for at in range(len(name) + 1)]
    dropped_or_changed = [f"{name[:at]}.?{name[at + 1 :]}" for at in positions]
    swapped = [f"{name[:at]}{name[at + 1]}{name[at]}{name[at + 2 :]}" for at in positions[:-1]]
    return f"^(?!(?:{'|'.join(known_names)})$)(?:{'|'.join([*inserted, *dropped_or_changed, *swapped])})$"
