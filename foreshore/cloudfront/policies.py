"""Cache, origin-request and response-headers policies: AWS's managed ones as a table, custom ones from CloudFormation.

Knows names, ids, TTLs and which headers, cookies and query strings a policy takes; not how they are applied (`cache`,
`forwarding`, `response_headers`).

Sources: CloudFront Developer Guide, "Using managed cache policies", "Using managed origin request policies", "Using
managed response headers policies", "Understanding cache policies"; CloudFormation's AWS::CloudFront::*Policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foreshore.errors import NotEmulated, UserError

Json = Any

MAX_KEY_NAMES = 10
MAX_KEY_NAME_CHARACTERS = 1024
YEAR = 31_536_000
DAY = 86_400


def items(value: Json) -> list[Json]:
    """A list as CloudFormation writes it, or as the API does (`{"Quantity", "Items"}`)."""
    if isinstance(value, Mapping):
        return list(value.get("Items") or [])
    return list(value or [])


def boolean(value: Json) -> bool:
    """CloudFormation's booleans, which may be text."""
    return value is True or (isinstance(value, str) and value.lower() == "true")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which names a policy takes. `behavior` is AWS's own word; `names` are lower-case for headers."""

    behavior: str = "none"
    names: frozenset[str] = frozenset()

    def has(self, name: str) -> bool:
        """Whether a name is taken."""
        if self.behavior == "whitelist":
            return name in self.names
        if self.behavior == "allExcept":
            return name not in self.names
        if self.behavior == "allViewerAndWhitelistCloudFront":
            return not name.startswith("cloudfront-") or name in self.names
        return self.behavior in ("all", "allViewer")

    @property
    def takes_all(self) -> bool:
        """Whether names the policy does not spell out are taken."""
        return self.behavior not in ("none", "whitelist")


ALL = Selection("all")
NONE = Selection()


def _only(*names: str) -> Selection:
    return Selection("whitelist", frozenset(names))


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """TTLs in seconds, and what makes the cache key besides the domain and the path."""

    name: str
    min_ttl: int = 0
    default_ttl: int = DAY
    max_ttl: int = YEAR
    gzip: bool = False
    brotli: bool = False
    headers: Selection = NONE
    cookies: Selection = NONE
    queries: Selection = NONE
    # Settings of before cache policies (ForwardedValues) pass on headers that policies drop.
    legacy: bool = False

    @property
    def caches(self) -> bool:
        """Whether anything can be kept (CachingDisabled has a maximum TTL of 0)."""
        return self.max_ttl > 0


@dataclass(frozen=True, slots=True)
class OriginRequestPolicy:
    """What goes to the origin besides the cache key's values."""

    name: str
    headers: Selection = NONE
    cookies: Selection = NONE
    queries: Selection = NONE


@dataclass(frozen=True, slots=True)
class Cors:
    """The CORS part of a response-headers policy."""

    allow_origins: tuple[str, ...]
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    allow_credentials: bool = False
    max_age: int | None = None
    override: bool = False


@dataclass(frozen=True, slots=True)
class ResponseHeadersPolicy:
    """Headers to set: (name, value, override); names to remove (lower-case); CORS; Server-Timing's rate in percent."""

    name: str
    headers: tuple[tuple[str, str, bool], ...] = ()
    remove: frozenset[str] = frozenset()
    cors: Cors | None = None
    server_timing: float | None = None


MANAGED_CACHE: dict[str, CachePolicy] = {
    "658327ea-f89d-4fab-a63d-7e88639e58f6": CachePolicy(
        "Managed-CachingOptimized", 1, DAY, YEAR, gzip=True, brotli=True
    ),
    "b2884449-e4de-46a7-ac36-70bc7f1ddd6d": CachePolicy(
        "Managed-CachingOptimizedForUncompressedObjects", 1, DAY, YEAR
    ),
    "4135ea2d-6df8-44a3-9df3-4b5a84be39ad": CachePolicy("Managed-CachingDisabled", 0, 0, 0),
    "2e54312d-136d-493c-8eb9-b001f22f67d2": CachePolicy(
        "Managed-Amplify", 2, 2, 600, gzip=True, brotli=True,
        headers=_only("authorization", "cloudfront-viewer-country", "host"), cookies=ALL, queries=ALL,
    ),
    "08627262-05a9-4f76-9ded-b50ca2e3a84f": CachePolicy(
        "Managed-Elemental-MediaPackage", 0, DAY, YEAR, gzip=True, headers=_only("origin"),
        queries=_only("aws.manifestfilter", "start", "end", "m"),
    ),
    "83da9c7e-98b4-4e11-a168-04f0df8e2c65": CachePolicy(
        "UseOriginCacheControlHeaders", 0, 0, YEAR, gzip=True, brotli=True,
        headers=_only("host", "origin", "x-http-method-override", "x-http-method", "x-method-override"), cookies=ALL,
    ),
    "4cc15a8a-d715-48a4-82b8-cc0b614638fe": CachePolicy(
        "UseOriginCacheControlHeaders-QueryStrings", 0, 0, YEAR, gzip=True, brotli=True,
        headers=_only("host", "origin", "x-http-method-override", "x-http-method", "x-method-override"),
        cookies=ALL, queries=ALL,
    ),
}  # fmt: skip

_CORS_PREFLIGHT = _only("origin", "access-control-request-headers", "access-control-request-method")
_CLOUDFRONT_2022_06 = frozenset(
    "cloudfront-" + name
    for name in (
        "forwarded-proto", "is-android-viewer", "is-desktop-viewer", "is-ios-viewer", "is-mobile-viewer",
        "is-smarttv-viewer", "is-tablet-viewer", "viewer-address", "viewer-asn", "viewer-city", "viewer-country",
        "viewer-country-name", "viewer-country-region", "viewer-country-region-name", "viewer-http-version",
        "viewer-latitude", "viewer-longitude", "viewer-metro-code", "viewer-postal-code", "viewer-time-zone",
        "viewer-tls",
    )
)  # fmt: skip

MANAGED_ORIGIN_REQUEST: dict[str, OriginRequestPolicy] = {
    "216adef6-5c7f-47e4-b989-5492eafa07d3": OriginRequestPolicy("Managed-AllViewer", Selection("allViewer"), ALL, ALL),
    "33f36d7e-f396-46d9-90e0-52428a34d9dc": OriginRequestPolicy(
        "Managed-AllViewerAndCloudFrontHeaders-2022-06",
        Selection("allViewerAndWhitelistCloudFront", _CLOUDFRONT_2022_06), ALL, ALL,
    ),
    "b689b0a8-53d0-40ab-baf2-68738e2966ac": OriginRequestPolicy(
        "Managed-AllViewerExceptHostHeader", Selection("allExcept", frozenset({"host"})), ALL, ALL
    ),
    "59781a5b-3903-41f3-afcb-af62929ccde1": OriginRequestPolicy("Managed-CORS-CustomOrigin", _only("origin")),
    "88a5eaf4-2fd4-4709-b370-b4c650ea3fcf": OriginRequestPolicy("Managed-CORS-S3Origin", _CORS_PREFLIGHT),
    "775133bc-15f2-49f9-abea-afb2e0bf67d2": OriginRequestPolicy(
        "Managed-Elemental-MediaTailor-PersonalizedManifests",
        _only("origin", "access-control-request-headers", "access-control-request-method", "user-agent",
              "x-forwarded-for"), NONE, ALL,
    ),
    "bf0718e1-ba1e-49d1-88b1-f726733018ae": OriginRequestPolicy("Managed-HostHeaderOnly", _only("host")),
    "acba4595-bd28-49b8-b9fe-13317c0390fa": OriginRequestPolicy(
        "Managed-UserAgentRefererHeaders", _only("user-agent", "referer")
    ),
}  # fmt: skip

_SIMPLE_CORS = Cors(("*",))
_PREFLIGHT_CORS = Cors(
    ("*",), ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"), (), ("*",), override=False
)  # fmt: skip
_SECURITY = (
    ("Referrer-Policy", "strict-origin-when-cross-origin", False),
    ("Strict-Transport-Security", "max-age=31536000", False),
    ("X-Content-Type-Options", "nosniff", True),
    ("X-Frame-Options", "SAMEORIGIN", False),
    ("X-XSS-Protection", "1; mode=block", False),
)

MANAGED_RESPONSE_HEADERS: dict[str, ResponseHeadersPolicy] = {
    "60669652-455b-4ae9-85a4-c4c02393f86c": ResponseHeadersPolicy("Managed-SimpleCORS", cors=_SIMPLE_CORS),
    "5cc3b908-e619-4b99-88e5-2cf7f45965bd": ResponseHeadersPolicy("Managed-CORS-With-Preflight", cors=_PREFLIGHT_CORS),
    "67f7725c-6f97-4210-82d7-5512b31e9d03": ResponseHeadersPolicy("Managed-SecurityHeadersPolicy", _SECURITY),
    "e61eb60c-9c35-4d20-a928-2b84e02af89c": ResponseHeadersPolicy(
        "Managed-CORS-and-SecurityHeadersPolicy", _SECURITY, cors=_SIMPLE_CORS
    ),
    "eaab4381-ed33-4a86-88ca-d9558dc6cd63": ResponseHeadersPolicy(
        "Managed-CORS-with-preflight-and-SecurityHeadersPolicy", _SECURITY, cors=_PREFLIGHT_CORS
    ),
}


# Custom policies


def _selection(config: Json, behavior: str, names: str, *, lower: bool) -> Selection:
    config = config or {}
    found = [str(name) for name in items(config.get(names))]
    return Selection(str(config.get(behavior, "none")), frozenset(n.lower() if lower else n for n in found))


def cache_policy(config: Json, where: str) -> CachePolicy:
    """A CachePolicyConfig. Raises UserError for what CloudFront refuses."""
    values = config.get("ParametersInCacheKeyAndForwardedToOrigin") or {}
    policy = CachePolicy(
        str(config.get("Name", "")),
        int(config.get("MinTTL", 0)),
        int(config.get("DefaultTTL", DAY)),
        int(config.get("MaxTTL", YEAR)),
        gzip=boolean(values.get("EnableAcceptEncodingGzip")),
        brotli=boolean(values.get("EnableAcceptEncodingBrotli")),
        headers=_selection(values.get("HeadersConfig"), "HeaderBehavior", "Headers", lower=True),
        cookies=_selection(values.get("CookiesConfig"), "CookieBehavior", "Cookies", lower=False),
        queries=_selection(values.get("QueryStringsConfig"), "QueryStringBehavior", "QueryStrings", lower=False),
    )
    _check_cache_policy(policy, where)
    return policy


def _check_cache_policy(policy: CachePolicy, where: str) -> None:
    if not policy.min_ttl <= policy.default_ttl <= policy.max_ttl:
        raise UserError(
            f"MinTTL {policy.min_ttl}, DefaultTTL {policy.default_ttl} and MaxTTL {policy.max_ttl} must not fall",
            code="cloudfront-policy", where=where,
        )  # fmt: skip
    for selection, what in (
        (policy.headers, "headers"),
        (policy.cookies, "cookies"),
        (policy.queries, "query strings"),
    ):
        too_long = sum(map(len, selection.names)) > MAX_KEY_NAME_CHARACTERS
        if len(selection.names) > MAX_KEY_NAMES or too_long:
            raise UserError(
                f"a cache policy takes at most {MAX_KEY_NAMES} {what} of {MAX_KEY_NAME_CHARACTERS} characters together",
                code="cloudfront-policy", where=where,
            )  # fmt: skip


def legacy_policies(behavior: Json) -> tuple[CachePolicy, OriginRequestPolicy]:
    """ForwardedValues and the TTLs beside it, as the two policies that they amount to."""
    values = behavior.get("ForwardedValues") or {}
    headers = [str(name).lower() for name in items(values.get("Headers"))]
    cookies = values.get("Cookies") or {}
    forwarded = {"all": ALL, "whitelist": _only(*map(str, items(cookies.get("WhitelistedNames"))))}
    keyed_cookies = forwarded.get(str(cookies.get("Forward", "none")), NONE)
    queries = ALL if boolean(values.get("QueryString")) else NONE
    keys = [str(name) for name in items(values.get("QueryStringCacheKeys"))]
    everything = headers == ["*"]
    cache = CachePolicy(
        "ForwardedValues",
        int(behavior.get("MinTTL", 0)),
        0 if everything else int(behavior.get("DefaultTTL", DAY)),
        0 if everything else int(behavior.get("MaxTTL", YEAR)),
        gzip=True,
        headers=NONE if everything else _only(*headers),
        cookies=keyed_cookies,
        queries=_only(*keys) if keys and queries is ALL else queries,
        legacy=True,
    )
    return cache, OriginRequestPolicy("ForwardedValues", Selection("allViewer") if everything else NONE, NONE, queries)


def origin_request_policy(config: Json) -> OriginRequestPolicy:
    """An OriginRequestPolicyConfig."""
    return OriginRequestPolicy(
        str(config.get("Name", "")),
        _selection(config.get("HeadersConfig"), "HeaderBehavior", "Headers", lower=True),
        _selection(config.get("CookiesConfig"), "CookieBehavior", "Cookies", lower=False),
        _selection(config.get("QueryStringsConfig"), "QueryStringBehavior", "QueryStrings", lower=False),
    )


def response_headers_policy(config: Json) -> ResponseHeadersPolicy:
    """A ResponseHeadersPolicyConfig."""
    headers = list(_security_headers(config.get("SecurityHeadersConfig") or {}))
    for item in items((config.get("CustomHeadersConfig") or {}).get("Items")):
        headers.append((str(item["Header"]), str(item["Value"]), boolean(item.get("Override"))))
    removed = items((config.get("RemoveHeadersConfig") or {}).get("Items"))
    timing = config.get("ServerTimingHeadersConfig") or {}
    return ResponseHeadersPolicy(
        str(config.get("Name", "")),
        tuple(headers),
        frozenset(str(item["Header"]).lower() for item in removed),
        _cors(config.get("CorsConfig")),
        float(timing.get("SamplingRate") or 0) if boolean(timing.get("Enabled")) else None,
    )


def _cors(config: Json) -> Cors | None:
    if not config:
        return None

    def texts(name: str) -> tuple[str, ...]:
        return tuple(map(str, items((config.get(name) or {}).get("Items"))))

    age = config.get("AccessControlMaxAgeSec")
    methods = texts("AccessControlAllowMethods")
    return Cors(
        texts("AccessControlAllowOrigins"),
        ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE") if methods == ("ALL",) else methods,
        texts("AccessControlAllowHeaders"),
        texts("AccessControlExposeHeaders"),
        boolean(config.get("AccessControlAllowCredentials")),
        None if age is None else int(age),
        boolean(config.get("OriginOverride")),
    )


def _security_headers(config: Json) -> list[tuple[str, str, bool]]:
    """SecurityHeadersConfig's members, each a header with its own override flag."""
    found: list[tuple[str, str, bool]] = []

    def add(header: str, part: Json, value: str) -> None:
        found.append((header, value, boolean(part.get("Override"))))

    if part := config.get("StrictTransportSecurity"):
        value = f"max-age={int(part['AccessControlMaxAgeSec'])}"
        value += "; includeSubDomains" if boolean(part.get("IncludeSubdomains")) else ""
        add("Strict-Transport-Security", part, value + ("; preload" if boolean(part.get("Preload")) else ""))
    if part := config.get("ContentTypeOptions"):
        add("X-Content-Type-Options", part, "nosniff")
    if part := config.get("FrameOptions"):
        add("X-Frame-Options", part, str(part["FrameOption"]))
    if part := config.get("XSSProtection"):
        value = "1" if boolean(part.get("Protection")) else "0"
        value += "; mode=block" if boolean(part.get("ModeBlock")) else ""
        value += f"; report={part['ReportUri']}" if part.get("ReportUri") else ""
        add("X-XSS-Protection", part, value)
    if part := config.get("ReferrerPolicy"):
        add("Referrer-Policy", part, str(part["ReferrerPolicy"]))
    if part := config.get("ContentSecurityPolicy"):
        add("Content-Security-Policy", part, str(part["ContentSecurityPolicy"]))
    return found


@dataclass(slots=True)
class Policies:
    """Finds a policy by id: the managed ones, then the template's own (id → config)."""

    custom: Mapping[str, Json] = field(default_factory=dict)

    def _config(self, identifier: str, kind: str, where: str) -> Json:
        config = self.custom.get(identifier)
        if config is None:
            raise NotEmulated(
                f"the {kind} policy {identifier} (in {where})",
                "It is neither in the template nor a managed policy this version knows.",
            )
        return config

    def cache(self, identifier: str, where: str) -> CachePolicy:
        """A cache policy. Raises NotEmulated for an id nobody knows, UserError for a bad one."""
        return MANAGED_CACHE.get(identifier) or cache_policy(self._config(identifier, "cache", where), where)

    def origin_request(self, identifier: str, where: str) -> OriginRequestPolicy:
        """An origin-request policy. Raises NotEmulated for an id nobody knows."""
        known = MANAGED_ORIGIN_REQUEST.get(identifier)
        return known or origin_request_policy(self._config(identifier, "origin request", where))

    def response_headers(self, identifier: str, where: str) -> ResponseHeadersPolicy:
        """A response-headers policy. Raises NotEmulated for an id nobody knows."""
        known = MANAGED_RESPONSE_HEADERS.get(identifier)
        return known or response_headers_policy(self._config(identifier, "response headers", where))
