"""The way of one request through the edge: admit, viewer-request, cache, origin, custom error, viewer-response. Shell.

`Pipeline.serve` takes an `Exchange` and gives the response; what it decided on the way stays in the exchange, for
spans, counters and `foreshore request`. Decisions are made by the pure modules; here they are only put in order.

Source: CloudFront Developer Guide, "How CloudFront delivers content", "CloudFront events that can trigger a
Lambda@Edge function", "How CloudFront processes HTTP 4xx and 5xx status codes", "Optimizing high availability with
origin failover".
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from foreshore.cloudfront import (
    compression,
    forwarding,
    limits,
    pages,
    partial,
    response_headers,
    signing,
    triggers,
)
from foreshore.cloudfront.behaviors import Behavior, CustomError, Origin, Settings
from foreshore.cloudfront.cache import (
    Entry,
    Freshness,
    Key,
    Store,
    cache_key,
    error_ttl,
    freshness,
    header,
    may_collapse,
    may_store,
)
from foreshore.cloudfront.forwarding import Viewer
from foreshore.cloudfront.origins import OriginFailure, Origins
from foreshore.cloudfront.triggers import EdgeContext, EdgeFailure, EdgeRequest, EdgeResponse, Stage
from foreshore.errors import AwsError, ForeshoreError
from foreshore.http import Headers, Request, Response
from foreshore.seams import EmitLog, Invoke, LogLine

FAILOVER_METHODS = ("GET", "HEAD", "OPTIONS")
ERROR_TTL = 10


class Refusal(Exception):
    """An answer of CloudFront's own that ends a request early."""

    def __init__(self, status: int, body: bytes, kind: str, x_cache: str = "Error", headers: Headers = []) -> None:  # noqa: B006
        super().__init__(status)
        self.status = status
        self.body = body
        self.kind = kind
        self.x_cache = x_cache
        self.headers = headers


@dataclass(slots=True)
class Exchange:
    """One request on its way, and what was decided about it. `now` in seconds since the epoch."""

    request: Request
    request_id: str
    now: float
    viewer: Viewer
    traceparent: str
    behavior: Behavior
    edge: EdgeRequest
    key: Key | None = None
    entry: Entry | None = None
    x_cache: str = "Error"
    ran: list[str] = field(default_factory=list)
    origin: str = ""
    custom_error: bool = False
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def wants(self) -> str:
        """The request's method."""
        return self.request.method


class Pipeline:
    """One distribution's requests."""

    def __init__(
        self,
        settings: Settings,
        *,
        domain_name: str,
        distribution_id: str,
        keys: Mapping[str, Mapping[str, str]],
        invoke: Invoke,
        origins: Origins,
        log: EmitLog,
        via: str,
    ) -> None:
        self.settings = settings
        self.domain_name = domain_name
        self.distribution_id = distribution_id
        self.keys = keys
        self.invoke = invoke
        self.origins = origins
        self.log = log
        self.via = via
        self.store = Store(limits.CACHE_BYTES)
        self.functions: dict[str, Counter[str]] = {}
        self.origin_requests = 0
        self.tls_port = 0
        self._pending: dict[Key, asyncio.Task[tuple[Entry, str]]] = {}
        self._background: set[asyncio.Task[tuple[Entry, str]]] = set()

    async def close(self) -> None:
        """End the fetches that nobody waits for."""
        tasks = [*self._background, *self._pending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def serve(self, x: Exchange) -> Response:
        """Answer one request; never raises for what the viewer, a function or an origin did."""
        try:
            return await self._serve(x)
        except EdgeFailure as failure:
            x.x_cache = failure.x_cache
            return self._page(x, failure.status, failure.text)
        except Refusal as refusal:
            x.x_cache = refusal.x_cache
            headers = [(b"Server", b"CloudFront"), (b"Content-Type", refusal.kind.encode()), *refusal.headers]
            return Response(refusal.status, headers, refusal.body)

    def _page(self, x: Exchange, status: int, text: str) -> Response:
        headers = [(b"Server", b"CloudFront"), (b"Content-Type", b"text/html")]
        return Response(status, headers, pages.error_page(status, text, x.request_id))

    def _refuse(self, x: Exchange, status: int, text: str) -> Refusal:
        return Refusal(status, pages.error_page(status, text, x.request_id), "text/html")

    async def _serve(self, x: Exchange) -> Response:
        self._admit(x)
        generated = await self._viewer_request(x)
        if generated is not None:
            x.x_cache = "LambdaGeneratedResponse"
            return Response(generated.status, generated.headers, generated.body or b"", generated.description.encode())
        if x.edge.uri == "/" and self.settings.root_object:
            x.edge.uri = "/" + self.settings.root_object
        entry, x.x_cache = await self._find(x)
        if entry.status >= 400 or entry.origin_status >= 400:
            entry = await self._custom_error(x, entry)
        return await self._to_viewer(x, entry)

    # Admission

    def _admit(self, x: Exchange) -> None:
        request, behavior = x.request, x.behavior
        head = sum(len(name) + len(value) + 4 for name, value in request.headers)
        if len(request.target) > limits.MAX_URL or head + len(request.target) > limits.MAX_REQUEST_HEAD:
            raise self._refuse(x, 413, pages.TOO_LARGE)
        if not self.settings.enabled:
            raise self._refuse(x, 403, pages.DISABLED)
        if x.viewer.scheme == "http" and behavior.viewer_protocol != "allow-all":
            raise self._to_https(x)
        if request.method not in behavior.methods:
            raise self._refuse(x, 403, pages.METHOD_NOT_ALLOWED)
        if request.method == "GET" and request.body:
            raise self._refuse(x, 403, pages.GET_WITH_BODY)
        if behavior.key_groups:
            self._check_signature(x)

    def _to_https(self, x: Exchange) -> Refusal:
        if x.behavior.viewer_protocol == "https-only" or x.request.version == "1.0":
            return self._refuse(x, 403, pages.HTTPS_ONLY)
        host = x.request.header("host")
        if self.tls_port:
            host = f"{host.rpartition(':')[0] or host}:{self.tls_port}"
        status, phrase = (301, "Moved Permanently") if x.wants in ("GET", "HEAD") else (307, "Temporary Redirect")
        location = f"https://{host}{x.request.target}".encode("latin-1")
        body = pages.redirect_page(status, phrase)
        return Refusal(status, body, "text/html", "Redirect", [(b"Location", location)])

    def _check_signature(self, x: Exchange) -> None:
        keys = {name: pem for group in x.behavior.key_groups for name, pem in self.keys.get(group, {}).items()}
        url = f"{x.viewer.scheme}://{x.request.header('host')}{x.request.raw_path}"
        cookie = header(x.request.headers, b"cookie")
        try:
            signing.check(url, x.request.query_string, cookie, x.viewer.ip, x.now, keys)
        except signing.Refused as refused:
            raise Refusal(403, pages.access_denied(refused.code, refused.message), "text/xml") from refused
        x.edge.querystring = signing.strip_query(x.request.query_string)

    # Functions

    async def _invoke(self, x: Exchange, stage: Stage, event: bytes) -> bytes:
        trigger = x.behavior.triggers[stage.event_type]
        counts = self.functions.setdefault(trigger.arn, Counter())
        counts["invocations"] += 1
        x.ran.append(stage.event_type)
        begun = time.perf_counter()
        try:
            result = await self.invoke(trigger.arn, event, traceparent=x.traceparent)
        except AwsError as error:
            failure = triggers.throttled if error.code == "TooManyRequestsException" else triggers.broken
            raise failure(f"{trigger.arn}: {error.code}: {error.message}") from error
        except ForeshoreError as error:
            raise triggers.broken(f"{trigger.arn}: {error}") from error
        finally:
            x.timings[stage.event_type] = time.perf_counter() - begun
        if result.function_error:
            raise triggers.broken(f"{trigger.arn}: {result.payload.decode('utf-8', 'replace')}")
        return result.payload

    def _failed(self, x: Exchange, stage: Stage, failure: EdgeFailure) -> None:
        """Count and log a function's failure, under the name of its log group on AWS."""
        self.functions[x.behavior.triggers[stage.event_type].arn][failure.x_cache] += 1
        group = f"/aws/cloudfront/LambdaEdge/{self.distribution_id}"
        trace = x.traceparent[3:35]
        text = f"{stage.event_type} {x.request_id} ERROR {failure.log}"
        self.log(LogLine(time.time_ns(), "cloudfront", group, "ERROR", trace, text))

    def _context(self, x: Exchange) -> EdgeContext:
        return EdgeContext(self.domain_name, self.distribution_id, x.request_id)

    async def _request_stage(
        self, x: Exchange, stage: Stage, edge: EdgeRequest, scheme: str
    ) -> EdgeRequest | EdgeResponse:
        trigger = x.behavior.triggers.get(stage.event_type)
        if trigger is None:
            return edge
        event = triggers.request_event(
            stage, self._context(x), edge, include_body=trigger.include_body, scheme=scheme
        )  # fmt: skip
        try:
            payload = await self._invoke(x, stage, event)
            return triggers.read_request_result(stage, edge, payload, include_body=trigger.include_body)
        except EdgeFailure as failure:
            self._failed(x, stage, failure)
            raise

    async def _response_stage(
        self, x: Exchange, stage: Stage, edge: EdgeRequest, response: EdgeResponse, scheme: str
    ) -> EdgeResponse:
        if stage.event_type not in x.behavior.triggers:
            return response
        event = triggers.response_event(stage, self._context(x), edge, response, scheme=scheme)
        try:
            payload = await self._invoke(x, stage, event)
            return triggers.read_response_result(stage, response, payload)
        except EdgeFailure as failure:
            self._failed(x, stage, failure)
            raise

    async def _viewer_request(self, x: Exchange) -> EdgeResponse | None:
        result = await self._request_stage(x, triggers.VIEWER_REQUEST, x.edge, x.viewer.scheme)
        if isinstance(result, EdgeResponse):
            return result
        x.edge = result
        return None

    # The cache

    async def _find(self, x: Exchange) -> tuple[Entry, str]:
        policy = x.behavior.cache
        cached = x.wants in ("GET", "HEAD") or (x.wants == "OPTIONS" and "OPTIONS" in x.behavior.cached_methods)
        if not cached or not policy.caches:
            return await self._fetch(x, None, None)
        host, target = self.domain_name, x.behavior.target
        key = cache_key(policy, x.wants, x.edge.uri, x.edge.querystring, self._keyed_headers(x), host, target)
        x.key = key
        entry = self.store.get(key)
        wanted = header(x.edge.headers, b"range")
        if entry is None and wanted is not None:
            x.key = key = (*key, f"range:{wanted}")
            entry = self.store.get(key)
        if entry is not None and entry.is_fresh(x.now):
            return entry, _hit(entry)
        if entry is not None and entry.serves_while_revalidating(x.now):
            if key not in self._pending:
                self._start(x, key, entry)
            return entry, _hit(entry)
        if x.wants == "HEAD":
            return await self._fetch(x, key, entry)
        return await self._collapse(x, key, entry)

    def _keyed_headers(self, x: Exchange) -> Headers:
        names = x.behavior.cache.headers.names
        if not any(name.startswith("cloudfront-") for name in names):
            return x.edge.headers
        kept = [pair for pair in x.edge.headers if not pair[0].lower().startswith(b"cloudfront-")]
        return kept + forwarding.cloudfront_headers(x.edge.headers, x.viewer)

    def _start(self, x: Exchange, key: Key, stale: Entry | None) -> asyncio.Task[tuple[Entry, str]]:
        """Fetch in a task of its own: a viewer that leaves takes nothing from those that wait."""
        task = asyncio.ensure_future(self._fetch(x, key, stale))
        self._pending[key] = task
        self._background.add(task)

        def done(finished: asyncio.Task[tuple[Entry, str]]) -> None:
            self._pending.pop(key, None)
            self._background.discard(finished)
            if not finished.cancelled():
                finished.exception()

        task.add_done_callback(done)
        return task

    async def _collapse(self, x: Exchange, key: Key, stale: Entry | None) -> tuple[Entry, str]:
        if not may_collapse(x.behavior.cache):
            return await self._fetch(x, key, stale)
        leader = self._pending.get(key)
        if leader is None:
            return await asyncio.shield(self._start(x, key, stale))
        await asyncio.wait([leader])
        entry = self.store.get(key)
        if entry is not None and entry.is_fresh(x.now):
            return entry, _hit(entry)
        return await self._fetch(x, key, stale)

    async def _fetch(self, x: Exchange, key: Key | None, stale: Entry | None) -> tuple[Entry, str]:
        """Ask the origin, keep what may be kept, or let a stale entry stand in."""
        begun = time.perf_counter()
        try:
            response, origin_status, generated = await self._ask(x, key, stale)
        except OriginFailure as failure:
            if stale is not None and stale.serves_on_error(x.now):
                return self._stand_in(x, stale, failure.status)
            page = self._page(x, failure.status, failure.text)
            body = page.body if isinstance(page.body, bytes) else b""
            response, origin_status, generated = (
                EdgeResponse(failure.status, "", page.headers, body),
                failure.status,
                False,
            )
        finally:
            x.timings["origin"] = time.perf_counter() - begun
        if origin_status == 304 and response.status == 304 and stale is not None:
            return self._refresh(x, key, stale, response)
        if origin_status >= 500 and not generated and stale is not None and stale.serves_on_error(x.now):
            return self._stand_in(x, stale, origin_status)
        return self._keep(x, key, response, origin_status, generated)

    def _minimum(self, status: int) -> int:
        found = self.settings.errors.get(status)
        return found.min_ttl if found else ERROR_TTL

    def _stand_in(self, x: Exchange, stale: Entry, status: int) -> tuple[Entry, str]:
        stale.fresh_until = x.now + self._minimum(status)
        return stale, "Hit"

    def _refresh(self, x: Exchange, key: Key | None, stale: Entry, response: EdgeResponse) -> tuple[Entry, str]:
        names = {name.lower() for name, _ in response.headers} - {b"content-encoding", b"content-type"}
        headers = [pair for pair in stale.headers if pair[0].lower() not in names]
        headers += [pair for pair in response.headers if pair[0].lower() in names]
        found = freshness(x.behavior.cache, headers, x.now)
        entry = replace(stale, headers=headers, stored=x.now, fresh_until=x.now + found.ttl, freshness=found)
        if key is not None:
            self.store.put(key, entry)
        return entry, "RefreshHit"

    def _keep(
        self, x: Exchange, key: Key | None, response: EdgeResponse, origin_status: int, generated: bool
    ) -> tuple[Entry, str]:
        policy, status = x.behavior.cache, response.status
        found, store = Freshness(0), False
        if status >= 400:
            ttl = error_ttl(policy, status, response.headers, self._minimum(status)) if policy.caches else 0
            found, store = Freshness(ttl), ttl > 0
        elif may_store(status) or (status == 206 and key is not None and key[-1].startswith("range:")):
            found = freshness(policy, response.headers, x.now)
            store = found.ttl > 0 or (found.revalidate and header(response.headers, b"etag") is not None)
            store = store or (found.revalidate and header(response.headers, b"last-modified") is not None)
        entry = Entry(
            status, response.headers, response.body or b"", x.now, x.now + found.ttl, found, generated, origin_status,
            partial.content_range(response.headers) if status == 206 else None, response.description,
        )  # fmt: skip
        if key is not None and store and x.wants != "HEAD":
            if status == 200 and key[-1].startswith("range:"):
                key = key[:-1]
            self.store.put(key, entry)
            x.key = key
        if generated:
            return entry, "LambdaGeneratedResponse"
        return entry, "Error" if status >= 400 else "Miss"

    # The origin

    async def _ask(self, x: Exchange, key: Key | None, stale: Entry | None) -> tuple[EdgeResponse, int, bool]:
        """(response after origin-response, the origin's own status, whether origin-request made it)."""
        targets = self.settings.origin_ids(x.behavior.target)
        group = self.settings.groups.get(x.behavior.target)
        for index, name in enumerate(targets):
            origin = self.settings.origins[name]
            more = index + 1 < len(targets) and x.wants in FAILOVER_METHODS
            edge = self._origin_request(x, origin, key, stale)
            scheme = forwarding.origin_scheme(origin, x.viewer.scheme)
            result = await self._request_stage(x, triggers.ORIGIN_REQUEST, edge, scheme)
            if isinstance(result, EdgeResponse):
                return self._packed(x, result), result.status, True
            try:
                answer = await self._send(x, result)
            except OriginFailure:
                if more:
                    continue
                raise
            if more and group is not None and answer.status in group.codes:
                continue
            return await self._received(x, result, answer), answer.status, False
        raise OriginFailure(502, pages.ORIGIN_UNREACHABLE)

    def _origin_request(self, x: Exchange, origin: Origin, key: Key | None, stale: Entry | None) -> EdgeRequest:
        headers = forwarding.origin_headers(
            x.behavior, x.edge.headers, x.viewer, self.via, keeps_conditions=key is None
        )  # fmt: skip
        if key is not None and not key[-1].startswith("range:"):
            headers = [pair for pair in headers if pair[0].lower() != b"range"]
        if stale is not None:
            headers += stale.validators()
        host = header(x.edge.headers, b"host") or ""
        forwarded = forwarding.forwards(x.behavior, "host")
        headers.insert(0, (b"Host", (host if forwarded else origin.domain).encode("latin-1")))
        query = forwarding.origin_query(x.behavior, x.edge.querystring)
        return replace(x.edge, headers=headers, querystring=query, origin=origin)

    async def _send(self, x: Exchange, edge: EdgeRequest) -> Response:
        origin = edge.origin
        assert origin is not None
        x.origin = origin.domain
        self.origin_requests += 1
        scheme = forwarding.origin_scheme(origin, x.viewer.scheme)
        headers = [*edge.headers, (b"X-Amz-Cf-Id", x.request_id.encode()), (b"traceparent", x.traceparent.encode())]
        target = origin.path + edge.uri + (f"?{edge.querystring}" if edge.querystring else "")
        return await self.origins.fetch(origin, scheme, edge.method, target, headers, edge.body)

    async def _received(self, x: Exchange, edge: EdgeRequest, answer: Response) -> EdgeResponse:
        body = answer.body if isinstance(answer.body, bytes) else b""
        had_length = header(answer.headers, b"content-length") is not None
        headers = forwarding.response_headers(x.behavior, answer.headers)
        if x.wants == "HEAD" and had_length:
            headers.append((b"Content-Length", (header(answer.headers, b"content-length") or "").encode()))
        response = EdgeResponse(answer.status, answer.reason.decode("latin-1"), headers)
        scheme = forwarding.origin_scheme(edge.origin, x.viewer.scheme) if edge.origin else "http"
        response = await self._response_stage(x, triggers.ORIGIN_RESPONSE, edge, response, scheme)
        replaced = response.body is not None
        if response.body is None:
            response.body = body
        return self._packed(x, response, had_length or replaced)

    def _packed(self, x: Exchange, response: EdgeResponse, had_length: bool = True) -> EdgeResponse:
        """Compressed, when the behaviour says so and the viewer can take it."""
        if x.request.version == "1.0":
            return response
        accepted = x.key[4] if x.key is not None else ""
        headers, body = compression.compress(
            x.behavior, response.status, response.headers, response.body or b"", accepted, had_length
        )  # fmt: skip
        return replace(response, headers=headers, body=body)

    # Custom errors

    async def _custom_error(self, x: Exchange, entry: Entry) -> Entry:
        row = self.settings.errors.get(entry.status)
        if row is None or not row.page:
            return entry
        x.custom_error = True
        return await self._error_page(x, entry, row)

    async def _error_page(self, x: Exchange, entry: Entry, row: CustomError) -> Entry:
        """The page, through the behaviour that its own path matches."""
        behavior = self.settings.match(row.page)
        edge = replace(x.edge, method="GET", uri=row.page, querystring="", body=b"")
        edge.headers = [pair for pair in edge.headers if pair[0].lower() not in (b"range", b"content-length")]
        request = replace(x.request, method="GET")
        inner = replace(x, request=request, behavior=behavior, edge=edge, key=None, ran=x.ran, timings={})
        page, _ = await self._find(inner)
        if page.status >= 400:
            return replace(page, origin_status=page.status)
        return replace(page, status=row.response_code or entry.status, origin_status=entry.status, description="")

    # To the viewer

    async def _to_viewer(self, x: Exchange, entry: Entry) -> Response:
        x.entry = entry
        response = self._part(x, entry)
        headers = response.headers
        headers.append((b"Via", f"1.1 {self.via} (CloudFront)".encode()))
        if x.x_cache in ("Hit", "RefreshHit") or (x.x_cache == "Error" and entry.stored < x.now):
            headers.append((b"Age", b"%d" % max(0, int(x.now - entry.stored))))
        policy = x.behavior.response_headers
        if policy is not None:
            headers = response_headers.apply(policy, x.wants, x.request.headers, headers)
            if policy.server_timing is not None:
                headers = self._server_timing(x, policy.server_timing, headers)
        if entry.origin_status < 400 and not x.custom_error and "viewer-response" in x.behavior.triggers:
            body = response.body if isinstance(response.body, bytes) else b""
            before = EdgeResponse(response.status, triggers.phrase(response.status), headers)
            if response.status not in (204, 304) and header(headers, b"content-length") is None:
                before.headers = [*headers, (b"Content-Length", b"%d" % len(body))]
            after = await self._response_stage(x, triggers.VIEWER_RESPONSE, x.edge, before, x.viewer.scheme)
            return Response(after.status, after.headers, body if after.body is None else after.body)
        return Response(response.status, headers, response.body, response.reason)

    def _part(self, x: Exchange, entry: Entry) -> Response:
        """The whole, 304, 206 or 416, whatever the viewer's conditions ask for."""
        headers = list(entry.headers)
        if x.wants not in ("GET", "HEAD") or entry.status != 200 or x.key is None:
            return Response(entry.status, headers, entry.body, entry.description.encode("latin-1", "replace"))
        if partial.is_not_modified(headers, x.request.headers):
            return Response(304, [pair for pair in headers if pair[0].lower() != b"content-length"])
        wanted = header(x.request.headers, b"range")
        if wanted is None or x.wants == "HEAD" or not partial.if_range_holds(headers, x.request.headers):
            return Response(200, headers, entry.body)
        found = partial.ranges(wanted, len(entry.body))
        if found is None:
            return Response(200, headers, entry.body)
        headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
        if not found:
            return Response(416, [*headers, (b"Content-Range", b"bytes */%d" % len(entry.body))])
        if len(found) == 1:
            first, last = found[0]
            headers.append((b"Content-Range", b"bytes %d-%d/%d" % (first, last, len(entry.body))))
            return Response(206, headers, entry.body[first : last + 1])
        boundary = "CloudFront:" + x.request_id[:32]
        kind = header(headers, b"content-type") or "application/octet-stream"
        headers = [pair for pair in headers if pair[0].lower() != b"content-type"]
        headers.append((b"Content-Type", f'multipart/byteranges; boundary="{boundary}"'.encode()))
        return Response(206, headers, partial.multipart(entry.body, found, kind, boundary))

    def _server_timing(self, x: Exchange, rate: float, headers: Headers) -> Headers:
        """Server-Timing, for a sampled share of requests or for `Pragma: server-timing`."""
        asked = (header(x.request.headers, b"pragma") or "").lower() == "server-timing"
        # The request id is random: its hash is as good a dice as any, and the same request gives the same answer.
        if not asked and hash(x.request_id) % 10_000 >= rate * 100:
            return headers
        kind = (
            "cdn-cache-hit"
            if x.x_cache == "Hit"
            else "cdn-cache-refresh"
            if x.x_cache == "RefreshHit"
            else "cdn-cache-miss"
        )
        parts = [kind, f'cdn-pop;desc="{POP}"', f'cdn-rid;desc="{x.request_id}"']
        if "origin" in x.timings:
            parts.append(f"cdn-upstream-fbl;dur={round(x.timings['origin'] * 1000)}")
        return [*headers, (b"Server-Timing", ",".join(parts).encode())]


POP = "LCL50-P1"


def _hit(entry: Entry) -> str:
    return "Error" if entry.status >= 400 else "Hit"
