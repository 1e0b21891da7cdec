"""Scaffolded files are valid and comment every attribute; names that would not load are rejected."""

from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest
import yaml

from ml_platform.components import Dataset, FeatureView, Model
from ml_platform.components.dataset.scaffolder import DatasetScaffolder
from ml_platform.components.feature_view.scaffolder import FeatureViewScaffolder, FeatureViewScaffoldParams
from ml_platform.components.model.scaffolder import ModelScaffolder
from ml_platform.components.scaffolding import annotated_yaml

COMPONENTS = {"ml_platform.Dataset": Dataset, "ml_platform.FeatureView": FeatureView, "ml_platform.Model": Model}
PROJECT = Path(__file__).resolve().parents[2]


def request(root: Path, path: str, params: Any = None) -> dg.ScaffoldRequest[Any]:
    (root / path).mkdir(parents=True)
    return dg.ScaffoldRequest(
        type_name="", target_path=root / path, scaffold_format="yaml", project_root=root, params=params
    )


def scaffolded(root: Path, path: str, scaffolder: dg.Scaffolder[Any], params: Any = None) -> str:
    scaffolder.scaffold(request(root, path, params))
    return (root / path / "defs.yaml").read_text()


@pytest.mark.parametrize("scaffolder", [DatasetScaffolder(), ModelScaffolder()])
def test_every_scaffolded_document_is_a_valid_declaration(tmp_path: Path, scaffolder: dg.Scaffolder[Any]) -> None:
    documents = list(yaml.safe_load_all(scaffolded(tmp_path, "assets/claims/late_case", scaffolder)))

    assert [COMPONENTS[each["type"]].model_validate(each["attributes"]).group for each in documents[:3]]  # type: ignore[attr-defined]
    assert documents[-1]["attributes"]["name"] == "late_case"


def test_every_attribute_of_a_model_is_commented_with_its_description(tmp_path: Path) -> None:
    text = scaffolded(tmp_path, "assets/late_case", ModelScaffolder()).split("---\n")[-1]

    missing = [
        name
        for name, field in Model.model_fields.items()
        if f" {name}:" not in text or " ".join(str(field.description).split())[:60] not in text
    ]
    assert missing == []


def test_commented_defaults_equal_the_defaults_of_the_settings(tmp_path: Path) -> None:
    text = scaffolded(tmp_path, "assets/late_case", ModelScaffolder()).split("---\n")[-1]
    given, _, left = text.partition("# Attributes with their default value:\n")
    settings = [line.removeprefix("  # ") for line in left.splitlines() if "# " in line]
    uncommented = "\n".join(line for line in settings if line.startswith("  ") or line.partition(":")[0].isidentifier())
    lines = [line for line in uncommented.splitlines() if line.split(":")[0].strip() in _all_names(Model)]
    spelled_out = {**yaml.safe_load(given)["attributes"], **yaml.safe_load("\n".join(lines))}

    assert Model.model_validate(spelled_out) == Model.model_validate(yaml.safe_load(text)["attributes"])
    assert len(spelled_out) == len(Model.model_fields)


def _all_names(component: type[Any]) -> set[str]:
    nested = [
        type(field.get_default(call_default_factory=True, validated_data={}))
        for field in component.model_fields.values()
    ]
    return {*component.model_fields, *(name for each in nested for name in getattr(each, "model_fields", {}))}


def test_comment_above_an_attribute_is_its_description() -> None:
    text = annotated_yaml("type: ml_platform.Dataset\nattributes:\n  keys: [id]\n", Dataset)
    assert text.splitlines()[2:4] == [
        "  # Columns that together identify one row of a partition.",
        "  keys: [id]",
    ]


def test_functions_are_named_by_their_folder(tmp_path: Path) -> None:
    text = scaffolded(tmp_path, "assets/claims/late_case", ModelScaffolder())
    assert "function: assets.claims.late_case.examples:cases" in text
    assert (tmp_path / "assets" / "claims" / "__init__.py").exists()


def test_name_that_cannot_be_imported_is_rejected_with_a_valid_one(tmp_path: Path) -> None:
    scaffold_request = request(tmp_path, "assets/Late-Case")
    with pytest.raises(click.ClickException, match=r"found 'Late-Case'\. Try 'late_case'"):
        ModelScaffolder().scaffold(scaffold_request)
    assert not scaffold_request.target_path.exists()  # otherwise a second attempt would fail on the existing folder


def test_view_on_an_unknown_dataset_is_rejected(tmp_path: Path) -> None:
    scaffold_request = request(tmp_path, "assets/busy", FeatureViewScaffoldParams(dataset="fligths"))
    scaffold_request.project_root = PROJECT
    with pytest.raises(click.ClickException, match="Did you mean 'flights'"):
        FeatureViewScaffolder().scaffold(scaffold_request)
    assert not scaffold_request.target_path.exists()


def test_generated_months_are_reproducible(tmp_path: Path) -> None:
    scaffolded(tmp_path, "assets/orders", DatasetScaffolder())
    module: dict[str, Any] = {}
    exec((tmp_path / "assets" / "orders" / "landing.py").read_text(), module)
    month = module["month_of_cases"]("2024-02")

    assert month == module["month_of_cases"]("2024-02")
    assert len(month.splitlines()) == 1 + 29 * 24 * 5  # a header; a leap year with five desks and one case per hour
