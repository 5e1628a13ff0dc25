"""The MQTT proxy's shell: drains the spooler into the `CloudLink`, and shares subscriptions among components."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from foreshore.errors import ForeshoreError
from foreshore.greengrass.cloud_link import CloudLink
from foreshore.greengrass.spooler import Spooler, SpoolerSettings
from foreshore.seams import Publication

MAX_IN_FLIGHT = 5
RETRY_S = 1.0
RECHECK_S = 0.1
# PUBACK reason codes that another try won't mend (MQTT 5, section 3.4.2.1): not authorized, topic name invalid,
# payload format invalid, packet too large.
FINAL_REASONS = frozenset({0x87, 0x90, 0x99, 0x95})

Deliver = Callable[[Publication], None]


class CloudProxy:
    """One core's way to IoT Core."""

    def __init__(
        self,
        link: CloudLink,
        path: Path | None,
        settings: SpoolerSettings,
        say: Callable[[str, str, str], None],
    ) -> None:
        self._link = link
        self._spooler = Spooler(path, settings)
        self._say = say
        self._sending: set[asyncio.Task[None]] = set()
        self._subscribers: dict[str, list[Deliver]] = {}
        self._qos: dict[str, int] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._listeners: list[Callable[[bool], None]] = []
        self._connected = asyncio.Event()
        self._retry: asyncio.TimerHandle | None = None
        self._unsubscribing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def is_connected(self) -> bool:
        """Whether the link is up."""
        return self._link.connected

    @property
    def spooled(self) -> int:
        """Messages that are kept and not yet acknowledged."""
        return len(self._spooler)

    def configure(self, settings: SpoolerSettings) -> None:
        """Take new settings; where messages are kept changes at the next start."""
        self._spooler.settings = settings._replace(to_disk=self._spooler.settings.to_disk)

    def start(self) -> None:
        """Follow the link's state, and send what an earlier run left."""
        self._link.on_state(self._on_state)
        self._on_state(self._link.connected)

    async def stop(self) -> None:
        """Stop sending; what is not acknowledged stays on disk."""
        self._is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        tasks = [*self._sending, *self._unsubscribing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._spooler.close()

    def _on_state(self, connected: bool) -> None:
        if self._is_closed:
            return
        if connected:
            self._connected.set()
            self._drain()
        else:
            self._connected.clear()
        for listener in list(self._listeners):
            listener(connected)

    def on_state(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Hear of later changes; gives the way to stop."""
        self._listeners.append(callback)

        def stop() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return stop

    # publishing

    def publish(self, publication: Publication) -> None:
        """Keep a message and send it as soon as can be. Raises AwsError when it can't be kept."""
        self._spooler.add(publication, online=self._link.connected)
        self._drain()

    def _drain(self) -> None:
        while self._link.connected and not self._is_closed and len(self._sending) < MAX_IN_FLIGHT:
            taken = self._spooler.take()
            if taken is None:
                return
            task = asyncio.ensure_future(self._send(*taken))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if self._retry is None:
            self._drain()

    async def _send(self, number: int, publication: Publication) -> None:
        try:
            reason = await self._link.publish(publication)
        except Exception as error:
            # Whatever the link raised, the message is kept and keeps its place.
            if not isinstance(error, ConnectionError | TimeoutError):
                self._say("", "ERROR", f"a publish to IoT Core failed and will be tried again: {error!r}")
            self._spooler.give_back(number)
            self._try_later()
            return
        if reason < 0x80 or reason in FINAL_REASONS:
            self._spooler.acknowledge(number)
            if reason >= 0x80:
                self._say("", "ERROR", f"IoT Core refused a message on {publication.topic}: reason 0x{reason:02x}")
            return
        self._spooler.give_back(number)
        self._try_later()

    def _try_later(self) -> None:
        if self._retry is None and not self._is_closed:
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._drain()

    # subscribing

    async def subscribe(self, filter: str, qos: int, deliver: Deliver) -> Callable[[], None]:
        """Subscribe once the link is up; one subscription at the broker serves all. Raises AwsError on refusal."""
        while True:
            await self._connected.wait()
            async with self._locks.setdefault(filter, asyncio.Lock()):
                if self._qos.get(filter, -1) >= qos and filter in self._subscribers:
                    break
                try:
                    await self._link.subscribe(filter, qos, lambda publication: self._deliver(filter, publication))
                except (ConnectionError, TimeoutError):
                    # The link went away in between, perhaps before it says so: wait for it again.
                    await asyncio.sleep(RECHECK_S)
                    continue
                self._qos[filter] = qos
                self._subscribers.setdefault(filter, [])
                break
        self._subscribers[filter].append(deliver)
        return lambda: self._unsubscribe(filter, deliver)

    def _deliver(self, filter: str, publication: Publication) -> None:
        for deliver in list(self._subscribers.get(filter, ())):
            deliver(publication)

    def _unsubscribe(self, filter: str, deliver: Deliver) -> None:
        delivers = self._subscribers.get(filter, [])
        if deliver in delivers:
            delivers.remove(deliver)
        if not delivers and filter in self._subscribers and not self._is_closed:
            task = asyncio.ensure_future(self._forget(filter))
            self._unsubscribing.add(task)
            task.add_done_callback(self._unsubscribing.discard)

    async def _forget(self, filter: str) -> None:
        async with self._locks.setdefault(filter, asyncio.Lock()):
            if self._subscribers.get(filter):
                return
            self._subscribers.pop(filter, None)
            self._qos.pop(filter, None)
            try:
                await self._link.unsubscribe(filter)
            except (ForeshoreError, OSError) as error:
                self._say("", "WARN", f"can't unsubscribe from {filter}: {error}")
