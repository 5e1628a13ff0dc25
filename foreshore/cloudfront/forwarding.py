"""What goes to an origin, and what of its answer comes back. Pure.

Sources: CloudFront Developer Guide, "Request and response behavior for custom origins" (table of request headers),
"Control origin requests with a policy", "Add CloudFront request headers", "Add custom headers to origin requests".
"""

from __future__ import annotations

from dataclasses import dataclass

from foreshore.cloudfront.behaviors import Behavior, Origin
from foreshore.cloudfront.cache import accepted_encoding, cookie_pairs, header
from foreshore.cloudfront.policies import OriginRequestPolicy, Selection
from foreshore.http import Headers

USER_AGENT = b"Amazon CloudFront"
# Sent on whatever the policies say.
_ALWAYS = frozenset({"cache-control", "content-type", "content-length", "pragma", "origin", "range", "warning", "date"})
# Dropped or replaced unless a policy names them (also under ForwardedValues, which sends other headers on).
_DROPPED = frozenset(
    [
        "accept",
        "accept-charset",
        "accept-language",
        "authorization",
        "cookie",
        "referer",
        "te",
        "expect",
        "x-http-method-override",
        "x-forwarded-proto",
        "x-real-ip",
        "connection",
        "keep-alive",
        "proxy-authorization",
        "proxy-authenticate",
        "proxy-connection",
        "upgrade",
        "transfer-encoding",
        "trailer",
        "host",
        "user-agent",
        "accept-encoding",
        "via",
        "x-forwarded-for",
    ]
)
_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding upgrade".split()
)
_CONDITIONS = frozenset({"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"})
_DEVICES = (
    ("CloudFront-Is-SmartTV-Viewer", ("smart-tv", "smarttv", "googletv", "appletv", "hbbtv", "roku")),
    ("CloudFront-Is-Tablet-Viewer", ("ipad", "tablet", "kindle", "silk/")),
    ("CloudFront-Is-Mobile-Viewer", ("iphone", "ipod", "mobile", "windows phone")),
)
_GEOGRAPHY = frozenset(
    "cloudfront-viewer-" + name
    for name in ("country", "country-name", "country-region", "country-region-name", "city", "latitude", "longitude",
                 "metro-code", "postal-code", "time-zone", "asn", "ja3-fingerprint", "ja4-fingerprint")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Viewer:
    """What CloudFront knows of the viewer besides the request."""

    ip: str
    port: int
    scheme: str
    http_version: str
    tls: str = ""


def forwards(behavior: Behavior, name: str) -> bool:
    """Whether a viewer's header goes to the origin. `name` is lower-case."""
    policy = behavior.origin_request
    keyed = behavior.cache.headers.behavior == "whitelist" and name in behavior.cache.headers.names
    if keyed:
        return True
    if name == "authorization":
        return policy is not None and policy.headers.takes_all and policy.headers.has(name)
    if policy is not None and policy.headers.has(name):
        return True
    if name in _DROPPED or name.startswith(("x-edge-", "x-amz-cf-", "cloudfront-", "proxy-")):
        return False
    return name in _ALWAYS or behavior.cache.legacy


def origin_headers(
    behavior: Behavior, request: Headers, viewer: Viewer, via: str, *, keeps_conditions: bool
) -> Headers:
    """The request's headers as an origin gets them, without Host. `keeps_conditions`: the answer will not be cached."""
    found: Headers = []
    for name, value in request:
        lower = name.decode("latin-1").lower()
        if lower in ("host", "cookie", "accept-encoding", "via", "x-forwarded-for", "user-agent", "content-length"):
            continue
        if lower.startswith("cloudfront-") or name.lower() in _HOP:
            continue
        if lower in _CONDITIONS:
            if keeps_conditions:
                found.append((name, value))
        elif forwards(behavior, lower):
            found.append((name, value))
    agent = header(request, b"user-agent")
    kept = agent is not None and forwards(behavior, "user-agent")
    found.append((b"User-Agent", agent.encode("latin-1") if kept and agent is not None else USER_AGENT))
    found += _cloudfront_headers(behavior, request, viewer)
    if cookie := _cookies(behavior, header(request, b"cookie")):
        found.append((b"Cookie", cookie.encode("latin-1")))
    found.append((b"Accept-Encoding", _accept_encoding(behavior, request)))
    before = header(request, b"x-forwarded-for")
    chain = f"{before}, {viewer.ip}" if before else viewer.ip
    found.append((b"X-Forwarded-For", chain.encode("latin-1")))
    before = header(request, b"via")
    own = f"2.0 {via} (CloudFront)"
    found.append((b"Via", (f"{before}, {own}" if before else own).encode("latin-1")))
    return found


def _accept_encoding(behavior: Behavior, request: Headers) -> bytes:
    accept = header(request, b"accept-encoding")
    if not (behavior.cache.gzip or behavior.cache.brotli) and accept and forwards(behavior, "accept-encoding"):
        return accept.encode("latin-1")
    return accepted_encoding(behavior.cache, accept).encode() or b"identity"


def _cookies(behavior: Behavior, cookie: str | None) -> str:
    if not cookie:
        return ""
    policy = behavior.origin_request or OriginRequestPolicy("")
    if "all" in (behavior.cache.cookies.behavior, policy.cookies.behavior):
        return cookie
    keyed = behavior.cache.cookies
    pairs = [pair for pair in cookie_pairs(cookie) if keyed.has(pair[0]) or policy.cookies.has(pair[0])]
    return "; ".join(f"{name}={value}" for name, value in pairs)


def origin_query(behavior: Behavior, query: str) -> str:
    """The query string as an origin gets it."""
    keyed = behavior.cache.queries
    other = behavior.origin_request.queries if behavior.origin_request else Selection()
    if not query or "all" in (keyed.behavior, other.behavior):
        return query
    pairs = (pair for pair in query.split("&") if pair)
    return "&".join(p for p in pairs if keyed.has(p.partition("=")[0]) or other.has(p.partition("=")[0]))


def _cloudfront_headers(behavior: Behavior, request: Headers, viewer: Viewer) -> Headers:
    wanted = set(behavior.cache.headers.names if behavior.cache.headers.behavior == "whitelist" else ())
    policy = behavior.origin_request
    if policy is not None and policy.headers.behavior in ("whitelist", "allViewerAndWhitelistCloudFront"):
        wanted |= policy.headers.names
    wanted = {name for name in wanted if name.startswith("cloudfront-")}
    if not wanted:
        return []
    return [pair for pair in cloudfront_headers(request, viewer) if pair[0].decode().lower() in wanted]


def cloudfront_headers(request: Headers, viewer: Viewer) -> Headers:
    """Every CloudFront-* header that can be told here.

    Geography can't be: a `CloudFront-Viewer-Country` and its kin that the viewer itself sends stand for it, so that a
    test can choose a place; otherwise they are left out, as CloudFront does when it can't tell.
    """
    agent = (header(request, b"user-agent") or "").lower()
    device = next((name for name, words in _DEVICES if any(word in agent for word in words)), "")
    names = [name for name, _ in _DEVICES]
    facts = {name: name == device for name in names}
    facts["CloudFront-Is-Desktop-Viewer"] = not device
    facts["CloudFront-Is-Android-Viewer"] = "android" in agent
    facts["CloudFront-Is-IOS-Viewer"] = any(word in agent for word in ("iphone", "ipad", "ipod"))
    found = [(name.encode(), b"true" if fact else b"false") for name, fact in facts.items()]
    found.append((b"CloudFront-Forwarded-Proto", viewer.scheme.encode()))
    found.append((b"CloudFront-Viewer-Http-Version", viewer.http_version.encode()))
    found.append((b"CloudFront-Viewer-Address", f"{viewer.ip}:{viewer.port}".encode()))
    if viewer.tls:
        found.append((b"CloudFront-Viewer-TLS", viewer.tls.encode()))
    return found + [(k, v) for k, v in request if k.decode("latin-1").lower() in _GEOGRAPHY]


def with_custom_headers(headers: Headers, custom: tuple[tuple[str, str], ...]) -> Headers:
    """The origin's custom headers in place of what the viewer sent under those names."""
    names = {name.lower().encode() for name, _ in custom}
    kept = [pair for pair in headers if pair[0].lower() not in names]
    return kept + [(name.encode(), value.encode("latin-1")) for name, value in custom]


def origin_scheme(origin: Origin, viewer_scheme: str) -> str:
    """http or https to a custom origin; an S3 origin follows the viewer."""
    return {"http-only": "http", "https-only": "https"}.get(origin.protocol_policy, viewer_scheme)


def response_headers(behavior: Behavior, headers: Headers) -> Headers:
    """An origin's headers without hop-by-hop ones, its Age, and the Vary names that are not forwarded."""
    found: Headers = []
    for name, value in headers:
        lower = name.lower()
        if lower in _HOP or lower in (b"age", b"x-cache", b"content-length") or lower.startswith(b"x-amz-cf-"):
            continue
        if lower == b"vary":
            value = _vary(behavior, value)
            if not value:
                continue
        found.append((name, value))
    return found


def _vary(behavior: Behavior, value: bytes) -> bytes:
    names = [name.strip() for name in value.decode("latin-1").split(",") if name.strip()]
    kept = [
        n for n in names if n.lower() in ("accept-encoding", "cookie", "*") or forwards(behavior, n.lower())
    ]  # fmt: skip
    return ", ".join(kept).encode("latin-1")
