"""Renders a page for people about one endpoint: its fields, an example and its error responses.

The page has no script and loads nothing from elsewhere.
"""

import json
from html import escape

from ml_platform.serving.openapi import ERROR_RESPONSES
from ml_platform.serving.request_contract import RequestContract, RequestField

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}"
    "pre{background:#f5f5f5;padding:1rem;overflow:auto}code{background:#f5f5f5}"
)


def docs_page(contract: RequestContract, version: str) -> str:
    """Return the HTML page of the endpoint of ``contract``, served by ``version`` of the model."""
    row = {field.name: field.example for field in contract.fields}
    body = json.dumps({"rows": [row]}, ensure_ascii=False)
    fields = "".join(_field_row(field) for field in contract.fields)
    error_responses = "".join(f"<tr><td>{status}<td>{escape(text)}" for status, text in ERROR_RESPONSES.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(contract.model)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(contract.model)}</h1>"
        f"<p>Version {escape(version)}. <code>POST {contract.path}</code> takes 1 to {contract.max_rows} rows and"
        f" answers with a score and a label for each; <code>?reasons=5</code> adds the five features that moved each"
        f' score most. <a href="openapi.json">openapi.json</a></p>'
        f"<h2>Fields of a row</h2><table><tr><th>Field<th>Type<th>Meaning{fields}</table>"
        f"<h2>Example</h2><pre>{escape(body)}</pre>"
        f"<h2>Error responses</h2><table><tr><th>Status<th>When{error_responses}</table></html>"
    )


def _field_row(field: RequestField) -> str:
    field_type = field.type + (" or null" if field.nullable else "")
    return f"<tr><td><code>{escape(field.name)}</code><td>{field_type}<td>{escape(field.description)}"
