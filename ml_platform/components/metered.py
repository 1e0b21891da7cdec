"""Measures the body of every asset and check, and records its cost once, also when it fails.

The steps of a run follow each other in one process, so all that the process uses meanwhile is used by the step, its
threads and ended children included. A killed process records nothing.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg

from ml_platform.errors import PlatformError
from resources.alert_sources import domain_of
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.profiles import REPOSITORY

if TYPE_CHECKING:
    from ml_platform.state.store import StateStore
    from ml_platform.training.resource_usage import ResourceMeter

Body = TypeVar("Body", bound=Callable[..., Any])
Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext

SHARED_KEYS = ("datasets", "features", "platform")
"""First parts of the keys of assets that belong to no model; that of all others is the name of their model."""


def metered(body: Body) -> Body:
    """Return the ``body`` of an asset or check as one whose cost is recorded, and shown on what it materializes.

    It needs the resource ``lake`` or ``home``, whose state store has the ledger. Metadata of the body wins.
    """
    if inspect.isgeneratorfunction(body):

        @functools.wraps(body)
        def measured(*context: Context, **resources: Any) -> Iterator[Any]:
            with _recorded(*context, **resources) as used:
                for result in body(*context, **resources):
                    yield _with_usage(result, used)

    else:

        @functools.wraps(body)
        def measured(*context: Context, **resources: Any) -> Any:
            with _recorded(*context, **resources) as used:
                return _with_usage(body(*context, **resources), used)

    return measured  # type: ignore[return-value]


def _with_usage(result: Any, used: "ResourceMeter") -> Any:
    if not isinstance(result, dg.MaterializeResult):
        return result
    own = dict(result.metadata or {})
    # The page of the asset shows metadata in this order: what the body says comes first, and wins.
    return result._replace(metadata={**own, **asdict(used.total()), **own})


@contextmanager
def _recorded(*given: Context, **resources: Any) -> "Iterator[ResourceMeter]":
    from ml_platform.steps.prices import read_prices
    from ml_platform.training.resource_usage import measure_resources

    # A body that needs no context has none among its parameters.
    context = given[0] if given else dg.AssetExecutionContext.get()
    home = resources.get("home")
    prices = read_prices(home.code if isinstance(home, HomeResource) else REPOSITORY)
    failed = True
    with measure_resources(prices) as used:
        try:
            yield used
            failed = False
        except GeneratorExit:
            # Dagster reads no further after a result that stops the step.
            failed = False
            raise
        finally:
            try:
                _record(context, _state(resources), used, failed=failed)
            except PlatformError as error:
                # The step has its result, which must not depend on the ledger.
                context.log.warning(f"The cost of this step is not recorded. {error}")


def _record(context: Context, state: "StateStore", used: "ResourceMeter", *, failed: bool) -> None:
    from ml_platform.monitoring.cost_records import StepCost, Used, record_step

    key, name = _step(context)
    usage, graph = used.total(), context.job_def.asset_layer.asset_graph
    node = graph.get(key) if graph.has(key) else None
    record_step(
        state,
        StepCost(
            run_id=context.run.run_id,
            asset=name,
            attempt=context.retry_number,
            domain="" if node is None else domain_of(node.tags, node.metadata, REPOSITORY / "assets"),
            model="" if key.path[0] in SHARED_KEYS else key.path[0],
            failed=failed,
            ended_at=datetime.now(UTC),
            used=Used(
                usage.wall_seconds,
                usage.cpu_seconds,
                usage.gpu_seconds,
                usage.peak_memory_bytes,
                usage.bytes_written,
                usage.cost,
            ),
        ),
    )


def _step(context: Context) -> tuple[dg.AssetKey, str]:
    """Return the asset of the step, and the name of the step in the ledger."""
    if isinstance(context, dg.AssetExecutionContext):
        return context.asset_key, context.asset_key.to_user_string()
    check = min(context.selected_asset_check_keys)
    return check.asset_key, f"{check.asset_key.to_user_string()}:{check.name}"


def _state(resources: Mapping[str, Any]) -> "StateStore":
    for each in resources.values():
        if isinstance(each, LakeResource):
            return each.state()
        if isinstance(each, HomeResource):
            return each.audit().state
    raise TypeError("a metered body needs the resource `lake` or `home`")
