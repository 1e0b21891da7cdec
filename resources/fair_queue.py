"""The queue of launched runs: Dagster's own, in an order that gives each domain its share of the slots.

The daemon takes the queued run with the highest priority, and a pool serves its waiting steps by the priority of their
run. So the place of a run in the queue of its scarcest resource (:mod:`resources.fair_share`) becomes its priority.
Places are kept in tags of the runs, so every process that submits runs sees them and no other store is needed.
"""

import hashlib
import logging
from statistics import mean
from typing import TYPE_CHECKING

from dagster import DagsterRunStatus, RunsFilter
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.tags import PRIORITY_TAG

from ml_platform.data.domains import declared_shares
from resources.alert_sources import domain_of
from resources.fair_share import Need, Place, need, place
from resources.orchestration import GPU_POOL
from resources.profiles import REPOSITORY
from resources.run_monitoring import RUN_ID_DIGITS

if TYPE_CHECKING:
    from dagster import DagsterInstance

PLACE_TAG = "ml_platform/place"
"""Tag of a run: virtual start and finish, and the start of the run's id, because a retry gets a copy of the tags."""

RESOURCE_TAG, QUEUE_TAG, WORK_TAG = "ml_platform/resource", "ml_platform/queue", "ml_platform/work"
"""Tags of a run: its scarcest resource, that with the domain, and a digest of its job and assets."""

RUN_SLOTS = "runs"
UNLIMITED_RUNS = 10.0
"""Capacity for runs where their number is not limited; then no run waits for it."""

LEFT_QUEUE = [
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
    DagsterRunStatus.SUCCESS,
    DagsterRunStatus.FAILURE,
]
"""Statuses of runs that had slots. A cancelled run may have had none, so it counts for nothing."""

RECENT_RUNS = 20
"""Runs among which the latest virtual start is searched; those of all domains are near the virtual time."""

EARLIER_RUNS = 3
DEFAULT_SECONDS = 60.0
"""Time that a run without earlier ones of the same work is expected to take."""

MAX_PRIORITY = 2_000_000_000
"""Pools take priorities of 32 bits. A queue that is always full reaches this after 60 years."""

LOG = logging.getLogger(__name__)


class FairRunCoordinator(QueuedRunCoordinator):
    """Queues runs in the order of weighted fair sharing. A priority that a person or a job sets stays as it is."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Give the run its place, and queue it."""
        run = context.dagster_run
        is_set = PRIORITY_TAG in run.tags and PLACE_TAG not in run.tags
        if run.status == DagsterRunStatus.NOT_STARTED and not is_set:
            try:
                self._set_place(run, _domain(context))
            except Exception:
                # The run must not be lost for its place; without one it is next.
                LOG.warning("Run %s has no place in the queue.", run.run_id, exc_info=True)
        return super().submit_run(context)

    def _set_place(self, run: DagsterRun, domain: str) -> None:
        instance, work = self._instance, _work(run)
        needed = _need(instance, run, work)
        queue = f"{needed.resource}/{domain}"
        found = place(
            now=_latest_start(instance, needed.resource),
            last_finish=_last_finish(instance, queue),
            cost=needed.seconds,
            weight=declared_shares(REPOSITORY / "assets").get(domain, 1.0),
        )
        instance.add_run_tags(
            run.run_id,
            {
                PLACE_TAG: f"{found.start:.2f} {found.finish:.2f} {run.run_id[:RUN_ID_DIGITS]}",
                RESOURCE_TAG: needed.resource,
                QUEUE_TAG: queue,
                WORK_TAG: work,
                PRIORITY_TAG: str(-min(round(found.start), MAX_PRIORITY)),
            },
        )


def place_of(run: DagsterRun) -> Place | None:
    """Return the place that ``run`` has in the queue, or None."""
    start, _, rest = run.tags.get(PLACE_TAG, "").partition(" ")
    finish, _, run_id = rest.partition(" ")
    return Place(float(start), float(finish)) if run_id == run.run_id[:RUN_ID_DIGITS] else None


def _domain(context: SubmitRunContext) -> str:
    """Return the domain of all assets of the run; "" for none and for several, which is a domain of its own."""
    run, graph = context.dagster_run, context.workspace.asset_graph
    if run.asset_selection:
        nodes = [graph.get(key) for key in run.asset_selection if graph.has(key)]
    else:
        nodes = [node for node in graph.asset_nodes if run.job_name in node.job_names]
    domains = {domain_of(node.tags, node.metadata, REPOSITORY / "assets") for node in nodes}
    return domains.pop() if len(domains) == 1 else ""


def _need(instance: "DagsterInstance", run: DagsterRun, work: str) -> Need:
    limits = instance.get_concurrency_config().run_queue_config
    runs = limits.max_concurrent_runs if limits is not None else -1
    demand, capacity = {RUN_SLOTS: 1.0}, {RUN_SLOTS: float(runs) if runs > 0 else UNLIMITED_RUNS}
    if run.run_op_concurrency is not None and GPU_POOL in (run.run_op_concurrency.all_pools or ()):
        demand[GPU_POOL] = 1.0
        capacity[GPU_POOL] = float(instance.event_log_storage.get_concurrency_info(GPU_POOL).slot_count or 1)
    return need(_expected_seconds(instance, work), demand, capacity)


def _expected_seconds(instance: "DagsterInstance", work: str) -> float:
    filters = RunsFilter(tags={WORK_TAG: work}, statuses=[DagsterRunStatus.SUCCESS])
    records = instance.get_run_records(filters, limit=EARLIER_RUNS)
    took = [each.end_time - each.start_time for each in records if each.end_time and each.start_time]
    return max(1.0, mean(took)) if took else DEFAULT_SECONDS


def _work(run: DagsterRun) -> str:
    assets = sorted(key.to_user_string() for key in run.asset_selection or ())
    return hashlib.sha256("\n".join([str(run.job_name), *assets]).encode()).hexdigest()[:16]


def _latest_start(instance: "DagsterInstance", resource: str) -> float:
    filters = RunsFilter(tags={RESOURCE_TAG: resource}, statuses=LEFT_QUEUE)
    found = map(place_of, instance.get_runs(filters, limit=RECENT_RUNS))
    return max((each.start for each in found if each is not None), default=0.0)


def _last_finish(instance: "DagsterInstance", queue: str) -> float:
    filters = RunsFilter(tags={QUEUE_TAG: queue}, statuses=[DagsterRunStatus.QUEUED, *LEFT_QUEUE])
    found = map(place_of, instance.get_runs(filters, limit=1))
    return max((each.finish for each in found if each is not None), default=0.0)
