"""A proxy before an HTTP server that answers some requests with an error, or late."""

import http.client
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Faults:
    """Every ``every``-th request is answered with 503 (0: none), and each answer waits for ``delay_seconds``."""

    port: int = 0
    every: int = 0
    delay_seconds: float = 0.0
    refused: int = 0
    passed: int = 0
    _number: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def refuses(self) -> bool:
        """Return whether the next request is answered with 503."""
        return self.every > 0 and next(self._number) % self.every == 0


@contextmanager
def faulty_proxy(port: int) -> Iterator[Faults]:
    """Start a proxy before the server at ``port`` of this machine, without faults at first; stop it after the body."""
    faults = Faults()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self._body()
            threading.Event().wait(faults.delay_seconds)
            if faults.refuses():
                faults.refused += 1
                self._send(503, [("Content-Type", "application/xml")], SLOW_DOWN)
                return
            server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            # The signature of a request covers its host, so the headers pass as they are.
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"content-length", "transfer-encoding", "expect"}:
                    server.putheader(name, value)
            if body or self.command in {"PUT", "POST"}:
                server.putheader("Content-Length", str(len(body)))
            server.endheaders(body)
            found = server.getresponse()
            content = found.read()
            faults.passed += 1
            skipped = {"transfer-encoding", "connection", "content-length"}
            headers = [(name, value) for name, value in found.getheaders() if name.lower() not in skipped]
            if self.command == "HEAD":
                headers.append(("Content-Length", found.getheader("Content-Length", "0")))
            self._send(found.status, headers, content)
            server.close()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815  the names of http.server

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    faults.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()
