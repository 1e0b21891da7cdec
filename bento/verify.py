"""Serves the packed application on a free port until stdin ends: `python -m bento.verify`, in the bento's own code.

Prints a line of JSON with the port, and one at the end that tells where each module of the house was loaded from. It is
the same application under the same server as in production, without the seconds that BentoML's launcher takes.
"""

import json
import socket
import sys
import threading

import uvicorn

from bento.packed import application

HOUSE = ("ml_platform", "assets", "resources", "bento")


def main() -> None:
    """Serve, then tell what was loaded."""
    server = uvicorn.Server(uvicorn.Config(application(), log_level="error", access_log=False))
    listening = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    threading.Thread(target=_stop_at_end, args=(server,), daemon=True).start()
    server.run(sockets=[listening])
    loaded = {name: str(module.__file__) for name, module in sys.modules.items() if name.partition(".")[0] in HOUSE}
    print(json.dumps({"modules": loaded}))


def _stop_at_end(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
