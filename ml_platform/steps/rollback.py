"""Rolls the endpoint and the champion of a model back in one transaction, without Dagster and MLflow.

`ml-platform rollback` and the job `<model>_rollback` call it. It is separate from packaging because a command that
imports the declarations and MLflow takes ten seconds before it begins.
"""

from datetime import datetime

from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import ROLL_BACK, ChampionRecord, current_champion
from ml_platform.registry.promotion import require_current_champion
from ml_platform.registry.rollback import roll_back, rollback_target
from ml_platform.serving.bento_signature import require_signature
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.desired_state import DesiredState, ServedVersion, all_desired_states
from ml_platform.serving.verified_bentos import verified_served_version
from ml_platform.state.store import StateStore
from ml_platform.steps.rollouts import roll_out
from resources.home import Home


def roll_back_champion(
    model: str, home: Home, state: StateStore, *, decided_by: str, reason: str, at: datetime
) -> tuple[ChampionRecord, DesiredState]:
    """Make the previous champion champion again, and its verified bento the stable one; return both.

    Both are one transaction, so a kill leaves all or nothing. MLflow's aliases follow (see
    :mod:`ml_platform.registry.following_aliases`). A rollback whose rollout is missing, because an earlier release was
    killed between them, is completed and does not go back one more version. Raises the errors of
    :func:`~ml_platform.registry.rollback.roll_back` and :func:`signed_version`, before anything has changed.
    """
    audit = AuditLog(state)
    champion = current_champion(audit, model)
    stable = all_desired_states(state).readable.get(model, DesiredState()).stable
    if champion is not None and champion.action == ROLL_BACK and stable and stable.version != str(champion.version):
        served = signed_version(model, champion.version, champion.content_digest, home, state)
        return champion, roll_out(state, model, served, by=decided_by, at=at)
    target = rollback_target(audit, model, at)
    # It reads all files of the bento, so it precedes the transaction.
    served = signed_version(model, target.version, target.content_digest, home, state)
    with state.write():
        require_current_champion(audit, model, champion)
        back = roll_back(audit, model, decided_by=decided_by, reason=reason, at=at)
        return back, roll_out(state, model, served, by=decided_by, at=at)


def signed_version(model: str, version: int, model_digest: str, home: Home, state: StateStore) -> ServedVersion:
    """Return ``version`` with its verified bento, whose signature is checked if it was signed.

    ``model_digest`` is the digest of the model's content. Raises
    :class:`~ml_platform.serving.bento_sources.BentoError` when the version has no verified bento, and
    :class:`~ml_platform.serving.bento_signature.ChangedBentoError` when its files are not as signed.
    """
    served = verified_served_version(state, home.bentos, model=model, version=str(version), model_digest=model_digest)
    require_signature(home.bentos / served.bento, SigningKeys(home.signing_keys).trusted)
    return served
