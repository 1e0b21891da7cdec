"""The base class of the components: a strictly validated declaration that knows its file and line in defs.yaml.

A component is written like this::

    class Dataset(Declaration):
        \"\"\"One line for `dg list components`; the rest for `dg docs`.\"\"\"

        name: str = Field(description="…")              # each attribute has a type and a description
        contract: Contract = Field(description="…")      # nested models subclass ml_platform.data.settings.Settings

        def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
            loader = self.function_at("loader", self.loader)  # 'package.module:function'
            …
            raise self.error_at(["contract", "columns", 3, "type"], expected="…", found="…", fix="…")

A defs.yaml may hold several documents; each is one component with its own lines::

    type: ml_platform.Dataset
    attributes:
      name: orders
    ---
    type: ml_platform.Dataset
    attributes:
      name: weather

Attributes do not support Dagster's `{{ … }}` templates. A template allows every field to be a string, and then
`dg check yaml` accepts `keys: 12`. `dg check yaml` checks only the last document of each component type (a limit of
dg 1.13); `dg check defs` and every load check all documents.
"""

import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

import dagster as dg
from pydantic import BaseModel, PrivateAttr

from ml_platform.components.namespace import Namespace
from ml_platform.components.overlay import read_overlay
from ml_platform.data.cadences import CALENDARS
from ml_platform.data.domains import DOMAIN_FILE, DomainSettings
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.references import FunctionNotFoundError, load_function
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed

HOURS: dict[str, int] = {"hour": 1, "day": 23, "week": 167, "month": 672, "quarter": 2159, "year": 8760}
"""Length of the shortest partition of each cadence in hours; clocks change within some of them."""

EQUAL_HOURS: dict[str, int] = {"hour": 1, "day": 24, "week": 168}
"""Length in hours of the cadences whose partitions are equally long but for changes of the clock."""

OnCodeChange = Literal["automatic", "manual"]
"""Whether automation makes an asset again when its code version changes, or only a person does."""

EARLIEST = timedelta(days=36_500)
"""A hundred years, because the partition mapping of Dagster needs a finite number of partitions."""


class DeclarationError(PlatformError):
    """Raised for a well-formed declaration with a wrong value, such as a missing function or an unknown name."""


class Declaration(dg.Component, Settings):
    """A Dagster component whose attributes are a strict settings model."""

    _project_root: Path | None = PrivateAttr(default=None)
    _positions: Any = PrivateAttr(default=None)
    _namespace: Namespace | None = PrivateAttr(default=None)

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return cls

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        # For a document without attributes, dg passes None. Validating {} names the missing attributes.
        declared = cls.model_validate({}) if attributes is None else attributes
        if not isinstance(declared, cls):
            raise TypeError(f"{cls.__name__}.load expects a {cls.__name__} or None, got {type(attributes).__name__}")
        declared = read_overlay().applied(declared)
        declared._project_root = context.project_root
        declared._positions = context.resolution_context.source_position_tree
        declared._namespace = Namespace.at(context.path, context.defs_module_path)
        declared.resolve_names(declared._namespace)
        return declared

    def resolve_names(self, namespace: Namespace) -> None:
        """Replace the names in the declaration by full names of ``namespace``."""

    @property
    def repository(self) -> Path | None:
        """The root of the project; None for a component that was created in Python."""
        return self._project_root

    @property
    def domain(self) -> str:
        """The folder directly below `assets/` with the declaration; empty for one that was created in Python."""
        return "" if self._namespace is None else self._namespace.domain

    @property
    def domain_settings(self) -> DomainSettings:
        """The settings of the domain; the defaults for a component that was created in Python."""
        return DomainSettings() if self._namespace is None else self._namespace.settings

    def owners_or_those_of_domain(self, owners: list[str]) -> list[str]:
        """Return ``owners``, or those of the domain; raises :class:`DeclarationError` if neither has one."""
        found = owners or list(self.domain_settings.owners)
        if not found:
            raise self.error_at(
                ["owners"],
                expected="responsible people or teams, here or for the whole domain",
                found="none",
                fix=f"Declare owners, or 'owners' in {self.domain}/{DOMAIN_FILE}.",
            )
        return found

    def line(self, *path: str | int) -> str:
        """Return ``assets/…/defs.yaml:31`` for the attribute at ``path``, or for its nearest ancestor in the file.

        For a component that was created in Python, without a file, return the name of its class.
        """
        if self._positions is None:
            return type(self).__name__
        position, _ = self._positions.lookup_closest_and_path(["attributes", *path], None)
        file = Path(position.filename)
        if self._project_root is not None and file.is_relative_to(self._project_root):
            file = file.relative_to(self._project_root)
        return f"{file}:{position.start.line}"

    def error_at(self, path: Sequence[str | int], *, expected: str, found: str, fix: str) -> DeclarationError:
        """Return the error for the attribute at ``path``, which begins with file and line. The caller raises it."""
        attribute = ".".join(str(part) for part in path)
        return DeclarationError(f"{self.line(*path)}, attribute '{attribute}'", expected=expected, found=found, fix=fix)

    def unknown_name_error(
        self, path: Sequence[str | int], name: str, known: Sequence[str], kind: str
    ) -> DeclarationError:
        """Return the error for an unknown ``name`` at ``path``; it lists and suggests ``known`` names.

        ``kind`` describes the expected name, for example "a column of the contract".
        """
        near = did_you_mean(name, known)
        fix = near.strip() or "Correct the name."
        return self.error_at(path, expected=f"{kind} ({listed(known)})", found=f"'{name}'", fix=fix)

    def function_at(self, attribute: str, reference: str) -> Callable[..., Any]:
        """Return the function that ``attribute`` names as ``package.module:function``.

        Raises :class:`DeclarationError` with file and line if the function does not exist.
        """
        try:
            return load_function(reference)
        except FunctionNotFoundError as error:
            raise self.error_at(
                attribute.split("."), expected=error.expected, found=error.found, fix=error.fix
            ) from error


_DAGSTER_CLASSES: dict[str, Callable[..., dg.TimeWindowPartitionsDefinition]] = {
    "hour": dg.HourlyPartitionsDefinition,
    "day": dg.DailyPartitionsDefinition,
    "week": dg.WeeklyPartitionsDefinition,
    "month": dg.MonthlyPartitionsDefinition,
}
"""Dagster's classes by cadence; Dagster stores the name of the class, so a home keeps its status of partitions."""


def partitions_definition(partitions: PartitionScheme) -> dg.PartitionsDefinition[str]:
    """Return Dagster's partitions for a declared scheme, with the same keys.

    All components use this function, because Dagster maps partitions one to one only between equal definitions.
    """
    if not partitions.is_timed:
        return dg.StaticPartitionsDefinition(partitions.names)
    end = partitions.shift(partitions.end, 1) if partitions.end else None
    zone, form = partitions.time_zone, partitions.calendar.form
    if partitions.cadence in _DAGSTER_CLASSES:
        return _DAGSTER_CLASSES[partitions.cadence](start_date=partitions.first, end_date=end, timezone=zone, fmt=form)
    cron = partitions.calendar.cron
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule=cron, start=partitions.first, end=end, timezone=zone, fmt=form
    )


def scheme_of(definition: dg.PartitionsDefinition[str] | None) -> PartitionScheme | None:
    """Return the scheme of partitions that :func:`partitions_definition` made; None for an asset without partitions.

    Raises :class:`TypeError` for other partitions.
    """
    if definition is None:
        return None
    if isinstance(definition, dg.StaticPartitionsDefinition):
        return PartitionScheme(cadence="names", names=list(definition.get_partition_keys()))
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        for cadence, calendar in CALENDARS.items():
            if (calendar.cron, calendar.form) == (definition.cron_schedule, definition.fmt):
                keys = PartitionScheme(
                    cadence=cadence,
                    start=definition.start.strftime(definition.fmt),
                    time_zone=definition.timezone,
                )
                if definition.end is None:
                    return keys
                return keys.model_copy(update={"end": keys.shift(keys.key_at(definition.end), -1)})
    raise TypeError(f"expected partitions of a declared scheme, found {definition}")


def partition_mapping(
    upstream: PartitionScheme | None,
    downstream: PartitionScheme | None,
    *,
    reach: timedelta = timedelta(),
    ahead: timedelta = timedelta(),
) -> dg.PartitionMapping | None:
    """Return the mapping of a partition to those of its input: all that overlap its time, and some before and after.

    ``reach`` is the time before the partition, and ``ahead`` the time after it, both rounded up to whole partitions of
    the consumer. Partitions of the input that do not exist yet are allowed.

    None stands for Dagster's own mapping: between equal partitions, or where one side has none. Partitions that cannot
    be compared, such as names with days or two time zones, depend on all partitions of the input.
    """
    if upstream is None or downstream is None or (upstream == downstream and not reach and not ahead):
        return None
    if not (upstream.is_timed and downstream.is_timed) or upstream.time_zone != downstream.time_zone:
        return dg.AllPartitionMapping()
    steps = math.ceil(reach / timedelta(hours=HOURS[downstream.cadence]))
    return dg.TimeWindowPartitionMapping(
        start_offset=-steps, end_offset=_steps_ahead(ahead, downstream), allow_nonexistent_upstream_partitions=True
    )


def _steps_ahead(ahead: timedelta, partitions: PartitionScheme) -> int:
    """Return the highest number of ``partitions`` that a time of the length ``ahead`` touches from their beginning."""
    if partitions.cadence not in EQUAL_HOURS:
        return math.ceil(ahead / timedelta(hours=HOURS[partitions.cadence]))
    # Where clocks change, one hour more than the nominal length may be needed.
    change = timedelta(hours=0 if not ahead or partitions.time_zone == "UTC" or partitions.cadence == "hour" else 1)
    return math.ceil((ahead + change) / timedelta(hours=EQUAL_HOURS[partitions.cadence]))


def this_and_earlier(partitions: PartitionScheme) -> dg.PartitionMapping:
    """Return the mapping of a partition to the same partition and all earlier ones of an input with equal partitions.

    Names have no mapping of this kind in Dagster, so they depend on all names.
    """
    return partition_mapping(partitions, partitions, reach=EARLIEST) or dg.AllPartitionMapping()


def on_new_inputs(
    optional: Sequence[dg.AssetKey] = (),
    *,
    on_code_change: OnCodeChange = "automatic",
    code: Sequence[dg.AssetKey] = (),
) -> dg.AutomationCondition[Any]:
    """Return the condition that materializes an asset, partition by partition, when its inputs are new.

    Unlike Dagster's `eager`, it covers all partitions and not only the latest one of the calendar. It waits for
    blocking checks, and it includes partitions that were missing before the daemon first ran. A failed partition is not
    requested again until an input changes. It does not wait for missing partitions of the inputs ``optional``.

    A changed code version is a reason too if ``on_code_change`` is automatic. The asset waits for those of its inputs
    ``code`` whose own code version has changed, because they have a table for each version.
    """
    condition = dg.AutomationCondition
    absent = condition.any_deps_missing()
    if optional:
        absent = absent.ignore(dg.AssetSelection.assets(*optional))
    changed: dg.AutomationCondition[Any] = condition.any_deps_updated() | condition.newly_missing()
    if on_code_change == "automatic":
        changed |= condition.code_version_changed()
    updated = changed.since_last_handled()
    missing = condition.missing() & ~condition.execution_failed()
    ready = ~absent & ~condition.any_deps_in_progress() & ~condition.in_progress()
    if code:
        outdated = condition.code_version_changed().since(condition.newly_updated())
        ready &= ~condition.any_deps_match(outdated).allow(dg.AssetSelection.assets(*code))
    return ((updated | missing) & ready & condition.all_deps_blocking_checks_passed()).with_label("on new inputs")


def on_changed_code() -> dg.AutomationCondition[Any]:
    """Return the condition that materializes each materialized partition again when the code version changes."""
    condition = dg.AutomationCondition
    changed: dg.AutomationCondition[Any] = condition.code_version_changed()
    materialized: dg.AutomationCondition[Any] = ~condition.missing() & ~condition.in_progress()
    return (changed.since_last_handled() & materialized).with_label("on changed code")
