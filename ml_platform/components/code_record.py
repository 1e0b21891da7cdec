"""Functions and declared settings that the code version of an asset covers, as metadata and as a record.

A code version is a digest, so it cannot tell what has changed. The first run with a version stores the digest of each
part of it, and a later plan compares these with the parts of today.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.materializations import COVERED_CODE
from ml_platform.data.canonical import value_digest
from ml_platform.data.code_dependencies import code_dependencies
from ml_platform.state.cursors import cursors_below, delete_cursors, read_cursor, write_cursor
from ml_platform.state.store import now_text

if TYPE_CHECKING:
    from ml_platform.state.store import StateStore

ENGINE = f"{__name__.partition('.')[0]}."
"""Begin of the names of the engine's modules."""

VERSIONS_KEPT = 10
"""Number of versions of an asset whose parts are kept."""


def code_metadata(
    functions: Iterable[str], declared: Mapping[str, Any], leave_out: Iterable[str] = ()
) -> dg.JsonMetadataValue:
    """Return the value of the metadata key ``covered_code`` for a version of ``functions`` and ``declared`` settings.

    ``functions`` and ``leave_out`` are entry points of :func:`~ml_platform.data.code_dependencies.code_digest`.
    """
    settings = {name: value_digest(value)[:8] for name, value in sorted(declared.items())}
    return dg.MetadataValue.json(
        {"functions": sorted(functions), "declared": settings, "left_out": sorted(leave_out)},
    )


def record_code(context: dg.AssetExecutionContext, state: "StateStore") -> None:
    """Store the parts of the code version of the running asset, unless they are stored.

    The parts of the :data:`VERSIONS_KEPT` latest versions are kept.
    """
    key, asset = context.asset_key, context.assets_def
    version, metadata = asset.code_versions_by_key[key], asset.metadata_by_key[key]
    if version is None or COVERED_CODE not in metadata or read_cursor(state, _name(key, version)) is not None:
        return
    write_cursor(state, _name(key, version), {"at": now_text(), **_parts(metadata[COVERED_CODE].value)})
    kept = cursors_below(state, _name(key, ""))
    oldest = sorted(kept, key=lambda name: str(kept[name]["at"]))[:-VERSIONS_KEPT]
    delete_cursors(state, (_name(key, name) for name in oldest))


def code_changes(key: dg.AssetKey, metadata: Mapping[str, Any], made_by: str, state: "StateStore") -> str:
    """Return which functions and settings of the asset ``key`` differ from those of its version ``made_by``.

    ``metadata`` is that of the asset today. Empty if no run has recorded the version.
    """
    before = read_cursor(state, _name(key, made_by))
    if before is None or COVERED_CODE not in metadata:
        return ""
    now = _parts(metadata[COVERED_CODE].value)
    code = _differences(before["code"], now["code"])
    declared = _differences(before["declared"], now["declared"])
    found = [("its code changed", code), ("its declaration changed", declared)]
    return ", and ".join(f"{what}: {_listed(names)}" for what, names in found if names)


def _name(key: dg.AssetKey, version: str) -> str:
    return f"covered_code/{key.to_user_string()}/{version}"


def _parts(covered: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the digests of definitions and settings; the engine counts by module, because a fit uses most of it."""
    code: dict[str, str] = {}
    engine: dict[str, list[str]] = {}
    for name, digest in sorted(code_dependencies(covered["functions"], covered["left_out"]).items()):
        if name.startswith(ENGINE):
            engine.setdefault(name.partition(":")[0].partition(" ")[0], []).append(f"{name} {digest}")
        else:
            code[name] = digest[:12]
    code |= {module: value_digest(digests)[:12] for module, digests in engine.items()}
    return {"code": code, "declared": dict(covered["declared"])}


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the changed parts; if none has changed, those that were added or removed."""
    changed = [name for name in before if name in now and before[name] != now[name]]
    return sorted(changed or set(before) ^ set(now))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
