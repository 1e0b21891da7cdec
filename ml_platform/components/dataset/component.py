"""The component `Dataset`: the asset `datasets/<name>` with its checks, and its landing sensor."""

import dagster as dg
from pydantic import ValidationError

from ml_platform.components.dataset.declaration import DatasetDeclaration
from ml_platform.components.dataset.landing_sensor import landing_sensor
from ml_platform.components.dataset.scaffolder import DatasetScaffolder
from ml_platform.components.dataset.source_sensor import source_sensor
from ml_platform.components.dataset.table import table
from ml_platform.data.partitions import WHOLE
from ml_platform.data.sources.function import FunctionSource


@dg.scaffold_with(DatasetScaffolder)
class Dataset(DatasetDeclaration):
    """A table in the lake, read from landed files or a source, and published only if its contract is met."""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        self._require_known_columns()
        self._require_known_expectations()
        self._require_time()
        self._require_arrival()
        self._require_quality()
        self._require_loader_or_source()
        sensor = source_sensor(self, self.source) if self.source else landing_sensor(self)
        return dg.Definitions(assets=[table(self)], sensors=[sensor])

    def _require_loader_or_source(self) -> None:
        if self.loader is not None:
            self.function_at("loader", self.loader)
        elif self.source is None:
            raise self.error_at(
                ["name"],
                expected="a loader, or a source with the columns of the contract",
                found="neither",
                fix="Declare `loader: package.module:function` or `source`.",
            )
        elif self.lookups:
            raise self.error_at(
                ["lookups"], expected="a loader that receives them", found="no loader", fix="Declare `loader`."
            )
        if isinstance(self.source, FunctionSource):
            for attribute in ("function", "fingerprint_function"):
                reference = getattr(self.source, attribute)
                if reference is not None:
                    self.function_at(f"source.{attribute}", reference)

    def _require_known_columns(self) -> None:
        known = self.contract.column_names
        named: list[tuple[list[str | int], str]] = [(["keys", place], key) for place, key in enumerate(self.keys)]
        named += [(["event_time"], self.event_time)] if self.event_time else []
        for path, column in named:
            if column not in known:
                raise self.unknown_name_error(path, column, known, "a column of the contract")
        unordered = {rule.name: rule.type for rule in self.contract.columns if not rule.has_order}
        for place, key in enumerate(self.keys):
            if key in unordered:
                raise self.error_at(
                    ["keys", place],
                    expected="a key with one value in each row",
                    found=f"column '{key}' of type {unordered[key]}",
                    fix="Name a column of another type; vectors, lists and binaries identify no row.",
                )

    def _require_time(self) -> None:
        if self.partitions is None or self.partitions.is_timed:
            return
        for attribute in ("event_time", "retention_months"):
            if getattr(self, attribute) is not None:
                raise self.error_at(
                    [attribute],
                    expected="partitions with a time",
                    found=self.partitions.describe(),
                    fix=f"Remove {attribute}, or declare a cadence of time.",
                )

    def _require_arrival(self) -> None:
        if self.arrival is None:
            return
        if self.partitions is None or not self.partitions.is_timed:
            raise self.error_at(
                ["arrival"],
                expected="partitions with a time",
                found=self.partitions.describe() if self.partitions else "none",
                fix="Remove arrival, or declare partitions with a cadence of time.",
            )
        types = {rule.name: rule.type for rule in self.contract.columns}
        for place, column in enumerate(self.arrival.clock):
            if types.get(column) != "timestamp":
                known = [name for name, found in types.items() if found == "timestamp"]
                raise self.unknown_name_error(["arrival", "clock", place], column, known, "a timestamp of the contract")
        try:
            _ = self.arrival_in_zone
        except ValidationError as error:
            raise self.error_at(
                ["arrival", "every"],
                expected=f"periods that the time zone {self.partitions.time_zone} has",
                found=str(self.arrival.every),
                fix=error.errors()[0]["msg"],
            ) from None

    def _require_quality(self) -> None:
        known = self.contract.column_names
        for place, column in enumerate(self.quality.expected_to_change):
            if column not in known:
                path: list[str | int] = ["quality", "expected_to_change", place]
                raise self.unknown_name_error(path, column, known, "a column of the contract")
        named = [(["quality", "accepted"], each) for each in self.quality.accepted]
        named += [(["quality", "usual_from"], self.quality.usual_from)] if self.quality.usual_from else []
        for attribute, name in named:
            if self.partitions is None and name != WHOLE:
                raise self.unknown_name_error([*attribute], name, [WHOLE], "the name of a table without partitions")
            if self.partitions is not None and not self.partitions.contains(name):
                raise self.error_at(
                    [*attribute],
                    expected=self.partitions.describe(),
                    found=f"'{name}'",
                    fix="Name one of these.",
                )

    def _require_known_expectations(self) -> None:
        from ml_platform.data.expectations import known_expectations

        known = known_expectations() if self.contract.expectations else []
        for place, each in enumerate(self.contract.expectations):
            if each.expectation not in known:
                path: list[str | int] = ["contract", "expectations", place, "expectation"]
                raise self.unknown_name_error(path, each.expectation, known, "an expectation of Great Expectations")
