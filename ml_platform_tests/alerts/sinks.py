"""Receivers of alerts that store what they get: an HTTP server and an SMTP server on this machine."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in a thread during the body."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@dataclass
class HttpSink:
    """An HTTP server on ``port``; it answers ``status`` and keeps the documents with their paths and headers."""

    port: int = 0
    status: int = 200
    documents: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["HttpSink"]:
        """Answer requests during the body; a later call has the same port."""
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if sink.status < 300:
                    sink.documents.append(json.loads(body))
                    sink.paths.append(self.path)
                    sink.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(sink.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        with ThreadingHTTPServer(("127.0.0.1", self.port), Handler) as server:
            self.port = server.server_address[1]
            with served(server):
                yield self


@dataclass
class SmtpSink:
    """An SMTP server on ``port`` without encryption; it keeps the mails. It refuses those to ``unknown``."""

    port: int = 0
    mails: list[Message] = field(default_factory=list)
    unknown: str = "nobody@example.com"

    @contextmanager
    def running(self) -> Iterator["SmtpSink"]:
        """Take mails during the body."""
        sink = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.reply("220 sink")
                while line := self.rfile.readline():
                    verb = line.strip().upper()
                    if verb.startswith(b"RCPT") and sink.unknown.encode().upper() in verb:
                        self.reply("550 no such user")
                    elif verb == b"DATA":
                        self.reply("354 go on")
                        sink.mails.append(message_from_bytes(b"".join(iter(self.rfile.readline, b".\r\n"))))
                        self.reply("250 taken")
                    elif verb == b"QUIT":
                        self.reply("221 bye")
                        return
                    else:
                        self.reply("250 ok")

            def reply(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        with socketserver.ThreadingTCPServer(("127.0.0.1", self.port), Handler) as server:
            self.port = server.server_address[1]
            with served(server):
                yield self
