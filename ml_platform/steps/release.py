"""The DVC release of a champion: its training set and model, for `dvc pull` on another machine.

A release is a copy. It follows the promotion, and a failed release does not undo the promotion.
"""

from dataclasses import dataclass

from ml_platform.data.scratch import scratch_folder
from ml_platform.registry.audit_anchor import anchor_of
from ml_platform.registry.champion_history import ChampionRecord
from ml_platform.registry.dvc_release import (
    TRAINING_SET_FILE,
    ReleaseError,
    add_release,
    has_remote,
    is_released,
    push_release,
)
from ml_platform.registry.models import ModelVersion
from ml_platform.steps.candidates import read_recorded_training_set
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import model_directory
from ml_platform.steps.platform_stores import PlatformStores


@dataclass(frozen=True)
class ReleaseResult:
    """Whether the champion is in the release folder; ``message`` gives the next step, or the reason why it is not."""

    released: bool
    message: str


def release_champion(model: BoundModel, champion: ChampionRecord, stores: PlatformStores) -> ReleaseResult:
    """Add ``champion`` to ``releases/<model>`` of the repository with DVC, and push it to the default remote, if any.

    The function does not commit to Git; the commit is left to a person or to the pipeline. Only a home inside a Git and
    DVC repository is released, because other homes are experiments. A repeated release and a DVC error are reported in
    the message.
    """
    repository = stores.repository
    reason = _reason_not_releasable(stores)
    if reason:
        return ReleaseResult(False, f"Not released: {reason}.")
    version = stores.registry.version(model.name, champion.version)
    commit = f"git add releases && git commit -m 'Release {model.name} {champion.version}'"
    try:
        pushed = has_remote(repository)
        if is_released(repository, version):
            if pushed:
                # An earlier push may have failed.
                push_release(repository, version.name)
            message = f"Version {champion.version} is in the release folder already. To keep it: {commit}"
            return ReleaseResult(True, message)
        _add_to_release(model, version, champion, stores, pushed)
    except ReleaseError as error:
        return ReleaseResult(False, f"Not released: {error}")
    return ReleaseResult(True, f"{'Added and pushed' if pushed else 'Added; no default remote'}. To keep it: {commit}")


def _add_to_release(
    model: BoundModel, version: ModelVersion, champion: ChampionRecord, stores: PlatformStores, push: bool
) -> None:
    manifest = stores.registry.manifest(version)
    rows = read_recorded_training_set(model, manifest, stores.lake, rebuilt=False)
    with scratch_folder(model.name) as scratch:
        training_set = scratch / TRAINING_SET_FILE
        rows.write_parquet(training_set)
        add_release(
            stores.repository,
            version,
            model_directory=model_directory(version, stores),
            training_set=training_set,
            manifest=manifest,
            anchor=anchor_of(stores.audit, champion.since),
            push=push,
        )


def _reason_not_releasable(stores: PlatformStores) -> str | None:
    if not stores.home.root.resolve().is_relative_to(stores.repository.resolve()):
        return "the home lies outside the repository"
    absent = [name for name in (".git", ".dvc") if not (stores.repository / name).exists()]
    return f"the repository has no {' and no '.join(absent)}" if absent else None
