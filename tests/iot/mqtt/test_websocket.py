"""WebSocket frames, and the handshake that old device SDKs need byte for byte."""

import base64
import queue
import socket
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection

import paho.mqtt.client as mqtt
import pytest
from awscrt import auth, http
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

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


def test_the_plain_listener_takes_plain_websockets(tmp_path):
    """For tools and pages on this machine: paho without TLS, beside clients that speak bare MQTT to the same port."""
    edge = start(tmp_path, tmp_path / "home", "--only", "iot")
    try:
        heard = queue.Queue()
        clients = []
        for version, transport in ((mqtt.MQTTv5, "websockets"), (mqtt.MQTTv311, "websockets"), (mqtt.MQTTv5, "tcp")):
            client = mqtt.Client(CallbackAPIVersion.VERSION2, f"c{len(clients)}", protocol=version, transport=transport)
            client.on_subscribe = lambda *_: heard.put("subscribed")
            client.on_message = lambda client, _data, message: heard.put((client._client_id, message.payload))
            client.connect(*edge.host_port("mqtt"))
            client.loop_start()
            client.subscribe("a/b", 1)
            assert heard.get(timeout=10) == "subscribed"
            clients.append(client)
        clients[0].publish("a/b", "hello", 1)
        assert sorted(heard.get(timeout=10) for _ in clients) == [
            (b"c0", b"hello"),
            (b"c1", b"hello"),
            (b"c2", b"hello"),
        ]
        for client in clients:
            client.disconnect()
            client.loop_stop()
        host, port = edge.host_port("mqtt")
        for path, code in (("/other", 404), ("/mqtt", 426)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://{host}:{port}{path}")
            assert refused.value.code == code
            refused.value.close()
    finally:
        stop(edge)


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
        assert [signed(edge, age) for age in (0, 3600)] == [101, 403]
    finally:
        stop(edge)


def signed(edge, age_s):
    """The status that a URL gets which the SDK's own signer dated so many seconds back."""
    config = auth.AwsSigningConfig(
        algorithm=auth.AwsSigningAlgorithm.V4,
        signature_type=auth.AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS,
        credentials_provider=auth.AwsCredentialsProvider.new_static("AKID", "secret", "token"),
        region="us-east-1",
        service="iotdevicegateway",
        date=datetime.now(UTC) - timedelta(seconds=age_s),
        omit_session_token=True,
    )
    request = http.HttpRequest("GET", "/mqtt")
    request.headers.add("host", "localhost")
    target = auth.aws_sign_request(request, config).result(10).path
    connection = HTTPSConnection(*edge.host_port("wss"), context=ssl.create_default_context(cafile=edge.ca))
    try:
        connection.request("GET", target, headers={
            "Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": "mqtt", "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        })  # fmt: skip
        return connection.getresponse().status
    finally:
        connection.close()
