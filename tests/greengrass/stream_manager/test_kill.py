"""kill -9 of the stream manager at random moments of load, and peers that send anything."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.greengrass.stream_manager import cbor
from foreshore.greengrass.stream_manager.frames import Operation, encode
from foreshore.http import Request, Response, Server
from tests.greengrass.stream_manager.test_service import Running, token

__all__ = ["token"]
CHILD = """
import asyncio, sys
from pathlib import Path
from foreshore.greengrass.stream_manager.service import StreamManager

async def main():
    manager = StreamManager(
        state=Path(sys.argv[1]), region="us-east-1", authenticate=lambda _: True,
        environment=lambda: {"AWS_ENDPOINT_URL": sys.argv[2]}, say=lambda level, text: None)
    await manager.start()
    print(manager.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
KINESIS = {"identifier": "k", "kinesisStreamName": "cloud", "batchSize": 7}
DEFINITION = {"name": "s", "strategyOnFull": 0, "exportDefinition": {"kinesis": [KINESIS]}}
RUNS = 4


class Peer:
    """A client that keeps many requests outstanding."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> dict[str, Any]:
        head = await self.reader.readexactly(5)
        body = cbor.decode(await self.reader.readexactly(int.from_bytes(head[:4], "big") - 1))
        assert isinstance(body, dict)
        return body

    def send(self, operation: Operation, **body: Any) -> None:
        self.writer.write(encode(operation, {"requestId": "r", **body}))


async def connect(port: int) -> Peer:
    peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
    peer.writer.write(b"\x01")
    peer.send(Operation.CONNECT, protocolVersion="1.1.0")
    assert await peer.reader.readexactly(1) == b"\x01"
    assert (await peer.answer())["status"] == 0
    return peer


class Kinesis:
    """What came in, one list a run of the stream manager."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.came = asyncio.Event()

    def take(self, request: Request) -> Response:
        records = json.loads(request.body)["Records"]
        self.runs[-1] += [int(record["PartitionKey"]) for record in records]
        self.came.set()
        return Response(200, [], json.dumps({"Records": [{"SequenceNumber": "1"} for _ in records]}).encode())


@asynccontextmanager
async def manager(state: Path, url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, str(state), url, stdout=pipe)
    assert process.stdout is not None
    try:
        yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def load(process: asyncio.subprocess.Process, peer: Peer, acknowledged: int, count: int) -> int:
    """Append until `count` more are acknowledged, kill, and take the answers that had been sent; the new total."""
    for _ in range(count + 50):
        peer.send(Operation.APPEND, name="s", payload=b"x" * 300)
    last = acknowledged - 1
    for number in range(count + 50):
        try:
            answer = await peer.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            break
        # What was appended but not acknowledged before a kill may be there too: numbers only grow, one by one.
        assert answer["status"] == 0
        assert answer["sequenceNumber"] == last + 1 or (number == 0 and answer["sequenceNumber"] > last)
        last = answer["sequenceNumber"]
        if number == count:
            process.send_signal(signal.SIGKILL)
    peer.writer.close()
    return last + 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_9_under_load_loses_and_disorders_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        kinesis, acknowledged, state = Kinesis(), 0, tmp_path / "streams.db"
        server = Server(kinesis.take)
        url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        for run in range(RUNS):
            kinesis.runs.append([])
            async with manager(state, url) as (process, port):
                peer = await connect(port)
                if run == 0:
                    peer.send(Operation.CREATE, definition=DEFINITION)
                    assert (await peer.answer())["status"] == 0
                acknowledged = await load(process, peer, acknowledged, chance.randrange(1, 400))
        kinesis.runs.append([])
        async with manager(state, url) as (_, port):
            peer = await connect(port)
            peer.send(Operation.DESCRIBE, name="s")
            newest = (await peer.answer())["messageStreamInfo"]["storageStatus"]["newestSequenceNumber"]
            options = {"minMessageCount": newest + 1, "maxMessageCount": newest + 1}
            peer.send(Operation.READ, streamName="s", readMessagesOptions=options)
            found = [message["sequenceNumber"] for message in (await peer.answer())["messages"]]
            assert newest + 1 >= acknowledged and found == list(range(newest + 1))
            async with asyncio.timeout(20):
                while newest not in kinesis.runs[-1]:
                    kinesis.came.clear()
                    await kinesis.came.wait()
            peer.writer.close()
        await server.stop()
        expected = 0
        for numbers in kinesis.runs:
            # Each run goes on at what was committed: at most the batch on its way at the kill comes again.
            if numbers:
                assert numbers == list(range(numbers[0], numbers[-1] + 1))
                assert expected - KINESIS["batchSize"] <= numbers[0] <= expected  # type: ignore[operator]
                expected = numbers[-1] + 1
        assert expected == newest + 1

    asyncio.run(main())


NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats()
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
OPTIONS = ["desiredStartSequenceNumber", "minMessageCount", "maxMessageCount", "readTimeoutMillis"]
PARTS = ["maxSize", "strategyOnFull", "timeToLiveMillis", "persistence", "exportDefinition", "flushOnWrite"]
KEYS = ["requestId", "name", "payload", "definition", "readMessagesOptions", "streamName", "x"]
STREAM = {"name": "s", "strategyOnFull": 0}
FRAMES = st.one_of(
    st.binary(max_size=200),
    st.builds(encode, st.integers(-128, 127), st.dictionaries(st.sampled_from(KEYS), JUNK)),
    st.builds(
        lambda options: encode(Operation.READ, {"streamName": "s", "readMessagesOptions": options}),
        st.dictionaries(st.sampled_from(OPTIONS), JUNK),
    ),
    st.builds(
        lambda operation, definition: encode(operation, {"definition": {**STREAM, **definition}}),
        st.sampled_from([Operation.CREATE, Operation.UPDATE]),
        st.dictionaries(st.sampled_from(PARTS), JUNK),
    ),
)


def test_no_peer_harms_another(tmp_path: Path) -> None:
    """Anything, before and after Connect: the peer is answered or disconnected, and another one goes on."""

    async def main() -> None:
        async with Running(tmp_path) as running:
            port = running.manager.port
            running.manager._authenticate = lambda _: True
            good = await connect(port)
            good.send(Operation.CREATE, definition={"name": "s", "strategyOnFull": 0})
            assert (await good.answer())["status"] == 0
            appended = 0

            async def attack(is_connected: bool, frames: list[bytes]) -> None:
                nonlocal appended
                if is_connected:
                    bad = await connect(port)
                    writer = bad.writer
                else:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"".join(frames))
                good.send(Operation.APPEND, name="s", payload=b"x")
                answer = await good.answer()
                assert answer["status"] == 0 and answer["sequenceNumber"] >= appended
                appended = answer["sequenceNumber"] + 1
                writer.close()

            loop = asyncio.get_running_loop()
            faults: list[dict[str, Any]] = []
            loop.set_exception_handler(lambda _, context: faults.append(context))

            @settings(max_examples=150, derandomize=True, deadline=None, database=None)
            @given(st.booleans(), st.lists(FRAMES, min_size=1, max_size=4))
            def fuzz(is_connected: bool, frames: list[bytes]) -> None:
                asyncio.run_coroutine_threadsafe(attack(is_connected, frames), loop).result(20)

            await asyncio.to_thread(fuzz)
            good.send(Operation.LIST)
            assert "s" in (await good.answer())["streams"]
            assert faults == [] and not [text for text in running.said if text.startswith("ERROR")]
            good.writer.close()

    asyncio.run(main())
