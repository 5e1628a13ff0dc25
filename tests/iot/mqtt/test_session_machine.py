"""Sessions against a model: whatever connects, leaves, subscribes, publishes and acknowledges, in any order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.access import AllowAll, ConnectRequest
from foreshore.iot.mqtt.codec import V5, V311, Ack, Connect, Disconnect, Publish, Request, Subscribe, Unsubscribe
from foreshore.iot.mqtt.connection import Connection
from foreshore.iot.mqtt.topics import matches
from tests.fuzz.mqtt_targets import Edge, Link

NAMES = ("four", "five", "fleeting")
VERSIONS = {"four": V311, "five": V5, "fleeting": V5}
FILTERS = ("a/b", "a/+", "#", "c")
TOPICS = ("a/b", "a/d", "c")
EXPIRY = 600


class Device:
    """What the model knows of a client. `due` are (topic, payload, qos) that it must get, in order per QoS."""

    def __init__(self, name):
        self.name = name
        self.version = VERSIONS[name]
        self.is_persistent = name != "fleeting"
        self.has_session = False
        self.filters = {}
        self.connection = None
        self.read = 0
        self.due = []
        self.unacknowledged = []


class Sessions(RuleBasedStateMachine):
    """The broker on one side, the model on the other; they are compared after every step."""

    @initialize(profile=st.sampled_from(["aws", "standard"]))
    def begin(self, profile):
        self.edge = Edge(profile, AllowAll())
        self.hash_matches_parent = profile == "standard"
        self.devices = {name: Device(name) for name in NAMES}
        self.sender = self.edge.connect("sender", V5)
        self.count = 0
        # Begin where most happens: everybody is there and listens.
        for name in NAMES:
            self.connect(name, False)
            self.subscribe(name, "a/+", 1)

    def send(self, device, packet):
        device.connection.feed(codec.encode(packet, device.version))
        self.edge.flush()

    def arrived(self, device):
        """The packets that came since the last look; the answers to requests are left out."""
        fresh, device.read = device.connection.link.sent[device.read :], len(device.connection.link.sent)
        found = [codec.decode(first, body, device.version) for first, body in codec.Splitter().feed(fresh)]
        return found

    @rule(name=st.sampled_from(NAMES), clean=st.booleans())
    def connect(self, name, clean):
        device = self.devices[name]
        device.connection, device.read = Connection(self.edge, Link(), ConnectRequest("")), 0
        properties = {p.SESSION_EXPIRY: EXPIRY} if device.version == V5 and device.is_persistent else {}
        self.send(device, Connect(name, device.version, clean, 0, properties=properties))
        answer, *rest = self.arrived(device)
        assert answer.session_present == (device.has_session and not clean)
        if clean or not device.has_session:
            device.filters, device.due, device.unacknowledged = {}, [], []
        # What was not acknowledged comes again, before what waited.
        waiting = device.unacknowledged
        device.due = [(one.topic, one.payload, 1) for one in waiting] + [one for one in device.due if one[2]]
        device.unacknowledged = []
        device.has_session = device.is_persistent and not (device.version == V311 and clean)
        self.take(device, rest)

    @rule(name=st.sampled_from(NAMES), said=st.booleans())
    def leave(self, name, said):
        device = self.devices[name]
        if device.connection is None:
            return
        if said:
            self.send(device, Disconnect())
        device.connection.lost()
        device.connection = None
        if not device.has_session:
            device.filters, device.due, device.unacknowledged = {}, [], []

    @rule(name=st.sampled_from(NAMES), filter=st.sampled_from(FILTERS), qos=st.integers(0, 1))
    def subscribe(self, name, filter, qos):
        device = self.devices[name]
        if device.connection is None:
            return
        self.send(device, Subscribe(1, [Request(filter, qos)]))
        answer, *rest = self.arrived(device)
        assert answer.reasons == [qos]
        device.filters[filter] = qos
        self.take(device, rest)

    @rule(name=st.sampled_from(NAMES), filter=st.sampled_from(FILTERS))
    def unsubscribe(self, name, filter):
        device = self.devices[name]
        if device.connection is None:
            return
        self.send(device, Unsubscribe(2, [filter]))
        answer, *rest = self.arrived(device)
        assert answer.kind == p.UNSUBACK
        device.filters.pop(filter, None)
        self.take(device, rest)

    @rule(topic=st.sampled_from(TOPICS), qos=st.integers(0, 1))
    def publish(self, topic, qos):
        self.count += 1
        payload = b"%d" % self.count
        packet = Publish(topic, payload, qos, packet_id=1 if qos else 0)
        self.sender.feed(codec.encode(packet, V5))
        self.edge.flush()
        for device in self.devices.values():
            mine = [
                granted
                for filter, granted in device.filters.items()
                if matches(filter, topic, hash_matches_parent=self.hash_matches_parent)
            ]
            if mine and (device.connection is not None or (device.has_session and min(max(mine), qos))):
                device.due.append((topic, payload, min(max(mine), qos)))

    @precondition(lambda self: any(device.unacknowledged for device in self.devices.values()))
    @rule(count=st.integers(1, 3))
    def acknowledge(self, count):
        for device in self.devices.values():
            if device.connection is None:
                continue
            done, device.unacknowledged = device.unacknowledged[:count], device.unacknowledged[count:]
            for one in done:
                self.send(device, Ack(p.PUBACK, one.packet_id))

    def take(self, device, packets):
        """Compare what came with what was due."""
        wanted, device.due = device.due, []
        found = [(one.topic, one.payload, one.qos) for one in packets]
        assert found == wanted
        device.unacknowledged += [one for one in packets if one.qos]

    @invariant()
    def everybody_has_what_was_due(self):
        for device in getattr(self, "devices", {}).values():
            if device.connection is not None:
                self.take(device, self.arrived(device))

    @invariant()
    def the_broker_keeps_the_models_sessions(self):
        if not hasattr(self, "edge"):
            return
        kept = {device.name for device in self.devices.values() if device.connection is not None or device.has_session}
        assert set(self.edge.sessions) == kept | {"sender"}


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=80, stateful_step_count=30, derandomize=True, deadline=None)
