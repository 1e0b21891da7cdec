"""Changes of a contract: those that break an app are named by their place, and those that widen it are not."""

from typing import Any

import pytest

from ml_platform.serving.contract_changes import (
    ContractSettings,
    IncompatibleContractError,
    contract_changes,
    unintended,
)
from ml_platform.serving.request_contract import RequestContract
from ml_platform.tasks.catalog import as_task

FIELDS: dict[str, dict[str, Any]] = {
    "carrier": {"type": "string", "max_length": 20},
    "flight": {"type": "int"},
    "miles": {"type": "float", "nullable": True},
    "price": {"type": "decimal", "scale": 2},
    "stops": {"type": "list", "items": "int"},
    "departs": {"type": "datetime"},
    "arrives": {"type": "datetime"},
    "note": {"type": "string", "nullable": True, "optional": True},
    "photo": {"type": "binary", "max_bytes": 100},
}
RULES: list[dict[str, Any]] = [
    {"name": "flights", "field": "flight", "at_least": 1, "at_most": 9000},
    {"name": "carriers", "field": "carrier", "allowed": ["UA", "AA", "DL"]},
    {"name": "order", "field": "departs", "compare": "<", "other": "arrives"},
]


def contract(
    fields: dict[str, dict[str, Any] | None] | None = None, rules: list[dict[str, Any]] | None = None, **settings: Any
) -> RequestContract:
    """Return the contract with changed fields (None: without it), other rules and other settings."""
    declared = {
        name: FIELDS.get(name, {}) | each for name, each in (FIELDS | (fields or {})).items() if each is not None
    }
    time = {"field": "departs", "minutes_before": 120}
    given = {
        "model": "toy",
        "fields": [{"name": name, **each} for name, each in declared.items()],
        "rules": RULES if rules is None else rules,
        "prediction_time": time,
        "max_rows": 100,
    }
    return RequestContract.model_validate(given | settings)


def changed(new: RequestContract, old: RequestContract | None = None) -> list[tuple[str, str, str]]:
    """Return place, expected and found of the changes from ``old``, by default the contract as declared."""
    task = as_task("binary")
    return [(each.place, each.expected, each.found) for each in contract_changes(old or contract(), new, task, task)]


def with_rule(at: int, **changes: Any) -> list[dict[str, Any]]:
    rule = {name: value for name, value in (RULES[at] | changes).items() if value is not None}
    return [rule if place == at else each for place, each in enumerate(RULES)]


@pytest.mark.parametrize(
    "new",
    [
        contract(),
        contract(model="renamed"),
        contract({"gate": {"type": "string", "nullable": True, "optional": True}}),
        contract({"flight": {"type": "float"}}),
        contract({"flight": {"nullable": True}}),
        contract({"miles": {"optional": True}}),
        contract({"carrier": {"max_length": 21, "description": "Airline", "examples": ["UA"]}}),
        contract({"price": {"scale": 3}}),
        contract({"photo": {"max_bytes": 101}}),
        contract({"stops": {"items": "float"}}),
        contract(rules=[]),
        contract(rules=with_rule(0, at_least=0, at_most=None)),
        contract(rules=with_rule(1, allowed=["UA", "AA", "DL", "B6"])),
        contract(rules=with_rule(2, compare="<=")),
        contract(rules=with_rule(2, field="arrives", compare=">", other="departs")),
        contract(rules=with_rule(2, field="arrives", compare="!=", other="departs")),
        contract(rules=[*RULES, {"name": "far", "field": "miles", "at_most": 10, "on_breach": "flag"}]),
        contract(max_rows=101, max_bytes=2**23, max_past_minutes=5),
    ],
)
def test_change_that_no_app_notices_is_compatible(new: RequestContract) -> None:
    assert changed(new) == []


@pytest.mark.parametrize(
    ("new", "place", "expected", "found"),
    [
        (contract({"miles": None}), "miles", "the field, which apps send", "no such field"),
        (contract({"gate": {"type": "string"}}), "gate", "an optional one", "a new field that every request needs"),
        (contract({"gate": {"type": "string", "nullable": True}}), "gate", "an optional one", "every request needs"),
        (contract({"flight": {"type": "string"}}, rules=[]), "flight", "type int", "type string"),
        (contract({"miles": {"type": "int"}}), "miles", "type float", "type int"),
        (contract({"price": {"scale": 1}}), "price", "type decimal (scale 2)", "type decimal (scale 1)"),
        (contract({"stops": {"items": "string"}}), "stops", "type list (items int)", "type list (items string)"),
        (contract({"miles": {"nullable": False}}), "miles", "may be null", "may not"),
        (contract({"note": {"optional": False}}), "note", "may be left out", "every request needs"),
        (contract({"carrier": {"max_length": 19}}), "carrier", "up to 20 characters", "up to 19"),
        (contract({"photo": {"max_bytes": 99}}), "photo", "up to 100 bytes", "up to 99"),
        (contract({"photo": {"type": "string", "max_bytes": None}}), "photo", "type binary", "type string"),
        (contract(rules=with_rule(0, at_least=2)), "flight", "at least 1 and at most 9000", "at least 2"),
        (contract(rules=with_rule(0, at_most=8999)), "flight", "at most 9000", "at most 8999 (rule 'flights')"),
        (contract(rules=with_rule(1, allowed=["UA", "AA"])), "carrier", "one of UA, AA, DL", "one of UA, AA"),
        (
            contract(rules=[*RULES, {"name": "far", "field": "miles", "at_most": 10}]),
            "miles",
            "any value",
            "at most 10",
        ),
        (contract(prediction_time={"field": "departs", "minutes_before": 60}), "prediction_time", "120 min", "60 min"),
        (contract(prediction_time=None), "prediction_time", "120 minutes before 'departs'", "the time of the request"),
        (contract(max_rows=99), "max_rows", "at least 100", "99"),
        (contract(max_bytes=1024), "max_bytes", "at least 4194304", "1024"),
        (contract(on_past="refuse"), "on_past", "flag", "refuse"),
    ],
)
def test_change_that_breaks_an_app_is_named(new: RequestContract, place: str, expected: str, found: str) -> None:
    changes = changed(new)
    assert [each[0] for each in changes] == [place]
    assert expected in changes[0][1]
    assert found in changes[0][2]


def test_comparison_that_was_no_rule_breaks_apps() -> None:
    old, new = contract(rules=with_rule(2, compare="<=")), contract()
    assert changed(new, old) == [
        ("departs", "a value <= that of 'arrives'", "a value < that of 'arrives' (rule 'order')")
    ]


def test_range_over_the_values_that_were_allowed_is_compatible() -> None:
    allowed = [{"name": "some", "field": "flight", "allowed": [3, 4]}]
    limits = [{"name": "flights", "field": "flight", "at_least": 3, "at_most": 4}]
    assert changed(contract(rules=limits), contract(rules=allowed)) == []
    assert [each[0] for each in changed(contract(rules=allowed), contract(rules=limits))] == ["flight"]


def test_shorter_time_before_the_newest_facts_breaks_apps_only_if_it_is_refused() -> None:
    old = contract(on_past="refuse", max_past_minutes=60)
    assert changed(contract(on_past="refuse", max_past_minutes=59), old) == [("max_past_minutes", "at least 60", "59")]
    assert changed(contract(on_past="flag", max_past_minutes=59), old) == []


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("binary", "regression", ("task", "answers of a binary model", "those of a regression model")),
        (
            {"type": "multiclass", "classes": ["a", "b", "c"]},
            {"type": "multiclass", "classes": ["a", "d", "c"]},
            ("answer", "'a', 'b', 'c', which apps may read", "no more 'b'"),
        ),
        (
            {"type": "quantile", "levels": [0.1, 0.5, 0.9]},
            {"type": "quantile", "levels": [0.5, 0.9]},
            ("answer", "'0.1', '0.5', '0.9', which apps may read", "no more '0.1'"),
        ),
        ({"type": "multiclass", "classes": ["a", "b"]}, {"type": "multiclass", "classes": ["b", "a", "c"]}, None),
    ],
)
def test_answer_without_what_apps_read_is_named(old: Any, new: Any, change: tuple[str, str, str] | None) -> None:
    found = contract_changes(contract(), contract(), as_task(old), as_task(new))
    assert [(each.place, each.expected, each.found) for each in found] == ([] if change is None else [change])


def test_intended_changes_are_named_by_their_place_and_all_others_refused() -> None:
    new = contract({"miles": None, "gate": {"type": "string"}})
    changes = contract_changes(contract(), new, as_task("binary"), as_task("binary"))
    left = unintended(changes, ContractSettings(allow_breaking={"miles": "nobody sends it", "max_rows": "unused"}))
    assert [each.place for each in changes] == ["miles", "gate"]
    assert [each.place for each in left] == ["gate"]
    error = IncompatibleContractError("Contract of 'toy', version 2 after 1", changes)
    assert str(error) == (
        "Contract of 'toy', version 2 after 1, miles: expected the field, which apps send, found no such field: a "
        "request with it is refused. Keep the contract compatible, or let the apps change first and declare "
        "contract: {allow_breaking: {miles: \"<reason>\"}}. Further changes: 'gate'."
    )
