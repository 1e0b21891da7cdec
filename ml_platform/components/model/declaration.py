"""The attributes of a model in defs.yaml, with file and line, and its feature views."""

from typing import TYPE_CHECKING

from ml_platform.components.declaration import Declaration
from ml_platform.components.feature_view.component import FeatureView, datasets_by_name, pii_columns_of
from ml_platform.components.namespace import Namespace
from ml_platform.data.partitions import PartitionScheme
from ml_platform.errors import did_you_mean, listed
from ml_platform.features.view import FeatureView as FeatureViewSettings
from ml_platform.steps.model_settings import ModelSettings

if TYPE_CHECKING:
    from dagster.components.core.component_tree import ComponentTree


class ModelDeclaration(Declaration, ModelSettings):
    """The attributes of a model."""

    def resolve_names(self, namespace: Namespace) -> None:
        examples, evaluation = self.examples, self.evaluation
        self.name = namespace.own(self.name)
        self.owners = self.owners_or_those_of_domain(self.owners)
        self.features = namespace.references(self.features)
        examples.sources = namespace.references(examples.sources)
        examples.available_from = {namespace.reference(name): each for name, each in examples.available_from.items()}
        evaluation.request_only = namespace.references(evaluation.request_only)
        if self.labels is not None:
            self.labels.dataset = namespace.reference(self.labels.dataset)
        if self.scores is not None:
            self.scores.dataset = namespace.reference(self.scores.dataset)

    def example_pii(self, tree: "ComponentTree") -> list[str]:
        """Return the columns of the sources of the examples and of their labels that identify a person."""
        labels = [] if self.labels is None else [self.labels.dataset]
        return pii_columns_of([*self.examples.sources, *labels], datasets_by_name(tree))

    def schemes(self, tree: "ComponentTree") -> dict[str, PartitionScheme | None]:
        """Return the partitions of the declared datasets by name; None for one that is replaced as a whole."""
        return {name: each.partitions for name, each in datasets_by_name(tree).items()}

    def validate_labels(self, tree: "ComponentTree") -> None:
        """Raise :class:`DeclarationError` for labels whose dataset or columns a training set could not join.

        Without the contract of the dataset, only the columns of the request are checked.
        """
        if self.labels is None:
            return
        fields = ["example_id", *(field.name for field in self.request)]
        for name in self.labels.keys:
            if name not in fields:
                raise self.unknown_name_error(["labels", "join"], name, fields, "example_id or a field of the request")
        if self.labels.dataset in self.examples.sources:
            raise self.error_at(
                ["labels", "dataset"],
                expected="a dataset that the examples do not read, because its rows land after them",
                found=f"'{self.labels.dataset}', one of examples.sources",
                fix="Remove it from examples.sources; the platform joins its labels.",
            )
        datasets = datasets_by_name(tree)
        if self.labels.dataset not in datasets:
            raise self.unknown_name_error(["labels", "dataset"], self.labels.dataset, list(datasets), "a dataset")
        dataset = datasets[self.labels.dataset]
        known = dataset.contract.column_names
        for name in self.labels.columns:
            if name not in known:
                raise self.unknown_name_error(["labels"], name, known, f"a column of '{dataset.name}'")
        if dataset.event_time != self.labels.known_at:
            raise self.error_at(
                ["labels", "known_at"],
                expected=f"the event_time of '{dataset.name}', so that a partition has the rows known within its time",
                found=f"'{self.labels.known_at}', and event_time {dataset.event_time or 'absent'}",
                fix=f"Declare event_time: {self.labels.known_at} in the dataset.",
            )

    def validate_scores(self, tree: "ComponentTree") -> None:
        """Raise :class:`DeclarationError` for a table to score that is unknown or lacks a request field.

        The columns that a function returns are known only when it runs.
        """
        if self.scores is None:
            return
        datasets = datasets_by_name(tree)
        if self.scores.dataset not in datasets:
            raise self.unknown_name_error(["scores", "dataset"], self.scores.dataset, list(datasets), "a dataset")
        if self.scores.function is not None:
            self.function_at("scores.function", self.scores.function)
            return
        dataset = datasets[self.scores.dataset]
        known = dataset.contract.column_names
        absent = [field.name for field in self.request if field.name not in known]
        if absent:
            raise self.error_at(
                ["scores", "dataset"],
                expected=f"a dataset with a column for each request field; '{dataset.name}' lacks {listed(absent)}",
                found=f"the columns {listed(known, 30)}",
                fix="Declare scores.function, which returns them.",
            )
        for at, name in enumerate(self.scores.keep):
            if name not in known:
                raise self.unknown_name_error(["scores", "keep", at], name, known, f"a column of '{dataset.name}'")

    def views(self, tree: "ComponentTree") -> list[FeatureViewSettings]:
        """Return the settings of the declared views in order, followed by the views that these take as inputs.

        Raises :class:`DeclarationError` for an unknown view, and for a key without a type.
        """
        datasets = datasets_by_name(tree)
        known = {each.name: each.settings(datasets) for each in tree.get_all_components(FeatureView)}
        for at, name in enumerate(self.features):
            if name not in known:
                raise self.error_at(
                    ["features", at],
                    expected="the name of a feature view",
                    found=f"'{name}'; available are {listed(known, 30)}",
                    fix=f"Correct the name, or declare the view.{did_you_mean(name, known)}",
                )
        names = list(self.features)
        for name in names:
            names += [needed for needed in known[name].inputs if needed not in names]
        return [known[name] for name in names]
