"""Apply a response-headers policy on the way to the viewer. Pure.

Order: remove, then CORS, security and custom headers, each with its own override flag; viewer-response runs after it.

Source: CloudFront Developer Guide, "Understand response headers policies".
"""

from __future__ import annotations

from foreshore.cloudfront.cache import header
from foreshore.cloudfront.policies import Cors, ResponseHeadersPolicy
from foreshore.http import Headers


def apply(policy: ResponseHeadersPolicy, method: str, request: Headers, headers: Headers) -> Headers:
    """The response's headers under the policy."""
    found = [pair for pair in headers if pair[0].lower().decode("latin-1") not in policy.remove]
    if policy.cors is not None:
        found = _apply_cors(policy.cors, method, request, found)
    for name, value, override in policy.headers:
        found = _set(found, name, value, override)
    return found


def _set(headers: Headers, name: str, value: str, override: bool) -> Headers:
    lower = name.lower().encode()
    present = any(pair[0].lower() == lower for pair in headers)
    if present and not override:
        return headers
    kept = [pair for pair in headers if pair[0].lower() != lower]
    return [*kept, (name.encode(), value.encode("latin-1"))]


def _allowed_origin(cors: Cors, origin: str) -> str:
    if "*" in cors.allow_origins:
        return origin if cors.allow_credentials else "*"
    scheme, _, host = origin.partition("://")
    for pattern in cors.allow_origins:
        wanted_scheme, has_scheme, wanted_host = pattern.rpartition("://")
        if has_scheme and wanted_scheme != scheme:
            continue
        wanted = wanted_host or pattern
        if host == wanted or (wanted.startswith("*.") and host.endswith(wanted[1:])):
            return origin
    return ""


def _apply_cors(cors: Cors, method: str, request: Headers, headers: Headers) -> Headers:
    origin = header(request, b"origin")
    if origin is None:
        return headers
    has_own = any(name.lower().startswith(b"access-control-") for name, _ in headers)
    if has_own and not cors.override:
        return headers
    kept = [pair for pair in headers if not pair[0].lower().startswith(b"access-control-")]
    allowed = _allowed_origin(cors, origin)
    if not allowed:
        return kept
    kept.append((b"Access-Control-Allow-Origin", allowed.encode("latin-1")))
    if allowed != "*":
        kept = _vary_origin(kept)
    if cors.allow_credentials:
        kept.append((b"Access-Control-Allow-Credentials", b"true"))
    if cors.expose_headers:
        kept.append((b"Access-Control-Expose-Headers", ", ".join(cors.expose_headers).encode()))
    if method == "OPTIONS" and header(request, b"access-control-request-method") is not None:
        kept += _preflight(cors)
    return kept


def _vary_origin(headers: Headers) -> Headers:
    if "origin" in (header(headers, b"vary") or "").lower():
        return headers
    return [*headers, (b"Vary", b"Origin")]


def _preflight(cors: Cors) -> Headers:
    found: Headers = []
    for name, values in ((b"Methods", cors.allow_methods), (b"Headers", cors.allow_headers)):
        if values:
            found.append((b"Access-Control-Allow-" + name, ", ".join(values).encode()))
    if cors.max_age is not None:
        found.append((b"Access-Control-Max-Age", str(cors.max_age).encode()))
    return found
