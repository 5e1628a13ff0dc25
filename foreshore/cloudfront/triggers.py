"""Lambda@Edge: the event each trigger gets, and what may come back. Pure.

The four triggers are one `Stage` with four rows: which headers are read-only, how large bodies and generated
responses may be. `request_event` and `response_event` write the JSON, `read_request_result` and `read_response_result`
check it. A result that breaks the contract raises `EdgeFailure`, which has the viewer's status, text and X-Cache.

Sources: CloudFront Developer Guide, "Lambda@Edge event structure", "Restrictions on Lambda@Edge", "Working with
requests and responses", "Testing and debugging Lambda@Edge functions".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import orjson

from foreshore.cloudfront import limits, pages
from foreshore.cloudfront.behaviors import Origin
from foreshore.http import Headers

Json = Any

VALIDATION = "LambdaValidationError"
EXECUTION = "LambdaExecutionError"
LIMIT = "LambdaLimitExceeded"
_FAILED = "The Lambda function result failed validation: "
_DISALLOWED = frozenset(
    [
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "trailer",
        "upgrade",
        "x-accel-buffering",
        "x-accel-charset",
        "x-accel-limit-rate",
        "x-accel-redirect",
        "x-amzn-auth",
        "x-amzn-cf-billing",
        "x-amzn-cf-id",
        "x-amzn-cf-xff",
        "x-amzn-errortype",
        "x-amzn-fle-profile",
        "x-amzn-header-count",
        "x-amzn-header-order",
        "x-amzn-lambda-integration-tag",
        "x-amzn-requestid",
        "x-cache",
        "x-forwarded-proto",
        "x-real-ip",
    ]
)
_DISALLOWED_PREFIXES = ("x-amz-cf-", "x-edge-")
_CUSTOM_HEADER_DENIED = re.compile(
    r"^(cache-control|connection|content-length|cookie|host|if-.*|max-forwards|pragma|proxy-.*|range|request-range|te|"
    r"trailer|transfer-encoding|upgrade|via|x-amz-.*|x-edge-.*|x-real-ip)$"
)
_TOKEN = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BAD_QUERY = re.compile(r"[\x00-\x20#\x7f]")
_BAD_URI = re.compile(r"[\x00-\x20\x7f]")
_DOMAIN = re.compile(r"^(?=.{1,253}\Z)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?$")
_IPV4 = re.compile(r"^\d+(\.\d+){3}$")
_SSL = frozenset({"TLSv1.2", "TLSv1.1", "TLSv1", "SSLv3"})


class EdgeFailure(Exception):
    """A function that could not be used. `text` is the viewer's; `log` the line for the function's log group."""

    def __init__(self, status: int, x_cache: str, text: str, log: str = "") -> None:
        super().__init__(log or text)
        self.status = status
        self.x_cache = x_cache
        self.text = text
        self.log = log or text


def invalid(text: str, log: str = "") -> EdgeFailure:
    """A result that failed validation: 502."""
    return EdgeFailure(502, VALIDATION, _FAILED + text, "Validation error: " + (log or _FAILED + text))


def broken(log: str) -> EdgeFailure:
    """A function that raised, timed out or is missing: 503."""
    return EdgeFailure(503, EXECUTION, pages.FUNCTION_INVALID, log)


def throttled(log: str) -> EdgeFailure:
    """A function that was throttled: 503."""
    return EdgeFailure(503, LIMIT, pages.FUNCTION_THROTTLED, log)


@dataclass(frozen=True, slots=True)
class Stage:
    """One trigger: its name, its read-only headers, the largest request body it sees and response it makes (bytes)."""

    event_type: str
    read_only: frozenset[str]
    body_limit: int
    generated_limit: int

    @property
    def at_origin(self) -> bool:
        """Whether it runs only when the origin is asked."""
        return self.event_type.startswith("origin")


def _stage(event_type: str, read_only: str, body: int, generated: int) -> Stage:
    return Stage(event_type, frozenset(read_only.split()), body, generated)


VIEWER_REQUEST = _stage(
    "viewer-request", "cdn-loop content-length host transfer-encoding via", limits.VIEWER_BODY, limits.VIEWER_GENERATED
)
ORIGIN_REQUEST = _stage(
    "origin-request",
    "accept-encoding cdn-loop content-length if-modified-since if-none-match if-range if-unmodified-since "
    "transfer-encoding via",
    limits.ORIGIN_BODY, limits.ORIGIN_GENERATED,
)  # fmt: skip
ORIGIN_RESPONSE = _stage("origin-response", "transfer-encoding via", 0, limits.ORIGIN_GENERATED)
VIEWER_RESPONSE = _stage(
    "viewer-response", "warning via content-length content-encoding transfer-encoding", 0, limits.VIEWER_GENERATED
)


@dataclass(frozen=True, slots=True)
class EdgeContext:
    """The `config` of an event."""

    domain_name: str
    distribution_id: str
    request_id: str


@dataclass(slots=True)
class EdgeRequest:
    """A request on its way. `uri` is percent-encoded, `origin` set at the origin; `body_replaced` by a function."""

    method: str
    uri: str
    querystring: str
    headers: Headers
    client_ip: str
    body: bytes = b""
    origin: Origin | None = None
    body_replaced: bool = False


@dataclass(slots=True)
class EdgeResponse:
    """A response as a function sees or makes it. `body` None: the body stays what it is."""

    status: int
    description: str
    headers: Headers
    body: bytes | None = None


# Events


def is_disallowed(name: str) -> bool:
    """Whether functions never see a header and may not set it."""
    return name in _DISALLOWED or name.startswith(_DISALLOWED_PREFIXES)


def header_object(headers: Headers) -> dict[str, list[dict[str, str]]]:
    """Headers as events have them: lower-case name → list of key and value, one for each occurrence."""
    found: dict[str, list[dict[str, str]]] = {}
    for name, value in headers:
        key = name.decode("latin-1")
        lower = key.lower()
        if not is_disallowed(lower):
            found.setdefault(lower, []).append({"key": key, "value": value.decode("latin-1")})
    return found


def origin_object(origin: Origin, scheme: str) -> dict[str, Json]:
    """`request.origin`."""
    custom = {
        name.lower(): [{"key": name, "value": value}] for name, value in origin.custom_headers
    }  # fmt: skip
    common: dict[str, Json] = {"customHeaders": custom, "domainName": origin.domain, "path": origin.path}
    if origin.s3:
        return {"s3": {**common, "region": origin.region, "authMethod": origin.auth_method}}
    return {
        "custom": {
            **common,
            "keepaliveTimeout": int(origin.keepalive_timeout),
            "port": origin.https_port if scheme == "https" else origin.http_port,
            "protocol": scheme,
            "readTimeout": int(origin.read_timeout),
            "sslProtocols": list(origin.ssl_protocols),
        }
    }


def _envelope(stage: Stage, context: EdgeContext, cf: dict[str, Json]) -> bytes:
    config = {
        "distributionDomainName": context.domain_name,
        "distributionId": context.distribution_id,
        "eventType": stage.event_type,
        "requestId": context.request_id,
    }
    return orjson.dumps({"Records": [{"cf": {"config": config, **cf}}]})


def _request_object(stage: Stage, request: EdgeRequest, include_body: bool, scheme: str) -> dict[str, Json]:
    found: dict[str, Json] = {
        "clientIp": request.client_ip,
        "headers": header_object(request.headers),
        "method": request.method,
        "querystring": request.querystring,
        "uri": request.uri,
    }
    if include_body:
        data = request.body[: stage.body_limit]
        found["body"] = {
            "inputTruncated": len(request.body) > stage.body_limit,
            "action": "read-only",
            "encoding": "base64",
            "data": base64.b64encode(data).decode(),
        }
    if stage.at_origin and request.origin is not None:
        found["origin"] = origin_object(request.origin, scheme)
    return found


def request_event(
    stage: Stage, context: EdgeContext, request: EdgeRequest, *, include_body: bool = False, scheme: str = "http"
) -> bytes:
    """The event of viewer-request and origin-request."""
    return _envelope(stage, context, {"request": _request_object(stage, request, include_body, scheme)})


def response_event(
    stage: Stage, context: EdgeContext, request: EdgeRequest, response: EdgeResponse, *, scheme: str = "http"
) -> bytes:
    """The event of origin-response and viewer-response; the body of the response is never in it."""
    return _envelope(
        stage,
        context,
        {
            "request": _request_object(stage, request, False, scheme),
            "response": {
                "headers": header_object(response.headers),
                "status": str(response.status),
                "statusDescription": response.description,
            },
        },
    )


# Results


def _object(payload: bytes) -> dict[str, Json]:
    try:
        result = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise EdgeFailure(
            502, VALIDATION, "The Lambda function returned invalid json: The json output is not parsable."
        ) from error
    if not isinstance(result, dict):
        raise EdgeFailure(
            502, VALIDATION, "The Lambda function returned invalid JSON: The JSON output must be an object type."
        )
    return result


def _header_pairs(found: Json) -> Headers:
    if found is None:
        return []
    if not isinstance(found, dict):
        raise invalid("The headers field is not an object.")
    pairs: Headers = []
    for name, entries in found.items():
        lower = name.lower()
        if not _TOKEN.match(name):
            raise invalid(
                "The function returned an invalid header.",
                "Lambda function result failed validation, the function returned an invalid header, headerName : "
                f"{name}.",
            )
        if is_disallowed(lower):
            raise invalid(
                "The function tried to add a header that is not allowed.",
                "Lambda function result failed validation, the function tried to add blacklisted header, "
                f"headerName : {name}.",
            )
        if not isinstance(entries, list):
            raise invalid(f"The header {name} is not an array.")
        for entry in entries:
            pairs += _header_entry(name, entry)
    return pairs


def _header_entry(name: str, entry: Json) -> Headers:
    value = entry.get("value") if isinstance(entry, dict) else None
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    if not texts or (isinstance(value, list) and len(texts) != len(value)):
        raise invalid(
            "The header value is not a string.",
            "Lambda function result failed validation, value of each header value must be of string or array of "
            f"string type, headerName : {name}.",
        )
    key = entry.get("key")
    # The dictionary's name wins over a key that names another header.
    if not isinstance(key, str) or key.lower() != name.lower():
        key = "-".join(part[:1].upper() + part[1:] for part in name.split("-"))
    return [(key.encode(), _header_value(name, text)) for text in texts]


def _header_value(name: str, text: str) -> bytes:
    bad = _BAD_VALUE.search(text)
    if bad is not None:
        raise invalid(
            "The function returned an invalid header.",
            "Lambda function result failed validation, the function returned an invalid header, invalid character "
            f": '%{ord(bad[0]):02X}' in header value, headerName : {name}.",
        )
    return text.encode("latin-1") if all(ord(c) < 256 for c in text) else text.encode()


def _values(headers: Headers, name: str) -> list[bytes]:
    wanted = name.encode()
    return [value for key, value in headers if key.lower() == wanted]


def _check_read_only(stage: Stage, before: Headers, after: Headers) -> None:
    for name in stage.read_only:
        old, new = _values(before, name), _values(after, name)
        if old != new:
            verb = "delete" if not new else "change" if old else "add"
            raise invalid(
                "The function tried to add, delete, or change a read-only header.",
                f"Lambda function result failed validation, the function tried to {verb} read-only header, "
                f"headerName : {name.title()}.",
            )
    country = "cloudfront-viewer-country"
    if stage is VIEWER_REQUEST and _values(after, country) and not _values(before, country):
        raise invalid("The function tried to add, delete, or change a read-only header.")


def _hidden(before: Headers) -> Headers:
    """Headers that functions never saw stay as they were."""
    return [pair for pair in before if is_disallowed(pair[0].decode("latin-1").lower())]


def read_request_result(
    stage: Stage, before: EdgeRequest, payload: bytes, *, include_body: bool = False
) -> EdgeRequest | EdgeResponse:
    """What a request trigger gave: the request to go on with, or a generated response. Raises EdgeFailure."""
    result = _object(payload)
    if "status" in result:
        return _generated(stage, result)
    headers = _header_pairs(result.get("headers"))
    _check_read_only(stage, before.headers, headers)
    uri, query = result.get("uri", before.uri), result.get("querystring", before.querystring)
    if not isinstance(uri, str) or not uri.startswith("/") or _BAD_URI.search(uri):
        raise invalid("The URI is not valid: it must start with a slash.", f"URI {uri!r} is not valid")
    if not isinstance(query, str) or _BAD_QUERY.search(query):
        raise invalid("The query string is not valid.", f"query string {query!r} is not valid")
    if len(uri) + len(query) >= limits.MAX_URL:
        raise invalid("The URI and the query string are too long.")
    if (
        result.get("method", before.method) != before.method
        or result.get("clientIp", before.client_ip) != before.client_ip
    ):
        raise invalid("The function tried to change a read-only field.", "method and clientIp are read-only")
    body, replaced = _replaced_body(stage, before, result.get("body")) if include_body else (before.body, False)
    origin = before.origin
    if stage.at_origin and origin is not None and "origin" in result:
        origin = _origin(origin, result["origin"], headers)
    return replace(
        before, uri=uri, querystring=query, headers=_hidden(before.headers) + headers, body=body, origin=origin,
        body_replaced=replaced or before.body_replaced,
    )  # fmt: skip


_BODY_TEXT = "The body is not a string, is not an object, or exceeds the maximum size."


def _replaced_body(stage: Stage, before: EdgeRequest, body: Json) -> tuple[bytes, bool]:
    if body is None:
        return before.body, False
    if not isinstance(body, dict):
        raise invalid(_BODY_TEXT)
    action = body.get("action", "read-only")
    if action == "read-only":
        return before.body, False
    if action != "replace":
        raise invalid(_BODY_TEXT, f"body action {action!r} is not read-only or replace")
    return _decode(body.get("data", ""), body.get("encoding", "text"), stage.body_limit), True


def _decode(data: Json, encoding: Json, limit: int) -> bytes:
    if not isinstance(data, str) or encoding not in ("text", "base64"):
        raise invalid(_BODY_TEXT)
    if encoding == "text":
        body = data.encode()
        if len(body) > limit:
            raise invalid(_BODY_TEXT)
        return body
    if len(data) > limits.base64_limit(limit):
        raise invalid(_BODY_TEXT)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("The body is not valid base64.") from error


def _status(value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise invalid("The status is not valid.", f"status {value!r} is not a number")
    text = str(value)
    if not (text.isascii() and text.isdigit() and 200 <= int(text) <= 599):
        raise invalid("The status code is not between 200 and 599.", f"status {value!r} is not allowed")
    return int(text)


def phrase(status: int) -> str:
    """The reason phrase of a status, or an empty text."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _generated(stage: Stage, result: Mapping[str, Json]) -> EdgeResponse:
    status = _status(result["status"])
    headers = _header_pairs(result.get("headers"))
    for name in ("transfer-encoding", "via"):
        if _values(headers, name):
            raise invalid("The function tried to add, delete, or change a read-only header.")
    body = _response_body(stage, result, headers) or b""
    if status == 204 and body and stage is VIEWER_REQUEST:
        raise invalid("A response with status 204 can't have a body.")
    kept = [pair for pair in headers if pair[0].lower() != b"content-length"]
    return EdgeResponse(status, str(result.get("statusDescription") or phrase(status)), kept, body)


def _response_body(stage: Stage, result: Mapping[str, Json], headers: Headers) -> bytes | None:
    data = result.get("body")
    if data is None:
        return None
    limit = stage.generated_limit
    body = _decode(data, result.get("bodyEncoding", "text"), limit)
    if len(body) + sum(len(k) + len(v) + 4 for k, v in headers) > limit:
        raise invalid(_BODY_TEXT)
    return body


def read_response_result(stage: Stage, before: EdgeResponse, payload: bytes) -> EdgeResponse:
    """What a response trigger gave. Raises EdgeFailure."""
    result = _object(payload)
    headers = _header_pairs(result.get("headers"))
    _check_read_only(stage, before.headers, headers)
    status = _status(result.get("status", before.status))
    if stage is VIEWER_RESPONSE and status != before.status:
        raise invalid("The function tried to change the status of a viewer response.")
    body = _response_body(stage, result, headers)
    if body is not None:
        # A length that belonged to the body before is not the function's mistake.
        headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
    description = str(result.get("statusDescription") or phrase(status))
    return EdgeResponse(status, description, _hidden(before.headers) + headers, body)


# Origins made by functions


def _origin(before: Origin, found: Json, request_headers: Headers) -> Origin:
    if not isinstance(found, dict) or len(set(found) & {"s3", "custom"}) != 1:
        raise invalid("The origin must be exactly one of custom and s3.")
    kind = "s3" if "s3" in found else "custom"
    fields = found[kind]
    if not isinstance(fields, dict):
        raise invalid("The origin is not an object.")
    domain = fields.get("domainName")
    if not isinstance(domain, str) or not _DOMAIN.match(domain) or _IPV4.match(domain) or "." not in domain + ".":
        raise invalid("The domain name of the origin is not valid.", f"origin domainName {domain!r} is not valid")
    path = fields.get("path", "")
    if not isinstance(path, str) or len(path) > 255 or (path and (not path.startswith("/") or path.endswith("/"))):
        raise invalid("The path of the origin is not valid.", f"origin path {path!r} is not valid")
    custom = _custom_headers(fields.get("customHeaders"), request_headers)
    made = replace(before, domain=domain, path=path, custom_headers=custom, s3=kind == "s3")
    return _s3_origin(before, made, fields) if kind == "s3" else _custom_origin(made, fields)


def _custom_headers(found: Json, request_headers: Headers) -> tuple[tuple[str, str], ...]:
    pairs = _header_pairs(found)
    present = {name.lower() for name, _ in request_headers}
    for name, _ in pairs:
        lower = name.lower()
        if _CUSTOM_HEADER_DENIED.match(lower.decode("latin-1")) or lower in present:
            raise invalid(
                "A custom header of the origin is not allowed.", f"custom header {name.decode()} is not allowed"
            )
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs)


def _s3_origin(before: Origin, made: Origin, fields: Mapping[str, Json]) -> Origin:
    auth, region = fields.get("authMethod", "none"), fields.get("region", "")
    if auth not in ("none", "origin-access-identity") or not isinstance(region, str):
        raise invalid("The authMethod or region of the S3 origin is not valid.")
    if auth == "origin-access-identity" and (not before.s3 or "region" not in fields):
        raise invalid("An origin access identity can't be used with this origin.")
    if len(made.domain) > 128 or made.domain != made.domain.lower():
        raise invalid("The domain name of the S3 origin is not valid.")
    return replace(made, auth_method=auth, region=region)


def _custom_origin(made: Origin, fields: Mapping[str, Json]) -> Origin:
    protocol, port = fields.get("protocol"), fields.get("port")
    if protocol not in ("http", "https"):
        raise invalid("The protocol of the origin is not http or https.")
    if isinstance(port, bool) or not isinstance(port, int) or not (port in (80, 443) or 1024 <= port <= 65535):
        raise invalid("The port of the origin is not valid.", f"origin port {port!r} is not 80, 443 or 1024 to 65535")
    read, keepalive = fields.get("readTimeout", 30), fields.get("keepaliveTimeout", 5)
    for value, low in ((read, 4), (keepalive, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 60:
            raise invalid(
                "A timeout of the origin is not valid.", f"origin timeout {value!r} is not {low} to 60 seconds"
            )
    protocols = fields.get("sslProtocols", [])
    if not isinstance(protocols, list) or not set(map(str, protocols)) <= _SSL:
        raise invalid("The sslProtocols of the origin are not valid.")
    return replace(
        made, protocol_policy=f"{protocol}-only", http_port=port, https_port=port, read_timeout=float(read),
        keepalive_timeout=float(keepalive), ssl_protocols=tuple(map(str, protocols)),
    )  # fmt: skip
