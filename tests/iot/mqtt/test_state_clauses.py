"""MQTT's normative statements that need time, a second client or a second connection; the clock is the test's own."""

import asyncio
from itertools import pairwise

import pytest

from foreshore.database import MEMORY, Database
from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.codec import V5, V311, Ack, Disconnect, Publish, Request, Subscribe, Will
from tests.iot.mqtt.wire import Wire, serve


class Clock:
    """A clock that only `pass_time` moves; the broker's timers run when it does."""

    def __init__(self):
        self.now = 1000.0
        self.broker = None

    def monotonic(self):
        return self.now

    def wall_ns(self):
        return int(self.now * 1e9)

    def pass_time(self, seconds):
        """In steps, as the timer wheel of a running broker sees time pass."""
        self.now += seconds
        self.broker.tick()


def timed(scenario, **options):
    clock = Clock()

    async def run(broker, port):
        clock.broker = broker
        await scenario(clock, port)

    serve(run, clock=clock.monotonic, wall_ns=clock.wall_ns, **options)


async def join(port, client_id, version=V5, expect=0, **more):
    wire = await Wire.open(port, client_id, version, **more)
    wire.connack = await wire.receive()
    assert wire.connack.reason == expect
    return wire


async def ask(wire, packet):
    """Send a packet and give its answer."""
    wire.send(packet)
    return await wire.receive()


async def listen(wire, *requests, ids=None):
    made = [Request(one, 1) if isinstance(one, str) else one for one in requests]
    answer = await ask(wire, Subscribe(1, made, {p.SUBSCRIPTION_ID: [ids]} if ids else {}))
    assert max(answer.reasons) < 3


async def say(wire, topic, payload=b"x", qos=1, retain=False, packet_id=9, **properties):
    numbers = {entry[0]: number for number, entry in p.TABLE.items()}
    found = {numbers[name]: value for name, value in properties.items()}
    wire.send(Publish(topic, payload, qos, retain, packet_id=packet_id if qos else 0, properties=found))
    if qos:
        assert (await wire.receive()).reason in (0, 0x10)


async def silent(wire):
    """Nothing has come: the answer to a ping is the next packet."""
    found = await ask(wire, codec.PINGREQ_BYTES)
    assert isinstance(found, codec.Ping), found


async def gone(wire, broker, client_id):
    """Cut a connection, and wait until the broker knows."""
    await wire.close()
    while (session := broker.sessions.get(client_id)) is not None and session.connection is not None:
        await asyncio.sleep(0)


# Keep-alive (3.1.2.10)


@pytest.mark.parametrize(
    ("profile", "asked", "told", "alive", "dead"),
    [
        ("aws", 5, 30, 44, 46),
        ("aws", 100, 100, 149, 151),
        ("aws", 0, 1200, 1799, 1801),
        ("aws", 5000, 1200, 1799, 1801),
        ("standard", 20, None, 29, 31),
        ("standard", 600, 60, 89, 91),
        ("standard", 0, None, 100_000, None),
    ],
)
@pytest.mark.parametrize("version", [V311, V5])
def test_keep_alive(profile, asked, told, alive, dead, version):
    async def scenario(clock, port):
        wire = await join(port, "a", version, keep_alive=asked)
        if version == V5:
            assert wire.connack.properties.get(p.SERVER_KEEP_ALIVE) == told
        clock.pass_time(alive)
        await silent(wire)  # which also begins the time anew [MQTT-3.1.2-22]
        clock.pass_time(alive)
        await silent(wire)
        if dead is None:
            return
        clock.pass_time(dead)
        if version == V5:
            assert (await wire.receive()).reason == 0x8D
        assert await wire.receive() is None

    timed(scenario, profile=profile)


@pytest.mark.parametrize("early", ["packet", "leave"])
def test_nothing_ends_early_for_what_came_between_two_steps_of_the_clock(early):
    async def scenario(clock, port):
        clock.pass_time(0.1)
        wire = await join(port, "a", keep_alive=20, properties={p.SESSION_EXPIRY: 1})
        clock.now += 0.24
        if early == "packet":
            await silent(wire)
            clock.pass_time(29.9)  # [MQTT-3.1.2-22]
            await silent(wire)
        else:
            await gone(wire, clock.broker, "a")
            clock.pass_time(0.92)
            assert (await join(port, "a", clean=False)).connack.session_present  # [MQTT-3.1.2-23]

    timed(scenario, profile="standard")


@pytest.mark.parametrize("quota", ["connect", "retained"])
def test_a_second_is_a_second_between_two_steps_of_the_clock(quota):
    """The first falls on a step, the next just before another: 1.1 seconds, and three steps, later."""

    async def scenario(clock, port):
        codes = []
        for _ in range(2):
            if quota == "connect":
                wire = await Wire.open(port, "a")
                codes.append((await wire.receive()).reason)
            else:
                wire = await join(port, f"a{len(codes)}")
                codes.append((await ask(wire, Publish("t", b"x", 1, True, packet_id=1))).reason)
            clock.pass_time(0.9)
            clock.now += 0.2
        assert codes == [0, 0]

    timed(scenario, rate_limits=True)


# Wills (3.1.2.5, 3.1.3.2)

END = {
    "cut": (None, True),
    "DISCONNECT": (Disconnect(), False),  # [MQTT-3.1.2-10]
    "DISCONNECT 04": (Disconnect(4), True),
    "DISCONNECT 80": (Disconnect(0x80), True),
    "malformed": (b"\x00\x00", True),  # [MQTT-3.1.2-8]
}


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize("profile", ["aws", "standard"])
def test_when_a_will_is_sent(end, profile):
    async def scenario(clock, port):
        witness = await join(port, "witness")
        await listen(witness, "will")
        wire = await join(port, "a", will=Will("will", b"gone", 1))
        packet, comes = END[end]
        if packet is not None:
            wire.send(packet)
            while await wire.receive() is not None:
                pass
        await gone(wire, clock.broker, "a")
        if comes:
            found = await witness.receive()
            assert (found.topic, found.payload, found.qos, found.retain) == ("will", b"gone", 1, False)
        await silent(witness)

    timed(scenario, profile=profile)


@pytest.mark.parametrize(("delay", "expiry", "due"), [(0, 100, 0), (10, 100, 10), (100, 10, 10), (10, 0, 0)])
def test_a_will_waits_for_its_delay_or_the_sessions_end(delay, expiry, due):
    async def scenario(clock, port):
        witness = await join(port, "witness")
        await listen(witness, "will")
        will = Will("will", b"gone", properties={p.WILL_DELAY: delay, p.CONTENT_TYPE: "x", p.MESSAGE_EXPIRY: 50})
        wire = await join(port, "a", will=will, properties={p.SESSION_EXPIRY: expiry})
        await gone(wire, clock.broker, "a")
        if due:
            clock.pass_time(due - 1)
            await silent(witness)
            clock.pass_time(2)
        found = await witness.receive()
        assert found.properties == {p.CONTENT_TYPE: "x", p.MESSAGE_EXPIRY: 50}

    timed(scenario)


def test_a_will_is_not_sent_when_the_client_is_back_in_time():
    async def scenario(clock, port):
        witness = await join(port, "witness")
        await listen(witness, "will")
        expiry = {p.SESSION_EXPIRY: 100}
        wire = await join(port, "a", will=Will("will", b"", properties={p.WILL_DELAY: 10}), properties=expiry)
        await gone(wire, clock.broker, "a")
        clock.pass_time(5)
        await join(port, "a", clean=False, properties=expiry)
        clock.pass_time(10)
        await silent(witness)  # [MQTT-3.1.3-9]

    timed(scenario)


def test_a_clean_start_sends_the_will_that_waits():
    async def scenario(clock, port):
        witness = await join(port, "witness")
        await listen(witness, "will")
        will = Will("will", b"gone", properties={p.WILL_DELAY: 10})
        wire = await join(port, "a", will=will, properties={p.SESSION_EXPIRY: 100})
        await gone(wire, clock.broker, "a")
        clock.pass_time(2)
        await join(port, "a", clean=True)
        assert (await witness.receive()).payload == b"gone"  # the old session has ended: 3.1.3.2.2

    timed(scenario)


def test_a_retained_will_and_a_takeovers_will():
    async def scenario(clock, port):
        witness = await join(port, "witness")
        await listen(witness, "will")
        first = await join(port, "a", will=Will("will", b"gone", 0, True))
        await join(port, "a")
        assert (await first.receive()).reason == 0x8E  # [MQTT-3.1.4-3]
        assert (await witness.receive()).payload == b"gone"
        late = await join(port, "late")
        await listen(late, "will")
        found = await late.receive()
        assert (found.payload, found.retain) == (b"gone", True)  # [MQTT-3.1.2-17]

    timed(scenario)


# Sessions (3.1.2.4, 3.1.2.11.2, 4.1)


@pytest.mark.parametrize(
    ("profile", "expiry", "last", "kept", "lost"),
    [
        ("aws", 100, None, 99, 101),
        ("aws", 100_000, None, 3599, 3601),
        ("aws", 100, 10, 9, 11),
        ("aws", 100, 0, None, 0),
        ("standard", 100_000, None, 99_999, 100_001),
        ("standard", 0xFFFFFFFF, None, 10_000_000, None),
        ("standard", 10, 0xFFFFFFFF, 10_000_000, None),
    ],
)
def test_session_expiry(profile, expiry, last, kept, lost):
    async def scenario(clock, port):
        async def back(seconds):
            wire = await join(port, "a", clean=False, properties={p.SESSION_EXPIRY: expiry})
            end = Disconnect(0, {} if last is None else {p.SESSION_EXPIRY: last})
            wire.send(end)
            assert await wire.receive() is None
            clock.pass_time(seconds)
            again = await join(port, "a", clean=False)
            return again.connack.session_present

        if kept is not None:
            assert await back(kept)
        if lost is not None:
            assert not await back(lost)

    timed(scenario, profile=profile)


def test_the_timer_of_an_earlier_leave_does_not_end_a_session():
    async def scenario(clock, port):
        for expiry in (1, 60):  # Both leaves fall into one step of the clock.
            wire = await join(port, "a", clean=False, properties={p.SESSION_EXPIRY: expiry})
            await gone(wire, clock.broker, "a")
        clock.pass_time(30)
        assert (await join(port, "a", clean=False)).connack.session_present

    timed(scenario)


def test_the_connack_tells_a_clamped_session_expiry():
    async def scenario(clock, port):
        wire = await join(port, "a", properties={p.SESSION_EXPIRY: 9999})
        assert wire.connack.properties[p.SESSION_EXPIRY] == 3600

    timed(scenario)


def test_a_3_1_1_session_lives_for_an_hour_with_aws():
    async def scenario(clock, port):
        wire = await join(port, "a", V311, clean=False)
        await listen(wire, "t")
        await gone(wire, clock.broker, "a")
        clock.pass_time(3599)
        wire = await join(port, "a", V311, clean=False)
        assert wire.connack.session_present  # [MQTT-3.2.2-2]
        await gone(wire, clock.broker, "a")
        clock.pass_time(3601)
        wire = await join(port, "a", V311, clean=False)
        assert not wire.connack.session_present

    timed(scenario)


def test_a_takeover_keeps_the_session_and_a_clean_start_does_not():
    async def scenario(clock, port):
        expiry = {p.SESSION_EXPIRY: 60}
        first = await join(port, "a", properties=expiry)
        await listen(first, "t")
        second = await join(port, "a", clean=False, properties=expiry)
        assert second.connack.session_present
        await say(await join(port, "b"), "t")
        assert (await second.receive()).topic == "t"
        third = await join(port, "a", clean=True)
        assert not third.connack.session_present  # [MQTT-3.1.2-4]
        await say(await join(port, "b"), "t")
        await silent(third)

    timed(scenario)


def test_what_was_not_acknowledged_comes_again_in_order():
    async def scenario(clock, port):
        wire = await join(port, "a", V311, clean=False)
        await listen(wire, "t")
        other = await join(port, "b")
        for payload in b"123":
            await say(other, "t", bytes([payload]))
        first = [await wire.receive() for _ in range(3)]
        assert [one.payload for one in first] == [b"1", b"2", b"3"]
        await ask(wire, Ack(4, first[1].packet_id) and codec.encode(Ack(4, first[1].packet_id), 4) + b"\xc0\0")
        await gone(wire, clock.broker, "a")
        await say(other, "t", b"4")
        again = await join(port, "a", V311, clean=False)
        found = [await again.receive() for _ in range(3)]
        assert [one.payload for one in found] == [b"1", b"3", b"4"]  # [MQTT-4.6.0-1]
        assert [one.packet_id for one in found[:2]] == [first[0].packet_id, first[2].packet_id]  # [MQTT-4.4.0-1]
        assert [one.dup for one in found] == [True, True, False]  # [MQTT-3.3.1-1]

    timed(scenario, profile="standard")


def test_aws_redelivers_within_an_hour_and_sixteen_minutes():
    async def scenario(clock, port):
        other = await join(port, "b")
        for version, within in ((V311, 3600), (V5, 960)):
            properties = {p.SESSION_EXPIRY: 3600} if version == V5 else {}
            for wait, comes in ((within - 10, True), (within + 10, False)):
                name = f"a{version}{wait}"
                wire = await join(port, name, version, clean=False, properties=properties)
                await listen(wire, "t")
                await say(other, "t")
                assert (await wire.receive()).topic == "t"
                clock.pass_time(wait)
                # The session is left only now, so that it has not expired.
                await gone(wire, clock.broker, name)
                wire = await join(port, name, version, clean=False, properties=properties)
                assert wire.connack.session_present
                if comes:
                    assert not (await wire.receive()).dup  # AWS: "DUP unsupported"
                else:
                    await silent(wire)
                await gone(wire, clock.broker, name)
                clock.broker.forget(name)
                other = await join(port, "b")

    timed(scenario, database=Database(MEMORY, ""))


# Message expiry (3.3.2.3.3)


@pytest.mark.parametrize(
    ("profile", "expiry", "wait", "left"),
    [
        ("aws", 100, 40, 60),
        ("aws", 100, 101, None),
        ("aws", 0, 0, 1),
        ("aws", 700_000, 0, 604_800),
        ("standard", 700_000, 0, 700_000),
        ("standard", 100, 100, None),
    ],
)
@pytest.mark.parametrize("kept", ["queued", "retained"])
def test_message_expiry(profile, expiry, wait, left, kept):
    async def scenario(clock, port):
        long = {p.SESSION_EXPIRY: 3000}
        if kept == "queued":
            wire = await join(port, "a", properties=long)
            await listen(wire, "t")
            await gone(wire, clock.broker, "a")
        await say(await join(port, "b"), "t", retain=kept == "retained", message_expiry=expiry)
        clock.pass_time(wait)
        wire = await join(port, "a", clean=False, properties=long)
        if kept == "retained":
            await listen(wire, "t")
        if left is None:
            await silent(wire)  # [MQTT-3.3.2-5]
        else:
            assert (await wire.receive()).properties[p.MESSAGE_EXPIRY] == left  # [MQTT-3.3.2-6]

    timed(scenario, profile=profile)


def test_expiry_counts_for_a_3_1_1_subscriber_too():
    async def scenario(clock, port):
        wire = await join(port, "a", V311, clean=False)
        await listen(wire, "t")
        await gone(wire, clock.broker, "a")
        other = await join(port, "b")
        await say(other, "t", b"old", message_expiry=10)
        await say(other, "t", b"new", message_expiry=100)
        clock.pass_time(50)
        wire = await join(port, "a", V311, clean=False)
        assert (await wire.receive()).payload == b"new"

    timed(scenario)


# Topic aliases, flow control, packet sizes (3.3.2.3.4, 4.9, 3.1.2.11)


def test_the_broker_sends_aliases_as_far_as_the_client_takes_them():
    async def scenario(clock, port):
        wire = await join(port, "a", properties={p.TOPIC_ALIAS_MAXIMUM: 1})
        await listen(wire, "#")
        other = await join(port, "b")
        for topic in ("one", "one", "two"):
            await say(other, topic, qos=0)
        await silent(other)
        found = [await wire.receive() for _ in range(3)]
        assert [(one.topic, one.properties.get(p.TOPIC_ALIAS)) for one in found] == [
            ("one", 1),
            ("", 1),
            ("two", None),
        ]  # fmt: skip  [MQTT-3.1.2-26]

    timed(scenario, profile="standard")


def test_the_clients_receive_maximum_holds_back_qos_1_alone():
    async def scenario(clock, port):
        wire = await join(port, "a", properties={p.RECEIVE_MAXIMUM: 2})
        await listen(wire, "t")
        other = await join(port, "b")
        for payload in b"1234":
            await say(other, "t", bytes([payload]))
        await say(other, "t", b"0", qos=0)
        found = [await wire.receive() for _ in range(3)]
        assert [one.payload for one in found] == [b"1", b"2", b"0"]  # [MQTT-3.3.4-9] [MQTT-3.3.4-10]
        await silent(wire)
        wire.send(Ack(4, found[0].packet_id))
        assert (await wire.receive()).payload == b"3"

    timed(scenario)


def test_awss_window_is_100():
    async def scenario(clock, port):
        wire = await join(port, "a")
        await listen(wire, "t")
        other = await join(port, "b")
        for _ in range(101):
            await say(other, "t")
        for _ in range(100):
            assert (await wire.receive()).topic == "t"
        await silent(wire)

    timed(scenario)


def test_a_client_that_passes_the_brokers_receive_maximum():
    async def scenario(clock, port):
        wire = await join(port, "a")
        most = wire.connack.properties[p.RECEIVE_MAXIMUM]
        for packet_id in range(1, most + 2):
            wire.send(Publish("t", b"", 2, packet_id=packet_id))
        answers = [await wire.receive() for _ in range(most + 1)]
        assert answers[-1] == Disconnect(0x93, answers[-1].properties)  # [MQTT-3.3.4-7]

    timed(scenario, profile="standard")


@pytest.mark.parametrize("qos", [0, 1])
def test_a_packet_greater_than_the_client_takes_is_left_out(qos):
    async def scenario(clock, port):
        wire = await join(port, "a", properties={p.MAXIMUM_PACKET: 50})
        await listen(wire, Request("t", qos))
        other = await join(port, "b")
        await say(other, "t", b"x" * 60)
        await say(other, "t", b"small")
        assert (await wire.receive()).payload == b"small"  # [MQTT-3.1.2-24] [MQTT-3.1.2-25]

    timed(scenario)


@pytest.mark.parametrize(("most", "told"), [(0, True), (12, False), (100, True)])
def test_a_reason_string_is_left_out_when_it_exceeds_what_the_client_takes(most, told):
    async def scenario(clock, port):
        wire = await join(port, "a", properties={p.MAXIMUM_PACKET: most} if most else {})
        answer = await ask(wire, codec.Connect("a", V5, True, 60))
        assert (answer.reason, p.REASON_STRING in answer.properties) == (0x82, told)  # [MQTT-3.14.2-3]

    timed(scenario)


# What goes through unchanged (3.3.2.3, 4.10)


def test_properties_go_through_unchanged_and_in_order():
    async def scenario(clock, port):
        pairs = [("b", "1"), ("a", "2"), ("b", "0"), ("b", "1"), ("", "")]
        told = {
            p.PAYLOAD_FORMAT: 1, p.CONTENT_TYPE: "text/plain", p.RESPONSE_TOPIC: "answers/1",
            p.CORRELATION_DATA: b"\0\xff", p.USER_PROPERTY: pairs,
        }  # fmt: skip
        requester, responder = await join(port, "requester"), await join(port, "responder")
        old = await join(port, "old", V311)
        for wire, filter in ((responder, "ask"), (requester, "answers/1"), (old, "ask")):
            await listen(wire, filter)
        requester.send(Publish("ask", b"?", 0, properties=told))
        request = await responder.receive()
        assert request.properties == told  # [MQTT-3.3.2-4/15/16/17/18/20]
        assert (await old.receive()).payload == b"?"
        data = {p.CORRELATION_DATA: request.properties[p.CORRELATION_DATA]}
        responder.send(Publish(request.properties[p.RESPONSE_TOPIC], b"!", 0, properties=data))
        assert (await requester.receive()).properties == data

    timed(scenario)


# Subscriptions (3.8, 3.3.1.3, 4.8.2)


@pytest.mark.parametrize(("handling", "first", "second"), [(0, True, True), (1, True, False), (2, False, False)])
def test_retain_handling(handling, first, second):
    async def scenario(clock, port):
        await say(await join(port, "b"), "t", b"kept", retain=True)
        wire = await join(port, "a")
        for comes in (first, second):
            await listen(wire, Request("t", 1, retain_handling=handling))
            if comes:
                assert (await wire.receive()).retain  # [MQTT-3.3.1-8..11]
            await silent(wire)

    timed(scenario)


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("retain", [False, True])
def test_retain_as_published(as_published, retain):
    async def scenario(clock, port):
        wire = await join(port, "a")
        await listen(wire, Request("t", 1, retain_as_published=as_published))
        await say(await join(port, "b"), "t", retain=retain)
        assert (await wire.receive()).retain == (as_published and retain)  # [MQTT-3.3.1-12] [MQTT-3.3.1-13]

    timed(scenario)


@pytest.mark.parametrize(
    ("profile", "filter", "comes"),
    [("aws", "a/b", True), ("aws", "a/+", False), ("aws", "#", False), ("aws", "$share/g/a/b", False),
     ("standard", "a/+", True), ("standard", "#", True), ("standard", "$share/g/a/b", False)],
)  # fmt: skip
def test_which_filters_get_retained_messages(profile, filter, comes):
    async def scenario(clock, port):
        other = await join(port, "b")
        await say(other, "a/b", b"first", retain=True)
        clock.pass_time(2)
        await say(other, "a/b", b"kept", retain=True)
        for version in (V311, V5):
            wire = await join(port, "a", version)
            await listen(wire, filter)
            if comes:
                found = await wire.receive()
                assert (found.payload, found.retain) == (b"kept", True)  # [MQTT-3.3.1-5]
            await silent(wire)
        clock.pass_time(2)
        await say(other, "a/b", b"", retain=True)
        wire = await join(port, "a")
        await listen(wire, filter)
        await silent(wire)  # [MQTT-3.3.1-6] [MQTT-3.3.1-7]

    timed(scenario, profile=profile)


def test_no_local():
    async def scenario(clock, port):
        wire, other = await join(port, "a"), await join(port, "b")
        await listen(wire, Request("t", 1, no_local=True), Request("u", 1))
        await say(wire, "t", qos=0)
        await silent(wire)  # [MQTT-3.8.3-3]
        await say(wire, "u", qos=0)
        assert (await wire.receive()).topic == "u"
        await say(other, "t")
        assert (await wire.receive()).topic == "t"

    timed(scenario)


def test_a_filter_with_no_local_adds_nothing_to_a_clients_own_message():
    async def scenario(clock, port):
        wire, other = await join(port, "a"), await join(port, "b")
        await listen(wire, Request("t", 1, no_local=True), ids=1)
        await listen(wire, Request("#", 0), ids=2)
        wire.send(Publish("t", b"x", 1, packet_id=9))
        [own] = [each for each in (await wire.receive(), await wire.receive()) if isinstance(each, Publish)]
        assert (own.qos, own.properties[p.SUBSCRIPTION_ID]) == (0, [2])  # [MQTT-3.8.3-3] [MQTT-3.3.4-4]
        await say(other, "t", qos=1)
        found = await wire.receive()
        assert (found.qos, found.properties[p.SUBSCRIPTION_ID]) == (1, [1, 2])

    timed(scenario, profile="standard")


def test_a_new_subscription_replaces_the_old_one():
    async def scenario(clock, port):
        wire = await join(port, "a")
        await listen(wire, Request("t", 1))
        await listen(wire, Request("t", 0))
        await say(await join(port, "b"), "t")
        assert (await wire.receive()).qos == 0  # [MQTT-3.8.4-3] [MQTT-3.8.4-8]
        await silent(wire)

    timed(scenario)


def test_overlapping_filters_give_one_copy_with_every_identifier():
    async def scenario(clock, port):
        wire = await join(port, "a")
        await listen(wire, Request("a/#", 2), ids=7)
        await listen(wire, Request("a/+", 0), ids=300_000)
        await say(await join(port, "b"), "a/b")
        found = await wire.receive()
        assert found.qos == 1  # [MQTT-3.3.4-2]
        assert sorted(found.properties[p.SUBSCRIPTION_ID]) == [7, 300_000]  # [MQTT-3.3.4-3..5]
        await silent(wire)

    timed(scenario, profile="standard")


@pytest.mark.parametrize("version", [V311, V5])
def test_a_share_group_gives_each_message_to_one_member(version):
    async def scenario(clock, port):
        members = [await join(port, f"m{number}", version) for number in range(3)]
        if version == V5:
            members.append(await join(port, "limited", properties={p.MAXIMUM_PACKET: 1000}))
        for wire in members:
            await listen(wire, "$share/g/t")
        alone = await join(port, "alone")
        await listen(alone, "$share/other/t")
        other = await join(port, "b")
        for number in range(80):
            await say(other, "t", b"%d" % number, qos=0)
        await silent(other)
        got = []
        for wire in members:
            wire.send(codec.PINGREQ_BYTES)
            mine = []
            while isinstance(packet := await wire.receive(), Publish):
                mine.append(int(packet.payload))
            assert mine  # chance of an empty hand among 80: less than 1 in 10^9
            assert all(one < two for one, two in pairwise(mine))
            got += mine
        assert sorted(got) == list(range(80))  # [MQTT-4.8.2-4]
        assert [int((await alone.receive()).payload) for _ in range(80)] == list(range(80))

    timed(scenario)


def test_a_share_group_queues_for_a_persistent_member_alone():
    async def scenario(clock, port):
        for version, clean in ((V311, False), (V311, True)):
            wire = await join(port, "a", version, clean=clean)
            await listen(wire, "$share/g/t")
            await gone(wire, clock.broker, "a")
            other = await join(port, "b")
            await say(other, "t", b"1")
            await say(other, "t", b"0", qos=0)
            again = await join(port, "a", version, clean=clean)
            assert again.connack.session_present == (not clean)
            if not clean:
                assert (await again.receive()).payload == b"1"
            await silent(again)
            await gone(again, clock.broker, "a")

    timed(scenario)


@pytest.mark.parametrize("durable", [False, True])
def test_what_waits_for_a_member_goes_to_another_that_comes(durable):
    async def scenario(clock, port):
        first = await join(port, "first", V311, clean=False)
        await listen(first, "$share/g/t")
        await gone(first, clock.broker, "first")
        await say(await join(port, "b"), "t", b"waits")
        second = await join(port, "second", V311)
        await listen(second, "$share/g/t")
        assert (await second.receive()).payload == b"waits"
        again = await join(port, "first", V311, clean=False)
        await silent(again)

    timed(scenario, **({"database": Database(MEMORY, "")} if durable else {}))


def test_what_waits_for_a_member_whose_session_ends_goes_to_another():
    async def scenario(clock, port):
        short, long = {p.SESSION_EXPIRY: 10}, {p.SESSION_EXPIRY: 1000}
        for name, expiry in (("short", short), ("long", long)):
            wire = await join(port, name, properties=expiry)
            await listen(wire, "$share/g/t")
            await gone(wire, clock.broker, name)
        other = await join(port, "b")
        for number in range(20):
            await say(other, "t", b"%d" % number)
        clock.pass_time(11)
        wire = await join(port, "long", clean=False)
        assert {int((await wire.receive()).payload) for _ in range(20)} == set(range(20))
        await silent(wire)

    timed(scenario)


# Client identifiers


def test_assigned_client_identifiers_are_unique_and_usable():
    async def scenario(clock, port):
        names = set()
        for _ in range(3):
            wire = await join(port, "")
            names.add(wire.connack.properties[p.ASSIGNED_CLIENT_ID])  # [MQTT-3.2.2-16]
        assert len(names) == 3
        again = await join(port, names.pop())
        assert p.ASSIGNED_CLIENT_ID not in again.connack.properties
        for clean in (True,):
            assert not (await join(port, "", V311, clean=clean)).connack.session_present

    timed(scenario)


# AWS's quotas on rates and counts ("AWS IoT Core endpoints and quotas")


@pytest.mark.parametrize("version", [V311, V5])
def test_a_hundred_publishes_a_second(version):
    async def scenario(clock, port):
        wire, witness = await join(port, "a", version), await join(port, "witness")
        await listen(witness, Request("t", 0))
        clock.pass_time(5)
        for packet_id in range(1, 103):
            wire.send(Publish("t", b"", 1, packet_id=packet_id))
        wire.send(codec.PINGREQ_BYTES)
        answers = []
        while not isinstance(packet := await wire.receive(), codec.Ping):
            answers.append((packet.packet_id, packet.reason))
        beyond = [(101, 0x97), (102, 0x97)] if version == V5 else []
        assert answers == [(number, 0) for number in range(1, 101)] + beyond
        for _ in range(100):
            assert isinstance(await witness.receive(), Publish)
        await silent(witness)  # discarded, not delayed
        clock.pass_time(1)
        await say(wire, "t")

    timed(scenario, rate_limits=True)


@pytest.mark.parametrize("version", [V311, V5])
def test_one_connect_a_second_and_client_id(version):
    async def scenario(clock, port):
        first = await join(port, "a", version)
        again = await Wire.open(port, "a", version)
        answer = await again.receive()
        assert answer is None if version == V311 else answer.reason == 0x97
        await silent(first)
        await join(port, "b", version)
        clock.pass_time(1)
        await join(port, "a", version)

    timed(scenario, rate_limits=True)


@pytest.mark.parametrize("version", [V311, V5])
def test_one_retained_write_a_second_and_topic(version):
    async def scenario(clock, port):
        wire = await join(port, "a", version)
        for topic, payload in (("t", b"1"), ("t", b"2"), ("u", b"1")):
            wire.send(Publish(topic, payload, 1, True, packet_id=len(payload) + ord(topic)))
        wire.send(codec.PINGREQ_BYTES)
        reasons = []
        while not isinstance(packet := await wire.receive(), codec.Ping):
            reasons.append(packet.reason)
        assert reasons == ([0, 0x97, 0] if version == V5 else [0, 0])
        assert clock.broker.retained("t").payload == b"1"
        clock.pass_time(1)
        await say(wire, "t", b"3", retain=True)
        assert clock.broker.retained("t").payload == b"3"

    timed(scenario, rate_limits=True)


@pytest.mark.parametrize(("version", "code"), [(V311, 0x80), (V5, 0x97)])
def test_fifty_subscriptions_a_connection(version, code):
    async def scenario(clock, port):
        wire = await join(port, "a", version)
        for number in range(50):
            await listen(wire, f"t/{number}")
        assert (await ask(wire, Subscribe(2, [Request("one/more", 0)]))).reasons == [code]
        await listen(wire, "t/7")  # to replace one is no more
        wire.send(codec.Unsubscribe(3, ["t/8"]))
        assert (await wire.receive()).packet_id == 3
        await listen(wire, "one/more")

    timed(scenario)


def test_a_connection_reads_no_more_than_half_a_megabyte_a_second():
    async def scenario(clock, port):
        wire = await join(port, "a")
        for packet_id in range(1, 12):
            wire.send(Publish("t", bytes(100_000), 1, packet_id=packet_id))
        for packet_id in range(1, 12):
            reading = asyncio.ensure_future(wire.receive())
            while not reading.done():
                clock.pass_time(1)  # It is delayed, not refused.
                await asyncio.sleep(0)
            assert (reading.result().packet_id, reading.result().reason) == (packet_id, 0)

    timed(scenario, rate_limits=True)
