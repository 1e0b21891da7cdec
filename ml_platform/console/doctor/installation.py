"""Checks of the installation: Python and its compiled code, the packages, the domains, and torch."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from ml_platform.console.doctor.declarations import read_declarations
from ml_platform.console.doctor.finding import Finding, Subject, capped, failed, ok, warning

DISTRIBUTION = "ml-platform"
LOCK = "requirements.lock"
NO_COMPILED_CODE = "PYTHONDONTWRITEBYTECODE"
"""Variable that forbids Python to keep what it compiles."""


def python_version(subject: Subject) -> Finding:
    """Check the interpreter against the versions that the package supports."""
    from packaging.specifiers import SpecifierSet

    supported = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    running = platform.python_version()
    if not SpecifierSet(supported).contains(running, prereleases=True):
        return failed(
            f"Python {running}, which is not supported ({supported})",
            "Install with `make PYTHON=/path/to/python3.11 install`.",
        )
    return ok(f"Python {running}")


def compiled_code(subject: Subject) -> Finding:
    """Check that Python keeps what it compiles; else each process compiles every library again."""
    if os.environ.get(NO_COMPILED_CODE):
        return warning(
            f"{NO_COMPILED_CODE} is set, so each process compiles every library again, which takes seconds",
            f"Run `unset {NO_COMPILED_CODE}`, or start the platform by `make up`, which removes it.",
        )
    return ok("compiled once and kept")


def locked_versions(subject: Subject) -> Finding:
    """Check that every package of the lock is installed in the pinned version."""
    lock = subject.repository / LOCK
    fix = "Run `make install`."
    if not lock.is_file():
        return warning(f"no {LOCK} in {subject.repository}", "Install from a checkout of the repository.")
    pinned, installed = _pinned(lock), _installed()
    differing = [
        f"{name} {installed.get(name, 'is missing')} (lock: {version})"
        for name, version in pinned.items()
        if installed.get(name) != version
    ]
    if differing:
        return warning(f"{len(differing)} of {len(pinned)} packages differ from the lock: {capped(differing)}", fix)
    return ok(f"{len(pinned)} packages match the lock")


def domains(subject: Subject) -> Finding:
    """Check that every domain below `assets/` loads, with the modules and the declarations that it names.

    Another process loads them, because the modules of a domain may import anything.
    """
    if not (subject.repository / "pyproject.toml").is_file():
        return ok("none in this repository")
    found = read_declarations(subject)
    if isinstance(found, str):
        return failed(f"the domains cannot be read: {found}", "Run `dg check defs`.")
    not_loaded = found.not_loaded
    if not_loaded:
        return failed(
            "\n".join(f"{name} is left out: {text}" for name, text in not_loaded.items()),
            "Correct the files, then reload the definitions in the UI.",
        )
    return ok("all domains load")


def _pinned(lock: Path) -> dict[str, str]:
    """Return the version of each package that the lock pins for this machine, by normalized name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = re.findall(r"^([A-Za-z0-9][^\n\\]*?)\s*\\?$", lock.read_text(), flags=re.MULTILINE)
    required = [Requirement(line) for line in lines]
    return {
        canonicalize_name(each.name): next(iter(each.specifier)).version
        for each in required
        if each.marker is None or each.marker.evaluate()
    }


def _installed() -> dict[str, str]:
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        # Python imports the first one on the path if a package is installed twice.
        found.setdefault(canonicalize_name(each.name), each.version)
    return found


def accelerator(subject: Subject) -> Finding:
    """Check that the installed torch build can use the accelerators of this machine; torch is not imported."""
    from ml_platform.training.resource_usage import gpu_count, torch_has_cuda

    try:
        build = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return warning("torch is not installed, so trainers of type torch cannot run", "Run `make install`.")
    present, usable = nvidia_devices(), gpu_count()
    if present and not torch_has_cuda():
        return warning(
            f"{present} NVIDIA devices, but torch {build} is built for the CPU",
            "Install the CUDA build of the same torch version: docs/gpu.md.",
        )
    if present and not usable:
        return warning(
            f"{present} NVIDIA devices, but none is visible to this process",
            "Unset CUDA_VISIBLE_DEVICES, or correct it.",
        )
    return ok(f"{usable} accelerators, torch {build}" if usable else f"none; training uses the CPU, torch {build}")


def nvidia_devices() -> int:
    """Return the number of devices that the NVIDIA driver reports, 0 without a driver."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
