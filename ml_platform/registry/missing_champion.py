"""A champion whose version was deleted in MLflow: name the state, register its files again, or retire it.

The audit log still says which content is champion, so files with the same content digest can take its place. MLflow
never gives the number of a deleted version again; the restored version gets a number that no decision names.
"""

import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import polars as pl

from ml_platform.data.atomic import write_text
from ml_platform.data.canonical import directory_digest
from ml_platform.data.scratch import scratch_folder
from ml_platform.registry.approvals import APPROVAL_KIND, require_decider
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND, RESTORE, RETIRE, ChampionRecord, current_champion
from ml_platform.registry.manifest import MANIFEST_FILE, Manifest
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.promotion import CHALLENGER_KIND, append_champion_record, champion_facts, reconcile
from ml_platform.registry.verdict_record import PromotionError


def restore_champion(
    registry: ModelRegistry,
    audit: AuditLog,
    model: str,
    directories: Iterable[Path],
    *,
    input_example: pl.DataFrame,
    decided_by: str,
    reason: str,
    at: datetime,
) -> ChampionRecord:
    """Register the files of a deleted champion again, record it as champion, and return the record.

    The first of ``directories`` with the content digest of the champion is registered; folders that are missing or
    differ are skipped. A champion that MLflow has is returned unchanged. Raises :class:`PromotionError` without a
    champion, and when no folder has its content.
    """
    require_decider(f"Restoring the champion of '{model}'", decided_by, reason)
    with audit.exclusive(model):
        champion = _champion(audit, model, "Promote a version instead.")
        if registry.has(model, champion.version, champion.content_digest):
            reconcile(registry, audit, model)
            return champion
        directory = _directory_of(champion, directories)
        version = _register(registry, audit, champion, directory, input_example)
        facts = champion_facts(
            version,
            action=RESTORE,
            previous=champion.previous_version,
            manifest=champion.manifest,
            verdict=champion.verdict,
            approved_by=champion.approved_by,
            reason=reason,
        )
        record = append_champion_record(audit, facts, champion, decided_by=decided_by, at=at)
        reconcile(registry, audit, model)
    return record


def retire_champion(
    registry: ModelRegistry, audit: AuditLog, model: str, *, decided_by: str, reason: str, at: datetime
) -> ChampionRecord:
    """End the champion of ``model`` without a successor, also when MLflow no longer has it; return the record.

    The next candidate is compared with no champion. Raises :class:`PromotionError` without a champion.
    """
    require_decider(f"Retirement of '{model}'", decided_by, reason)
    with audit.exclusive(model):
        champion = _champion(audit, model, "There is nothing to retire.")
        facts = {**dict(audit.records(CHAMPION_KIND, model)[-1].facts), "model": model, "action": RETIRE}
        facts["reason"] = reason
        record = append_champion_record(audit, facts, champion, decided_by=decided_by, at=at)
        reconcile(registry, audit, model)
    return record


def _champion(audit: AuditLog, model: str, fix: str) -> ChampionRecord:
    champion = current_champion(audit, model)
    if champion is None:
        raise PromotionError(f"Model '{model}'", expected="a champion", found="none", fix=fix)
    return champion


def _directory_of(champion: ChampionRecord, directories: Iterable[Path]) -> Path:
    tried = list(directories)
    for directory in tried:
        if directory.is_dir() and directory_digest(directory, [MANIFEST_FILE]) == champion.content_digest:
            return directory
    places = ", ".join(str(directory) for directory in tried) or "nowhere"
    raise PromotionError(
        f"Champion version {champion.version} of '{champion.model}'",
        expected=f"a folder with its content {champion.content_digest[:12]}",
        found=f"none in {places}",
        fix="Restore its release with `dvc pull`, restore the home from a backup, or end it: "
        f"ml-platform retire {champion.model} --by NAME --reason TEXT.",
    )


def _register(
    registry: ModelRegistry, audit: AuditLog, champion: ChampionRecord, directory: Path, example: pl.DataFrame
) -> ModelVersion:
    taken = _highest_number(audit, champion.model)
    tags = {"restored_version": str(champion.version)}
    with scratch_folder("restore") as scratch:
        files = shutil.copytree(directory, scratch / "model")
        if not (files / MANIFEST_FILE).exists():
            # A bento contains the model without its manifest, which the audit log has too.
            manifest = Manifest.model_validate(dict(champion.manifest))
            write_text(files / MANIFEST_FILE, manifest.model_dump_json(indent=2))
        with registry.tracking.run(champion.model, f"restore-{champion.version}", tags) as run:
            while True:
                version = registry.register(champion.model, files, run_id=run.run_id, input_example=example)
                if version.version > taken or version.version == champion.version:
                    return version
                # The whole model was deleted, so MLflow counts from 1 again and would give a number twice.
                registry.delete(version)


def _highest_number(audit: AuditLog, model: str) -> int:
    """Return the highest version number that a decision on ``model`` names."""
    records = [
        record for kind in (CHAMPION_KIND, APPROVAL_KIND, CHALLENGER_KIND) for record in audit.records(kind, model)
    ]
    return max((int(record.facts["version"]) for record in records if record.facts["version"] is not None), default=0)
