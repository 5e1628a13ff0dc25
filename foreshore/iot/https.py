"""The devices' HTTPS listener: publishing, shadows and jobs over mutual TLS, the credential provider, and `/mqtt`.

A request is let in by its client certificate, by a SigV4 signature (which local IAM does not check further), or by a
custom authorizer. Pure of sockets: `service.py` listens.

Source: AWS IoT developer guide, "Device communication protocols", "HTTPS", "MQTT over the WebSocket Secure protocol".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from urllib.parse import quote, unquote

import orjson

from foreshore.errors import AwsError
from foreshore.http import Request, Response
from foreshore.iot.access import Identity, PolicyAccess
from foreshore.iot.authorizers import NAME, SIGNATURE, credentials_of
from foreshore.iot.credentials import CredentialProvider
from foreshore.iot.mqtt.access import ConnectDecision, ConnectRequest
from foreshore.iot.presigned import presigned_problem
from foreshore.shapes.service_model import access_key, new_request_id

_CREDENTIALS = re.compile(r"/role-aliases/([^/]+)/credentials")
_QUERY_KEY = re.compile(r"[?&]X-Amz-Credential=([^%/&]+)")
_JOBS = re.compile(r"/things/[^/]+/jobs(/|$)|/command-executions$")
_DATA = ("/topics/", "/retainedMessage", "/connections/", "/things/", "/api/things/shadow/")

Upgrade = Callable[[Request, object], Response]
Serve = Callable[[Request], Awaitable[Response]]
_Asked = tuple[tuple[str, int], str | None, str | None]
MAX_KEPT = 10_000
DeviceHandler = Callable[[Request, Identity | None], Awaitable[Response]]
Authorize = Callable[[ConnectRequest], Awaitable[ConnectDecision] | None]


class DeviceHttps:
    """Answers requests of the devices' HTTPS listener; `identify` is what the data plane asks.

    `clock` gives epoch seconds.
    """

    def __init__(
        self,
        access: PolicyAccess,
        data: Serve,
        jobs: Serve,
        credentials: CredentialProvider,
        upgrade: Upgrade,
        clock: Callable[[], float],
    ) -> None:
        self._access = access
        self._data = data
        self._jobs = jobs
        self._credentials = credentials
        self._upgrade = upgrade
        self._clock = clock
        self._authorized: dict[int, Identity] = {}
        self._kept: dict[_Asked, tuple[float, ConnectDecision | None]] = {}
        self._mounted: dict[str, DeviceHandler] = {}

    def mount(self, prefix: str, handler: DeviceHandler) -> None:
        """Serve paths that begin with `prefix` for another room; the handler gets who asks, None for IAM callers."""
        self._mounted[prefix] = handler

    def identify(self, request: Request) -> Identity | None:
        """The device behind a request, or None for an IAM caller. Raises AwsError ForbiddenException for nobody."""
        if request.scheme != "https":
            return None
        authorized = self._authorized.get(id(request))
        if authorized is not None:
            return authorized
        der = request.tls.getpeercert(True) if request.tls is not None else None
        if der:
            identity = self._access.identify(der, None, request.peer[0])
            if identity is not None:
                return identity
        elif signed_by(request):
            return None
        raise AwsError("ForbiddenException", "Forbidden", 403)

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        path = request.raw_path
        if path == "/mqtt":
            return self._open_websocket(request)
        found = _CREDENTIALS.fullmatch(path)
        if found is not None:
            return self._give_credentials(request, unquote(found[1]))
        if _JOBS.match(path):
            return await self._serve(self._jobs, request)
        for prefix, handler in self._mounted.items():
            if path.startswith(prefix):
                return await self._hand_over(handler, request)
        if path.startswith(_DATA):
            return await self._serve(self._data, _whole_topic(request))
        return refusal(AwsError("ResourceNotFoundException", f"There is nothing at {path}", 404))

    def _open_websocket(self, request: Request) -> Response:
        """Upgrade; a signed request must be in order. Who signs nothing may still be let in at CONNECT."""
        if "X-Amz-Credential" in request.query_string:
            problem = presigned_problem(dict(request.query), self._clock())
            if problem:
                return refusal(AwsError("ForbiddenException", problem, 403))
        return self._upgrade(request, signed_by(request))

    async def _hand_over(self, handler: DeviceHandler, request: Request) -> Response:
        """AWS hangs up on a certificate that is not active (Greengrass, "Troubleshooting client devices")."""
        try:
            identity = self.identify(request)
        except AwsError as error:
            has_certificate = request.tls is not None and request.tls.getpeercert(True)
            return Response(hang_up=True) if has_certificate else refusal(error)
        try:
            return await handler(request, identity)
        except AwsError as error:
            return refusal(error)

    def _give_credentials(self, request: Request, alias: str) -> Response:
        try:
            identity = self.identify(request)
        except AwsError:
            identity = None
        return traced(self._credentials.answer(identity, alias, request.header("x-amzn-iot-thingname")))

    async def _serve(self, serve: Serve, request: Request) -> Response:
        """Ask a custom authorizer first when the request has neither certificate nor signature."""
        asked = None
        if not signed_by(request) and (request.tls is None or not request.tls.getpeercert(True)):
            asked = self._authorize(request)
        if asked is None:
            return traced(await serve(request))
        decision = await asked
        if not decision.allowed or not isinstance(decision.identity, Identity):
            return refusal(AwsError("ForbiddenException", "Forbidden", 403))
        self._authorized[id(request)] = decision.identity
        try:
            return traced(await serve(request))
        finally:
            del self._authorized[id(request)]

    def _authorize(self, request: Request) -> Awaitable[ConnectDecision] | None:
        """Ask the custom authorizer, or take what it answered before on the same connection (enableCachingForHttp)."""
        connect = _as_connect(request)
        said = credentials_of(connect)
        key = (request.peer, said.get(NAME), said.get(SIGNATURE))
        until, kept = self._kept.get(key, (0.0, None))
        if kept is not None and self._clock() < until:
            return _given(kept)
        asked = self._access.authorize(connect)
        return None if asked is None else self._keep(key, asked)

    async def _keep(self, key: _Asked, asked: Awaitable[ConnectDecision]) -> ConnectDecision:
        decision = await asked
        if decision.allowed and decision.refresh_s is not None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[key] = (self._clock() + decision.refresh_s, decision)
        return decision


async def _given(decision: ConnectDecision) -> ConnectDecision:
    return decision


def traced(response: Response) -> Response:
    """The response, with a trace id in the body when it is an error."""
    if response.status < 400 or not isinstance(response.body, bytes) or not response.body.startswith(b"{"):
        return response
    body = orjson.dumps({"traceId": new_request_id(), **orjson.loads(response.body)})
    headers = [each for each in response.headers if each[0].lower() != b"content-length"]
    return Response(response.status, headers, body)


def refusal(error: AwsError) -> Response:
    """An error as devices get it: JSON with a message and a trace id."""
    body = orjson.dumps({"message": error.message, "traceId": new_request_id()})
    headers = [(b"Content-Type", b"application/json"), (b"x-amzn-ErrorType", error.code.encode())]
    return Response(error.status, headers, body)


def signed_by(request: Request) -> str:
    """The access key id of a SigV4-signed request (header or query), or ""."""
    found = access_key(request)
    if not found and "X-Amz-Credential" in request.query_string:
        match = _QUERY_KEY.search("?" + request.query_string)
        found = match[1] if match else ""
    return found


def _as_connect(request: Request) -> ConnectRequest:
    """What a custom authorizer needs to know of an HTTP request."""
    return ConnectRequest(
        "",
        source_ip=request.peer[0],
        listener="wss",
        sni=request.header("host").rpartition(":")[0] or request.header("host") or None,
        http_headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers],
        http_query=request.query,
    )


def _whole_topic(request: Request) -> Request:
    """`POST /topics/a/b` names the topic `a/b`, encoded or not."""
    prefix, _, topic = request.raw_path.partition("/topics/")
    if prefix or "/" not in topic:
        return request
    query = f"?{request.query_string}" if request.query_string else ""
    request.target = f"/topics/{quote(unquote(topic), safe='')}{query}"
    return request
