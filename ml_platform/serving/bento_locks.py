"""The lock files that pin the libraries of a bento: the platform's, those of optional parts, and the domain's own."""

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ml_platform.errors import PlatformError, listed

PLATFORM_LOCK = "requirements.lock"
OPTIONAL_LOCKS = ("deploy/boosting.txt", "deploy/onnx.txt")
"""Locks of the optional trainers, and of the transformer `onnx`."""

DOMAIN_LOCK = "requirements.lock"
"""Name of the file in the folder of a domain, for example `assets/shop/requirements.lock`."""


_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class LockError(PlatformError):
    """Raised when the lock of a domain contradicts that of the platform, or the libraries that are installed."""


@dataclass(frozen=True)
class BentoLocks:
    """Lock files, in the form of pip's requirements with hashes; ``domain`` is None without one."""

    platform: Path
    optional: tuple[Path, ...] = ()
    domain: Path | None = None

    @classmethod
    def of(cls, repository: Path, function: str) -> "BentoLocks":
        """Return the locks of ``repository`` and of the domain of ``function`` (assets.domain.module:name)."""
        folders = function.partition(":")[0].split(".")[:2]
        return cls(
            repository / PLATFORM_LOCK,
            tuple(path for path in (repository / lock for lock in OPTIONAL_LOCKS) if path.is_file()),
            _existing(repository.joinpath(*folders, DOMAIN_LOCK)),
        )

    def pins(self) -> dict[str, str]:
        """Return the pinned version of each distribution for the running interpreter; the platform's comes first."""
        found: dict[str, str] = {}
        for lock in (self.domain, *self.optional, self.platform):
            found |= applicable_pins(lock) if lock is not None else {}
        return found

    def domain_pins(self) -> Mapping[str, str]:
        """Return the pins of the domain's own lock, all of which its bentos carry."""
        return {} if self.domain is None else applicable_pins(self.domain)

    def hashes(self) -> dict[str, list[str]]:
        """Return the SHA-256 of each file that the locks accept, by distribution; those of the platform come first."""
        found: dict[str, list[str]] = {}
        for lock in (self.domain, *self.optional, self.platform):
            found |= _hashes_of(lock.read_text()) if lock is not None else {}
        return found

    def require_usable(self) -> None:
        """Raise :class:`LockError` when the domain pins another version than the platform, or than is installed."""
        domain, shared = self.domain_pins(), BentoLocks(self.platform, self.optional).pins()
        contradicting = [name for name, version in domain.items() if shared.get(name, version) != version]
        if contradicting:
            name = contradicting[0]
            raise LockError(
                f"Lock {self.domain}",
                expected=f"the version of the platform for each package that both pin ({name} {shared[name]})",
                found=listed(f"{each} {domain[each]}" for each in contradicting),
                fix="Pin the same version, or leave the package out: the bento gets that of the platform.",
            )
        installed = {name: _installed(name) for name in domain}
        differing = [name for name, version in domain.items() if installed[name] != version]
        if differing:
            raise LockError(
                f"Lock {self.domain}",
                expected="its packages installed in the pinned versions",
                found=listed(f"{name} {installed[name] or 'not installed'}" for name in differing),
                fix="Run make install, which installs the locks of all domains.",
            )


def applicable_pins(lock: Path) -> Mapping[str, str]:
    """Return the pinned version of each distribution whose environment marker holds for the running interpreter."""
    return _pins_of(lock.read_text())


@lru_cache(maxsize=8)
def _pins_of(text: str) -> Mapping[str, str]:
    # Each model of a project asks for the pins of the same few files several times while definitions load.
    pins: dict[str, str] = {}
    for line in text.splitlines():
        if not line or line[0] in "#- \t":  # a comment, an option, or a hash of the pin above
            continue
        requirement = Requirement(line.partition("--hash=")[0].rstrip(" \\"))
        versions = [each.version for each in requirement.specifier if each.operator == "=="]
        if versions and (requirement.marker is None or requirement.marker.evaluate()):
            pins[canonicalize_name(requirement.name)] = versions[0]
    return pins


def _hashes_of(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line and line[0] not in "#- \t":
            current = found.setdefault(
                canonicalize_name(Requirement(line.partition("--hash=")[0].rstrip(" \\")).name), []
            )
        current += _HASH.findall(line)
    return found


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
