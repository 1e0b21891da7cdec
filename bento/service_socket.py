"""The socket of a service: on the port where the gateway expects the service, also after a restart."""

import socket
from pathlib import Path


def bound_socket(port_file: Path) -> socket.socket:
    """Return a socket on the port in ``port_file``, the previous one of the service, or else on a free port.

    It does not listen yet. Raises ``OSError`` without a free port.
    """
    previous_port = int(port_file.read_text()) if port_file.exists() else 0
    for port in dict.fromkeys((previous_port, 0)):
        service_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        service_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            service_socket.bind(("127.0.0.1", port))
        except OSError:
            service_socket.close()
            continue
        return service_socket
    raise OSError("no free port on 127.0.0.1")
