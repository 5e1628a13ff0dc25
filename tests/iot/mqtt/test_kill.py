"""What the broker acknowledged is there after kill -9: retained messages, sessions and their queues."""

import queue

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.e2e.conftest import start, stop


def client(edge, client_id, *, clean):
    """A connected client and the queue of its messages."""
    messages, events = queue.Queue(), queue.Queue()
    found = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
    found.on_message = lambda _client, _data, message: messages.put(message)
    found.on_connect = lambda _client, _data, flags, _code, _properties: events.put(flags.session_present)
    found.on_subscribe = lambda *_: events.put("subscribed")
    found.on_publish = lambda *_: events.put("published")
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 600
    found.connect(*edge.host_port("mqtt"), clean_start=clean, properties=properties)
    found.loop_start()
    return found, messages, events


def leave(found):
    found.disconnect()
    found.loop_stop()


def test_acknowledged_messages_survive_kill_9(tmp_path):
    first = start(tmp_path, tmp_path / "home", "--only", "iot")
    sleeper, _, events = client(first, "sleeper", clean=True)
    assert events.get(timeout=20) is False
    sleeper.subscribe("t/+", qos=1)
    assert events.get(timeout=20) == "subscribed"
    leave(sleeper)
    sender, _, events = client(first, "sender", clean=True)
    events.get(timeout=20)
    for index in range(20):
        sender.publish(f"t/{index}", str(index), qos=1)
        assert events.get(timeout=20) == "published"
    sender.publish("kept", "retained", qos=1, retain=True)
    assert events.get(timeout=20) == "published"
    first.process.kill()
    first.process.communicate()
    leave(sender)

    second = start(tmp_path, tmp_path / "home", "--only", "iot")
    sleeper, messages, events = client(second, "sleeper", clean=False)
    assert events.get(timeout=20) is True
    assert sorted(int(messages.get(timeout=20).payload) for _ in range(20)) == list(range(20))
    sleeper.subscribe("kept", qos=1)
    assert messages.get(timeout=20).payload == b"retained"
    leave(sleeper)
    stop(second)
