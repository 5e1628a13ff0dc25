"""API Gateway HTTP APIs and function URLs in front of functions: routes, events, answers, CORS. Pure.

Event formats 2.0 and 1.0, both response formats, the choice of route (exact before variables before greedy before
`$default`; a method before ANY), base64 of what is not text. Times are epoch seconds and arguments, ids too.

Sources: API Gateway Developer Guide, "Create AWS Lambda proxy integrations for HTTP APIs", "Create routes for HTTP
APIs", "Configure CORS for HTTP APIs"; Lambda Developer Guide, "Invoking Lambda function URLs".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson

from foreshore.http import Headers, Request, Response
from foreshore.seams import InvokeResult

MAX_BODY = 10 * 1024 * 1024
_VARIABLE = re.compile(r"^\{([^{}+]+)(\+?)\}$")
_TEXT_TYPES = re.compile(r"^(text/|application/(json|xml|javascript|[^;\s]*\+(json|xml))\b)", re.IGNORECASE)
_JSON_TYPE = (b"Content-Type", b"application/json")


class Match(NamedTuple):
    """A route that fits a request. `parameters` are decoded path variables."""

    route_key: str
    resource: str
    function: str
    payload_format: str
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `segments` are literal texts or variables; `$default` has none and fits everything."""

    method: str
    path: str
    function: str
    payload_format: str = "2.0"
    segments: tuple[str, ...] = field(default=())

    @property
    def key(self) -> str:
        """AWS's route key."""
        return "$default" if self.path == "$default" else f"{self.method} {self.path}"

    def fit(self, method: str, segments: Sequence[str]) -> tuple[tuple[int, ...], dict[str, str]] | None:
        """How well it fits (greater is better, segment by segment) and the variables' values, or None."""
        if self.path == "$default":
            return (-1,), {}
        if self.method not in ("ANY", method):
            return None
        score: list[int] = []
        values: dict[str, str] = {}
        for index, wanted in enumerate(self.segments):
            variable = _VARIABLE.match(wanted)
            if variable is not None and variable[2]:
                if index >= len(segments) or (len(segments) == index + 1 and not segments[index]):
                    return None
                values[variable[1]] = unquote("/".join(segments[index:]))
                return (*score, 0, int(self.method == method)), values
            if index >= len(segments):
                return None
            if variable is not None:
                if not segments[index]:
                    return None
                values[variable[1]] = unquote(segments[index])
                score.append(1)
            elif wanted == segments[index]:
                score.append(2)
            else:
                return None
        if len(segments) != len(self.segments):
            return None
        return (*score, 3, int(self.method == method)), values


@dataclass(frozen=True, slots=True)
class Cors:
    """A CORS configuration, from a template (PascalCase) or from OpenAPI (camelCase)."""

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    max_age: int | None = None
    credentials: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Cors:
        """Read either spelling."""
        values = {key[:1].lower() + key[1:]: value for key, value in config.items()}
        return cls(
            tuple(values.get("allowOrigins") or ()),
            tuple(values.get("allowMethods") or ()),
            tuple(values.get("allowHeaders") or ()),
            tuple(values.get("exposeHeaders") or ()),
            None if values.get("maxAge") is None else int(values["maxAge"]),
            str(values.get("allowCredentials", "")).lower() == "true",
        )

    def origin(self, origin: str) -> str:
        """The value for Access-Control-Allow-Origin, or "" when the origin is not allowed."""
        for allowed in self.origins:
            if allowed == "*":
                return "*" if not self.credentials else origin
            prefix, star, _ = allowed.partition("*")
            if allowed.lower() == origin.lower() or (star and origin.lower().startswith(prefix.lower())):
                return origin
        return ""

    def preflight(self, request: Request) -> Headers:
        """The headers that answer an OPTIONS request; none when the origin is not allowed."""
        headers = self.answer(request)
        if not headers:
            return []
        for name, values in (
            (b"access-control-allow-methods", self.methods),
            (b"access-control-allow-headers", self.headers),
        ):
            if values:
                headers.append((name, ",".join(values).encode()))
        if self.max_age is not None:
            headers.append((b"access-control-max-age", str(self.max_age).encode()))
        return headers

    def answer(self, request: Request) -> Headers:
        """The headers that any answer gets."""
        origin = self.origin(request.header("origin")) if request.header("origin") else ""
        if not origin:
            return []
        headers: Headers = [(b"access-control-allow-origin", origin.encode("latin-1"))]
        if origin != "*":
            headers.append((b"vary", b"Origin"))
        if self.credentials:
            headers.append((b"access-control-allow-credentials", b"true"))
        if self.expose:
            headers.append((b"access-control-expose-headers", ",".join(self.expose).encode()))
        return headers


class HttpApi:
    """One HTTP API (`kind` "http") or function URL (`kind` "url")."""

    def __init__(
        self,
        logical_id: str,
        api_id: str,
        routes: Sequence[tuple[str, str, str, str]],
        *,
        region: str,
        account: str,
        cors: Mapping[str, Any] | None = None,
        stage: str = "$default",
        stage_variables: Mapping[str, str] | None = None,
        kind: str = "http",
    ) -> None:
        self.logical_id = logical_id
        self.api_id = api_id
        self.account = account
        self.stage = stage
        self.stage_variables = dict(stage_variables or {})
        self.kind = kind
        self.domain = (
            f"{api_id}.lambda-url.{region}.on.aws" if kind == "url" else f"{api_id}.execute-api.{region}.amazonaws.com"
        )
        self.cors = Cors.read(cors) if cors else None
        self.routes = [
            Route(method, path, function, payload, tuple(path.split("/")[1:]))
            for method, path, function, payload in routes
        ]

    def match(self, method: str, path: str) -> Match | None:
        """The best route for a method and a raw path."""
        segments = path.split("/")[1:]
        best: tuple[tuple[int, ...], Route, dict[str, str]] | None = None
        for route in self.routes:
            fit = route.fit(method, segments)
            if fit is not None and (best is None or fit[0] > best[0]):
                best = (fit[0], route, fit[1])
        if best is None:
            return None
        _, route, values = best
        return Match(route.key, route.path, route.function, route.payload_format, values)

    def answer_early(self, request: Request, path: str) -> Response | None:
        """Answers that no function is asked for: preflight requests and bodies over 10 MB."""
        if len(request.body) > MAX_BODY:
            return Response(413, [_JSON_TYPE], b'{"message":"Request Entity Too Large"}')
        is_preflight = request.method == "OPTIONS" and request.header("origin")
        if self.cors is not None and is_preflight and request.header("access-control-request-method"):
            return Response(204, self.cors.preflight(request))
        return None

    # Requests to events

    def event(
        self, match: Match, request: Request, path: str, stage: str, now: float, request_id: str
    ) -> dict[str, Any]:
        """The event for a function, in the route's payload format."""
        if match.payload_format == "1.0":
            return self._event_1(match, request, path, stage, now, request_id)
        return self._event_2(match, request, path, stage, now, request_id)

    def _event_2(
        self, match: Match, request: Request, path: str, stage: str, now: float, request_id: str
    ) -> dict[str, Any]:
        headers, cookies = _joined_headers(request.headers)
        raw_path = unquote(path) if stage == "$default" else f"/{stage}{unquote(path)}"
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": match.route_key,
            "rawPath": raw_path,
            "rawQueryString": request.query_string,
        }
        if cookies:
            event["cookies"] = cookies
        event["headers"] = headers
        if request.query_string:
            event["queryStringParameters"] = _joined_query(request.query)
        event["requestContext"] = {
            "accountId": "anonymous" if self.kind == "url" else self.account,
            "apiId": self.api_id,
            "domainName": self.domain,
            "domainPrefix": self.api_id,
            "http": {
                "method": request.method,
                "path": raw_path,
                "protocol": f"HTTP/{request.version}",
                "sourceIp": request.peer[0],
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": match.route_key,
            "stage": stage,
            **_times(now),
        }
        if match.parameters:
            event["pathParameters"] = match.parameters
        if self.stage_variables:
            event["stageVariables"] = self.stage_variables
        body, is_base64 = _body_of(request)
        if body is not None:
            event["body"] = body
        event["isBase64Encoded"] = is_base64
        return event

    def _event_1(
        self, match: Match, request: Request, path: str, stage: str, now: float, request_id: str
    ) -> dict[str, Any]:
        single, multi = _split_headers(request.headers)
        query_multi: dict[str, list[str]] = {}
        for key, value in request.query:
            query_multi.setdefault(key, []).append(value)
        full_path = unquote(path) if stage == "$default" else f"/{stage}{unquote(path)}"
        body, is_base64 = _body_of(request)
        times = _times(now)
        return {
            "version": "1.0",
            "resource": match.resource,
            "path": full_path,
            "httpMethod": request.method,
            "headers": single,
            "multiValueHeaders": multi,
            "queryStringParameters": {key: values[-1] for key, values in query_multi.items()} or None,
            "multiValueQueryStringParameters": query_multi or None,
            "requestContext": {
                "accountId": self.account,
                "apiId": self.api_id,
                "domainName": self.domain,
                "domainPrefix": self.api_id,
                "extendedRequestId": request_id,
                "httpMethod": request.method,
                "identity": {
                    "accessKey": None, "accountId": None, "caller": None, "cognitoAmr": None,
                    "cognitoAuthenticationProvider": None, "cognitoAuthenticationType": None, "cognitoIdentityId": None,
                    "cognitoIdentityPoolId": None, "principalOrgId": None, "sourceIp": request.peer[0], "user": None,
                    "userAgent": request.header("user-agent"), "userArn": None,
                },
                "path": full_path,
                "protocol": f"HTTP/{request.version}",
                "requestId": request_id,
                "requestTime": times["time"],
                "requestTimeEpoch": times["timeEpoch"],
                "resourceId": match.route_key,
                "resourcePath": match.resource,
                "stage": stage,
            },
            "pathParameters": match.parameters or None,
            "stageVariables": self.stage_variables or None,
            "body": body,
            "isBase64Encoded": is_base64,
        }  # fmt: skip

    # Results to answers

    def response(self, match: Match, result: InvokeResult) -> Response:
        """The HTTP answer for what a function gave; 500 (502 for a URL) for an error or a malformed result."""
        if result.function_error is None:
            try:
                value = orjson.loads(result.payload) if result.payload else None
            except orjson.JSONDecodeError:
                return self._failed()
            shaped = _shape(value, result.payload, match.payload_format)
            if shaped is not None:
                return shaped
        return self._failed()

    def _failed(self) -> Response:
        if self.kind == "url":
            return Response(502, [_JSON_TYPE], b'{"Message":"Internal Server Error"}')
        return Response(500, [_JSON_TYPE], b'{"message":"Internal Server Error"}')

    def finish(self, request: Request, response: Response) -> Response:
        """With CORS configured its headers replace those of the function."""
        if self.cors is not None:
            kept = [
                (name, value) for name, value in response.headers if not name.lower().startswith(b"access-control-")
            ]
            response.headers = [*kept, *self.cors.answer(request)]
        return response


def _times(now: float) -> dict[str, Any]:
    moment = datetime.fromtimestamp(now, UTC)
    return {"time": moment.strftime("%d/%b/%Y:%H:%M:%S +0000"), "timeEpoch": int(now * 1000)}


def _joined_headers(headers: Headers) -> tuple[dict[str, str], list[str]]:
    """Format 2.0: lower-case names, repeated values joined by commas, cookies apart."""
    joined: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "cookie":
            cookies += [cookie.strip() for cookie in value.split(";") if cookie.strip()]
        else:
            joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined, cookies


def _split_headers(headers: Headers) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Format 1.0: the last value of each name, and all values of each name."""
    single: dict[str, str] = {}
    multi: dict[str, list[str]] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        single[name] = value
        multi.setdefault(name, []).append(value)
    return single, multi


def _joined_query(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for key, value in pairs:
        joined[key] = f"{joined[key]},{value}" if key in joined else value
    return joined


def _body_of(request: Request) -> tuple[str | None, bool]:
    """The body as text, or as base64 when its content type is not text's."""
    if not request.body:
        return None, False
    content_type = request.header("content-type")
    if not content_type or _TEXT_TYPES.match(content_type):
        try:
            return request.body.decode("utf-8"), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(request.body).decode(), True


def _shape(value: Any, payload: bytes, payload_format: str) -> Response | None:
    """None for a result that the format does not allow."""
    if not isinstance(value, dict) or "statusCode" not in value:
        if payload_format == "1.0":
            return None
        return Response(200, [_JSON_TYPE], value.encode() if isinstance(value, str) else payload)
    status = value["statusCode"]
    if isinstance(status, str) and status.isdigit():
        status = int(status)
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        return None
    body = _result_body(value.get("body"), value.get("isBase64Encoded") is True)
    headers = _result_headers(value)
    if body is None or headers is None:
        return None
    for cookie in (value.get("cookies") or ()) if payload_format == "2.0" else ():
        headers.append((b"set-cookie", str(cookie).encode("latin-1", "replace")))
    if body and not any(name.lower() == b"content-type" for name, _ in headers):
        headers.append((b"content-type", b"text/plain; charset=utf-8"))
    return Response(status, headers, body)


def _result_body(body: Any, is_base64: bool) -> bytes | None:
    if body is None:
        return b""
    if not isinstance(body, str):
        return None
    if not is_base64:
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        return None


def _result_headers(value: Mapping[str, Any]) -> Headers | None:
    """`multiValueHeaders` win over `headers` of the same name. None when either is not an object."""
    single, multi = value.get("headers") or {}, value.get("multiValueHeaders") or {}
    if not isinstance(single, dict) or not isinstance(multi, dict):
        return None
    taken = {name.lower() for name in multi}
    pairs = [(name, item) for name, item in single.items() if name.lower() not in taken]
    pairs += [(name, item) for name, items in multi.items() for item in items]
    # The framing is the server's to write.
    return [
        (name.encode("latin-1", "replace"), _header_text(item).encode("latin-1", "replace"))
        for name, item in pairs
        if item is not None and name.lower() not in ("content-length", "transfer-encoding", "connection")
    ]


def _header_text(value: Any) -> str:
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    return text.replace("\r", "").replace("\n", "")
