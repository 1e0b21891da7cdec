"""Connections to a service whose model is not loaded: the host looks at their first bytes and reads nothing.

Probes are answered here, so that a monitor loads no model. All others wait until a worker takes them.
"""

import json
import socket
import uuid
from dataclasses import dataclass, field

PROBE_STARTS = (b"GET /readyz ", b"GET /livez ", b"HEAD /readyz ", b"HEAD /livez ")
FIRST_BYTES = 16
RECEIVE_SECONDS = 10.0
"""Time in which a client must send the first bytes of its request."""


@dataclass(eq=False)
class Connection:
    """An accepted connection; ``kind`` is None until its first bytes have arrived."""

    socket: socket.socket
    accepted_at: float
    kind: str | None = field(default=None)

    def look(self) -> bool:
        """Read ahead and set ``kind`` to ``probe`` or ``request``; return False when the client has gone."""
        try:
            start = self.socket.recv(FIRST_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if start:
            self.kind = "probe" if start.startswith(PROBE_STARTS) else "request"
        return bool(start)

    def answer_probe(self, *, ready: bool) -> None:
        """Answer ``GET /readyz`` or ``GET /livez``, and close."""
        body = b"ready\n" if ready else b"starting or failing; the log of the service has the cause\n"
        self._answer("200 OK" if ready else "503 Service Unavailable", b"text/plain; charset=utf-8", body)

    def refuse(self, reason: str, message: str) -> None:
        """Answer 503 with ``retry-after``, in the form of the service's own errors, and close."""
        error = {"status": 503, "reason": reason, "message": message, "details": []}
        body = json.dumps({"error": error, "request_id": uuid.uuid4().hex}).encode()
        self._answer("503 Service Unavailable", b"application/json", body, b"retry-after: 1\r\n")

    def _answer(self, status: str, content_type: bytes, body: bytes, headers: bytes = b"") -> None:
        head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n"
        try:
            # A socket that is closed with unread bytes would reset the connection before the answer arrives.
            self.socket.recv(2**16)
            self.socket.send(head % (status.encode(), content_type, len(body), headers) + body)
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client has gone
        self.socket.close()
