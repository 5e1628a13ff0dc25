"""Event-stream RPC, the server's side, without I/O: bytes in, calls on a `Handler` and bytes in `out`.

Knows: the handshake, streams, message types and flags, and where classic and lite differ (`Rules`). Knows no
operation, JSON or socket. A broken protocol raises PeerError from `receive`; the shell writes what is in `out`, then
closes. Facts: aws-c-event-stream (event_stream_rpc.h), awsiotsdk `eventstreamrpc`, greengrass-lite `ggipcd`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol
from zlib import crc32

from foreshore.errors import PeerError
from foreshore.greengrass.eventstream import (
    INT32,
    MAX_FRAME,
    STRING,
    Decoder,
    Header,
    decode_headers,
    encode_headers,
)

APPLICATION_MESSAGE, APPLICATION_ERROR, PING, PING_RESPONSE, CONNECT, CONNECT_ACK, PROTOCOL_ERROR, INTERNAL_ERROR = (
    range(8)
)
CONNECTION_ACCEPTED = 1
TERMINATE_STREAM = 2
VERSION = "0.1.0"
MAX_STREAMS = 10_000

_NEVER = 1 << 40
_STREAM_ID = b"\x0a:stream-id\x04"
_i32 = struct.Struct(">i")
_u32 = struct.Struct(">I")
_lengths = struct.Struct(">II")


class Incoming(NamedTuple):
    """A parsed header block but for the stream id. `headers` has lower-case names."""

    type: int
    flags: int
    operation: str
    headers: Mapping[str, bool | int | bytes | str]
    is_request: bool
    """Whether it may open a stream on a classic core."""


class Frame:
    """An outgoing frame's fixed part: type, flags and the headers after `:stream-id`."""

    __slots__ = ("_head", "_size", "_tail")

    def __init__(self, type: int, flags: int, headers: Sequence[Header] = ()) -> None:
        first = [Header(":message-type", INT32, type), Header(":message-flags", INT32, flags)]
        self._head = encode_headers(first) + _STREAM_ID
        self._tail = encode_headers(headers)
        self._size = len(self._head) + 4 + len(self._tail)

    def encode(self, stream_id: int, payload: bytes = b"", more: bytes = b"") -> bytes:
        """The whole frame. `more` is a block of further headers."""
        size = self._size + len(more)
        lengths = _lengths.pack(16 + size + len(payload), size)
        prelude = _u32.pack(crc32(lengths))
        body = b"".join((lengths, prelude, self._head, _i32.pack(stream_id), self._tail, more, payload))
        return body + _u32.pack(crc32(body))

    def fixed(self, payload: bytes) -> Callable[[int], bytes]:
        """An encoder for a payload that never changes: only the stream id and the checksum are worked out."""
        frame = self.encode(0, payload)
        split = 12 + len(self._head)
        before, after = frame[:split], frame[split + 4 : -4]
        before_crc = crc32(before)
        pack_id, pack_crc = _i32.pack, _u32.pack

        def encode(stream_id: int) -> bytes:
            rest = pack_id(stream_id) + after
            return before + rest + pack_crc(crc32(rest, before_crc))

        return encode


class Handler(Protocol):
    """Who the connection calls. A stream that `request` does not `hold` is over when `request` returns."""

    def connect(self, headers: Mapping[str, object], payload: bytes) -> Sequence[Header] | None:
        """Admit the client: further headers for the acknowledgement, or None to refuse."""
        ...

    def request(self, stream_id: int, incoming: Incoming, payload: bytes) -> None:
        """A first message on a stream. `incoming.operation` may be empty (lite only)."""
        ...

    def message(self, stream_id: int, incoming: Incoming, payload: bytes) -> None:
        """A later message on a held stream."""
        ...

    def cancel(self, stream_id: int) -> None:
        """The client closed a held stream."""
        ...


class HeaderReader:
    """Reads header blocks, remembering those it has seen.

    A client's blocks differ only in the stream id, so a reading is kept under the block without it. The first marker
    in a block is the same place in every block with that key, and the four bytes after it are of fixed length, so the
    memory is exact once it is known that those bytes are the stream id. The latest one is compared first.
    """

    __slots__ = ("_after", "_at", "_before", "_known", "_latest", "_size", "_types")

    def __init__(self, types: frozenset[int]) -> None:
        self._types = types
        self._known: dict[bytes, Incoming] = {}
        self._size = 0
        self._at = 0
        self._before = b""
        self._after = b""
        self._latest: Incoming | None = None

    def read(self, block: bytes) -> tuple[Incoming, int]:
        """What a block says, and its stream id. Raises PeerError."""
        latest = self._latest
        if (
            latest is not None
            and len(block) == self._size
            and block.startswith(self._before)
            and block.endswith(self._after)
        ):
            return latest, _i32.unpack_from(block, self._at)[0]
        at = block.find(_STREAM_ID) + 12
        if at == 11:
            return self._read(block)
        key = block[:at] + block[at + 4 :]
        known = self._known.get(key)
        if known is not None:
            self._latest, self._size, self._at = known, len(block), at
            self._before, self._after = block[:at], block[at + 4 :]
            return known, _i32.unpack_from(block, at)[0]
        incoming, stream_id = self._read(block)
        # A traced request's block is its own: not worth remembering.
        if "traceparent" not in incoming.headers and len(block) < 512:
            other = stream_id ^ 1
            if self._read(block[:at] + _i32.pack(other) + block[at + 4 :])[1] == other:
                if len(self._known) >= 512:
                    self._known.clear()
                self._known[key] = incoming
        return incoming, stream_id

    def _read(self, block: bytes) -> tuple[Incoming, int]:
        headers: dict[str, bool | int | bytes | str] = {}
        for name, kind, value in decode_headers(block):
            if kind not in self._types:
                raise PeerError(f"header {name} has type {kind}")
            headers[name.lower()] = value
        type_, flags = headers.get(":message-type"), headers.get(":message-flags")
        stream_id, operation = headers.get(":stream-id"), headers.get("operation", "")
        if type(type_) is not int or type(flags) is not int or type(stream_id) is not int:
            raise PeerError(":message-type, :message-flags and :stream-id must be int32")
        name = operation if isinstance(operation, str) else ""
        return Incoming(type_, flags, name, headers, type_ == APPLICATION_MESSAGE and name != ""), stream_id


class Rules(NamedTuple):
    """Where the two nuclei differ on the wire."""

    max_frame: int
    reader: HeaderReader
    refuses_with_ack: bool
    needs_version: bool
    ordered_streams: bool
    answers_control: bool
    unary_flags: int


CLASSIC = Rules(MAX_FRAME, HeaderReader(frozenset(range(10))), True, True, True, True, TERMINATE_STREAM)
LITE = Rules(10_012, HeaderReader(frozenset({INT32, STRING})), False, False, False, False, 0)


_ack = Frame(CONNECT_ACK, 0)
_protocol_error = Frame(PROTOCOL_ERROR, 0, [Header(":content-type", STRING, "application/json")])


class Connection:
    """One client's connection. `out` gathers frames to write; `held` are the streams that stay open."""

    __slots__ = ("_decoder", "_handler", "_latest", "held", "is_open", "is_refused", "out", "rules")

    def __init__(self, handler: Handler, rules: Rules = CLASSIC) -> None:
        self._handler = handler
        self._decoder = Decoder(rules.max_frame)
        self._latest = 0 if rules.ordered_streams else _NEVER
        self.rules = rules
        self.held: set[int] = set()
        self.is_open = False
        self.is_refused = False
        self.out: list[bytes] = []

    def receive(self, data: bytes) -> None:
        """Take bytes from the client. Raises PeerError when it broke the protocol: write `out` and close."""
        try:
            frames = self._decoder.feed(data)
            read = self.rules.reader.read
            for block, payload in frames:
                incoming, stream_id = read(block)
                # The common case first: an id that was never used can't be one that is held.
                if incoming.is_request and stream_id > self._latest and self.is_open and len(self.held) < MAX_STREAMS:
                    self._latest = stream_id
                    self._handler.request(stream_id, incoming, payload)
                else:
                    self._frame(incoming, stream_id, payload)
            if self._decoder.broken is not None:
                raise self._decoder.broken
        except PeerError as error:
            if self.is_open and self.rules.answers_control:
                text = error.what.replace("\\", "/").replace('"', "'")
                self.out.append(_protocol_error.encode(0, b'{"message":"%s"}' % text.encode()))
            raise

    def _frame(self, incoming: Incoming, stream_id: int, payload: bytes) -> None:
        """Every frame passes here."""
        if not self.is_open:
            self._handshake(incoming, stream_id, payload)
        elif stream_id == 0:
            self._control(incoming, payload)
        elif stream_id in self.held:
            if incoming.flags & TERMINATE_STREAM:
                self.held.discard(stream_id)
                self._handler.cancel(stream_id)
            else:
                self._handler.message(stream_id, incoming, payload)
        else:
            self._first(incoming, stream_id, payload)

    def _handshake(self, incoming: Incoming, stream_id: int, payload: bytes) -> None:
        if self.is_refused or incoming.type != CONNECT or stream_id != 0:
            raise PeerError("a message before the handshake")
        version = incoming.headers.get(":version")
        is_known = version == VERSION or (version is None and not self.rules.needs_version)
        more = self._handler.connect(incoming.headers, payload) if is_known else None
        if more is not None:
            self.is_open = True
            self.out.append(Frame(CONNECT_ACK, CONNECTION_ACCEPTED, more).encode(0))
            return
        self.is_refused = True
        if not self.rules.refuses_with_ack:
            raise PeerError("the client is refused")
        self.out.append(_ack.encode(0))

    def _control(self, incoming: Incoming, payload: bytes) -> None:
        if not self.rules.answers_control or incoming.type not in (PING, PING_RESPONSE):
            raise PeerError(f"a message of type {incoming.type} on stream 0")
        if incoming.type == PING:
            echoed = [
                Header(name, STRING, value)
                for name, value in incoming.headers.items()
                if not name.startswith(":") and isinstance(value, str)
            ]
            self.out.append(Frame(PING_RESPONSE, 0, echoed).encode(0, payload))

    def _first(self, incoming: Incoming, stream_id: int, payload: bytes) -> None:
        """A message on a stream that is not held: a new one, or a late word on an old one."""
        if self.rules.ordered_streams:
            if 0 < stream_id <= self._latest:
                return
            if stream_id < 0 or not incoming.operation or incoming.type != APPLICATION_MESSAGE:
                raise PeerError(f"stream {stream_id} was never opened")
            self._latest = stream_id
        elif incoming.flags & TERMINATE_STREAM and not incoming.operation:
            return
        if len(self.held) >= MAX_STREAMS:
            raise PeerError(f"more than {MAX_STREAMS} open streams")
        self._handler.request(stream_id, incoming, payload)
