"""The slim client's frames, cut up in every way, and against frames of the real nucleus lite and awsiotsdk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.greengrass import eventstream
from foreshore.greengrass.lambda_host import frames

VECTORS = Path(__file__).parents[4] / "shared/vectors/ipc_frames.json"
HELLO = frames.frame(frames.CONNECT, 0, 0, frames.text_header(":version", "0.1.0"), b'{"authToken": "x"}')


@pytest.mark.parametrize("size", [1, 10, 11, 1000])
def test_bytes_come_in_any_pieces(size: int) -> None:
    data = HELLO * 3
    reader = frames.Reader()
    found = [message for at in range(0, len(data), size) for message in reader.feed(data[at : at + size])]
    expected = {":message-type": 4, ":message-flags": 0, ":stream-id": 0, ":version": "0.1.0"}
    assert found == [(expected, b'{"authToken": "x"}')] * 3


@pytest.mark.parametrize("at", range(0, len(HELLO), 7))
def test_any_damage_is_seen(at: int) -> None:
    damaged = bytearray(HELLO)
    damaged[at] ^= 0x10
    try:
        found = list(frames.Reader().feed(bytes(damaged)))
    except frames.BadFrame:
        return
    assert found == []


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.dictionaries(st.text("abc-:", min_size=1, max_size=9), st.text(max_size=40) | st.integers(-9, 9), max_size=4))
def test_the_servers_codec_agrees(headers: dict[str, int | str]) -> None:
    encoded = b"".join(
        frames.text_header(name, value) if isinstance(value, str) else frames.number_header(name, value)
        for name, value in headers.items()
    )
    typed = [
        eventstream.Header(name, eventstream.STRING if isinstance(value, str) else eventstream.INT32, value)
        for name, value in headers.items()
    ]
    assert encoded == eventstream.encode_headers(typed)


@pytest.mark.skipif(not VECTORS.exists(), reason="captured frames are not next to this checkout")
def test_captured_frames() -> None:
    for case in json.loads(VECTORS.read_text()):
        for captured in case["frames"]:
            if "hex" not in captured or any(kind not in ("i32", "str") for _, kind, _ in captured.get("headers", ())):
                continue
            try:
                messages = list(frames.Reader().feed(bytes.fromhex(captured["hex"])))
            except frames.BadFrame:
                assert "CRC" in case["case"] or "crc" in case["case"]
                continue
            for headers, payload in messages:
                assert headers == {name: value for name, _, value in captured["headers"]}
                assert payload.decode() == captured["payload"]
