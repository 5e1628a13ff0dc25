"""MQTT's normative statements on servers, each a row: what a client sends, what the broker answers in both profiles.

Every row's bytes end with a PINGREQ, so an outcome shows whether the connection lives on (PINGRESP) or not (closed).
Statements are named as in MQTT 5.0 and 3.1.1 (marked 311); "AWS" rows are the developer guide's differences.
"""

import asyncio

import pytest

from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.codec import V5, V311, Ack, Auth, Disconnect, Publish, Request, Subscribe, Unsubscribe
from tests.iot.mqtt.wire import Wire, serve

NAMES = {
    4: "PUBACK",
    5: "PUBREC",
    6: "PUBREL",
    7: "PUBCOMP",
    9: "SUBACK",
    11: "UNSUBACK",
    12: "PINGREQ",
    13: "PINGRESP",
}


def told(packet):
    """A packet in one line: its name, identifier and reasons in hex."""
    match packet:
        case None:
            return "closed"
        case codec.Connack():
            return f"CONNACK {packet.reason:02x}" + (" present" if packet.session_present else "")
        case Ack():
            return f"{NAMES[packet.kind]} {packet.packet_id} {packet.reason:02x}"
        case codec.Suback():
            return " ".join([NAMES[packet.kind], str(packet.packet_id), *(f"{one:02x}" for one in packet.reasons)])
        case codec.Ping():
            return NAMES[packet.kind]
        case Disconnect():
            return f"DISCONNECT {packet.reason:02x}"
        case Publish():
            flags = ("r" if packet.retain else "") + ("d" if packet.dup else "")
            return f"PUBLISH {packet.topic} {packet.qos}{flags} {packet.payload.decode()}"
    raise AssertionError(packet)


async def outcome(wire, until=("closed", "PINGRESP")):
    found = []
    while not found or found[-1] not in until:
        found.append(told(await wire.receive()))
    return ", ".join(found)


def raw(text):
    return bytes.fromhex(text.replace(" ", ""))


def connect5(*, flags="02", properties="00", rest="000161"):
    body = raw("00044d51545405" + flags + "003c" + properties + rest)
    return codec.frame(0x10, body)


def connect4(*, name="00044d515454", level="04", flags="02", rest="000161"):
    return codec.frame(0x10, raw(name + level + flags + "003c" + rest))


# What a connection begins with: (statement, version to read the answer in, bytes, AWS, standard)
FIRST = [
    ("MQTT-3.1.0-1", V5, raw("30040001610078"), "closed", "closed"),
    ("MQTT-3.1.0-1 ping", V5, raw("c000"), "closed", "closed"),
    ("MQTT-3.1.2-1 name", V311, connect4(name="00044d515458"), "closed", "closed"),
    ("MQTT-3.1.2-1 lower case", V311, connect4(name="00046d717474"), "closed", "closed"),
    ("MQTT-3.1.2-2 level 3", V311, connect4(name="00064d5149736470", level="03"), "closed", "CONNACK 01, closed"),
    ("MQTT-3.1.2-2 level 6", V311, connect4(level="06"), "closed", "CONNACK 01, closed"),
    ("MQTT-3.1.2-3 flag 0", V311, connect4(flags="03"), "closed", "closed"),
    ("MQTT-3.1.2-3 flag 0, 5", V5, connect5(flags="03"), "closed", "closed"),
    ("MQTT-3.1.2-11 will QoS without will", V5, connect5(flags="0a"), "closed", "closed"),
    ("MQTT-3.1.2-13 will retain without will", V5, connect5(flags="22"), "closed", "closed"),
    ("MQTT-3.1.2-12 will QoS 3", V5, connect5(flags="1e", rest="000161 00 000177 000178"), "closed", "closed"),
    ("311 MQTT-3.1.2-22 password alone", V311, connect4(flags="42", rest="000161 000170"), "closed", "closed"),
    ("MQTT-3.1.2-16 user name promised", V5, connect5(flags="82"), "closed", "closed"),
    ("MQTT-3.1.3-1 bytes left over", V311, connect4(rest="000161 00"), "closed", "closed"),
    ("MQTT-1.5.4-1 client id not UTF-8", V311, connect4(rest="0001ff"), "closed", "closed"),
    ("MQTT-1.5.4-1 a surrogate", V311, connect4(rest="0003eda080"), "closed", "closed"),
    ("MQTT-1.5.4-2 U+0000", V311, connect4(rest="00026100"), "closed", "closed"),
    ("MQTT-2.2.2-2 property of another packet", V5, connect5(properties="02 0101"), "closed", "closed"),
    ("3.1.2.11.2 session expiry twice", V5, connect5(properties="0a 1100000001 1100000001"), "closed", "closed"),
    ("3.1.2.11.3 receive maximum 0", V5, connect5(properties="03 210000"), "closed", "closed"),
    ("3.1.2.11.4 maximum packet 0", V5, connect5(properties="05 2700000000"), "closed", "closed"),
    ("3.1.2.11.7 request problem 2", V5, connect5(properties="02 1702"), "closed", "closed"),
    ("3.1.2.11.10 data without method", V5, connect5(properties="04 16000101"), "closed", "closed"),
    ("MQTT-4.12.0-1", V5, connect5(properties="04 15000161"), "CONNACK 8c, closed", "CONNACK 8c, closed"),
    ("MQTT-1.5.5-1 long remaining length", V5, raw("10 ffffffff01"), "closed", "closed"),
    ("311 MQTT-3.1.3-8", V311, connect4(flags="00", rest="0000"), "closed", "CONNACK 02, closed"),
    ("311 MQTT-3.1.3-6", V311, connect4(rest="0000"), "CONNACK 00, PINGRESP", "CONNACK 00, PINGRESP"),
    ("MQTT-3.1.3-6", V5, connect5(flags="00", rest="0000"), "CONNACK 00, PINGRESP", "CONNACK 00, PINGRESP"),
    ("MQTT-3.1.4-5 packets behind CONNECT", V5, connect5() + raw("c000"),
     "CONNACK 00, PINGRESP", "CONNACK 00, PINGRESP"),
    ("MQTT-3.1.0-2", V311, connect4() * 2, "CONNACK 00, closed", "CONNACK 00, closed"),
    ("MQTT-3.1.0-2, 5", V5, connect5() * 2, "CONNACK 00, DISCONNECT 82, closed", "CONNACK 00, DISCONNECT 82, closed"),
    ("MQTT-3.2.2-12 will QoS 2", V5, connect5(flags="16", rest="000161 00 000177 000178"),
     "CONNACK 9b, closed", "CONNACK 00, PINGRESP"),
    ("AWS will QoS 2", V311, connect4(flags="16", rest="000161 000177 000178"), "closed", "CONNACK 00, PINGRESP"),
    ("MQTT-4.7.1-1 will topic", V5, connect5(flags="06", rest="000161 00 000123 000178"),
     "CONNACK 90, closed", "CONNACK 90, closed"),
    ("AWS client id of 129 bytes", V5, connect5(rest="0081" + "61" * 129),
     "CONNACK 85, closed", "CONNACK 00, PINGRESP"),
    ("AWS client id of 129 bytes, 311", V311, connect4(rest="0081" + "61" * 129), "closed", "CONNACK 00, PINGRESP"),
    ("AWS not authorized", V5, connect5(rest="0003626164"), "CONNACK 87, closed", "CONNACK 87, closed"),
    ("AWS not authorized, 311", V311, connect4(rest="0003626164"), "closed", "CONNACK 05, closed"),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "column"), [("aws", 3), ("standard", 4)])
def test_what_a_connection_may_begin_with(profile, column):
    async def scenario(broker, port):
        wrong = []
        for row in FIRST:
            wire = Wire(*await asyncio.open_connection("127.0.0.1", port), row[1])
            wire.send(row[2] + codec.PINGREQ_BYTES)
            found = await outcome(wire)
            await wire.close()
            if found != row[column]:
                wrong.append(f"{row[0]}: {found}, not {row[column]}")
        assert wrong == []

    serve(scenario, profile=profile)


def publish(topic="t", qos=1, packet_id=1, **properties):
    """A PUBLISH; `properties` by the names of the table of properties."""
    numbers = {entry[0]: number for number, entry in p.TABLE.items()}
    found = {numbers[name]: value for name, value in properties.items()}
    return Publish(topic, b"x", qos, packet_id=packet_id if qos else 0, properties=found)


def subscribe(*requests, packet_id=1, **properties):
    made = [Request(one, 1) if isinstance(one, str) else one for one in requests]
    return Subscribe(packet_id, made, {p.SUBSCRIPTION_ID: properties["ids"]} if properties else {})


ONE = "SUBACK 1 01, PINGRESP"

# What an open connection sends: (statement, version, packets, AWS, standard). Versions "45" stand for both.
OPEN = [
    # Packets as such
    ("MQTT-2.1.3-1 SUBSCRIBE", "5", [raw("8007000100 000161 01")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-2.1.3-1 PUBREL", "4", [raw("60020001")], "", ""),
    ("MQTT-2.1.3-1 PINGREQ", "5", [raw("c100")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-2.1.3-1 DISCONNECT", "5", [raw("e100")], "DISCONNECT 81", "DISCONNECT 81"),
    ("packet type 0", "5", [raw("0000")], "DISCONNECT 81", "DISCONNECT 81"),
    ("packet type 15 in 311", "4", [raw("f000")], "", ""),
    ("CONNACK from a client", "5", [raw("2003000000")], "DISCONNECT 82", "DISCONNECT 82"),
    ("SUBACK from a client", "5", [raw("900400010000")], "DISCONNECT 82", "DISCONNECT 82"),
    ("PINGRESP from a client", "5", [raw("d000")], "DISCONNECT 82", "DISCONNECT 82"),
    ("PINGREQ with a body", "5", [raw("c00100")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-1.5.5-1 length in five bytes", "5", [raw("30 ffffffff7f")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-1.5.5-1 length not shortest", "5", [raw("c0 8000")], "DISCONNECT 81", "DISCONNECT 81"),
    ("311 has no shortest length", "4", [raw("c0 8000")], "PINGRESP", "PINGRESP"),
    ("MQTT-3.2.2-15 maximum packet", "5", [raw("30 80808001")], "DISCONNECT 97", "DISCONNECT 95"),
    ("maximum packet, 311", "4", [raw("30 80808001")], "", ""),
    ("3.15 AUTH", "5", [Auth(0x19)], "DISCONNECT 82", "DISCONNECT 82"),
    ("MQTT-3.15.2-1", "5", [raw("f00217 00")], "DISCONNECT 82", "DISCONNECT 82"),
    # PUBLISH
    ("MQTT-3.3.1-4 QoS 3", "45", [raw("3606000161 000100")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-3.3.1-2 DUP at QoS 0", "45", [raw("3805000161 0078")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-2.2.1-3 identifier 0", "45", [raw("3206000161 000000")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-3.3.2-1 topic not UTF-8", "45", [raw("32070002ff61 000100")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-1.5.4-1 topic with a surrogate", "45", [raw("32080003eda080 000100")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-1.5.4-2 topic with U+0000", "45", [raw("320700026100 000100")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-1.5.4-3 U+FEFF stays", "5", [subscribe("\ufefft"), publish("\ufefft", 0)],
     "SUBACK 1 01, PUBLISH \ufefft 0 x, PINGRESP", "SUBACK 1 01, PUBLISH \ufefft 0 x, PINGRESP"),
    ("MQTT-3.3.2-2 topic with #", "45", [publish("a/#")], "DISCONNECT 90", "DISCONNECT 90"),
    ("MQTT-3.3.2-2 topic with +", "45", [publish("+")], "DISCONNECT 90", "DISCONNECT 90"),
    ("MQTT-4.7.3-1 empty topic, 311", "4", [publish("")], "", ""),
    ("MQTT-3.3.2-1 empty topic without alias", "5", [publish("")], "DISCONNECT 82", "DISCONNECT 82"),
    ("topic longer than the packet", "45", [raw("3004ffff6100")], "DISCONNECT 81", "DISCONNECT 81"),
    ("properties longer than the packet", "5", [raw("30040001617f")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-3.3.4-6 subscription identifier", "5", [raw("3006000161 020b01")], "DISCONNECT 82", "DISCONNECT 82"),
    ("3.3.2.3.2 payload format 2", "5", [raw("3006000161 020102")], "DISCONNECT 82", "DISCONNECT 82"),
    ("MQTT-3.3.2-14 response topic", "5", [publish(response_topic="a/+")], "DISCONNECT 82", "DISCONNECT 82"),
    ("MQTT-3.3.2-8 alias 0", "5", [publish(topic_alias=0)], "DISCONNECT 94", "DISCONNECT 94"),
    ("MQTT-3.3.2-9 alias beyond", "5", [publish(topic_alias=65)], "DISCONNECT 94", "DISCONNECT 94"),
    ("AWS alias 9", "5", [publish(topic_alias=9)], "DISCONNECT 94", "PUBACK 1 00, PINGRESP"),
    ("MQTT-3.3.2-7 unknown alias", "5", [publish("", topic_alias=1)], "DISCONNECT 82", "DISCONNECT 82"),
    ("3.3.2.3.4 alias for a topic", "5",
     [subscribe("t"), publish(qos=0, topic_alias=1), publish("", 0, topic_alias=1), publish("t2", 0, topic_alias=1),
      publish("", 0, topic_alias=1)],
     "SUBACK 1 01, PUBLISH t 0 x, PUBLISH t 0 x, PINGRESP", "SUBACK 1 01, PUBLISH t 0 x, PUBLISH t 0 x, PINGRESP"),
    ("2.2.2.2 a property twice", "5", [raw("300b000161 07 230001 230001 78")], "DISCONNECT 82", "DISCONNECT 82"),
    ("MQTT-3.2.2-11 QoS 2", "5", [publish(qos=2)], "DISCONNECT 9b", "PUBREC 1 00, PINGRESP"),
    ("AWS QoS 2 in 311", "4", [publish(qos=2)], "PINGRESP", "PUBREC 1 00, PINGRESP"),
    ("AWS denied QoS 1", "5", [publish("secret")], "PUBACK 1 87, PINGRESP", "PUBACK 1 87, PINGRESP"),
    ("AWS denied QoS 0", "5", [publish("secret", 0)], "DISCONNECT 87", "PINGRESP"),
    ("AWS denied in 311", "4", [publish("secret")], "", "PUBACK 1 00, PINGRESP"),
    ("AWS reserved QoS 1", "5", [publish("$aws/unknown")], "PUBACK 1 90, PINGRESP", "PUBACK 1 00, PINGRESP"),
    ("AWS reserved QoS 0", "5", [publish("$SYS/x", 0)], "DISCONNECT 90", "PINGRESP"),
    ("AWS reserved in 311", "4", [publish("$SYS/x")], "", "PUBACK 1 00, PINGRESP"),
    ("AWS topic of 257 bytes", "5", [publish("t" * 257)], "PUBACK 1 90, PINGRESP", "PUBACK 1 00, PINGRESP"),
    ("AWS topic of 256 bytes", "45", [publish("t" * 256)], "PUBACK 1 00, PINGRESP", "PUBACK 1 00, PINGRESP"),
    ("AWS 8 slashes", "5", [publish("a/b/c/d/e/f/g/h/i")], "PUBACK 1 90, PINGRESP", "PUBACK 1 00, PINGRESP"),
    ("AWS 7 slashes", "45", [publish("a/b/c/d/e/f/g/h")], "PUBACK 1 00, PINGRESP", "PUBACK 1 00, PINGRESP"),
    ("AWS Basic Ingest is free of both", "5", [publish("$aws/rules/r/a/b/c/d/e/f/g/h")],
     "PUBACK 1 00, PINGRESP", "PUBACK 1 00, PINGRESP"),
    ("AWS payload of 128 KiB", "5", [Publish("t", bytes(131072), 1, packet_id=1)],
     "PUBACK 1 00, PINGRESP", "PUBACK 1 00, PINGRESP"),
    ("AWS payload of 128 KiB and 1", "5", [Publish("t", bytes(131073), 1, packet_id=1)],
     "PUBACK 1 97, PINGRESP", "PUBACK 1 00, PINGRESP"),
    # Acknowledgements
    ("PUBACK for nothing", "45", [Ack(4, 77)], "PINGRESP", "PINGRESP"),
    ("PUBACK cut off", "45", [raw("400100")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-3.4.2-1", "5", [raw("4004000111 00")], "DISCONNECT 82", "DISCONNECT 82"),
    ("AWS PUBREL", "5", [Ack(6, 5)], "DISCONNECT 9b", "PUBCOMP 5 92, PINGRESP"),
    ("AWS PUBREC", "4", [Ack(5, 5)], "", "PUBREL 5 00, PINGRESP"),
    ("MQTT-4.3.3-10 QoS 2 twice", "5", [subscribe("t"), publish(qos=2), publish(qos=2), Ack(6, 1)],
     "SUBACK 1 01, DISCONNECT 9b",
     "SUBACK 1 01, PUBLISH t 1 x, PUBREC 1 00, PUBREC 1 00, PUBCOMP 1 00, PINGRESP"),
    # SUBSCRIBE
    ("MQTT-3.8.3-2 no filter", "45", [raw("82020001")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-3.8.3-2 no filter, 5", "5", [raw("8203000100")], "DISCONNECT 82", "DISCONNECT 82"),
    ("MQTT-3.8.3-5 reserved bits", "5", [raw("8207000100 000161 c1")], "DISCONNECT 81", "DISCONNECT 81"),
    ("311 MQTT-3-8.3-4 reserved bits", "4", [raw("82060001 000161 05")], "", ""),
    ("3.8.3.1 QoS 3", "45", [raw("8207000100 000161 03")], "DISCONNECT 81", "DISCONNECT 81"),
    ("3.8.3.1 retain handling 3", "5", [raw("8207000100 000161 31")], "DISCONNECT 82", "DISCONNECT 82"),
    ("MQTT-2.2.1-3 SUBSCRIBE identifier 0", "45", [raw("8207000000 000161 01")], "DISCONNECT 81", "DISCONNECT 81"),
    ("3.8.2.1.2 identifier 0", "5", [subscribe("a", ids=[0])], "DISCONNECT 82", "DISCONNECT 82"),
    ("3.8.2.1.2 two identifiers", "5", [subscribe("a", ids=[1, 2])], "DISCONNECT 82", "DISCONNECT 82"),
    ("AWS subscription identifier", "5", [subscribe("a", ids=[1])], "DISCONNECT a1", ONE),
    ("MQTT-3.8.3-1 filter not UTF-8", "45", [raw("8207000100 0001ff 01")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-4.7.1-1 # not last", "5", [subscribe("a/#/b")], "SUBACK 1 8f, PINGRESP", "DISCONNECT 81"),
    ("MQTT-4.7.1-1 # beside text", "5", [subscribe("a#")], "SUBACK 1 8f, PINGRESP", "DISCONNECT 81"),
    ("MQTT-4.7.1-2 + beside text", "5", [subscribe("a+/b")], "SUBACK 1 8f, PINGRESP", "DISCONNECT 81"),
    ("MQTT-4.7.3-1 empty filter", "5", [subscribe("")], "SUBACK 1 8f, PINGRESP", "DISCONNECT 81"),
    ("MQTT-4.7.1-1 in 311", "4", [subscribe("a#")], "", ""),
    ("MQTT-3.8.4-5 several filters", "5", [subscribe("a", "b#", Request("c", 0))],
     "SUBACK 1 01 8f 00, PINGRESP", "DISCONNECT 81"),
    ("MQTT-4.8.2-1 share name empty", "5", [subscribe("$share//a")], "SUBACK 1 8f, PINGRESP", "DISCONNECT 81"),
    ("MQTT-4.8.2-2 share name with +", "5", [subscribe("$share/a+/b")],
     "SUBACK 1 8f, PINGRESP", "DISCONNECT 81"),
    ("4.8.2 share without a filter", "5", [subscribe("$share/a")], "SUBACK 1 8f, PINGRESP", "DISCONNECT 81"),
    ("MQTT-3.8.3-4 no local, shared", "5", [subscribe(Request("$share/g/a", 1, True))],
     "DISCONNECT 82", "DISCONNECT 82"),
    ("AWS shared in 311", "4", [subscribe("$share/g/a")], ONE, ONE),
    ("AWS QoS 2 filter", "5", [subscribe(Request("a", 2))], "DISCONNECT 9b", "SUBACK 1 02, PINGRESP"),
    ("AWS QoS 2 filter in 311", "4", [subscribe(Request("a", 2))], "PINGRESP", "SUBACK 1 02, PINGRESP"),
    ("AWS reserved filter", "5", [subscribe("$SYS/#", "a")], "SUBACK 1 8f 01, PINGRESP", "SUBACK 1 01 01, PINGRESP"),
    ("AWS reserved filter in 311", "4", [subscribe("$SYS/#", "a")], "", "SUBACK 1 01 01, PINGRESP"),
    ("AWS denied filter", "5", [subscribe("secret/#")], "SUBACK 1 87, PINGRESP", "SUBACK 1 80, PINGRESP"),
    ("AWS denied filter in 311", "4", [subscribe("secret/#")], "", "SUBACK 1 80, PINGRESP"),
    ("AWS 9 filters", "5", [subscribe(*"abcdefghi")], "SUBACK 1" + " 97" * 9 + ", PINGRESP",
     "SUBACK 1" + " 01" * 9 + ", PINGRESP"),
    ("AWS 9 filters in 311", "4", [subscribe(*"abcdefghi")], "SUBACK 1" + " 80" * 9 + ", PINGRESP",
     "SUBACK 1" + " 01" * 9 + ", PINGRESP"),
    ("AWS sensor/# does not match sensor", "5", [subscribe("sensor/#"), publish("sensor", 0)],
     ONE, "SUBACK 1 01, PUBLISH sensor 0 x, PINGRESP"),
    ("MQTT-4.7.2-1", "5", [subscribe("#", "+/b"), publish("$aws/rules/b", 0)],
     "SUBACK 1 01 01, PINGRESP", "SUBACK 1 01 01, PINGRESP"),
    # UNSUBSCRIBE
    ("MQTT-4.7.3-1 UNSUBSCRIBE in 311", "4", [Unsubscribe(3, [""])], "UNSUBACK 3, PINGRESP", ""),
    ("MQTT-3.10.3-2 no filter", "5", [raw("a203000100")], "DISCONNECT 82", "DISCONNECT 82"),
    ("MQTT-2.1.3-1 UNSUBSCRIBE", "5", [raw("a006000100 000161")], "DISCONNECT 81", "DISCONNECT 81"),
    ("MQTT-3.10.4-5 not subscribed", "4", [Unsubscribe(3, ["a"])], "UNSUBACK 3, PINGRESP", "UNSUBACK 3, PINGRESP"),
    ("MQTT-3.11.3-1", "5", [subscribe("a"), Unsubscribe(3, ["a", "b"])],
     "SUBACK 1 01, UNSUBACK 3 00 00, PINGRESP", "SUBACK 1 01, UNSUBACK 3 00 11, PINGRESP"),
    ("AWS malformed filter given up", "5", [Unsubscribe(3, ["a#"])],
     "UNSUBACK 3 8f, PINGRESP", "DISCONNECT 81"),
    ("MQTT-3.10.4-2 nothing more comes", "5", [subscribe("t"), Unsubscribe(3, ["t"]), publish(qos=0)],
     "SUBACK 1 01, UNSUBACK 3 00, PINGRESP", "SUBACK 1 01, UNSUBACK 3 00, PINGRESP"),
    # DISCONNECT
    ("MQTT-3.14.4-2", "45", [Disconnect()], "", ""),
    ("3.14.2.2.2 expiry after none", "5", [Disconnect(0, {p.SESSION_EXPIRY: 9})], "DISCONNECT 82", "DISCONNECT 82"),
    ("MQTT-3.14.2-1", "5", [raw("e0020500")], "DISCONNECT 82", "DISCONNECT 82"),
    ("DISCONNECT with a body in 311", "4", [raw("e00100")], "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "column"), [("aws", 3), ("standard", 4)])
def test_what_an_open_connection_may_send(profile, column):
    async def scenario(broker, port):
        wrong = []
        for row in OPEN:
            for version in map(int, row[1]):
                wire = await Wire.open(port, "a client", version)
                for packet in row[2]:
                    wire.send(packet)
                wire.send(codec.PINGREQ_BYTES)
                found = (await outcome(wire)).removeprefix("CONNACK 00, ")
                if version == V5 and "PINGRESP" not in row[column]:
                    wanted = (row[column] + ", " if row[column] else "") + "closed"
                elif version == V311 and "DISCONNECT" in row[column]:
                    wanted = "closed"
                else:
                    wanted = row[column] or "closed"
                await wire.close()
                if found != wanted:
                    wrong.append(f"{row[0]} ({version}): {found}, not {wanted}")
        assert wrong == []

    serve(scenario, profile=profile)
