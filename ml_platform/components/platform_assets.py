"""The asset `platform/housekeeping` and its daily schedule: removes what the home no longer needs."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.loading import declared_retention
from ml_platform.components.metadata import records_table
from ml_platform.components.metered import metered
from ml_platform.components.stores import open_stores
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource

if TYPE_CHECKING:
    from ml_platform.steps.housekeeping import CleaningReport
    from ml_platform.steps.retention import RetentionPolicies

HOUSEKEEPING = dg.AssetKey(["platform", "housekeeping"])
DAILY = "30 3 * * *"
DESCRIPTION = "Removes replaced table versions, old runs, bentos, candidates, logs and pages by their retention."


def platform_definitions() -> dg.Definitions:
    """Return the assets of the platform itself, which belong to no domain, with their schedules."""
    asset = housekeeping()
    job = dg.define_asset_job("platform_housekeeping", selection=[HOUSEKEEPING], description=DESCRIPTION)
    schedule = dg.ScheduleDefinition(
        name="platform_housekeeping",
        cron_schedule=DAILY,
        job=job,
        description=DESCRIPTION,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return dg.Definitions(assets=[asset], jobs=[job], schedules=[schedule])


def housekeeping(retention: "Callable[[], RetentionPolicies]" = declared_retention) -> dg.AssetsDefinition:
    """Return the asset `platform/housekeeping`; ``retention`` returns how long each kind of content is kept."""

    @dg.asset(
        key=HOUSEKEEPING,
        description=f"{DESCRIPTION} Each materialization lists what was freed; champions and pinned versions stay.",
        owners=["team:platform"],
        group_name="platform",
        tags={"domain": "platform"},
        kinds={"python"},
    )
    @metered
    def _housekeeping(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        home: HomeResource,
        mlflow: MlflowResource,
        online_store: OnlineStoreResource,
    ) -> dg.MaterializeResult[Any]:
        from ml_platform.data.leftovers import before
        from ml_platform.state.sqlite_file import StateLockedError
        from ml_platform.steps.housekeeping import clean
        from resources.dagster_cleaning import old_runs

        policies, now = retention(), datetime.now(UTC)
        runs = partial(old_runs, context.instance, before(now, policies.platform.runs_days))
        try:
            report = clean(
                open_stores(home, lake, mlflow, online_store), policies, now=now, by=context.run.run_id, more=[runs]
            )
        except StateLockedError as error:
            # Another cleaning does the work, or the next one follows the backup.
            return dg.MaterializeResult(metadata={"reason": str(error)})
        if report.problems:
            raise dg.Failure("; ".join(report.problems), metadata=cleaning_metadata(report), allow_retries=False)
        return dg.MaterializeResult(metadata=cleaning_metadata(report))

    return _housekeeping


def cleaning_metadata(report: "CleaningReport") -> dict[str, Any]:
    """Return the metadata of a cleaning: totals, and a table with one row per kind."""
    metadata: dict[str, Any] = {
        "items": report.items,
        "freed_bytes": report.size_bytes,
        "model_versions": ", ".join(report.model_versions) or "none",
        "problems": "; ".join(report.problems) or "none",
    }
    if report.kinds:
        metadata["kinds"] = records_table(
            {
                "kind": each.kind,
                "items": each.items,
                "bytes": each.size_bytes,
                "oldest": f"{each.oldest:%Y-%m-%d %H:%M} UTC" if each.oldest else "",
                "examples": ", ".join(each.examples),
            }
            for each in report.kinds
        )
    return metadata
