"""Many, slow and silent clients: none of them harms another, and what is kept for them is bounded."""

import asyncio
import datetime
import resource
import socket
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from foreshore.iot.mqtt import codec, server
from foreshore.iot.mqtt.access import AllowAll
from foreshore.iot.mqtt.codec import V311
from foreshore.iot.mqtt.limits import AWS
from tests.iot.mqtt.wire import Wire, serve

CROWD = Path(__file__).parent / "crowd.py"
IDLE = 5000


@pytest.fixture(scope="module")
def server_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


class Child:
    """One process of crowd.py; it speaks by lines."""

    def __init__(self, *argv):
        self.process = subprocess.Popen(
            [sys.executable, CROWD, *map(str, argv)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def line(self):
        return self.process.stdout.readline().split()

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def test_5000_idle_clients_all_answer_and_all_hear(server_files):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < IDLE + 200:
        pytest.skip(f"the hard limit of open files is {hard}: too few for {IDLE} connections")
    with Child("broker", *server_files) as broker:
        port, _ = broker.line()
        with Child("clients", IDLE, port) as clients:
            assert clients.line() == ["connected", str(IDLE), "subscribed", str(IDLE)]
            clients.go_on()
            assert clients.line() == ["answered", str(IDLE), "heard", str(IDLE), "lost", "0"]


@pytest.mark.parametrize("qos", [0, 1])
def test_a_slow_subscriber_holds_up_nobody_and_is_kept_within_bounds(qos):
    limits = replace(AWS, max_queued=10_000, max_queued_bytes=300_000, max_unsent_bytes=200_000)
    rounds, size = 400, 60_000  # More than the buffers of two sockets on loopback hold.

    async def subscriber(port, name):
        wire = await Wire.open(port, name, V311)
        await wire.receive()
        wire.send(codec.Subscribe(1, [codec.Request("flood", qos)]))
        await wire.receive()
        return wire

    async def scenario(broker, port):
        slow, quick = await subscriber(port, "slow"), await subscriber(port, "quick")
        slow.writer.transport.pause_reading()
        slow.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        publisher = await Wire.open(port, "publisher", V311)
        await publisher.receive()
        kept = broker.sessions["slow"]
        most = 0
        for each in range(1, rounds + 1):
            publisher.send(codec.Publish("flood", b"x" * size, qos, packet_id=each if qos else 0))
            heard = await quick.receive()
            assert len(heard.payload) == size
            if qos:
                quick.send(codec.encode_ack(codec.Ack(4, heard.packet_id), V311))
                assert (await publisher.receive()).packet_id == each
            connection = kept.connection
            held = connection.link.transport.get_write_buffer_size() + kept.queued_bytes
            held += sum(map(len, connection.out))
            held += sum(one.message.size() for one in kept.inflight.values() if one) if qos else 0
            most = max(most, held)
        assert broker.counters["dropped"] > 0
        return most

    most = 0

    async def measured(broker, port):
        nonlocal most
        most = await scenario(broker, port)

    # The window of 10 messages on the way, the queue, what the transport holds, and what the pause found on its way.
    serve(measured, access=AllowAll(), limits=replace(limits, send_window=10))
    assert 0 < most < 10 * size + 300_000 + 200_000 + 2 * server.HIGH_WATER + 2 * size


def test_clients_that_never_finish_harm_nobody_and_are_shut_out(server_files, monkeypatch):
    """Half a CONNECT on the plain listener, half a handshake or none on the TLS one: each is closed in time."""
    monkeypatch.setattr(server, "CONNECT_TIMEOUT_S", 2.0)
    clock = {"now": 1000.0}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server_files)

    async def scenario(broker, port):
        tls = await broker.listen("127.0.0.1", 0, kind="mqtts", ssl=context)
        half = [await asyncio.open_connection("127.0.0.1", port) for _ in range(150)]
        for _, writer in half:
            writer.write(b"\x10\x20\0\4MQ")
        silent = [await asyncio.open_connection("127.0.0.1", tls) for _ in range(150)]
        for _, writer in silent[::2]:
            writer.write(b"\x16\x03\x01\x02\x00\x01")
        good = await Wire.open(port, "good", V311)
        await good.receive()
        good.send(b"\xc0\0")
        assert isinstance(await good.receive(), codec.Ping)
        for _, writer in half:
            writer.write(b"T")  # A dribble gains no time.
        clock["now"] += 11
        broker.tick()
        ends = await asyncio.wait_for(
            asyncio.gather(*(reader.read() for reader, _ in half + silent), return_exceptions=True), 30
        )
        assert all(end == b"" or isinstance(end, ConnectionError) for end in ends)
        assert [info.client_id for info in broker.clients()] == ["good"]
        good.send(b"\xc0\0")
        assert isinstance(await good.receive(), codec.Ping)
        for _, writer in half + silent:
            writer.close()

    serve(scenario, access=AllowAll(), clock=lambda: clock["now"])
