"""HTTP/1.1 over asyncio: the one server and the one client that every room's shell uses (RFC 9110, RFC 9112).

Parsing is httptools' (it keeps header case); this module adds framing of answers, keep-alive, pipelining order, limits
and WebSocket hand-over. It knows nothing of AWS.

A handler is `Request -> Response`, plain or async. A plain answer is written in the same loop turn. An async one runs
in a task; requests pipelined behind it wait their turn (RFC 9112, section 9.3.2).
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import httptools

from foreshore.errors import PeerError

Headers = list[tuple[bytes, bytes]]

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
MAX_HEAD = 64 * 1024
MAX_BODY = 256 * 1024 * 1024
HIGH_WATER = 1024 * 1024


@dataclass(slots=True)
class Request:
    """One request. `target` is the raw request target (path and query); header names keep the case they came in."""

    method: str
    target: str
    headers: Headers
    body: bytes = b""
    peer: tuple[str, int] = ("", 0)
    scheme: str = "http"
    tls: ssl_module.SSLObject | None = None
    version: str = "1.1"

    @property
    def raw_path(self) -> str:
        """The path as sent, percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def path(self) -> str:
        """The path, percent-decoded once."""
        return unquote(self.raw_path)

    @property
    def query_string(self) -> str:
        """What follows the first `?`, as sent."""
        return self.target.partition("?")[2]

    @property
    def query(self) -> list[tuple[str, str]]:
        """The query's pairs, decoded, blank values kept."""
        return parse_qsl(self.query_string, keep_blank_values=True)

    def header(self, name: str, default: str = "") -> str:
        """The first value of a header, by any case; latin-1 decoded."""
        wanted = name.lower().encode()
        for key, value in self.headers:
            if key.lower() == wanted:
                return value.decode("latin-1")
        return default


def origin_form(target: str, headers: Headers) -> tuple[str, Headers]:
    """A request target that is a whole URI, cut to its path; its host stands above Host (RFC 9112, section 3.2.2)."""
    rest = target.partition("://")[2]
    end = min(at for at in (rest.find("/"), rest.find("?"), len(rest)) if at >= 0)
    host, path = rest[:end].rpartition("@")[2], rest[end:]
    others = [(name, value) for name, value in headers if name.lower() != b"host"]
    return path if path[:1] == "/" else f"/{path}", [(b"Host", host.encode("latin-1")), *others]


Upgrade = Callable[[asyncio.Transport, bytes], asyncio.BaseProtocol | None]


@dataclass(slots=True)
class Response:
    """One answer. Content-Length, Date-less, is added unless `headers` frame the body; an iterator body is chunked.

    `upgrade`, with status 101, is called with the transport and the bytes read ahead, once the head is written; it
    returns the protocol that takes over, or None if it has set one itself. `hang_up` closes the connection without an
    answer.
    """

    status: int = 200
    headers: Headers = field(default_factory=list)
    body: bytes | AsyncIterator[bytes] = b""
    reason: bytes = b""
    upgrade: Upgrade | None = None
    close: bool = False
    hang_up: bool = False

    def header(self, name: str, default: str = "") -> str:
        """The first value of a header, by any case; latin-1 decoded."""
        wanted = name.lower().encode()
        for key, value in self.headers:
            if key.lower() == wanted:
                return value.decode("latin-1")
        return default


Handler = Callable[[Request], Response | Awaitable[Response]]


def text_response(status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> Response:
    """A small answer of text."""
    return Response(status, [(b"Content-Type", content_type.encode())], text.encode())


def head_bytes(response: Response, *, head_only: bool, keep_alive: bool) -> tuple[bytes, bool]:
    """The status line and header block, and whether the body is to be chunked."""
    names = {name.lower() for name, _ in response.headers}
    reason = response.reason or REASONS.get(response.status, b"")
    lines = [b"HTTP/1.1 %d %s\r\n" % (response.status, reason)]
    lines += [b"%s: %s\r\n" % pair for pair in response.headers]
    chunked = False
    no_body = response.status in (204, 304) or response.status < 200
    if not no_body and b"content-length" not in names and b"transfer-encoding" not in names:
        if isinstance(response.body, bytes):
            lines.append(b"Content-Length: %d\r\n" % len(response.body))
        elif not head_only:
            lines.append(b"Transfer-Encoding: chunked\r\n")
            chunked = True
    if not keep_alive and b"connection" not in names:
        lines.append(b"Connection: close\r\n")
    lines.append(b"\r\n")
    return b"".join(lines), chunked


class ServerProtocol(asyncio.Protocol):
    """One server connection: httptools callbacks fill a request, `_advance` answers them in order."""

    __slots__ = (
        "_body", "_busy", "_can_write", "_expect", "_head_size", "_headers", "_queue", "_scheme", "_server", "_size",
        "_target", "_task", "_tls", "parser", "peer", "transport",
    )  # fmt: skip

    def __init__(self, server: Server, scheme: str) -> None:
        self._server = server
        self._scheme = scheme
        self._tls: ssl_module.SSLObject | None = None
        self.parser = httptools.HttpRequestParser(self)
        self._queue: deque[tuple[Request, bool]] = deque()
        self._busy = False
        self._task: asyncio.Task[None] | None = None
        self._can_write: asyncio.Event | None = None
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._size = 0
        self._head_size = 0
        self._expect = False

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) and len(peer) >= 2 else ("", 0)
        self._tls = transport.get_extra_info("ssl_object")
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._task is not None and self._server.cancel_on_disconnect:
            self._task.cancel()
        if self._can_write is not None:
            self._can_write.set()

    def pause_writing(self) -> None:
        self._can_write = asyncio.Event()

    def resume_writing(self) -> None:
        if self._can_write is not None:
            self._can_write.set()
            self._can_write = None

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade_rest(data[upgrade.args[0] :])
        except PeerError as error:
            self._refuse(error.reason or 400, error.what)
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, PeerError):
                self._refuse(cause.reason, cause.what)
            else:
                self._refuse(400, "malformed HTTP request")

    def _upgrade_rest(self, rest: bytes) -> None:
        if self._queue or self._busy:
            self._server.read_ahead[id(self)] = rest

    def _refuse(self, status: int, text: str) -> None:
        response = text_response(status, text + "\n")
        self.transport.write(head_bytes(response, head_only=False, keep_alive=False)[0] + text.encode() + b"\n")
        self.transport.close()

    # httptools

    def on_message_begin(self) -> None:
        self._reset()

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        self._count(len(name) + len(value) + 4)
        if len(name) == 6 and name.lower() == b"expect" and value.lower() == b"100-continue":
            self._expect = True

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._server.max_head:
            raise PeerError("request header fields too large", 431)

    def on_headers_complete(self) -> None:
        if self._expect:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._server.max_body:
            raise PeerError("request body too large", 413)
        self._body.append(body)

    def on_message_complete(self) -> None:
        target, headers = self._target.decode("latin-1"), self._headers
        if target[:1] != "/" and "://" in target:
            target, headers = origin_form(target, headers)
        request = Request(
            self.parser.get_method().decode(),
            target,
            headers,
            b"".join(self._body),
            self.peer,
            self._scheme,
            self._tls,
            self.parser.get_http_version(),
        )
        keep_alive = self.parser.should_keep_alive()
        self._queue.append((request, keep_alive))
        if not self._busy:
            self._advance()

    def _advance(self) -> None:
        while self._queue and not self._busy and not self.transport.is_closing():
            request, keep_alive = self._queue.popleft()
            try:
                answer = self._server.handler(request)
            except Exception as error:
                answer = self._server.failed(request, error)
            if isinstance(answer, Response):
                if isinstance(answer.body, bytes):
                    self._write(request, answer, keep_alive)
                    continue
                answer = _ready(answer)
            self._busy = True
            self._task = asyncio.ensure_future(self._answer_later(request, answer, keep_alive))

    async def _answer_later(self, request: Request, answer: Awaitable[Response], keep_alive: bool) -> None:
        try:
            try:
                response = await answer
            except Exception as error:
                response = self._server.failed(request, error)
            if isinstance(response.body, bytes):
                self._write(request, response, keep_alive)
            else:
                await self._stream(request, response, keep_alive)
        finally:
            self._busy = False
            self._task = None
        self._advance()

    def _write(self, request: Request, response: Response, keep_alive: bool) -> None:
        if response.hang_up:
            self.transport.close()
            return
        keep_alive = keep_alive and not response.close
        head_only = request.method == "HEAD"
        head, _ = head_bytes(response, head_only=head_only, keep_alive=keep_alive)
        body = cast(bytes, response.body)
        if response.upgrade is not None:
            self.transport.write(head)
            rest = self._server.read_ahead.pop(id(self), b"")
            protocol = response.upgrade(self.transport, rest)
            self._server.connections.discard(self)
            if protocol is not None:
                self.transport.set_protocol(protocol)
                protocol.connection_made(self.transport)
                if rest:
                    cast(asyncio.Protocol, protocol).data_received(rest)
            return
        if head_only or response.status in (204, 304) or not body:
            self.transport.write(head)
        elif len(body) < 16384:
            self.transport.write(head + body)
        else:
            self.transport.writelines([head, body])
        if not keep_alive:
            self.transport.close()

    async def _stream(self, request: Request, response: Response, keep_alive: bool) -> None:
        body = cast(AsyncIterator[bytes], response.body)
        head_only = request.method == "HEAD"
        head, chunked = head_bytes(response, head_only=head_only, keep_alive=keep_alive)
        self.transport.write(head)
        try:
            async for chunk in body:
                if self.transport.is_closing():
                    return
                if chunk and not head_only:
                    self.transport.write(b"%x\r\n%s\r\n" % (len(chunk), chunk) if chunked else chunk)
                if self._can_write is not None:
                    await self._can_write.wait()
        except Exception as error:
            # The head is out: the only honest end is a broken connection (RFC 9112, section 8).
            self._server.failed(request, error)
            self.transport.abort()
            return
        finally:
            close = getattr(body, "aclose", None)
            if close is not None:
                await close()
        if chunked:
            self.transport.write(b"0\r\n\r\n")
        if not keep_alive:
            self.transport.close()


async def _ready(response: Response) -> Response:
    return response


class Server:
    """A listening HTTP server. `port` is the real port after `start` (ask for 0 to take a free one)."""

    def __init__(
        self,
        handler: Handler,
        *,
        on_error: Callable[[Request, Exception], Response] | None = None,
        max_head: int = MAX_HEAD,
        max_body: int = MAX_BODY,
        cancel_on_disconnect: bool = False,
    ) -> None:
        self.handler = handler
        self.max_head = max_head
        self.max_body = max_body
        self.cancel_on_disconnect = cancel_on_disconnect
        self.connections: set[ServerProtocol] = set()
        self.read_ahead: dict[int, bytes] = {}
        self._on_error = on_error
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int, ssl: ssl_module.SSLContext | None = None) -> int:
        """Bind and listen; give the port. Raises OSError when it is taken."""
        loop = asyncio.get_running_loop()
        scheme = "https" if ssl else "http"
        self._server = await loop.create_server(
            lambda: ServerProtocol(self, scheme), host, port, ssl=ssl, backlog=4096, reuse_address=True
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def failed(self, request: Request, error: Exception) -> Response:
        """Answer for a handler that raised. A room passes `on_error` to shape it; otherwise it is a bare 500."""
        if self._on_error is not None:
            return self._on_error(request, error)
        asyncio.get_running_loop().call_exception_handler({"message": "HTTP handler failed", "exception": error})
        return text_response(500, "Internal Server Error\n")


class ClientProtocol(asyncio.Protocol):
    """One client connection, one exchange at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.parser: Any = None
        self.waiter: asyncio.Future[Response] | None = None
        self._head_request = False
        self.reusable = False
        self.fresh = True
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.waiter is None:
            self.transport.close()
            return
        self.fresh = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._done()
        except httptools.HttpParserError as error:
            if self.waiter is not None and not self.waiter.done():
                self.waiter.set_exception(PeerError(f"malformed HTTP response: {error}"))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        waiter = self.waiter
        if waiter is None or waiter.done():
            return
        if self._headers_done and not self._framed:
            self._done()
        else:
            waiter.set_exception(exc or ConnectionResetError("the server closed the connection before it answered"))

    def send(self, head: bytes, body: bytes, method: str) -> asyncio.Future[Response]:
        """Write one request; the future gives its answer."""
        self.parser = httptools.HttpResponseParser(self)
        self._head_request = method == "HEAD"
        self._reset()
        self.fresh = True
        self.waiter = asyncio.get_running_loop().create_future()
        if len(body) < 16384:
            self.transport.write(head + body)
        else:
            self.transport.writelines([head, body])
        return self.waiter

    def _reset(self) -> None:
        self._reason = b""
        self._headers: Headers = []
        self._chunks: list[bytes] = []
        self._framed = False
        self._headers_done = False

    def on_message_begin(self) -> None:
        self._reset()

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        self._headers_done = True
        self._status = self.parser.get_status_code()
        if self._head_request and self._status >= 200:
            self.reusable = self.parser.should_keep_alive()
            self._done()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._status >= 200 and not self._head_request:
            self.reusable = self.parser.should_keep_alive()
            self._done()

    def _done(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(Response(self._status, self._headers, b"".join(self._chunks), self._reason))


class Client:
    """A keep-alive client with a pool per (host, port, TLS). No redirects, no decoding: bytes in, bytes out."""

    def __init__(self, *, limit: int = 64) -> None:
        self._idle: dict[tuple[str, int, bool], list[ClientProtocol]] = {}
        self._limit = limit

    async def fetch(
        self,
        method: str,
        host: str,
        port: int,
        target: str,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        ssl: ssl_module.SSLContext | None = None,
        server_hostname: str | None = None,
        connect_timeout: float = 10.0,
        timeout: float = 60.0,
    ) -> Response:
        """One exchange. Adds Host and Content-Length when absent. Raises OSError, TimeoutError or PeerError.

        A pooled connection that turns out to be dead before any byte came back is retried once on a new one.
        """
        pairs = list(headers)
        names = {name.lower() for name, _ in pairs}
        if b"host" not in names:
            pairs.insert(0, (b"Host", f"{host}:{port}".encode()))
        if (
            b"content-length" not in names
            and b"transfer-encoding" not in names
            and (body or method in ("POST", "PUT", "PATCH"))
        ):
            pairs.append((b"Content-Length", b"%d" % len(body)))
        lines = [
            f"{method} {target} HTTP/1.1\r\n".encode("latin-1"),
            *(b"%s: %s\r\n" % pair for pair in pairs),
            b"\r\n",
        ]
        head = b"".join(lines)
        key = (host, port, ssl is not None)
        idle = self._idle.setdefault(key, [])
        while idle:
            protocol = idle.pop()
            if protocol.closed or protocol.transport.is_closing():
                continue
            try:
                return await self._exchange(protocol, key, head, body, method, timeout)
            except (ConnectionError, BrokenPipeError):
                if not protocol.fresh:
                    raise
                break
        loop = asyncio.get_running_loop()
        _, protocol = await asyncio.wait_for(
            loop.create_connection(
                ClientProtocol, host, port, ssl=ssl, server_hostname=(server_hostname or host) if ssl else None
            ),
            connect_timeout,
        )
        return await self._exchange(protocol, key, head, body, method, timeout)

    async def _exchange(
        self,
        protocol: ClientProtocol,
        key: tuple[str, int, bool],
        head: bytes,
        body: bytes,
        method: str,
        timeout: float,
    ) -> Response:
        protocol.reusable = False
        try:
            async with asyncio.timeout(timeout):
                response = await protocol.send(head, body, method)
        except BaseException:
            protocol.transport.abort()
            raise
        idle = self._idle.setdefault(key, [])
        if protocol.reusable and len(idle) < self._limit:
            idle.append(protocol)
        else:
            protocol.transport.close()
        return response

    async def close(self) -> None:
        """Close every pooled connection."""
        for idle in self._idle.values():
            for protocol in idle:
                protocol.transport.abort()
        self._idle.clear()
