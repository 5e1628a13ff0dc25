"""The MQTT bridge of one core: carries messages between its local broker, local publish/subscribe and IoT Core.

As on a device it publishes with QoS 1, sends to IoT Core through the nucleus' spooler, hears its own messages again
where mappings point back (unless `noLocal`), and keeps MQTT 5 properties only as an MQTT 5 client. A loop, which a
device would run for ever, is cut and reported.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from foreshore.errors import AwsError, ForeshoreError
from foreshore.greengrass.bridge import MAX_PASSES, NAME, BridgeSettings, Passes, Source, read_bridge
from foreshore.greengrass.bridge import Mapping as Route
from foreshore.greengrass.pubsub import LocalMessage
from foreshore.greengrass.service import Core
from foreshore.iot.mqtt.server import Broker
from foreshore.seams import Publication, split_traceparent

MAX_IOT_PAYLOAD = 128 * 1024
"""Bytes that IoT Core takes ("AWS IoT Core message broker and protocol limits")."""

_PROPERTIES = (
    "content_type", "response_topic", "correlation_data", "payload_format", "message_expiry_s", "user_properties",
)  # fmt: skip
MAX_DEPTH = 16
MAX_RETRY_S = 120

Say = Callable[[str, str], None]


@dataclass(slots=True)
class _Active:
    """A mapping at work, and the way to end it."""

    route: Route
    stop: Callable[[], None]


class Bridge:
    """One core's bridge: a `provided_services.Provided`. `core()` is there when mappings come to work."""

    def __init__(self, core: Callable[[], Core], broker: Broker, say: Say, client_id: str) -> None:
        self.from_devices = 0
        self._core = core
        self._broker = broker
        self._say = say
        self._own_id = client_id
        self._settings = BridgeSettings()
        self._active: dict[str, _Active] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._passes = Passes()
        self._depth = 0
        self._looping: set[str] = set()

    async def configure(self, configuration: Mapping[str, Any] | None) -> None:
        """Take the configuration: mappings that did not change go on without a gap. Raises UserError, and then the old
        ones stay."""
        settings = read_bridge(configuration or {})
        for note in settings.notes:
            self._say("WARN", note)
        self._settings = settings
        wanted = {route.name: route for route in settings.mappings}
        for name, active in list(self._active.items()):
            if wanted.get(name) != active.route:
                del self._active[name]
                active.stop()
        for name, route in wanted.items():
            if name not in self._active:
                self._active[name] = _Active(route, self._hear(route))

    async def start(self) -> None:
        """Nothing more to start."""

    async def stop(self) -> None:
        """End every mapping."""
        for active in self._active.values():
            active.stop()
        self._active.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def client_id(self) -> str:
        """The client id that the bridge's own messages on the local broker have."""
        return self._settings.client_id or self._own_id

    # Hearing

    def _hear(self, route: Route) -> Callable[[], None]:
        if route.source is Source.LOCAL_MQTT:
            handle = self._broker.add_listener(route.topic, lambda message: self._from_device(message, route))
            return lambda: self._broker.remove_listener(handle)
        if route.source is Source.PUBSUB:
            # A subscription with wildcards does not hear the bridge's own messages; one without does (nucleus,
            # PubSubIPCEventStreamAgent.validateReceiveMode).
            others_only = "+" in route.topic or "#" in route.topic
            return self._core().subscribe_local(
                route.topic, lambda message: self._from_component(message, route), source=NAME, others_only=others_only
            )
        task = asyncio.ensure_future(self._follow_cloud(route))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return lambda: _cancel(task)

    async def _follow_cloud(self, route: Route) -> None:
        """Subscribe at IoT Core, again and again while it refuses, until this task is cancelled."""
        for attempt in itertools.count():
            try:
                stop = await self._core().subscribe_to_cloud(
                    route.topic, 1, lambda message: self._from_cloud(message, route)
                )
                break
            except AwsError as error:
                wait = min(2**attempt, MAX_RETRY_S)
                self._say("ERROR", f"{route.name}: {error.message}; again in {wait} s")
                await asyncio.sleep(wait)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            stop()

    def _from_device(self, message: Publication, route: Route) -> None:
        is_own = message.client_id == self.client_id
        if is_own and route.no_local:
            return
        self.from_devices += not is_own
        self._pass(message, route, retain=message.retain and route.retain_as_published)

    def _from_component(self, message: LocalMessage, route: Route) -> None:
        self._pass(message, route)

    def _from_cloud(self, message: Publication, route: Route) -> None:
        ids = split_traceparent(message.traceparent)
        if ids is not None and self._passes.is_loop(ids[0], message.topic, message.payload):
            self._cut(route, f"message on {message.topic} came by {MAX_PASSES} times")
            return
        self._pass(message, route)

    # Passing on

    def _pass(self, message: Publication | LocalMessage, route: Route, *, retain: bool = False) -> None:
        """One message to where its mapping points."""
        if self._depth >= MAX_DEPTH:
            self._cut(route, f"message on {message.topic} came by {MAX_DEPTH} times")
            return
        topic, trace = route.prefix + message.topic, message.traceparent or None
        self._depth += 1
        try:
            if route.target is Source.PUBSUB:
                self._core().publish_local(topic, message.payload, source=NAME, traceparent=trace)
            else:
                self._publish(self._carried(message, topic, retain, trace), route.target)
        except (ForeshoreError, ValueError) as error:
            self._say("ERROR", f"{route.name}: {message.topic} can't be passed on: {error}")
        finally:
            self._depth -= 1

    def _carried(
        self, message: Publication | LocalMessage, topic: str, retain: bool, traceparent: str | None
    ) -> Publication:
        """The message anew: with its MQTT 5 properties when the bridge is an MQTT 5 client."""
        carried = Publication(topic, message.payload, qos=1, retain=retain, traceparent=traceparent)
        if self._settings.is_mqtt5 and isinstance(message, Publication):
            for name in _PROPERTIES:
                setattr(carried, name, getattr(message, name))
        return carried

    def _publish(self, message: Publication, target: Source) -> None:
        if target is Source.LOCAL_MQTT:
            message.client_id = self.client_id
            self._broker.publish(message)
        elif len(message.payload) > MAX_IOT_PAYLOAD:
            raise ValueError(f"{len(message.payload)} bytes are more than the {MAX_IOT_PAYLOAD} IoT Core takes")
        else:
            self._core().publish_to_cloud(message, NAME)

    def _cut(self, route: Route, what: str) -> None:
        """Say once for each mapping that it is part of a loop."""
        if route.name in self._looping:
            return
        self._looping.add(route.name)
        self._say("ERROR", f"{route.name} is part of a loop: a {what}. A device would go on for ever")


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
