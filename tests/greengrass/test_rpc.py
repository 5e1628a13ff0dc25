"""The connection state machine: handshake, streams, control messages, in both rules."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import PeerError
from foreshore.greengrass import rpc
from foreshore.greengrass.eventstream import INT32, STRING, Header, decode, encode, encode_headers


class Recording:
    """A handler that writes down what it is told; `hold` says which operations stay open."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.connection: rpc.Connection

    def connect(self, headers: Mapping[str, object], payload: bytes) -> Sequence[Header] | None:
        self.calls.append(("connect", payload))
        return None if payload == b"bad" else ()

    def request(self, stream_id: int, incoming: rpc.Incoming, payload: bytes) -> None:
        self.calls.append(("request", stream_id, incoming.operation, payload))
        if incoming.operation == "hold":
            self.connection.held.add(stream_id)

    def message(self, stream_id: int, incoming: rpc.Incoming, payload: bytes) -> None:
        self.calls.append(("message", stream_id, payload))

    def cancel(self, stream_id: int) -> None:
        self.calls.append(("cancel", stream_id))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", **more: str) -> bytes:
    headers = [Header(name, STRING, value) for name, value in more.items()]
    headers += [Header(":message-type", INT32, kind), Header(":message-flags", INT32, flags)]
    return encode([*headers, Header(":stream-id", INT32, stream)], payload)


CONNECT = frame(rpc.CONNECT, 0, 0, b"token", **{":version": "0.1.0"})


def connection(rules: rpc.Rules = rpc.CLASSIC, *, open_: bool = True) -> tuple[rpc.Connection, Recording]:
    handler = Recording()
    handler.connection = made = rpc.Connection(handler, rules)
    if open_:
        made.receive(CONNECT)
        made.out.clear()
        handler.calls.clear()
    return made, handler


def sent(made: rpc.Connection) -> list[tuple[dict[str, object], bytes]]:
    frames = [decode(data) for data in made.out]
    return [({header.name: header.value for header in headers}, payload) for headers, payload in frames]


@pytest.mark.parametrize("rules", [rpc.CLASSIC, rpc.LITE])
def test_the_handshake(rules: rpc.Rules) -> None:
    made, handler = connection(rules, open_=False)
    made.receive(CONNECT)
    assert sent(made) == [({":message-type": 5, ":message-flags": 1, ":stream-id": 0}, b"")]
    assert handler.calls == [("connect", b"token")] and made.is_open


def test_classic_refuses_with_an_acknowledgement() -> None:
    made, _ = connection(open_=False)
    made.receive(frame(rpc.CONNECT, 0, 0, b"bad", **{":version": "0.1.0"}))
    assert sent(made) == [({":message-type": 5, ":message-flags": 0, ":stream-id": 0}, b"")]
    assert made.is_refused and not made.is_open


def test_lite_refuses_by_hanging_up() -> None:
    made, _ = connection(rpc.LITE, open_=False)
    with pytest.raises(PeerError):
        made.receive(frame(rpc.CONNECT, 0, 0, b"bad", **{":version": "0.1.0"}))
    assert made.out == []


@pytest.mark.parametrize(
    ("rules", "version", "opens"),
    [
        (rpc.CLASSIC, "0.1.0", True),
        (rpc.CLASSIC, "0.2.0", False),
        (rpc.CLASSIC, None, False),
        (rpc.LITE, "0.1.0", True),
        (rpc.LITE, None, True),
    ],
)
def test_versions(rules: rpc.Rules, version: str | None, opens: bool) -> None:
    made, _ = connection(rules, open_=False)
    made.receive(frame(rpc.CONNECT, 0, 0, b"token", **({":version": version} if version else {})))
    assert made.is_open is opens


@pytest.mark.parametrize("rules", [rpc.CLASSIC, rpc.LITE])
@pytest.mark.parametrize(
    "first", [frame(0, 0, 1, b"{}", operation="x"), frame(rpc.PING, 0, 0), frame(rpc.CONNECT, 0, 1, b"token")]
)
def test_anything_before_the_handshake_is_a_protocol_error(rules: rpc.Rules, first: bytes) -> None:
    made, handler = connection(rules, open_=False)
    with pytest.raises(PeerError):
        made.receive(first)
    assert handler.calls == []


def test_requests_and_their_order_on_classic() -> None:
    made, handler = connection()
    made.receive(frame(0, 0, 1, b"a", operation="x") + frame(0, 0, 5, b"b", operation="x"))
    made.receive(frame(0, 0, 3, b"late", operation="x"))  # an old id: warned of at most
    assert handler.calls == [("request", 1, "x", b"a"), ("request", 5, "x", b"b")]


def test_requests_in_any_order_on_lite() -> None:
    made, handler = connection(rpc.LITE)
    for stream in (5, 3, 5, -1):
        made.receive(frame(0, 0, stream, operation="x"))
    assert [call[1] for call in handler.calls] == [5, 3, 5, -1]


def test_a_stream_that_was_never_opened() -> None:
    made, _ = connection()
    with pytest.raises(PeerError):
        made.receive(frame(0, 0, 7, b"{}"))
    assert sent(made)[0][0][":message-type"] == rpc.PROTOCOL_ERROR
    lite, handler = connection(rpc.LITE)
    lite.receive(frame(0, 0, 7, b"{}"))
    lite.receive(frame(0, rpc.TERMINATE_STREAM, 77))
    assert handler.calls == [("request", 7, "", b"{}")]


def test_a_held_stream_takes_messages_until_it_is_closed() -> None:
    made, handler = connection()
    made.receive(frame(0, 0, 1, operation="hold") + frame(0, 0, 1, b"m") + frame(0, rpc.TERMINATE_STREAM, 1))
    made.receive(frame(0, rpc.TERMINATE_STREAM, 1))
    assert handler.calls == [("request", 1, "hold", b""), ("message", 1, b"m"), ("cancel", 1)]


def test_ping_is_echoed_on_classic_and_closes_lite() -> None:
    made, _ = connection()
    made.receive(frame(rpc.PING, 0, 0, b"hi", mine="1"))
    ((headers, payload),) = sent(made)
    assert headers[":message-type"] == rpc.PING_RESPONSE and headers["mine"] == "1" and payload == b"hi"
    lite, _ = connection(rpc.LITE)
    with pytest.raises(PeerError):
        lite.receive(frame(rpc.PING, 0, 0))


@pytest.mark.parametrize("rules", [rpc.CLASSIC, rpc.LITE])
@pytest.mark.parametrize("again", [CONNECT, frame(0, 0, 0, b"{}", operation="x")])
def test_stream_0_is_for_control(rules: rpc.Rules, again: bytes) -> None:
    made, _ = connection(rules)
    with pytest.raises(PeerError):
        made.receive(again)


def test_header_types_of_lite() -> None:
    block = encode_headers([Header("x", 0, True)])
    bad = encode(
        block
        + encode_headers(
            [Header(":message-type", INT32, 0), Header(":message-flags", INT32, 0), Header(":stream-id", INT32, 1)]
        )
    )
    made, _ = connection()
    made.receive(frame(0, 0, 1, operation="x"))
    with pytest.raises(PeerError, match="never opened"):
        made.receive(
            encode(
                block
                + encode_headers(
                    [
                        Header(":message-type", INT32, 0),
                        Header(":message-flags", INT32, 0),
                        Header(":stream-id", INT32, 9),
                    ]
                )
            )
        )
    lite, _ = connection(rpc.LITE)
    with pytest.raises(PeerError, match="has type 0"):
        lite.receive(bad)


def test_good_frames_before_a_bad_one_are_answered() -> None:
    made, handler = connection()
    bad = frame(0, 0, 2, operation="x")[:-1] + b"\x00"
    with pytest.raises(PeerError, match="checksum"):
        made.receive(frame(0, 0, 1, b"a", operation="x") + bad)
    assert handler.calls == [("request", 1, "x", b"a")]


def test_lite_limits_a_frame() -> None:
    lite, handler = connection(rpc.LITE)
    lite.receive(frame(0, 0, 1, b"x" * 9000, operation="x"))
    with pytest.raises(PeerError):
        lite.receive(frame(0, 0, 2, b"x" * 10_000, operation="x"))
    assert len(handler.calls) == 1


def test_a_fixed_frame_is_the_encoded_one() -> None:
    made = rpc.Frame(0, 2, [Header("service-model-type", STRING, "x")])
    fixed = made.fixed(b"{}")
    for stream in (0, 1, 77, -1, 2**31 - 1):
        assert fixed(stream) == made.encode(stream, b"{}")
        assert decode(fixed(stream))[0][2] == Header(":stream-id", INT32, stream)


def test_a_remembered_block_keeps_its_own_stream_id() -> None:
    reader = rpc.HeaderReader(frozenset(range(10)))
    decoy = Header("decoy", STRING, "\x0a:stream-id\x04abcdxyz")
    for stream in (1, 2, 1_684_234_849, 3):
        tail = [Header(":message-type", INT32, 0), Header(":message-flags", INT32, 0)]
        plain = encode_headers([*tail, Header(":stream-id", INT32, stream)])
        tricky = encode_headers([decoy, *tail, Header(":Stream-Id", INT32, stream)])
        assert reader.read(plain)[1] == stream
        assert reader.read(tricky)[1] == stream
        assert reader.read(tricky)[0].headers["decoy"] == decoy.value


ingredient = st.one_of(
    st.binary(max_size=40),
    st.just(CONNECT),
    st.builds(
        frame,
        st.integers(-1, 9),
        st.integers(0, 3),
        st.integers(-2, 5),
        st.binary(max_size=10),
        operation=st.sampled_from(["", "x", "hold"]),
    ),
)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(ingredient, max_size=8), st.integers(1, 30), st.booleans())
def test_any_conversation_ends_in_answers_or_a_peer_error(parts: list[bytes], piece: int, lite: bool) -> None:
    made, _ = connection(rpc.LITE if lite else rpc.CLASSIC, open_=False)
    data = b"".join(parts)
    try:
        for at in range(0, len(data), piece):
            made.receive(data[at : at + piece])
    except PeerError:
        pass
    for out in made.out:
        decode(out)
