"""Where a browser finds what `ml-platform up` starts: ports, addresses, and the links that assets carry.

A page that came over HTTP never opens a link to a file, so reports are served, and linked to, over HTTP as well.
"""

import os
from pathlib import Path

DEFAULT_PORTS = {"gateway": 8080, "webserver": 3000, "reports": 3001, "mlflow": 5000}
LOOPBACK = "127.0.0.1"


def port_variable(name: str) -> str:
    """Return the variable by which the port of ``name`` is chosen."""
    return f"ML_PLATFORM_{name.upper()}_PORT"


def port(name: str) -> int:
    """Return the port of ``name``: the one chosen in the environment, or its default."""
    return int(os.environ.get(port_variable(name), DEFAULT_PORTS[name]))


def address(name: str) -> str:
    """Return under which address people reach ``name``: `$ML_PLATFORM_<NAME>_ADDRESS`, or its port on this machine."""
    return os.environ.get(f"ML_PLATFORM_{name.upper()}_ADDRESS", f"http://{LOOPBACK}:{port(name)}").rstrip("/")


def page_link(page: Path, reports: Path, served_at: str) -> str:
    """Return the link to ``page``, a file in the folder ``reports`` that is served at ``served_at``."""
    return f"{served_at}/{page.resolve().relative_to(reports.resolve()).as_posix()}"


def run_link(server: str, experiment_id: str, run_id: str) -> str:
    """Return the link to a run on the pages of the MLflow ``server``."""
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}"
