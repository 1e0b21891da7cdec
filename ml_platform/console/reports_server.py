"""Serves the reports of a home on loopback: `python -m ml_platform.console.reports_server PORT FOLDER`.

Metadata of assets links to Data Docs, drift reports and model cards, which are files below the folder. Only files are
served: no list of a folder, and no link that leads out of it. The first page says where the reports are linked.
Requests that name another host are refused, so a web page that binds its name to this machine reads nothing.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette

LOOPBACK = "127.0.0.1"
FIRST_PAGE = """<!doctype html><meta charset="utf-8"><title>Reports</title>
<p>Model cards, drift reports and Data Docs are served here, each at the address that its asset links to in the metadata
of its last materialization in Dagster.</p>
"""
ALLOWED_HOSTS = [LOOPBACK, "localhost"]


def reports_app(folder: Path) -> "Starlette":
    """Return the application that serves the files below ``folder``; a folder is answered with its `index.html`."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    folder.mkdir(parents=True, exist_ok=True)
    files = StaticFiles(directory=folder, html=True, follow_symlink=False)
    return Starlette(
        routes=[Route("/", lambda _: HTMLResponse(FIRST_PAGE)), Mount("/", files)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=ALLOWED_HOSTS)],
    )


def main(port: int, folder: Path) -> None:
    """Serve ``folder`` on ``port`` of this machine until the process ends."""
    import uvicorn

    uvicorn.run(reports_app(folder), host=LOOPBACK, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
