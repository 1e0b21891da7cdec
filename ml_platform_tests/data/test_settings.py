"""Settings models: pydantic and the JSON schema both reject a wrong name in its place."""

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field, ValidationError

from ml_platform.data.settings import RENAMED_ATTRIBUTES, Settings


class Column(Settings):
    name: str
    unit: str | None = None


class Table(Settings):
    keys: list[str]
    description: str = ""
    columns: list[Column] = Field(default_factory=list)


def schema_errors(given: object) -> dict[str, str]:
    errors = Draft202012Validator(Table.model_json_schema()).iter_errors(given)
    return {".".join(map(str, error.absolute_path)): error.message for error in errors}


def test_misspelt_name_is_rejected_in_its_place_with_the_closest_name() -> None:
    with pytest.raises(ValidationError, match=r"columns\.1\.unti\n.*no attribute 'unti'. Did you mean 'unit'\?"):
        Table.model_validate({"keys": [], "columns": [{"name": "a"}, {"name": "b", "unti": "m"}]})


def test_name_without_a_close_match_gets_the_list_of_names() -> None:
    with pytest.raises(ValidationError, match=r"no attribute 'zzz'. Known are: columns, description, keys"):
        Table.model_validate({"keys": [], "zzz": 1})


@pytest.mark.parametrize("wrong", ["desciption", "descriptions", "descripton", "decsription", "Description"])
def test_schema_offers_the_name_for_every_single_edit(wrong: str) -> None:
    assert schema_errors({"keys": [], wrong: "x"}) == {wrong: "'description' was expected"}


def test_schema_lists_the_names_for_a_name_without_a_close_match() -> None:
    assert schema_errors({"keys": [], "zzz": 1}) == {"zzz": "'one of: columns, description, keys' was expected"}


def test_schema_accepts_a_valid_declaration() -> None:
    given = {"keys": ["a"], "description": "x", "columns": [{"name": "a", "unit": "m"}]}

    assert schema_errors(given) == {}
    assert Table.model_validate(given).columns[0].unit == "m"


class RenamedSettings(Settings):
    known_upfront: list[str] = Field(default_factory=list)


def test_error_for_an_old_name_gives_the_new_name() -> None:
    with pytest.raises(ValidationError, match=r"beforehand\n.*'beforehand' was renamed to known_upfront in 0\.2\.0"):
        RenamedSettings.model_validate({"beforehand": ["a"]})


def test_schema_error_for_an_old_name_gives_the_new_name() -> None:
    errors = Draft202012Validator(RenamedSettings.model_json_schema()).iter_errors({"beforehand": ["a"]})

    assert [error.message for error in errors] == ["'renamed to known_upfront in 0.2.0' was expected"]


def test_old_name_is_unknown_to_a_model_without_the_attribute() -> None:
    with pytest.raises(ValidationError, match="no attribute 'beforehand'"):
        Table.model_validate({"keys": [], "beforehand": ["a"]})


@pytest.mark.parametrize("old", sorted(RENAMED_ATTRIBUTES))
def test_no_attribute_is_renamed_to_an_old_name(old: str) -> None:
    assert RENAMED_ATTRIBUTES[old] not in RENAMED_ATTRIBUTES
