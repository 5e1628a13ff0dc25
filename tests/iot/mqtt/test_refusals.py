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


def test_one_clients_flood_of_subscriptions_waits_for_the_others_turns():
    """Eight filters at a time, and topics that are new each: all are answered, in order, and others in between."""
    count = 300
    filters = [codec.Request(f"f/{number}", 0) for number in range(8)]

    async def scenario(broker, port):
        flood, other = await Wire.open(port, "flood"), await Wire.open(port, "other")
        for wire in (flood, other):
            await wire.receive()
        packets = [codec.Subscribe(number, filters) for number in range(1, count)]
        packets += [codec.Publish(f"t/{number}", b"", 1, packet_id=number) for number in range(count, 2 * count)]
        flood.send(b"".join(codec.encode(packet, V5) for packet in packets))
        other.send(codec.PINGREQ_BYTES)
        await other.receive()
        assert len(flood.reader._buffer) < 4 * count  # Most answers are still to come.
        for number in range(1, 2 * count):
            assert (await flood.receive()).packet_id == number

    serve(scenario)


def test_pings_of_a_websocket_that_reads_no_pongs_are_bounded():
    async def scenario(broker, port):
        loop = asyncio.get_running_loop()
        client = socket.socket()
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        with client:
            await loop.sock_sendall(
                client,
                b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            )
            assert (await loop.sock_recv(client, 12)) == b"HTTP/1.1 101"
            pings = (b"\x89\xfd" + bytes(4) + bytes(125)) * 1000
            taken = refused = 0
            while refused < 200 and taken < 50_000_000:
                try:
                    taken += client.send(pings)
                    refused = 0
                except BlockingIOError:
                    refused += 1
                await asyncio.sleep(0)
            assert taken < 50_000_000

    serve(scenario)
