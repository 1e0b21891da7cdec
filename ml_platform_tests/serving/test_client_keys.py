"""Clients and their keys in the state store: no secret is stored, and every change is an audit record."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from ml_platform.registry.audit import AuditLog
from ml_platform.serving.client_keys import Client, ClientKeyError, NewKey, read_clients
from ml_platform.serving.client_usage import Usage
from ml_platform.state.state_dump import dump_state
from ml_platform.state.store import StateStore
from ml_platform.steps import client_keys as decisions
from ml_platform.steps.client_keys import KeyDecision

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DECISION = KeyDecision("Ada", "a new app", NOW)


def valid_keys(state: StateStore, now: datetime = NOW) -> list[str]:
    return [key.id for key in read_clients(state)[1] if key.is_valid(now)]


def test_key_is_the_credentials_of_basic_with_letters_and_digits_only() -> None:
    keys = [NewKey.make() for _ in range(200)]
    for key in keys:
        key_id, _, secret = base64.b64decode(key.text).decode().partition(":")
        assert key.text.isalnum()
        assert (key_id, len(base64.urlsafe_b64decode(secret + "="))) == (key.id, 32)
        assert base64.b64decode(key.secret_sha1) == hashlib.sha1(secret.encode()).digest()
    assert len({key.text for key in keys}) == len({key.id for key in keys}) == 200


def test_every_change_is_recorded_and_no_record_contains_a_secret(
    any_state: StateStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    any_state.migrate()
    first = decisions.add(any_state, Client(name="app", models=("toy",)), DECISION)
    second = decisions.rotate(any_state, "app", timedelta(hours=1), DECISION)
    decisions.limit(any_state, "app", {"requests_per_second": 5}, DECISION)
    assert decisions.revoke(any_state, "app", DECISION, second.id) == [second.id]

    records = AuditLog(any_state).records()
    assert [each.kind for each in records] == [
        "client_added",
        "client_key_rotated",
        "client_limits_changed",
        "client_key_revoked",
    ]
    assert {(each.actor, each.facts["reason"], each.facts["client"]) for each in records} == {
        ("Ada", "a new app", "app")
    }
    assert records[2].facts["limits"]["requests_per_second"] == 5
    dump = tmp_path_factory.mktemp("dump") / "state.jsonl"
    dump_state(any_state, dump)
    for key in (first, second):
        assert key.id in dump.read_text()
        assert key.text not in dump.read_text()
        assert base64.b64decode(key.text).decode().partition(":")[2] not in dump.read_text()


def test_old_keys_end_after_the_overlap_of_a_rotation(state_store: StateStore) -> None:
    first = decisions.add(state_store, Client(name="app"), DECISION)
    second = decisions.rotate(state_store, "app", timedelta(hours=2), DECISION)
    assert set(valid_keys(state_store)) == {first.id, second.id}
    third = decisions.rotate(state_store, "app", timedelta(hours=1), DECISION)
    assert set(valid_keys(state_store, NOW + timedelta(minutes=59))) == {first.id, second.id, third.id}
    assert valid_keys(state_store, NOW + timedelta(hours=1)) == [third.id]


def test_rotation_does_not_prolong_a_key_that_ends_earlier(state_store: StateStore) -> None:
    first = decisions.add(state_store, Client(name="app"), DECISION)
    decisions.rotate(state_store, "app", timedelta(minutes=1), DECISION)
    decisions.rotate(state_store, "app", timedelta(hours=5), DECISION)
    assert first.id not in valid_keys(state_store, NOW + timedelta(minutes=1))


def test_revocation_ends_all_keys_or_one(state_store: StateStore) -> None:
    first = decisions.add(state_store, Client(name="app"), DECISION)
    second = decisions.rotate(state_store, "app", timedelta(hours=1), DECISION)
    decisions.revoke(state_store, "app", DECISION, first.id)
    assert valid_keys(state_store) == [second.id]
    with pytest.raises(
        ClientKeyError, match=f"expected the valid key '{first.id}', found the valid keys '{second.id}'"
    ):
        decisions.revoke(state_store, "app", DECISION, first.id)
    decisions.revoke(state_store, "app", DECISION)
    assert valid_keys(state_store) == []
    with pytest.raises(ClientKeyError, match="expected a valid key, found no valid key"):
        decisions.revoke(state_store, "app", DECISION)


def test_client_with_a_valid_key_is_not_added_twice(state_store: StateStore) -> None:
    decisions.add(state_store, Client(name="app"), DECISION)
    with pytest.raises(ClientKeyError, match="keys rotate app"):
        decisions.add(state_store, Client(name="app"), DECISION)
    decisions.revoke(state_store, "app", DECISION)
    again = decisions.add(state_store, Client(name="app", requests_per_second=3), DECISION)
    assert (valid_keys(state_store), read_clients(state_store)[0]["app"].requests_per_second) == ([again.id], 3)


def test_unknown_client_is_named_with_the_closest_one(state_store: StateStore) -> None:
    decisions.add(state_store, Client(name="billing"), DECISION)
    with pytest.raises(ClientKeyError, match=r"found 'billing'\. Add it .* Did you mean 'billing'"):
        decisions.rotate(state_store, "biling", timedelta(0), DECISION)
    assert len(AuditLog(state_store).records()) == 1


@pytest.mark.parametrize(
    "limits", [{"name": "Big"}, {"name": 'a"b'}, {"name": "a", "models": ('x"] = true',)}, {"name": "a", "burst": 0}]
)
def test_name_or_limit_that_the_gateway_could_not_write_is_refused(limits: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Client.model_validate(limits)


def test_usage_continues_after_a_restart_of_the_gateway_and_begins_again_with_the_day() -> None:
    usage = Usage()
    assert not usage.add({"app": 10, "web": 1}, "2026-03-01")
    assert not usage.add({"app": 15, "web": 1}, "2026-03-01")
    assert usage.requests == {"app": 15, "web": 1}
    restored = Usage(usage.to_json())
    assert restored.add({"app": 4}, "2026-03-01")  # the gateway started again
    assert restored.requests == {"app": 19, "web": 1}
    assert not restored.add({"app": 6}, "2026-03-02")
    assert (restored.on("2026-03-02"), restored.on("2026-03-01")) == ({"app": 2}, {})
