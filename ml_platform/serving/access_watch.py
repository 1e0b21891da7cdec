"""Keeps the gateway's keys, limits and certificate current: `python -m ml_platform.serving.access_watch PLAN`.

Every pass reads the clients from the state store and the certificate from its files, and replaces the files of the
gateway that differ. It also counts the requests of each client, so that a quota continues after the gateway or the
platform was restarted.
"""

import json
import logging
import re
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ml_platform.errors import PlatformError
from ml_platform.serving.certificates import read_pair
from ml_platform.serving.client_keys import Client, ClientKey, read_clients
from ml_platform.serving.client_usage import Usage, read_usage, requests_today, utc_day, write_usage
from ml_platform.serving.gateway_access import REQUESTS_STAT, AccessFiles
from ml_platform.serving.gateway_admin import query_gateway
from ml_platform.state.store import StateStore

logger = logging.getLogger("access_watch")

PASS_INTERVAL_SECONDS = 0.5
STORE_INTERVAL_SECONDS = 5.0
REFUSED = frozenset({"401", "403", "429"})
"""Statuses of requests that do not count for the quota: the keys and limits refused them."""

_COUNTER = re.compile(rf"{re.escape(REQUESTS_STAT)}\.client\.([a-z0-9_-]+)\.code\.(\d+)")


class AccessPlan(BaseModel):
    """The gateway's folder, and where its keys and its certificate come from."""

    model_config = ConfigDict(extra="forbid")

    gateway: Path = Field(description="Folder of the gateway's files.")
    state: str = Field(description="SQLite file of the state store, or `$` and the variable with its address.")
    keys: bool = Field(default=False, description="Whether requests need the key of a client.")
    certificate: Path | None = Field(default=None, description="PEM file of the certificate; None: no TLS.")
    private_key: Path | None = Field(default=None, description="PEM file of its private key.")

    def write_certificate(self, files: AccessFiles) -> None:
        """Give the certificate, if there is one, to the gateway; raises ``CertificateError`` as :func:`read_pair`."""
        if self.certificate is not None and self.private_key is not None:
            files.write_certificate(*read_pair(self.certificate, self.private_key))


class AccessWatch:
    """Passes over keys, limits, certificate and counters until ``stopping`` is set."""

    def __init__(self, plan: AccessPlan, stopping: threading.Event | None = None) -> None:
        self.plan = plan
        self.stopping = stopping or threading.Event()
        self._state = StateStore.at(plan.state)
        self._files = AccessFiles(plan.gateway)
        self._clients: dict[str, Client] = {}
        self._keys: list[ClientKey] | None = None
        self._usage = Usage()
        self._stored: dict[str, Any] = {}
        self._stored_at = 0.0

    def run(self) -> None:
        """Run passes until ``stopping`` is set, then store the requests of the day."""
        while not self.stopping.is_set():
            try:
                self.step(datetime.now(UTC))
            except (OSError, PlatformError) as error:
                logger.warning("this pass failed, the next one retries: %s", error)
            self.stopping.wait(PASS_INTERVAL_SECONDS)
        if self.plan.keys:
            self._store_usage(every=0)

    def step(self, now: datetime) -> None:
        """Run one pass at ``now``. A value that cannot be read stays as it was, and expired keys end all the same."""
        self._renew_certificate()
        if not self.plan.keys:
            return
        try:
            if self._keys is None:
                self._usage = read_usage(self._state)
            self._clients, self._keys = read_clients(self._state)
        except PlatformError as error:
            logger.warning("the clients are those of the last pass: %s", error)
        if self._keys is None:
            return
        self._count_requests(now)
        self._files.write_clients(self._clients, self._keys, self._usage.on(utc_day(now)), now)
        self._store_usage(every=STORE_INTERVAL_SECONDS)

    def _renew_certificate(self) -> None:
        try:
            self.plan.write_certificate(self._files)
        except PlatformError as error:
            # Between the replacement of the certificate and that of its key, the two do not match.
            logger.warning("the gateway keeps its certificate: %s", error)

    def _count_requests(self, now: datetime) -> None:
        try:
            counters = self._counters()
        except OSError as error:
            # The gateway starts again. A revoked key must be out of its files when it reads them.
            logger.warning("the requests are counted at the next pass: %s", error)
            return
        if self._usage.add(counters, utc_day(now)):
            self._files.refill()

    def _counters(self) -> dict[str, int]:
        """Return the requests of each client that its limits let through, since the start of the gateway."""
        page = query_gateway(self.plan.gateway, f"/stats?filter=^{REQUESTS_STAT}&format=json", seconds=2.0)
        found: dict[str, int] = {}
        for each in json.loads(page)["stats"]:
            parts = _COUNTER.fullmatch(each.get("name", ""))
            if parts is not None and parts[2] not in REFUSED and parts[1] in self._clients:
                found[parts[1]] = found.get(parts[1], 0) + int(each["value"])
        return found

    def _store_usage(self, *, every: float) -> None:
        usage = self._usage.to_json()
        if usage == self._stored or time.monotonic() - self._stored_at < every:
            return
        try:
            write_usage(self._state, self._usage)
        except PlatformError as error:
            logger.warning("the requests of the day are not stored: %s", error)
            return
        self._stored, self._stored_at = json.loads(json.dumps(usage)), time.monotonic()


def write_first_access(plan: AccessPlan, now: datetime) -> None:
    """Write the files of keys, limits and certificate with which the gateway of ``plan`` starts.

    Raises ``PlatformError`` when the clients or the certificate cannot be read: a gateway without them answers nobody.
    """
    files = AccessFiles(plan.gateway)
    plan.write_certificate(files)
    if plan.keys:
        state = StateStore.at(plan.state)
        clients, keys = read_clients(state)
        files.write_clients(clients, keys, requests_today(state, now), now)


def _main(arguments: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    AccessWatch(AccessPlan.model_validate_json(arguments[0]), stopping).run()


if __name__ == "__main__":
    _main(sys.argv[1:])
