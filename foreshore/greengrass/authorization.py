"""accessControl: may this component do this operation on this resource? Pure; decisions are cached by the caller's key.

    accessControl.<service>.<policyId>.{policyDescription, operations[], resources[]}

Default deny. Classic rules (developer guide, "Authorize components to perform IPC operations"; nucleus,
authorization/WildcardTrie): operations are exact or `*`; in a resource `*` is any characters, slashes too; `#` and `+`
are wildcards only for the MQTT proxy and only where MQTT allows them, literal elsewhere; `${*}`, `${?}` and `${$}`
escape; a bare `?` or any other `${…}` makes that resource void.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

PUBSUB = "aws.greengrass.ipc.pubsub"
MQTT_PROXY = "aws.greengrass.ipc.mqttproxy"
LIFECYCLE = "aws.greengrass.ipc.lifecycle"
METRICS = "aws.greengrass.ipc.componentmetric"
SHADOWS = "aws.greengrass.ShadowManager"
SECRETS = "aws.greengrass.SecretManager"
CLIENT_DEVICES = "aws.greengrass.clientdevices.Auth"
CLI = "aws.greengrass.Cli"

_PREFIX = "aws.greengrass#"
SERVICES: dict[str, frozenset[str]] = {
    PUBSUB: frozenset({"PublishToTopic", "SubscribeToTopic"}),
    MQTT_PROXY: frozenset({"PublishToIoTCore", "SubscribeToIoTCore"}),
    LIFECYCLE: frozenset({"PauseComponent", "ResumeComponent"}),
    METRICS: frozenset({"PutComponentMetric"}),
    SHADOWS: frozenset({"GetThingShadow", "UpdateThingShadow", "DeleteThingShadow", "ListNamedShadowsForThing"}),
    SECRETS: frozenset({"GetSecretValue"}),
    CLIENT_DEVICES: frozenset(
        {
            "SubscribeToCertificateUpdates",
            "VerifyClientDeviceIdentity",
            "GetClientDeviceAuthToken",
            "AuthorizeClientDeviceAction",
        }
    ),
    CLI: frozenset(
        {
            "GetComponentDetails",
            "ListComponents",
            "RestartComponent",
            "StopComponent",
            "CreateLocalDeployment",
            "CancelLocalDeployment",
            "GetLocalDeploymentStatus",
            "ListLocalDeployments",
            "CreateDebugPassword",
        }
    ),
}
MAX_CACHED = 20_000


class Permission(NamedTuple):
    """One resource of one policy. `matches` is None for a policy without resources: it fits only a null request."""

    operation: str
    resource: str | None
    matches: Callable[[str], bool] | None


class Finding(NamedTuple):
    """A policy, or a part of one, that was skipped."""

    component: str
    service: str
    policy: str
    reason: str


def compile_resource(resource: str, *, mqtt: bool) -> Callable[[str], bool]:
    """A predicate for one resource pattern. Raises ValueError with AWS's words for what makes it void."""
    if not resource:
        raise ValueError("Resource cannot be empty")
    pattern: list[str] = []
    at, length = 0, len(resource)
    while at < length:
        char = resource[at]
        if char == "?":
            raise ValueError(
                "Resource contains invalid character: '?'. Use an escape sequence: ${?}. "
                "The '?' character isn't supported as a wildcard"
            )
        if resource.startswith("${", at):
            escaped = resource[at + 2 : at + 3]
            if resource[at + 3 : at + 4] != "}" or escaped not in ("*", "$", "?"):
                raise ValueError(
                    "Resource contains an invalid escape sequence. You can use ${*}, ${$}, or ${?}: " + resource[at:]
                )
            pattern.append(re.escape(escaped))
            at += 4
            continue
        pattern.append(_wildcard(resource, at, char) if mqtt and char in "#+" else ".*" if char == "*" else _one(char))
        at += 1
    text = "".join(pattern)
    if text.endswith("/" + _ALL):
        text = text[: -len("/" + _ALL)] + "(?:/.*)?"
    compiled = re.compile(text, re.DOTALL)
    return lambda subject: compiled.fullmatch(subject) is not None


_ALL = "(?:.*)"
_one = re.escape


def _wildcard(resource: str, at: int, char: str) -> str:
    """`#` only as the last level, `+` only as a whole level; elsewhere the character itself (MQTT 5, section 4.7.1)."""
    starts = at == 0 or resource[at - 1] == "/"
    ends = at == len(resource) - 1
    if char == "#":
        return _ALL if starts and ends else re.escape(char)
    return "[^/]*" if starts and (ends or resource[at + 1] == "/") else re.escape(char)


def interpolate(value: object, variables: Mapping[str, str]) -> object:
    """A policy document with recipe variables such as `{iot:thingName}` replaced in every text."""
    if isinstance(value, Mapping):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if isinstance(value, str):
        for name, text in variables.items():
            value = value.replace(name, text)
    return value


def denial(component: str, service: str, operation: str, resource: str | None) -> str:
    """AWS's words for a refusal; `operation` without its prefix."""
    shown = "null" if resource is None else resource
    return f"Principal {component} is not authorized to perform {service}:{_PREFIX}{operation} on resource {shown}"


class Authorization:
    """All components' policies. `load` replaces one component's; `is_allowed` answers from a cache."""

    def __init__(self) -> None:
        self._permissions: dict[tuple[str, str], list[Permission]] = {}
        self._cache: dict[tuple[str, str, str, str | None], bool] = {}

    def load(self, component: str, access_control: object) -> list[Finding]:
        """Take a component's `accessControl` value; give what was skipped and why."""
        self.forget(component)
        findings: list[Finding] = []
        if access_control is None:
            return findings
        if not isinstance(access_control, Mapping):
            return [Finding(component, "", "", "accessControl is not a map")]
        for service, policies in access_control.items():
            if not isinstance(policies, Mapping):
                findings.append(Finding(component, str(service), "", "not a map of policies"))
                continue
            if service not in SERVICES:
                findings.append(Finding(component, str(service), "", f"Component not registered: {service}"))
                continue
            found = self._permissions.setdefault((component, service), [])
            for policy_id, policy in policies.items():
                found += _read_policy(component, service, str(policy_id), policy, findings)
        return findings

    def forget(self, component: str) -> None:
        """Drop a component's policies."""
        for key in [key for key in self._permissions if key[0] == component]:
            del self._permissions[key]
        self._cache.clear()

    def is_allowed(self, component: str, service: str, operation: str, resource: str | None) -> bool:
        """Decide. `operation` without its `aws.greengrass#` prefix."""
        key = (component, service, operation, resource)
        allowed = self._cache.get(key)
        if allowed is None:
            allowed = self._decide(component, service, operation, resource)
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[key] = allowed
        return allowed

    def _decide(self, component: str, service: str, operation: str, resource: str | None) -> bool:
        for permission in self._permissions.get((component, service), ()):
            if permission.operation not in (operation, "*"):
                continue
            # A null request fits any resource (WildcardTrie.matchesStandard).
            if resource is None or (permission.matches is not None and permission.matches(resource)):
                return True
        return False

    def resources(self, component: str, service: str, operation: str) -> list[str]:
        """The resource texts that a component's policies name for an operation, sorted."""
        found = self._permissions.get((component, service), ())
        return sorted({p.resource for p in found if p.resource is not None and p.operation in (operation, "*")})


def _read_policy(
    component: str, service: str, policy_id: str, policy: object, findings: list[Finding]
) -> list[Permission]:
    def skipped(reason: str) -> None:
        findings.append(Finding(component, service, policy_id, reason))

    # Property names compare without case (AuthorizationPolicyParser's mapper).
    members = {str(key).lower(): value for key, value in policy.items()} if isinstance(policy, Mapping) else {}
    operations = _texts(members.get("operations"))
    if not operations:
        skipped("Policy operations are missing or invalid")
        return []
    resources = _texts(members.get("resources"))
    permissions: list[Permission] = []
    for operation in operations:
        name = operation.removeprefix(_PREFIX)
        if operation != "*" and (name == operation or name not in SERVICES[service]):
            skipped(f"Operation not registered with component {service}: {operation}")
            continue
        if not resources:
            permissions.append(Permission(name, None, None))
        for resource in resources:
            try:
                matches = compile_resource(resource, mqtt=service == MQTT_PROXY)
            except ValueError as error:
                skipped(str(error))
                continue
            permissions.append(Permission(name, resource, matches))
    return permissions


def _texts(value: object) -> list[str]:
    """A list of texts; one text alone stands for a list of it."""
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
