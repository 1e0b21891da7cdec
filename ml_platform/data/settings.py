"""The base of every settings model: unknown names are refused, and the nearest valid one is offered.

Apart because the same declaration is read twice: by pydantic when it is loaded, and as JSON schema by `dg check yaml`
and by editors, which can only offer a name that the schema itself contains.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails

from ml_platform.errors import did_you_mean


class Settings(BaseModel):
    """A settings model: every field typed and described; a misspelt name is refused and its nearest neighbour offered.

    Validation raises ``ValidationError`` with the place of each wrong key, for example ``columns.0.nam: … there is no
    attribute 'nam'. Did you mean 'name'?``; the JSON schema says the same as ``columns.0.nam: 'name' was expected``.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _offer_the_nearest_name(cls, given: Any) -> Any:
        known = list(cls.model_fields)
        unknown = [key for key in given if key not in known] if isinstance(given, dict) else []
        if unknown:
            # A ValidationError of our own keeps the place of each wrong key, which a plain ValueError would lose.
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(
                        type="value_error",
                        loc=(str(key),),
                        input=given[key],
                        ctx={"error": ValueError(_unknown(str(key), known))},
                    )
                    for key in unknown
                ],
            )
        return given

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        own = handler.resolve_ref_schema(schema)
        known = sorted(own.get("properties", {}))
        if known and own.get("additionalProperties") is False:
            # A JSON schema cannot compute a distance, but it can list what lies near: `'keys' was expected`.
            own["patternProperties"] = {_near_misses(name, known): {"const": name} for name in known}
            own["additionalProperties"] = {"const": f"one of: {', '.join(known)}"}
        return schema


def _unknown(name: str, known: list[str]) -> str:
    return f"there is no attribute '{name}'.{did_you_mean(name, known)} Known are: {', '.join(sorted(known))}."


def _near_misses(name: str, known: list[str]) -> str:
    """Return a regular expression for the spellings one edit away from ``name`` that are not names themselves."""
    places = range(len(name))
    inserted = [f"{name[:at]}.{name[at:]}" for at in range(len(name) + 1)]
    dropped_or_changed = [f"{name[:at]}.?{name[at + 1 :]}" for at in places]
    swapped = [f"{name[:at]}{name[at + 1]}{name[at]}{name[at + 2 :]}" for at in places[:-1]]
    return f"^(?!(?:{'|'.join(known)})$)(?:{'|'.join([*inserted, *dropped_or_changed, *swapped])})$"
