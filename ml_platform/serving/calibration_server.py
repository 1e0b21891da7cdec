"""A bare endpoint, whose latency under load is that of the machine: `python -m ml_platform.serving.calibration_server`.

It reads and answers JSON with the server and the parser of a bento, and predicts nothing. Like
:mod:`bento.smoke_test_server` it prints its port as a JSON line, and serves until stdin ends.
"""

import json
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import uvicorn


async def answer(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
    """Answer a request for n rows with n equal scores (an ASGI application)."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    rows = orjson.loads(body)["rows"]
    content = orjson.dumps({"predictions": [{"score": 0.5, "label": True}] * len(rows)})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def main() -> None:
    """Serve until stdin ends."""
    server = uvicorn.Server(uvicorn.Config(answer, log_level="error", access_log=False, lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    threading.Thread(target=_stop_at_end_of_input, args=(server,), daemon=True).start()
    server.run(sockets=[listener])


def _stop_at_end_of_input(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
