"""A class of a team's own is loaded by its path with its settings, or refused with the method that it lacks."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError

from ml_platform.data.extensions import Extension, ExtensionError, extension_class, is_reference, source_digests

HERE = __name__


class Greeting(Extension):
    """A way to greet."""

    kind: ClassVar[str] = "greeting"

    @abstractmethod
    def text(self, name: str, loud: bool) -> str:
        """Return the greeting of ``name``."""


class Long(Greeting):
    """A greeting with many words."""

    words: int = Field(default=3, ge=1, description="Number of words.")

    def text(self, name: str, loud: bool) -> str:
        return " ".join([name] * self.words)


class Silent(Greeting):
    """No method."""


class Swapped(Greeting):
    def text(self, loud: bool, name: str) -> str:  # type: ignore[override] # the error of the test
        return name


class Unrelated:
    """Another base."""


class Declared(BaseModel):
    greeting: SerializeAsAny[Greeting]


def test_settings_of_the_class_are_the_other_keys_and_are_written_back() -> None:
    declared = Declared.model_validate({"greeting": {"type": f"{HERE}:Long", "words": 2}})
    assert declared.greeting.text("ada", False) == "ada ada"
    assert Declared.model_validate(declared.model_dump()) == declared
    assert Declared.model_validate({"greeting": f"{HERE}:Long"}).greeting.text("ada", False) == "ada ada ada"
    assert (declared.greeting.reference, Long().reference) == (f"{HERE}:Long", f"{HERE}:Long")
    assert (Long.summary(), Long.default_name()) == ("A greeting with many words.", "long")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": f"{HERE}:Silent"}, f"expected the methods of {HERE}:Greeting: 'text', found no 'text'"),
        (f"{HERE}:Unrelated", f"expected a subclass of {HERE}:Greeting, found a class without this base"),
        (f"{HERE}:test_own_class", "a function 'test_own_class' in"),
        ("math:sqrt", "found a builtin_function_or_method. Write 'class sqrt\\(Greeting\\):' with 'text'"),
        (f"{HERE}:Swapped", "expected text\\(self, name, loud\\) as in .*, found text\\(self, loud, name\\)"),
        ({"type": f"{HERE}:Long", "word": 2}, "there is no attribute 'word'. Did you mean 'words'"),
        ({"type": f"{HERE}:Long", "words": 0}, "greater than or equal to 1"),
        ({"words": 2}, "a greeting of your own needs the key 'type'"),
        ("nowhere.at_all:Long", "no module 'nowhere'"),
    ],
)
def test_wrong_class_is_refused_when_it_is_declared(given: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as error:
        Declared.model_validate({"greeting": given})
    assert error.value.errors()[0]["loc"][0] == "greeting"


def test_class_that_lacks_a_method_is_named_outside_of_a_declaration() -> None:
    assert extension_class(Greeting, f"{HERE}:Long") is Long  # type: ignore[type-abstract]
    with pytest.raises(ExtensionError, match=f"The greeting '{HERE}:Silent'"):
        extension_class(Greeting, f"{HERE}:Silent")  # type: ignore[type-abstract]


def test_schema_takes_any_settings_beside_the_type_in_its_form() -> None:
    schema = Declared.model_json_schema()["$defs"]["Greeting"]
    assert [each["type"] for each in schema["anyOf"]] == ["string", "object"]
    assert "additionalProperties" not in schema["anyOf"][1]


def test_references_have_a_colon() -> None:
    assert is_reference({"type": "a.b:C"})
    assert is_reference("a.b:C")
    assert is_reference(Long())
    assert not is_reference({"type": "slices"})
    assert not is_reference({})
    assert not is_reference(None)


def test_digest_follows_settings_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source_digests({"a": Long(words=1)}) != source_digests({"a": Long(words=2)})
    assert source_digests({"a": Long()}) == source_digests({"a": Long()})
    assert Long().source_digest() != Swapped().source_digest()
