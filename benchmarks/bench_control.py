"""IoT Core beside the message path: access decisions, the control plane's calls, provisioning of a fleet.

    python benchmarks/bench_control.py

CPU time of one run on one core. `over HTTP` counts client and server, both in this process.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from foreshore.http import Client, Request, Server
from foreshore.iot.mqtt.access import ConnectDecision, ConnectRequest
from foreshore.iot.service import IotCore

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "iot:Connect",
            "Resource": "arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}",
        },
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive"],
            "Resource": "arn:aws:iot:*:*:topic/devices/${iot:ClientId}/*",
        },
    ],
}
FLEET = 200


def show(name: str, seconds: float, count: int) -> None:
    """One line: microseconds a call."""
    print(f"  {name:52} {seconds / count * 1e6:10.2f} us")


def timed(name: str, count: int, call: Callable[[int], object]) -> None:
    """Run a plain call many times."""
    start = time.process_time()
    for number in range(count):
        call(number)
    show(name, time.process_time() - start, count)


async def timed_later(name: str, count: int, call: Callable[[], Awaitable[object]]) -> None:
    """Run an awaitable call many times."""
    start = time.process_time()
    for _ in range(count):
        await call()
    show(name, time.process_time() - start, count)


def make(folder: Path) -> IotCore:
    """IoT Core without Lambda and backend."""
    return IotCore(
        state=folder / "state",
        certs=folder / "certs",
        region="us-east-1",
        account="000000000000",
        span=lambda span: None,
        log=lambda line: None,
        invoke=None,
        backend_url=lambda: "http://127.0.0.1:9",
    )


def bench_access(iot: IotCore, folder: Path) -> None:
    """What the broker asks."""
    print("access")
    files = iot.ensure_thing("d", policy_documents={"p": POLICY}, certs_folder=folder / "d")
    der = ssl.PEM_cert_to_DER_cert(files.cert.read_text())
    request = ConnectRequest("d", certificate=der, source_ip="127.0.0.1", listener="mqtts")
    timed("CONNECT decided", 10_000, lambda number: iot.access.connect(request))
    decision = iot.access.connect(request)
    assert isinstance(decision, ConnectDecision) and decision.allowed
    identity = decision.identity
    timed("publish decided before", 300_000, lambda number: iot.access.may_publish(identity, "devices/d/t", False))
    timed("publish on a new topic", 20_000, lambda n: iot.access.may_publish(identity, f"devices/d/{n}", False))


def bench_provisioning(iot: IotCore, folder: Path) -> None:
    """What the simulator asks for each device."""
    print("provisioning")
    timed("thing", 1000, lambda number: iot.registry.create({"thingName": f"t{number}"}))

    def provision(number: int) -> object:
        return iot.ensure_thing(f"e{number}", policy_documents={"p": POLICY}, certs_folder=folder / f"e{number}")

    timed("thing, key pair, certificate, files, attachments", FLEET, provision)
    timed("the same again", FLEET, provision)


async def bench_calls(iot: IotCore) -> None:
    """The APIs."""
    print("calls")
    describe = Request("GET", "/things/d", [])
    await timed_later("DescribeThing", 5000, lambda: iot.handle_iot(describe))
    listing = Request("GET", "/things?maxResults=100", [])
    await timed_later(f"ListThings, 100 of {len(iot.registry.things)}", 200, lambda: iot.handle_iot(listing))
    publish = Request("POST", "/topics/a%2Fb?qos=1", [], b'{"a":1}')
    await timed_later("Publish", 5000, lambda: iot.handle_iot_data(publish))
    server, client = Server(iot.handle_iot), Client()
    port = await server.start("127.0.0.1", 0)
    await timed_later("DescribeThing over HTTP", 3000, lambda: client.fetch("GET", "127.0.0.1", port, "/things/d"))
    await client.close()
    await server.stop()
    await iot.stop()


def main() -> None:
    """Run all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        iot = make(folder)
        print(f"IoT Core made, with a new certificate authority, in {(time.perf_counter() - start) * 1000:.0f} ms")
        bench_access(iot, folder)
        bench_provisioning(iot, folder)
        asyncio.run(bench_calls(iot))


if __name__ == "__main__":
    main()
