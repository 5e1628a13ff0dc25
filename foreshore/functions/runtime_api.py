"""The Lambda Runtime API, as bytes and events. Pure.

`Reader` turns what one client connection sends into events; the functions below it write the answers. Which answer when
is the environment's to say (`environments.py`). A result with `Lambda-Runtime-Function-Response-Mode: streaming` comes
as `ResultHead`, `ResultPart`s and `ResultEnd`; any other as one `Result`.

Source: AWS Lambda Developer Guide, "Using the Lambda runtime API" (version 2018-06-01), "Using the Lambda Extensions
API" (whose calls are named so that they can be refused).
"""

from __future__ import annotations

from typing import NamedTuple

import httptools

from foreshore.errors import PeerError

BASE = "/2018-06-01/runtime"


class Next(NamedTuple):
    """The runtime asks for an event."""


class Result(NamedTuple):
    """The handler's result."""

    request_id: str
    body: bytes
    content_type: str


class ResultHead(NamedTuple):
    """A streamed result begins."""

    request_id: str
    content_type: str


class ResultPart(NamedTuple):
    """A part of a streamed result."""

    request_id: str
    data: bytes


class ResultEnd(NamedTuple):
    """A streamed result ends; `error_type` and `error_body` come from trailers when it failed in the middle."""

    request_id: str
    error_type: str
    error_body: str


class Failure(NamedTuple):
    """The handler failed; `body` is the error object. `xray_cause` is JSON or ""."""

    request_id: str
    body: bytes
    error_type: str
    xray_cause: str


class InitFailure(NamedTuple):
    """The runtime could not load the handler."""

    body: bytes
    error_type: str


class RestoreNext(NamedTuple):
    """A SnapStart runtime is ready for its snapshot."""


class RestoreFailure(NamedTuple):
    """A SnapStart after-restore hook failed."""

    body: bytes
    error_type: str


class Unknown(NamedTuple):
    """Something that is no part of the Runtime API."""

    method: str
    path: str


Event = (
    Next | Result | ResultHead | ResultPart | ResultEnd | Failure | InitFailure | RestoreNext | RestoreFailure | Unknown
)


class Reader:
    """Reads the requests of one connection. `feed` raises PeerError for what is not HTTP."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._events: list[Event] = []

    def feed(self, data: bytes) -> list[Event]:
        """Give the events that these bytes complete."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # A client may offer h2c; staying with HTTP/1.1 is an answer (RFC 9110, section 7.8).
            self._events.append(Unknown("UPGRADE", self._url.decode("latin-1")))
        except httptools.HttpParserError as error:
            raise PeerError(f"not a Runtime API request: {error}") from error
        events, self._events = self._events, []
        return events

    # httptools

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._streamed = ""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        mode = self._headers.get(b"lambda-runtime-function-response-mode", b"")
        path = self._url.decode("latin-1")
        if mode.lower() == b"streaming" and path.endswith("/response"):
            self._streamed = _request_id(path)
            self._events.append(ResultHead(self._streamed, self._text(b"content-type")))

    def on_body(self, body: bytes) -> None:
        if self._streamed:
            self._events.append(ResultPart(self._streamed, body))
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._streamed:
            error_type = self._text(b"lambda-runtime-function-error-type")
            error_body = self._text(b"lambda-runtime-function-error-body")
            self._events.append(ResultEnd(self._streamed, error_type, error_body))
        else:
            self._events.append(self._event(self._parser.get_method(), self._url.decode("latin-1")))

    def _event(self, method: bytes, path: str) -> Event:
        rest = path.removeprefix(BASE)
        if method == b"GET":
            if rest == "/invocation/next":
                return Next()
            if rest == "/restore/next":
                return RestoreNext()
        elif method == b"POST":
            body = b"".join(self._body)
            if rest.startswith("/invocation/"):
                return self._outcome(rest, body, path)
            if rest == "/init/error":
                return InitFailure(body, self._text(b"lambda-runtime-function-error-type"))
            if rest == "/restore/error":
                return RestoreFailure(body, self._text(b"lambda-runtime-function-error-type"))
        return Unknown(method.decode(), path)

    def _outcome(self, rest: str, body: bytes, path: str) -> Event:
        request_id, _, kind = rest[len("/invocation/") :].partition("/")
        if kind == "response":
            return Result(request_id, body, self._text(b"content-type"))
        if kind == "error":
            error_type = self._text(b"lambda-runtime-function-error-type")
            return Failure(request_id, body, error_type, self._text(b"lambda-runtime-function-xray-error-cause"))
        return Unknown("POST", path)

    def _text(self, name: bytes) -> str:
        return self._headers.get(name, b"").decode("latin-1")


def _request_id(path: str) -> str:
    return path.split("/")[-2]


# Answers

_ACCEPTED_BODY = b'{"status":"OK"}\n'
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_ACCEPTED_BODY),
    _ACCEPTED_BODY,
)
RESTORED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def invocation(
    request_id: str,
    deadline_ms: int,
    function_arn: str,
    trace_id: str,
    payload: bytes,
    client_context: str = "",
    identity: str = "",
) -> bytes:
    """The answer to `next`: one event."""
    more = ""
    if client_context:
        more += f"Lambda-Runtime-Client-Context: {client_context}\r\n"
    if identity:
        more += f"Lambda-Runtime-Cognito-Identity: {identity}\r\n"
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: {request_id}\r\n"
        f"Lambda-Runtime-Deadline-Ms: {deadline_ms}\r\nLambda-Runtime-Invoked-Function-Arn: {function_arn}\r\n"
        f"Lambda-Runtime-Trace-Id: {trace_id}\r\n{more}Content-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode("latin-1", "replace") + payload


def refusal(status: int, error_type: str, message: str) -> bytes:
    """An error answer: 400, 403, 413 and 500 have this shape."""
    body = f'{{"errorMessage":"{message}","errorType":"{error_type}"}}\n'.encode()
    reason = {400: "Bad Request", 403: "Forbidden", 404: "Not Found", 413: "Request Entity Too Large"}[status]
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
