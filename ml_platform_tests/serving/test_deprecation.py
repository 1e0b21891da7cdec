"""The end of an endpoint, as it is declared and as it is shown."""

from datetime import date

import pytest
from pydantic import ValidationError

from ml_platform.serving.deprecation import Deprecation
from ml_platform.serving.openapi import openapi_document
from ml_platform.serving.request_contract import RequestContract


def test_end_that_is_not_decided_has_no_sunset() -> None:
    assert Deprecation(since=date(1970, 1, 2)).headers == [(b"deprecation", b"@86400")]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sunset": "2026-11-01"}, "expected a day after since"),
        ({"link": "models.example.org"}, "link"),
        ({"link": "https://example.org/\r\nx: y"}, "link"),
        ({"link": "https://example.org/<a>"}, "link"),
    ],
)
def test_wrong_declaration_is_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Deprecation.model_validate({"since": "2026-11-01", **wrong})


def test_deprecated_field_is_marked_in_the_schema_and_others_are_not() -> None:
    fields = [{"name": "old", "type": "int", "deprecated": True}, {"name": "new", "type": "int"}]
    contract = RequestContract.model_validate({"model": "toy", "fields": fields})
    properties = openapi_document(contract, "1")["components"]["schemas"]["Row"]["properties"]
    assert properties["old"]["deprecated"] is True
    assert "deprecated" not in properties["new"]
    assert "deprecated" not in openapi_document(contract, "1")["paths"]["/v1/toy/predict"]["post"]
