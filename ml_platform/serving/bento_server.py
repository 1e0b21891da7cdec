"""Starts BentoML's server on one bento: `python -m ml_platform.serving.bento_server BENTO PORT_FILE LOG_FILE [refuse]`.

This process binds the socket, writes its port number to PORT_FILE, and passes the socket to the server, so no other
process can take the port in between. `bentoml serve` would add a second process manager above the same server and
double the start time.
"""

import os
import shutil
import sys
from pathlib import Path

from bento.service_socket import bound_socket
from ml_platform.serving.bento_digest import ChangedBentoError, require_unchanged
from ml_platform.serving.bento_signature import BYTECODE

SERVER = "_bentoml_impl.worker.service"
BACKLOG = 2048
REFUSE = "refuse"
"""Last argument of a service that refuses requests while it starts, since another service can answer them."""

GRACE_SECONDS = 30


def main(bento: Path, port_file: Path, log_file: Path, *, refuse: bool = False) -> None:
    """Replace this process by the server of ``bento`` on a free local port, and send its output to ``log_file``.

    A bento whose files changed since it was verified, or are not as signed, is not served: the error is in the log, and
    no port is written. The folder of trusted keys is in ``$ML_PLATFORM_TRUSTED_KEYS``. Requests that come while the
    model is loaded wait, or with ``refuse`` are not accepted.
    """
    _remove_bytecode(bento)
    try:
        require_unchanged(bento)
    except ChangedBentoError as error:
        with log_file.open("a") as log:
            log.write(f"{error}\n")
        raise SystemExit(str(error)) from None
    listener = bound_socket(port_file)
    listener.set_inheritable(True)
    if not refuse:
        listener.listen(BACKLOG)
    staged = port_file.with_suffix(".new")
    staged.write_text(str(listener.getsockname()[1]))
    staged.replace(port_file)
    with log_file.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    source = (bento / "src").resolve()
    # Put only the bento's own code on the path: this process was started with the project's code.
    os.chdir(source)
    environment = {**os.environ, "PYTHONPATH": str(source), "BENTOML_DO_NOT_TRACK": "True"}
    arguments = [str(bento.resolve()), "--fd", str(listener.fileno()), "--backlog", str(BACKLOG)]
    shutdown = ["--timeout-graceful-shutdown", str(GRACE_SECONDS)]
    os.execve(sys.executable, [sys.executable, "-m", SERVER, *arguments, *shutdown], environment)


def _remove_bytecode(bento: Path) -> None:
    """Remove the bytecode, which no signature covers, and which Python would run in place of the code."""
    for folder, names, _ in os.walk(bento):
        if BYTECODE in names:
            names.remove(BYTECODE)
            shutil.rmtree(Path(folder, BYTECODE), ignore_errors=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), refuse=REFUSE in sys.argv[4:])
