"""What `dg scaffold defs ml_platform.Model NAME` writes."""

from typing import Any

import dagster as dg

from ml_platform.components.scaffolding import template_values, write_templates


class ModelScaffolder(dg.Scaffolder[Any]):
    """Writes a model with all that it stands on: a dataset, two feature views, its examples, and months to land."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        write_templates("model", request, template_values(request), "ml_platform.Model")
