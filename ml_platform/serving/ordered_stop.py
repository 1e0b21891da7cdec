"""Stops the processes of a run in the order in which no accepted request is cut.

First the reconciler, so that nothing changes any more; then the consumer of streams, which asks the gateway; then the
gateway, after the requests that it has accepted; then the services, which write their prediction logs; then the daemon,
before the code server that would refuse its runs; then all others. The process manager alone would stop all at once.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ml_platform.serving.gateway_process import drain_gateway
from ml_platform.serving.marked_processes import GATEWAY, SERVICE_PREFIX, processes_of, signal_process

RECONCILER, STREAMS, DAEMON = "reconciler", "streams", "daemon"
REPEAT_SECONDS = 0.5
"""Time within which a second signal is the first one again, as one Ctrl-C may reach a process on two ways."""


class OrderedStop:
    """Stops the processes of ``arbiter`` on SIGINT or SIGTERM; a second signal ends them at once.

    ``run`` is the folder of the run and ``gateway`` that of the gateway, whose requests have ``drain_seconds`` to end.
    ``on_stop`` is called first, in a thread; an error of it is reported to ``echo`` and does not prevent the stop.
    """

    def __init__(
        self,
        arbiter: Any,
        run: Path,
        gateway: Path,
        drain_seconds: float,
        echo: Callable[[str], None],
        on_stop: Callable[[], object],
    ) -> None:
        self._arbiter = arbiter
        self._run = run
        self._gateway = gateway
        self._drain_seconds = drain_seconds
        self._echo = echo
        self._on_stop = on_stop
        self._asked_at: float | None = None

    def listen(self) -> None:
        """Answer SIGINT and SIGTERM from now on, instead of the process manager."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._arbiter.loop.add_callback_from_signal(self.request))

    def request(self) -> None:
        """Begin to stop; when it was requested before, kill what still runs."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._echo("Stopping when the requests under way are answered; a second Ctrl-C ends at once.")
            self._arbiter.loop.add_callback(self._stop)
        elif now - self._asked_at > REPEAT_SECONDS:
            for process in processes_of(self._run):
                signal_process(process, signal.SIGKILL)

    async def _stop(self) -> None:
        # From here on, no process that ended is started again.
        if self._arbiter.ctrl.caller is not None:
            self._arbiter.ctrl.caller.stop()
        try:
            await asyncio.to_thread(self._on_stop)
        except Exception as error:
            self._echo(f"The stop goes on after an error: {error}")
        await self._stop_watchers({RECONCILER})
        await self._stop_watchers({STREAMS})
        await asyncio.to_thread(drain_gateway, self._gateway, self._drain_seconds)
        await self._stop_watchers({GATEWAY})
        names = {watcher.name for watcher in self._arbiter.iter_watchers()}
        await self._stop_watchers({name for name in names if name.startswith(SERVICE_PREFIX)})
        # A run that a stopping code server refuses has failed, and its partitions would not be requested again.
        await self._stop_watchers({DAEMON})
        await self._without_conflict(self._arbiter.stop)

    async def _stop_watchers(self, names: Collection[str]) -> None:
        def chosen(reverse: bool = True) -> list[Any]:
            return [each for each in self._arbiter.iter_watchers(reverse=reverse) if each.name in names]

        await self._without_conflict(lambda: self._arbiter.stop_watchers(watcher_iter_func=chosen))

    @staticmethod
    async def _without_conflict(command: Callable[[], Any]) -> None:
        """Run ``command`` of the process manager, which runs one at a time, when no other runs."""
        from circus.exc import ConflictError

        while True:
            try:
                await command()
            except ConflictError:
                await asyncio.sleep(0.05)
            else:
                return
