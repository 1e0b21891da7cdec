"""Counts the requests that each client of the gateway has under way in this service."""


class ClientPlaces:
    """The requests under way by client; a client without any is not remembered."""

    def __init__(self) -> None:
        self._taken: dict[bytes, int] = {}

    def take(self, client: bytes, limit: bytes) -> bool:
        """Count one more request of ``client`` unless it has ``limit`` of them; return whether it is counted.

        A service that is called directly gets no client, and no limit.
        """
        taken = self._taken.get(client, 0)
        if client and limit.isdigit() and taken >= int(limit):
            return False
        if client:
            self._taken[client] = taken + 1
        return True

    def release(self, client: bytes) -> None:
        """End a request that :meth:`take` counted."""
        left = self._taken.get(client, 0) - 1
        if left > 0:
            self._taken[client] = left
        else:
            self._taken.pop(client, None)
