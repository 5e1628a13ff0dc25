"""The servers that bench_mqtt.py measures, each a child process of its own with the files a device needs to connect.

Ours is `IotCore` as `foreshore dev` composes it: registry, policies and certificates in SQLite, durable sessions,
presence, the rules engine and the trace recorder. "full" has all of it, and holds the plain listener, where the edge
asks no policy, to the bench certificate's policy as well. "bare" is the broker alone. Nobody's publish rates are
limited, and AWS's window of 100 unacknowledged messages is opened as Mosquitto's is.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

REGION, ACCOUNT = "us-east-1", "000000000000"
ARN = f"arn:aws:iot:{REGION}:{ACCOUNT}:"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}client/load-*"},
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive"],
            "Resource": [f"{ARN}topic/devices/*", f"{ARN}topic/pairs/*", f"{ARN}topic/fanout/*"],
        },
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/*"},
        {"Effect": "Deny", "Action": "iot:Publish", "Resource": f"{ARN}topic/secret/*"},
    ],
}


class Server(NamedTuple):
    """A running server. `tls` holds the files for a device under mutual TLS: CA, certificate, key; a port 0 is none."""

    name: str
    pid: int
    port: int
    tls_port: int
    tls: tuple[Path, ...] = ()


# Ours, inside the child


def serve(full: bool, folder: Path) -> None:
    """Be our server on two free ports, told on standard output, until SIGTERM."""
    import uvloop

    uvloop.run(_serve_full(folder) if full else _serve_bare(folder))


async def _until_stopped(plain: int, tls: int) -> None:
    from foreshore.tuning import settle_memory

    settle_memory()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print(f"{plain} {tls}", flush=True)
    await stopped.wait()


async def _serve_full(folder: Path) -> None:
    import orjson

    from foreshore.iot import policies
    from foreshore.iot.service import IotCore
    from foreshore.traces.recorder import Recorder

    state = folder / "state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir()
    recorder = Recorder(state / "traces.db")
    iot = IotCore(
        state=state, certs=state / "certs", region=REGION, account=ACCOUNT, span=recorder.span, log=recorder.log,
        invoke=None, backend_url=lambda: "http://127.0.0.1:9", rate_limits=False,
    )  # fmt: skip
    iot.access.plain_policy = policies.parse(POLICY, "bench")  # As `--plain-policy` does.
    iot.broker.limits = replace(iot.broker.limits, send_window=65535)
    certificate = (folder / "client.pem").read_text()
    wanted = {"certificatePem": certificate, "status": "ACTIVE"}
    arn = iot.certificates.register_without_ca(wanted, None)["certificateArn"]  # type: ignore[arg-type]
    iot.policies.ensure("bench", orjson.dumps(POLICY).decode())
    iot.policies.attach_to("bench", arn)
    await iot.start("127.0.0.1", mqtt_port=0, mqtts_port=0, https_port=0)
    shutil.copy(iot.authority.ca_path, folder / "ours.pem")
    await _until_stopped(iot.mqtt_port, iot.mqtts_port)
    await iot.stop()
    recorder.close()


async def _serve_bare(folder: Path) -> None:
    from foreshore.iot.mqtt.limits import AWS
    from foreshore.iot.mqtt.server import Broker

    broker = Broker(rate_limits=False, limits=replace(AWS, send_window=65535))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    plain = await broker.listen("127.0.0.1", 0)
    tls = await broker.listen("127.0.0.1", 0, kind="mqtts", ssl=context)
    await _until_stopped(plain, tls)
    await broker.stop()


# The children, from outside


def make_certificates(folder: Path) -> None:
    """A CA, a server and a client certificate, P-256."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)

    def make(name: str, issuer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[1].subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(issuer[0] if issuer else key, hashes.SHA256())
        )
        return key, certificate

    authority = make("bench ca", None)
    pairs = {"ca": authority, "server": make("localhost", authority), "client": make("client", authority)}
    for name, (key, certificate) in pairs.items():
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _device(folder: Path) -> tuple[Path, Path]:
    return folder / "client.pem", folder / "client.key"


def wait_for(port: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on {port}")


@contextmanager
def child(argv: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(argv, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def ours(full: bool, folder: Path) -> Iterator[Server]:
    name = "full" if full else "bare"
    argv = [sys.executable, str(Path(__file__).resolve()), "--serve", name, str(folder)]
    with child(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        plain, tls = map(int, process.stdout.readline().split())
        authority = folder / ("ours.pem" if full else "ca.pem")
        yield Server(f"foreshore, {name}", process.pid, plain, tls, (authority, *_device(folder)))


@contextmanager
def mosquitto(folder: Path) -> Iterator[Server]:
    plain, tls = free_port(), free_port()
    configuration = folder / "mosquitto.conf"
    configuration.write_text(
        f"listener {plain} 127.0.0.1\nallow_anonymous true\n"
        f"listener {tls} 127.0.0.1\ncafile {folder}/ca.pem\ncertfile {folder}/server.pem\nkeyfile {folder}/server.key\n"
        "require_certificate true\nset_tcp_nodelay true\nmax_inflight_messages 65535\nmax_queued_messages 0\n"
        "persistence false\nlog_dest none\nuser root\n"
    )
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with child([program, "-c", str(configuration)], stderr=subprocess.DEVNULL) as process:
        wait_for(plain)
        yield Server("mosquitto", process.pid, plain, tls, (folder / "ca.pem", *_device(folder)))


AMQTT = """
import asyncio, sys, logging
from amqtt.broker import Broker
logging.disable(logging.CRITICAL)
async def main():
    listener = {"type": "tcp", "bind": "127.0.0.1:%s" % sys.argv[1], "max_connections": 10000}
    broker = Broker({"listeners": {"default": listener},
                     "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}})
    await broker.start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


@contextmanager
def amqtt(python: str) -> Iterator[Server]:
    port = free_port()
    with child([python, "-c", AMQTT, str(port)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        wait_for(port)
        yield Server("amqtt", process.pid, port, 0)


@contextmanager
def ministack(folder: Path) -> Iterator[Server]:
    """MiniStack speaks MQTT under TLS alone; it checks no policy unless asked to, and is not asked."""
    gateway, tls = free_port(), free_port()
    state = folder / "ministack"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(gateway), "IOT_MTLS_ENABLED": "1", "IOT_MTLS_PORT": str(tls),
        "SFTP_ENABLED": "0", "PERSIST_STATE": "0", "S3_PERSIST": "0", "STATE_DIR": str(state),
        "S3_DATA_DIR": str(state / "s3"), "LOG_LEVEL": "ERROR", "DOCKER_HOST": "unix:///nonexistent.sock",
    }  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with child([sys.executable, "-m", "ministack"], env=environment, **quiet) as process:
        wait_for(gateway, 60)
        wait_for(tls, 30)
        files = _ministack_device(f"http://127.0.0.1:{gateway}", folder)
        yield Server("ministack", process.pid, 0, tls, files)


def _ministack_device(url: str, folder: Path) -> tuple[Path, Path, Path]:
    import boto3

    paths = folder / "ministack-ca.pem", folder / "ministack.pem", folder / "ministack.key"
    with urllib.request.urlopen(f"{url}/_ministack/iot/ca.pem") as answer:
        paths[0].write_bytes(answer.read())
    iot = boto3.client(
        "iot", endpoint_url=url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
    )
    made = iot.create_keys_and_certificate(setAsActive=True)
    paths[1].write_text(made["certificatePem"])
    paths[2].write_text(made["keyPair"]["PrivateKey"])
    return paths


def main() -> None:
    """The child: `mqtt_servers.py --serve full|bare FOLDER`."""
    serve(sys.argv[2] == "full", Path(sys.argv[3]))


if __name__ == "__main__":
    main()
