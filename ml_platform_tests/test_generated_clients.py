"""The generated clients of the documentation are those of today's request and answer."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_document_of_the_clients_is_that_of_the_endpoint() -> None:
    program = runpy.run_path(str(ROOT / "docs" / "generate_clients.py"))
    assert program["DOCUMENT"].read_text() == program["openapi_text"](), "run `make clients` and commit docs/clients"


def test_each_schema_and_field_is_in_both_clients() -> None:
    program = runpy.run_path(str(ROOT / "docs" / "generate_clients.py"))
    folder, model = program["FOLDER"], program["MODEL"]
    types = (folder / f"{model}.ts").read_text()
    package = "\n".join(path.read_text() for path in (folder / program["PACKAGE"] / "models").glob("*.py"))

    schemas = json.loads(program["DOCUMENT"].read_text())["components"]["schemas"]
    names = {name for schema in schemas.values() for name in schema["properties"]}
    assert [name for name in names if f" {name}: " not in types and f" {name}?: " not in types] == []
    assert [name for name in names if f"{name}: " not in package] == []
    assert [name for name in schemas if f"        {name}: " not in types or f"class {name}:" not in package] == []
