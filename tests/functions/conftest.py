"""A Lambda room behind a real AWS endpoint, in a thread of its own, for real boto3 clients."""

import asyncio
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
import zipfile
from pathlib import Path

import pytest

from foreshore.cloud.routing import route
from foreshore.errors import AwsError
from foreshore.functions.service import Functions
from foreshore.http import Client, Server, text_response
from foreshore.shapes.errors import error_response

REGION, ACCOUNT = "us-east-1", "000000000000"


class Edge:
    """The room, the endpoint in front of it, and what they recorded."""

    def __init__(self, folder: Path, backend_port: int = 0, **options) -> None:
        self.folder = folder
        self.options = options
        self.backend_port = backend_port
        self.spans, self.logs = [], []
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_):
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def run(self, work):
        """Run a coroutine in the room's loop; give its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def environment(self):
        return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_ACCESS_KEY_ID": "foreshore",
                "AWS_SECRET_ACCESS_KEY": "foreshore"}  # fmt: skip

    async def _start(self):
        self.client = Client()
        self.server = Server(self._handle, on_error=lambda request, error: self._failed(request, error))
        self.port = await self.server.start("127.0.0.1", 0)
        self.functions = Functions(
            state=self.folder / "state", region=REGION, account=ACCOUNT, environment=self.environment,
            span=self.spans.append, log=self.logs.append, run_folder=self.folder / "run", **self.options,
        )  # fmt: skip
        await self.functions.start()

    def _failed(self, request, error):
        if not isinstance(error, AwsError):
            return text_response(500, "".join(traceback.format_exception(error)))
        return error_response(error, request)

    async def _stop(self):
        await self.functions.stop()
        await self.server.stop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.close()
        await asyncio.sleep(0)

    async def _handle(self, request):
        target = route(request)
        if target.service == "lambda":
            return await self.functions.handle(request)
        if target.service in ("execute-api", "lambda-url"):
            return await self.functions.handle_http_api(target.resource, target.stage, target.path, request)
        return await self.client.fetch(
            request.method, "127.0.0.1", self.backend_port, request.target, request.headers, request.body
        )

    def boto3(self, service: str):
        """A real client of this endpoint."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            service, endpoint_url=f"http://127.0.0.1:{self.port}", region_name=REGION, aws_access_key_id="test",
            aws_secret_access_key="test", config=Config(retries={"max_attempts": 0}, read_timeout=30),
        )  # fmt: skip

    def wait_for(self, found, seconds: float = 20.0):
        """Ask until it is true; give the answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = found()
            if answer:
                return answer
            threading.Event().wait(0.01)
        raise AssertionError("it never came")

    def lines(self):
        """The text of every log line so far."""
        return [line.text for line in self.logs]


def zipped(files: dict[str, str]) -> bytes:
    """A deployment package."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def package():
    return zipped


@pytest.fixture
def edge(tmp_path):
    with Edge(tmp_path) as running:
        yield running


@pytest.fixture
def make_edge(tmp_path):
    """Make further edges, with other options; the number names the folder."""
    with contextlib.ExitStack() as stack:
        yield lambda name="edge", **options: stack.enter_context(Edge(tmp_path / name, **options))


@pytest.fixture(scope="session")
def backend_port(tmp_path_factory):
    """A MiniStack of our own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = os.environ | {
        "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0",
    }  # fmt: skip
    process = subprocess.Popen(
        [Path(sys.executable).parent / "ministack"], env=environment, cwd=tmp_path_factory.mktemp("backend"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=1).close()
                break
            except OSError:
                threading.Event().wait(0.05)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
