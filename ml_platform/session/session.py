"""A session: datasets, features, training sets and models of one home by name, for reads alone."""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import polars as pl

from ml_platform.data.names import full_name
from ml_platform.data.scratch import scratch_folder
from ml_platform.errors import did_you_mean, listed
from ml_platform.session.opening import SessionError, readable_home, readable_state
from ml_platform.session.records import Records
from ml_platform.session.tables import Table, TrainingSet, TrainingSplit
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.components.model.model_assets import ModelAssets
    from ml_platform.data.lake import Lake
    from ml_platform.evaluation.version_comparison import VersionComparison
    from ml_platform.features.view import FeatureView
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.champion_history import ChampionRecord
    from ml_platform.registry.models import ModelRegistry, ModelVersion
    from ml_platform.serving.in_process import ServedModel
    from ml_platform.session.loaded_model import LoadedModel
    from ml_platform.session.trial import Trainers, Trial, Views

DATASETS, FEATURES = "datasets/", "features/"
RANGE = "..."
"""Between the first and the last partition of a range, as on the command line."""


@dataclass(frozen=True)
class DatasetInfo:
    """A materialized dataset. ``version`` counts its writes from 0; ``first`` and ``last`` are partitions."""

    name: str
    rows: int
    size_bytes: int
    version: int
    partitions: int
    first: str | None
    last: str | None


@dataclass(frozen=True)
class ModelInfo:
    """A model: its champion, and the version that its endpoint serves. None stands for none."""

    name: str
    champion: int | None
    partition: str | None
    since: datetime | None
    served: str | None


@dataclass(frozen=True)
class VersionInfo:
    """A registered version; ``decision`` is that of its last verdict (PROMOTE, HOLD, REJECT), None: not judged."""

    version: int
    partition: str
    trainer: str
    aliases: tuple[str, ...]
    decision: str | None
    created_at: datetime
    content_digest: str
    run_id: str


class Session:
    """The home in the folder ``home``, opened for reads; see :func:`ml_platform.open`.

    A name is the full one (``flights``, ``sales.orders``) or has the folder of its domain before a slash
    (``aviation/flights``, ``sales/orders``). Training sets, features and comparisons load the declarations in `assets/`
    once, which takes some seconds; the other methods do not need them.
    """

    def __init__(self, home: Path | str | None = None) -> None:
        self.home: Home = readable_home(home)
        self._state = readable_state(self.home)
        self._downloads: Path | None = None
        self._at_close = ExitStack()
        self._declared: dict[str, ModelAssets] = {}
        self._loaded: dict[tuple[str, int], LoadedModel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the stores, and remove the models that were downloaded."""
        self._state.close()
        self._loaded.clear()
        self._at_close.close()
        self._downloads = None

    def datasets(self) -> Records[DatasetInfo]:
        """Return the materialized datasets, by name."""
        found = []
        for table in self._tables(DATASETS):
            whole = self.lake.summary(table)
            names = [name for name in self.lake.partitions(table) if name]
            ends = (names[0], names[-1]) if names else (None, None)
            name = table.removeprefix(DATASETS)
            found.append(DatasetInfo(name, whole.rows, whole.size_bytes, whole.version, len(names), *ends))
        return Records(f"Datasets in {self.home.root}", DatasetInfo, found)

    def dataset(self, name: str, partitions: str | Iterable[str] | None = None, *, version: int | None = None) -> Table:
        """Return the rows of a dataset, with the column ``partition`` if it has partitions.

        ``partitions`` is one (``2013-06``), a range (``2013-01...2013-06``) or several; None: all. ``version`` reads
        the table as it was after that write (from 0); None: the latest. Raises :class:`~.opening.SessionError` for a
        dataset or a partition that does not exist, and :class:`~ml_platform.data.lake.LakeError` for a version that
        does not exist or was cleaned.
        """
        known = [table.removeprefix(DATASETS) for table in self._tables(DATASETS)]
        table = f"{DATASETS}{self._named('Dataset', name, known, 'Materialize it first, or correct the name.')}"
        return self._rows(f"Dataset '{table.removeprefix(DATASETS)}'", table, partitions, version)

    def features(self, view: str, as_of: datetime | str | None = None) -> Table:
        """Return the features of each entity of a stored view, as a prediction at ``as_of`` would read them.

        ``as_of`` has an offset from UTC (a datetime, or text in ISO 8601). The columns are the keys of the entity, the
        features as ``<view>__<name>``, and ``<view>__age_minutes``; an entity without a usable fact has nulls, and one
        that is first known later is absent. None: the newest fact of each entity, however old, with ``known_at`` and
        without the age. Raises :class:`~.opening.SessionError` for a view that stores nothing.
        """
        from ml_platform.features.point_in_time import point_in_time_join
        from ml_platform.features.view import INSTANT, KNOWN_AT, PREDICT_AT

        declared = self._view(view)
        log = self.lake.scan(declared.table)
        title = f"Features of '{declared.name}'"
        if as_of is None:
            newest = log.sort(KNOWN_AT, maintain_order=True)
            newest = newest.unique(declared.entity, keep="last") if declared.entity else newest.tail(1)
            values = [pl.col(name).alias(declared.column(name)) for name in declared.dtypes]
            return Table(
                f"{title}, newest", newest.select(*declared.entity, KNOWN_AT, *values).sort(*declared.entity, KNOWN_AT)
            )
        at = _instant(as_of)
        known = log.filter(pl.col(KNOWN_AT) <= at)
        entities = (
            known.select(declared.entity).unique().sort(declared.entity)
            if declared.entity
            else pl.LazyFrame({PREDICT_AT: [at]})
        )
        timed = entities.with_columns(pl.lit(at).cast(INSTANT).alias(PREDICT_AT))
        aged = declared.model_copy(update={"age": True})
        joined = point_in_time_join(timed, {aged.name: log}, [aged]).drop(PREDICT_AT)
        return Table(f"{title} as of {at.astimezone(UTC):%Y-%m-%d %H:%M}Z", joined)

    def change_log(self, view: str, partitions: str | Iterable[str] | None = None) -> Table:
        """Return the stored facts of a view: entity, ``known_at``, values, and ``partition`` if it has partitions.

        ``partitions`` are as those of :meth:`dataset`. Raises as :meth:`features`.
        """
        declared = self._view(view)
        return self._rows(f"Change log of '{declared.name}'", declared.table, partitions, None)

    def training_set(self, model: str, partition: str = "") -> TrainingSet:
        """Return the rows from which the candidate of ``partition`` is made, as its split needs them.

        They are those of the partition and of the ones before it, or of the version ``partition`` (empty: the latest)
        for a model without time. The columns are ``example_id``, the request fields, ``predict_at``, the features as
        ``<view>__<name>``, ``label`` and ``label_known_at``. Raises :class:`~.opening.SessionError` for an unknown
        partition, and :class:`~ml_platform.data.lake.LakeError` when one before it is missing.
        """
        from ml_platform.steps.candidates import read_training_set, split_of

        bound = self._model(model)
        if bound.has_time:
            known = self.lake.partitions(bound.table)
            self._require_partitions(f"Training set of '{bound.name}'", [partition], known)
        frame = read_training_set(bound, partition, self.lake)

        def split(rows: pl.DataFrame) -> TrainingSplit:
            found = split_of(bound, partition, rows)

            def part(name: str, rows: pl.DataFrame) -> Table:
                return Table(f"{name} rows of '{bound.name}', {partition}".rstrip(", "), rows.lazy())

            return TrainingSplit(
                part("Train", found.train),
                part("Validation", found.validation),
                part("Test", found.test),
                found.counts(),
            )

        title = f"Training set of '{bound.name}', {partition}".rstrip(", ")
        return TrainingSet(title, frame.lazy(), bound.feature_set.feature_names, split)

    def models(self) -> Records[ModelInfo]:
        """Return the models that have a version, a champion or an endpoint, by name."""
        from ml_platform.registry.champion_history import current_champion
        from ml_platform.serving.desired_state import all_desired_states

        desired = all_desired_states(self._state).readable
        found = []
        for name in self._model_names():
            champion, served = current_champion(self._audit, name), desired.get(name)
            stable = None if served is None or served.stable is None else served.stable.version
            if champion is None:
                found.append(ModelInfo(name, None, None, None, stable))
            else:
                found.append(ModelInfo(name, champion.version, champion.partition, champion.since, stable))
        return Records(f"Models in {self.home.root}", ModelInfo, found)

    def versions(self, model: str) -> Records[VersionInfo]:
        """Return the registered versions of a model, latest first. Raises :class:`~.opening.SessionError`."""
        from ml_platform.registry.verdict_record import latest_verdict_about

        name = self._model_name(model)
        found = []
        aliases: dict[int, list[str]] = {}
        if self._registry.tracking.exists and name in self._registry.names():
            for alias, number in sorted(self._registry.aliases(name).items()):
                aliases.setdefault(number, []).append(alias)
        for each in self._versions(name):
            verdict = latest_verdict_about(self._audit, name, each.content_digest)
            found.append(
                VersionInfo(
                    version=each.version,
                    partition=each.partition,
                    trainer=each.trainer,
                    aliases=tuple(aliases.get(each.version, ())),
                    decision=None if verdict is None else str(verdict.content["decision"]),
                    created_at=datetime.fromtimestamp(each.created_at_ms / 1000, UTC),
                    content_digest=each.content_digest,
                    run_id=each.run_id,
                )
            )
        return Records(f"Versions of '{name}'", VersionInfo, found)

    def champion(self, model: str) -> "LoadedModel":
        """Return the champion of a model, ready to predict.

        Raises :class:`~.opening.SessionError` for an unknown model and one without a champion, and as :meth:`model`.
        """
        from ml_platform.registry.champion_history import current_champion

        name = self._model_name(model)
        champion = current_champion(self._audit, name)
        if champion is None:
            raise SessionError(
                f"Model '{name}'",
                expected="a champion",
                found="none: no version was promoted, or the model was retired",
                fix=f"Load a version with .model('{model}', 1); .versions('{model}') lists them.",
            )
        return self._loaded_model(name, champion.version, champion)

    def model(self, model: str, version: int) -> "LoadedModel":
        """Return ``version`` of a model, ready to predict. It is loaded once in a session.

        The files are those of its verified bento; a version that was never packaged, or whose bento was cleaned, is
        downloaded from the registry into a temporary folder. Raises :class:`~.opening.SessionError` for an unknown
        version.
        """
        return self._loaded_model(self._model_name(model), version)

    def compare(self, model: str, first: int, second: int) -> "VersionComparison":
        """Return the comparison of version ``second`` of a model with version ``first``.

        It has the metrics of both on rows that neither was fitted on, with intervals and paired differences; slices;
        reliability; importance; features, settings, data and libraries that differ; and time and cost of both fits.
        Raises :class:`~.opening.SessionError` for an unknown model or version.
        """
        from ml_platform.steps.own_features import bento_finder
        from ml_platform.steps.version_comparison import compare_versions

        bound = self._model(model)
        name = self._model_name(bound.name)
        return compare_versions(
            bound,
            self._version(name, first),
            self._version(name, second),
            registry=self._registry,
            lake=self.lake,
            audit=self._audit,
            directory_of=self._downloaded,
            bento_of=lambda version: bento_finder(version, self.home, self._state)(),
        )

    def trial(
        self,
        model: str,
        *,
        windows: int = 1,
        views: "Views | None" = None,
        trainers: "Trainers | None" = None,
        now: datetime | None = None,
    ) -> "Trial":
        """Return how a changed model does on its last ``windows`` windows, beside the champion on the same rows.

        ``views`` has a function for each changed view, in place of the declared one: it gets the same sources, and
        returns the declared columns. ``trainers`` has attributes of trainers as in defs.yaml, which replace the
        declared ones or add a trainer; ``trainer`` may be a class. Without them, the trainer of the champion is tried.
        Changes of the declarations in `assets/` count too.

        Facts, training sets and models are made in a temporary folder, and nothing is registered. A search of
        hyperparameters is left out. Raises :class:`~.opening.SessionError` for an unknown view or wrong settings, and
        the errors of the functions and fits.
        """
        from ml_platform.registry.champion_history import current_champion
        from ml_platform.registry.manifest import Manifest
        from ml_platform.session.trial import run_trial
        from ml_platform.steps.own_features import VersionFiles, bento_finder
        from ml_platform.steps.prices import read_prices
        from ml_platform.steps.trial_run import TriedAgainst
        from ml_platform.training.model_directory import read_model

        bound = self._model(model)
        champion = current_champion(self._audit, bound.name)
        against = None
        if champion is not None:
            version = self._version(bound.name, champion.version)
            folder, manifest = self._downloaded(version), Manifest.model_validate(champion.manifest)
            finder = bento_finder(version, self.home, self._state)
            against = TriedAgainst(champion.version, VersionFiles(manifest, read_model(folder), folder, finder))
        return run_trial(
            bound,
            self.lake,
            windows=windows,
            views=views or {},
            trainers=trainers or {},
            champion=against,
            default_trainer=None if champion is None else str(champion.manifest["trainer"]),
            prices=read_prices(self._repository),
            now=now or datetime.now(UTC),
        )

    @cached_property
    def lake(self) -> "Lake":
        """The tables of the home, for what the other methods do not give. Its writes raise."""
        from resources.home_lake import open_lake

        return open_lake(self.home, self._state)

    def __repr__(self) -> str:
        datasets = [table.removeprefix(DATASETS) for table in self._tables(DATASETS)]
        return f"Session(home={str(self.home.root)!r}, read-only)\n  datasets: {', '.join(datasets) or 'none'}"

    @cached_property
    def _audit(self) -> "AuditLog":
        from ml_platform.registry.audit import AuditLog

        return AuditLog(self._state)

    @cached_property
    def _registry(self) -> "ModelRegistry":
        """The registry without its outbox: records that wait there stay."""
        from ml_platform.registry.models import ModelRegistry
        from ml_platform.registry.tracking import Tracking
        from resources.environment import SETTINGS
        from resources.tracking_location import tracking_store

        # Only what MLflow prints and sends: the notebook may use the libraries for its own purposes.
        for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"):
            os.environ.setdefault(name, SETTINGS[name])
        return ModelRegistry(Tracking(*tracking_store(self.home)))

    def _tables(self, prefix: str) -> list[str]:
        return sorted(name for name in self.lake.catalog.tables() if name.startswith(prefix))

    def _rows(self, title: str, table: str, partitions: str | Iterable[str] | None, version: int | None) -> Table:
        selected = None if partitions is None else self._selected(title, table, partitions, version)
        shown = "" if selected is None else f", {_span(selected)}"
        rows = self.lake.scan(table, version, selected)
        return Table(f"{title}{shown}{'' if version is None else f', version {version}'}", rows)

    def _selected(self, title: str, table: str, partitions: str | Iterable[str], version: int | None) -> list[str]:
        known = self.lake.partitions(table, version)
        wanted = [partitions] if isinstance(partitions, str) else list(partitions)
        selected = []
        for each in wanted:
            first, dots, last = each.partition(RANGE)
            self._require_partitions(title, [first, last] if dots else [each], known)
            selected += known[known.index(first) : known.index(last) + 1] if dots else [each]
        return list(dict.fromkeys(selected))

    def _require_partitions(self, subject: str, wanted: Sequence[str], known: Sequence[str]) -> None:
        absent = [name for name in wanted if name not in known]
        if absent:
            raise SessionError(
                subject,
                expected=f"the partition {listed(absent)}",
                found=f"{len(known)} partitions, {known[0]} to {known[-1]}" if known else "no partitions",
                fix=f"Choose one of them, or materialize it first.{did_you_mean(absent[0], known)}",
            )

    def _named(self, kind: str, written: str, known: Sequence[str], fix: str) -> str:
        """Return the full name in ``known`` that ``written`` means. Raises :class:`SessionError`."""
        domain, slash, name = written.rpartition("/")
        candidates = [full_name(written)]
        if slash and (self._repository / "assets" / domain).is_dir():
            # The names of a domain without a namespace have no domain.
            candidates.append(name)
        for each in candidates:
            if each in known:
                return each
        near = did_you_mean(candidates[-1], [*known, *(each.rpartition(".")[2] for each in known)])
        raise SessionError(
            f"{kind} '{written}'",
            expected=f"one of {listed(known, 20)}",
            found=f"no such {kind.lower()} in {self.home.root}",
            fix=f"{fix}{near}",
        )

    @property
    def _repository(self) -> Path:
        from resources.profiles import REPOSITORY

        return REPOSITORY

    def _decided_models(self) -> set[str]:
        from ml_platform.registry.champion_history import CHAMPION_KIND
        from ml_platform.serving.desired_state import all_desired_states

        return {*self._audit.models(CHAMPION_KIND), *all_desired_states(self._state).readable}

    def _model_names(self) -> list[str]:
        return sorted({*self._decided_models(), *self._registry.names()})

    def _model_name(self, written: str) -> str:
        decided = self._decided_models()
        if full_name(written) in decided:
            return full_name(written)  # without a question to the registry, which takes seconds to import
        return self._named("Model", written, self._model_names(), "Train a version first, or correct the name.")

    def _model(self, written: str) -> "ModelAssets":
        """Return the declared model. Raises the error of the declarations for an unknown name."""
        from ml_platform.components.loading import bound_model
        from ml_platform.components.namespace import Namespace

        name = full_name(written)
        if "/" in written:
            name = Namespace.at(self._repository / "assets", self._repository / "assets").reference(written)
        if name not in self._declared:
            self._declared[name] = bound_model(name)
        return self._declared[name]

    @cached_property
    def _views(self) -> "dict[str, FeatureView]":
        from ml_platform.components.loading import declared_views

        return {view.name: view for view in declared_views()}

    def _view(self, written: str) -> "FeatureView":
        name = self._named("View", written, list(self._views), "Declare the view, or correct the name.")
        view = self._views[name]
        if view.kind != "stored" or not self.lake.exists(view.table):
            computed = "a view that is computed from each request" if view.kind != "stored" else "no facts of its code"
            raise SessionError(
                f"View '{name}'",
                expected="stored facts",
                found=computed,
                fix="Read its values in .training_set(), or explain a prediction."
                if view.kind != "stored"
                else f"Materialize 'features/{name}' first.",
            )
        return view

    def _versions(self, name: str) -> "list[ModelVersion]":
        return self._registry.versions(name) if self._registry.tracking.exists else []

    def _version(self, name: str, version: int) -> "ModelVersion":
        found = {each.version: each for each in self._versions(name)}
        if version not in found:
            raise SessionError(
                f"Model '{name}'",
                expected=f"a version {version}",
                found=f"versions {listed(map(str, found), 20)}",
                fix=f".versions('{name}') lists them.",
            )
        return found[version]

    def _loaded_model(self, name: str, version: int, champion: "ChampionRecord | None" = None) -> "LoadedModel":
        """Return the loaded ``version``; the record of a ``champion`` spares a question to the registry."""
        from ml_platform.registry.manifest import Manifest
        from ml_platform.registry.verdict_record import latest_verdict_about
        from ml_platform.session.loaded_model import LoadedModel

        if (name, version) not in self._loaded:
            if champion is None:
                registered = self._version(name, version)
                digest, manifest = registered.content_digest, self._registry.manifest(registered)
            else:
                digest, manifest = champion.content_digest, Manifest.model_validate(champion.manifest)
            verdict = latest_verdict_about(self._audit, name, digest)
            metrics = {} if verdict is None else verdict.metrics
            self._loaded[name, version] = LoadedModel(self._served(name, version), manifest, metrics)
        return self._loaded[name, version]

    def _served(self, name: str, version: int) -> "ServedModel":
        from ml_platform.serving.in_process import ServedModel
        from ml_platform.serving.verified_bentos import all_verified_bentos
        from resources.online_store import OnlineStoreResource

        packaged = (name, str(version)) in {
            (each.model, each.version)
            for each in all_verified_bentos(self._state)
            if (self.home.bentos / each.folder).is_dir()
        }
        online = OnlineStoreResource.for_home(self.home).location
        if packaged:
            return ServedModel.in_home(name, self.home.root, self._state, version, online=online, require_code=False)
        folder = self._downloaded(self._version(name, version))
        return ServedModel.of_directory(name, str(version), folder, online, require_code=False)

    def _downloaded(self, version: "ModelVersion") -> Path:
        """Return the folder of the session with the files of ``version``, verified by their digest."""
        if self._downloads is None:
            self._downloads = self._at_close.enter_context(scratch_folder("session"))
        folder = self._downloads / version.name / str(version.version)
        return folder if folder.is_dir() else self._registry.download(version, folder)


def _span(partitions: Sequence[str]) -> str:
    """Return one partition as it is, and several as first and last."""
    if not partitions:
        return "no partition"
    return partitions[0] if len(partitions) == 1 else f"{partitions[0]} to {partitions[-1]}"


def _instant(at: datetime | str) -> datetime:
    """Return the instant ``at``. Raises :class:`SessionError` for other text, and for a time without an offset."""
    try:
        instant = datetime.fromisoformat(at) if isinstance(at, str) else at
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise SessionError(
            f"Time '{at}'",
            expected="an instant with an offset from UTC, like 2013-07-01T06:00:00-04:00",
            found="text in another form" if instant is None else "a time without offset, which is ambiguous",
            fix="Correct the time.",
        )
    return instant
