"""Vectors, dates and durations as features: stored as numbers, equal in both reads, refused when broken."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.features.change_log import Window, build
from ml_platform.features.encoder import Encoder
from ml_platform.features.feature import Feature
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import latest_facts
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import INSTANT, FeatureView, ViewError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
RETURNED: dict[str, pl.DataFrame] = {}


def given_facts(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the facts that the test stored."""
    return RETURNED["facts"].lazy()


def shifted(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the vector of the request and its first component plus that of the stored view."""
    return rows.select(pl.col("sent"), sum=pl.col("sent").list.first() + pl.col("item__embedding_000"))


def declared(**attributes: Any) -> FeatureView:
    return FeatureView.model_validate({"function": f"{__name__}:given_facts", "code_version": "1", **attributes})


ITEM = declared(
    name="item",
    entity=["id"],
    features=[
        {"name": "embedding", "type": "vector", "size": 2, "description": "…", "unit": ""},
        {"name": "made", "type": "date", "description": "…"},
        {"name": "age", "type": "duration", "description": "…"},
    ],
)
SENT = declared(
    name="sent",
    kind="request",
    function=f"{__name__}:shifted",
    fields=["sent"],
    inputs=["item"],
    features=[
        {"name": "sent", "type": "vector", "size": 3, "description": "…"},
        {"name": "sum", "type": "float64", "description": "…"},
    ],
)


def facts(*embeddings: list[float | None] | None, dtype: pl.DataType | None = None) -> pl.DataFrame:
    rows = len(embeddings)
    return pl.DataFrame(
        {
            "id": [f"i{place}" for place in range(rows)],
            "known_at": pl.Series([NOON] * rows, dtype=INSTANT),
            "embedding": pl.Series(list(embeddings), dtype=dtype or pl.List(pl.Float64)),
            "made": [date(2026, 1, 1)] * rows,
            "age": [timedelta(microseconds=2**40 + 1)] * rows,
        }
    )


def built(frame: pl.DataFrame) -> pl.DataFrame:
    RETURNED["facts"] = frame
    return build(ITEM, {}, WINDOW).frame


def test_vector_is_stored_by_component_and_dates_and_durations_as_whole_numbers() -> None:
    log = built(facts([0.5, -1.0], None, [1e-3, 2.0]))

    assert log.schema == {
        "id": pl.String,
        "known_at": INSTANT,
        "embedding_000": pl.Float32,
        "embedding_001": pl.Float32,
        "made": pl.Int32,
        "age": pl.Int64,
    }
    assert log["embedding_001"].to_list() == [-1.0, None, 2.0]
    assert log["made"].to_list() == [(date(2026, 1, 1) - date(1970, 1, 1)).days] * 3
    assert log["age"].to_list() == [2**40 + 1] * 3
    arrays = facts([0.5, -1.0], None, [1e-3, 2.0], dtype=pl.Array(pl.Float32, 2))
    assert built(arrays).equals(log)


@pytest.mark.parametrize(
    ("embedding", "found"),
    [
        ([1.0], "expected vectors of 2 components, found 1 of 2 with others, the first with 1 of view 'item', id=i1"),
        ([1.0, float("nan")], "found 1 of 2 vectors with null, NaN or infinity, the first at component 1 of view"),
        ([None, 1.0], "the first at component 0 of view 'item', id=i1 at 2026-01-01T12:00"),
        ([1e300, 1.0], "expected finite components"),
    ],
)
def test_broken_vector_is_refused_with_its_entity(embedding: list[float | None], found: str) -> None:
    with pytest.raises(ViewError, match="column 'embedding'") as error:
        built(facts([0.0, 0.0], embedding))
    assert found in str(error.value)


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pl.lit("[1, 2]").alias("embedding"), "expected vectors of 2 numbers, found String"),
        (pl.lit(5).alias("age"), "expected a column of Duration, found Int32"),
        (pl.lit(NOON).alias("made"), "expected a column of Date, found Datetime"),
        (pl.lit(1).cast(pl.Duration("ns")).alias("age"), "durations of whole microseconds"),
    ],
)
def test_column_of_another_type_is_refused(column: pl.Expr, found: str) -> None:
    with pytest.raises(ViewError) as error:
        built(facts([0.0, 0.0]).with_columns(column))
    assert found in str(error.value)


def test_both_reads_and_the_matrix_of_a_model_agree(tmp_path: Path) -> None:
    log = built(facts([0.5, -1.0], None)).lazy()
    features = FeatureSet([ITEM, SENT])
    rows = pl.DataFrame(
        {
            "id": ["i0", "i1", "unknown"],
            "sent": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], None],
            "predict_at": pl.Series([NOON + timedelta(hours=1)] * 3, dtype=INSTANT),
        }
    )
    store = SnapshotStore(tmp_path)
    store.publish(latest_facts(ITEM, log, NOON + timedelta(minutes=1)))
    offline = features.as_of(rows.lazy(), {"item": log}).collect().select(features.feature_names)
    served = features.serve(rows, store)

    assert offline.equals(served.frame)
    assert offline["sent__sent_002"].to_list() == [3.0, 6.0, None]
    assert offline["sent__sum"].to_list() == [1.5, None, None]
    encoder = Encoder.fit(offline, features.feature_names)
    assert served.encode(encoder).tobytes() == encoder.transform(offline).tobytes()


def test_request_view_names_the_row_of_a_broken_vector(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.publish(latest_facts(ITEM, built(facts([0.5, -1.0])).lazy(), NOON + timedelta(minutes=1)))
    rows = pl.DataFrame({"id": ["i0"] * 2, "sent": [[1.0, 2.0, 3.0], [4.0]], "predict_at": [NOON] * 2})

    with pytest.raises(ViewError, match=r"column 'sent': expected vectors of 3 components, found .* with 1 of row 1"):
        FeatureSet([ITEM, SENT]).serve(rows, store)


def test_name_of_a_vector_leaves_out_all_components_and_marks_them_as_personal() -> None:
    features = FeatureSet([ITEM], leave_out=["item__embedding"])
    assert features.feature_names == ["item__made", "item__age"]
    assert FeatureSet.from_dict(features.to_dict()).feature_names == features.feature_names
    personal = ITEM.model_copy(update={"pii_columns": ["embedding"]})
    assert FeatureSet([personal]).pii_columns >= {"item__embedding_000", "item__embedding_001"}


def test_size_belongs_to_vectors_only_and_is_not_written_for_others() -> None:
    with pytest.raises(ValidationError, match="declare 'size'"):
        Feature(name="x", type="vector", description="…")
    with pytest.raises(ValidationError, match="remove 'size'"):
        Feature(name="x", size=2, description="…")
    assert "size" not in Feature(name="x", description="…").model_dump()


def test_component_must_not_have_the_name_of_another_feature() -> None:
    with pytest.raises(ValidationError, match=r"\['x_001'\] named twice"):
        declared(
            name="item",
            features=[
                {"name": "x", "type": "vector", "size": 2, "description": "…"},
                {"name": "x_001", "description": "…"},
            ],
        )


def test_another_size_is_another_code_version() -> None:
    def version(size: int) -> str:
        features = [{"name": "x", "type": "vector", "size": size, "description": "…"}]
        return declared(name="v", features=features).versioned().code_version

    assert version(2) != version(3)
