"""The scaffolder of `dg scaffold defs ml_platform.Model NAME`."""

from typing import Any

import dagster as dg

from ml_platform.components.scaffolding import template_values, write_templates


class ModelScaffolder(dg.Scaffolder[Any]):
    """Writes a model with its dataset, two feature views, its examples, and a module that lands generated months."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        write_templates("model", request, template_values(request), "ml_platform.Model")
