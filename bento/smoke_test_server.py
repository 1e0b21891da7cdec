"""Serves the packed application on a free port until stdin ends: `python -m bento.smoke_test_server`.

It runs with the code of the bento alone. At the start it prints a JSON line with the port, and at the end one with the
file of each loaded module of the project. Application and server are the same as in production; only BentoML's
launcher, which takes seconds, is left out.
"""

import json
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from bento.app_factory import create_packed_app
from ml_platform.data.project_modules import is_project_file


def main() -> None:
    """Serve until stdin ends, then print the files of the loaded modules."""
    server = uvicorn.Server(uvicorn.Config(create_packed_app(), log_level="error", access_log=False))
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    threading.Thread(target=_stop_at_end_of_input, args=(server,), daemon=True).start()
    server.run(sockets=[listener])
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    print(json.dumps({"modules": {name: file for name, file in files.items() if file and is_project_file(Path(file))}}))


def _stop_at_end_of_input(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
