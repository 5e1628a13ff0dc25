"""paho-mqtt, unmodified, against the broker on real sockets."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from foreshore.iot.mqtt.server import Broker

WAIT = 5.0


class Peer:
    """A paho client whose events come out of queues."""

    def __init__(self, port: int, client_id: str, version: int = paho.MQTTv5, clean: bool = True) -> None:
        kwargs: dict[str, Any] = {} if version == paho.MQTTv5 else {"clean_session": clean}
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=version, **kwargs)
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.acks: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        self.client.on_connect = lambda client, data, flags, code, properties: self.acks.put(
            ("connected", (flags, code, properties))
        )
        self.client.on_subscribe = lambda client, data, mid, codes, properties: self.acks.put(("subscribed", codes))
        self.client.on_publish = lambda client, data, mid, code, properties: self.acks.put(("published", code))
        self.client.on_disconnect = lambda client, data, flags, code, properties: self.acks.put(("gone", code))
        self.port = port
        self.version = version
        self.clean = clean

    def connect(self, expiry: int = 0) -> Any:
        if self.version == paho.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = expiry
            self.client.connect("127.0.0.1", self.port, clean_start=self.clean, properties=properties)
        else:
            self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()
        return self.expect("connected")

    def expect(self, what: str) -> Any:
        name, value = self.acks.get(timeout=WAIT)
        assert name == what
        return value

    def subscribe(self, filter: str, qos: int = 1) -> Any:
        self.client.subscribe(filter, qos)
        return self.expect("subscribed")

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False, properties: Any = None) -> Any:
        self.client.publish(topic, payload, qos, retain, properties)
        return self.expect("published")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def serve(scenario: Callable[[int], None], **options: Any) -> None:
    """Run a blocking scenario in a thread beside a broker."""

    async def main() -> None:
        broker = Broker(rate_limits=False, **options)
        port = await broker.listen("127.0.0.1", 0)
        try:
            await asyncio.to_thread(scenario, port)
        finally:
            await broker.stop()

    asyncio.run(main())


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5])
def test_a_message_goes_from_one_client_to_another(version: int) -> None:
    def scenario(port: int) -> None:
        one, two = Peer(port, "one", version), Peer(port, "two", version)
        one.connect()
        two.connect()
        one.subscribe("a/+")
        two.publish("a/b", b"hello")
        message = one.messages.get(timeout=WAIT)
        assert (message.topic, message.payload, message.qos, message.retain) == ("a/b", b"hello", 1, False)
        one.close()
        two.close()

    serve(scenario)


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5])
def test_a_persistent_session_gets_what_it_missed(version: int) -> None:
    def scenario(port: int) -> None:
        first = Peer(port, "device", version, clean=False)
        first.connect(expiry=600)
        first.subscribe("missed")
        first.close()
        other = Peer(port, "other", version)
        other.connect()
        for number in range(3):
            other.publish("missed", b"%d" % number)
        again = Peer(port, "device", version, clean=False)
        flags, _, _ = again.connect(expiry=600)
        assert flags.session_present
        assert [again.messages.get(timeout=WAIT).payload for _ in range(3)] == [b"0", b"1", b"2"]
        again.close()
        other.close()

    serve(scenario)


def test_mqtt5_properties_cross_the_broker() -> None:
    def scenario(port: int) -> None:
        one = Peer(port, "one")
        _, _, connack = one.connect()
        assert connack.MaximumQoS == 1
        assert connack.ServerKeepAlive == 60
        one.subscribe("p")
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = "application/json"
        properties.ResponseTopic = "answers"
        properties.CorrelationData = b"\x01\x02"
        properties.UserProperty = [("a", "1"), ("a", "2")]
        properties.MessageExpiryInterval = 100
        one.client.publish("p", b"{}", 1, False, properties)
        message = one.messages.get(timeout=WAIT)
        assert message.properties is not None
        assert message.properties.ContentType == "application/json"
        assert message.properties.ResponseTopic == "answers"
        assert message.properties.CorrelationData == b"\x01\x02"
        assert message.properties.UserProperty == [("a", "1"), ("a", "2")]
        assert 0 < message.properties.MessageExpiryInterval <= 100
        one.close()

    serve(scenario)


@pytest.mark.parametrize("filter, comes", [("kept", True), ("+", False), ("#", False)])
def test_aws_sends_retained_messages_to_exact_filters_only(filter: str, comes: bool) -> None:
    def scenario(port: int) -> None:
        one = Peer(port, "one")
        one.connect()
        one.publish("kept", b"old", retain=True)
        one.subscribe(filter)
        one.publish("kept", b"new")
        payload = one.messages.get(timeout=WAIT).payload
        assert payload == (b"old" if comes else b"new")
        one.close()

    serve(scenario)


def test_qos_2_goes_through_in_the_standard_profile() -> None:
    def scenario(port: int) -> None:
        one = Peer(port, "one", paho.MQTTv5)
        one.connect()
        one.subscribe("q", 2)
        one.client.publish("q", b"twice", 2)
        message = one.messages.get(timeout=WAIT)
        assert (message.payload, message.qos) == (b"twice", 2)
        one.close()

    serve(scenario, profile="standard")
