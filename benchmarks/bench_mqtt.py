"""The MQTT broker side by side with Mosquitto, amqtt and MiniStack in one run: server CPU a message, and the gates.

    python benchmarks/bench_mqtt.py [--quick] [--load WORD ...] [--rounds N] [--amqtt PYTHON]

Needs a C compiler (the generator is mqtt_load.c) and `mosquitto` on the path; what is missing is left out and said.
Ours runs twice: "full" is the edge as `foreshore dev` composes it, with policies, presence, durable state and traces;
"bare" is the broker without them (mqtt_servers.py). Every figure is of one run on this machine: read the ratios. CPU
is user plus system time of the server process; with several rounds the servers take turns and each figure is the
median. `--amqtt` names the Python of an environment with amqtt in it. MiniStack speaks MQTT under TLS only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from mqtt_servers import Server, amqtt, make_certificates, ministack, mosquitto, ours

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


class Load(NamedTuple):
    """One load: arguments of mqtt_load, and the gate: Mosquitto's CPU by ours; for connects our rate by its."""

    name: str
    mode: str
    connections: int
    messages: int
    qos: int
    window: int
    tls: bool = False
    gate: float | None = None
    slow: int = 20
    """By how much fewer messages amqtt and MiniStack get; 0 leaves them out."""


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
    Load("mTLS 5,000 devices at 1/s, QoS 1", "steady", 5000, 50_000, 1, 1, tls=True, gate=0.6, slow=0),
]
IDLE = [(1000, False), (5000, False), (1000, True), (5000, True)]
SETTLE_S = 0.5
"""The trace recorder writes behind; its CPU is counted too."""

Make = Callable[[], AbstractContextManager[Server]]


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


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_kb(pid: int) -> int:
    """Resident memory."""
    return int(
        next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line).split()[1]
    )


def measure(program: Path, server: Server, load: Load, scale: float) -> dict[str, float]:
    """Run one load against one server; give messages a second, CPU us a message and percentiles."""
    messages = max(int(load.messages * scale), load.connections)
    argv = [program, load.mode, "127.0.0.1", server.tls_port if load.tls else server.port, load.connections]
    argv += [messages, load.qos, load.window]
    if load.tls:
        argv += server.tls
    process = subprocess.Popen([str(one) for one in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        if load.mode != "connect":
            if not process.stdout.readline():
                raise RuntimeError("the generator could not connect")
            time.sleep(0.3)
        before = cpu_seconds(server.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if server.name == "foreshore, full":
            time.sleep(SETTLE_S)
        used = cpu_seconds(server.pid) - before
        process.stdin.close()
        if process.wait(60) or not line:
            raise RuntimeError("the generator failed")
        result: dict[str, float] = json.loads(line)
    except BaseException:
        process.kill()
        process.wait()
        raise
    result["rate"] = result["messages"] / result["seconds"]
    result["cpu_us"] = used * 1e6 / result["messages"]
    return result


def idle_memory(program: Path, server: Server, count: int, tls: bool) -> float:
    """KB a connection, `count` of them idle."""
    argv = [str(program), "idle", "127.0.0.1", str(server.tls_port if tls else server.port), str(count), "1", "0", "1"]
    if tls:
        argv += [str(path) for path in server.tls]
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
            if load.mode == "connect":
                ratio = row["rate"] / reference["rate"]
                text += f", {ratio:.2f} times its rate"
            if load.gate is not None and name == "foreshore, full":
                text += f"  gate {load.gate}: {'holds' if ratio >= load.gate else 'MISSED'}"
                if ratio < load.gate:
                    missed.append(f"{load.name}: {ratio:.2f}, gate {load.gate}")
            if load.mode == "latency" and name == "foreshore, full":
                ratio = row["p99"] / reference["p99"]
                text += f"  p99 {ratio:.2f} times, gate 3: {'holds' if ratio <= 3 else 'MISSED'}"
        print(text, flush=True)
    return missed


def report_idle(program: Path, servers: list[Make]) -> list[str]:
    """Memory of idle connections, each figure in a fresh server."""
    missed = []
    for count, tls in IDLE:
        print(f"\n{count:,} idle connections, {'mutual TLS' if tls else 'plain'}")
        gate = 45.0 if tls else 6.0
        for make in servers:
            with make() as server:
                if not (server.tls_port if tls else server.port):
                    continue
                per = idle_memory(program, server, count, tls)
                text = f"  {server.name:18} {per:>8.1f} KB a connection"
                if server.name == "foreshore, full":
                    text += f"  gate {gate:.0f}: {'holds' if per <= gate else 'MISSED'}"
                    if per > gate:
                        missed.append(f"{count} idle, tls {tls}: {per:.1f} KB, gate {gate}")
                print(text, flush=True)
    return missed


def run(program: Path, load: Load, servers: list[Make], slow: list[Make], scale: float, rounds: int) -> list[str]:
    """Measure one load against every server, in turns; print it, give the gates it misses."""
    found: dict[str, list[dict[str, float]]] = {}
    for each in range(rounds):
        for make in servers + (slow if load.slow and not each else []):
            with make() as server:
                if not (server.tls_port if load.tls else server.port):
                    continue
                part = 1 / load.slow if make in slow else scale
                try:
                    found.setdefault(server.name, []).append(measure(program, server, load, part))
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    print(f"{server.name}: {error}")
    rows = []
    for name, results in found.items():
        if results:
            rows.append((name, {key: statistics.median(one[key] for one in results) for key in results[0]}))
    return report_load(load, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the messages, no idle connections")
    parser.add_argument("--load", nargs="*", help="only loads whose name contains one of these (idle: the memory)")
    parser.add_argument("--rounds", type=int, default=1, help="medians of so many rounds")
    parser.add_argument("--amqtt", default=os.environ.get("AMQTT_PYTHON"), help="Python of an environment with amqtt")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
    missed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="foreshore-bench-") as name:
        folder = Path(name)
        make_certificates(folder)
        program = build_generator(folder)
        if program is None:
            return 0
        servers: list[Make] = [lambda: ours(True, folder), lambda: ours(False, folder)]
        if shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").exists():
            servers.insert(0, lambda: mosquitto(folder))
        else:
            print("mosquitto is not installed: no ratios")
        slow: list[Make] = [lambda: ministack(folder)]
        if options.amqtt:
            slow.append(lambda: amqtt(options.amqtt))
        else:
            print("amqtt is left out: --amqtt names a Python that has it")
        for load in LOADS:
            if options.load and not any(word in load.name for word in options.load):
                continue
            missed += run(program, load, servers, slow, 0.25 if options.quick else 1.0, options.rounds)
        if "idle" in (options.load or []) or not (options.quick or options.load):
            missed += report_idle(program, servers + slow)
    print("\ngates missed: " + ("; ".join(missed) if missed else "none"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
