"""How clients reach the gateway of `ml-platform up`: address, keys and certificate, and whether these fit together."""

from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from ml_platform.data.traces import collector_address, sampled_share
from ml_platform.serving.certificates import names_of_this_machine, read_pair, self_signed_pair
from ml_platform.serving.client_keys import read_clients
from ml_platform.serving.processes import ProcessPlan
from resources.addresses import address, has_own_address
from resources.gateway_settings import KEYS_VARIABLE, GatewaySettingError, GatewaySettings
from resources.home import Home


def reach(home: Home, settings: GatewaySettings) -> dict[str, Any]:
    """Return the fields of the plan that say how clients reach the gateway; a self-signed certificate is made here."""
    certificate, private_key = settings.certificate, settings.private_key
    if settings.self_signed:
        hosts = names_of_this_machine(settings.host)
        certificate, private_key = self_signed_pair(home.run / "tls", hosts, datetime.now(UTC))
    return {
        "host": settings.host,
        "keys": settings.keys,
        "certificate": certificate,
        "private_key": private_key,
        "workers": settings.workers,
        "grpc": settings.grpc,
        # Other machines do not reach the home page, which has no password, unless an address for it is set.
        "traces": collector_address(),
        "trace_share": sampled_share(),
        "home_page": address("reports") if settings.is_loopback or has_own_address("reports") else "",
    }


def require_reachable_safely(plan: ProcessPlan, now: datetime) -> list[str]:
    """Return what an operator should know about how the gateway of ``plan`` is reached.

    Raises :class:`GatewaySettingError` when it needs keys and no client has one, or has a certificate that cannot be
    used.
    """
    notes = []
    if plan.certificate is not None and plan.private_key is not None:
        read_pair(plan.certificate, plan.private_key)
    if plan.keys:
        _, keys = read_clients(plan.open_state())
        if not any(key.is_valid(now) for key in keys):
            raise GatewaySettingError(
                f"Gateway on {plan.host}",
                expected="a client with a valid API key, because others than this machine reach it",
                found="none",
                fix="Add one with `ml-platform keys add <client> --by <name> --reason <reason>`, or set "
                f"{KEYS_VARIABLE}=off if a proxy checks the callers.",
            )
    if not ip_address(plan.host).is_loopback:
        if not plan.keys:
            notes.append(f"Everybody who reaches {plan.host}:{plan.gateway_port} can ask the models: it needs no key.")
        if plan.certificate is None:
            notes.append(f"Requests to {plan.host}:{plan.gateway_port} and their keys travel without TLS.")
    return notes
