"""Counts the requests that each client of the gateway has under way, in this process or in all services of a platform.

A place of a client is one byte of a file that all services share, locked by the process whose request has the place.
The kernel releases the locks of a process that ends, however it ends. The file stays empty: locks need no bytes.
"""

import errno
import fcntl
import logging
import os
import random
from hashlib import blake2b
from itertools import chain
from pathlib import Path

logger = logging.getLogger("bento.client_places")

PLACES = 2**20
"""Greatest number of places of one client."""


class ClientPlaces:
    """The requests under way by client; a client without any is not remembered.

    ``file`` is the file that all services share, which is made when there is none. Without one, or where it cannot be
    locked, the limit of a client counts within this process.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._path = file
        self._file: int | None = None
        self._taken: dict[bytes, set[int]] = {}

    def take(self, client: bytes, limit: bytes) -> bool:
        """Take a place for one more request of ``client`` unless all of the ``limit`` are taken; return whether it did.

        A service that is called directly gets no client, and no limit.
        """
        if not client or not limit.isdigit():
            return True
        places, own = min(int(limit), PLACES), self._taken.get(client, set())
        if len(own) >= places:
            return False
        # The services begin at different places, so that the first one tried is seldom taken.
        first = random.randrange(places)
        for place in chain(range(first, places), range(first)):
            if place not in own and self._lock(client, place):
                self._taken.setdefault(client, own).add(place)
                return True
        return False

    def release(self, client: bytes) -> None:
        """End a request for which :meth:`take` took a place, if it needed one."""
        own = self._taken.get(client)
        if own is None:
            return
        place = own.pop()
        if not own:
            del self._taken[client]
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _offset(client, place))

    def _lock(self, client: bytes, place: int) -> bool:
        if self._path is None:
            return True
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(client, place))
        except OSError as error:
            if self._file is not None and error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            # A limit must not end the answers, for example on a file system without locks.
            logger.warning("the limits of clients count within this process: %s: %s", self._path, error)
            self._path = None
        return True


def _offset(client: bytes, place: int) -> int:
    """Return the byte of ``place``; 40 bits of a hash keep clients apart."""
    return int.from_bytes(blake2b(client, digest_size=5).digest()) * PLACES + place
