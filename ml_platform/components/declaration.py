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

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, PrivateAttr

from ml_platform.data.partitions import MonthlyPartitions, shift_month
from ml_platform.data.references import FunctionNotFoundError, load_function
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed

ALL_EARLIER_MONTHS = -1200
"""A hundred years, because the partition mapping of Dagster needs a finite number of months."""


class DeclarationError(PlatformError):
    """Raised for a well-formed declaration with a wrong value, such as a missing function or an unknown name."""


class Declaration(dg.Component, Settings):
    """A Dagster component whose attributes are a strict settings model."""

    _project_root: Path | None = PrivateAttr(default=None)
    _positions: Any = PrivateAttr(default=None)

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return cls

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        # For a document without attributes, dg passes None. Validating {} names the missing attributes.
        declared = cls.model_validate({}) if attributes is None else attributes
        if not isinstance(declared, cls):
            raise TypeError(f"{cls.__name__}.load expects a {cls.__name__} or None, got {type(attributes).__name__}")
        declared._project_root = context.project_root
        declared._positions = context.resolution_context.source_position_tree
        return declared

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


def partitions_definition(months: MonthlyPartitions) -> dg.TimeWindowPartitionsDefinition:
    """Return Dagster's partitions for declared months, with names like 2013-06.

    All components use this function, because Dagster maps partitions one to one only between equal definitions.
    """
    return dg.MonthlyPartitionsDefinition(
        start_date=months.start,
        end_date=shift_month(months.end, 1) if months.end else None,
        timezone=months.time_zone,
        fmt="%Y-%m",
    )


def this_and_earlier_months() -> dg.TimeWindowPartitionMapping:
    """Return the mapping of a month to the same month and all earlier months of its input."""
    return dg.TimeWindowPartitionMapping(start_offset=ALL_EARLIER_MONTHS, allow_nonexistent_upstream_partitions=True)


def on_new_inputs() -> dg.AutomationCondition[Any]:
    """Return the condition that materializes an asset, month by month, when its inputs are new.

    Unlike Dagster's `eager`, it covers all months and not only the latest one of the calendar. It waits for blocking
    checks, and it includes partitions that were missing before the daemon first ran. A failed partition is not
    requested again until an input changes.
    """
    condition = dg.AutomationCondition
    updated = (condition.any_deps_updated() | condition.newly_missing()).since_last_handled()
    missing = condition.missing() & ~condition.execution_failed()
    ready = ~condition.any_deps_missing() & ~condition.any_deps_in_progress() & ~condition.in_progress()
    return ((updated | missing) & ready & condition.all_deps_blocking_checks_passed()).with_label("on new inputs")
