"""A broker, or thousands of clients made of bytes: each a process of its own for test_crowd.py, with its own limits.

python crowd.py broker CERT KEY        prints the ports of a plain and a TLS listener; ends with standard input
python crowd.py clients COUNT PORT     connects and subscribes them all; at a word, pings with each and publishes once
"""

import asyncio
import resource
import ssl
import sys

from foreshore.iot.mqtt.server import Broker

TOPIC = b"crowd/news"


def raise_limit() -> None:
    """As many open files as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def wait_for_line() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


class Client(asyncio.Protocol):
    """Counts what comes: CONNACK, SUBACK, PINGRESP and PUBLISH packets, none of which is longer than 127 bytes."""

    def __init__(self, number, counts):
        self.number, self.counts, self.pending = number, counts, b""

    def connection_made(self, transport):
        self.transport = transport
        name = b"crowd-%d" % self.number
        transport.write(bytes((0x10, 12 + len(name))) + b"\0\4MQTT\4\2\4\xb0" + len(name).to_bytes(2, "big") + name)
        transport.write(bytes((0x82, 5 + len(TOPIC))) + b"\0\1" + len(TOPIC).to_bytes(2, "big") + TOPIC + b"\0")

    def data_received(self, data):
        data = self.pending + data
        while len(data) >= 2 and len(data) >= 2 + data[1]:
            kind = data[0] >> 4
            self.counts[kind] = self.counts.get(kind, 0) + 1
            data = data[2 + data[1] :]
        self.pending = data

    def connection_lost(self, error):
        self.counts["lost"] = self.counts.get("lost", 0) + 1


async def reach(counts, kind, count):
    """Until so many packets of a kind came; the test's own time limit ends a wait in vain."""
    while counts.get(kind, 0) < count and not counts.get("lost"):
        await asyncio.sleep(0.01)


async def clients(count, port):
    loop, counts, all_of_them = asyncio.get_running_loop(), {}, []
    for start in range(0, count, 100):
        made = [
            loop.create_connection(lambda n=n: Client(n, counts), "127.0.0.1", port) for n in range(start, start + 100)
        ]
        all_of_them += [protocol for _, protocol in await asyncio.gather(*made)]
    await reach(counts, 9, count)
    print("connected", counts.get(2), "subscribed", counts.get(9), flush=True)
    await wait_for_line()
    for one in all_of_them:
        one.transport.write(b"\xc0\0")
    await reach(counts, 13, count)
    all_of_them[0].transport.write(bytes((0x30, 4 + len(TOPIC))) + len(TOPIC).to_bytes(2, "big") + TOPIC + b"hi")
    await reach(counts, 3, count)
    print("answered", counts.get(13), "heard", counts.get(3), "lost", counts.get("lost", 0), flush=True)


async def broker(cert, key):
    serving = Broker()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    plain = await serving.listen("127.0.0.1", 0)
    tls = await serving.listen("127.0.0.1", 0, kind="mqtts", ssl=context)
    print(plain, tls, flush=True)
    await wait_for_line()
    await serving.stop()


if __name__ == "__main__":
    raise_limit()
    role, *rest = sys.argv[1:]
    asyncio.run(clients(int(rest[0]), int(rest[1])) if role == "clients" else broker(*rest))
