"""What the fuzzer calls with any bytes: recipes, deployment documents, and the IPC of a whole core without sockets.

A target returns when the core behaved and raises otherwise: any exception but UserError from what reads documents; for
the IPC any exception, an unfinished answer, or a neighbour that no longer gets its messages. `run.py` searches;
`tests/greengrass/test_fuzz.py` replays and mutates.
"""

import asyncio
import json
import shutil
import tempfile
from pathlib import Path

from foreshore.errors import UserError
from foreshore.greengrass.checks import Source, check
from foreshore.greengrass.configuration import Configuration, from_record, to_record
from foreshore.greengrass.deployments import read_document
from foreshore.greengrass.documents import read
from foreshore.greengrass.eventstream import INT32, STRING, Decoder, Header, decode_headers, encode
from foreshore.greengrass.ipc import LITE_OPERATIONS, OPERATIONS
from foreshore.greengrass.nucleus_settings import read_nucleus
from foreshore.greengrass.recipes import Variables, interpolate, lifecycle_for, parse, select_manifest, steps_of
from foreshore.greengrass.server import Session
from foreshore.greengrass.service import Core

PLATFORM = {"os": "linux", "architecture": "amd64", "runtime": "aws_nucleus_lite"}
ACCESS = {
    service: {"p": {"operations": ["*"], "resources": ["*"]}}
    for service in ("aws.greengrass.ipc.pubsub", "aws.greengrass.ipc.mqttproxy", "aws.greengrass.ShadowManager")
}


def recipe(data):
    """Any text as a recipe: parsed, resolved for a platform, and checked."""
    text = data.decode("utf-8", "replace")
    for finding in check([Source("a.yaml", text), Source("b.json", text)], Source("deployment.yaml", text)):
        assert finding.line >= 1 and finding.message and finding.mend, finding
    try:
        found = parse(text, "a.yaml")
        manifest = select_manifest(found, PLATFORM)
        if manifest is not None:
            variables = Variables(found.name, frozenset(found.dependencies), lambda name: {}, lambda *names: None)
            steps_of(interpolate(lifecycle_for(found, manifest), variables), "a.yaml")
    except UserError as error:
        assert error.where.startswith("a.yaml"), error.where


def deployment(data):
    """Any text as a deployment document, its updates applied to a configuration, and as the nucleus's own."""
    text = data.decode("utf-8", "replace")
    try:
        document = read_document(text, "deployment.yaml")
    except UserError:
        return
    configuration = Configuration()
    for name, update in document.updates.items():
        try:
            configuration.apply(name, defaults=update.merge, reset=update.reset, merge=update.merge, timestamp=5)
            before = configuration.document(name)
            snapshot = configuration.snapshot()
            configuration.merge(name, [], {"x": {"y": before}}, 6)
            configuration.restore(snapshot)
            assert configuration.document(name) == before
            tree = configuration.find(name)
            assert from_record(json.loads(json.dumps(to_record(tree)))) == tree
        except UserError:
            continue
    value = read(text, "deployment.yaml").value
    if isinstance(value, dict):
        read_nucleus(value)


class Link:
    """A CloudLink that is never up."""

    connected = False

    def on_state(self, callback):
        pass

    async def publish(self, publication):
        raise ConnectionError

    async def subscribe(self, topic, qos, callback):
        raise ConnectionError

    async def unsubscribe(self, topic):
        pass


class Wire(asyncio.Transport):
    """Keeps what a session writes."""

    def __init__(self):
        super().__init__()
        self.sent = b""
        self.closing = False

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def write(self, data):
        self.sent += data

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    abort = close

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Bench:
    """A core of one profile on a loop of its own, kept from input to input, and a neighbour that listens."""

    def __init__(self, profile):
        self.loop = asyncio.new_event_loop()
        self.errors = []
        self.operations = list(LITE_OPERATIONS if profile == "lite" else OPERATIONS)
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.core = Core(
            root=self.folder, thing="fuzz", region="us-east-1", account="000000000000",
            cloud=Link(), span=lambda span: None, log=self.note, profile=profile,
        )  # fmt: skip
        self.loop.run_until_complete(self.core.start())
        for name in ("aws.c", "n"):
            self.do(self.core.configuration.merge, name, [], {"accessControl": ACCESS, "k": 1}, 2)
        self.neighbour, self.heard = self.connect("n")
        self.do(self.neighbour.data_received, request(1, "SubscribeToTopic", b'{"topic":"n/t"}'))

    def note(self, line):
        if line.level == "ERROR" and "Traceback" in line.text:
            self.errors.append(line.text)

    def do(self, call, *arguments):
        """Call inside the loop, and let what follows happen."""

        async def within():
            call(*arguments)
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(within())

    def connect(self, component):
        wire, session = Wire(), Session(self.core._server)
        token = self.core.tokens.issue(component)
        headers = [Header(":version", STRING, "0.1.0"), Header(":message-type", INT32, 4)]
        headers += [Header(":message-flags", INT32, 0), Header(":stream-id", INT32, 0)]
        self.do(session.connection_made, wire)
        self.do(session.data_received, encode(headers, json.dumps({"authToken": token}).encode()))
        wire.sent = b""
        return session, wire

    def close(self):
        self.do(self.neighbour.connection_lost, None)
        self.loop.run_until_complete(self.core.stop())
        self.loop.close()
        shutil.rmtree(self.folder)


_benches = {}


def bench(profile):
    """The one core of a profile."""
    if profile not in _benches:
        _benches[profile] = Bench(profile)
    return _benches[profile]


def close():
    """Stop the cores."""
    while _benches:
        _benches.popitem()[1].close()


def request(stream, operation, payload, kind=0, flags=0):
    name = operation if "#" in operation else f"aws.greengrass#{operation}"
    headers = [Header(":message-type", INT32, kind), Header(":message-flags", INT32, flags)]
    headers += [Header(":stream-id", INT32, stream), Header("operation", STRING, name)]
    return encode(headers, payload)


PUBLISH = b'{"topic":"n/t","publishMessage":{"jsonMessage":{"message":{}}}}'


def ipc(data):
    """Bytes as they are on one connection, and as the requests that they describe on another; on both nuclei."""
    for profile in ("classic", "lite"):
        one = bench(profile)
        session, wire = one.connect("aws.c")
        one.do(session.data_received, data)
        one.do(session.connection_lost, None)
        session, wire = one.connect("aws.c")
        for number, (operation, kind, flags, payload) in enumerate(described(data, one.operations), 1):
            one.do(session.data_received, request(number, operation, payload, kind, flags))
            answered(wire.sent)
        one.do(session.connection_lost, None)
        publisher, wire = one.connect("n")
        one.heard.sent = b""
        one.do(publisher.data_received, request(1, "PublishToTopic", PUBLISH))
        assert b"PublishToTopicResponse" in wire.sent and b"SubscriptionResponseMessage" in one.heard.sent, profile
        one.do(publisher.connection_lost, None)
        assert not one.errors, one.errors


def described(data, operations):
    """Up to eight requests: an operation, a message type and flags, and the bytes to the next zero as JSON."""
    for part in data.split(b"\0")[:8]:
        if len(part) >= 2:
            kind, flags = (0, 0) if part[1] < 0xF0 else (part[1] & 7, part[1] >> 3 & 1)
            yield operations[part[0] % len(operations)], kind, flags * 2, part[2:]


def answered(sent):
    """What was sent is whole frames, each with the headers that clients read."""
    for block, _ in Decoder().feed(sent) if sent else ():
        names = {header.name for header in decode_headers(block)}
        assert {":message-type", ":message-flags", ":stream-id"} <= names, names


TARGETS = {"recipe": recipe, "deployment": deployment, "ipc": ipc}
