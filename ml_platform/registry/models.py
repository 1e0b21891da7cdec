"""Model versions in MLflow: registers a model directory with signature and example, and downloads it bit for bit.

It does not use MLflow's `log_model`, which loads and runs the model, infers requirements and takes seconds. A model
directory contains native files, so they are stored unchanged and identified by their digest.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ml_platform.data.atomic import publish_version
from ml_platform.data.canonical import directory_digest
from ml_platform.data.scratch import scratch_folder
from ml_platform.errors import PlatformError, listed
from ml_platform.registry.manifest import MANIFEST_FILE, Manifest
from ml_platform.registry.tracking import Tracking, all_pages

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.types.schema import AnyType

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"

VERSIONS_PER_PAGE = 1000

CONTENT_TAG = "ml_platform.content_digest"
DIRECTORY_TAG = "ml_platform.directory_digest"
INPUTS_TAG = "ml_platform.inputs_digest"
PARTITION_TAG = "ml_platform.partition"
TRAINER_TAG = "ml_platform.trainer"
CHOSEN_TAG = "ml_platform.chosen_at_ms"
RENAMED_TAG = "ml_platform.renamed_from"

ARTIFACT_FOLDER = "model"
LOADER_MODULE = "ml_platform.serving.mlflow_model"
"""Module that MLflow imports to load a version as `python_function`."""

MODEL_FILE = "model.json"
MLMODEL_FILE = "MLmodel"
EXAMPLE_FILE = "input_example.json"
MLFLOW_FILES = frozenset({MLMODEL_FILE, EXAMPLE_FILE})
PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill"})
PICKLE_PREFIXES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


class ModelError(PlatformError):
    """Raised when a model directory cannot be registered, or a version is missing or differs from its digest."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered version; ``content_digest`` covers the model, ``directory_digest`` the model and its manifest."""

    name: str
    version: int
    run_id: str
    content_digest: str
    directory_digest: str
    inputs_digest: str
    partition: str
    trainer: str
    aliases: tuple[str, ...]
    created_at_ms: int
    tags: Mapping[str, str]

    @property
    def chosen_at_ms(self) -> int:
        """Time (ms since 1970) at which training last gave this version: by a fit, or by unchanged inputs."""
        return int(self.tags.get(CHOSEN_TAG, self.created_at_ms))

    @property
    def uri(self) -> str:
        """Return the MLflow address of the version."""
        return f"models:/{self.name}/{self.version}"


class ModelRegistry:
    """The model versions in the store of ``tracking``."""

    def __init__(self, tracking: Tracking) -> None:
        self.tracking = tracking

    def register(
        self,
        name: str,
        directory: Path,
        *,
        run_id: str,
        input_example: pl.DataFrame,
        output: str = "score",
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Store the model directory as artifact of ``run_id`` and return it as a version of ``name``.

        When a version with the same content and inputs exists, it is returned and nothing is stored. The signature
        comes from ``input_example``, a few rows of model input. Raises :class:`ModelError` for a directory without
        ``model.json`` or with pickled files, and :class:`~.manifest.ManifestError` without a manifest.
        """
        model_json = _read_model_json(directory)
        manifest = Manifest.read(directory / MANIFEST_FILE)
        _reject_pickles(directory)
        content = directory_digest(directory, leave_out=[MANIFEST_FILE])
        existing = self._search(name, {CONTENT_TAG: content, INPUTS_TAG: manifest.inputs_digest()})
        if existing:
            return existing[0]
        client = self.tracking.client
        client.log_artifacts(run_id, str(directory), ARTIFACT_FOLDER)
        client.log_text(
            run_id, _mlmodel_yaml(model_json, directory, run_id, input_example, output), _artifact_path(MLMODEL_FILE)
        )
        client.log_text(run_id, _example_json(input_example), _artifact_path(EXAMPLE_FILE))
        self._ensure_registered_model(name)
        created = client.create_model_version(
            name,
            source=f"runs:/{run_id}/{ARTIFACT_FOLDER}",
            run_id=run_id,
            tags={
                **(tags or {}),
                CONTENT_TAG: content,
                DIRECTORY_TAG: directory_digest(directory),
                INPUTS_TAG: manifest.inputs_digest(),
                PARTITION_TAG: manifest.partition,
                TRAINER_TAG: manifest.trainer,
            },
        )
        return self.version(name, int(created.version))

    def version(self, name: str, version: int) -> ModelVersion:
        """Return one version; raises :class:`ModelError` when it does not exist."""
        from mlflow.exceptions import MlflowException

        try:
            return _model_version(self.tracking.client.get_model_version(name, str(version)))
        except MlflowException as error:
            existing = [str(one.version) for one in self.versions(name)]
            raise ModelError(
                f"Model '{name}'",
                expected=f"a version {version}",
                found=f"versions {listed(existing)}",
                fix="List the versions with ml-platform status.",
            ) from error

    def exists(self, name: str, version: int) -> bool:
        """Return whether ``version`` exists; False after it was deleted."""
        return self._find(name, version) is not None

    def has(self, name: str, version: int, content_digest: str) -> bool:
        """Return whether ``version`` exists with this content; False after it was deleted."""
        stored = self._find(name, version)
        return stored is not None and stored.content_digest == content_digest

    def versions(self, name: str) -> list[ModelVersion]:
        """Return all versions, latest first; an empty list for an unknown name."""
        return self._search(name, {})

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """Return the version with the alias ``alias``, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return _model_version(self.tracking.client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise

    def by_inputs(self, name: str, inputs_digest: str) -> ModelVersion | None:
        """Return the latest version with these inputs (see :meth:`Manifest.inputs_digest`), or None."""
        existing = self._search(name, {INPUTS_TAG: inputs_digest})
        return existing[0] if existing else None

    def by_content(self, name: str, content_digest: str) -> ModelVersion | None:
        """Return the latest version with this content, or None."""
        existing = self._search(name, {CONTENT_TAG: content_digest})
        return existing[0] if existing else None

    def mark_chosen(self, version: ModelVersion, at: datetime) -> None:
        """Record that training gave ``version`` again at ``at``: it is then the current version of its declaration."""
        milliseconds = str(int(at.timestamp() * 1000))
        self.tracking.client.set_model_version_tag(version.name, str(version.version), CHOSEN_TAG, milliseconds)

    def names(self) -> list[str]:
        """Return the names of all registered models, sorted; none when the store was never used."""
        if not self.tracking.exists:
            return []
        found = all_pages(
            lambda token: self.tracking.client.search_registered_models(max_results=VERSIONS_PER_PAGE, page_token=token)
        )
        return sorted(str(one.name) for one in found)

    def aliases(self, name: str) -> dict[str, int]:
        """Return the version of each alias of ``name``; a search for versions does not return aliases."""
        found = self.tracking.client.get_registered_model(name).aliases
        return {alias: int(version) for alias, version in found.items()}

    def delete(self, version: ModelVersion) -> None:
        """Delete ``version``, so that no search finds it; its number is never used again. Its files stay."""
        self.tracking.client.delete_model_version(version.name, str(version.version))

    def delete_artifacts(self, run_id: str) -> None:
        """Delete the artifacts of a run: files of a model, plots. Parameters and metrics stay; a repeat is harmless."""
        self._artifacts(run_id).delete_artifacts()  # type: ignore[no-untyped-call]

    def artifact_bytes(self, run_id: str) -> int:
        """Return the size of the artifacts of a run in bytes."""
        repository, folders, size = self._artifacts(run_id), [""], 0
        while folders:
            for entry in repository.list_artifacts(folders.pop() or None):
                if entry.is_dir:
                    folders.append(entry.path)
                else:
                    size += entry.file_size or 0
        return size

    def rename(self, old: str, new: str) -> None:
        """Give the model ``old`` and its experiment the name ``new``; versions keep their numbers, runs and aliases.

        A part that has the new name already is left as it is, so a repeat is harmless.
        """
        if old in self.names():
            aliases = self.aliases(old)
            self.tracking.client.rename_registered_model(old, new)
            for alias, version in aliases.items():
                self.set_alias(new, alias, version)
            self.tracking.client.set_registered_model_tag(new, RENAMED_TAG, old)
        self.tracking.rename_experiment(old, new)

    def set_description(self, version: ModelVersion, markdown: str) -> None:
        """Set ``markdown`` (the model card) as the description of the version in MLflow."""
        self.tracking.client.update_model_version(version.name, str(version.version), markdown)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Move ``alias`` to ``version``; only promotion calls this, after it has recorded the change."""
        self.tracking.client.set_registered_model_alias(name, alias, str(version))

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove ``alias`` if it exists."""
        if self.by_alias(name, alias):
            self.tracking.client.delete_registered_model_alias(name, alias)

    def manifest(self, version: ModelVersion) -> Manifest:
        """Return the manifest without downloading the model; raises :class:`ModelError` when it is not stored."""
        with scratch_folder("manifest") as scratch:
            return Manifest.read(self._download_artifact(version, _artifact_path(MANIFEST_FILE), str(scratch)))

    def download(self, version: ModelVersion, into: Path) -> Path:
        """Download the model directory to ``into``, bit for bit as it was registered, and return the path.

        Files that are there already and right stay in their place, because another process may be reading them.
        Raises :class:`ModelError`, and leaves ``into`` unchanged, when the stored files are missing or do not have the
        digest of the version.
        """
        into.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder("model", into.parent) as scratch:
            downloaded = self._download_artifact(version, ARTIFACT_FOLDER, str(scratch))
            for added in MLFLOW_FILES:
                (downloaded / added).unlink(missing_ok=True)
            digest = directory_digest(downloaded)
            if digest != version.directory_digest:
                raise ModelError(
                    f"Model '{version.name}' version {version.version}",
                    expected=f"files with the digest {version.directory_digest[:12]}",
                    found=digest[:12],
                    fix="Restore the stored artifact, which was changed or is incomplete, or register the model again.",
                )
            publish_version(downloaded, into, lambda folder: directory_digest(folder) == version.directory_digest)
        return into

    def _artifacts(self, run_id: str) -> "ArtifactRepository":
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = self.tracking.tracking_uri
        return get_artifact_repository(self.tracking.client.get_run(run_id).info.artifact_uri, uri, uri)

    def _download_artifact(self, version: ModelVersion, name: str, into: str) -> Path:
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.tracking.client.download_artifacts(version.run_id, name, into))
        except (MlflowException, OSError) as error:
            raise ModelError(
                f"Model '{version.name}' version {version.version}",
                expected=f"its stored files ({name})",
                found=str(error).splitlines()[0],
                fix="Restore the artifact store from its backup, or restore the release with: dvc pull.",
            ) from error

    def _find(self, name: str, version: int) -> ModelVersion | None:
        from mlflow.exceptions import MlflowException

        try:
            return _model_version(self.tracking.client.get_model_version(name, str(version)))
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise

    def _search(self, name: str, tags: Mapping[str, str]) -> list[ModelVersion]:
        clauses = [f"name = '{name}'", *(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())]
        found = all_pages(
            lambda token: self.tracking.client.search_model_versions(
                " and ".join(clauses),
                max_results=VERSIONS_PER_PAGE,
                order_by=["version_number DESC"],
                page_token=token,
            )
        )
        return [_model_version(one) for one in found]

    def _ensure_registered_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.tracking.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _read_model_json(directory: Path) -> dict[str, Any]:
    try:
        model_json: dict[str, Any] = json.loads((directory / MODEL_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Model directory '{directory}'",
            expected=f"a readable {MODEL_FILE}",
            found=type(error).__name__,
            fix="Register a directory that the save() method of a trainer has written.",
        ) from error
    return model_json


def _reject_pickles(directory: Path) -> None:
    for path in sorted(directory.rglob("*")):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            start = file.read(2)
        if path.suffix in PICKLE_SUFFIXES or start in PICKLE_PREFIXES:
            raise ModelError(
                f"Model directory '{directory}'",
                expected="native files only (a pickle runs code when it is loaded)",
                found=f"the pickle '{path.relative_to(directory)}'",
                fix="Save the model in the format of its library.",
            )


def _mlmodel_yaml(
    model_json: Mapping[str, Any], directory: Path, run_id: str, example: pl.DataFrame, output: str
) -> str:
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(_mlflow_type(dtype), name=name, required=example[name].null_count() == 0)
        for name, dtype in example.schema.items()
    ]
    model = Model(
        artifact_path=ARTIFACT_FOLDER,
        run_id=run_id,
        # Without an example, MLflow would drop each column of the rows that it is given.
        signature=ModelSignature(Schema(inputs), Schema([ColSpec("double", name=output)])) if inputs else None,
        saved_input_example_info={"artifact_path": EXAMPLE_FILE, "type": "dataframe", "pandas_orient": "split"},
    )
    model.add_flavor("ml_platform", format=model_json.get("format"), trainer=model_json.get("trainer"))
    # With this flavor, mlflow.pyfunc.load_model predicts calibrated scores from a table of features.
    model.add_flavor("python_function", loader_module=LOADER_MODULE, python_version=platform.python_version())
    if (directory / "model.txt").exists():
        # With this flavor, mlflow.lightgbm.load_model reads the booster file directly.
        model.add_flavor("lightgbm", data="model.txt", model_class="lightgbm.basic.Booster", code=None)
    return str(model.to_yaml())


def _mlflow_type(dtype: pl.DataType) -> "str | AnyType":
    """Return the type of an input for MLflow, which pandas tables of these features pass.

    MLflow refuses whole numbers with nulls, of which pandas makes floats, and times with a zone.
    """
    from mlflow.types.schema import AnyType

    if dtype.is_integer() or dtype.is_temporal():
        return AnyType()  # type: ignore[no-untyped-call]
    if dtype.is_float():
        return "double"
    return "boolean" if dtype == pl.Boolean else "string"


def _example_json(example: pl.DataFrame) -> str:
    rows = [list(row) for row in example.head(5).rows()]
    return json.dumps({"columns": example.columns, "data": rows}, default=str)


def _artifact_path(name: str) -> str:
    return f"{ARTIFACT_FOLDER}/{name}"


def _model_version(stored: Any) -> ModelVersion:
    tags = dict(stored.tags)
    return ModelVersion(
        name=stored.name,
        version=int(stored.version),
        run_id=stored.run_id,
        content_digest=tags.get(CONTENT_TAG, ""),
        directory_digest=tags.get(DIRECTORY_TAG, ""),
        inputs_digest=tags.get(INPUTS_TAG, ""),
        partition=tags.get(PARTITION_TAG, ""),
        trainer=tags.get(TRAINER_TAG, ""),
        aliases=tuple(stored.aliases),
        created_at_ms=int(stored.creation_timestamp),
        tags=tags,
    )
