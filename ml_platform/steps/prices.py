"""The prices of computing, as `params.yaml` declares them."""

from pathlib import Path
from typing import Any

import yaml

from ml_platform.training.resource_usage import PriceList


def read_prices(repository: Path) -> PriceList:
    """Return the price list of `params.yaml` in ``repository``, or the default prices when it contains none."""
    path = repository / "params.yaml"
    parameters: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {}
    return PriceList.model_validate((parameters or {}).get("prices") or {})
