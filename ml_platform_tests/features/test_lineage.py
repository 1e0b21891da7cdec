"""The source columns of features: declared, read as a whole, inherited through request views, or recorded."""

from typing import Any

from ml_platform.features.lineage import SourceColumn, columns_read, inherited_columns, source_columns
from ml_platform.features.view import FeatureView


def view(name: str, **settings: Any) -> FeatureView:
    features = [{"name": each, "description": "A value"} for each in settings.pop("values", ["value"])]
    return FeatureView.model_validate({"name": name, "function": "m:f", "features": features, **settings})


def texts(found: dict[str, list[SourceColumn]]) -> dict[str, list[str]]:
    return {name: [str(each) for each in columns] for name, columns in found.items()}


def test_feature_comes_from_its_declared_columns_or_from_all_that_the_view_reads() -> None:
    features = [
        {"name": "mean", "description": "A mean", "derived_from": ["flights.delay"]},
        {"name": "other", "description": "A value"},
    ]
    sources = [{"dataset": "flights", "known_upfront": ["origin"], "available_from": {"left": ["delay"]}}]
    found = view("delays", features=features, sources=sources)
    assert texts(source_columns(found)) == {"mean": ["flights.delay"], "other": ["flights.origin", "flights.delay"]}
    # The time is read too, to know when a value is available.
    assert [str(each) for each in columns_read(found)] == ["flights.origin", "flights.delay", "flights.left"]


def test_declared_column_of_a_domain_with_a_namespace_names_the_dataset_in_full() -> None:
    features = [{"name": "mean", "description": "A mean", "derived_from": ["orders.price"]}]
    found = view("prices", features=features, sources=[{"dataset": "orders", "columns": ["price"]}])
    # The component resolves the names of sources after it has read the declaration.
    found.sources[0].dataset = "sales.orders"
    assert texts(source_columns(found)) == {"mean": ["sales.orders.price"]}


def test_source_without_declared_columns_is_read_as_a_whole() -> None:
    (whole,) = source_columns(view("all", sources=[{"dataset": "planes"}]))["value"]
    assert whole.covers(SourceColumn("planes", "seats"))
    assert not whole.covers(SourceColumn("flights", "seats"))


def test_request_view_inherits_the_columns_of_its_inputs_and_recorded_ones_count_first() -> None:
    views = {
        "hourly": view("hourly", sources=[{"dataset": "flights", "columns": ["delay"]}]),
        "planes": view("planes", sources=[{"dataset": "planes", "columns": ["seats"]}]),
        "both": view("both", kind="request", inputs=["hourly", "planes"], values=["a", "b"]),
        "own": view("own", kind="request", fields=["origin"]),
    }
    every = ["flights.delay", "planes.seats"]
    assert texts(inherited_columns(views["both"], views)) == {"a": every, "b": every}
    assert texts(inherited_columns(views["own"], views)) == {"value": []}
    recorded = {"hourly": {"value": [SourceColumn("flights", "minutes")]}}
    assert texts(inherited_columns(views["both"], views, recorded))["a"] == ["flights.minutes", "planes.seats"]
