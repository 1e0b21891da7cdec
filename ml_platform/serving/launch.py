"""Starts BentoML's server on one bento: `python -m ml_platform.serving.launch BENTO PORT_FILE LOG_FILE`.

The socket is bound here and handed on, so that the port is free for certain; its number is written to PORT_FILE.
`bentoml serve` would put a second process manager above the same server, and twice the time to start.
"""

import os
import socket
import sys
from pathlib import Path

SERVER = "_bentoml_impl.worker.service"
BACKLOG = 2048
GRACE_SECONDS = 30


def main(bento: Path, port_file: Path, log_file: Path) -> None:
    """Replace this process by the server of ``bento`` on a free port of this machine, its output in ``log_file``."""
    listening = _bound(port_file)
    listening.set_inheritable(True)
    # Listening already: whoever asks early waits for the answer instead of being turned away.
    listening.listen(BACKLOG)
    staged = port_file.with_suffix(".new")
    staged.write_text(str(listening.getsockname()[1]))
    staged.replace(port_file)
    with log_file.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    source = (bento / "src").resolve()
    # Inside the bento only its own code is seen, though this process was started by another.
    os.chdir(source)
    environment = {**os.environ, "PYTHONPATH": str(source), "BENTOML_DO_NOT_TRACK": "True"}
    arguments = [str(bento.resolve()), "--fd", str(listening.fileno()), "--backlog", str(BACKLOG)]
    grace = ["--timeout-graceful-shutdown", str(GRACE_SECONDS)]
    os.execve(sys.executable, [sys.executable, "-m", SERVER, *arguments, *grace], environment)


def _bound(port_file: Path) -> socket.socket:
    """Return a socket on the port that this service had before, where the gateway looks for it, or on a free one."""
    before = int(port_file.read_text()) if port_file.exists() else 0
    for port in dict.fromkeys((before, 0)):
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", port))
        except OSError:
            bound.close()
            continue
        return bound
    raise OSError("no free port on 127.0.0.1")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
