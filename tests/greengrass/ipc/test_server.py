"""The socket server under bad company: stalled, vanishing, fuzzing and many clients."""

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import UserError
from foreshore.greengrass import server as server_module
from foreshore.greengrass.eventstream import INT32, STRING, Header, encode
from foreshore.greengrass.ipc import OPERATIONS as OPERATION_TABLE
from foreshore.greengrass.server import bind_unix

BINARY = {"binaryMessage": {"message": "eA=="}}


def test_a_stalled_subscriber_delays_nobody(rig, run, monkeypatch) -> None:
    monkeypatch.setattr(server_module, "MAX_WAITING_BYTES", 300_000)

    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            stalled, healthy, publisher = [await running.raw("c") for _ in range(3)]
            for client in (stalled, healthy):
                shape, _ = await client.ask(1, "SubscribeToTopic", {"topic": "a/x"})
                assert shape == "SubscribeToTopicResponse"
            stalled.writer.transport.pause_reading()
            body = {"topic": "a/x", "publishMessage": {"jsonMessage": {"message": {"pad": "x" * 20_000}}}}
            for number in range(1, 101):
                shape, _ = await publisher.ask(number, "PublishToTopic", body)
                assert shape == "PublishToTopicResponse"
                shape, event = await healthy.answer()
                assert shape == "SubscriptionResponseMessage" and len(event["jsonMessage"]["message"]["pad"]) == 20_000
            (session,) = [s for s in running.core._server.sessions if s._is_paused]
            assert session._dropped > 0 and sum(map(len, session._out)) <= 300_000
            assert any("stalled on IPC" in line.text for line in running.logs)
            stalled.writer.transport.resume_reading()
            shape, _ = await stalled.answer()
            assert shape == "SubscriptionResponseMessage"
            while session._is_paused:
                await stalled.answer()
            assert any("events were dropped" in line.text for line in running.logs)

    run(scenario())


def test_a_subscriber_that_vanishes_in_the_middle_harms_nobody(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            publisher, other = await running.raw("c"), await running.raw("c")
            subscriptions = running.core.pubsub.count
            await other.ask(1, "SubscribeToTopic", {"topic": "a/x"})
            for round_ in range(20):
                victim = await running.raw("c")
                await victim.ask(1, "SubscribeToTopic", {"topic": "a/x"})
                for number in range(3):
                    publisher.request(
                        round_ * 3 + number + 1, "PublishToTopic", {"topic": "a/x", "publishMessage": BINARY}
                    )
                victim.writer.transport.abort()
                for _ in range(3):
                    assert (await publisher.answer())[0] == "PublishToTopicResponse"
                    assert (await other.answer())[0] == "SubscriptionResponseMessage"
            while running.core.pubsub.count > subscriptions + 1:
                await asyncio.sleep(0)
            assert len(running.core._server.sessions) == 2

    run(scenario())


def test_500_connections(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            clients = [await running.raw("c") for _ in range(500)]
            for client in clients[:499]:
                client.request(1, "SubscribeToTopic", {"topic": "a/x"})
            for client in clients[:499]:
                assert (await client.answer())[0] == "SubscribeToTopicResponse"
            await clients[499].ask(1, "PublishToTopic", {"topic": "a/x", "publishMessage": BINARY})
            for client in clients[:499]:
                assert (await client.answer())[1]["binaryMessage"]["message"] == "eA=="
            for client in clients:
                client.writer.close()

    run(scenario())


def test_lite_takes_50_connections_and_99_subscriptions(rig, run) -> None:
    async def scenario() -> None:
        async with rig(profile="lite") as running:
            running.component("c")
            clients = [await running.raw("c") for _ in range(50)]
            one_more = await running.open()
            assert await one_more.receive() is None
            for number in range(1, 101):
                shape, _ = await clients[0].ask(number, "SubscribeToTopic", {"topic": "a/x"})
                assert shape == ("SubscribeToTopicResponse" if number < 100 else "ServiceError")

    run(scenario())


def test_a_client_that_asks_and_never_reads_is_not_read_either(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c", big={"text": "x" * 50_000})
            client = await running.raw("c")
            client.writer.transport.pause_reading()
            for number in range(1, 400):
                client.request(number, "GetConfiguration", {"keyPath": ["big"]})
            other = await running.raw("c")
            for number in range(1, 50):
                assert (await other.ask(number, "GetConfiguration", {}))[0] == "GetConfigurationResponse"
            (session,) = [s for s in running.core._server.sessions if s._is_paused]
            assert sum(map(len, session._out)) + session.transport.get_write_buffer_size() < 20_000_000
            client.writer.transport.resume_reading()
            for _ in range(1, 400):
                assert (await client.answer())[0] == "GetConfigurationResponse"

    run(scenario())


def test_the_socket_is_for_everybody_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ipc.socket"
    first = bind_unix(path)
    first.close()
    second = bind_unix(path)
    assert path.stat().st_mode & 0o777 == 0o666
    second.listen()
    with pytest.raises(UserError, match="another core"):
        bind_unix(path)
    second.close()


def test_a_long_path(tmp_path: Path, rig, run) -> None:
    root = tmp_path / ("deep" * 30)
    root.mkdir()

    async def scenario() -> None:
        async with rig(root=root) as running:
            running.component("c", k=1)
            token = running.core.tokens.issue("c")
            here = Path.cwd()
            try:
                os.chdir(root)
                reader, writer = await asyncio.open_unix_connection("ipc.socket")
            finally:
                os.chdir(here)
            headers = [Header(":message-type", INT32, 4), Header(":message-flags", INT32, 0)]
            headers += [Header(":stream-id", INT32, 0), Header(":version", STRING, "0.1.0")]
            writer.write(encode(headers, json.dumps({"authToken": token}).encode()))
            assert await reader.read(16)
            writer.close()

    run(scenario())


def test_start_and_stop_twice(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            await running.core.start()
            client = await running.raw("c")
            await running.core.stop()
            assert await client.receive() is None
            await running.core.stop()
            assert not running.core.ipc_socket.exists()
            await running.core.start()
            running.component("c", k=2)
            again = await running.raw("c")
            assert (await again.ask(1, "GetConfiguration", {"keyPath": ["k"]}))[1]["value"] == {"k": 2}

    run(scenario())


OPERATIONS = st.sampled_from([*OPERATION_TABLE, "No"])
MEMBERS = st.sampled_from(sorted({member for operation in OPERATION_TABLE.values() for member in operation.members}))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
BODY = st.one_of(
    st.dictionaries(MEMBERS, JSON, max_size=4).map(lambda body: json.dumps(body).encode()), st.binary(max_size=30)
)


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_any_request_is_answered(rig, run, profile) -> None:
    @settings(max_examples=120, derandomize=True, deadline=None)
    @given(st.lists(st.tuples(OPERATIONS, BODY), min_size=1, max_size=5))
    def collect(requests: list[tuple[str, bytes]]) -> None:
        collected.append(requests)

    collected: list[list[tuple[str, bytes]]] = []
    collect()

    async def scenario() -> None:
        async with rig(profile=profile) as running:
            running.component("aws.c", k=1)
            client, stream = await running.raw("aws.c"), 0
            for requests in collected:
                for operation, body in requests:
                    stream += 1
                    client.request(stream, operation, body)
                    while True:
                        frame = await client.receive()
                        assert frame is not None, (operation, body)
                        if frame[0][":stream-id"] == stream:
                            break
            await client.ask(stream + 1, "GetConfiguration", {})
            assert not [line.text for line in running.logs if line.level == "ERROR" and "Traceback" in line.text]

    run(scenario())


def test_random_bytes_close_one_connection_and_no_other(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c", k=1)
            good = await running.raw("c")
            for seed in range(60):
                bad = await (running.open() if seed % 2 else running.raw("c"))
                bad.writer.write(os.urandom(200))
                end = await bad.receive()
                assert end is None or end[0][":message-type"] == 6
                await bad.close()
            assert (await good.ask(1, "GetConfiguration", {"keyPath": ["k"]}))[1]["value"] == {"k": 1}
            while len(running.core._server.sessions) > 1:
                await asyncio.sleep(0)

    run(scenario())


def test_a_socket_of_the_wrong_kind(tmp_path: Path) -> None:
    (tmp_path / "ipc.socket").write_text("a file")
    with pytest.raises(OSError, match="in use"):
        bind_unix(tmp_path / "ipc.socket")
    probe = socket.socket(socket.AF_UNIX)
    probe.close()


def test_a_burst_shares_spans_and_loses_no_event(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            subscriber, publisher = await running.raw("c"), await running.raw("c")
            await subscriber.ask(1, "SubscribeToTopic", {"topic": "a/x"})
            body = {"topic": "a/x", "publishMessage": BINARY}
            for number in range(1, 1201):
                publisher.request(number, "PublishToTopic", body)
            publisher.request(1201, "PublishToTopic", body, traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
            for _ in range(1201):
                assert (await publisher.answer())[0] == "PublishToTopicResponse"
                assert (await subscriber.answer())[1]["binaryMessage"]["context"] == {"topic": "a/x"}
            assert any(span.trace_id == "a" * 32 for span in running.spans)
        # The stop settles what is shared.
        counts = [span.attributes.get("messages", 1) for span in running.spans if span.name == "PublishToTopic a/x"]
        assert sum(counts) == 1201 and len(counts) < 1201

    run(scenario())


class Written(asyncio.Transport):
    """A transport that keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))


def test_what_one_read_brings_leaves_in_one_write_a_subscriber(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            sessions = []
            for operation, body in (("PublishToTopic", None), *(("SubscribeToTopic", {"topic": "a/x"}),) * 2):
                session = server_module.Session(running.core._server)
                session.connection_made(Written())
                headers = [Header(":version", STRING, "0.1.0"), Header(":message-type", INT32, 4)]
                headers += [Header(":message-flags", INT32, 0), Header(":stream-id", INT32, 0)]
                token = running.core.tokens.issue("c")
                session.data_received(encode(headers, json.dumps({"authToken": token}).encode()))
                if body:
                    session.data_received(request_frame(1, operation, body))
                session.transport.writes.clear()
                sessions.append(session)
            body = {"topic": "a/x", "publishMessage": BINARY}
            sessions[0].data_received(b"".join(request_frame(at, "PublishToTopic", body) for at in range(1, 11)))
            written = [session.transport.writes for session in sessions]
            assert [len(each) for each in written] == [1, 1, 1]
            assert written[1] == written[2] and written[1][0].count(b'"binaryMessage"') == 10
            for session in sessions:
                session.connection_lost(None)

    run(scenario())


def request_frame(stream: int, operation: str, body: object) -> bytes:
    headers = [Header(":message-type", INT32, 0), Header(":message-flags", INT32, 0)]
    headers += [Header(":stream-id", INT32, stream), Header("operation", STRING, f"aws.greengrass#{operation}")]
    return encode(headers, json.dumps(body).encode())
