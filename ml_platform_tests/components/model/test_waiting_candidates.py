"""A candidate on HOLD is judged again by itself on each window that closes, until the records end its wait."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl
import pytest

from ml_platform.components.model import evaluation, model_card, promotion
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.rejudging import due_candidate, waiting_candidates_sensor
from ml_platform.data.contract_record import record_passed
from ml_platform.evaluation.evidence import SystemChecks
from ml_platform.evaluation.look import Look, LookWindow
from ml_platform.evaluation.sequential import nominal_levels
from ml_platform.evaluation.verdict import Verdict, parse_verdict
from ml_platform.features.materialize import materialize
from ml_platform.features.view import PREDICT_AT
from ml_platform.registry.champion_history import current_champion
from ml_platform.registry.open_waits import WAIT_ENDED_KIND
from ml_platform.registry.verdict_record import VERDICT_KIND, stored_verdict
from ml_platform.registry.waiting import end_waits, waiting_candidates
from ml_platform.steps.candidates import build_training_sets, read_training_set, split_of
from ml_platform.steps.evaluation import collect_evidence, compared_versions, labels_per_day, record_evaluation
from ml_platform.steps.promotion import promote_candidate
from ml_platform.steps.rejudgement import NotWaitingError, judge_candidate, next_window, window_rows
from ml_platform.steps.scoring import score_models
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import deliveries, delivery_model

pytestmark = pytest.mark.slow

MONTHS = tuple(f"2013-0{month}" for month in range(1, 8))
NOW = datetime(2014, 1, 1, tzinfo=UTC)
GATES = [{"type": "paired_test", "metric": "log_loss"}, {"type": "leak"}, {"type": "contract"}]


def model(rounds: int, **changes: Any) -> ModelAssets:
    """Return the delivery model, which fits better with more boosting ``rounds``."""
    trainer = {"settings": {"max_rounds": rounds, "num_threads": 1}}
    split = {"minimum_rows": 50}
    return delivery_model(**({"trainers": {"lightgbm": trainer}, "gates": GATES, "split": split} | changes))


WEAK, GOOD = model(8), model(14)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    """A home with deliveries of seven months, of which April has two days only; the champion is the one of March."""
    with open_platform(tmp_path_factory.mktemp("repository") / ".ml_platform") as made:
        for month in MONTHS:
            rows = deliveries(month).head(60) if month == "2013-04" else deliveries(month)
            digest = made.lake.write("datasets/deliveries", rows, month).sha256
            record_passed(made.lake.state, "deliveries", month, content_digest=digest, landed_sha256=digest)
        online = made.resources["online_store"].store()
        materialize(WEAK.stored_views[0], made.lake, online, list(MONTHS), WEAK.declared.partitions)
        build_training_sets(WEAK, MONTHS, made.lake)
        make_champion(made, WEAK)
        yield made


def evaluate(platform: PlatformFixture, model: ModelAssets, month: str) -> Verdict:
    """Fit the candidate of ``month`` and judge it on its own window; system checks are constants, without a bento."""
    platform.make(model, month)
    stores = platform.stores
    compared = compared_versions(model, month, stores)
    split = split_of(model, month, read_training_set(model, month, stores.lake))
    checks = SystemChecks(leaks=[], contract_violations=[], latency_p99_ms=5.0, size_bytes=1000)
    scores = score_models(model, split, compared, stores)
    evidence = collect_evidence(model, split.test, compared, scores, checks)
    return record_evaluation(model, compared, evidence, {}, stores, NOW)


def make_champion(platform: PlatformFixture, model: ModelAssets) -> None:
    """Make the candidate of March the first champion of ``model``."""
    evaluate(platform, model, "2013-03")
    promote_candidate(model, "2013-03", platform.stores, decision=None, decided_by="gates", now=NOW)


def tick(platform: PlatformFixture, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """Return the request of the sensor, or its reason to skip."""
    with dg.build_sensor_context(instance=instance, resources={"lake": platform.resources["lake"]}) as context:
        result = waiting_candidates_sensor(GOOD)(context)
    if isinstance(result, dg.SkipReason):
        return str(result.skip_message)
    assert isinstance(result, dg.RunRequest)
    return result


def run(platform: PlatformFixture, instance: dg.DagsterInstance, month: str, config: Mapping[str, Any]) -> bool:
    assets = [evaluation.evaluation(GOOD), model_card.model_card(GOOD), promotion.champion(GOOD)]
    done = dg.materialize(
        assets,
        partition_key=month,
        resources=platform.resources,
        instance=instance,
        run_config=config,
        raise_on_error=False,
    )
    return done.success


def verdicts(platform: PlatformFixture, month: str) -> list[Verdict]:
    records = platform.stores.audit.records(VERDICT_KIND, "late")
    digests = [record.facts["digest"] for record in records if record.facts["partition"] == month]
    return [parse_verdict(stored_verdict(platform.lake.state, digest).content) for digest in digests]


def test_better_candidate_of_a_small_window_is_promoted_by_itself_at_a_later_look(platform: PlatformFixture) -> None:
    platform.make(GOOD, "2013-04")
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(platform, instance, "2013-04", {})  # a verdict of HOLD is no failure
        card_file = platform.home.reports / "model_card" / "late" / "2013-04" / "card.md"
        card_on_hold = card_file.read_text()
        champion_event = instance.get_latest_materialization_event(GOOD.key("champion"))
        before = tick(platform, instance)
        own = evaluate(platform, WEAK, "2013-05")
        request = tick(platform, instance)
        assert isinstance(request, dg.RunRequest)
        assert run(platform, instance, str(request.partition_key), request.run_config)
        after = tick(platform, instance)

    assert own.decision != "PROMOTE"
    assert before == (
        "The candidate of 2013-04, after look 1 of at most 6, waits until a window after 2013-04 is closed and "
        "evaluated."
    )
    # Version 1 was promoted without a run, and Dagster shows it; the version on HOLD it does not.
    assert champion_event is not None
    assert champion_event.asset_materialization is not None
    assert champion_event.asset_materialization.metadata["version"].value == 1
    assert "Verdict: **HOLD**" in card_on_hold
    first, second = verdicts(platform, "2013-04")
    assert (first.decision, second.decision) == ("HOLD", "PROMOTE")
    assert first.reasons[-1].startswith("Look 1 of at most 6: it is judged again when the next window closes.")
    assert first.candidate == second.candidate
    one, two = second.looks
    assert (one.window, one.rows, one.blocks) == ("2013-04", 60, 2)
    assert (two.window, two.rows, two.pooled_rows, two.blocks) == ("2013-05", 840, 900, 30)
    assert two.level == pytest.approx(nominal_levels([60, 900], 0.05)[1])
    assert two.spent == pytest.approx(0.0125)
    assert two.cases == sum(deliveries("2013-05")["late"]) + sum(deliveries("2013-04").head(60)["late"])
    estimate = two.estimates["paired_test_log_loss"]
    assert 0 < estimate["low"] < estimate["improvement"] < estimate["high"]
    record = platform.stores.audit.records(VERDICT_KIND, "late")[-1]
    assert record.facts["look"]["windows"] == ["2013-04", "2013-05"]
    champion = current_champion(platform.stores.audit, "late")
    assert champion is not None
    assert (champion.content_digest, champion.verdict) == (second.candidate, second.digest)
    assert champion.previous_version == 1
    assert after.startswith("No candidate of 'late' waits on HOLD.")  # type: ignore[union-attr]
    card = (platform.home.reports / "model_card" / "late" / "2013-04" / "card.md").read_text()
    assert "## Looks at this candidate" in card
    assert "| 2 | 2013-05 | 900 | 30 |" in card


def test_rate_of_labels_is_that_of_the_last_window_after_the_earlier_ones() -> None:
    levels: Any = {"level": 0.025, "spent": 0.025, "estimates": {}}
    april = LookWindow("2013-04", 60, "2013-05-01T00:00:00+00:00")
    may = LookWindow("2013-05", 930, "2013-06-01T00:00:00+00:00")
    assert labels_per_day(GOOD, [], april) == 2
    seen = Look(number=1, window="2013-04", until=april.until, rows=60, pooled_rows=60, blocks=2, cases=9, **levels)
    assert labels_per_day(GOOD, [seen], may) == 30


def test_repeated_look_gives_the_same_record_and_counts_no_window_twice(platform: PlatformFixture) -> None:
    before = verdicts(platform, "2013-04")
    again = judge_candidate(GOOD, "2013-04", platform.stores, now=NOW)
    assert again.verdict == before[-1]
    assert len(again.evidence.label) == 900
    assert verdicts(platform, "2013-04") == before
    with pytest.raises(NotWaitingError, match="a candidate that does not wait"):
        judge_candidate(GOOD, "2013-04", platform.stores, now=NOW, only_waiting=True)


def test_equal_candidate_is_never_promoted_and_its_wait_ends_after_the_last_look(platform: PlatformFixture) -> None:
    """The labels are random from April on, so candidate and champion are equally good there."""
    gates = [{"type": "paired_test", "metric": "auc"}, {"type": "baseline", "metric": "auc"}]
    equal = model(
        14,
        name="equal",
        gates=gates,
        evaluation={"request_only": ["when"], "rejudge": {"max_looks": 2}, "bootstrap": {"resamples": 200}},
    )
    is_random = pl.col(PREDICT_AT) >= datetime(2013, 4, 1, tzinfo=UTC)
    random = (pl.int_range(pl.len()).shuffle(seed=1) % 3 == 0).cast(pl.Int8)
    platform.with_rows("equal", pl.when(is_random).then(random).otherwise("label").alias("label"), MONTHS)
    make_champion(platform, equal)

    first = evaluate(platform, equal, "2013-06")
    evaluate(platform, equal, "2013-07")
    second = judge_candidate(equal, "2013-06", platform.stores, now=NOW, only_waiting=True).verdict

    assert (first.decision, second.decision) == ("HOLD", "HOLD")
    assert [look.window for look in second.looks] == ["2013-06", "2013-07"]
    assert second.reasons[-1] == "Look 2 of 2 was the last: it is not judged again."
    record = platform.stores.audit.latest(WAIT_ENDED_KIND, "equal")
    assert record is not None
    assert (record.facts["partition"], record.facts["action"]) == ("2013-06", "exhausted")
    assert [each.partition for each in waiting_candidates(platform.stores.audit, "equal")] == ["2013-07"]
    with pytest.raises(NotWaitingError, match="a candidate that does not wait"):
        judge_candidate(equal, "2013-06", platform.stores, now=NOW, only_waiting=True)


def test_better_candidate_that_wrong_labels_rejected_is_judged_again_after_their_correction(
    platform: PlatformFixture,
) -> None:
    weak, good = model(8, name="corrected"), model(14, name="corrected")
    platform.with_rows("corrected", pl.col("label"), MONTHS[:4])
    platform.with_rows("corrected", (1 - pl.col("label")).alias("label"), ("2013-05",))
    make_champion(platform, weak)
    first = evaluate(platform, good, "2013-04")
    evaluate(platform, weak, "2013-05")
    wrong = judge_candidate(good, "2013-04", platform.stores, now=NOW, only_waiting=True).verdict
    assert (first.decision, wrong.decision) == ("HOLD", "REJECT")

    platform.with_rows("corrected", pl.col("label"), ("2013-05",))
    with pytest.raises(NotWaitingError, match="a candidate that does not wait"):
        judge_candidate(good, "2013-04", platform.stores, now=NOW, only_waiting=True)
    assert judge_candidate(good, "2013-04", platform.stores, now=NOW).verdict == wrong  # May was not evaluated again
    with dg.DagsterInstance.ephemeral() as instance:
        assert isinstance(due_candidate(instance, good, platform.lake.state, NOW), dg.SkipReason)
        evaluate(platform, weak, "2013-05")
        due = due_candidate(instance, good, platform.lake.state, NOW)
    assert not isinstance(due, dg.SkipReason)
    assert due[0] == "2013-04"

    right = judge_candidate(good, "2013-04", platform.stores, now=NOW, only_waiting=True)

    assert right.verdict.decision == "PROMOTE"
    assert [(look.window, look.rows) for look in right.verdict.looks] == [("2013-04", 60), ("2013-05", 840)]
    labels = pl.concat([window_rows(good, month, platform.lake)["label"] for month in ("2013-04", "2013-05")])
    assert right.evidence.label.tolist() == labels.to_list()
    assert end_waits(platform.stores.audit, "corrected", 6, at=NOW).corrected == []


def test_window_whose_rows_changed_since_its_evaluation_is_named(platform: PlatformFixture) -> None:
    judged = verdicts(platform, "2013-04")[0]
    later = next_window(GOOD, judged, platform.stores)
    assert later is not None
    assert (later.window.partition, later.rows.height) == ("2013-05", 840)
    kept = {month: platform.lake.scan(GOOD.table, partitions=[month]).collect() for month in MONTHS[4:5]}
    for month, rows in kept.items():
        flipped = rows.with_columns(label=1 - pl.col("label"))
        platform.lake.write(GOOD.table, flipped.drop("partition"), month)
    with pytest.raises(NotWaitingError, match=r"the rows on which '2013-05' was evaluated"):
        next_window(GOOD, judged, platform.stores)
    for month, rows in kept.items():
        platform.lake.write(GOOD.table, rows.drop("partition"), month)


def test_overlapping_window_adds_only_the_rows_after_the_last_one(platform: PlatformFixture) -> None:
    overlapping = model(8, name="overlapping", split={"evaluation": "45d", "minimum_rows": 50})
    build_training_sets(overlapping, MONTHS, platform.lake)
    june = evaluate(platform, overlapping, "2013-06")
    evaluate(platform, overlapping, "2013-07")
    later = next_window(overlapping, june, platform.stores)

    assert later is not None
    assert later.rows.height == 840
    assert later.rows[PREDICT_AT].min() >= datetime(2013, 7, 1, tzinfo=UTC)  # type: ignore[operator]
    rows = window_rows(overlapping, "2013-07", platform.lake)
    test = split_of(overlapping, "2013-07", read_training_set(overlapping, "2013-07", platform.lake)).test
    assert rows.height > 840
    assert rows.equals(test)
