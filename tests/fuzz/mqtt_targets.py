"""What the fuzzer calls with any bytes: the MQTT decoder, the WebSocket reader, and a whole broker without sockets.

A target returns when the broker behaved and raises otherwise: any exception but PeerError from the decoder; for the
broker any exception at all, answers that depend on how the bytes were cut, an answer that is no packet, or a
well-behaved neighbour that no longer gets its messages. `run.py` searches; `test_corpus.py` replays what it found.
"""

from foreshore.errors import PeerError, ProtocolError
from foreshore.iot.mqtt import codec, websocket
from foreshore.iot.mqtt.access import AllowAll, ConnectDecision, ConnectRequest, SilentObserver
from foreshore.iot.mqtt.broker import Core
from foreshore.iot.mqtt.codec import V5, V311, Connect, Publish, Request, Subscribe
from foreshore.iot.mqtt.connection import CLOSED, Connection
from foreshore.iot.mqtt.limits import PROFILES

AGE = 5e9


class Link:
    """Collects what a connection is sent."""

    def __init__(self):
        self.sent = b""
        self.closed = False

    def write(self, data):
        self.sent += data

    def close(self):
        self.closed = True

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Slow(AllowAll):
    """Access that takes its time to decide on a client that is not the neighbour."""

    def connect(self, request, /):
        return AllowAll.connect(self, request) if request.client_id == "neighbour" else "later"


class Edge(Core):
    """A broker without sockets whose clock stands still and whose choices are always the same."""

    def __init__(self, profile, access):
        self.made = 0
        self.undecided = []
        self.tired = []
        super().__init__(
            PROFILES[profile], access, SilentObserver(), None, None, rate_limits=False,
            wall_ns=lambda: int((1e9 + self.now) * 1e9), new_ids=self.next_ids, choose=lambda members: members[0],
        )  # fmt: skip

    def next_ids(self):
        self.made += 1
        return f"{self.made:032x}", f"{self.made:016x}"

    def connect(self, client_id, version):
        connection = Connection(self, Link(), ConnectRequest(""))
        if client_id:
            expiry = {codec.p.SESSION_EXPIRY: 60} if version == V5 else {}
            connection.feed(codec.encode(Connect(client_id, version, keep_alive=60, properties=expiry), version))
            self.flush()
        return connection

    def wake(self):
        pass

    def defer(self, decision, then):
        self.undecided.append(then)

    def decide(self):
        while self.undecided:
            self.undecided.pop()(ConnectDecision(True))
            self.flush()

    def call_on(self, connection):
        self.tired.append(connection)

    def flush(self):
        while self.tired:
            self.tired.pop().go_on()
        super().flush()

    def read_clock(self):
        """Time stands still here."""

    def delay_reading(self, connection):
        raise AssertionError("rates are off")

    def failed(self, what, error):
        raise AssertionError(what) from error


def decoder(data):
    """The first byte chooses the version, the rest is a stream."""
    version = V5 if data[:1] and data[0] & 1 else V311
    try:
        for first, body in codec.Splitter(limit=100_000).feed(data[1:]):
            packet = codec.decode(first, body, version)
            try:
                again = codec.encode(packet, version if first >> 4 != 1 else packet.version)
            except ProtocolError:
                continue
            ((first, body),) = codec.Splitter().feed(again)
            assert codec.decode(first, body, version) == packet
    except PeerError:
        pass


def frames(data):
    """WebSocket frames; however they are cut, the same MQTT bytes come out."""
    outcomes = []
    for size in (len(data) or 1, 1):
        reader, mqtt, answers = websocket.Frames(10_000), b"", []
        try:
            for at in range(0, len(data), size):
                more, answered = reader.feed(data[at : at + size])
                mqtt += more
                answers += answered
        except PeerError as error:
            outcomes.append(("error", error.reason))
            continue
        outcomes.append((mqtt, answers))
    assert outcomes[0] == outcomes[1]


def broker(data):
    """The first byte chooses profile, version, whether a CONNECT goes ahead and whether access is slow to decide; the
    rest comes from one client."""
    choice, stream = (data[0] if data else 0), data[1:]
    version = V5 if choice & 1 else V311
    profile = "standard" if choice & 2 else "aws"
    access = Slow() if choice & 8 else AllowAll()
    seen = [_converse(profile, access, version, choice & 4 == 0, stream, size) for size in (len(stream) or 1, 1, 7)]
    assert seen[0] == seen[1] == seen[2], "the answers depend on how the bytes were cut"


def _converse(profile, access, version, connected, stream, size):
    edge = Edge(profile, access)
    neighbour = edge.connect("neighbour", V5)
    neighbour.feed(codec.encode(Subscribe(1, [Request("neighbourhood/+", 1)]), V5))
    client = edge.connect("client" if connected else "", version)
    for at in range(0, len(stream), size):
        client.feed(stream[at : at + size])
        edge.flush()
    edge.decide()
    _check_answers(client.link.sent, client.version)
    neighbour.feed(codec.encode(Publish("neighbourhood/watch", b"all is well", 1, packet_id=9), V5))
    edge.flush()
    assert neighbour.link.sent.endswith(b"all is well\x40\x02\x00\x09"), "the neighbour has lost its messages"
    client.lost()
    client.feed(stream[:50])
    for _ in range(3):
        edge.now += AGE
        edge.wheel.advance(edge.now)
        for connection in (neighbour, client):
            if edge.now - connection.heard >= connection.silence:
                connection.was_silent()
        edge.flush()
    assert neighbour.state == CLOSED
    assert set(edge.sessions) <= {one for one, session in edge.sessions.items() if session.expiry_s == 0xFFFFFFFF}
    return client.link.sent, client.link.closed


def _check_answers(sent, version):
    splitter = codec.Splitter()
    for first, body in splitter.feed(sent):
        codec.decode(first, body, version)
    assert splitter._pending == b"", "half a packet was sent"


TARGETS = {"decoder": decoder, "frames": frames, "broker": broker}
