"""Dagster's webserver for names of this machine only: `python -m ml_platform.console.webserver OPTIONS`.

The options are those of `dagster-webserver`. Its GraphQL starts runs, and asks for no password. Without a check, a web
page whose name is bound to the address of this machine could call it from the browser of a user (DNS rebinding).
"""

import sys
from collections.abc import Sequence
from typing import Any

from ml_platform.console.link_redirects import LinkRedirects
from resources.addresses import ALLOWED_HOSTS


def main(arguments: Sequence[str]) -> None:
    """Serve Dagster's UI with the ``arguments`` of `dagster-webserver` until the process ends."""
    from dagster_webserver.cli import cli
    from dagster_webserver.webserver import DagsterWebserver
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    its_own = DagsterWebserver.build_middleware

    def build_middleware(webserver: "DagsterWebserver[Any, Any]") -> list[Middleware]:
        own = [Middleware(TrustedHostMiddleware, allowed_hosts=ALLOWED_HOSTS), Middleware(LinkRedirects)]
        return [*own, *its_own(webserver)]

    # The command line has no option for middleware.
    DagsterWebserver.build_middleware = build_middleware  # type: ignore[assignment, method-assign]
    cli(list(arguments), prog_name="dagster-webserver")


if __name__ == "__main__":
    main(sys.argv[1:])
