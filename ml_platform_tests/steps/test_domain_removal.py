"""A deleted domain leaves services and tables; one verb ends those of this domain, and nothing else."""

import polars as pl
import pytest

from ml_platform.registry.approvals import ApprovalError
from ml_platform.serving.desired_state import read_desired_state
from ml_platform.steps.domain_removal import DomainRemovalError, remember_domains, removal_of_domain
from ml_platform.steps.lifecycle import LifecycleDecision, LifecycleStep
from ml_platform.steps.orphans import orphans
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform_tests.steps.test_lifecycle import DECISION, DECLARED, NOTHING
from ml_platform_tests.steps.test_lifecycle import stores as stores

OWNERS = {"datasets/orders": "sales", "features/shops": "sales", "models/late": "sales", "datasets/rides": "bikes"}


@pytest.fixture
def home(stores: PlatformStores) -> PlatformStores:
    """The home of the lifecycle tests, whose declarations are those of `sales`, beside two other domains."""
    for table in ("datasets/rides", "datasets/parcels.orders", "features/parcels.routes/b-2", "online/shops/a-1"):
        stores.lake.write(table, pl.DataFrame({"id": [1, 2]}), None)
    remember_domains(stores.state, OWNERS)
    return stores


def steps_of(domain: str, home: PlatformStores, *also: str, declared: object = NOTHING) -> list[LifecycleStep]:
    return removal_of_domain(domain, home, DECISION, declared, ["aviation"], also)  # type: ignore[arg-type]


def left(home: PlatformStores) -> list[str]:
    return [each.name for each in orphans(home.state, NOTHING)]


def test_all_of_the_domain_ends_and_nothing_of_others(home: PlatformStores) -> None:
    assert set(left(home)) == {
        *("late", "parcels.orders", "orders", "rides"),
        *("features/parcels.routes", "features/shops", "online/shops"),
    }
    for step in steps_of("sales", home):
        step.run()

    assert set(left(home)) == {"parcels.orders", "rides", "features/parcels.routes"}
    assert not read_desired_state(home.state, "late").served_versions
    records = home.audit.records()
    assert {record.facts.get("table") for record in records if record.kind == "table_dropped"} == {
        *("datasets/orders", "features/shops/a-1", "online/shops/a-1"),
    }
    assert all((record.actor, record.facts["reason"]) == ("ada", "replaced") for record in records)
    assert steps_of("sales", home) == []


def test_names_of_a_namespace_tell_their_domain(home: PlatformStores) -> None:
    for step in steps_of("parcels", home):
        step.run()
    assert "rides" in left(home)
    assert not [name for name in left(home) if "parcels." in name]


def test_removal_that_was_killed_after_a_step_does_the_rest(home: PlatformStores) -> None:
    first, *_ = steps_of("sales", home)
    first.run()
    for step in steps_of("sales", home):
        step.run()
    assert set(left(home)) == {"parcels.orders", "rides", "features/parcels.routes"}


def test_orphan_of_an_unknown_domain_is_named_by_the_person(home: PlatformStores) -> None:
    assert [step.text for step in steps_of("bikes", home, "features/shops")] == [
        "drop the 2 rows of 'datasets/rides'",
        "drop the 2 rows of 'features/shops/a-1'",
    ]


@pytest.mark.parametrize(
    ("domain", "also", "message"),
    [
        ("aviation", (), r"expected a domain whose folder was deleted, found the folder assets/aviation"),
        ("salse", (), r"'bikes', 'sales'.*Did you mean 'sales'\?"),
        ("sales", ("features/shop",), r"Names 'features/shop': .*Did you mean 'features/shops'\?"),
    ],
)
def test_domain_or_name_that_cannot_end_is_refused(
    home: PlatformStores, domain: str, also: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DomainRemovalError, match=message):
        steps_of(domain, home, *also)


def test_declared_names_stay_and_a_decision_is_needed(home: PlatformStores) -> None:
    assert [step.text for step in steps_of("sales", home, declared=DECLARED)] == []
    with pytest.raises(ApprovalError):
        removal_of_domain("sales", home, LifecycleDecision("", "", DECISION.at), NOTHING, [])
