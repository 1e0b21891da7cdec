"""Finds model versions that nothing needs any more, and what belongs to them: bentos, evidence and downloads.

Champion, previous champion, challenger, approved, released and served versions stay, whatever their age.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa

from ml_platform.data.leftovers import Leftover, before, folder_size, old_folders, remove_folder
from ml_platform.monitoring.estimates import ESTIMATORS
from ml_platform.registry.champion_history import champion_history
from ml_platform.registry.models import ModelVersion
from ml_platform.registry.version_protection import champion_versions, protected_versions
from ml_platform.registry.waiting import waiting_candidates
from ml_platform.serving.desired_state import DesiredStates, all_desired_states
from ml_platform.state.cursors import cursors_below, delete_cursors, write_cursor
from ml_platform.state.schema import verdicts, verified_bentos
from ml_platform.steps.pins import HOLDER_PREFIX, pin_holder
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.retention import RetentionPolicies

MODEL_VERSIONS = "model versions"
BENTOS = "bentos"
EVIDENCE = "evidence"
DOWNLOADS = "downloaded models"

DELETED_VERSIONS = "housekeeping/version/"
"""Start of the cursors of versions whose deletion has begun and is in no audit record yet."""

NOT_MODELS = frozenset({"checkpoints", "studies"})
"""Folders beside those of the downloaded models."""

DIGESTS_PER_QUERY = 500


ModelVersionKey = tuple[str, int]


@dataclass(frozen=True)
class VersionCleaning:
    """The versions in the registry of ``stores`` under ``policies`` at the time ``now``."""

    stores: PlatformStores
    policies: RetentionPolicies
    now: datetime
    leaving: set[ModelVersionKey] = field(default_factory=set)
    """Name and number of the versions that :meth:`old_versions` found; what belongs to them goes too."""

    @cached_property
    def versions(self) -> dict[str, list[ModelVersion]]:
        """The registered versions of each model, latest first."""
        registry = self.stores.registry
        return {model: registry.versions(model) for model in registry.names()}

    @cached_property
    def desired(self) -> DesiredStates:
        """The desired states of all models."""
        return all_desired_states(self.stores.state)

    def protected(self, model: str) -> dict[int, str]:
        """Return the numbers of the versions of ``model`` that must stay, each with the reason, as of now."""
        states = all_desired_states(self.stores.state)
        registered = self.versions.get(model, ())
        if model in states.unreadable:
            return dict.fromkeys((each.version for each in registered), "desired state unreadable")
        retention = self.policies.of_model(model).retention
        reasons = protected_versions(
            self.stores.audit,
            model,
            aliases=self.stores.registry.aliases(model) if model in self.versions else {},
            repository=self.stores.repository,
            champions_since=before(self.now, retention.champions_days),
        )
        waiting = {each.candidate for each in waiting_candidates(self.stores.audit, model)}
        reasons |= {each.version: "waits on HOLD" for each in registered if each.content_digest in waiting}
        served = states.readable[model].needed_versions if model in states.readable else []
        return {int(each.version): "served" for each in served if each.version.isdigit()} | reasons

    def old_versions(self) -> Iterator[Leftover]:
        """Yield the versions that are neither protected nor young, with the artifacts of their runs."""
        for model, registered in self.versions.items():
            retention = self.policies.of_model(model).retention
            limit = before(self.now, retention.candidates_days)
            protected, champions = self.protected(model), champion_versions(self.stores.audit, model)
            for version in registered:
                since = datetime.fromtimestamp(version.chosen_at_ms / 1000, UTC)
                is_old = version.version in champions or (limit is not None and since < limit)
                if version.version not in protected and is_old:
                    size = self.stores.registry.artifact_bytes(version.run_id)
                    self.leaving.add((model, version.version))
                    yield Leftover(
                        MODEL_VERSIONS, [f"{model} {version.version}"], size, since, self._version_removal(version)
                    )

    def unused_bentos(self) -> Iterator[Leftover]:
        """Yield the bentos that no desired state names and that belong to no protected version."""
        root = self.stores.home.bentos / "bentos"
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            limit = before(self.now, self.policies.of_model(folder.name).retention.bentos_days)
            if limit is None or not folder.is_dir() or folder.name in self.desired.unreadable:
                continue
            kept = self._kept_bentos(folder.name)
            for bento in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
                if bento in kept:
                    continue
                size, changed = folder_size(bento)
                if changed < limit:
                    name = f"{folder.name}:{bento.name}"
                    yield Leftover(BENTOS, [name], size, changed, self._bento_removal(folder.name, bento))

    def unused_evidence(self) -> Iterator[Leftover]:
        """Yield the evidence of versions that are gone, and evidence without a verdict."""
        folder = self.stores.home.evidence
        limit = before(self.now, 1)
        assert limit is not None
        old = [path for path in sorted(folder.glob("*.parquet")) if path.stat().st_mtime < limit.timestamp()]
        kept = self._evidence_of_existing_versions([path.stem for path in old])
        for path in old:
            if path.stem not in kept:
                status = path.stat()
                changed = datetime.fromtimestamp(status.st_mtime, UTC)
                yield Leftover(EVIDENCE, [path.name], status.st_size, changed, _unlink(path))

    def old_downloads(self) -> Iterator[Leftover]:
        """Yield the downloaded copies of models that were not used for long; they are downloaded again on demand."""
        root = self.stores.home.models
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if folder.is_dir() and folder.name not in NOT_MODELS:
                limit = before(self.now, self.policies.of_model(folder.name).retention.checkpoints_days)
                yield from old_folders(DOWNLOADS, folder, limit)

    def finish_deletions(self) -> None:
        """Finish the deletions that a killed cleaning began, and release the pins of versions that are gone."""
        existing = {(model, one.version) for model, found in self.versions.items() for one in found}
        for name, entry in cursors_below(self.stores.state, DELETED_VERSIONS).items():
            if (entry["model"], entry["version"]) in existing:
                delete_cursors(self.stores.state, [DELETED_VERSIONS + name])
            else:
                self._remove_content(entry["model"], entry["version"], entry["run_id"], entry["content_digest"])

    def _kept_bentos(self, model: str) -> set[Path]:
        """Return the folders of the bentos of ``model`` that must stay."""
        bentos, protected = self.stores.home.bentos, self.protected(model)
        served = {bentos / each.bento for state in self.desired.readable.values() for each in state.needed_versions}
        query = sa.select(verified_bentos.c.version, verified_bentos.c.record).where(verified_bentos.c.model == model)
        with self.stores.state.read() as connection:
            verified = {
                bentos / _folder_of(row.record)
                for row in connection.execute(query)
                if row.version.isdigit() and int(row.version) in protected
            }
        return served | verified

    def _evidence_of_existing_versions(self, digests: Sequence[str]) -> set[str]:
        existing = {
            (model, one.content_digest)
            for model, found in self.versions.items()
            for one in found
            if (model, one.version) not in self.leaving
        }
        kept: set[str] = set()
        for start in range(0, len(digests), DIGESTS_PER_QUERY):
            chunk = digests[start : start + DIGESTS_PER_QUERY]
            query = sa.select(verdicts.c.evidence, verdicts.c.model, verdicts.c.candidate).where(
                verdicts.c.evidence.in_(chunk)
            )
            with self.stores.state.read() as connection:
                kept |= {row.evidence for row in connection.execute(query) if (row.model, row.candidate) in existing}
        return kept

    def _version_removal(self, version: ModelVersion) -> Callable[[], bool]:
        def remove() -> bool:
            registry, state = self.stores.registry, self.stores.state
            with self.stores.audit.exclusive(version.name):
                # A decision may have come since the version was found.
                if version.version in self.protected(version.name):
                    self.leaving.discard((version.name, version.version))
                    return False
                entry = {
                    "model": version.name,
                    "version": version.version,
                    "run_id": version.run_id,
                    "content_digest": version.content_digest,
                }
                write_cursor(state, f"{DELETED_VERSIONS}{version.name}/{version.version}", entry)
                registry.delete(version)
            self._remove_content(version.name, version.version, version.run_id, version.content_digest)
            remove_folder(self.stores.home.models / version.name / str(version.version))
            return True

        return remove

    def _remove_content(self, model: str, version: int, run_id: str, content_digest: str) -> None:
        """Delete the estimator of a deleted version, and its artifacts and pins unless another version has the same."""
        delete_cursors(self.stores.state, [f"{ESTIMATORS}{model}/{version}"])
        others = self.stores.registry.versions(model)
        if all(each.run_id != run_id for each in others):
            self.stores.registry.delete_artifacts(run_id)
        if all(each.content_digest != content_digest for each in others):
            self.stores.lake.catalog.unpin(pin_holder(model, content_digest))

    def _bento_removal(self, model: str, bento: Path) -> Callable[[], bool]:
        def remove() -> bool:
            states = all_desired_states(self.stores.state)
            served = {each.bento for state in states.readable.values() for each in state.needed_versions}
            folder = bento.relative_to(self.stores.home.bentos).as_posix()
            if folder in served or model in states.unreadable or bento in self._kept_bentos(model):
                return False
            with self.stores.state.write() as connection:
                columns = verified_bentos.c
                query = sa.select(columns.version, columns.record).where(columns.model == model)
                for row in connection.execute(query).all():
                    if _folder_of(row.record) == folder:
                        same = (columns.model == model) & (columns.version == row.version)
                        connection.execute(sa.delete(verified_bentos).where(same))
            remove_folder(bento)
            return True

        return remove

    def unpin_missing_versions(self, pinned: Collection[str]) -> None:
        """Release the pins ``pinned`` of versions that no longer exist, for example after a deletion in MLflow.

        ``pinned`` must be read before the versions. The pins of a champion stay: it can be restored. A registration
        that waits in the outbox keeps the pins of all.
        """
        outbox = self.stores.registry.tracking.outbox
        if outbox is not None and outbox.pending():
            return
        for holder in pinned:
            model, _, digest = holder.removeprefix(HOLDER_PREFIX).rpartition("/")
            if not holder.startswith(HOLDER_PREFIX):
                continue
            kept = {one.content_digest for one in self.versions.get(model, ())}
            kept |= {record.content_digest for record in champion_history(self.stores.audit, model)}
            if digest not in kept:
                self.stores.lake.catalog.unpin(holder)


def _folder_of(record: str) -> str:
    return str(json.loads(record).get("folder", ""))


def _unlink(path: Path) -> Callable[[], None]:
    return lambda: path.unlink(missing_ok=True)
