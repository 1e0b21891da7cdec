"""Classes of a team's own in a declaration: `type: package.module:Class`, with the other keys as its settings.

All kinds of extensions (metrics, gates, baselines, calibrators, samplers, monitors) are declared, loaded and checked
here alike. A kind is an abstract settings model whose abstract methods are the protocol of its classes.
"""

import inspect
import re
from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar

from pydantic import Field, GetJsonSchemaHandler, ModelWrapValidatorHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ml_platform.data.references import FunctionNotFoundError, load_function
from ml_platform.data.settings import Settings
from ml_platform.data.source_hash import source_hash
from ml_platform.errors import PlatformError, listed

REFERENCE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


class ExtensionError(PlatformError):
    """Raised for a class that a declaration names and that lacks the protocol of its kind."""


class Extension(Settings, ABC):
    """Base of the kinds. A field whose type is a kind takes the settings of any class of that kind.

    A class of a kind declares its settings as pydantic fields with descriptions, and implements the abstract methods.
    """

    kind: ClassVar[str] = "extension"
    """The kind in messages, for example 'gate'."""

    type: str = Field(default="", description="package.module:Class.")

    @classmethod
    def default_name(cls) -> str:
        """Return the name of the class in lower case with underscores."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @property
    def reference(self) -> str:
        """The class as ``package.module:Class``, also for an instance that Python made without ``type``."""
        return self.type or f"{type(self).__module__}:{type(self).__qualname__}"

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring of the class, for descriptions in the UI."""
        return (cls.__doc__ or "").strip().split("\n")[0]

    def source_digest(self) -> str:
        """Return the digest of the code of the class and of all code of the project that it uses."""
        return source_hash(self.reference)

    def error(self, *, expected: str, found: str) -> ExtensionError:
        """Return the error for a method of this class that returned a wrong value."""
        return ExtensionError(
            f"The {self.kind} '{self.reference}'",
            expected=expected,
            found=found,
            fix=f"Correct the class; {_location(protocol_of(type(self)))} describes its methods.",
        )

    @model_validator(mode="wrap")
    @classmethod
    def _load_class(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not inspect.isabstract(cls) or isinstance(given, cls):
            return handler(given)
        reference = given.get("type") if isinstance(given, dict) else given
        if isinstance(reference, str):
            try:
                own = extension_class(cls, reference)
            except (ExtensionError, FunctionNotFoundError) as error:
                raise ValueError(str(error)) from error
            return own.model_validate(given if isinstance(given, dict) else {"type": reference})
        raise ValueError(f"a {cls.kind} of your own needs the key 'type' with package.module:Class.")

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if not inspect.isabstract(cls):
            return super().__get_pydantic_json_schema__(core_schema, handler)
        reference = {"type": "string", "pattern": REFERENCE}
        declared = {"type": "object", "properties": {"type": reference}, "required": ["type"]}
        return {
            "description": f"A {cls.kind} of your own: package.module:Class, or an object with this type.",
            "anyOf": [reference, declared],
        }


Kind = TypeVar("Kind", bound=Extension)


def is_reference(given: Any) -> bool:
    """Return whether ``given`` declares a class of a team's own, as ``package.module:Class`` or with it as type."""
    if isinstance(given, Extension):
        return True
    named = given.get("type") if isinstance(given, dict) else given
    return isinstance(named, str) and ":" in named


def extension_class(kind: type[Kind], reference: str) -> type[Kind]:
    """Return the class ``package.module:Class`` of ``kind``.

    Raises :class:`~ml_platform.data.references.FunctionNotFoundError` when there is no such class, and
    :class:`ExtensionError` when it is no subclass of the kind, lacks a method, or has one with other arguments.
    """
    found = load_function(reference)
    subject = f"The {kind.kind} '{reference}'"
    if not (inspect.isclass(found) and issubclass(found, kind)):
        raise ExtensionError(
            subject,
            expected=f"a subclass of {_location(kind)}",
            found="a class without this base" if inspect.isclass(found) else f"a {type(found).__name__}",
            fix=f"Write 'class {reference.partition(':')[2]}({kind.__name__}):' with {listed(_methods(kind))}.",
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        protocol = protocol_of(found)
        raise ExtensionError(
            subject,
            expected=f"the methods of {_location(protocol)}: {listed(_methods(protocol))}",
            found=f"no {listed(missing)}",
            fix="Add them; the base class describes their arguments and values.",
        )
    for base in (each for each in found.__mro__ if inspect.isabstract(each) and issubclass(each, kind)):
        for method in _methods(base):
            expected, own = (list(inspect.signature(getattr(each, method)).parameters) for each in (base, found))
            if expected != own:
                raise ExtensionError(
                    subject,
                    expected=f"{method}({', '.join(expected)}) as in {_location(base)}",
                    found=f"{method}({', '.join(own)})",
                    fix="Give the method these arguments in this order.",
                )
    return found


def source_digests(extensions: Mapping[str, Extension]) -> dict[str, list[Any]]:
    """Return by name the settings and the digest of the code of each extension, for the digests of inputs."""
    return {name: [each.model_dump(mode="json"), each.source_digest()] for name, each in extensions.items()}


def protocol_of(own: type[Extension]) -> type[Extension]:
    """Return the nearest abstract base of a class, which documents the methods."""
    return next((each for each in own.__mro__[1:] if inspect.isabstract(each)), Extension)


def _location(kind: type[Extension]) -> str:
    return f"{kind.__module__}:{kind.__name__}"


def _methods(kind: type[Extension]) -> list[str]:
    return sorted(kind.__abstractmethods__)
