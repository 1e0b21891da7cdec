"""A model bound to its feature views, the argument of all steps.

It does not import Dagster, so the steps run and are tested without it. The component `Model` adds the assets.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from ml_platform.data.arrival import Arrival
from ml_platform.data.canonical import value_digest
from ml_platform.data.extensions import Extension, source_digests
from ml_platform.data.names import short_name
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.references import load_function
from ml_platform.data.source_hash import source_hash
from ml_platform.errors import PlatformError
from ml_platform.evaluation.fairness_gate import FairnessGate
from ml_platform.evaluation.gates import BaselineGate, Gate, SliceGate
from ml_platform.evaluation.own_gate import OwnGate
from ml_platform.evaluation.plausibility import PlausibilityGate
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.unknown_fields import columns_computed_from
from ml_platform.features.view import FeatureView as FeatureViewSettings
from ml_platform.serving.bento_locks import BentoLocks
from ml_platform.serving.request_contract import (
    LogTreatment,
    RequestContract,
)
from ml_platform.steps.model_settings import ModelSettings, ScoresSettings
from ml_platform.tasks.own_metric import Metric

REQUEST_ONLY = "request_only"
"""Name of the baseline that is fitted on request features alone, among the predictions of the evidence."""

_CONTRACT_ATTRIBUTES = {
    "request_rules": "rules",
    "max_past_minutes": "max_past_minutes",
    "on_past": "on_past",
    "deprecated": "deprecated",
}
"""Attributes of a model that its request contract has too, by their names there."""


def is_training_set(table: str) -> bool:
    """Return whether ``table`` is the training set of a model."""
    return table.startswith("models/") and table.split("/")[2] == "training_set"


class ModelWithoutTimeError(PlatformError):
    """Raised where the time of a model is needed that has none."""


class NoScoresError(PlatformError):
    """Raised where the table to score of a model is needed that declares none."""


class BoundModel:
    """A declared model with its feature views, the argument of all steps.

    ``example_pii`` are the columns of the sources of its examples that identify a person. ``schemes`` are the
    partitions of the datasets that it reads, by name (None: without partitions); a dataset that is absent has those of
    the model.
    """

    def __init__(
        self,
        declared: ModelSettings,
        views: list[FeatureViewSettings],
        example_pii: Collection[str] = (),
        schemes: Mapping[str, PartitionScheme | None] | None = None,
    ) -> None:
        self.schemes = dict(schemes or {})
        self.declared = declared
        self.views = views
        self.example_pii = frozenset(example_pii)

    @property
    def name(self) -> str:
        return self.declared.name

    @cached_property
    def feature_set(self) -> FeatureSet:
        """The feature views with their code versions, which are pinned once, when definitions are loaded."""
        return FeatureSet([view.pinned() for view in self.views])

    @cached_property
    def pii_columns(self) -> frozenset[str]:
        """Request fields and features whose values no report, message or example shows."""
        declared = {field.name for field in self.declared.request if field.pii is not None}
        return self.feature_set.pii_columns_with(self.example_pii | declared)

    @cached_property
    def pii_fields(self) -> dict[str, LogTreatment]:
        """Request fields that identify a person, with what the prediction log stores: unless declared, a hash."""
        return {field.name: field.pii or "hash" for field in self.declared.request if field.name in self.pii_columns}

    @cached_property
    def pii_features(self) -> dict[str, LogTreatment]:
        """Features that identify a person; those that are computed from a dropped field are dropped too."""
        dropped = [name for name, treatment in self.pii_fields.items() if treatment == "drop"]
        computed = columns_computed_from(self.feature_set, dropped)
        columns = {name for view in self.feature_set.views for name in view.columns}
        return {name: "drop" if name in computed else "hash" for name in sorted(self.pii_columns & columns)}

    @property
    def stored_views(self) -> list[FeatureViewSettings]:
        return self.feature_set.stored

    @property
    def arrivals(self) -> list[Arrival]:
        """The different arrivals that the sources of the stored views declare, in order."""
        found = [arrival for view in self.stored_views for arrival in view.arrivals]
        return [arrival for place, arrival in enumerate(found) if arrival not in found[:place]]

    @property
    def source_datasets(self) -> list[str]:
        """Names of the datasets that the examples, their labels and the stored views read, sorted."""
        viewed = {source.dataset for view in self.stored_views for source in view.sources}
        return sorted({*self.example_datasets, *viewed})

    @property
    def example_datasets(self) -> list[str]:
        """Names of the datasets of the examples and of their labels."""
        labels = self.declared.labels
        return [*self.declared.examples.sources, *([] if labels is None else [labels.dataset])]

    @property
    def has_time(self) -> bool:
        """Whether the examples have a time; otherwise the training set is replaced as a whole."""
        return self.declared.time is None

    @property
    def scheme(self) -> PartitionScheme | None:
        """The partitions of the training set; None for a model without time."""
        return self.declared.partitions

    @property
    def partitions(self) -> PartitionScheme:
        """The partitions of the training set; raises :class:`ModelWithoutTimeError` for a model without time."""
        if self.declared.partitions is None:
            raise ModelWithoutTimeError(
                f"Model '{self.name}'",
                expected="partitions of time",
                found="time: none",
                fix="Declare partitions and prediction_time where time is needed.",
            )
        return self.declared.partitions

    def stored_partitions(self, key: str) -> list[str] | None:
        """Return the partitions of the training set with the rows of ``key``; None: the whole table."""
        return [key] if self.has_time else None

    @property
    def kept_columns(self) -> list[str]:
        """Columns of the examples besides the request fields that the split reads, and the training set stores."""
        column = self.declared.split.split_column
        return [column] if column is not None and column not in self.request_fields else []

    def dataset_scheme(self, dataset: str) -> PartitionScheme | None:
        """Return the partitions of ``dataset``; None for a table that is replaced as a whole."""
        return self.schemes.get(dataset, self.scheme)

    def view_scheme(self, view: FeatureViewSettings) -> PartitionScheme | None:
        """Return the partitions of the change log of ``view``, which are those of its sources; None without any."""
        schemes = [self.dataset_scheme(source.dataset) for source in view.sources]
        return next((scheme for scheme in schemes if scheme is not None), None)

    def example_partitions(self, dataset: str, key: str) -> list[str] | None:
        """Return the partitions of ``dataset`` with the examples of the model's partition ``key``; None: the table.

        With other partitions than those of the model, these are the ones that begin within ``key``, so that each row
        gives an example of one partition only.
        """
        scheme = self.dataset_scheme(dataset)
        if scheme is None or not self.has_time:
            return None
        return [key] if scheme == self.partitions else scheme.starting_in(*self.partitions.bounds(key))

    @property
    def prediction_lead(self) -> timedelta:
        """Time by which a prediction is made before the time of its example."""
        declared = self.declared.prediction_time
        return timedelta() if declared is None else timedelta(minutes=declared.minutes_before)

    def predicted_in(self, key: str) -> tuple[datetime, datetime]:
        """Return the time of the predictions of the examples of ``key``: from the first to before the second instant.

        A prediction is made up to ``minutes_before`` earlier than its example.
        """
        start, end = self.partitions.bounds(key)
        return start - self.prediction_lead, end

    def label_partitions(self, key: str) -> list[str]:
        """Return the partitions of the labels that the training set of ``key`` reads, in order.

        They cover the time from its first possible prediction until the horizon of its last one is over. Partitions
        that have not landed yet are included. Empty without declared labels.
        """
        labels = self.declared.labels
        scheme = None if labels is None else self.dataset_scheme(labels.dataset)
        if labels is None or scheme is None:
            return []
        start, end = self.predicted_in(key)
        return scheme.covering(start, end + labels.wait)

    def reads_until(self, key: str) -> Callable[[str, str], bool]:
        """Return the function that tells of a dataset's partition whether it is not later than the model's ``key``."""

        labels = self.declared.labels

        def is_read(dataset: str, partition: str) -> bool:
            scheme = self.dataset_scheme(dataset)
            if scheme is None or not self.has_time or not scheme.names_key(partition):
                return True
            if labels is not None and dataset == labels.dataset:
                return scheme.bounds(partition)[0] < self.partitions.bounds(key)[1] + labels.wait
            if scheme == self.partitions:
                return not scheme.precedes(key, partition)
            return scheme.bounds(partition)[0] < self.partitions.bounds(key)[1]

        return is_read

    @cached_property
    def contract(self) -> RequestContract:
        # Only what is declared: the contract of a candidate of an earlier release stays equal.
        optional: dict[str, Any] = {
            attribute: getattr(self.declared, declared)
            for declared, attribute in _CONTRACT_ATTRIBUTES.items()
            if declared in self.declared.model_fields_set
        }
        if self.pii_features:
            optional["pii_features"] = self.pii_features
        pii = self.pii_fields
        return RequestContract(
            model=self.name,
            fields=[
                field.model_copy(update={"pii": pii[field.name]}) if field.name in pii else field
                for field in self.declared.request
            ],
            max_rows=self.declared.maximum_rows,
            prediction_time=self.declared.prediction_time,
            **optional,
        )

    @property
    def request_fields(self) -> list[str]:
        return [field.name for field in self.declared.request]

    @property
    def identity(self) -> list[str]:
        """Request fields that identify an example."""
        return self.declared.examples.identity or self.request_fields

    @cached_property
    def examples_function(self) -> Callable[[dict[str, pl.LazyFrame]], pl.LazyFrame]:
        """The declared function, which gets its sources without their domains."""
        return self._function_of_sources(self.declared.examples.function)

    def _function_of_sources(self, reference: str) -> Callable[[dict[str, pl.LazyFrame]], pl.LazyFrame]:
        function = load_function(reference)

        def rows_of(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
            rows: pl.LazyFrame = function({short_name(name): frame for name, frame in sources.items()})
            return rows

        return rows_of

    @property
    def scored(self) -> ScoresSettings:
        """The declared table to score; raises :class:`NoScoresError` for a model without one."""
        if self.declared.scores is None:
            raise NoScoresError(
                f"Model '{self.name}'",
                expected="a table to score",
                found="no attribute 'scores'",
                fix="Declare scores.dataset in the model's defs.yaml.",
            )
        return self.declared.scores

    @cached_property
    def scored_rows_function(self) -> Callable[[dict[str, pl.LazyFrame]], pl.LazyFrame]:
        """The function that returns the rows to score of the dataset, which it gets without its domain."""
        if self.scored.function is None:
            return lambda sources: next(iter(sources.values()))
        return self._function_of_sources(self.scored.function)

    @property
    def scored_columns(self) -> list[str]:
        """Columns of the rows to score that the scores repeat."""
        return list(dict.fromkeys([*self.identity, *self.scored.keep]))

    @property
    def scores_scheme(self) -> PartitionScheme | None:
        """The partitions of the scores, which are those of their dataset; None: they are replaced as a whole."""
        return self.dataset_scheme(self.scored.dataset)

    @property
    def gates(self) -> list[Gate]:
        """The declared gates, and a baseline and a plausibility gate if none is declared.

        A candidate must always beat the baselines, and must never be too good to be true.
        """
        gates, types = list(self.declared.gates), {gate.type for gate in self.declared.gates}
        if "baseline" not in types:
            # A gate whose metric is set compares that metric only; the default adds one for rare positives.
            default, metric = BaselineGate(), self.declared.task.baseline_metric
            gates.append(default if default.metric == metric else BaselineGate.model_validate({"metric": metric}))
        return gates if "plausibility" in types else [*gates, PlausibilityGate()]

    @property
    def primary_metric(self) -> str:
        """Metric that chooses the best of several candidates."""
        return self.declared.evaluation.primary_metric or self.declared.task.primary_metric

    def locks(self, repository: Path) -> BentoLocks:
        """Return the lock files of a bento of the model; its domain is the one of the examples function."""
        return BentoLocks.of(repository, self.declared.examples.function)

    @property
    def maximum_looks(self) -> int:
        """Highest number of looks at one candidate."""
        return self.declared.maximum_looks

    @property
    def own_metrics(self) -> dict[str, Metric]:
        """Metrics of the team's own by name."""
        return self.declared.evaluation.metrics

    @property
    def own_primary_metric(self) -> dict[str, Metric]:
        """The primary metric by its name if it is one of the team's own, else nothing."""
        return {name: each for name, each in self.own_metrics.items() if name == self.primary_metric}

    @property
    def slice_fields(self) -> list[str]:
        """Request fields that define slices: the declared ones, then those of the gates on slices and on fairness."""
        gated = [column for gate in self.gates if isinstance(gate, SliceGate) for column in gate.columns]
        groups = [column for gate in self.fairness_gates for column in gate.groups]
        return list(dict.fromkeys([*self.declared.evaluation.slices, *gated, *groups]))

    @property
    def fairness_gates(self) -> list[FairnessGate]:
        """The declared gates on fairness, which are measured on realised outcomes too."""
        return [gate for gate in self.declared.gates if isinstance(gate, FairnessGate)]

    @property
    def request_only(self) -> list[str]:
        """Names of the views of the request-only baseline; empty when the model has none, or is the baseline itself."""
        return [] if self.is_request_only else self._request_only_views

    @property
    def is_request_only(self) -> bool:
        """Whether all features are those of the request-only baseline, which then is the model itself."""
        views = [view.name for view in self.feature_set.views if view.feature_names]
        return bool(self._request_only_views) and set(views) <= set(self._request_only_views)

    @property
    def _request_only_views(self) -> list[str]:
        views = self.feature_set.views
        plain = [view.name for view in views if view.kind == "request" and not view.inputs]
        return self.declared.evaluation.request_only or plain

    @property
    def evaluation_code_version(self) -> str:
        """Return ``<digest of trainers and code>-<digest of the declaration>`` of the evaluation.

        The first digest covers the declared trainers, and the team's own gates, metrics and baselines with their
        settings. The evaluation chooses among the candidates of the trainers, and the plan sees no input that is gone.
        The second covers the rules of the verdict: gates, task, comparison and rejudging.
        """
        trainers = sorted(self.declared.trainers)
        classes = source_digests({str(at): each for at, each in enumerate(self._own_of_evaluation)})
        code = value_digest([trainers, classes] if classes else trainers)[:12]
        return f"{code}-{value_digest(self.evaluation_settings)[:8]}"

    @property
    def evaluation_functions(self) -> list[str]:
        """The classes of the team's own that the evaluation uses, as ``package.module:Class``."""
        return [each.reference for each in self._own_of_evaluation]

    @property
    def evaluation_settings(self) -> dict[str, Any]:
        """The declared settings on which a verdict rests, by attribute of the model."""
        evaluation = self.declared.evaluation.model_dump(mode="json", exclude_defaults=True)
        return {
            "trainers": sorted(self.declared.trainers),
            "gates": [gate.model_dump(mode="json", exclude_defaults=True) | {"type": gate.type} for gate in self.gates],
            "task": self.declared.task.model_dump(mode="json"),
            **{f"evaluation.{name}": value for name, value in evaluation.items()},
        }

    @property
    def _own_of_evaluation(self) -> list[Extension]:
        evaluation = self.declared.evaluation
        gates = [gate for gate in self.gates if isinstance(gate, OwnGate)]
        return [*gates, *evaluation.metrics.values(), *evaluation.baselines.values()]

    @property
    def table(self) -> str:
        """Lake table of the training set; each code version has its own table, because its columns follow the views."""
        return f"models/{self.name}/training_set/{self.code_version}"

    def pinned_training_set(self, tables: Mapping[str, int]) -> tuple[str, int]:
        """Return table and version of the training set among the ``tables`` that a manifest pins.

        The table has the name that the model had when it was trained.
        """
        return next((name, version) for name, version in tables.items() if is_training_set(name))

    @property
    def code_version(self) -> str:
        """Digest of the code of the training set: examples, views, request fields, declared arrivals and labels."""
        views = {view.name: view.code_version for view in self.feature_set.views}
        arrivals = {view.name: [each.timing for each in view.arrivals] for view in self.views if view.arrivals}
        labels = self.declared.labels
        parts = [source_hash(self.declared.examples.function), views, self.request_fields]
        # Without arrivals and labels of their own, the digest is that of earlier releases.
        declared = [*([arrivals] if arrivals else []), *([] if labels is None else [labels.model_dump(mode="json")])]
        return value_digest([*parts, *declared])[:12]

    @property
    def versioned_settings(self) -> dict[str, Any]:
        """What :attr:`code_version` covers besides the examples function, by attribute of the model or by view."""
        views = {f"features/{view.name}": view.code_version for view in self.feature_set.views}
        arrivals = {f"arrival of features/{view.name}": [each.timing for each in view.arrivals] for view in self.views}
        labels = self.declared.labels
        declared = {
            "request": self.request_fields,
            "labels": None if labels is None else labels.model_dump(mode="json"),
        }
        return {**views, **arrivals, **declared}
