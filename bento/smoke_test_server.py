"""Serves the packed application on a free port until stdin ends: `python -m bento.smoke_test_server`.

It runs with the code of the bento alone. At the start it prints a JSON line with the port, and at the end one with the
file of each loaded module of the project. Application and server are the same as in production; only BentoML's
launcher, which takes seconds, is left out.
"""

import json
import socket
import sys
import threading

import uvicorn

from bento.app_factory import create_app

PROJECT_PACKAGES = ("ml_platform", "assets", "resources", "bento")


def main() -> None:
    """Serve until stdin ends, then print the files of the loaded modules."""
    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", access_log=False))
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    threading.Thread(target=_stop_at_end_of_input, args=(server,), daemon=True).start()
    server.run(sockets=[listener])
    module_files = {
        name: str(module.__file__) for name, module in sys.modules.items() if name.partition(".")[0] in PROJECT_PACKAGES
    }
    print(json.dumps({"modules": module_files}))


def _stop_at_end_of_input(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
