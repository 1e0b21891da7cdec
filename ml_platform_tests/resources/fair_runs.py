"""Jobs of two domains, for the tests of the queue of runs."""

import dagster as dg

from resources.orchestration import GPU_POOL


@dg.asset(tags={"domain": "shop"})
def sales() -> None: ...


@dg.asset(tags={"domain": "water"})
def levels() -> None: ...


@dg.asset(tags={"domain": "water"}, pool=GPU_POOL)
def forecast() -> None: ...


defs = dg.Definitions(
    assets=[sales, levels, forecast],
    jobs=[dg.define_asset_job(f"job_{asset.key.path[-1]}", selection=[asset]) for asset in (sales, levels, forecast)],
)
