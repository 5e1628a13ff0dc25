"""What AWS refuses and how, byte by byte over raw sockets; and that a bad client harms only itself."""

import asyncio
import random
import socket
import struct
from types import SimpleNamespace

import pytest

from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.codec import V5, V311
from foreshore.iot.mqtt.server import SocketLink
from tests.iot.mqtt.wire import Wire, serve


def test_a_refused_connect():
    async def scenario(broker, port):
        assert await (await Wire.open(port, "bad", V311)).receive() is None
        answer = await (await Wire.open(port, "bad", V5)).receive()
        assert answer.reason == 0x87

    serve(scenario)


def test_the_connack_tells_awss_limits():
    async def scenario(broker, port):
        found = (await (await Wire.open(port, keep_alive=5)).receive()).properties
        assert found[p.MAXIMUM_QOS] == 1
        assert found[p.SUBSCRIPTION_ID_AVAILABLE] == 0
        assert found[p.TOPIC_ALIAS_MAXIMUM] == 8
        assert found[p.SERVER_KEEP_ALIVE] == 30

    serve(scenario)


@pytest.mark.parametrize(
    ("version", "qos", "answer"),
    [(V311, 0, None), (V311, 1, None), (V5, 0, codec.Disconnect), (V5, 1, codec.Ack)],
)
def test_a_denied_publish(version, qos, answer):
    async def scenario(broker, port):
        wire = await Wire.open(port, version=version)
        await wire.receive()
        wire.send(codec.Publish("secret", b"x", qos, packet_id=7 if qos else 0))
        found = await wire.receive()
        if answer is None:
            assert found is None
            return
        assert (type(found), found.reason) == (answer, 0x87)
        if answer is codec.Ack:
            wire.send(codec.Publish("open", b"x", 1, packet_id=8))
            assert (await wire.receive()).reason == 0

    serve(scenario)


def test_a_denied_filter():
    async def scenario(broker, port):
        old = await Wire.open(port, "old", V311)
        await old.receive()
        old.send(codec.Subscribe(1, [codec.Request("secret/#", 1)]))
        assert await old.receive() is None
        new = await Wire.open(port, "new", V5)
        await new.receive()
        new.send(codec.Subscribe(1, [codec.Request("a", 1), codec.Request("secret/#", 1), codec.Request("b", 0)]))
        assert (await new.receive()).reasons == [1, 0x87, 0]

    serve(scenario)


def test_qos_2_is_not_answered_by_3_1_1_and_ends_5():
    async def scenario(broker, port):
        old = await Wire.open(port, "old", V311)
        await old.receive()
        old.send(codec.Publish("a", b"", 2, packet_id=1))
        old.send(codec.Publish("a", b"", 1, packet_id=2))
        assert (await old.receive()).packet_id == 2
        new = await Wire.open(port, "new", V5)
        await new.receive()
        new.send(codec.Publish("a", b"", 2, packet_id=1))
        assert (await new.receive()).reason == 0x9B

    serve(scenario)


def test_a_takeover_ends_the_old_connection():
    async def scenario(broker, port):
        first = await Wire.open(port, "same")
        await first.receive()
        second = await Wire.open(port, "same")
        assert (await first.receive()).reason == 0x8E
        assert (await second.receive()).reason == 0

    serve(scenario)


def test_what_lies_beyond_the_limits():
    async def scenario(broker, port):
        wire = await Wire.open(port)
        await wire.receive()
        wire.send(codec.Subscribe(1, [codec.Request(f"f{i}", 0) for i in range(8)]))
        assert (await wire.receive()).reasons == [0] * 8
        for topic in ("/".join("abcdefghi"), "t" * 257):
            wire.send(codec.Publish(topic, b"", 1, packet_id=9))
            found = await wire.receive()
            assert found.reason >= 0x80
            if isinstance(found, codec.Disconnect):
                wire = await Wire.open(port)
                await wire.receive()

    serve(scenario)


def test_random_bytes_harm_nobody_else():
    async def scenario(broker, port):
        good = await Wire.open(port, "good")
        await good.receive()
        good.send(codec.Subscribe(1, [codec.Request("t", 1)]))
        await good.receive()
        chance = random.Random(7)
        for index in range(60):
            if index % 2:
                wire = await Wire.open(port, f"rubbish-{index}")
            else:
                wire = Wire(*await asyncio.open_connection("127.0.0.1", port), V5)
            wire.send(chance.randbytes(chance.randrange(1, 200)))
            wire.writer.write_eof()
            await asyncio.wait_for(wire.reader.read(), 20)
        good.send(codec.Publish("t", b"still here", 1, packet_id=5))
        got = [await good.receive(), await good.receive()]
        assert {type(packet) for packet in got} == {codec.Ack, codec.Publish}

    serve(scenario)


@pytest.mark.parametrize("version", [V311, V5])
def test_a_client_that_resets_its_connection_while_it_is_refused(version):
    async def scenario(broker, port):
        linger = struct.pack("ii", 1, 0)
        for index in range(50):
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                raw.sendall(codec.encode(codec.Connect(f"c{index}", version), version) + b"\x00\x00" * 20)
            await asyncio.sleep(0)
        good = await Wire.open(port, "good", version)
        assert (await good.receive()).reason == 0

    serve(scenario)


def test_a_link_that_was_reset_before_we_close_it():
    class Reset:
        def __init__(self):
            self.calls = []

        def is_closing(self):
            return False

        def can_write_eof(self):
            return True

        def write_eof(self):
            raise OSError(107, "Transport endpoint is not connected")

        def abort(self):
            self.calls.append("abort")

    link = SocketLink(SimpleNamespace(is_stopping=False), "mqtt")
    link.transport = Reset()
    link.connection = SimpleNamespace(ended="")
    link.close()
    assert link.transport.calls == ["abort"]


def test_a_subscriber_that_never_reads_is_bounded_and_stops_nobody():
    async def scenario(broker, port):
        stuck = await Wire.open(port, "stuck")
        await stuck.receive()
        stuck.send(codec.Subscribe(1, [codec.Request("flood", 0)]))
        await stuck.receive()
        stuck.writer.transport.pause_reading()
        sender = await Wire.open(port, "sender")
        await sender.receive()
        payload = b"x" * 100_000
        for index in range(1, 401):
            sender.send(codec.Publish("flood", payload, 1, packet_id=index))
            assert (await sender.receive()).packet_id == index

    serve(scenario)
