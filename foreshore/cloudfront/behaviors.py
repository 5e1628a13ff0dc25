"""A DistributionConfig, read once into what requests are matched against. Pure.

Takes AWS::CloudFront::Distribution's DistributionConfig with intrinsics resolved, as CloudFormation or the API spells
it. Knows cache behaviours and their path patterns, origins, origin groups, custom error responses. What would have an
effect on AWS and has none here raises NotEmulated.

Sources: CloudFront Developer Guide, "Values that you specify when you create or update a distribution";
CloudFormation's AWS::CloudFront::Distribution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foreshore.cloudfront import limits
from foreshore.cloudfront.policies import (
    CachePolicy,
    OriginRequestPolicy,
    Policies,
    ResponseHeadersPolicy,
    boolean,
    items,
    legacy_policies,
)
from foreshore.errors import NotEmulated, UserError

Json = Any

EVENT_TYPES = ("viewer-request", "origin-request", "origin-response", "viewer-response")
FAILOVER_CODES = frozenset({400, 403, 404, 416, 500, 502, 503, 504})
_PATTERN = re.compile(r"^[A-Za-z0-9_\-.*$/~\"'@:+&?%]+$")
_VERSION_ARN = re.compile(r"^arn:aws[\w-]*:lambda:us-east-1:\d{12}:function:[A-Za-z0-9_-]+:\d+$")
_REGION = re.compile(r"\.s3[.-](?:website[.-])?([a-z]{2}-[a-z-]+-\d)\.")


@dataclass(frozen=True, slots=True)
class Trigger:
    """A function on one event of a behaviour."""

    arn: str
    include_body: bool = False


@dataclass(frozen=True, slots=True)
class Behavior:
    """A cache behaviour with its policies."""

    pattern: str
    target: str
    viewer_protocol: str
    methods: frozenset[str]
    cached_methods: frozenset[str]
    cache: CachePolicy
    origin_request: OriginRequestPolicy | None = None
    response_headers: ResponseHeadersPolicy | None = None
    compress: bool = False
    triggers: Mapping[str, Trigger] = field(default_factory=dict)
    key_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin. `s3` says which of the two kinds; ports and timeouts (seconds) are those of a custom origin."""

    id: str
    domain: str
    path: str = ""
    s3: bool = False
    custom_headers: tuple[tuple[str, str], ...] = ()
    protocol_policy: str = "match-viewer"
    http_port: int = 80
    https_port: int = 443
    read_timeout: float = 30.0
    keepalive_timeout: float = 5.0
    connect_timeout: float = 10.0
    attempts: int = 3
    ssl_protocols: tuple[str, ...] = ("TLSv1", "SSLv3")
    auth_method: str = "none"
    region: str = ""


@dataclass(frozen=True, slots=True)
class OriginGroup:
    """Primary, secondary, and the statuses that make CloudFront try the second."""

    primary: str
    secondary: str
    codes: frozenset[int]


@dataclass(frozen=True, slots=True)
class CustomError:
    """A row of CustomErrorResponses."""

    code: int
    min_ttl: int = 10
    page: str = ""
    response_code: int = 0


@dataclass(slots=True)
class Settings:
    """A whole distribution. `behaviors` are in matching order, the default last."""

    behaviors: list[Behavior]
    origins: dict[str, Origin]
    groups: dict[str, OriginGroup] = field(default_factory=dict)
    errors: dict[int, CustomError] = field(default_factory=dict)
    root_object: str = ""
    enabled: bool = True
    matchers: list[tuple[re.Pattern[str], Behavior]] = field(default_factory=list)

    def match(self, path: str) -> Behavior:
        """The first behaviour whose pattern the viewer's path matches."""
        for pattern, behavior in self.matchers:
            if pattern.match(path):
                return behavior
        return self.behaviors[-1]

    def origin_ids(self, target: str) -> tuple[str, ...]:
        """The origins to try, in order."""
        group = self.groups.get(target)
        return (group.primary, group.secondary) if group else (target,)


def path_matcher(pattern: str) -> re.Pattern[str]:
    """`*` takes any characters, `/` too; `?` takes one; case counts; the leading `/` may be left out."""
    text = pattern if pattern.startswith(("/", "*")) else "/" + pattern
    parts = [".*" if c == "*" else "." if c == "?" else re.escape(c) for c in text]
    return re.compile("".join(parts) + r"\Z", re.DOTALL)


def read(config: Json, policies: Policies, where: str = "DistributionConfig") -> Settings:
    """Read a DistributionConfig. Raises UserError for what CloudFront refuses, NotEmulated for what is not here."""
    for name in ("ViewerMtlsConfig", "TenantConfig", "ContinuousDeploymentPolicyId"):
        if config.get(name):
            raise NotEmulated(f"{name} of a distribution")
    origins = {item["Id"]: read_origin(item) for item in items(config.get("Origins"))}
    groups = {item["Id"]: _group(item, where) for item in items(config.get("OriginGroups"))}
    behaviors = [_behavior(item, policies, where) for item in items(config.get("CacheBehaviors"))]
    default = config.get("DefaultCacheBehavior")
    if default is None:
        raise UserError("a distribution needs a DefaultCacheBehavior", code="cloudfront-config", where=where)
    behaviors.append(_behavior({**default, "PathPattern": "*"}, policies, where))
    settings = Settings(
        behaviors,
        origins,
        groups,
        {int(item["ErrorCode"]): _custom_error(item) for item in items(config.get("CustomErrorResponses"))},
        str(config.get("DefaultRootObject") or "").lstrip("/"),
        boolean(config.get("Enabled", True)),
        [(path_matcher(behavior.pattern), behavior) for behavior in behaviors],
    )
    _check(settings, where)
    return settings


def without_effect(config: Json) -> list[str]:
    """The settings of a DistributionConfig that are taken, are not acted on, and change what viewers get on AWS."""
    names = [name for name in ("WebACLId", "Logging", "Aliases") if config.get(name)]
    geo = (config.get("Restrictions") or {}).get("GeoRestriction") or {}
    if geo.get("RestrictionType", "none") != "none":
        names.append("GeoRestriction")
    behaviors = [config.get("DefaultCacheBehavior") or {}, *items(config.get("CacheBehaviors"))]
    if any(boolean(each.get("SmoothStreaming")) for each in behaviors):
        names.append("SmoothStreaming")
    if any(boolean((each.get("GrpcConfig") or {}).get("Enabled")) for each in behaviors):
        names.append("GrpcConfig")
    if any(origin.get("ResponseCompletionTimeout") for origin in items(config.get("Origins"))):
        names.append("ResponseCompletionTimeout")
    return names


def _check(settings: Settings, where: str) -> None:
    known = settings.origins.keys() | settings.groups.keys()
    wanted = {b.target for b in settings.behaviors}
    wanted |= {name for g in settings.groups.values() for name in (g.primary, g.secondary)}
    missing = sorted(wanted - known)
    if missing:
        raise UserError(f"no origin or origin group {missing[0]!r}", code="cloudfront-config", where=where)
    functions = {trigger.arn for behavior in settings.behaviors for trigger in behavior.triggers.values()}
    for name, found, limit in (
        ("cache behaviours", len(settings.behaviors) - 1, limits.MAX_BEHAVIORS),
        ("origins", len(settings.origins), limits.MAX_ORIGINS),
        ("origin groups", len(settings.groups), limits.MAX_ORIGIN_GROUPS),
        ("Lambda@Edge functions", len(functions), limits.MAX_TRIGGER_FUNCTIONS),
    ):
        if found > limit:
            raise UserError(f"{found} {name}; CloudFront takes {limit}", code="cloudfront-quota", where=where)


def _refuse_unemulated(item: Json, where: str) -> None:
    for name, what in (
        ("FunctionAssociations", "CloudFront Functions"),
        ("TrustedSigners", "signed URLs by account key pairs (a TrustedKeyGroup works)"),
    ):
        if items(item.get(name)):
            raise NotEmulated(f"{what} ({where})")
    for name in ("FieldLevelEncryptionId", "RealtimeLogConfigArn"):
        if item.get(name):
            raise NotEmulated(f"{name} ({where})")


def _behavior(item: Json, policies: Policies, where: str) -> Behavior:
    pattern = str(item["PathPattern"])
    place = f"{where}, behaviour {pattern}"
    if not _PATTERN.match(pattern) or len(pattern) > limits.MAX_PATH_PATTERN:
        raise UserError(f"path pattern {pattern!r} is not allowed", code="cloudfront-config", where=place)
    _refuse_unemulated(item, place)
    origin_request: OriginRequestPolicy | None = None
    if identifier := item.get("CachePolicyId"):
        cache = policies.cache(str(identifier), place)
        if request_id := item.get("OriginRequestPolicyId"):
            origin_request = policies.origin_request(str(request_id), place)
    else:
        cache, origin_request = legacy_policies(item)
    response_id = item.get("ResponseHeadersPolicyId")
    methods = item.get("AllowedMethods")
    nested = methods.get("CachedMethods") if isinstance(methods, Mapping) else None
    return Behavior(
        pattern,
        str(item["TargetOriginId"]),
        str(item.get("ViewerProtocolPolicy", "allow-all")),
        frozenset(map(str, items(methods) or ("GET", "HEAD"))),
        frozenset(map(str, items(item.get("CachedMethods") or nested) or ("GET", "HEAD"))),
        cache,
        origin_request,
        policies.response_headers(str(response_id), place) if response_id else None,
        boolean(item.get("Compress")),
        _triggers(item, place),
        tuple(map(str, items(item.get("TrustedKeyGroups")))),
    )


def _triggers(item: Json, where: str) -> dict[str, Trigger]:
    found: dict[str, Trigger] = {}
    for association in items(item.get("LambdaFunctionAssociations")):
        event, arn = str(association["EventType"]), str(association["LambdaFunctionARN"])
        if event not in EVENT_TYPES or event in found:
            raise UserError(
                f"one function for each of {', '.join(EVENT_TYPES)}; {event!r} is unknown or taken",
                code="cloudfront-config", where=where,
            )  # fmt: skip
        if not _VERSION_ARN.match(arn):
            raise UserError(
                f"{arn!r} is not the ARN of a numbered version in us-east-1", code="edge-function", where=where,
                mend="use AutoPublishAlias and !Ref Function.Version in a template for us-east-1; "
                "$LATEST and aliases are not allowed",
            )  # fmt: skip
        include_body = boolean(association.get("IncludeBody"))
        if include_body and not event.endswith("request"):
            raise UserError("IncludeBody is for request events", code="cloudfront-config", where=where)
        found[event] = Trigger(arn, include_body)
    return found


def read_origin(item: Json) -> Origin:
    """One member of Origins. Raises NotEmulated for a VPC origin."""
    domain = str(item["DomainName"])
    if item.get("VpcOriginConfig"):
        raise NotEmulated(f"VPC origins (origin {item['Id']})")
    custom = item.get("CustomOriginConfig") or {}
    identity = str((item.get("S3OriginConfig") or {}).get("OriginAccessIdentity") or "")
    region = _REGION.search(domain)
    headers = items(item.get("OriginCustomHeaders"))
    return Origin(
        str(item["Id"]),
        domain,
        str(item.get("OriginPath") or ""),
        "S3OriginConfig" in item and not custom,
        tuple((str(header["HeaderName"]), str(header["HeaderValue"])) for header in headers),
        str(custom.get("OriginProtocolPolicy", "match-viewer")),
        int(custom.get("HTTPPort", 80)),
        int(custom.get("HTTPSPort", 443)),
        float(custom.get("OriginReadTimeout", 30)),
        float(custom.get("OriginKeepaliveTimeout", 5)),
        float(item.get("ConnectionTimeout", 10)),
        int(item.get("ConnectionAttempts", 3)),
        tuple(map(str, items(custom.get("OriginSSLProtocols")) or ("TLSv1", "SSLv3"))),
        "origin-access-identity" if identity else "none",
        region[1] if region else "us-east-1",
    )


def _group(item: Json, where: str) -> OriginGroup:
    members = [str(member["OriginId"]) for member in items(item.get("Members"))]
    codes = frozenset(int(code) for code in items(item["FailoverCriteria"]["StatusCodes"]))
    if len(members) != 2 or not codes or not codes <= FAILOVER_CODES:
        raise UserError(
            f"origin group {item['Id']} needs two members and codes of {sorted(FAILOVER_CODES)}",
            code="cloudfront-config", where=where,
        )  # fmt: skip
    return OriginGroup(members[0], members[1], codes)


def _custom_error(item: Json) -> CustomError:
    ttl = item.get("ErrorCachingMinTTL")
    return CustomError(
        int(item["ErrorCode"]),
        10 if ttl is None else int(ttl),
        str(item.get("ResponsePagePath") or ""),
        int(item.get("ResponseCode") or 0),
    )
