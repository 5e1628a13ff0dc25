"""WebSocket frames, and the handshake that old device SDKs need byte for byte."""

import base64
import socket
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.iot.mqtt import websocket
from tests.e2e.conftest import start, stop


def test_the_accept_key_is_the_standards():
    assert websocket.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3
    assert websocket.accept_key(base64.b64encode(bytes(128)).decode())
    for bad in ("", "short", base64.b64encode(bytes(15)).decode()):
        with pytest.raises(ValueError):
            websocket.accept_key(bad)


@settings(max_examples=50, derandomize=True)
@given(st.lists(st.sampled_from((0, 1, 2, 120, 127, 128, 16_383, 16_384, 70_000)), max_size=6))
def test_every_packet_has_a_frame_of_its_own(sizes):
    def packet(size):
        length, left = b"", size
        while True:
            left, low = left >> 7, left & 127
            length += bytes((low | (128 if left else 0),))
            if not left:
                return b"\x30" + length + bytes(size)

    packets = [packet(size) for size in sizes]
    expected = b"".join(websocket.frame(websocket.BINARY, each) for each in packets)
    assert websocket.packet_frames(b"".join(packets)) == expected


def test_the_handshake_is_answered_in_lower_case(tmp_path):
    """As AWS does: AWSIoTPythonSDK offers a key of 128 bytes and the name mqttv3.1, and searches for lower case."""
    edge = start(tmp_path, tmp_path / "home", "--only", "iot")
    try:
        key = base64.b64encode(bytes(range(128))).decode()
        context = ssl.create_default_context(cafile=edge.ca)
        with (
            socket.create_connection(edge.host_port("wss"), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(
                b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqttv3.1\r\n"
                b"sec-websocket-key: " + key.encode() + b"\r\n\r\n"
            )
            answer = secure.recv(1024)
        assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        for line in (b"upgrade: websocket", b"connection: upgrade", b"sec-websocket-protocol: mqttv3.1",
                     b"sec-websocket-accept: " + websocket.accept_key(key)):  # fmt: skip
            assert b"\r\n" + line + b"\r\n" in answer
    finally:
        stop(edge)
