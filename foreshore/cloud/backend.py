"""The AWS-compatible backend behind the endpoint: a MiniStack child, or any URL. Shell.

MiniStack binds every interface unless `BIND_HOST` says otherwise and keeps its state only on a clean stop; both are
minded here. A child that dies is reported and started again, and `on_restart` makes the stacks anew, because what it
held is gone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from foreshore.children import Child, spawn
from foreshore.cloud.presigned import is_presigned, signed_anew
from foreshore.errors import ForeshoreError, PeerError, UserError
from foreshore.http import Client, Request, Response
from foreshore.seams import EmitLog, LogLine

READY_SECONDS = 30.0
MAX_RESTARTS = 5
_HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"upgrade", b"te", b"trailer"}


class Backend:
    """Forwards requests; `up` is set while it answers. With `url` no child is started.

    Raises UserError for a `url` that is not http(s)://HOST[:PORT].
    """

    def __init__(
        self, *, url: str = "", state: Path, run_folder: Path, region: str, account: str, ephemeral: bool, log: EmitLog
    ) -> None:
        self.url = url
        self.state = state
        self.run_folder = run_folder
        self.region = region
        self.account = account
        self.ephemeral = ephemeral
        self.log = log
        self.up = asyncio.Event()
        self.restarts = 0
        self.on_restart: Callable[[], Awaitable[None]] | None = None
        self.client = Client(limit=128)
        self.child: Child | None = None
        self._stopping = False
        self._restart: asyncio.Task[None] | None = None
        self.host, self.port, is_tls = _address(url) if url else ("127.0.0.1", 0, False)
        self._tls = ssl.create_default_context() if is_tls else None

    async def start(self) -> None:
        """Start the child, or check that the given URL answers. Raises UserError."""
        if self.url:
            await self._wait_ready(f"the backend at {self.url} does not answer")
            return
        self.port = _free_port()
        await self._spawn()
        await self._wait_ready("the backend (ministack) does not start")

    async def _spawn(self) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "MINISTACK_REGION": self.region,
            "MINISTACK_ACCOUNT_ID": self.account,
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "PERSIST_STATE": "0" if self.ephemeral else "1",
            "S3_PERSIST": "0" if self.ephemeral else "1",
            "STATE_DIR": str(self.state / "ministack"),
            "S3_DATA_DIR": str(self.state / "s3"),
            "LOG_LEVEL": "WARNING",
            "DOCKER_HOST": "unix:///nonexistent.sock",
            "MINISTACK_DOCKER_TIMEOUT": "0.1",
        }
        self.child = await spawn(
            [sys.executable, "-m", "ministack"],
            env=environment,
            on_line=self._on_line,
            on_exit=self._on_exit,
            run_folder=self.run_folder,
        )

    def _on_line(self, stream: str, text: str) -> None:
        if text.strip():
            level = "WARN" if stream == "stderr" else "INFO"
            self.log(LogLine(time.time_ns(), "backend", "ministack", level, "", text))

    def _say(self, level: str, text: str) -> None:
        self.log(LogLine(time.time_ns(), "backend", "backend", level, "", text))

    async def _wait_ready(self, failure: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        delay = 0.01
        while time.monotonic() < deadline and not (self.child is not None and self.child.exited.is_set()):
            try:
                await self.client.fetch("GET", self.host, self.port, "/_ministack/health", ssl=self._tls, timeout=2.0)
                self.up.set()
                return
            except ssl.SSLCertVerificationError as error:
                raise UserError(
                    f"the backend's certificate is not trusted: {error.verify_message}", code="backend-down",
                    where=self.url, mend="let the system trust it, or name its http:// address",
                ) from error  # fmt: skip
            except (OSError, TimeoutError, PeerError):
                await asyncio.sleep(delay)
                delay = min(delay * 1.3, 0.2)
        mend = "is it running?" if self.url else "see `foreshore logs --source ministack`"
        raise UserError(failure, code="backend-down", where=f"{self.host}:{self.port}", mend=mend)

    def _on_exit(self, code: int) -> None:
        self.up.clear()
        if self._stopping:
            return
        self._say("ERROR", f"the backend ended with code {code}; what it held since its last clean stop is lost")
        self._restart = asyncio.ensure_future(self._start_again())

    async def _start_again(self) -> None:
        self.restarts += 1
        if self.restarts > MAX_RESTARTS:
            self._say("ERROR", f"the backend ended {self.restarts} times and is left down")
            return
        await asyncio.sleep(0.05 * 2**self.restarts)
        await self.client.close()
        try:
            await self._spawn()
            await self._wait_ready("the backend does not start again")
            if self.on_restart is not None:
                await self.on_restart()
        except (ForeshoreError, OSError) as error:
            self._say("ERROR", str(error))
            return
        self._say("WARN", "the backend is up again, with the templates' resources made anew")

    async def stop(self) -> None:
        """End the child cleanly, so that it keeps its state."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self.child is not None:
            await self.child.stop(grace_s=10.0)
        await self.client.close()

    async def forward(self, request: Request) -> Response:
        """Pass a request on and give the answer as it came; only the framing is ours."""
        if not self.up.is_set():
            try:
                await asyncio.wait_for(self.up.wait(), 10.0)
            except TimeoutError:
                return _unavailable("the backend is down")
        headers = [
            pair for pair in request.headers if pair[0].lower() not in _HOP_BY_HOP and pair[0].lower() != b"expect"
        ]
        if request.body or request.method in ("POST", "PUT", "PATCH"):
            headers.append((b"Content-Length", b"%d" % len(request.body)))
        try:
            response = await self._fetch(request, request.target, headers)
            if not self.url and response.status == 403 and is_presigned(request) and _is_unknown_key(response):
                response = await self._fetch(request, signed_anew(request), headers)
        except (OSError, TimeoutError, PeerError) as error:
            return _unavailable(f"the backend did not answer: {error}")
        head = request.method == "HEAD"
        response.headers = [
            pair
            for pair in response.headers
            if pair[0].lower() not in _HOP_BY_HOP or (head and pair[0].lower() == b"content-length")
        ]
        return response

    async def _fetch(self, request: Request, target: str, headers: list[tuple[bytes, bytes]]) -> Response:
        return await self.client.fetch(
            request.method, self.host, self.port, target, headers, request.body, ssl=self._tls, timeout=900.0
        )


def _address(url: str) -> tuple[str, int, bool]:
    """Host, port and whether to speak TLS. Raises UserError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise UserError(
            f"{url!r} is no address of a backend", code="backend", where="--backend",
            mend="write http://HOST:PORT or https://HOST:PORT",
        )  # fmt: skip
    return parts.hostname, port or (443 if parts.scheme == "https" else 80), parts.scheme == "https"


def _is_unknown_key(response: Response) -> bool:
    return isinstance(response.body, bytes) and b"<Code>InvalidAccessKeyId</Code>" in response.body


def _unavailable(why: str) -> Response:
    """503 that AWS clients of the JSON protocols read and retry."""
    body = f'{{"__type":"ServiceUnavailableException","message":"{why}"}}'.encode()
    headers = [(b"Content-Type", b"application/x-amz-json-1.0"), (b"x-amzn-ErrorType", b"ServiceUnavailableException")]
    return Response(503, headers, body)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
