"""The arguments of `dg.asset` that stored views and request views share, as a typed dictionary.

The types let mypy check `dg.asset(**arguments)`.
"""

from typing import Any, TypedDict

import dagster as dg


class ViewAssetArguments(TypedDict):
    """Key, texts, owners, code version and metadata of the asset of a view, under the names of `dg.asset`."""

    key: dg.AssetKey
    description: str
    owners: list[str] | None
    group_name: str
    tags: dict[str, str]
    code_version: str
    metadata: dict[str, Any]
