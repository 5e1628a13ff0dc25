"""Warm and cold Lambda invocations over the AWS endpoint's raw HTTP, side by side with MiniStack's Lambda.

    python benchmarks/bench_lambda.py [--invocations N] [--starts N] [--no-ministack]

Prints medians of one run; read the ratios. Warm: a no-op handler, one keep-alive connection. Cold: the code is saved
before each invocation, so that each starts an environment; the time is that of the whole Invoke call.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from foreshore.functions.service import Functions
from foreshore.functions.spec import FunctionSpec
from foreshore.http import Server

NO_OP = "def handler(event, context):\n    return event\n"
BOTO3 = "import boto3\n" + NO_OP
CLIENT = "import boto3\nclient = boto3.client('dynamodb')\n" + NO_OP
PATH = "/2015-03-31/functions/{}/invocations"
SCOPE = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/lambda/aws4_request, Signature=0"}


class Ours:
    """The Lambda room alone, in a thread."""

    def __init__(self, folder: Path, client: str) -> None:
        self.folder, self.client = folder, client
        try:
            import uvloop

            self.loop = uvloop.new_event_loop()
        except ImportError:
            self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.run(self._start())

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _start(self) -> None:
        self.functions = Functions(
            state=self.folder / "state", region="us-east-1", account="0" * 12, span=lambda span: None,
            environment=lambda: {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, log=lambda line: None,
            run_folder=self.folder / "run", client=self.client,
        )  # fmt: skip
        await self.functions.start()
        self.server = Server(self.functions.handle)
        self.port = await self.server.start("127.0.0.1", 0)

    def create(self, name: str, source: str) -> Path:
        code = self.folder / name
        code.mkdir()
        (code / "app.py").write_text(source)

        async def create() -> None:
            self.functions.create(FunctionSpec(name, code, "app.handler", timeout_s=30))

        self.run(create())
        return code / "app.py"

    def stop(self) -> None:
        self.run(self.functions.stop())
        self.run(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)


def invoke(connection: http.client.HTTPConnection, name: str, body: bytes = b"{}") -> float:
    """One call; its time in ms."""
    start = time.perf_counter()
    connection.request("POST", PATH.format(name), body, SCOPE)
    answer = connection.getresponse()
    payload = answer.read()
    took = (time.perf_counter() - start) * 1000
    if answer.status != 200 or answer.getheader("X-Amz-Function-Error"):
        raise SystemExit(f"{answer.status} {payload!r}")
    return took


def connect(port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def warm(port: int, count: int, name: str = "noop") -> list[float]:
    connection = connect(port)
    for _ in range(min(count, 50)):
        invoke(connection, name)
    return sorted(invoke(connection, name) for _ in range(count))


def concurrent(port: int, count: int, threads: int = 4) -> float:
    """Invocations a second over several connections; the client is Python too and shares the machine."""

    def work() -> None:
        connection = connect(port)
        for _ in range(count):
            invoke(connection, "noop")

    workers = [threading.Thread(target=work) for _ in range(threads)]
    start = time.perf_counter()
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    return threads * count / (time.perf_counter() - start)


def cold(ours: Ours, name: str, source: str, starts: int) -> list[float]:
    file = ours.create(name, source)
    connection = connect(ours.port)
    invoke(connection, name)
    times = []
    for _ in range(starts):
        file.write_text(source)
        times.append(invoke(connection, name))
    return sorted(times)


def show(what: str, times: list[float]) -> float:
    middle = statistics.median(times)
    print(f"{what:<44} p50 {middle:8.3f} ms   p90 {times[int(len(times) * 0.9)]:8.3f} ms   n={len(times)}")
    return middle


def ministack(count: int, folder: Path) -> list[float]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = os.environ | {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
    }
    process = subprocess.Popen(
        [Path(sys.executable).parent / "ministack"], env=environment, cwd=folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        base = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(base + "/_ministack/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        import base64

        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("app.py", NO_OP)
        body = {
            "FunctionName": "noop", "Runtime": "python3.12", "Role": "arn:aws:iam::000000000000:role/r",
            "Handler": "app.handler", "Timeout": 30, "Code": {"ZipFile": base64.b64encode(buffer.getvalue()).decode()},
        }  # fmt: skip
        request = urllib.request.Request(base + "/2015-03-31/functions", json.dumps(body).encode(), SCOPE)
        urllib.request.urlopen(request).close()
        return warm(port, count)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--invocations", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--no-ministack", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        figures = {}
        for client in ("thin", "awslambdaric"):
            home = folder / client
            home.mkdir()
            ours = Ours(home, client)
            ours.create("noop", NO_OP)
            figures[client] = show(f"warm, {client}", warm(ours.port, options.invocations))
            if client == "thin":
                rate = concurrent(ours.port, options.invocations // 2)
                print(f"{'warm, thin, 4 connections':<44} {rate:8.0f} /s")
            for what, source in (("no-op", NO_OP), ("import boto3", BOTO3), ("boto3 and a client", CLIENT)):
                name = what.replace(" ", "-")
                show(f"cold, {client}, {what}", cold(ours, name, source, options.starts if client == "thin" else 5))
            ours.stop()
        if not options.no_ministack:
            theirs = show("warm, MiniStack", ministack(max(options.invocations // 20, 20), folder))
            print(f"MiniStack / ours, warm: {theirs / figures['thin']:.0f}")


if __name__ == "__main__":
    main()
