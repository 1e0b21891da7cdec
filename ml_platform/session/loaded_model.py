"""One version of a model in this process: its predictions and their explanations, equal to those of its endpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import polars as pl

from ml_platform.data.pii import MASK
from ml_platform.errors import did_you_mean, listed
from ml_platform.serving.in_process import ServedModel
from ml_platform.serving.request_contract import MAX_REASONS, ReasonMethod, RequestContract
from ml_platform.serving.scored_table import answer_columns
from ml_platform.session.opening import SessionError
from ml_platform.session.records import Records

if TYPE_CHECKING:
    import pandas as pd

    from ml_platform.registry.manifest import Manifest

Frame = TypeVar("Frame", pl.DataFrame, "pd.DataFrame")
Inputs = Literal["requests", "features"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class FeatureInfo:
    """A feature of a model, with the view that gives it."""

    feature: str
    type: str
    unit: str
    view: str
    description: str


class LoadedModel:
    """A version of a model, read from its verified files. It predicts on one thread and may be shared."""

    def __init__(self, served: ServedModel, manifest: "Manifest", metrics: Mapping[str, float]) -> None:
        self._served, self._same_code = served, False
        self.name, self.version = served.name, int(served.version)
        self.manifest = manifest
        """All inputs of the training, and its results."""
        self.metrics = metrics
        """The metrics of its evaluation with the ends of their intervals; empty before an evaluation."""

    @property
    def contract(self) -> RequestContract:
        """The fields of a request, with their types, rules and limits."""
        return self._served.contract

    @property
    def request_fields(self) -> list[str]:
        """The fields of a request in their order."""
        return list(self.contract.dtypes)

    @property
    def features(self) -> Records[FeatureInfo]:
        """The features in the order in which the model reads them."""
        known: dict[str, FeatureInfo] = {}
        for view in self._served.predictor.features.views:
            for each in view.features:
                for name in each.columns:
                    column = view.column(name)
                    known[column] = FeatureInfo(column, each.type, each.stored_unit, view.name, each.description)
            age = f"Age of the fact read from '{view.name}'"
            known[view.age_column] = FeatureInfo(view.age_column, "float32", "minutes", view.name, age)
        found = [known[name] for name in self._served.predictor.encoder.feature_names]
        return Records(f"Features of {self.name}, version {self.version}", FeatureInfo, found)

    @overload
    def predict(self, rows: pl.DataFrame, inputs: Inputs | None = None) -> pl.DataFrame: ...

    @overload
    def predict(self, rows: "pd.DataFrame", inputs: Inputs | None = None) -> "pd.DataFrame": ...

    @overload
    def predict(self, rows: Sequence[Row], inputs: Inputs | None = None) -> list[dict[str, Any]]: ...

    def predict(
        self, rows: "pl.DataFrame | pd.DataFrame | Sequence[Row]", inputs: Inputs | None = None
    ) -> "pl.DataFrame | pd.DataFrame | list[dict[str, Any]]":
        """Return the answer of each row, calibrated, in the form of ``rows``: a Polars or pandas table, or a list.

        Rows with ``requests`` have the fields of the contract. Their features come from the online store, so the
        scores are those that the endpoint gives now, to the last bit. Rows with ``features`` have a column for each
        feature, as a training set has: their scores rest on these values alone. ``inputs`` says which of both it is;
        None: features if the rows have any of them.

        The columns are ``score``, ``label`` (if the task has one), those of the task such as
        ``probabilities__<class>``, and ``degraded``: whether the answer rests on less than usual. A list has the
        answers as the endpoint gives them. Raises :class:`~.opening.SessionError` for missing columns, and
        :class:`~ml_platform.serving.request_contract.InvalidRequestError` for requests that the endpoint refuses.
        Raises :class:`~ml_platform.serving.in_process.ServedModelError` for requests if a request view has other code
        here.
        """
        frame = _frame(rows)
        reads_requests = self._reads_requests(frame, inputs)
        if isinstance(rows, Sequence):
            return self._served.predict(rows) if reads_requests else self._answers_to_features(frame)
        found = _answer_table(self._answers_to_requests(frame) if reads_requests else self._answers_to_features(frame))
        return found if isinstance(rows, pl.DataFrame) else found.to_pandas()

    @overload
    def explain(
        self,
        rows: "pl.DataFrame | Sequence[Row]",
        count: int = 5,
        *,
        inputs: Inputs | None = None,
        method: ReasonMethod | None = None,
    ) -> pl.DataFrame: ...

    @overload
    def explain(
        self,
        rows: "pd.DataFrame",
        count: int = 5,
        *,
        inputs: Inputs | None = None,
        method: ReasonMethod | None = None,
    ) -> "pd.DataFrame": ...

    def explain(
        self,
        rows: "pl.DataFrame | pd.DataFrame | Sequence[Row]",
        count: int = 5,
        *,
        inputs: Inputs | None = None,
        method: ReasonMethod | None = None,
    ) -> "pl.DataFrame | pd.DataFrame":
        """Return the ``count`` features (1 to 20) that moved each score most, strongest first, as a table.

        The columns are ``row`` (the position, from 0), ``feature``, ``value`` (text), ``contribution`` (log-odds of a
        probability, else units of the label; positive raises the score) and ``method``. A feature that contributes 0
        is left out, and a value that identifies a person is hidden. ``method`` prefers ``full`` or ``path``; None: as
        the endpoint chooses. Raises as :meth:`predict`.
        """
        from bento.reasons import RequestedReasons

        if not 1 <= count <= MAX_REASONS:
            raise self._error("Explanation", f"a count from 1 to {MAX_REASONS}", str(count), "Ask for fewer reasons.")
        frame, requested = _frame(rows), RequestedReasons(count, method)
        of_rows = self._request_reasons if self._reads_requests(frame, inputs) else self._feature_reasons
        found = _reason_table(of_rows(frame, requested))
        return found if isinstance(rows, pl.DataFrame | Sequence) else found.to_pandas()

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the importance that the model measured in training, largest first."""
        from ml_platform.training.model_directory import read_model

        return dict(read_model(self._served.directory).fitted.importance())

    def __repr__(self) -> str:
        manifest, predictor = self.manifest, self._served.predictor
        numbers = [f"{name} {self.metrics[name]:.4g}" for name in predictor.task.metrics if name in self.metrics]
        lines = [
            f"{self.name}, version {self.version} ({manifest.trainer}, {manifest.partition})",
            f"  training set of {manifest.training_rows:,} rows, {len(predictor.encoder.feature_names)} features",
            f"  request: {', '.join(self.request_fields)}",
            f"  evaluation: {', '.join(numbers) or 'none'}",
        ]
        return "\n".join(lines)

    def _reads_requests(self, frame: pl.DataFrame, inputs: Inputs | None) -> bool:
        """Return whether ``frame`` is read as requests; raises :class:`SessionError` if it has too few columns."""
        needed = self._feature_columns()
        fields = [each.name for each in self.contract.fields if not each.nullable]
        missing = {
            "features": [name for name in needed if name not in frame.columns],
            "requests": [name for name in fields if name not in frame.columns],
        }
        if inputs not in (None, *missing):
            raise self._error("Inputs", "'requests' or 'features'", f"'{inputs}'", "Correct 'inputs'.")
        # Rows with a part of the features would otherwise get newer values than their own without a word.
        own = any(name in frame.columns for name in needed if name not in self.contract.dtypes)
        chosen = inputs or ("features" if own else "requests")
        if missing[chosen]:
            near = "".join(did_you_mean(name, frame.columns) for name in missing[chosen][:3])
            raise self._error(
                "Rows to predict",
                f"the {'fields of a request' if chosen == 'requests' else 'features'} {listed(missing[chosen])}",
                f"the columns {listed(frame.columns, 20)}",
                f"Add them, or choose inputs='requests' or 'features'; `.contract` and `.features` list what the model "
                f"reads.{near}",
            )
        if chosen == "requests":
            self._require_same_code()
        return chosen == "requests"

    def _require_same_code(self) -> None:
        """Compare the code of the request views once; rows with features do not run it."""
        if not self._same_code:
            self._served.require_same_code()
            self._same_code = True

    def _feature_columns(self) -> list[str]:
        """Columns from which the model predicts: its features, what its fitted views read, and fields of its task."""
        predictor = self._served.predictor
        fitted = predictor.features.fitted
        computed = {name for view in fitted for name in view.feature_names}
        read = [column for view in fitted for column in predictor.features.read_columns(view)]
        own = [name for name in predictor.encoder.feature_names if name not in computed]
        return list(dict.fromkeys([*own, *read, *predictor.task.context_fields.values()]))

    def _answers_to_requests(self, frame: pl.DataFrame) -> list[dict[str, Any]]:
        return self._served.predict(
            frame.select(name for name in self.request_fields if name in frame.columns).to_dicts()
        )

    def _answers_to_features(self, frame: pl.DataFrame) -> list[dict[str, Any]]:
        predictor = self._served.predictor
        predicted, unknown = predictor.predict_features(predictor.features.transformed(frame))
        answers = predictor.answers_to(predicted, frame)
        return [
            {**answer, **({"degraded": {"unknown": names}} if names else {})}
            for answer, names in zip(answers, unknown, strict=True)
        ]

    def _request_reasons(self, frame: pl.DataFrame, requested: Any) -> list[dict[str, Any]]:
        fields = frame.select(name for name in self.request_fields if name in frame.columns)
        return self._served.predict(fields.to_dicts(), reasons=requested.count, reasons_method=requested.method)

    def _feature_reasons(self, frame: pl.DataFrame, requested: Any) -> list[dict[str, Any]]:
        from bento.reasons import row_contributions, strongest_reasons

        predictor = self._served.predictor
        names, rows = predictor.encoder.feature_names, predictor.features.transformed(frame)
        matrix = predictor.encoder.transform(rows)
        contributions, method = row_contributions(predictor.scorer, matrix, requested.method)
        hidden = predictor.contract.pii_features
        values = [
            {name: MASK if name in hidden and value is not None else value for name, value in row.items()}
            for row in rows.select(names).to_dicts()
        ]
        found = strongest_reasons(names, values, contributions, requested.count)
        return [{"reasons": of_row, "reasons_method": method} for of_row in found]

    def _error(self, subject: str, expected: str, found: str, fix: str) -> SessionError:
        subject = f"{subject} of '{self.name}', version {self.version}"
        return SessionError(subject, expected=expected, found=found, fix=fix)


def _frame(rows: "pl.DataFrame | pd.DataFrame | Sequence[Row]") -> pl.DataFrame:
    if isinstance(rows, pl.DataFrame):
        return rows
    if isinstance(rows, Sequence):
        return pl.DataFrame([dict(row) for row in rows], infer_schema_length=None)
    return pl.from_pandas(rows)


def _answer_table(answers: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    if not answers:
        return pl.DataFrame(schema={"score": pl.Float64, "degraded": pl.Boolean})
    table = answer_columns([{**answer, "degraded": "degraded" in answer} for answer in answers])
    return table.select(pl.exclude("degraded"), "degraded")


def _reason_table(answers: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    found = [
        (row, each["feature"], None if each["value"] is None else str(each["value"]), each["contribution"], method)
        for row, (reasons, method) in enumerate((each["reasons"], each["reasons_method"]) for each in answers)
        for each in reasons
    ]
    schema = {
        "row": pl.Int64,
        "feature": pl.String,
        "value": pl.String,
        "contribution": pl.Float64,
        "method": pl.String,
    }
    return pl.DataFrame(found, schema=schema, orient="row")
