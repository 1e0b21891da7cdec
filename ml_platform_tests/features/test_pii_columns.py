"""Keys and features that identify a person are hidden in errors, reports and examples of the feature views."""

import json
import traceback
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from ml_platform.data.pii import MASK
from ml_platform.features import skew
from ml_platform.features.change_log import Window, build
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.key_types import KeyTypeError
from ml_platform.features.leak import run_leak_test
from ml_platform.features.view import AS_OF, INSTANT, PREDICT_AT, FeatureView, ViewError
from ml_platform.monitoring.drift import DriftSettings, measure_drift

START, END = datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC)
RETURNED: dict[str, object] = {}
CHARACTER_ZERO = "alice\0"


def given_facts(sources: dict[str, pl.LazyFrame]) -> object:
    """Return the facts that the test stored; the function of the views below."""
    return RETURNED["facts"]


def visits(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per visit, with a feature that uses the future: the name of the next visitor."""
    return sources["visits"].select("email", known_at="at", city="city", next=pl.col("city").shift(-1))


def text_sum(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Fail with an error that quotes a value of its source."""
    return sources["visits"].select(pl.col("email").cast(pl.Int64))


def lower(rows: pl.DataFrame) -> pl.DataFrame:
    """Return a feature of the request field ``email``."""
    return rows.select(name=pl.col("email").str.to_lowercase())


def view(**changes: object) -> FeatureView:
    return FeatureView.model_validate(
        {
            "name": "visits",
            "entity": ["email"],
            "features": [{"name": "city", "description": "City", "type": "category"}],
            "sources": [{"dataset": "visits", "known_upfront": ["email"], "available_from": {"at": ["at", "city"]}}],
            "function": f"{__name__}:given_facts",
            "pii_columns": ["email"],
            "code_version": "1",
            **changes,
        }
    )


def feature(name: str, **changes: object) -> dict[str, object]:
    return {"name": name, "description": "…", "type": "category", **changes}


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ([feature("email")], {"email"}),
        ([feature("city", derived_from=["visits.city"])], set()),
        ([feature("city", derived_from=["visits.city", "visits.email"])], {"city"}),
        ([feature("city")], {"city"}),
    ],
)
def test_feature_identifies_a_person_by_its_name_and_by_the_columns_it_is_derived_from(
    features: list[dict[str, object]], names: set[str]
) -> None:
    assert view(features=features, entity=["city_of"]).pii_names == names
    assert view(features=features, entity=["city_of"], pii_columns=[]).pii_names == set()


def test_request_views_pass_on_what_identifies_a_person() -> None:
    request = {"kind": "request", "sources": [], "entity": [], "pii_columns": [], "function": f"{__name__}:lower"}
    derived = view(name="derived", features=[feature("name")], fields=["email"], **request)
    again = view(name="again", features=[feature("x")], fields=["hour"], inputs=["derived"], **request)
    other = view(name="other", features=[feature("x")], fields=["hour"], **request)
    stored = view(features=[feature("city", derived_from=["visits.city"])])

    found = FeatureSet([derived, other, stored, again]).pii_columns
    assert found == {"email", "derived__name", "again__x"}
    assert FeatureSet([other]).pii_columns == frozenset()
    assert FeatureSet([other]).pii_columns_with(["hour"]) == {"hour", "other__x"}


def test_set_beside_a_model_does_not_store_the_pii_columns() -> None:
    stored = json.dumps(FeatureSet([view()]).to_dict())

    assert '"pii_columns"' not in stored
    assert FeatureSet.from_dict(json.loads(stored)).pii_columns == frozenset()


FACTS = {"email": pl.String(), "known_at": INSTANT, "city": pl.String()}


def built(*rows: tuple[object, ...], **changes: object) -> object:
    RETURNED["facts"] = pl.LazyFrame(list(rows), schema=FACTS, orient="row")
    return build(
        view(**changes),
        {"visits": pl.LazyFrame(schema={"email": pl.String, "at": INSTANT, "city": pl.String})},
        Window(START, END),
    )


def test_errors_and_reports_of_a_view_do_not_name_the_person() -> None:
    report = built(("alice@example.org", END, "Bern"), lookback_days=2).report  # type: ignore[attr-defined]
    assert report.first_after_clock == f"view 'visits', email={MASK} at 2013-04-01T00:00+0000"

    with pytest.raises(ViewError, match=f"the first view 'visits', email={MASK} at 2013-04-01") as error:
        built(("alice@example.org", END, "Bern"))
    assert "alice" not in str(error.value)


def test_value_that_cannot_be_stored_is_not_quoted() -> None:
    with pytest.raises(KeyTypeError, match=MASK) as error:
        built((CHARACTER_ZERO, START, "Bern"))
    assert "alice" not in "".join(traceback.format_exception(error.value))


def test_error_of_the_function_of_a_view_does_not_quote_values() -> None:
    sources = {"visits": pl.LazyFrame({"email": ["alice@example.org"], "at": [START], "city": ["Bern"]})}

    with pytest.raises(ViewError, match=f"InvalidOperationError in .*: {MASK}") as error:
        build(view(function=f"{__name__}:text_sum"), sources, Window(START, END))
    assert "alice" not in "".join(traceback.format_exception(error.value))


def test_leaks_are_shown_without_the_person() -> None:
    leaking = view(
        function=f"{__name__}:visits",
        features=[feature("city", derived_from=["visits.city"]), feature("next", derived_from=["visits.email"])],
        lookback_days=40,
    )
    people = [f"person{number}@example.org" for number in range(30)]
    times = [START + timedelta(days=number) for number in range(30)]
    sources = {"visits": pl.LazyFrame({"email": people, "at": times, "city": [f"city{at.day}" for at in times]})}
    examples = pl.LazyFrame({"email": people[:11], PREDICT_AT: [at + timedelta(hours=1) for at in times[:11]]})
    report = run_leak_test(
        FeatureSet([leaking]), sources, examples, Window(START, END), [times[10] + timedelta(hours=2)]
    )

    (leak,) = [each for each in report.leaks if each.feature == "visits__next"]
    assert leak.examples
    assert {(each["email"], each["before"], each["after"]) for each in leak.examples} == {(MASK, MASK, MASK)}


def test_skew_is_shown_without_the_person() -> None:
    facts = pl.LazyFrame([("alice@example.org", START, "Bern")], schema=FACTS, orient="row")
    at = START + timedelta(days=1)
    logged = pl.DataFrame(
        {
            "email": ["alice@example.org"],
            PREDICT_AT: [at],
            AS_OF: [at],
            skew.WATERMARKS: [json.dumps({"visits": END.isoformat()})],
            "visits__city": ["Rome"],
        }
    )
    features = FeatureSet([view()])
    shown = skew.compare_features(features, logged, {"visits": facts}, features.pii_columns)
    plain = skew.compare_features(features, logged, {"visits": facts})

    (example,) = shown.mismatches[0].examples
    assert (example["email"], example["logged"], example["recomputed"]) == (MASK, MASK, MASK)
    (example,) = plain.mismatches[0].examples
    assert (example["email"], example["logged"], example["recomputed"]) == ("alice@example.org", "Rome", "Bern")


def test_drift_report_does_not_name_unseen_people() -> None:
    before = pl.DataFrame({"name": ["alice", "bob"] * 300, "city": ["Bern", "Rome"] * 300})
    now = pl.DataFrame({"name": ["carol", "bob"] * 300, "city": ["Oslo", "Rome"] * 300})
    report = measure_drift(
        before, now, features=["name", "city"], settings=DriftSettings(minimum_rows=100), pii_columns=["name"]
    )

    assert {each.name: each.unseen_examples for each in report.columns} == {"name": [MASK], "city": ["Oslo"]}
