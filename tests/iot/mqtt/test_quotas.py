"""AWS's quotas on properties, shares and reserved topics, and what a refusal leaves behind."""

import asyncio
import base64
from dataclasses import replace

import pytest

from foreshore.database import MEMORY, Database
from foreshore.iot.mqtt import codec, websocket
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.access import AllowAll, SilentObserver
from foreshore.iot.mqtt.codec import V5, V311, Ack, Publish, Request, Subscribe, Will
from foreshore.iot.mqtt.limits import AWS, is_answer
from foreshore.seams import Publication
from tests.iot.mqtt.test_state_clauses import ask, gone, join, listen, say, silent, timed
from tests.iot.mqtt.wire import Wire, serve

JUST = {
    "user": {p.USER_PROPERTY: [("k" * 2, "v" * 8000), ("é" * 5, "v" * 180)]},
    "correlation": {p.CORRELATION_DATA: bytes(8192)},
    "content type": {p.CONTENT_TYPE: "é" * 128},
}
TOO_MUCH = {
    "user": {p.USER_PROPERTY: [("k" * 2, "v" * 8000), ("é" * 6, "v" * 180)]},
    "correlation": {p.CORRELATION_DATA: bytes(8193)},
    "content type": {p.CONTENT_TYPE: "é" * 128 + "x"},
}


@pytest.mark.parametrize("kind", JUST)
def test_the_sizes_of_properties(kind):
    async def scenario(broker, port):
        wire = await join(port, "a")
        for told, code in ((JUST, 0), (TOO_MUCH, 0x97)):
            assert (await ask(wire, Publish("t", b"", 1, packet_id=1, properties=told[kind]))).reason == code
        await silent(wire)
        await join(port, "b", will=Will("w", b"", properties=JUST[kind]))
        await join(port, "c", expect=0x97, will=Will("w", b"", properties=TOO_MUCH[kind]))

    serve(scenario)


def test_the_standard_has_no_such_sizes():
    async def scenario(broker, port):
        wire = await join(port, "a")
        for told in TOO_MUCH.values():
            assert (await ask(wire, Publish("t", b"", 1, packet_id=1, properties=told))).reason == 0

    serve(scenario, profile="standard")


THING = "$aws/things/pump"


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (f"{THING}/shadow/update", False),
        (f"{THING}/shadow/get/accepted", True),
        (f"{THING}/shadow/update/delta", True),
        (f"{THING}/shadow/update/documents", True),
        (f"{THING}/shadow/get/delta", False),
        (f"{THING}/shadow/name/accepted/update", False),
        (f"{THING}/shadow/name/n/delete/rejected", True),
        (f"{THING}/jobs/get", False),
        (f"{THING}/jobs/get/accepted", True),
        (f"{THING}/jobs/$next/get/rejected", True),
        (f"{THING}/jobs/one/update", False),
        (f"{THING}/jobs/notify-next", True),
        (f"{THING}/tunnels/notify", True),
        (f"{THING}/defender/metrics/json", False),
        (f"{THING}/defender/metrics/json/rejected", True),
        (f"{THING}/streams/s/get/json", False),
        (f"{THING}/streams/s/data/cbor", True),
        ("$aws/certificates/create/json", False),
        ("$aws/certificates/create-from-csr/cbor/accepted", True),
        ("$aws/provisioning-templates/t/provision/json", False),
        ("$aws/provisioning-templates/t/provision/json/rejected", True),
        ("$aws/commands/things/pump/executions/e/response/json", False),
        ("$aws/commands/things/pump/executions/e/request/json", True),
        ("$aws/commands/things/pump/executions/e/response/accepted/json", True),
    ],
)
def test_topics_that_the_service_alone_publishes_to(topic, expected):
    assert is_answer(topic) is expected

    async def scenario(broker, port):
        wire, old = await join(port, "a"), await join(port, "b", V311)
        assert (await ask(wire, Publish(topic, b"", 1, packet_id=1))).reason == (0x90 if expected else 0)
        answer = await ask(old, Publish(topic, b"", 1, packet_id=1))
        assert (answer is None) is expected

    serve(scenario)


def test_a_share_group_has_a_hundred_members_and_an_account_a_hundred_groups():
    assert (AWS.max_share_members, AWS.max_share_groups) == (100, 100)

    async def scenario(broker, port):
        wires = [await join(port, name) for name in "abc"]

        async def share(wire, name):
            return (await ask(wire, Subscribe(1, [Request(f"$share/{name}/t", 1)]))).reasons[0]

        assert [await share(wire, "one") for wire in wires] == [1, 1, 0x97]
        assert await share(wires[0], "one") == 1  # Again is no new member.
        assert [await share(wires[2], name) for name in ("two", "three")] == [1, 0x97]
        await gone(wires[1], broker, "b")
        assert await share(wires[2], "one") == 1
        await ask(wires[2], codec.Unsubscribe(2, ["$share/two/t"]))
        assert await share(wires[0], "three") == 1

    serve(scenario, limits=replace(AWS, max_share_members=2, max_share_groups=2))


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("profile", ["aws", "standard"])
def test_what_a_member_that_leaves_did_not_acknowledge_goes_to_another(version, profile):
    """Sent ones and those that waited for its window, in order; messages that were its own are forgotten."""

    async def scenario(clock, port):
        more = {"properties": {p.RECEIVE_MAXIMUM: 2}} if version == V5 else {}
        first = await join(port, "first", version, **more)
        await listen(first, "$share/g/t", "own")
        other = await join(port, "other")
        await say(other, "own")
        for payload in (b"1", b"2", b"3"):
            await say(other, "t", payload)
        second = await join(port, "second")
        await listen(second, "$share/g/t")
        await gone(first, clock.broker, "first")
        assert [(await second.receive()).payload for _ in range(3)] == [b"1", b"2", b"3"]
        await silent(second)

    timed(scenario, profile=profile)


def test_what_a_member_took_from_its_own_queue_goes_to_another_as_well():
    async def scenario(clock, port):
        long = {p.SESSION_EXPIRY: 60}
        first = await join(port, "first", properties=long)
        await listen(first, "$share/g/t")
        await gone(first, clock.broker, "first")
        await say(await join(port, "other"), "t", b"1")
        first = await join(port, "first", clean=False, properties=long)
        assert (await first.receive()).payload == b"1"
        second = await join(port, "second")
        await listen(second, "$share/g/t")
        first.send(codec.Disconnect(properties={p.SESSION_EXPIRY: 0}))
        assert (await second.receive()).payload == b"1"
        await silent(second)

    timed(scenario)


def test_a_refused_subscribe_of_3_1_1_leaves_nothing_behind():
    async def scenario(broker, port):
        wire = await join(port, "a", V311, clean=False)
        assert await ask(wire, Subscribe(1, [Request("t", 1), Request("secret/#", 1)])) is None
        await say(await join(port, "b"), "t")
        wire = await join(port, "a", V311, clean=False)
        assert wire.connack.session_present
        await silent(wire)

    serve(scenario)


@pytest.mark.parametrize(("profile", "sent"), [("aws", False), ("standard", True)])
def test_a_websocket_close_is_the_clients_goodbye(profile, sent):
    class Watch(SilentObserver):
        ends: list = []  # noqa: RUF012

        def disconnected(self, client, reason, client_initiated, /):
            if client.client_id == "a":
                self.ends.append((reason, client_initiated))

    watch = Watch()

    async def scenario(broker, port):
        listener = await join(port, "listener")
        await listen(listener, "w")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        key = base64.b64encode(bytes(16)).decode()
        writer.write(
            b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n"
            b"Sec-WebSocket-Key: " + key.encode() + b"\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        connect = codec.encode(codec.Connect("a", V5, True, 60, will=Will("w", b"gone")), V5)
        for opcode, payload in ((websocket.BINARY, connect), (websocket.CLOSE, b"\x03\xe8")):
            writer.write(bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload)
        assert (await reader.read()).endswith(websocket.close_frame(1000))
        writer.close()
        await writer.wait_closed()
        if sent:
            assert (await listener.receive()).payload == b"gone"
        await silent(listener)
        assert watch.ends == [("CLIENT_INITIATED_DISCONNECT", True)]

    serve(scenario, profile=profile, observer=watch)


@pytest.mark.parametrize("durable", [False, True])
def test_receive_is_asked_of_what_waited(durable):
    """Of the queue, and of what was sent and not acknowledged: permission may have gone since."""

    class Fickle(AllowAll):
        denied = ""

        def may_receive(self, identity, topic, /):
            return topic != self.denied

    access = Fickle()
    database = Database(MEMORY, "") if durable else None
    long = {p.SESSION_EXPIRY: 3000}

    async def before(broker, port):
        wire = await join(port, "a", properties=long)
        await listen(wire, "kept", "lost")
        other = await join(port, "b")
        await say(other, "lost", b"sent")
        await wire.receive()
        await gone(wire, broker, "a")
        for topic in ("lost", "kept"):
            await say(other, topic, b"queued")

    async def after(broker, port):
        wire = await join(port, "a", clean=False, properties=long)
        assert (await wire.receive()).payload == b"queued"
        await silent(wire)
        await gone(wire, broker, "a")
        access.denied = ""
        wire = await join(port, "a", clean=False, properties=long)
        assert (await wire.receive()).topic == "kept"  # What was dropped is gone for good.
        await silent(wire)

    async def both(broker, port):
        await before(broker, port)
        access.denied = "lost"
        await after(broker, port)

    if not durable:
        serve(both, access=access)
        return
    serve(before, access=access, database=database)
    access.denied = "lost"
    serve(after, access=access, database=database)
    database.close()


def test_a_broker_that_stops_says_so():
    async def scenario(broker, port):
        wires = [await join(port, f"c{version}", version) for version in (V311, V5)]
        unfinished = await Wire.open(port, "x")
        await unfinished.receive()
        await broker.stop()
        assert await wires[0].receive() is None
        assert (await wires[1].receive()).reason == 0x8B
        assert await wires[1].receive() is None

    serve(scenario)


async def stored(clock, port, count, version=V5, filter="t", **options):
    """Fill the queue of an absent client `a`; give its new connection."""
    more = {"clean": False} if version == V311 else {"properties": {p.SESSION_EXPIRY: 1000}, "clean": False}
    wire = await join(port, "a", version, **more)
    await listen(wire, filter)
    await gone(wire, clock.broker, "a")
    service = clock.broker
    for number in range(count):
        service.publish(Publication("t", b"%d" % number, 1))
    clock.pass_time(2)
    return await join(port, "a", version, **more)


async def numbers(wire, count):
    """Take and acknowledge so many messages, and see that no more come."""
    found = []
    for _ in range(count):
        message = await wire.receive()
        found.append(int(message.payload))
        wire.send(Ack(p.PUBACK, message.packet_id))
    await silent(wire)
    return found


@pytest.mark.parametrize("version", [V311, V5])
def test_stored_messages_come_at_a_pace_and_live_ones_at_once(version):
    async def scenario(clock, port):
        wire = await stored(clock, port, 25, version)
        assert await numbers(wire, 10) == list(range(10))
        clock.broker.publish(Publication("t", b"100", 1))
        assert await numbers(wire, 1) == [100]
        clock.pass_time(2)
        assert await numbers(wire, 10) == list(range(10, 20))
        clock.pass_time(2)
        clock.broker.publish(Publication("t", b"101", 1))
        assert await numbers(wire, 6) == [*range(20, 25), 101]
        clock.pass_time(2)
        await silent(wire)
        for number in range(30):
            clock.broker.publish(Publication("t", b"%d" % number, 1))
        assert await numbers(wire, 30) == list(range(30))

    timed(scenario, rate_limits=True, database=Database(MEMORY, ""))


def test_what_was_not_replayed_is_there_for_the_next_connection():
    async def scenario(clock, port):
        wire = await stored(clock, port, 15)
        assert await numbers(wire, 10) == list(range(10))
        clock.broker.publish(Publication("t", b"100", 1))
        assert await numbers(wire, 1) == [100]
        await gone(wire, clock.broker, "a")
        clock.pass_time(2)
        again = await join(port, "a", properties={p.SESSION_EXPIRY: 1000}, clean=False)
        assert await numbers(again, 5) == list(range(10, 15))

    timed(scenario, rate_limits=True)


@pytest.mark.parametrize("options", [{"rate_limits": False}, {"profile": "standard", "rate_limits": True}])
def test_without_rates_stored_messages_come_at_once(options):
    async def scenario(clock, port):
        assert await numbers(await stored(clock, port, 60), 60) == list(range(60))

    timed(scenario, **options)


def test_a_full_window_holds_live_messages_back_behind_the_stored():
    async def scenario(clock, port):
        wire = await stored(clock, port, 12)
        first = [await wire.receive() for _ in range(2)]
        assert [int(one.payload) for one in first] == [0, 1]
        for number in range(100, 103):
            clock.broker.publish(Publication("t", b"%d" % number, 1))
        await silent(wire)
        for one in first:
            wire.send(Ack(p.PUBACK, one.packet_id))
        assert await numbers(wire, 13 - 2) == [*range(2, 10), 100, 101, 102]
        clock.pass_time(2)
        assert await numbers(wire, 2) == [10, 11]

    timed(scenario, rate_limits=True, limits=replace(AWS, send_window=2))


def test_what_waited_for_a_share_group_comes_at_twenty_a_second():
    async def scenario(clock, port):
        absent = await join(port, "absent", V311, clean=False)
        await listen(absent, "$share/g/t")
        await gone(absent, clock.broker, "absent")
        for number in range(50):
            clock.broker.publish(Publication("t", b"%d" % number, 1))
        wire = await join(port, "b")
        await listen(wire, "$share/g/t")
        assert await numbers(wire, 20) == list(range(20))
        clock.pass_time(2)
        assert await numbers(wire, 20) == list(range(20, 40))
        clock.pass_time(2)
        assert await numbers(wire, 10) == list(range(40, 50))

    timed(scenario, rate_limits=True)


def test_what_still_waits_for_a_share_group_goes_to_the_next_member():
    async def scenario(clock, port):
        absent = await join(port, "absent", V311, clean=False)
        await listen(absent, "$share/g/t")
        await gone(absent, clock.broker, "absent")
        for number in range(30):
            clock.broker.publish(Publication("t", b"%d" % number, 1))
        first = await join(port, "first")
        await listen(first, "$share/g/t")
        assert await numbers(first, 20) == list(range(20))
        await gone(first, clock.broker, "first")
        clock.pass_time(2)
        second = await join(port, "second")
        await listen(second, "$share/g/t")
        assert await numbers(second, 10) == list(range(20, 30))

    timed(scenario, rate_limits=True)
