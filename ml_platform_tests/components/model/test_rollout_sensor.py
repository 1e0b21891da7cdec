"""The sensor observes each change of a rollout once, with its course as an image, and else says where it stands."""

import base64
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from PIL import Image

from ml_platform.components.loading import bound_model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.rollout_sensor import OBSERVATION_MINUTES, observed_rollout
from ml_platform.serving.arm_counts import ArmCounts
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.processes import STATUS_FILE
from ml_platform.serving.rollout_settings import RolloutSettings, RolloutStep
from ml_platform.serving.serving_status import ServedModel, ServingStatus, write_serving_status
from ml_platform.state.store import StateStore
from ml_platform.steps.rollouts import pass_over, start_rollout

START = datetime(2026, 1, 1, tzinfo=UTC)
ONE, TWO = (ServedVersion(version=number, bento=f"penguin_species/{number}") for number in "12")
SETTINGS = RolloutSettings(strategy="canary", steps=(RolloutStep(weight=10, min_requests=100, min_seconds=0),))


@pytest.fixture(scope="module")
def species() -> ModelAssets:
    return bound_model("penguin_species")


@pytest.fixture
def state(tmp_path: Path, species: ModelAssets) -> StateStore:
    store = StateStore.in_folder(tmp_path)
    swap_desired_state(store, species.name, DesiredState(stable=ONE, weights={"stable": 100}), 0)
    return store


def look(state: StateStore, model: str, seconds: int, answers: int, errors: int = 0) -> None:
    counts = {
        "candidate": ArmCounts(answers=answers, errors=errors, timed=answers, slow=answers // 20),
        "stable": ArmCounts(answers=9 * answers, timed=9 * answers),
    }
    pass_over(state, model, counts, START + timedelta(seconds=seconds), seed=1)


def observation(found: dg.SensorResult | dg.SkipReason) -> dg.AssetObservation:
    assert isinstance(found, dg.SensorResult)
    (event,) = found.asset_events
    assert isinstance(event, dg.AssetObservation)
    return event


def test_each_change_is_observed_once_with_what_both_arms_answered(
    state: StateStore, species: ModelAssets, tmp_path: Path
) -> None:
    def observe(cursor: str | None, minutes: float = 0) -> dg.SensorResult | dg.SkipReason:
        return observed_rollout(species, state, tmp_path, cursor, START + timedelta(seconds=9, minutes=minutes))

    assert isinstance(observe(None), dg.SkipReason)
    start_rollout(state, species.name, TWO, SETTINGS, by="test", at=START)
    for second in range(9):
        look(state, species.name, second, 10 * second)
    served = ServedModel(
        endpoint="", stable="1", candidate="2", weights={"stable": 90, "candidate": 10}, shadow=None, generation=2
    )
    write_serving_status(tmp_path / STATUS_FILE, ServingStatus(gateway="", models={species.name: served}, waiting=[]))

    first = observe(None)
    metadata = observation(first).metadata
    assert metadata["next"].value == "for 20 answers of the candidate"
    table = metadata["desired"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data for record in table.records] == [
        {"arm": "stable", "version": "1", "answers": 720, "weight": 90},
        {"arm": "candidate", "version": "2", "answers": 80, "weight": 10},
    ]
    observed = metadata["observed"].value
    assert isinstance(observed, dict)
    assert observed["weights"] == {"stable": 90, "candidate": 10}
    plot = str(metadata["course"].value).partition("base64,")[2].removesuffix(")")
    assert Image.open(io.BytesIO(base64.b64decode(plot))).width > 300

    assert isinstance(first, dg.SensorResult)
    again = observe(first.cursor)
    assert isinstance(again, dg.SkipReason)
    assert "for 20 answers of the candidate" in str(again.skip_message)
    assert isinstance(observe(first.cursor, minutes=OBSERVATION_MINUTES), dg.SensorResult)

    look(state, species.name, 9, 200, errors=110)
    ended = observe(first.cursor)
    assert observation(ended).metadata["outcome"].value == "rolled_back"
    assert isinstance(ended, dg.SensorResult)
    assert isinstance(observe(ended.cursor, minutes=OBSERVATION_MINUTES), dg.SkipReason)


def test_stopped_services_are_said(state: StateStore, species: ModelAssets, tmp_path: Path) -> None:
    start_rollout(state, species.name, TWO, SETTINGS, by="test", at=START)
    found = observation(observed_rollout(species, state, tmp_path, None, START))
    assert found.metadata["observed"].value == "serving does not run"
    assert "course" not in found.metadata
