"""The benchmark of quality: its summary, and its plain script, which uses only values known at prediction time."""

from datetime import UTC, datetime, timedelta

import polars as pl

from benchmarks.quality import plain_features, summary

NOON = datetime(2013, 3, 5, 12, tzinfo=UTC)


def test_summary_shows_months_and_means_of_the_platform_beside_those_of_the_others() -> None:
    april, may = {"auc": 0.8, "log_loss": 0.5}, {"auc": 0.7, "log_loss": 0.3}
    found = {
        "platform": {"2013-04": april, "2013-05": may},
        "plain": {"2013-04": may},
        "request_only": {"2013-04": may},
    }
    lesser = {"months": {"2013-04": may}, "mean_auc": 0.7, "mean_log_loss": 0.3}
    assert summary(found) == {
        "months": {"2013-04": april, "2013-05": may},
        "mean_auc": 0.75,
        "mean_log_loss": 0.4,
        "plain": lesser,
        "request_only": lesser,
    }


def test_plain_script_uses_only_events_up_to_two_hours_before_departure() -> None:
    def flight(number: int, due: int, late: int) -> dict[str, object]:
        departure = NOON + timedelta(minutes=due)
        return {
            "carrier": "AA", "flight": number, "tailnum": f"N{number}", "origin": "JFK", "dest": "LAX", "distance": 1.0,
            "scheduled_departure": departure, "scheduled_arrival": departure + timedelta(minutes=100),
            "departed_at": departure + timedelta(minutes=late), "dep_delay": float(late),
            "arrived_at": departure + timedelta(minutes=100 + late), "arr_delay": float(late),
        }  # fmt: skip

    # At 14:00 the first has landed (13:50), the second has not (14:01), and the third has not left.
    flights = pl.DataFrame([flight(1, 0, 10), flight(2, 20, 1), flight(3, 120, 30), flight(4, 240, 0)])
    observed = {name: [1.0, 2.0] for name in ("temp", "wind_speed", "precip", "visib", "pressure")}
    weather = pl.DataFrame({"origin": "JFK", "observed_at": [NOON, NOON + timedelta(hours=1, minutes=1)]} | observed)
    planes = pl.DataFrame({"tailnum": ["N4"], "built_in": [1999], "seats": [100]})
    row = plain_features(flights, weather, planes).filter(pl.col("example_id").str.contains("-4-")).row(0, named=True)
    assert row["dest_arr_delay_1d"] == 10
    assert row["origin_dep_delay_2h"] == (10 + 1) / 2
    assert row["temp"] == 1
    assert row["seats"] == 100
