"""What the real greengrass-lite answered, frame by frame, against our lite core: same headers, JSON and closes."""

import asyncio
import json
from pathlib import Path

from foreshore.greengrass.components import ComponentNotFound
from foreshore.greengrass.eventstream import Decoder, decode_headers
from foreshore.greengrass.static_components import StaticComponents

RECORDED = json.loads((Path(__file__).parents[1] / "ipc_frames.json").read_text())
PUB, NO_PERMISSION = "com.example.Pub", "com.example.NoPerm"
CONFIGURATION = {
    "greeting": "hello",
    "nested": {"a": "1", "b": "two", "c": ["1", "2", "3"], "d": "1.5", "e": "true", "z": 9, "y": 10},
    "accessControl": {
        "aws.greengrass.ipc.pubsub": {
            "com.example.Pub:pubsub:1": {
                "policyDescription": "bench",
                "operations": ["aws.greengrass#PublishToTopic", "aws.greengrass#SubscribeToTopic"],
                "resources": ["bench/*"],
            }
        }
    },
}


class WithoutHealth(StaticComponents):
    """The recording's core had no health daemon: states could not be reported."""

    def report_state(self, name: str, state: str) -> None:
        raise ComponentNotFound(name)


class Peer:
    """One recorded connection, played again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = Decoder()
        self.frames: list[tuple[bytes, bytes]] = []

    async def take(self, count: int) -> list[tuple[object, ...]]:
        while len(self.frames) < count:
            data = await self.reader.read(65536)
            assert data, "the core hung up"
            self.frames += self._decoder.feed(data)
        taken, self.frames = self.frames[:count], self.frames[count:]
        return sorted(shape(block, payload) for block, payload in taken)

    async def end(self) -> bool:
        """Whether the core closes."""
        try:
            return not self.frames and await self.reader.read(1) == b""
        except ConnectionResetError:
            return True


def shape(block: bytes, payload: bytes) -> tuple[object, ...]:
    """A frame to compare: its headers in order, and its JSON whatever the spelling of numbers and the order of keys."""
    headers = [(header.name, header.type, header.value) for header in decode_headers(block)]
    body = json.dumps(json.loads(payload), sort_keys=True) if payload else ""
    return {name: value for name, _, value in headers}.get(":stream-id"), repr(headers), body


def test_the_recording(rig, run) -> None:
    async def scenario() -> None:
        async with rig(profile="lite", components=WithoutHealth) as running:
            core = running.core
            core.configuration.merge(PUB, [], CONFIGURATION, 1000)
            core.configuration.merge(NO_PERMISSION, [], {"x": "1"}, 1000)
            for name, token in ((PUB, "Rg9uIjsqKzJtd3xI"), (NO_PERMISSION, "uBcz61XX59xwmjYj")):
                core.tokens._by_token[token] = name
                core.tokens._by_component[name] = token
            peers: dict[int, Peer] = {}
            played = 0
            for case in RECORDED:
                closed_by = next((way for _, way, data in case["frames"] if not data), None)
                for number, way, data in case["frames"]:
                    if number not in peers:
                        peers[number] = Peer(*await asyncio.open_unix_connection(str(core.ipc_socket)))
                    if way == "C>S" and data:
                        peers[number].writer.write(bytes.fromhex(data))
                peer = peers[case["frames"][0][0]]
                wanted = [bytes.fromhex(data) for _, way, data in case["frames"] if way == "S>C" and data]
                expected = sorted(shape(*Decoder().feed(frame)[0]) for frame in wanted)
                assert await peer.take(len(wanted)) == expected, case["case"]
                if closed_by == "S>C":
                    assert await peer.end(), case["case"]
                played += 1
            assert played >= 45
            for peer in peers.values():
                peer.writer.transport.abort()

    run(scenario())
