"""A deleted declaration is named until a person ends it; a verb that was killed does the rest when it runs again."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from ml_platform.components.stores import open_home_stores
from ml_platform.console.lifecycle import ConfirmationError, run_steps
from ml_platform.data.contract_record import published_files, record_passed
from ml_platform.registry.approvals import ApprovalError
from ml_platform.registry.audit import AuditLog
from ml_platform.serving.desired_state import ServedVersion, change_desired_state, read_desired_state, with_stable
from ml_platform.serving.streams.declared_streams import store_streams, stored_streams
from ml_platform.serving.streams.nats_stream import NatsStream
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.steps.lifecycle import (
    LifecycleDecision,
    LifecycleError,
    removal_of_dataset,
    removal_of_tables,
    retirement_of_model,
)
from ml_platform.steps.orphans import DeclaredNames, orphans
from ml_platform.steps.platform_stores import PlatformStores
from resources.home import Home

DECISION = LifecycleDecision("ada", "replaced", datetime(2024, 5, 1, tzinfo=UTC))
NOTHING = DeclaredNames(frozenset(), frozenset(), frozenset())
DECLARED = DeclaredNames({"orders"}, {"shops"}, {"late"})


@pytest.fixture
def stores(tmp_path: Path) -> PlatformStores:
    """A home with a served model, a dataset of two months, and the tables of a view and of the model."""
    found = open_home_stores(Home(tmp_path))
    served = ServedVersion(version="3", bento="late/3")
    change_desired_state(found.state, "late", lambda current: with_stable(current, served))
    for table, month in (("orders", "2024-01"), ("orders", "2024-02")):
        found.lake.write(f"datasets/{table}", pl.DataFrame({"id": [1, 2]}), month)
    found.lake.write("features/shops/a-1", pl.DataFrame({"id": [1, 2]}), "2024-01")
    record_passed(found.state, "orders", "2024-01", content_digest="0" * 64, landed_sha256="1" * 64)
    write_cursor(found.state, "landing/orders", {"files": 2})
    write_cursor(found.state, "landing/orders_of_another_shop", {"files": 1})
    return found


def named(stores: PlatformStores, declared: DeclaredNames) -> list[tuple[str, str]]:
    return [(each.kind, each.name) for each in orphans(stores.state, declared)]


def test_deleted_declarations_are_named_with_the_verb_that_ends_them(stores: PlatformStores) -> None:
    assert named(stores, DECLARED) == []
    assert [str(each) for each in orphans(stores.state, NOTHING)] == [
        f"{subject} has no declaration, but {found}. End it with `ml-platform {verb} --by … --reason …`."
        for subject, found, verb in (
            ("model 'late'", "it is served", "model retire late"),
            ("dataset 'orders'", "4 rows are stored", "dataset drop orders"),
            ("table 'features/shops'", "2 rows are stored", "table drop features/shops"),
        )
    ]


def test_retired_model_is_served_no_more_and_the_record_says_why(stores: PlatformStores) -> None:
    stream = NatsStream(server="nats://127.0.0.1:4222", requests="a", results="b", dead_letters="c", consumer="late")
    store_streams(stores.state, "late", [stream])
    (step,) = retirement_of_model("late", stores, DECISION)
    step.run()

    assert stored_streams(stores.state) == {}
    assert read_desired_state(stores.state, "late").served_versions == []
    (record,) = stores.audit.records("model_retired")
    assert (record.actor, record.facts["model"], record.facts["reason"]) == ("ada", "late", "replaced")
    assert retirement_of_model("late", stores, DECISION) == []
    assert ("model", "late") not in named(stores, NOTHING)


def test_dropped_dataset_has_no_rows_and_may_be_declared_again(stores: PlatformStores) -> None:
    before = stores.lake.version("datasets/orders")
    for step in removal_of_dataset("orders", stores.lake, stores.audit, DECISION, NOTHING):
        step.run()

    assert stores.lake.partitions("datasets/orders") == []
    assert stores.lake.scan("datasets/orders", version=before).collect().height == 4
    assert published_files(stores.state, "orders") == {}
    assert read_cursor(stores.state, "landing/orders") is None
    assert read_cursor(stores.state, "landing/orders_of_another_shop") == {"files": 1}
    assert [each.facts["table"] for each in stores.audit.records("table_dropped")] == ["datasets/orders"]
    assert removal_of_dataset("orders", stores.lake, stores.audit, DECISION, NOTHING) == []
    stores.lake.write("datasets/orders", pl.DataFrame({"id": [7]}), "2024-01")
    assert stores.lake.scan("datasets/orders").collect()["id"].to_list() == [7]


def test_verb_that_was_killed_after_a_step_does_the_rest(stores: PlatformStores) -> None:
    first, second = removal_of_dataset("orders", stores.lake, stores.audit, DECISION, NOTHING)
    first.run()
    (rest,) = removal_of_dataset("orders", stores.lake, stores.audit, DECISION, NOTHING)
    assert rest.text == second.text
    assert len(stores.audit.records("table_dropped")) == 1


def test_removal_without_its_record_is_rolled_back(stores: PlatformStores, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    (step,) = removal_of_tables("features/shops", stores.lake, stores.audit, DECISION, NOTHING)
    monkeypatch.setattr(AuditLog, "append", full)
    with pytest.raises(OSError, match="disk full"):
        step.run()
    assert stores.lake.scan("features/shops/a-1").collect().height == 2


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (lambda s: removal_of_dataset("orders", s.lake, s.audit, DECISION, DECLARED), "the declaration of 'orders'"),
        (lambda s: removal_of_tables("features/shops/a-1", s.lake, s.audit, DECISION, DECLARED), "Delete the decl"),
        (lambda s: removal_of_tables("features", s.lake, s.audit, DECISION, NOTHING), "none of that name"),
        (lambda s: removal_of_tables("datasets/order", s.lake, s.audit, DECISION, NOTHING), "none of that name"),
        (lambda s: retirement_of_model("lat", s, DECISION), "found none of that name"),
    ],
)
def test_what_is_in_use_or_unknown_is_refused(
    stores: PlatformStores, plan: Callable[[PlatformStores], object], message: str
) -> None:
    with pytest.raises(LifecycleError, match=message):
        plan(stores)


def test_decision_needs_a_name_and_a_reason(stores: PlatformStores) -> None:
    with pytest.raises(ApprovalError, match="expected a name and a reason"):
        retirement_of_model("late", stores, LifecycleDecision("ada", " ", DECISION.at))


def test_steps_need_a_confirmation_and_a_dry_run_changes_nothing(stores: PlatformStores) -> None:
    steps, lines = retirement_of_model("late", stores, DECISION), list[str]()
    run_steps(steps, lines.append, dry_run=True, confirmed=False, subject="Model 'late'")
    with pytest.raises(ConfirmationError, match=r"end the service of 'late'.*Add --yes"):
        run_steps(steps, lines.append, dry_run=False, confirmed=False, subject="Model 'late'")

    assert lines == ["would end the service of 'late' (version 3); its endpoint answers no more"]
    assert read_desired_state(stores.state, "late").served_versions != []
    run_steps(steps, lines.append, dry_run=False, confirmed=True, subject="Model 'late'")
    run_steps([], lines.append, dry_run=False, confirmed=True, subject="Model 'late'")
    assert lines[1:] == [
        "done: end the service of 'late' (version 3); its endpoint answers no more",
        "Nothing to do: Model 'late' has ended already.",
    ]
