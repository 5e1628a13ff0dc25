"""The console's listener. Shell: Starlette on uvicorn, inside the one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from foreshore.seams import LogLine, Span
from foreshore.traces.recorder import Recorder

BATCH_SECONDS = 0.25
BATCH_SPANS = 100


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to `foreshore dev`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class Console:
    """Serves the page, the endpoints, the counters and the live flow."""

    def __init__(
        self, recorder: Recorder, endpoints: Callable[[], dict[str, Any]], status: Callable[[], dict[str, Any]]
    ) -> None:
        self.recorder = recorder
        self.endpoints = endpoints
        self.status = status
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def start(self, host: str, port: int) -> int:
        """Listen; give the port. Raises OSError when it is taken."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            listener.close()
            raise
        routes = [
            Route("/", self._page),
            Route("/endpoints", self._endpoints),
            Route("/status", self._status),
            Route("/events", self._events),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = _Server(config)
        self._task = asyncio.ensure_future(self._server.serve(sockets=[listener]))
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Close the listener and every open stream."""
        self._closing.set()
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
            self._server = None

    async def _page(self, request: Request) -> Response:
        page = await asyncio.to_thread((Path(__file__).parent / "page.html").read_text, "utf-8")
        return HTMLResponse(page)

    async def _endpoints(self, request: Request) -> Response:
        return _json(self.endpoints())

    async def _status(self, request: Request) -> Response:
        return _json(self.status())

    async def _events(self, request: Request) -> Response:
        return StreamingResponse(self._flow(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _flow(self) -> AsyncIterator[bytes]:
        """Batches of spans; under a flood the newest of each quarter second."""
        pending: deque[Span] = deque(maxlen=BATCH_SPANS)

        def listen(record: Span | LogLine) -> None:
            if isinstance(record, Span):
                pending.append(record)

        self.recorder.listeners.append(listen)
        try:
            while not self._closing.is_set():
                if pending:
                    yield b"data: " + orjson.dumps([span._asdict() for span in pending], default=str) + b"\n\n"
                    pending.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), BATCH_SECONDS)
        finally:
            self.recorder.listeners.remove(listen)


def _json(value: object) -> Response:
    return Response(orjson.dumps(value, default=str), media_type="application/json")
