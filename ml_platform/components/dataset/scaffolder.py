"""The scaffolder of `dg scaffold defs ml_platform.Dataset NAME`."""

from typing import Any

import dagster as dg

from ml_platform.components.scaffolding import template_values, write_templates


class DatasetScaffolder(dg.Scaffolder[Any]):
    """Writes a dataset: declaration, loader, and a module that lands generated months."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        write_templates("dataset", request, template_values(request), "ml_platform.Dataset")
