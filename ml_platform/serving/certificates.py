"""The gateway's TLS certificate: reads and checks a pair of PEM files, and makes a self-signed pair for development."""

import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.data.atomic import write_bytes
from ml_platform.errors import PlatformError

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

SELF_SIGNED_DAYS = 365
RENEW_DAYS = 30


class CertificateError(PlatformError):
    """Raised when a certificate or its key cannot be used."""


def read_pair(certificate: Path, private_key: Path) -> tuple[str, str]:
    """Return the texts of ``certificate`` (PEM, with its chain) and of its ``private_key``.

    Raises :class:`CertificateError` when one cannot be read, or when the key is not that of the certificate.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    texts = [_read(certificate, "a PEM certificate"), _read(private_key, "a PEM private key")]
    try:
        first, *_ = load_pem_x509_certificates(texts[0].encode())
        key = load_pem_private_key(texts[1].encode(), password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(
            f"Certificate {certificate} with key {private_key}",
            expected="a PEM certificate and its PEM private key without a password",
            found=str(error),
            fix="Set ML_PLATFORM_GATEWAY_CERTIFICATE and ML_PLATFORM_GATEWAY_CERTIFICATE_KEY to such files.",
        ) from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if first.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        raise CertificateError(
            f"Certificate {certificate}",
            expected=f"the certificate of the key {private_key}",
            found="one of another key",
            fix="Replace both files by those of one pair.",
        )
    return texts[0], texts[1]


def self_signed_pair(folder: Path, hosts: Sequence[str], now: datetime) -> tuple[Path, Path]:
    """Return the files of a self-signed certificate for ``hosts`` and of its key, made in ``folder`` when needed.

    An existing certificate stays until it is about to expire, or lacks one of ``hosts``, so that clients that trust it
    still do.
    """
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if not _is_usable(certificate, key, hosts, now):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = _make_pair(hosts, now)
        write_bytes(key, made[1], mode=0o600)
        write_bytes(certificate, made[0])
    return certificate, key


def names_of_this_machine(host: str) -> list[str]:
    """Return the names under which clients reach a gateway that listens on ``host``."""
    own = [] if host in ("0.0.0.0", "::") else [host]
    return list(dict.fromkeys([*own, "localhost", "127.0.0.1", "::1", socket.gethostname()]))


def _read(path: Path, expected: str) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise CertificateError(
            f"File {path}",
            expected=expected,
            found=error.strerror or "an error" if isinstance(error, OSError) else "bytes that are no text",
            fix="Correct the path or the rights of the file.",
        ) from error


def _is_usable(certificate: Path, key: Path, hosts: Sequence[str], now: datetime) -> bool:
    from cryptography.x509 import SubjectAlternativeName, load_pem_x509_certificate

    with suppress(CertificateError):
        text, _ = read_pair(certificate, key)
        found = load_pem_x509_certificate(text.encode())
        names = list(found.extensions.get_extension_for_class(SubjectAlternativeName).value)
        has_hosts = all(_general_name(host) in names for host in hosts)
        return has_hosts and found.not_valid_after_utc - now > timedelta(days=RENEW_DAYS)
    return False


def _make_pair(hosts: Sequence[str], now: datetime) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ml-platform, self-signed")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def _general_name(host: str) -> "GeneralName":
    from cryptography.x509 import DNSName, IPAddress

    try:
        return IPAddress(ip_address(host))
    except ValueError:
        return DNSName(host)
