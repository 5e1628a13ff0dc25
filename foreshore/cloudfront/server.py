"""A distribution: its listener, connections, counters and admin pages. Shell.

A cached GET that nothing has to look at (no viewer function, no header or cookie in the key, no condition, no range)
is answered by `EdgeConnection` from bytes that were made when the entry was first served; everything else goes through
`pipeline.Pipeline`. Both count and trace alike.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import ssl as ssl_module
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import orjson

from foreshore.cloudfront import behaviors, triggers
from foreshore.cloudfront.behaviors import Behavior
from foreshore.cloudfront.cache import Entry, Key
from foreshore.cloudfront.forwarding import Viewer
from foreshore.cloudfront.origins import OriginAddress, Origins, ResolveOrigin
from foreshore.cloudfront.pipeline import POP, Exchange, Pipeline
from foreshore.cloudfront.policies import Policies
from foreshore.http import REASONS, Headers, Request, Response, Server, ServerProtocol, text_response
from foreshore.seams import (
    EmitLog,
    EmitSpan,
    Invoke,
    LogLine,
    Span,
    from_amzn_trace_id,
    split_traceparent,
    traceparent,
)

__all__ = ["Distribution", "OriginAddress"]

RECENT = 200
FAST_ENTRIES = 10_000
MAX_REMEMBERED = 4_096
_POP = POP.encode()
# A request with one of these goes the long way.
_LONG_WAY = frozenset(
    (b"range", b"if-none-match", b"if-modified-since", b"if-range", b"expect", b"upgrade", b"x-amzn-trace-id")
)
_random = random.Random(os.urandom(16))
# Neither the trace id (the upper 128 bits) nor the span id may be zero (W3C Trace Context, section 3.2.2).
_NOT_ZERO = 1 << 64 | 1


class RequestIds:
    """X-Amz-Cf-Id: 56 characters of URL-safe base64, from the system's randomness, drawn in bulk."""

    def __init__(self) -> None:
        self._text = b""
        self._at = 0

    def next(self) -> bytes:
        """A new id."""
        if self._at >= len(self._text):
            self._text = base64.urlsafe_b64encode(os.urandom(42 * 256))
            self._at = 0
        start = self._at
        self._at = start + 56
        return self._text[start : start + 54] + b"=="


class Fast:
    """An entry ready to be written: `head` up to the request id. `touched` is when the store last heard of its use."""

    __slots__ = ("attributes", "body", "entry", "head", "key", "name", "touched")

    def __init__(self, key: Key, entry: Entry, head: bytes, name: str) -> None:
        self.key = key
        self.entry = entry
        self.head = head
        self.body = entry.body
        self.name = name
        self.touched = 0.0
        self.attributes: dict[str, object] = {"x-cache": "Hit", "status": entry.status}


class EdgeConnection(ServerProtocol):
    """A viewer's connection, with two short ways for hits.

    A request whose target and headers need nothing but the entry is answered as soon as it is parsed; and one whose
    very bytes were answered so before, when they come alone in one read, is not parsed again.
    """

    __slots__ = ("_between", "_distribution", "_messages", "_short")

    def __init__(self, distribution: Distribution, server: Server, scheme: str) -> None:
        super().__init__(server, scheme)
        self._distribution = distribution
        self._between = True
        self._messages = 0
        self._short: Fast | None = None

    def data_received(self, data: bytes) -> None:
        alone = self._between and not self._busy and not self._queue
        if alone:
            fast = self._distribution.whole.get(data)
            if fast is not None and self._answer(fast, b""):
                return
        self._messages = 0
        self._short = None
        super().data_received(data)
        if alone and self._short is not None and self._messages == 1 and self._between:
            self._distribution.remember(data, self._short)

    def on_message_begin(self) -> None:
        self._between = False
        self._messages += 1
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._between = True
        if not self._busy and not self._queue and not self._body:
            variants = self._distribution.fast.get(self._target)
            if variants is not None and self._write_fast(variants):
                return
        super().on_message_complete()

    def _write_fast(self, variants: dict[bytes, Fast]) -> bool:
        accept = trace = b""
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"accept-encoding":
                accept = value
            elif lower == b"traceparent":
                trace = value
            elif lower in _LONG_WAY:
                return False
        fast = variants.get(accept)
        parser = self.parser
        if fast is None or parser.get_method() != b"GET" or not parser.should_keep_alive():
            return False
        if not self._answer(fast, trace):
            return False
        self._short = None if trace else fast
        return True

    def _answer(self, fast: Fast, trace: bytes) -> bool:
        head = self._distribution.hit(fast, trace)
        if head is None:
            return False
        if len(fast.body) < 16384:
            self.transport.write(head + fast.body)
        else:
            self.transport.writelines([head, fast.body])
        return True


class Distribution:
    """One CloudFront distribution on a port of this machine.

    `keys` maps a key group's id to its public keys (id → PEM), for signed URLs and cookies. Raises UserError or
    NotEmulated when the config can't be served.
    """

    def __init__(
        self,
        *,
        logical_id: str,
        distribution_id: str,
        domain_name: str,
        config: Any,
        policies: Mapping[str, Any],
        invoke: Invoke,
        resolve_origin: ResolveOrigin,
        span: EmitSpan,
        log: EmitLog,
        keys: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.logical_id = logical_id
        self.distribution_id = distribution_id
        self.domain_name = domain_name
        self.config = config
        settings = behaviors.read(config, Policies(policies), logical_id)
        self._ids = RequestIds()
        self._via = base64.b16encode(os.urandom(16)).decode().lower() + ".cloudfront.net"
        self._tail = b"Via: 1.1 %s (CloudFront)\r\nX-Amz-Cf-Pop: %s\r\nX-Amz-Cf-Id: " % (self._via.encode(), _POP)
        self._origins = Origins(resolve_origin)
        self.pipeline = Pipeline(
            settings, domain_name=domain_name, distribution_id=distribution_id, keys=keys or {}, invoke=invoke,
            origins=self._origins, log=log, via=self._via,
        )  # fmt: skip
        self._span = span
        self._log = log
        self.fast: dict[bytes, dict[bytes, Fast]] = {}
        self.whole: dict[bytes, Fast] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self.requests = self.hits = self.refresh_hits = self.misses = self.errors = self.redirects = self.generated = 0
        self.server = Server(self._handle, on_error=self._failed)
        self._listeners: list[asyncio.Server] = []
        self.port = 0
        self.tls_port = 0

    # Start and stop

    async def start(self, host: str, port: int) -> int:
        """Listen for plain HTTP; give the port. Raises OSError when it is taken."""
        self.port = await self._listen(host, port, None)
        return self.port

    async def start_tls(self, host: str, port: int, context: ssl_module.SSLContext) -> int:
        """Listen for HTTPS as well; redirects to HTTPS lead there."""
        self.tls_port = self.pipeline.tls_port = await self._listen(host, port, context)
        return self.tls_port

    async def _listen(self, host: str, port: int, context: ssl_module.SSLContext | None) -> int:
        scheme = "https" if context else "http"
        listener = await asyncio.get_running_loop().create_server(
            lambda: EdgeConnection(self, self.server, scheme), host, port, ssl=context, backlog=4096, reuse_address=True
        )
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the listeners, the connections and the fetches that are under way; a second call does nothing."""
        for listener in self._listeners:
            listener.close()
        for connection in list(self.server.connections):
            connection.transport.abort()
        await self.pipeline.close()
        for listener in self._listeners:
            await listener.wait_closed()
        self._listeners.clear()
        await self._origins.close()

    # Requests

    def hit(self, fast: Fast, trace: bytes) -> bytes | None:
        """The head of a hit, counted and traced; None when the cache no longer has the entry fresh."""
        entry = fast.entry
        begun = time.time_ns()
        now = begun / 1e9
        if now >= entry.fresh_until or not entry.kept:
            return None
        if now - fast.touched > 1.0:
            fast.touched = now
            self.pipeline.store.get(fast.key)
        self.requests += 1
        self.hits += 1
        ids = (_random.getrandbits(192) | _NOT_ZERO).to_bytes(24, "big").hex()
        trace_id, parent = _trace_of(trace.decode("latin-1")) if trace else (ids[:32], "")
        head = b"%s%s\r\nAge: %d\r\n\r\n" % (fast.head, self._ids.next(), now - entry.stored)
        duration = time.time_ns() - begun
        self._span(Span(trace_id, ids[32:], parent, "cloudfront", fast.name, begun, duration, True, fast.attributes))
        return head

    def remember(self, data: bytes, fast: Fast) -> None:
        """Know these bytes as a request that `fast` answers."""
        if len(data) > MAX_REMEMBERED:
            return
        if len(self.whole) >= FAST_ENTRIES:
            self.whole.clear()
        self.whole[data] = fast

    async def _handle(self, request: Request) -> Response:
        begun = time.time_ns()
        incoming = request.header("traceparent") or from_amzn_trace_id(request.header("x-amzn-trace-id")) or ""
        trace_id, parent = _trace_of(incoming)
        span_id = f"{_random.getrandbits(64) | 1:016x}"
        x = self._exchange(request, begun / 1e9, traceparent(trace_id, span_id))
        response = await self.pipeline.serve(x)
        self._count(x)
        self._finish(x, response)
        duration = time.time_ns() - begun
        path = request.raw_path
        attributes: dict[str, object] = {
            "x-cache": x.x_cache,
            "status": response.status,
            "behavior": x.behavior.pattern,
        }
        if x.ran:
            attributes["functions"] = x.ran
        self._span(
            Span(trace_id, span_id, parent, "cloudfront", f"{request.method} {path}", begun, duration,
                 response.status < 500, attributes)
        )  # fmt: skip
        self._recent.append(self._explain(x, response, duration))
        return response

    def _exchange(self, request: Request, now: float, trace: str) -> Exchange:
        tls = request.tls
        cipher = tls.cipher() if tls is not None else None
        detail = f"{tls.version()}:{cipher[0]}:fullHandshake" if tls is not None and cipher else ""
        viewer = Viewer(request.peer[0], request.peer[1], request.scheme, request.version, detail)
        path = request.raw_path
        if not path.startswith("/"):
            path = "/" + path.partition("://")[2].partition("/")[2] if "://" in path else "/"
        edge = triggers.EdgeRequest(
            request.method, path, request.query_string, request.headers, viewer.ip, request.body
        )  # fmt: skip
        behavior = self.pipeline.settings.match(path)
        return Exchange(request, self._ids.next().decode(), now, viewer, trace, behavior, edge)

    def _count(self, x: Exchange) -> None:
        self.requests += 1
        kind = x.x_cache
        if kind in ("Hit", "RefreshHit"):
            self.hits += 1
            self.refresh_hits += kind == "RefreshHit"
        elif kind == "Miss":
            self.misses += 1
        elif kind == "Redirect":
            self.redirects += 1
        elif kind == "LambdaGeneratedResponse":
            self.generated += 1
        else:
            self.errors += 1

    def _finish(self, x: Exchange, response: Response) -> None:
        """The headers every answer has; what the entry has is made ready for the short way."""
        if x.x_cache in ("Hit", "RefreshHit", "Miss") and self._is_plain(x, response):
            self._prepare(x, response)
        headers = response.headers
        if not any(name.lower() == b"via" for name, _ in headers):
            headers.append((b"Via", f"1.1 {self._via} (CloudFront)".encode()))
        headers.append((b"X-Cache", f"{x.x_cache} from cloudfront".encode()))
        headers.append((b"X-Amz-Cf-Pop", _POP))
        headers.append((b"X-Amz-Cf-Id", x.request_id.encode()))

    def _is_plain(self, x: Exchange, response: Response) -> bool:
        """Whether later hits of this target need nothing but the entry."""
        return (
            x.wants == "GET" and response.status == 200 and x.entry is not None and x.entry.status == 200
            and not x.custom_error and _has_short_way(x.behavior) and x.key is not None
            and self.pipeline.store.entries.get(x.key) is x.entry
        )  # fmt: skip

    def _prepare(self, x: Exchange, response: Response) -> None:
        assert x.entry is not None and x.key is not None
        if len(self.fast) >= FAST_ENTRIES:
            self.fast.clear()
        skipped = (b"age", b"via", b"content-length")
        kept: Headers = [pair for pair in response.headers if pair[0].lower() not in skipped]
        lines = [b"HTTP/1.1 200 %s\r\n" % REASONS[200], *(b"%s: %s\r\n" % pair for pair in kept)]
        lines.append(b"Content-Length: %d\r\nX-Cache: Hit from cloudfront\r\n" % len(x.entry.body))
        head = b"".join(lines) + self._tail
        accept = x.request.header("accept-encoding").encode("latin-1")
        variants = self.fast.setdefault(x.request.target.encode("latin-1"), {})
        if len(variants) >= 16:
            variants.clear()
        variants[accept] = Fast(x.key, x.entry, head, f"GET {x.request.raw_path}")

    def _failed(self, request: Request, error: Exception) -> Response:
        where = f"{request.method} {request.raw_path}"
        text = f"{where}: {type(error).__name__}: {error}"
        self._log(LogLine(time.time_ns(), "cloudfront", self.logical_id, "ERROR", "", text))
        return text_response(500, f"Foreshore failed: {type(error).__name__}\n")

    # What others see

    def stats(self) -> dict[str, Any]:
        """Counters since the start. `hits` has refresh hits in it."""
        store = self.pipeline.store
        return {
            "requests": self.requests, "hits": self.hits, "refresh_hits": self.refresh_hits, "misses": self.misses,
            "errors": self.errors, "redirects": self.redirects, "generated": self.generated,
            "origin_requests": self.pipeline.origin_requests, "entries": len(store.entries), "bytes": store.size,
            "lambda": {arn: dict(counts) for arn, counts in self.pipeline.functions.items()},
        }  # fmt: skip

    def invalidate(self, paths: list[str]) -> int:
        """Forget what the paths name (a path, or a prefix ending in `*`); give how many entries went."""
        gone = self.pipeline.store.invalidate(paths)
        self.fast.clear()
        self.whole.clear()
        return gone

    def _explain(self, x: Exchange, response: Response, duration_ns: int) -> dict[str, Any]:
        return {
            "id": x.request_id, "method": x.wants, "target": x.request.target, "status": response.status,
            "behavior": x.behavior.pattern, "cache_policy": x.behavior.cache.name,
            "cache_key": list(x.key) if x.key else None, "uri": x.edge.uri, "querystring": x.edge.querystring,
            "functions": list(x.ran), "x_cache": x.x_cache, "origin": x.origin, "trace_id": x.traceparent[3:35],
            "timings_ms": {name: round(value * 1000, 3) for name, value in x.timings.items()},
            "total_ms": round(duration_ns / 1e6, 3),
        }  # fmt: skip

    def admin(self, request: Request) -> Response:
        """`…/stats`, `…/recent`, `…/explain/<X-Amz-Cf-Id>`; POST `…/invalidate` with `{"paths": [...]}`."""
        parts = [part for part in request.raw_path.split("/") if part]
        verb = parts[3] if len(parts) > 3 else "stats"
        if verb == "stats":
            return _json(200, self.stats())
        if verb == "recent":
            return _json(200, list(self._recent))
        if verb == "explain":
            found = next((one for one in reversed(self._recent) if one["id"] == parts[-1]), None)
            return _json(200 if found else 404, found or {"message": "not among the recent requests"})
        if verb == "invalidate" and request.method == "POST":
            return self._admin_invalidate(request)
        return text_response(404, f"no such page: {request.raw_path}\n")

    def _admin_invalidate(self, request: Request) -> Response:
        try:
            paths = orjson.loads(request.body)["paths"]
        except (ValueError, KeyError, TypeError):
            paths = None
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            return _json(400, {"message": 'send {"paths": ["/path", "/prefix/*"]}'})
        return _json(200, {"invalidated": self.invalidate(paths)})


def _json(status: int, value: object) -> Response:
    return Response(status, [(b"Content-Type", b"application/json")], orjson.dumps(value))


def _trace_of(text: str) -> tuple[str, str]:
    """(trace id, parent span id) of an incoming traceparent, or a new trace without a parent."""
    return split_traceparent(text) or (f"{_random.getrandbits(128) | 1:032x}", "")


def _has_short_way(behavior: Behavior) -> bool:
    """Whether nothing about a viewer but the target and Accept-Encoding matters to the answer."""
    policy = behavior.response_headers
    return (
        "viewer-request" not in behavior.triggers
        and "viewer-response" not in behavior.triggers
        and behavior.cache.headers.behavior == "none"
        and behavior.cache.cookies.behavior == "none"
        and behavior.viewer_protocol == "allow-all"
        and not behavior.key_groups
        and (policy is None or (policy.cors is None and policy.server_timing is None))
    )
