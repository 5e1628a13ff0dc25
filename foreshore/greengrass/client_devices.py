"""aws.greengrass.clientdevices.Auth: which client devices a core knows, and what they may do. Pure.

    deviceGroups: {formatVersion, definitions: {<group>: {selectionRule, policyName}},
                   policies: {<policyName>: {<id>: {operations, resources, effect}}}}

A selection rule is `thingName: <pattern>` joined by OR and AND (AND binds closer), with `*` in the pattern. Resources
are `mqtt:clientId:…`, `mqtt:topic:…` and `mqtt:topicfilter:…` with `*` and `${iot:Connection.Thing.ThingName}`; a DENY
wins. Source: Greengrass developer guide, "Client device auth".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from foreshore.errors import UserError

NAME = "aws.greengrass.clientdevices.Auth"
MAX_SESSIONS = 2500
THING_VARIABLE = "${iot:Connection.Thing.ThingName}"
_TERM = re.compile(r'\s*thingName\s*:\s*(?:"([^"]+)"|(\S+))\s*')


class Statement(NamedTuple):
    """One statement of a policy, its resources as predicates over (thing name, resource)."""

    allows: bool
    operations: frozenset[str]
    resources: tuple[str, ...]


class Group(NamedTuple):
    """A device group: a rule (an OR of ANDs of name patterns) and its statements."""

    rule: tuple[tuple[str, ...], ...]
    statements: tuple[Statement, ...]


class Certificate(NamedTuple):
    """A broker's server certificate, PEM. `ca_certificates` are what it chains to."""

    private_key: str
    public_key: str
    certificate: str
    ca_certificates: list[str]


def read_rule(text: str, where: str = "") -> tuple[tuple[str, ...], ...]:
    """Parse a selection rule. Raises UserError with the place."""
    alternatives = []
    for part in re.split(r"\s+OR\s+", text.strip()):
        names = []
        for term in re.split(r"\s+AND\s+", part):
            match = _TERM.fullmatch(term)
            if match is None:
                raise UserError(
                    f"selection rule {text!r}: {term.strip()!r} is not `thingName: <pattern>`",
                    code="selection-rule",
                    where=where,
                    mend="write thingName: NAME, with * for any characters, joined by OR and AND",
                )
            names.append(match[1] or match[2])
        alternatives.append(tuple(names))
    return tuple(alternatives)


def read_groups(configuration: Mapping[str, Any]) -> list[Group]:
    """Read `deviceGroups`. Raises UserError on a rule, operation or policy name that can't be."""
    groups = _map(configuration.get("deviceGroups"), "deviceGroups")
    policies = _map(groups.get("policies"), "deviceGroups.policies")
    found = []
    for name, definition in _map(groups.get("definitions"), "deviceGroups.definitions").items():
        where = f"deviceGroups.definitions.{name}"
        policy = str(_map(definition, where).get("policyName"))
        if policy not in policies:
            raise UserError(f"no policy {policy!r}", code="device-group", where=where, mend="add it under policies")
        rule = read_rule(str(definition.get("selectionRule") or ""), where)
        at = f"deviceGroups.policies.{policy}"
        found.append(Group(rule, tuple(_statement(item, at) for item in _map(policies[policy], at).values())))
    return found


def _map(value: object, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UserError("must be a map", code="device-group", where=where)
    return value or {}


def _texts(value: object, where: str) -> tuple[str, ...]:
    items = value or []
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UserError("must list strings", code="device-policy", where=where)
    return tuple(items)


def _statement(item: object, where: str) -> Statement:
    members = _map(item, where)
    operations = frozenset(_texts(members.get("operations"), where))
    if not operations:
        raise UserError("a statement needs operations", code="device-policy", where=where)
    allows = str(members.get("effect", "ALLOW")).upper() == "ALLOW"
    return Statement(allows, operations, _texts(members.get("resources"), where))


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern with `*` fits the whole text; linear in their lengths."""
    parts = pattern.split("*")
    if len(parts) == 1:
        return pattern == text
    if not text.startswith(parts[0]) or not text.endswith(parts[-1]):
        return False
    at, end = len(parts[0]), len(text) - len(parts[-1])
    for part in parts[1:-1]:
        found = text.find(part, at, end) if at <= end else -1
        if found < 0:
            return False
        at = found + len(part)
    return at <= end


def is_allowed(groups: list[Group], thing: str, operation: str, resource: str) -> bool:
    """Whether a thing's groups allow an operation (`mqtt:connect|publish|subscribe` or `mqtt:*`) on a resource."""
    allowed = False
    for group in groups:
        if not any(all(matches(name, thing) for name in names) for names in group.rule):
            continue
        for statement in group.statements:
            if _covers(statement, thing, operation, resource):
                if not statement.allows:
                    return False
                allowed = True
    return allowed


def _covers(statement: Statement, thing: str, operation: str, resource: str) -> bool:
    if not any(wanted in ("*", operation) or matches(wanted, operation) for wanted in statement.operations):
        return False
    return any(matches(pattern.replace(THING_VARIABLE, thing), resource) for pattern in statement.resources)


class ClientDeviceAuth:
    """The `ClientDevices` of one core.

    `identify(pem)` gives the thing of an active certificate, or None; `certificate()` the local broker's; `new_token()`
    a random session token. `configure` takes the component's configuration.
    """

    def __init__(
        self,
        identify: Callable[[str], Awaitable[str | None]],
        certificate: Callable[[], Certificate],
        new_token: Callable[[], str],
    ) -> None:
        self._identify = identify
        self._certificate = certificate
        self._new_token = new_token
        self._groups: list[Group] = []
        self._sessions: dict[str, str] = {}
        self._listeners: list[Callable[[dict[str, object]], None]] = []

    def configure(self, configuration: Mapping[str, Any]) -> None:
        """Take the groups. Raises UserError, and then nothing is allowed."""
        self._groups = []
        self._groups = read_groups(configuration)

    def certificate_updates(self, send: Callable[[dict[str, object]], None]) -> Callable[[], None]:
        """Send CertificateUpdateEvent now and on every rotation."""
        self._listeners.append(send)
        send(self._event())

        def stop() -> None:
            if send in self._listeners:
                self._listeners.remove(send)

        return stop

    def rotated(self) -> None:
        """The broker has another certificate: tell everybody."""
        for send in list(self._listeners):
            send(self._event())

    def _event(self) -> dict[str, object]:
        found = self._certificate()
        return {
            "certificateUpdate": {
                "privateKey": found.private_key,
                "publicKey": found.public_key,
                "certificate": found.certificate,
                "caCertificates": found.ca_certificates,
            }
        }

    async def verify(self, certificate_pem: str) -> bool:
        """Whether the certificate is active and some thing's."""
        return await self._identify(certificate_pem) is not None

    async def token(self, credential: Mapping[str, str]) -> str:
        """A session for an MQTT credential. Raises PermissionError unless its certificate is a client device's that may
        connect with its client id."""
        pem, client_id = credential.get("certificatePem"), credential.get("clientId")
        if not pem or not client_id:
            raise PermissionError("clientId and certificatePem are required")
        thing = await self._identify(pem)
        if thing is None:
            raise PermissionError("Verify client device identity failed")
        if not is_allowed(self._groups, thing, "mqtt:connect", f"mqtt:clientId:{client_id}"):
            raise PermissionError(f"{thing} may not connect as {client_id}")
        token = self._new_token()
        if len(self._sessions) >= MAX_SESSIONS:
            # The oldest session goes, as in the session manager's LRU cache.
            del self._sessions[next(iter(self._sessions))]
        self._sessions[token] = thing
        return token

    def authorize(self, token: str, operation: str, resource: str) -> bool:
        """Whether the session's device may. Raises KeyError on a token that is not known."""
        return is_allowed(self._groups, self._sessions[token], operation, resource)

    def may(self, thing: str, operation: str, resource: str) -> bool:
        """The same for a device known by its thing name (the core's own broker asks this)."""
        return is_allowed(self._groups, thing, operation, resource)
