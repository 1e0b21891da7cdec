"""Writes the bill of materials of a bento: its libraries with version, licence and hashes, as CycloneDX JSON.

It is beside the code in the bento's folder, so that the signature covers it, and it has no time and no random number:
equal libraries give an equal file.
"""

import importlib.metadata
import json
import platform
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ml_platform.serving.bento_locks import BentoLocks

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

SBOM_FILE = "sbom.cdx.json"
"""Name of the bill of materials in the folder of a bento."""

PINNED_BY = "ml_platform:pinned_by"
"""Property of a library: `bento` when the bento requires exactly this version, `lock` for one that it brings along."""

MAX_HASHES = 4
"""Number of files of a library up to which their hashes are listed.

A library with a wheel for each system has up to a hundred; its hashes are in the lock only, since they would be nine
tenths of the file.
"""

MAX_LICENCE_CHARACTERS = 100
"""Some packages have the text of their licence where its name belongs."""


def write_sbom(bento: Path, requirements: Iterable[str], locks: BentoLocks, *, model: str, name: str) -> None:
    """Write the bill of materials of the bento ``name`` of ``model`` to its folder ``bento``.

    ``requirements`` are the pins of the bento. The libraries that these require are listed in the versions of
    ``locks``; a library that is in no lock has the installed version.
    """
    from cyclonedx.output.json import JsonV1Dot6

    (bento / SBOM_FILE).write_text(JsonV1Dot6(_bill(list(requirements), locks, model, name)).output_as_string())


def library_count(bento: Path) -> int:
    """Return the number of libraries in the bill of materials of ``bento``."""
    return len(json.loads((bento / SBOM_FILE).read_bytes()).get("components", []))


def libraries(requirements: Iterable[str], pins: Mapping[str, str]) -> dict[str, tuple[str, list[str]]]:
    """Return version and direct requirements of each library that ``requirements`` need, by name, sorted.

    The requirements of a library are those of its installed distribution, for the running interpreter.
    """
    versions = {canonicalize_name(Requirement(each).name): _pinned(Requirement(each)) for each in requirements}
    found: dict[str, tuple[str, list[str]]] = {}
    ahead = [(name, frozenset(Requirement(each).extras)) for name, each in zip(versions, requirements, strict=True)]
    seen = set()
    while ahead:
        name, extras = ahead.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        needed = _requirements(name, extras)
        version = versions.get(name) or pins.get(name) or _installed_version(name)
        before = found.get(name, ("", []))[1]
        names = {canonicalize_name(each.name) for each in needed}
        found[name] = (version, sorted({*before, *names}))
        ahead += [(canonicalize_name(each.name), frozenset(each.extras)) for each in needed]
    return dict(sorted(found.items()))


def _bill(requirements: list[str], locks: BentoLocks, model: str, name: str) -> Any:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType

    found, hashes = libraries(requirements, locks.pins()), locks.hashes()
    direct = {canonicalize_name(Requirement(each).name) for each in requirements}
    root = Component(name=model, version=name, type=ComponentType.APPLICATION, bom_ref=f"{model}:{name}")
    root.properties.update(_properties({"ml_platform:python": platform.python_version()}))
    components = {
        library: _component(library, version, hashes.get(library, []), pinned=library in direct)
        for library, (version, _) in found.items()
    }
    metadata = BomMetaData(component=root)
    metadata.timestamp = None  # type: ignore[assignment] # optional in the format; the library sets the time of now
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{model}:{name}")
    bill = Bom(components=components.values(), metadata=metadata, serial_number=serial)
    bill.register_dependency(root, [components[library] for library in sorted(direct)])
    for library, (_, needed) in found.items():
        bill.register_dependency(components[library], [components[each] for each in needed])
    return bill


def _component(library: str, version: str, hashes: list[str], *, pinned: bool) -> "Component":
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    purl = PackageURL("pypi", name=library, version=version)
    component = Component(name=library, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl))
    component.licenses.update(_licences(library))
    component.properties.update(_properties({PINNED_BY: "bento" if pinned else "lock"}))
    if 0 < len(hashes) <= MAX_HASHES:
        component.external_references.add(
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(str(purl)),
                comment="Files that the lock accepts.",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in hashes],
            )
        )
    return component


def _properties(values: Mapping[str, str]) -> list[Any]:
    from cyclonedx.model import Property

    return [Property(name=name, value=value) for name, value in values.items()]


def _licences(library: str) -> list[Any]:
    """Return the licence that the installed distribution declares: as SPDX expression, by name, or by classifier."""
    from cyclonedx.factory.license import LicenseFactory

    try:
        metadata: Any = importlib.metadata.metadata(library)
    except importlib.metadata.PackageNotFoundError:
        return []
    named = metadata.get("License-Expression") or metadata.get("License") or ""
    classifiers = [
        each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier") or [] if each.startswith("License ::")
    ]
    short = named and "\n" not in named and len(named) <= MAX_LICENCE_CHARACTERS
    return [LicenseFactory().make_from_string(each) for each in ([named] if short else classifiers)]


def _requirements(library: str, extras: frozenset[str]) -> list[Requirement]:
    try:
        declared = map(Requirement, importlib.metadata.requires(library) or [])
    except importlib.metadata.PackageNotFoundError:
        return []
    environments: list[dict[str, str]] = [{"extra": extra} for extra in ("", *sorted(extras))]
    return [
        each for each in declared if each.marker is None or any(each.marker.evaluate(given) for given in environments)
    ]


def _pinned(requirement: Requirement) -> str:
    return next((each.version for each in requirement.specifier if each.operator == "=="), "")


def _installed_version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""
