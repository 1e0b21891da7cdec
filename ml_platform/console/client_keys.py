"""`ml-platform keys`: parses limits, applies decisions about clients and their keys, and shows them."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from ml_platform.console.arguments import ArgumentError
from ml_platform.serving.client_keys import Client, NewKey, read_clients
from ml_platform.serving.client_usage import requests_today
from ml_platform.steps import client_keys as decisions
from resources.home import Home
from resources.state import open_state

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def limits(rate: str, burst: int | None, quota: str, concurrency: int | None, models: str) -> dict[str, Any]:
    """Return the fields of a client that the arguments give; empty ones and None give none.

    >>> limits("20/s", None, "1000/d", None, "sales/orders,flights")["models"]
    ('sales.orders', 'flights')
    """
    from ml_platform.data.names import full_name

    found: dict[str, Any] = {}
    if rate:
        # A bucket that is smaller than a second's requests would refuse some of them.
        found["requests_per_second"] = found["burst"] = _count_per(rate, "s", "100/s")
    if burst is not None:
        found["burst"] = burst
    if quota:
        found["requests_per_day"] = None if quota == "none" else _count_per(quota, "d", "100000/d")
    if concurrency is not None:
        found["concurrency"] = concurrency
    if models:
        names = [full_name(each.strip()) for each in models.split(",") if each.strip()]
        found["models"] = None if models == "all" else tuple(names)
    return found


def add(home: Home, client: str, limits: dict[str, Any], by: str, reason: str) -> NewKey:
    """Add ``client`` and return its first key."""
    try:
        declared = Client.model_validate({"name": client, **limits})
    except ValidationError as error:
        raise _invalid(client, error) from error
    return decisions.add(open_state(home), declared, _decision(by, reason))


def rotate(home: Home, client: str, overlap: str, by: str, reason: str) -> NewKey:
    """Return another key of ``client``; ``overlap`` is how long its old keys stay valid, like `24h`."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", overlap)
    if found is None:
        raise ArgumentError(
            f"Overlap '{overlap}'",
            expected="a number with s, m, h or d, like 24h",
            found="text in another form",
            fix="Correct the overlap; 0s ends the old keys at once.",
        )
    seconds = int(found[1]) * _SECONDS[found[2]]
    return decisions.rotate(open_state(home), client, timedelta(seconds=seconds), _decision(by, reason))


def revoke(home: Home, client: str, key_id: str, by: str, reason: str) -> list[str]:
    """End the key ``key_id`` of ``client``, or all of them, and return the ids of those that ended."""
    return decisions.revoke(open_state(home), client, _decision(by, reason), key_id)


def limit(home: Home, client: str, limits: dict[str, Any], by: str, reason: str) -> Client:
    """Change ``limits`` of ``client`` and return all of them."""
    try:
        return decisions.limit(open_state(home), client, limits, _decision(by, reason))
    except ValidationError as error:
        raise _invalid(client, error) from error


def client_entries(home: Home) -> list[dict[str, Any]]:
    """Return each client with its limits, its requests of the day and its keys, without any secret or hash."""
    now, state = datetime.now(UTC), open_state(home)
    clients, keys = read_clients(state)
    used = requests_today(state, now)
    return [
        {
            **client.model_dump(mode="json"),
            "requests_today": used.get(client.name, 0),
            "keys": [
                {
                    "id": key.id,
                    "created": key.created_at.isoformat(),
                    "valid": key.is_valid(now),
                    "valid_until": None if key.valid_until is None else key.valid_until.isoformat(),
                    "revoked": None if key.revoked_at is None else key.revoked_at.isoformat(),
                }
                for key in keys
                if key.client == client.name
            ],
        }
        for client in clients.values()
    ]


def show(found: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the results of :func:`client_entries`: one line for each key, and for a client without one."""
    if not found:
        console.print("No client; add one with `ml-platform keys add <client>`.", highlight=False)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("client", "limits", "today", "key", "created", "state"):
        table.add_column(column, overflow="fold")
    for client in found:
        text = limits_text(Client.model_validate({name: client[name] for name in Client.model_fields}))
        for place, key in enumerate(client["keys"] or [None]):
            own = (client["name"], text, f"{client['requests_today']:,}") if place == 0 else ("", "", "")
            table.add_row(*own, *(("none", "", "") if key is None else _key_cells(key)))
    console.print(table, highlight=False)


def show_key(key: NewKey, echo: Callable[[str], None]) -> None:
    """Print ``key`` and how it is used. It is not stored, so it is shown only here."""
    echo(key.text)
    echo(f"This is key {key.id}, shown only now: send it as the header x-api-key, or as authorization: Bearer.")


def limits_text(client: Client) -> str:
    """Return the limits of ``client`` in one line."""
    quota = "" if client.requests_per_day is None else f", {client.requests_per_day:,} a day"
    models = "all models" if client.models is None else ", ".join(client.models)
    return (
        f"{client.requests_per_second:,}/s (burst {client.burst:,}){quota}, {client.concurrency:,} at once in one "
        f"service, {models}"
    )


def _key_cells(key: dict[str, Any]) -> tuple[str, str, str]:
    state = "valid"
    if key["revoked"]:
        state = f"revoked {_minute(key['revoked'])}"
    elif key["valid_until"]:
        state = f"{'valid until' if key['valid'] else 'expired'} {_minute(key['valid_until'])}"
    return key["id"], _minute(key["created"]), state


def _minute(instant: str) -> str:
    return instant[:16].replace("T", " ") + "Z"


def _count_per(text: str, unit: str, example: str) -> int:
    number, slash, found = text.replace("_", "").partition("/")
    if not number.isdecimal() or (slash and found != unit):
        raise ArgumentError(
            f"Limit '{text}'", expected=f"a whole number per {unit}, like {example}", found="other text", fix="Fix it."
        )
    return int(number)


def _decision(by: str, reason: str) -> decisions.KeyDecision:
    return decisions.KeyDecision(by, reason, datetime.now(UTC))


def _invalid(client: str, error: ValidationError) -> ArgumentError:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "client"
    return ArgumentError(
        f"Client '{client}', {field}",
        expected=first["msg"],
        found=repr(first["input"])[:80],
        fix="A name has lower case letters, digits, - and _; a limit is a number of at least 1.",
    )
