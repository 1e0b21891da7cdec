"""The scaffolder of `dg scaffold defs ml_platform.FeatureView NAME`."""

from pathlib import Path

import dagster as dg
from pydantic import BaseModel, Field

from ml_platform.components.dataset.component import Dataset
from ml_platform.components.scaffolding import scaffold_error, template_values, write_templates
from ml_platform.data.names import short_name
from ml_platform.errors import did_you_mean, listed


class FeatureViewScaffoldParams(BaseModel):
    """Options of `dg scaffold defs ml_platform.FeatureView`."""

    dataset: str = Field(
        default="", description="Dataset that the view reads; default: the first one with an event time and a text key."
    )


class FeatureViewScaffolder(dg.Scaffolder[FeatureViewScaffoldParams]):
    """Writes a feature view on an existing dataset: the number of rows per entity in the last days."""

    @classmethod
    def get_scaffold_params(cls) -> type[FeatureViewScaffoldParams]:
        return FeatureViewScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[FeatureViewScaffoldParams]) -> None:
        source, values = _source(request), template_values(request)
        short = short_name(source.name)
        plain = short == source.name and values["name"] == values["full_name"]
        names = {
            "dataset": short if plain else f"{source.domain}/{short}",
            "source": short,
            "event_time": str(source.event_time),
            "entity": _text_keys(source)[0],
        }
        write_templates("feature_view", request, values | names, "ml_platform.FeatureView")


def _source(request: dg.ScaffoldRequest[FeatureViewScaffoldParams]) -> Dataset:
    from ml_platform.components.project import read_project

    project = read_project(request.project_root or Path.cwd())
    usable = {each.name: each for each in project.components(Dataset) if each.event_time and _text_keys(each)}
    dataset = request.params.dataset
    if usable and not dataset:
        return next(iter(usable.values()))
    if dataset not in usable:
        raise scaffold_error(
            request,
            f"Feature view '{request.target_path.name}'",
            expected="a dataset with an event time and a text key",
            found=f"'{dataset}'; available are {listed(usable)}" if usable else "none",
            fix=f"Select one with --dataset, or scaffold an ml_platform.Dataset first.{did_you_mean(dataset, usable)}",
        )
    return usable[dataset]


def _text_keys(dataset: Dataset) -> list[str]:
    return [rule.name for rule in dataset.contract.columns if rule.name in dataset.keys and rule.type == "string"]
