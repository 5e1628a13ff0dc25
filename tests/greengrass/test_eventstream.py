"""Frames: recorded ones byte for byte, in pieces of any size, and anything at all without a crash."""

import json
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import PeerError, ProtocolError
from foreshore.greengrass.eventstream import (
    BYTES,
    INT32,
    STRING,
    UUID,
    Decoder,
    Header,
    decode,
    decode_headers,
    encode,
    encode_headers,
)

RECORDED = json.loads((Path(__file__).parent / "ipc_frames.json").read_text())
FRAMES = [
    bytes.fromhex(data)
    for case in RECORDED
    for _, _, data in case["frames"]
    if data and "wrong message CRC" not in case["case"]
]
SHARED = Path(__file__).parents[3] / "shared" / "vectors" / "ipc_frames.json"


def test_recorded_frames_are_read_and_written_byte_for_byte() -> None:
    assert len(FRAMES) > 140
    for frame in FRAMES:
        headers, payload = decode(frame)
        assert encode(headers, payload) == frame


@pytest.mark.skipif(not SHARED.exists(), reason="the full vectors are not here")
def test_the_full_vectors() -> None:
    count = 0
    for case in json.loads(SHARED.read_text()):
        for row in case["frames"]:
            if "hex" not in row or "wrong message CRC" in case["case"]:
                continue
            frame = bytes.fromhex(row["hex"])
            headers, payload = decode(frame)
            assert encode(headers, payload) == frame
            assert payload.decode() == row["payload"]
            assert [h.name for h in headers] == [name for name, _, _ in row["headers"]]
            count += 1
    assert count > 150


@pytest.mark.parametrize("size", [1, 10, 11, 12, 13, 1000])
def test_frames_come_in_pieces(size: int) -> None:
    decoder, stream = Decoder(), b"".join(FRAMES)
    found = []
    for at in range(0, len(stream), size):
        found += decoder.feed(stream[at : at + size])
    assert [encode(block, payload) for block, payload in found] == FRAMES


EVERY_TYPE = [
    Header("t", 0, True),
    Header("f", 1, False),
    Header("byte", 2, -1),
    Header("i16", 3, -2),
    Header("i32", INT32, 2**31 - 1),
    Header("i64", 5, -(2**63)),
    Header("raw", BYTES, b"\x00\xff"),
    Header("text", STRING, "hé☃"),
    Header("time", 8, 1_700_000_000_000),
    Header("uuid", UUID, bytes(range(16))),
]


def test_every_header_type() -> None:
    assert decode_headers(encode_headers(EVERY_TYPE)) == EVERY_TYPE


@pytest.mark.parametrize(
    "header",
    [
        Header("", STRING, "x"),
        Header("n" * 256, STRING, "x"),
        Header("n", STRING, "x" * 32768),
        Header("n", INT32, 2**31),
        Header("n", UUID, b"short"),
        Header("n", STRING, 5),
        Header("n", 12, "x"),
    ],
)
def test_a_header_that_can_not_be_written(header: Header) -> None:
    with pytest.raises(ProtocolError):
        encode_headers([header])


def _frame(total: int, headers: int, body: bytes) -> bytes:
    lengths = total.to_bytes(4, "big") + headers.to_bytes(4, "big")
    head = lengths + crc32(lengths).to_bytes(4, "big") + body
    return head + crc32(head).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x00" * 12, "checksum"),
        (_frame(15, 0, b""), "a frame of 15"),
        (_frame(16, 1, b""), "1 bytes of headers"),
        (_frame(2**31, 0, b""), "a frame of"),
        (FRAMES[0][:-1] + b"\x00", "message checksum"),
    ],
)
def test_bad_frames(data: bytes, what: str) -> None:
    with pytest.raises(PeerError, match=what):
        Decoder().feed(data)


@pytest.mark.parametrize(
    "block", [b"\x01", b"\x05a", b"\x01a\x07\x00\x05ab", b"\x01a\x63", b"\x02\xff\xfe\x00", b"\x01a\x04\x00"]
)
def test_bad_header_blocks(block: bytes) -> None:
    with pytest.raises(PeerError):
        decode_headers(block)


def test_a_large_frame_in_small_pieces_is_not_copied_each_time() -> None:
    frame = encode([Header("n", STRING, "v")], b"x" * 4_000_000)
    decoder, found = Decoder(), []
    for at in range(0, len(frame), 1000):
        found += decoder.feed(frame[at : at + 1000])
    assert len(found) == 1 and len(found[0][1]) == 4_000_000


names = st.text(min_size=1, max_size=20).filter(lambda text: 0 < len(text.encode()) < 256)
headers = st.one_of(
    st.builds(Header, names, st.just(STRING), st.text(max_size=50)),
    st.builds(Header, names, st.just(INT32), st.integers(-(2**31), 2**31 - 1)),
    st.builds(Header, names, st.just(BYTES), st.binary(max_size=50)),
)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(headers, max_size=6), st.binary(max_size=200), st.integers(1, 50))
def test_what_is_written_is_read(items: list[Header], payload: bytes, piece: int) -> None:
    frame = encode(items, payload)
    decoder, found = Decoder(), []
    for at in range(0, len(frame), piece):
        found += decoder.feed(frame[at : at + piece])
    assert [(decode_headers(block), body) for block, body in found] == [(items, payload)]


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_a_peer_error(data: bytes) -> None:
    try:
        for block, _ in Decoder().feed(data):
            decode_headers(block)
    except PeerError:
        return


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.binary(max_size=120))
def test_any_header_block_is_read_or_a_peer_error(block: bytes) -> None:
    try:
        found = decode_headers(block)
    except PeerError:
        return
    assert decode_headers(encode_headers(found)) == found
