"""Settings of the gateway from the environment: its address, its keys, its certificate, its workers, gRPC.

On loopback only this machine reaches the gateway, so it asks for no key there. On any other address it does, unless
`ML_PLATFORM_GATEWAY_KEYS=off` says that something in front of it checks its callers.
"""

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ml_platform.errors import PlatformError

HOST_VARIABLE = "ML_PLATFORM_GATEWAY_HOST"
KEYS_VARIABLE = "ML_PLATFORM_GATEWAY_KEYS"
CERTIFICATE_VARIABLE = "ML_PLATFORM_GATEWAY_CERTIFICATE"
CERTIFICATE_KEY_VARIABLE = "ML_PLATFORM_GATEWAY_CERTIFICATE_KEY"
WORKERS_VARIABLE = "ML_PLATFORM_GATEWAY_WORKERS"
GRPC_VARIABLE = "ML_PLATFORM_GATEWAY_GRPC"
SELF_SIGNED = "self-signed"
LOOPBACK = "127.0.0.1"


class GatewaySettingError(PlatformError):
    """Raised when a setting of the gateway is wrong, or does not fit another one."""


@dataclass(frozen=True)
class GatewaySettings:
    """How clients reach the gateway. ``certificate`` and ``private_key`` are None without TLS or when self-signed.

    ``workers`` are the threads that answer requests; by default there is one for each core that the process may use.
    """

    host: str = LOOPBACK
    keys: bool = False
    self_signed: bool = False
    certificate: Path | None = None
    private_key: Path | None = None
    workers: int = 1
    grpc: bool = True

    @property
    def tls(self) -> bool:
        return self.self_signed or self.certificate is not None

    @property
    def is_loopback(self) -> bool:
        return ip_address(self.host).is_loopback


def gateway_settings() -> GatewaySettings:
    """Return the settings of the environment; raises :class:`GatewaySettingError` for a wrong one."""
    host = _host(os.environ.get(HOST_VARIABLE, LOOPBACK))
    certificate, private_key = os.environ.get(CERTIFICATE_VARIABLE, ""), os.environ.get(CERTIFICATE_KEY_VARIABLE, "")
    is_self_signed = certificate == SELF_SIGNED
    files = bool(certificate) and not is_self_signed
    if bool(private_key) != files:
        raise GatewaySettingError(
            CERTIFICATE_VARIABLE,
            expected=f"a PEM file with its key in {CERTIFICATE_KEY_VARIABLE}, or '{SELF_SIGNED}' without one",
            found=f"'{certificate}' with the key '{private_key}'",
            fix="Set both variables to files, or only the first one to self-signed.",
        )
    return GatewaySettings(
        host=host,
        keys=_switch(KEYS_VARIABLE, default=not ip_address(host).is_loopback),
        self_signed=is_self_signed,
        certificate=Path(certificate).absolute() if files else None,
        private_key=Path(private_key).absolute() if files else None,
        workers=_workers(os.environ.get(WORKERS_VARIABLE, "")),
        grpc=_switch(GRPC_VARIABLE, default=True),
    )


def _host(text: str) -> str:
    if text == "localhost":
        return LOOPBACK
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        raise GatewaySettingError(
            HOST_VARIABLE,
            expected="an IP address of this machine, or 0.0.0.0 for all",
            found=f"'{text}'",
            fix="Set it to an address, like 192.0.2.7.",
        ) from None


def _switch(variable: str, *, default: bool) -> bool:
    text = os.environ.get(variable, "")
    if text not in ("", "on", "off"):
        raise GatewaySettingError(variable, expected="on or off", found=f"'{text}'", fix="Correct or unset it.")
    return text == "on" or (text == "" and default)


def _workers(text: str) -> int:
    if text and not (text.isdecimal() and 1 <= int(text) <= 1024):
        raise GatewaySettingError(
            WORKERS_VARIABLE, expected="a number from 1 to 1024", found=f"'{text}'", fix="Correct or unset it."
        )
    return int(text) if text else len(os.sched_getaffinity(0))
