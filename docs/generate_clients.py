"""Generates docs/clients/ again: the OpenAPI document of the reference model, and its clients in Python and TypeScript.

`make clients` runs it after a change of the request or the answer. It downloads both generators.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "departure_risk"
FOLDER = ROOT / "docs" / "clients" / MODEL
DOCUMENT = FOLDER / "openapi.json"
PACKAGE = f"{MODEL}_client"
PYTHON_GENERATOR, TYPESCRIPT_GENERATOR = "openapi-python-client==0.29.1", "openapi-typescript@7.13.0"


def openapi_text() -> str:
    """Return the document as its endpoint serves it, version 1."""
    from ml_platform.components.loading import bound_model
    from ml_platform.serving.openapi import openapi_document

    return json.dumps(openapi_document(bound_model(MODEL).contract, "1"), indent=2) + "\n"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(openapi_text())
    config = FOLDER / "generator.yaml"
    config.write_text(f"package_name_override: {PACKAGE}\n")
    binaries = Path(sys.executable).parent
    # The generator formats its result with the ruff of the environment.
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    python = [binaries / "uv", "tool", "run", "--from", PYTHON_GENERATOR, "openapi-python-client", "generate"]
    python += ["--path", DOCUMENT, "--meta", "none", "--config", config, "--output-path", FOLDER / PACKAGE]
    try:
        subprocess.run([*python, "--overwrite"], check=True, env=environment)
    finally:
        config.unlink()
    typescript = ["npx", "--yes", TYPESCRIPT_GENERATOR, str(DOCUMENT), "-o", str(FOLDER / f"{MODEL}.ts")]
    subprocess.run(typescript, check=True)


if __name__ == "__main__":
    main()
