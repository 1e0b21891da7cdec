"""Ports and addresses of the processes of `ml-platform up`, and the links in the metadata of assets.

A browser does not open a link to a file from a page of the UI, so a server offers the reports over HTTP.
"""

import os
from pathlib import Path

DEFAULT_PORTS = {"gateway": 8080, "webserver": 3000, "reports": 3001, "mlflow": 5000}
LOOPBACK = "127.0.0.1"
REDIRECTS = "/go"
"""Begin of the paths at which webserver and home page redirect to the address that a process has today."""

ALLOWED_HOSTS = [LOOPBACK, "localhost"]
"""Hosts that a request to a server of this machine may name; without a check, a web page could read from it."""


def port_variable(name: str) -> str:
    """Return the environment variable that sets the port of ``name``."""
    return f"ML_PLATFORM_{name.upper()}_PORT"


def port(name: str) -> int:
    """Return the port of ``name`` from the environment, or its default; raises ``ValueError`` for text."""
    return int(os.environ.get(port_variable(name), DEFAULT_PORTS[name]))


def address(name: str) -> str:
    """Return the public address of ``name``: `$ML_PLATFORM_<NAME>_ADDRESS`, or its port on this machine."""
    return os.environ.get(f"ML_PLATFORM_{name.upper()}_ADDRESS", f"http://{LOOPBACK}:{port(name)}").rstrip("/")


def stored_address(name: str) -> str:
    """Return the address of ``name`` for a link that is stored, such as in the metadata of assets.

    `$ML_PLATFORM_<NAME>_ADDRESS` stays the same. A port does not, so without that variable it is the path
    ``/go/<name>``, which the servers of `ml-platform up` redirect.
    """
    return address(name) if has_own_address(name) else f"{REDIRECTS}/{name}"


def redirect_target(path: str, query: str = "") -> str | None:
    """Return the address to which ``path`` (``/go/<process>/…``) leads; None for another path or process.

    >>> redirect_target("/go/other/x"), redirect_target("/x")
    (None, None)
    """
    name, _, rest = path.removeprefix(f"{REDIRECTS}/").partition("/")
    if not path.startswith(f"{REDIRECTS}/") or name not in DEFAULT_PORTS:
        return None
    return f"{address(name)}/{rest}{'?' if query else ''}{query}"


def has_own_address(name: str) -> bool:
    """Return whether `$ML_PLATFORM_<NAME>_ADDRESS` sets the address of ``name``."""
    return f"ML_PLATFORM_{name.upper()}_ADDRESS" in os.environ


def page_link(page: Path, reports: Path, served_at: str) -> str:
    """Return the link to ``page``, a file in the folder ``reports``, which a server offers at ``served_at``."""
    return f"{served_at}/{page.resolve().relative_to(reports.resolve()).as_posix()}"


def run_link(server: str, experiment_id: str, run_id: str) -> str:
    """Return the link to the page of a run on the MLflow ``server``."""
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}"
