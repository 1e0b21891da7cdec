"""Which messages are due: grouping, repetition, escalation, silence, worsening and recovery."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from ml_platform.alerts.alert import StoredAlert
from ml_platform.alerts.notices import UNROUTED, Notice, Plan, plan
from ml_platform.alerts.settings import Route
from ml_platform_tests.alerts.alerting import START, stored


def route(**changes: Any) -> Route:
    return Route.model_validate({"receivers": ["team"], "group_wait_seconds": 30, "repeat_hours": 4, **changes})


def planned(
    alerts: Sequence[StoredAlert],
    route: Route,
    *,
    minutes: float = 0,
    notices: Sequence[Notice] = (),
    silent: bool = False,
) -> Plan:
    return plan(alerts, notices, {"all": route}, lambda _: silent, START + timedelta(minutes=minutes))


def summary(found: Plan) -> list[tuple[str, str, list[int]]]:
    return [(each.receiver, each.stage, [alert.id for alert in each.alerts]) for each in found.messages]


def test_group_waits_for_further_alerts_and_shares_one_message() -> None:
    alerts = [stored(1), stored(2, opened_at=START + timedelta(seconds=20)), stored(3, domain="bikes")]
    assert not planned(alerts, route(), minutes=0.4)
    found = planned(alerts, route(), minutes=0.5)
    assert summary(found) == [("team", "opened", [1, 2]), ("team", "opened", [3])]
    assert summary(planned(alerts, route(group_by=[]), minutes=0.5)) == [("team", "opened", [1, 2, 3])]


def test_sent_alert_is_not_sent_again_before_the_time_of_repetition() -> None:
    notices = planned([stored()], route(), minutes=1).notices
    assert not planned([stored()], route(), minutes=240, notices=notices)
    repeated = planned([stored()], route(), minutes=241, notices=notices)
    assert summary(repeated) == [("team", "repeated", [1])]
    assert not planned([stored()], route(), minutes=300, notices=repeated.notices)
    assert not planned([stored()], route(repeat_hours=None), minutes=9999, notices=notices)


def test_alert_that_nobody_acknowledges_escalates_once() -> None:
    escalating = route(escalate={"after_minutes": 10, "receivers": ["boss"]})
    notices = planned([stored()], escalating, minutes=1).notices
    assert not planned([stored()], escalating, minutes=10, notices=notices)
    escalated = planned([stored()], escalating, minutes=11, notices=notices)
    assert summary(escalated) == [("boss", "escalated", [1])]
    assert not planned([stored()], escalating, minutes=30, notices=escalated.notices)
    acknowledged = stored(acknowledged_at=START, acknowledged_by="ann")
    assert not planned([acknowledged], escalating, minutes=999, notices=notices)
    ended = stored(resolved_at=START)
    recovered = planned([ended], escalating, minutes=40, notices=escalated.notices)
    assert summary(recovered) == [("team", "recovered", [1]), ("boss", "recovered", [1])]


def test_recovery_is_sent_once_and_only_for_alerts_that_were_sent() -> None:
    ended = stored(resolved_at=START + timedelta(minutes=5))
    assert not planned([ended], route(), minutes=6)
    notices = planned([stored()], route(), minutes=1).notices
    recovered = planned([ended], route(), minutes=6, notices=notices)
    assert summary(recovered) == [("team", "recovered", [1])]
    assert list(recovered.ended) == [(1, "all")]
    quiet = planned([ended], route(recovery=False), minutes=6, notices=notices)
    assert (quiet.messages, list(quiet.ended)) == ([], [(1, "all")])


def test_silent_alert_gets_no_message_but_its_recovery() -> None:
    assert not planned([stored()], route(), minutes=60, silent=True)
    notices = planned([stored()], route(), minutes=1).notices
    assert not planned([stored()], route(), minutes=999, notices=notices, silent=True)
    ended = stored(resolved_at=START)
    assert summary(planned([ended], route(), minutes=9, notices=notices, silent=True)) == [("team", "recovered", [1])]


def test_alert_that_becomes_worse_is_sent_at_once() -> None:
    notices = planned([stored()], route(), minutes=1).notices
    worse = planned([stored(severity="critical")], route(), minutes=2, notices=notices)
    assert summary(worse) == [("team", "worsened", [1])]
    assert not planned([stored(severity="critical")], route(), minutes=3, notices=worse.notices)


def test_alert_goes_along_every_route_that_it_matches_and_to_the_log_without_one() -> None:
    routes = {"all": route(), "pages": route(receivers=["pager"], severities=["critical"])}

    def receivers(alert: StoredAlert, now: datetime) -> list[tuple[str, str]]:
        return [(each.receiver, each.route) for each in plan([alert], [], routes, lambda _: False, now).messages]

    later = START + timedelta(minutes=1)
    assert receivers(stored(severity="critical"), later) == [("team", "all"), ("pager", "pages")]
    del routes["all"]
    assert receivers(stored(), START) == [("log", UNROUTED)]


def test_receiver_gets_no_message_about_itself() -> None:
    down = stored(kind="route_down", subject="team", severity="critical")
    found = planned([down], route(receivers=["team", "mail"]), minutes=1)
    assert [each.receiver for each in found.messages] == ["log", "mail"]


def test_two_plans_of_one_moment_are_equal_and_later_messages_have_other_keys() -> None:
    first, again = planned([stored()], route(), minutes=1), planned([stored()], route(), minutes=1)
    assert first == again
    repeated = planned([stored()], route(), minutes=999, notices=first.notices)
    assert repeated.messages[0].key != first.messages[0].key
