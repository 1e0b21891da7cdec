"""The arguments that all assets of one component share, typed so that `dg.asset(**arguments)` is checked."""

from typing import TypedDict


class AssetArguments(TypedDict):
    """Group, owners, tags and kinds of an asset, as `dg.asset` takes them."""

    group_name: str
    owners: list[str]
    tags: dict[str, str]
    kinds: set[str]
