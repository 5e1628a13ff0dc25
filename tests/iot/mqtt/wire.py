"""A client made of bytes and a broker to point it at, for tests that look at every packet."""

import asyncio
from typing import ClassVar

from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt.access import AllowAll, ConnectDecision
from foreshore.iot.mqtt.codec import V5
from foreshore.iot.mqtt.server import Broker


class Guard(AllowAll):
    """Refuses the client `bad`, the topic `secret` and the filter `secret/#`."""

    def connect(self, request, /):
        return ConnectDecision(request.client_id != "bad")

    def may_publish(self, identity, topic, retain, /):
        return topic != "secret"

    def may_subscribe(self, identity, filter, /):
        return filter != "secret/#"


class Wire:
    """A client made of bytes; `serve` closes those that a scenario leaves open."""

    opened: ClassVar[list] = []

    def __init__(self, reader, writer, version):
        self.reader, self.writer, self.version = reader, writer, version
        self.splitter = codec.Splitter()
        self.ready = []
        self.opened.append(self)

    @classmethod
    async def open(cls, port, client_id="wire", version=V5, **more):
        wire = cls(*await asyncio.open_connection("127.0.0.1", port), version)
        wire.send(codec.Connect(client_id, version, more.pop("clean", True), more.pop("keep_alive", 60), **more))
        return wire

    def send(self, packet):
        self.writer.write(packet if isinstance(packet, bytes) else codec.encode(packet, self.version))

    async def receive(self):
        """The next packet, or None when the broker closed."""
        while not self.ready:
            data = await asyncio.wait_for(self.reader.read(65536), 20)
            if not data:
                return None
            self.ready += [codec.decode(first, body, self.version) for first, body in self.splitter.feed(data)]
        return self.ready.pop(0)

    async def close(self):
        self.writer.transport.abort()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


def serve(scenario, **options):
    """Run a scenario beside a broker; an error that reaches the event loop fails the test."""

    async def main():
        failures = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        broker = Broker(**{"access": Guard(), "rate_limits": False, **options})
        port = await broker.listen("127.0.0.1", 0)
        try:
            await scenario(broker, port)
        finally:
            await asyncio.gather(*(wire.close() for wire in Wire.opened))
            Wire.opened.clear()
            await broker.stop()
        assert failures == []

    asyncio.run(main())
