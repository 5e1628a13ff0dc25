"""IPC publish: server CPU a message, with authorization, validation and tracing on, against two ceilings.

    python benchmarks/bench_ipc.py [--seconds 1] [--rounds 3] [--json]

Each server runs in a process of its own; the client keeps 64 requests outstanding over one raw connection (`burst`),
or one at a time (`single`). Server CPU is that of the server process (getrusage) over the messages, medians of the
rounds, in which the servers take turns. `single` is mostly the kernel's cost of a sleep and of waking two processes,
which a virtual machine makes dear: `user` is its part outside the kernel, the server's own.

- `foreshore`: a whole Core with a policy, spans kept in a list as the recorder does; no subscriber, then one.
- `bare`: an asyncio server that cuts frames by their length and answers each with the same bytes but the stream id.
- `nothing`: an asyncio server that reads and writes nothing back but one constant frame for each frame-sized chunk,
  and as many bytes as an event to each subscriber.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar
from zlib import crc32

from foreshore.greengrass.eventstream import INT32, STRING, Header, encode
from foreshore.greengrass.rpc import APPLICATION_MESSAGE, Frame
from foreshore.seams import Publication, Span

COMPONENT = "com.example.Bench"
PAYLOAD = b'{"topic": "bench/a", "publishMessage": {"binaryMessage": {"message": "eyJkZXZpY2UiOiJkMSIsInRzIjoxfQ=="}}}'
_MODEL = Header("service-model-type", STRING, "aws.greengrass#PublishToTopicResponse")
EVENT = b"e" * 262
_JSON = Header(":content-type", STRING, "application/json")


def publish_frame(stream_id: int) -> bytes:
    """What awsiotsdk sends for PublishToTopic."""
    return encode(
        [
            _JSON,
            Header("service-model-type", STRING, "aws.greengrass#PublishToTopicRequest"),
            Header(":message-type", INT32, 0),
            Header(":message-flags", INT32, 0),
            Header(":stream-id", INT32, stream_id),
            Header("operation", STRING, "aws.greengrass#PublishToTopic"),
        ],
        PAYLOAD,
    )


class NoLink:
    """A CloudLink that is never up."""

    connected = False

    def on_state(self, callback: Callable[[bool], None]) -> None:
        """Never calls."""

    async def publish(self, publication: Publication) -> int:
        raise ConnectionError

    async def subscribe(self, filter: str, qos: int, callback: Callable[[Publication], None]) -> None:
        raise ConnectionError

    async def unsubscribe(self, filter: str) -> None:
        raise ConnectionError


async def serve_foreshore(folder: Path, pipe: Connection) -> None:
    """A whole core, its spans swapped out every 10,000 as the recorder's writer does."""
    from foreshore.greengrass.service import Core

    spans: list[Span] = []

    def span(item: Span) -> None:
        if len(spans) > 10_000:
            spans.clear()
        spans.append(item)

    core = Core(
        root=folder,
        thing="bench",
        region="us-east-1",
        account="000000000000",
        cloud=NoLink(),
        span=span,
        log=lambda line: None,
    )
    await core.start()
    policy = {"operations": ["*"], "resources": ["bench/*"]}
    access = {"aws.greengrass.ipc.pubsub": {"p": policy}}
    core.configuration.apply(COMPONENT, defaults={"accessControl": access}, timestamp=2)
    await report(pipe, str(core.ipc_socket), core.tokens.issue(COMPONENT))


class Bare(asyncio.Protocol):
    """Frames by length, one prepared answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.rest = b""
        self.answer = Frame(APPLICATION_MESSAGE, 2, [_JSON, _MODEL]).fixed(b"{}")

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        at, out = 0, []
        while len(data) - at >= 12:
            total = int.from_bytes(data[at : at + 4], "big")
            if len(data) - at < total:
                break
            frame = data[at : at + total]
            if b":version" in frame:
                out.append(Frame(5, 1).encode(0))
            else:
                out.append(self.answer(int.from_bytes(frame[frame.index(b":stream-id") + 11 :][:4], "big")))
            at += total
        self.rest = data[at:]
        self.transport.write(b"".join(out))  # type: ignore[attr-defined]


class Nothing(asyncio.Protocol):
    """Counts bytes; answers as many frames as came in, all alike."""

    subscribers: ClassVar[list[asyncio.BaseTransport]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.size = len(publish_frame(1))
        self.answer = Frame(APPLICATION_MESSAGE, 2, [_JSON, _MODEL]).encode(1, b"{}")
        self.is_connected = False
        self.pending = 0

    def data_received(self, data: bytes) -> None:
        if not self.is_connected:
            self.is_connected = True
            self.transport.write(Frame(5, 1).encode(0))  # type: ignore[attr-defined]
            return
        if b"SubscribeToTopic" in data:
            self.subscribers.append(self.transport)
            self.transport.write(self.answer)  # type: ignore[attr-defined]
            return
        count, self.pending = divmod(self.pending + len(data), self.size)
        self.transport.write(self.answer * count)  # type: ignore[attr-defined]
        for subscriber in self.subscribers:
            subscriber.write(EVENT * count)  # type: ignore[attr-defined]


async def serve_protocol(factory: Callable[[], asyncio.Protocol], folder: Path, pipe: Connection) -> None:
    """One of the ceilings."""
    path = folder / "s.socket"
    await asyncio.get_running_loop().create_unix_server(factory, str(path))
    await report(pipe, str(path), "A" * 16)


async def report(pipe: Connection, path: str, token: str) -> None:
    """Say where we listen, then answer each question with the CPU used so far, until the pipe closes."""
    pipe.send((path, token))
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def asked() -> None:
        try:
            pipe.recv()
        except EOFError:
            loop.remove_reader(pipe.fileno())
            done.set_result(None)
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send((usage.ru_utime + usage.ru_stime, usage.ru_utime, usage.ru_maxrss))

    loop.add_reader(pipe.fileno(), asked)
    await done


def child(kind: str, folder: str, pipe: Connection) -> None:
    """The server process."""
    import uvloop

    serve = {
        "foreshore": lambda: serve_foreshore(Path(folder), pipe),
        "bare": lambda: serve_protocol(Bare, Path(folder), pipe),
        "nothing": lambda: serve_protocol(Nothing, Path(folder), pipe),
    }[kind]
    uvloop.run(serve())


class Client:
    """A blocking raw client that keeps `window` publishes outstanding."""

    def __init__(self, path: str, token: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        headers = [
            Header(":version", STRING, "0.1.0"),
            *(Header(name, INT32, value) for name, value in ((":message-type", 4), (":message-flags", 0))),
            Header(":stream-id", INT32, 0),
        ]
        self.socket.sendall(encode(headers, json.dumps({"authToken": token}).encode()))
        self.socket.recv(65536)
        self.next = 1
        template = publish_frame(0)
        self._split = template.index(b":stream-id") + 11
        self._before, self._after = template[: self._split], template[self._split + 4 : -4]
        self._crc = crc32(self._before)

    def frame(self) -> bytes:
        """The next publish."""
        rest = struct.pack(">i", self.next) + self._after
        self.next += 1
        return self._before + rest + struct.pack(">I", crc32(rest, self._crc))

    def subscribe(self, topic: str) -> None:
        """Subscribe, and read the answer."""
        headers = [
            Header(":message-type", INT32, 0),
            Header(":message-flags", INT32, 0),
            Header(":stream-id", INT32, self.next),
            Header("operation", STRING, "aws.greengrass#SubscribeToTopic"),
        ]
        self.next += 1
        self.socket.sendall(encode(headers, json.dumps({"topic": topic}).encode()))
        self.socket.recv(65536)

    def run(self, seconds: float, window: int, answer_size: int) -> int:
        """Publish for a while; give how many were answered."""
        end, answered, pending = time.perf_counter() + seconds, 0, 0
        while time.perf_counter() < end:
            self.socket.sendall(b"".join(self.frame() for _ in range(window)))
            need = window * answer_size - pending
            while need > 0:
                need -= len(self.socket.recv(262144))
            pending = -need
            answered += window
        return answered


def drain(path: str, token: str, ready: Connection) -> None:
    """A subscriber process."""
    client = Client(path, token)
    client.subscribe("bench/a")
    ready.send(True)
    while client.socket.recv(1 << 20):
        pass


def measure(kind: str, seconds: float, *, subscribers: int = 0) -> dict[str, float]:
    """Server CPU us a message, burst and single, and its peak RSS."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        server = context.Process(target=child, args=(kind, folder, theirs))
        server.start()
        theirs.close()
        drains = []
        try:
            path, token = ours.recv()
            for _ in range(subscribers):
                here, there = context.Pipe()
                process = context.Process(target=drain, args=(path, token, there), daemon=True)
                process.start()
                here.recv()
                drains.append(process)
            client = Client(path, token)
            answer_size = len(Frame(APPLICATION_MESSAGE, 2, [_JSON, _MODEL]).encode(1, b"{}"))
            found: dict[str, float] = {}
            client.run(0.3, 64, answer_size)
            for name, window in (("burst", 64), ("single", 1)):
                before, user_before, _ = ask(ours)
                count = client.run(seconds, window, answer_size)
                cpu, user, rss = ask(ours)
                found[f"{name}_us"] = (cpu - before) * 1e6 / count
                found[f"{name}_user_us"] = (user - user_before) * 1e6 / count
                found[f"{name}_per_s"] = count / seconds
            found["rss_mb"] = rss / 1024
            return found
        finally:
            ours.close()
            server.join(10)
            for process in drains:
                process.terminate()


def ask(pipe: Connection) -> tuple[float, float, float]:
    """The server's (CPU seconds, those outside the kernel, peak RSS in KiB)."""
    pipe.send(True)
    cpu, user, rss = pipe.recv()
    return cpu, user, rss


SERVERS = {
    "foreshore": ("foreshore", 0),
    "foreshore, 1 subscriber": ("foreshore", 1),
    "bare asyncio": ("bare", 0),
    "do nothing": ("nothing", 0),
    "do nothing, 1 subscriber": ("nothing", 1),
}


def main() -> None:
    """Measure all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = [
        {name: measure(kind, options.seconds, subscribers=count) for name, (kind, count) in SERVERS.items()}
        for _ in range(options.rounds)
    ]
    rows = {
        name: {key: statistics.median(each[name][key] for each in rounds) for key in rounds[0][name]}
        for name in SERVERS
    }
    if options.json:
        json.dump(rows, sys.stdout)
        return
    print(f"{'server':26} {'burst us':>9} {'single us':>10} {'user':>6} {'burst/s':>9} {'single/s':>9} {'RSS MB':>7}")
    for name, row in rows.items():
        print(
            f"{name:26} {row['burst_us']:9.1f} {row['single_us']:10.1f} {row['single_user_us']:6.1f} "
            f"{row['burst_per_s']:9.0f} {row['single_per_s']:9.0f} {row['rss_mb']:7.1f}"
        )
    print("server CPU a publish, authorization, validation and tracing on; goal: at most 25 us")


if __name__ == "__main__":
    main()
