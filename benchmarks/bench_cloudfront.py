"""Server CPU of a cached hit: a distribution beside nginx's proxy_cache, the same requests in the same run.

    python benchmarks/bench_cloudfront.py [--requests N] [--connections N] [--size BYTES] [--trace]

CPU is user and system time of the server process, read from /proc before and after (Linux). nginx is measured when it
is on PATH, with its defaults and tuned (open_file_cache, no sendfile). `--trace` writes every span to a trace store,
as `foreshore dev` does; the thread that writes counts too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

sys.path.insert(0, str(Path(__file__).parents[1]))

from foreshore.http import Request, Response, Server

T = TypeVar("T")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def cpu(pid: int) -> float:
    """Seconds of user and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Load(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, request: bytes, count: int, body: int, done: asyncio.Future[None]) -> None:
        self._request, self._left, self._body, self._done = request, count, body, done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or len(self._buffer) < end + 4 + self._body:
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"unexpected answer: {self._buffer[:200]!r}")
        self._buffer = self._buffer[end + 4 + self._body :]
        self._left -= 1
        if self._left:
            self.transport.write(self._request)
        elif not self._done.done():
            self._done.set_result(None)
            self.transport.close()


async def drive(port: int, requests: int, connections: int, size: int) -> float:
    """Send the requests; give the seconds they took."""
    loop = asyncio.get_running_loop()
    request = f"GET /object HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n".encode()
    begun = time.perf_counter()
    waits = []
    each = requests // connections
    for _ in range(connections):
        done = loop.create_future()
        waits.append(done)
        await loop.create_connection(lambda d=done: Load(request, each, size, d), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*waits)
    return time.perf_counter() - begun


NGINX = """
daemon off; master_process off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {root}/b; proxy_temp_path {root}/t; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u;
  scgi_temp_path {root}/s;
  proxy_cache_path {root}/cache keys_zone=edge:10m inactive=1h;
  {tuned}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{origin}; proxy_cache edge; proxy_cache_valid 200 1h;
      add_header X-Cache $upstream_cache_status;
    }}
  }}
}}
"""
TUNED = "open_file_cache max=1000 inactive=1h; open_file_cache_valid 1h; sendfile off; tcp_nodelay on;"


@contextmanager
def nginx(origin: int, *, tuned: bool) -> Iterator[tuple[int, int]]:
    """nginx as a cache before the origin; gives (port, pid)."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        config = Path(folder) / "nginx.conf"
        extra = TUNED if tuned else "sendfile on;"
        config.write_text(NGINX.format(root=folder, port=port, origin=origin, tuned=extra))
        with _child([shutil.which("nginx") or "nginx", "-c", str(config), "-p", folder], port) as pid:
            yield port, pid


@contextmanager
def distribution(origin: int, *, trace: bool) -> Iterator[tuple[int, int]]:
    """This file in another process, serving a distribution; gives (port, pid)."""
    port = free_port()
    command = [sys.executable, __file__, "--serve", str(port), "--origin", str(origin), *(["--trace"] if trace else [])]
    with _child(command, port) as pid:
        yield port, pid


@contextmanager
def _child(command: list[str], port: int) -> Iterator[int]:
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield child.pid
    finally:
        child.terminate()
        child.wait()


async def serve(port: int, origin: int, trace: bool) -> None:
    """The distribution's process."""
    from foreshore.cloudfront.server import Distribution, OriginAddress
    from foreshore.traces.recorder import Recorder

    async def no_function(*_: object, **__: object) -> None:
        raise SystemExit("no function is configured")

    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "traces.db") if trace else None
        config = {
            "Origins": [
                {"Id": "o", "DomainName": "o.example", "CustomOriginConfig": {"OriginProtocolPolicy": "http-only"}}
            ],
            "DefaultCacheBehavior": {
                "TargetOriginId": "o", "ViewerProtocolPolicy": "allow-all",
                "CachePolicyId": "658327ea-f89d-4fab-a63d-7e88639e58f6",
            },
        }  # fmt: skip
        made = Distribution(
            logical_id="Bench", distribution_id="E1", domain_name="d1.cloudfront.net", config=config, policies={},
            invoke=no_function,  # type: ignore[arg-type]
            resolve_origin=lambda domain: OriginAddress("127.0.0.1", origin, False, domain),
            span=recorder.span if recorder else lambda span: None, log=lambda line: None,
        )  # fmt: skip
        await made.start("127.0.0.1", port)
        await asyncio.Event().wait()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it installs, so that the load costs little."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def measure(name: str, port: int, pid: int, arguments: argparse.Namespace) -> float:
    """Warm up, measure, print; give microseconds of CPU a request."""
    _run(drive(port, 2000, arguments.connections, arguments.size))
    before = cpu(pid)
    seconds = _run(drive(port, arguments.requests, arguments.connections, arguments.size))
    each = (cpu(pid) - before) / arguments.requests * 1e6
    print(f"{name:28} {each:7.1f} us CPU a request  {arguments.requests / seconds:9.0f} requests/s")
    return each


async def with_origin(arguments: argparse.Namespace) -> None:
    """Run every server against one origin."""
    body = b"x" * arguments.size

    def answer(request: Request) -> Response:
        return Response(200, [(b"Content-Type", b"text/plain"), (b"ETag", b'"1"')], body)

    origin = Server(answer)
    port = await origin.start("127.0.0.1", 0)
    await asyncio.to_thread(_all, port, arguments)
    await origin.stop()


def _all(origin: int, arguments: argparse.Namespace) -> None:
    found: dict[str, float] = {}
    with distribution(origin, trace=arguments.trace) as (port, pid):
        found["foreshore"] = measure("foreshore, hit", port, pid, arguments)
    if shutil.which("nginx"):
        for name, tuned in (("nginx, tuned", True), ("nginx, defaults", False)):
            with nginx(origin, tuned=tuned) as (port, pid):
                found[name] = measure(f"{name}, hit", port, pid, arguments)
                print(f"  foreshore / {name}: {found['foreshore'] / found[name]:.2f}")
    else:
        print("nginx is not on PATH: no comparison")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--serve", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--origin", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _run(serve(arguments.serve, arguments.origin, arguments.trace))
        return
    asyncio.run(with_origin(arguments))


if __name__ == "__main__":
    main()
