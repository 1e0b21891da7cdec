"""Pins of table versions: the lake keeps the versions that a registered model was trained on, for its reproduction."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ml_platform.data.lake_catalog import LakeCatalog
from ml_platform.registry.manifest import ManifestError
from ml_platform.registry.models import ModelError
from ml_platform.registry.outbox import is_connection_error
from ml_platform.steps.platform_stores import PlatformStores

HOLDER_PREFIX = "model/"


@dataclass
class PinReport:
    """The holders that :func:`pin_registered_versions` added, and one text for each version that it could not pin.

    ``complete`` is False when the artifact store could not be reached, so that versions may lack their pins.
    """

    added: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    complete: bool = True


def pin_holder(model: str, content_digest: str) -> str:
    """Return the holder of the pins of a version: its model and the digest of its content."""
    return f"{HOLDER_PREFIX}{model}/{content_digest}"


def pin_tables(catalog: LakeCatalog, model: str, content_digest: str, tables: Mapping[str, int]) -> None:
    """Keep the versions of ``tables`` that the version with ``content_digest`` was trained on."""
    catalog.pin(tables.items(), pin_holder(model, content_digest))


def pin_registered_versions(stores: PlatformStores) -> PinReport:
    """Pin the tables of every registered version without pins, and return what was added.

    Homes of earlier releases have no pins, and a training that was killed after its registration has set none. A
    version whose manifest cannot be read is reported; its tables stay as long as others.
    """
    catalog, registry = stores.lake.catalog, stores.registry
    report, pinned = PinReport(), set(catalog.pins())
    for model in registry.names():
        for version in registry.versions(model):
            holder = pin_holder(model, version.content_digest)
            if holder in pinned:
                continue
            try:
                tables = registry.manifest(version).tables
            except (ModelError, ManifestError) as error:
                report.problems.append(str(error))
                report.complete &= not is_connection_error(error)
                continue
            known = {table: number for table, number in tables.items() if catalog.table(table) is not None}
            catalog.pin(known.items(), holder)
            if known:
                report.added.append(holder)
    return report
