"""One table of packets drives both directions; anything else is a PeerError and never more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.errors import PeerError
from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.codec import V5, V311, Splitter, decode, encode

WILL = codec.Will("w/t", b"gone", 1, True)
PROPERTIES = {p.CONTENT_TYPE: "x/y", p.USER_PROPERTY: [("a", "b"), ("a", "c")], p.MESSAGE_EXPIRY: 9}

# (what, version, packet, bytes on the wire)
PACKETS = [
    ("connect", V311, codec.Connect("a", V311, True, 60), "100d00044d5154540402003c000161"),
    ("connect 5", V5, codec.Connect("a", V5, True, 60), "100e00044d5154540502003c00000161"),
    (
        "connect with everything", V311, codec.Connect("c", V311, False, 10, "u", b"p", WILL),
        "101e00044d51545404ec000a0001630003772f740004676f6e65000175000170",
    ),
    ("connack", V311, codec.Connack(True, 0), "20020100"),
    ("connack 5", V5, codec.Connack(False, 0x87), "2003008700"),
    ("publish qos 0", V311, codec.Publish("a/b", b"hi"), "30070003612f626869"),
    ("publish qos 1", V311, codec.Publish("a/b", b"hi", 1, True, packet_id=10), "33090003612f62000a6869"),
    ("publish 5", V5, codec.Publish("a", b"", 0), "3004000161" + "00"),
    ("puback", V311, codec.Ack(4, 10), "4002000a"),
    ("puback 5 with a reason", V5, codec.Ack(4, 10, 0x87), "4003000a87"),
    ("pubrel", V311, codec.Ack(6, 1), "62020001"),
    ("subscribe", V311, codec.Subscribe(1, [codec.Request("a/#", 1)]), "820800010003612f2301"),
    ("suback", V311, codec.Suback(1, [1, 0x80]), "900400010180"),
    ("unsubscribe", V311, codec.Unsubscribe(2, ["a"]), "a2050002000161"),
    ("disconnect 5", V5, codec.Disconnect(0x8E), "e0018e"),
]  # fmt: skip


@pytest.mark.parametrize(("version", "packet", "wire"), [row[1:] for row in PACKETS], ids=[row[0] for row in PACKETS])
def test_both_directions(version, packet, wire):
    data = bytes.fromhex(wire)
    assert encode(packet, version).hex() == wire
    ((first, body),) = list(Splitter().feed(data))
    assert decode(first, body, version) == packet


def test_a_stream_one_byte_at_a_time_gives_the_same_packets():
    stream = b"".join(bytes.fromhex(row[3]) for row in PACKETS if row[1] == V311)
    splitter = Splitter()
    found = [packet for byte in stream for packet in splitter.feed(bytes([byte]))]
    assert found == list(Splitter().feed(stream))
    assert len(found) == sum(row[1] == V311 for row in PACKETS)


TOPICS = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(TOPICS, st.binary(max_size=300), st.integers(0, 2), st.booleans(), st.integers(1, 65535))
def test_every_publish_comes_back(topic, payload, qos, retain, packet_id):
    packet = codec.Publish(topic, payload, qos, retain, packet_id=packet_id if qos else 0, properties=dict(PROPERTIES))
    ((first, body),) = list(Splitter().feed(encode(packet, V5)))
    assert decode(first, body, V5) == packet


@given(st.integers(0, 255), st.binary(max_size=60), st.sampled_from([V311, V5]))
def test_rubbish_is_a_peer_error(first, body, version):
    try:
        decode(first, body, version)
    except PeerError:
        pass


@given(st.binary(max_size=80))
def test_a_rubbish_stream_is_a_peer_error(data):
    try:
        for first, body in Splitter(limit=1000).feed(data):
            decode(first, body, V5)
    except PeerError:
        pass


@pytest.mark.parametrize(
    ("version", "wire"),
    [
        (V311, "100c00044d5154540402003c0001"),  # a client id that is cut off
        (V311, "80080001" + "0003612f2301"),  # SUBSCRIBE flags must be 2 [MQTT-3.8.1-1]
        (V311, "82020001"),  # no filter [MQTT-3.8.3-3]
        (V5, "1013" + "00044d5154540502003c" + "0511000000ff11" + "000161"),  # a property twice
        (V311, "3704" + "00016100"),  # QoS 3 [MQTT-3.3.1-4]
        (V311, "10" + "0d" + "00044d5154540403003c000161"),  # the reserved flag [MQTT-3.1.2-3]
    ],
)
def test_malformed_packets(version, wire):
    data = bytes.fromhex(wire)
    with pytest.raises(PeerError):
        found = list(Splitter().feed(data))
        for first, body in found:
            decode(first, body, version)
        if not found:
            raise PeerError("incomplete")
