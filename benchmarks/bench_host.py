"""The Lambda host: start to first invocation, memory, messages a second, host CPU a message; both IPC clients.

The handler echoes each message through unmodified greengrasssdk, on a real core in another process's asyncio loop. The
peer is what AWS advises instead: the same echo rewritten as a component on awsiotsdk's IPC client, without a host.
Numbers of one run compare with one another; absolute ones depend on the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foreshore.greengrass.host_artifact import build_host
from foreshore.greengrass.service import Core
from foreshore.seams import Publication

HANDLER = """
import json
import greengrasssdk
client = greengrasssdk.client("iot-data")
def handler(event, context):
    client.publish(topic="out/echo", payload=json.dumps(event))
"""
PEER = """
import threading
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import BinaryMessage, PublishMessage
client = GreengrassCoreIPCClientV2()
def echo(event):
    message = PublishMessage(binary_message=BinaryMessage(message=event.binary_message.message))
    client.publish_to_topic_async(topic="out/echo", publish_message=message)
client.subscribe_to_topic(topic="in/#", on_stream_event=echo)
threading.Event().wait()
"""
GATED = """
import os, time
def handler(event, context):
    while not os.path.exists(event):
        time.sleep(0.005)
"""
INSTANCES = 4
MESSAGES = 3000
READING = {"device": "d", "seq": 1, "ts": 1647770400000, "quantity": "flow", "value": 100.59, "unit": "l/s"}
POLICY = {"operations": ["aws.greengrass#PublishToTopic", "aws.greengrass#SubscribeToTopic"], "resources": ["*"]}
CONFIGURATION = {
    "eventSources": [{"topic": "in/#", "type": "PUB_SUB"}],
    "routes": [{"topic": "out/#", "type": "PUB_SUB"}],
    "maxQueueSize": 100_000,
    "accessControl": {"aws.greengrass.ipc.pubsub": {"all": POLICY}},
}


class NoCloud:
    """A link that is always down."""

    connected = False

    def on_state(self, callback: Callable[[bool], None], /) -> None: ...

    async def publish(self, publication: Publication, /) -> int:
        raise ConnectionError

    async def subscribe(self, filter: str, qos: int, callback: Callable[[Publication], None], /) -> None: ...

    async def unsubscribe(self, filter: str, /) -> None: ...


def status(pid: int, field: str) -> float:
    """A field of /proc/<pid>/status in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def cpu_s(pid: int) -> float:
    """User and system seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def import_cost(statement: str) -> tuple[float, float]:
    """(seconds, MB) that a statement adds to a bare interpreter."""
    code = (
        "import time,sys\ndef rss(): return int([l for l in open('/proc/self/status') if 'VmRSS' in l][0].split()[1])\n"
        f"a, t = rss(), time.perf_counter()\n{statement}\nprint(time.perf_counter() - t, rss() - a)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return float(output[0]), int(output[1]) / 1024


def environment_of(core: Core) -> dict[str, str]:
    """What a component sees."""
    return {
        **os.environ,
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(core.ipc_socket),
        "SVCUID": core.tokens.issue("bench"),
    }


def host_argv(archive: Path, folder: Path, client: str) -> list[str]:
    """The host with a handler in `folder`."""
    argv = [sys.executable, "-u", str(archive), "--handler", "main.handler", "--code", str(folder)]
    return [*argv, "--client", client]


def proportional(pid: int) -> float:
    """Memory of a process in MB, with what it shares counted in parts (/proc/<pid>/smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


async def measure_instances(core: Core, archive: Path, folder: Path) -> None:
    """An on-demand function: memory of the host and of each busy instance, and how long a new instance takes."""
    (folder / "main.py").write_text(GATED)
    core.configuration.merge("bench", (), {"pinned": False, "maxInstancesCount": INSTANCES, "timeoutInSeconds": 60}, 2)
    for client in ("awsiotsdk", "slim"):
        gate = folder / f"gate-{client}"
        process = await asyncio.create_subprocess_exec(
            *host_argv(archive, folder, client), env=environment_of(core), stdout=subprocess.DEVNULL
        )
        while not core.pubsub.route("in/x").subscriptions:
            await asyncio.sleep(0.001)
        before = status(process.pid, "VmRSS")
        for _ in range(INSTANCES):
            core.publish_local("in/x", json.dumps(str(gate)).encode(), source="bridge")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(pids := children.read_text().split()) < INSTANCES:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        busy = [(status(int(pid), "VmRSS"), proportional(int(pid))) for pid in pids]
        rss, share = (statistics.median(column) for column in zip(*busy, strict=True))
        print(
            f"{client:10} host {before:.1f} MB idle; each of {INSTANCES} instances {rss:.1f} MB RSS, {share:.1f} MB PSS"
        )
        gate.touch()
        process.terminate()
        await process.wait()


async def measure(core: Core, argv: list[str]) -> dict[str, Any]:
    """One component process from start to stop."""
    heard: list[bytes] = []
    changed = asyncio.Event()

    def hear(message: Any) -> None:
        heard.append(message.payload)
        changed.set()

    async def until(count: int) -> None:
        while len(heard) < count:
            changed.clear()
            await changed.wait()

    stop = core.subscribe_local("out/#", hear)
    payload = json.dumps(READING).encode()
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*argv, env=environment_of(core), stdout=subprocess.DEVNULL)
    while not core.pubsub.route("in/x").subscriptions:
        await asyncio.sleep(0.001)
    core.publish_local("in/x", payload, source="bridge")
    await until(1)
    first = time.perf_counter() - begin
    idle = status(process.pid, "VmRSS")
    used, begin = cpu_s(process.pid), time.perf_counter()
    for _ in range(MESSAGES):
        core.publish_local("in/x", payload, source="bridge")
    await until(1 + MESSAGES)
    elapsed = time.perf_counter() - begin
    burst = MESSAGES / elapsed, (cpu_s(process.pid) - used) / MESSAGES * 1e6
    begin = time.perf_counter()
    for index in range(500):
        core.publish_local("in/x", payload, source="bridge")
        await until(2 + MESSAGES + index)
    round_trip = (time.perf_counter() - begin) / 500
    process.terminate()
    await process.wait()
    stop()
    return {"first": first, "idle": idle, "burst": burst, "round": round_trip}


async def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "main.py").write_text(HANDLER)
        archive = build_host(folder)
        core = Core(
            root=folder / "core", thing="t", region="us-east-1", account="000000000000", cloud=NoCloud(),
            span=lambda _: None, log=lambda _: None,
        )  # fmt: skip
        await core.start()
        core.configuration.merge("bench", (), CONFIGURATION, 1)
        print(f"lambda_host.pyz {archive.stat().st_size / 1024:.0f} KB; {MESSAGES} messages in, echoed out\n")
        print("                 start to 1st   RSS idle   echoes/s   host CPU/echo   round trip")
        ways = {
            "host, awsiotsdk": host_argv(archive, folder, "awsiotsdk"),
            "host, slim": host_argv(archive, folder, "slim"),
            "peer: rewritten": [sys.executable, "-u", "-c", PEER],
        }
        for way, argv in ways.items():
            found = await measure(core, argv)
            rate, cost = found["burst"]
            print(
                f"{way:16} {found['first'] * 1e3:9.0f} ms {found['idle']:8.1f} MB {rate:10.0f} {cost:12.0f} us"
                f" {found['round'] * 1e3:9.2f} ms"
            )
        print("\non demand, one message an instance:")
        await measure_instances(core, archive, folder)
        await core.stop()
    print()
    bare = import_cost("pass")
    for label, statement in (
        ("awscrt", "import awscrt.io, awscrt.eventstream.rpc"),
        ("awsiotsdk's IPC client, awscrt included", "import awsiot.greengrasscoreipc"),
        ("greengrasssdk's iot-data, shims included", f"sys.path[:0] = [{SHIMS!r}]\nimport greengrasssdk.IoTDataPlane"),
    ):
        seconds, megabytes = import_cost(statement)
        print(f"import of {label}: {seconds * 1e3:.0f} ms, {megabytes - bare[1]:.1f} MB")


SHIMS = str(Path(__file__).parents[1] / "foreshore/greengrass/lambda_host/shims")

if __name__ == "__main__":
    asyncio.run(main())
