"""Redirects of stored links: `/go/<process>/<path>` leads to the address that the process has today.

Metadata of assets and pages of reports outlive the ports of the day on which they were written.
"""

from typing import TYPE_CHECKING

from resources.addresses import redirect_target

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class LinkRedirects:
    """ASGI middleware that answers the requests of stored links; a browser keeps the part after ``#`` by itself."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.responses import RedirectResponse

        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            target = redirect_target(scope["path"], scope["query_string"].decode("latin-1"))
            if target is not None:
                # A browser must ask again after the next start.
                headers = {"cache-control": "no-store"}
                await RedirectResponse(target, status_code=307, headers=headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)
