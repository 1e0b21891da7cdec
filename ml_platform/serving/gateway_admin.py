"""Requests to Envoy's admin page, which listens on a Unix socket in the gateway's folder, for its owner alone.

A process that reaches the page can end the gateway (`POST /quitquitquit`), so it is on no port. The path of a socket
has at most 107 bytes; a path through a descriptor of the folder stays short in a deep home.
"""

import http.client
import os
import socket
from pathlib import Path

SOCKET_FILE = "admin.sock"


class _SocketConnection(http.client.HTTPConnection):
    """A connection to the socket :data:`SOCKET_FILE` in a folder."""

    def __init__(self, folder: Path, timeout: float) -> None:
        super().__init__("admin", timeout=timeout)
        self._folder = folder

    def connect(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{descriptor}/{SOCKET_FILE}")
        finally:
            os.close(descriptor)


def query_gateway(folder: Path, path: str, *, seconds: float, method: str = "GET") -> str:
    """Return the answer of the admin page of the gateway in ``folder`` to ``path``.

    Raises ``OSError`` when it does not answer within ``seconds``, or with another status than 200.
    """
    connection = _SocketConnection(folder, seconds)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read().decode()
    except http.client.HTTPException as error:
        raise OSError(f"the gateway's admin page in {folder} answered no HTTP: {error}") from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise OSError(f"the gateway's admin page in {folder} answered {answer.status} to {path}")
    return text
