"""The stream manager: messages appended a second and CPU a message, by the unmodified client and by a pipelined one.

Server CPU is this process's; clients run in processes of their own. Numbers of one run compare with one another.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from foreshore.greengrass.stream_manager.service import StreamManager

SIZE = 200
SDK = """
import sys
from stream_manager import StreamManagerClient
with StreamManagerClient(port=int(sys.argv[1])) as client:
    for _ in range(int(sys.argv[3])):
        client.append_message(sys.argv[2], b"x" * 200)
"""
PIPELINED = """
import socket, sys, cbor2, struct
port, name, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def frame(number, body):
    payload = cbor2.dumps(body)
    return struct.pack(">ib", len(payload) + 1, number) + payload
peer = socket.create_connection(("127.0.0.1", port))
peer.sendall(b"\\x01" + frame(1, {"requestId": "r", "protocolVersion": "1.1.0", "authToken": "t"}))
reader = peer.makefile("rb")
reader.read(1)
def answer():
    size, number = struct.unpack(">ib", reader.read(5))
    return cbor2.loads(reader.read(size - 1))
answer()
append = frame(4, {"requestId": "r", "name": name, "payload": b"x" * 200})
sent = 0
while sent < count:
    peer.sendall(append * 50)
    for _ in range(50):
        assert answer()["status"] == 0
    sent += 50
"""


async def measure(manager: StreamManager, name: str, code: str, count: int) -> tuple[float, float]:
    """(messages a second, server CPU us a message) of one client process."""
    argv = [sys.executable, "-c", code, str(manager.port), name, str(count)]
    environment = {**os.environ, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "t"}
    begin, used = time.perf_counter(), time.process_time()
    process = await asyncio.to_thread(subprocess.run, argv, env=environment, check=True)
    assert process.returncode == 0
    return count / (time.perf_counter() - begin), (time.process_time() - used) / count * 1e6


async def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        manager = StreamManager(
            state=Path(folder) / "streams.db", region="us-east-1", authenticate=bool, environment=dict,
            say=lambda _level, _text: None,
        )  # fmt: skip
        await manager.start()
        print(f"messages of {SIZE} bytes; client start included\n")
        print("client                 persistence   appends/s   server CPU")
        for persistence, label in ((0, "File"), (1, "Memory")):
            for client, code, count in (("stream-manager", SDK, 2000), ("50 outstanding", PIPELINED, 20000)):
                name = f"{label} {client}"
                definition = {"name": name, "strategyOnFull": 1, "persistence": persistence}
                manager.create(definition)
                rate, cost = await measure(manager, name, code, count)
                print(f"{client:22} {label:11} {rate:11.0f} {cost:9.0f} us")
        await manager.stop()


if __name__ == "__main__":
    asyncio.run(main())
