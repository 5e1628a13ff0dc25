"""The MQTT bridge: six directions, properties, retained messages, loops, and configurations applied while it runs."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from foreshore.core_bridge import MAX_DEPTH, Bridge
from foreshore.errors import UserError
from foreshore.greengrass.bridge import MAX_PASSES, NAME, Mapping, Passes, Source, read_bridge
from foreshore.iot.mqtt.server import Broker
from foreshore.seams import Publication
from tests.greengrass.ipc.conftest import rig, run  # noqa: F401

SIDES = ["LocalMqtt", "Pubsub", "IotCore"]
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def mapping(topic, source, target, **more):
    return {"topic": topic, "source": source, "target": target, **more}


class Sides:
    """A core with a broker and a bridge; `heard(side)` lists the publications that arrived there."""

    def __init__(self, running, broker, bridge):
        self.rig, self.broker, self.bridge = running, broker, bridge
        self.local, self.components, self.lines = [], [], []
        broker.add_listener("#", self.local.append)
        broker.add_listener("$aws/#", self.local.append)
        running.core.subscribe_local("#", self.components.append, source="test")

    def publish(self, side, publication):
        if side == "LocalMqtt":
            self.broker.publish(publication)
        elif side == "Pubsub":
            self.rig.core.publish_local(publication.topic, publication.payload, source="test")
        else:
            for filter, (_, callback) in list(self.rig.link.subscribed.items()):
                if filter == publication.topic or "#" in filter:
                    callback(publication)

    def heard(self, side):
        return {"LocalMqtt": self.local, "Pubsub": self.components, "IotCore": self.rig.link.published}[side]

    async def settle(self):
        """Until what was asked of the link has been done."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def until(self, condition):
        async def wait():
            while not condition():
                await asyncio.sleep(0.005)

        await asyncio.wait_for(wait(), 20)


@pytest.fixture
def sides(rig):  # noqa: F811
    @asynccontextmanager
    async def make(configuration=None):
        broker, lines, cores = Broker(profile="standard"), [], []
        bridge = Bridge(lambda: cores[0], broker, lambda level, text: lines.append((level, text)), "mqtt-bridge-x")
        async with rig(services={NAME: bridge}) as running:
            cores.append(running.core)
            made = Sides(running, broker, bridge)
            made.lines = lines
            if configuration is not None:
                await made.bridge.configure(configuration)
                await made.settle()
            yield made
        await broker.stop()

    return make


@pytest.mark.parametrize(
    ("source", "target"), [(source, target) for source in SIDES for target in SIDES if source != target]
)
def test_every_direction(sides, run, source, target):  # noqa: F811
    async def scenario():
        rows = {"m": mapping("a/+/c", source, target, targetTopicPrefix="from/")}
        if source == "IotCore":
            rows["m"]["topic"] = "a/b/c"
        async with sides({"mqttTopicMapping": rows}) as at:
            at.publish(source, Publication("a/b/c", b"1"))
            at.publish(source, Publication("a/b/other", b"2"))
            await at.until(lambda: at.heard(target))
            [arrived] = [each for each in at.heard(target) if each.topic.startswith("from/")]
            assert (arrived.topic, arrived.payload) == ("from/a/b/c", b"1")
            for other in set(SIDES) - {source, target}:
                assert not at.heard(other)
            if target == "IotCore":
                assert arrived.qos == 1

    run(scenario())


def test_a_configuration_is_applied_while_it_runs(sides, run):  # noqa: F811
    async def scenario():
        async with sides() as at:

            def rows(**mappings):
                at.rig.core.configuration.apply(
                    NAME, defaults={}, reset=[""], merge={"mqttTopicMapping": mappings}, timestamp=at.rig.core.now_ms()
                )
                return at.rig.core.services.settle()

            await rows(one=mapping("t", "LocalMqtt", "Pubsub"), cloud=mapping("c", "IotCore", "Pubsub"))
            await at.until(lambda: "c" in at.rig.link.subscribed)
            at.publish("LocalMqtt", Publication("t", b"1"))
            await rows(two=mapping("t", "LocalMqtt", "IotCore"))
            at.publish("LocalMqtt", Publication("t", b"2"))
            await at.until(lambda: at.rig.link.published and "c" not in at.rig.link.subscribed)
            assert [each.payload for each in at.components] == [b"1"]
            # One that can't be leaves the mappings as they are, and is said.
            await rows(two=mapping("t", "LocalMqtt", "Nowhere"))
            at.publish("LocalMqtt", Publication("t", b"3"))
            await at.until(lambda: len(at.rig.link.published) == 2)
            assert any("'Nowhere' is none of" in line.text for line in at.rig.logs)
            at.rig.core.configuration.remove(NAME)
            await at.rig.core.services.settle()
            at.publish("LocalMqtt", Publication("t", b"4"))
            await at.settle()
            assert len(at.rig.link.published) == 2
            assert at.bridge.from_devices == 3

    run(scenario())


def test_properties_and_retained_messages_need_mqtt5(sides, run):  # noqa: F811
    async def scenario():
        rows = {"m": mapping("t", "LocalMqtt", "IotCore")}
        options = {"m": {"retainAsPublished": "true"}}
        sent = Publication("t", b"1", retain=True, content_type="text/plain", user_properties=[("k", "v")])
        async with sides({"mqttTopicMapping": rows, "mqtt5RouteOptions": options}) as at:
            assert at.lines == [("WARN", "mqtt5RouteOptions has no effect without mqtt.version mqtt5")]
            at.publish("LocalMqtt", sent)
            await at.bridge.configure({"mqttTopicMapping": rows, "mqtt": {"version": "mqtt5"}})
            at.publish("LocalMqtt", sent)
            await at.bridge.configure(
                {"mqttTopicMapping": rows, "mqtt": {"version": "mqtt5"}, "mqtt5RouteOptions": options}
            )
            at.publish("LocalMqtt", sent)
            await at.until(lambda: len(at.rig.link.published) == 3)
            plain, full, retained = at.rig.link.published
            assert (plain.content_type, plain.user_properties, plain.retain) == (None, [], False)
            assert (full.content_type, full.user_properties, full.retain) == ("text/plain", [("k", "v")], False)
            assert retained.retain

    run(scenario())


def test_no_local(sides, run):  # noqa: F811
    """Without noLocal the bridge hears what it published itself, as AWS's does."""

    async def scenario():
        rows = {"down": mapping("t", "IotCore", "LocalMqtt"), "up": mapping("t", "LocalMqtt", "Pubsub")}
        async with sides({"mqttTopicMapping": rows}) as at:
            at.publish("IotCore", Publication("t", b"1"))
            assert [each.payload for each in at.components] == [b"1"]
            await at.bridge.configure(
                {"mqttTopicMapping": rows, "mqtt": {"version": "mqtt5"}, "mqtt5RouteOptions": {"up": {"noLocal": True}}}
            )
            await at.settle()
            at.publish("IotCore", Publication("t", b"2"))
            assert [each.payload for each in at.local] == [b"1", b"2"]
            assert [each.payload for each in at.components] == [b"1"]

    run(scenario())


def test_loops_are_cut(sides, run):  # noqa: F811
    async def scenario():
        rows = {"up": mapping("t", "LocalMqtt", "Pubsub"), "down": mapping("t", "Pubsub", "LocalMqtt")}
        async with sides({"mqttTopicMapping": rows}) as at:
            at.publish("LocalMqtt", Publication("t", b"1"))
            assert len(at.local) + len(at.components) == MAX_DEPTH + 1
            assert [level for level, text in at.lines if "part of a loop" in text] == ["ERROR"]
            # With wildcards the bridge does not hear itself on local publish/subscribe.
            rows = {"up": mapping("w/#", "LocalMqtt", "Pubsub"), "down": mapping("w/#", "Pubsub", "LocalMqtt")}
            await at.bridge.configure({"mqttTopicMapping": rows})
            at.local.clear(), at.components.clear()
            at.publish("LocalMqtt", Publication("w/1", b"1"))
            assert (len(at.local), len(at.components)) == (1, 1)
            at.publish("Pubsub", Publication("w/2", b"1"))
            assert (len(at.local), len(at.components)) == (2, 3)

    run(scenario())


def test_a_loop_through_the_cloud_is_cut(sides, run):  # noqa: F811
    async def scenario():
        rows = {"down": mapping("t", "IotCore", "LocalMqtt")}
        async with sides({"mqttTopicMapping": rows}) as at:
            for _ in range(MAX_PASSES + 10):
                at.publish("IotCore", Publication("t", b"1", traceparent=TRACE))
            assert len(at.local) == MAX_PASSES
            at.publish("IotCore", Publication("t", b"2", traceparent=TRACE))
            at.publish("IotCore", Publication("t", b"1"))
            assert len(at.local) == MAX_PASSES + 2

    run(scenario())


def test_what_can_not_be_passed_on_is_said(sides, run):  # noqa: F811
    async def scenario():
        rows = {"up": mapping("t", "LocalMqtt", "IotCore"), "down": mapping("d", "IotCore", "LocalMqtt")}
        async with sides() as at:
            at.rig.link.denied.add("d")
            await at.bridge.configure({"mqttTopicMapping": rows})
            await at.until(lambda: any("NOT_AUTHORIZED" in text for _, text in at.lines))
            at.publish("LocalMqtt", Publication("t", bytes(128 * 1024 + 1)))
            assert any("131072" in text for level, text in at.lines if level == "ERROR")
            at.publish("LocalMqtt", Publication("t", bytes(128 * 1024)))
            await at.until(lambda: at.rig.link.published)

    run(scenario())


def test_messages_wait_for_the_link_and_drain_in_order(sides, run):  # noqa: F811
    async def scenario():
        async with sides({"mqttTopicMapping": {"up": mapping("t", "LocalMqtt", "IotCore")}}) as at:
            at.rig.link.up(False)
            for number in range(50):
                at.publish("LocalMqtt", Publication("t", b"%d" % number, qos=0))
            assert at.rig.core.cloud.spooled == 50
            at.rig.link.up(True)
            await at.until(lambda: len(at.rig.link.published) == 50)
            assert [int(each.payload) for each in at.rig.link.published] == list(range(50))

    run(scenario())


def test_settings() -> None:
    rows = {"m": mapping("t", "LocalMqtt", "IotCore", targetTopicPrefix="p/"), "n": mapping("t", "IotCore", "Pubsub")}
    options = {"m": {"noLocal": "true", "retainAsPublished": False}, "n": {"noLocal": True}, "x": {}}
    found = read_bridge({"mqttTopicMapping": rows, "mqtt": {"version": "MQTT5"}, "mqtt5RouteOptions": options})
    assert found.mappings == (
        Mapping("m", "t", Source.LOCAL_MQTT, Source.IOT_CORE, "p/", no_local=True),
        Mapping("n", "t", Source.IOT_CORE, Source.PUBSUB),
    )
    assert found.notes == ("mqtt5RouteOptions.x names no mapping",)
    assert read_bridge({}).mappings == ()


def test_settings_of_a_connection_are_said_to_have_no_effect() -> None:
    found = read_bridge({"brokerUri": "ssl://localhost:8884", "mqtt": {"version": "mqtt5", "receiveMaximum": 10}})
    assert [note.partition(" has no effect")[0] for note in found.notes] == ["brokerUri", "mqtt.receiveMaximum"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (5, "must be a map"),
        ({"topic": "t", "source": "LocalMqtt"}, "needs target"),
        (mapping("t", "localmqtt", "IotCore"), "is none of"),
        (mapping("t", "IotCore", "IotCore"), "same source and target"),
        (mapping("a/#/b", "LocalMqtt", "IotCore"), "no topic filter"),
        (mapping("a+", "LocalMqtt", "IotCore"), "no topic filter"),
    ],
)
def test_wrong_mappings(row, why) -> None:
    with pytest.raises(UserError, match=why):
        read_bridge({"mqttTopicMapping": {"m": row}})


def test_passes_forget_what_is_old() -> None:
    passes = Passes()
    for number in range(5000):
        assert not passes.is_loop(f"{number:032x}", "t", b"")
    for _ in range(MAX_PASSES):
        assert not passes.is_loop("f" * 32, "t", b"")
    assert passes.is_loop("f" * 32, "t", b"")
