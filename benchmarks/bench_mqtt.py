"""The MQTT broker side by side with Mosquitto (and amqtt) in one run: server CPU a message, and the gates.

    python benchmarks/bench_mqtt.py [--quick] [--load NAME ...] [--amqtt PYTHON]

Needs a C compiler (the generator is mqtt_load.c) and `mosquitto` on the path; what is missing is left out and said.
Ours runs twice: "full" asks real IoT policies, publishes presence and records a span a message; "bare" does neither.
Every figure is of one run on this machine: read the ratios. CPU is user plus system time of the server process.
`--amqtt` names the Python of an environment with amqtt in it.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


class Load(NamedTuple):
    """One load: arguments of mqtt_load, and the gate (our CPU a message against Mosquitto's, at least)."""

    name: str
    mode: str
    connections: int
    messages: int
    qos: int
    window: int
    tls: bool = False
    gate: float | None = None
    slow: int = 20
    """By how much fewer messages amqtt gets."""


LOADS = [
    Load("fan-in 50 to 1, QoS 1, bursts of 50", "fanin", 50, 400_000, 1, 50, gate=3.0),
    Load("fan-in 50 to 1, QoS 1, one at a time", "fanin", 50, 150_000, 1, 1, gate=0.9),
    Load("fan-in 50 to 1, QoS 0, bursts of 50", "fanin", 50, 400_000, 0, 50, gate=3.0),
    Load("fan-out 1 to 100, QoS 0", "fanout", 100, 15_000, 0, 50, gate=3.0),
    Load("fan-out 1 to 100, QoS 1", "fanout", 100, 6_000, 1, 20, gate=3.0),
    Load("50 pairs, QoS 1, one at a time", "pairs", 50, 100_000, 1, 1, gate=0.9),
    Load("latency at 1,000/s, QoS 1", "latency", 1, 4_000, 1, 1000),
    Load("connects, plain", "connect", 32, 20_000, 0, 1, gate=0.7),
    Load("connects, mutual TLS", "connect", 16, 1_500, 0, 1, tls=True, gate=0.7),
    Load("mTLS fan-in 50 to 1, QoS 1, one at a time", "fanin", 50, 100_000, 1, 1, tls=True, gate=0.9),
    Load("mTLS 5,000 devices at 1/s, QoS 1", "steady", 5000, 25_000, 1, 1, tls=True, gate=0.6, slow=0),
]
IDLE = [(1000, False), (5000, False), (5000, True)]

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "arn:aws:iot:us-east-1:000000000000:client/load-*"},
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive"],
            "Resource": [
                "arn:aws:iot:us-east-1:000000000000:topic/devices/*",
                "arn:aws:iot:us-east-1:000000000000:topic/pairs/*",
                "arn:aws:iot:us-east-1:000000000000:topic/fanout/*",
            ],
        },
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "arn:aws:iot:us-east-1:000000000000:topicfilter/*"},
        {"Effect": "Deny", "Action": "iot:Publish", "Resource": "arn:aws:iot:us-east-1:000000000000:topic/secret/*"},
    ],
}


# The server child


def serve(full: bool, folder: Path) -> None:
    """Be the server: our broker on two free ports, told on standard output, until SIGTERM."""
    import uvloop

    from foreshore.iot import policies
    from foreshore.iot.mqtt.access import AllowAll, ConnectDecision, ConnectRequest, SilentObserver
    from foreshore.iot.mqtt.limits import AWS
    from foreshore.iot.mqtt.server import Broker, tune_process
    from foreshore.iot.presence import Presence
    from foreshore.traces.recorder import Recorder

    policy = policies.parse(POLICY, "bench")
    arn = "arn:aws:iot:us-east-1:000000000000:"

    class Policies:
        def allows(self, action: str, resource: str) -> bool:
            return policies.decide([policy], action, arn + resource, {}).allowed

        def connect(self, request: ConnectRequest, /) -> ConnectDecision:
            return ConnectDecision(self.allows("iot:Connect", f"client/{request.client_id}"), principal="f" * 64)

        def may_publish(self, identity: object, topic: str, retain: bool, /) -> bool:
            return self.allows("iot:Publish", f"topic/{topic}")

        def may_subscribe(self, identity: object, filter: str, /) -> bool:
            return self.allows("iot:Subscribe", f"topicfilter/{filter}")

        def may_receive(self, identity: object, topic: str, /) -> bool:
            return self.allows("iot:Receive", f"topic/{topic}")

    recorder = Recorder(folder / "traces.db") if full else None
    broker = Broker(
        access=Policies() if full else AllowAll(),
        observer=Presence(
            lambda publication: broker.publish(publication),
            lambda: time.time_ns() // 1_000_000,
            lambda topic: broker.is_heard(topic),
        )
        if full
        else SilentObserver(),
        span=recorder.span if recorder else None,
        rate_limits=False,
        # AWS lets 100 QoS 1 messages be on the way to a client; Mosquitto's window is opened as wide below.
        limits=replace(AWS, send_window=65535),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    async def main() -> None:
        plain = await broker.listen("127.0.0.1", 0)
        tls = await broker.listen("127.0.0.1", 0, kind="mqtts", ssl=context)
        tune_process()
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        print(f"{plain} {tls}", flush=True)
        await stopped.wait()
        await broker.stop()

    uvloop.run(main())
    if recorder is not None:
        recorder.close()


# The parent


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


def build_generator(folder: Path) -> Path | None:
    """Compile mqtt_load.c, with TLS when OpenSSL's headers are there."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print("no C compiler: nothing to measure with")
        return None
    program = folder / "mqtt_load"
    base = [compiler, "-O2", str(HERE / "mqtt_load.c"), "-o", str(program)]
    if subprocess.run([*base, "-DWITH_TLS", "-lssl", "-lcrypto"], capture_output=True).returncode:
        print("no OpenSSL headers: loads under TLS are left out")
        LOADS[:] = [load for load in LOADS if not load.tls]
        IDLE[:] = [(count, tls) for count, tls in IDLE if not tls]
        subprocess.run(base, check=True)
    return program


class Server(NamedTuple):
    name: str
    pid: int
    port: int
    tls_port: int


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_kb(pid: int) -> int:
    """Resident memory."""
    return int(
        next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line).split()[1]
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
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
        yield Server(f"foreshore, {name}", process.pid, plain, tls)


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
        yield Server("mosquitto", process.pid, plain, tls)


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


def measure(program: Path, server: Server, load: Load, folder: Path, scale: float) -> dict[str, float]:
    """Run one load against one server; give messages a second, CPU us a message and percentiles."""
    messages = max(int(load.messages * scale), load.connections)
    argv = [program, load.mode, "127.0.0.1", server.tls_port if load.tls else server.port, load.connections]
    argv += [messages, load.qos, load.window]
    if load.tls:
        argv += [folder / "ca.pem", folder / "client.pem", folder / "client.key"]
    process = subprocess.Popen([str(one) for one in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        if load.mode != "connect":
            if not process.stdout.readline():
                raise RuntimeError("the generator could not connect")
            time.sleep(0.3)
        before = cpu_seconds(server.pid)
        process.stdin.write("\n")
        process.stdin.close()
        line = process.stdout.readline()
        if process.wait(60) or not line:
            raise RuntimeError("the generator failed")
        if server.name == "foreshore, full":
            time.sleep(0.5)  # The trace recorder writes behind; its CPU is counted too.
        result: dict[str, float] = json.loads(line)
    except BaseException:
        process.kill()
        process.wait()
        raise
    used = cpu_seconds(server.pid) - before
    result["rate"] = result["messages"] / result["seconds"]
    result["cpu_us"] = used * 1e6 / result["messages"]
    return result


def idle_memory(program: Path, server: Server, count: int, tls: bool, folder: Path) -> float:
    """KB a connection, `count` of them idle."""
    argv = [str(program), "idle", "127.0.0.1", str(server.tls_port if tls else server.port), str(count), "1", "0", "1"]
    if tls:
        argv += [str(folder / name) for name in ("ca.pem", "client.pem", "client.key")]
    before = memory_kb(server.pid)
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    time.sleep(0.5)
    grown = memory_kb(server.pid) - before
    process.stdin.close()
    process.wait(60)
    return grown / count


def report_load(load: Load, rows: list[tuple[str, dict[str, float]]]) -> list[str]:
    """Print one load's rows; give the gates it misses."""
    print(f"\n{load.name}")
    reference = next((row for name, row in rows if name == "mosquitto"), None)
    missed = []
    for name, row in rows:
        text = f"  {name:18} {row['rate']:>10,.0f}/s  {row['cpu_us']:>8.2f} us CPU"
        if "p50" in row:
            text += f"  p50 {row['p50']:.0f} us  p99 {row['p99']:.0f} us"
        if reference is not None and name.startswith("foreshore") and row["cpu_us"]:
            ratio = reference["cpu_us"] / row["cpu_us"]
            text += f"  {ratio:.2f} times mosquitto's economy"
            if load.gate is not None and name == "foreshore, full":
                text += f"  gate {load.gate}: {'holds' if ratio >= load.gate else 'MISSED'}"
                if ratio < load.gate:
                    missed.append(f"{load.name}: {ratio:.2f}, gate {load.gate}")
            if "p99" in row and name == "foreshore, full":
                ratio = row["p99"] / reference["p99"]
                text += f"  p99 {ratio:.2f} times, gate 3: {'holds' if ratio <= 3 else 'MISSED'}"
        print(text, flush=True)
    return missed


def report_idle(program: Path, folder: Path, servers: list[Any]) -> list[str]:
    """Memory of idle connections, each figure in a fresh server."""
    missed = []
    for count, tls in IDLE:
        print(f"\n{count:,} idle connections, {'mutual TLS' if tls else 'plain'}")
        gate = 45.0 if tls else 6.0
        for make in servers:
            with make() as server:
                per = idle_memory(program, server, count, tls, folder)
                text = f"  {server.name:18} {per:>8.1f} KB a connection"
                if server.name == "foreshore, full":
                    text += f"  gate {gate:.0f}: {'holds' if per <= gate else 'MISSED'}"
                    if per > gate:
                        missed.append(f"{count} idle, tls {tls}: {per:.1f} KB, gate {gate}")
                print(text, flush=True)
    return missed


def main() -> int:
    if len(sys.argv) == 4 and sys.argv[1] == "--serve":
        serve(sys.argv[2] == "full", Path(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the messages, no idle connections")
    parser.add_argument("--load", nargs="*", help="only loads whose name contains one of these")
    parser.add_argument("--amqtt", help="Python of an environment with amqtt")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
    missed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="foreshore-bench-") as name:
        folder = Path(name)
        make_certificates(folder)
        program = build_generator(folder)
        if program is None:
            return 0
        servers: list[Any] = [lambda: ours(True, folder), lambda: ours(False, folder)]
        if shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").exists():
            servers.insert(0, lambda: mosquitto(folder))
        else:
            print("mosquitto is not installed: no ratios")
        for load in LOADS:
            if options.load and not any(word in load.name for word in options.load):
                continue
            rows = []
            for make in servers:
                with make() as server:
                    rows.append((server.name, measure(program, server, load, folder, 0.25 if options.quick else 1.0)))
            if options.amqtt and not load.tls:
                with amqtt(options.amqtt) as server:
                    try:
                        rows.append((server.name, measure(program, server, load, folder, 1 / load.slow)))
                    except RuntimeError as error:
                        print(f"amqtt: {error}")
            missed += report_load(load, rows)
        if not options.quick and not options.load:
            missed += report_idle(program, folder, servers)
    print("\ngates missed: " + ("; ".join(missed) if missed else "none"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
