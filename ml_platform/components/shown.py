"""How assets show a picture: inline, so that the UI draws it where it stands."""

import base64

import dagster as dg


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    """Return a plot as metadata."""
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")
