"""Device groups of aws.greengrass.clientdevices.Auth: who is in which, and what its policy allows. Pure.

    deviceGroups: {formatVersion: 2021-03-05, definitions: {<group>: {selectionRule, policyName}},
                   policies: {<policyName>: {<statement>: {statementDescription, operations, resources}}}}

A selection rule is `thingName: <name>` joined by OR and AND (AND binds closer); a name may begin and end with `*`, and
`\\:` is a colon in it. Operations are `mqtt:connect`, `mqtt:publish`, `mqtt:subscribe`, `mqtt:*` or `*`; resources
`mqtt:clientId:…`, `mqtt:topic:…` and `mqtt:topicfilter:…` with `*` for any characters and
`${iot:Connection.Thing.ThingName}`. There is nothing but ALLOW: a device's rights are the union of its groups'.

Sources: Greengrass developer guide, "Client device auth"; aws-greengrass-client-device-auth 2.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from foreshore.errors import UserError

FORMAT_VERSION = "2021-03-05"
THING_VARIABLE = "${iot:Connection.Thing.ThingName}"
_TERM = re.compile(r"thingName:[ \t\r]*(\*?(?:[A-Za-z0-9_-]|\\:)+\*?|\*)")
_VARIABLE = re.compile(r"\$\{.*?\}")
_OPERATION = re.compile(r"([A-Za-z]+):[\w-]+")
_RESOURCE = re.compile(r"([A-Za-z]+):[A-Za-z]+:[\w -/:-@\[-`{-~]+")

Rule = tuple[tuple[str, ...], ...]


class Statement(NamedTuple):
    """One statement of a policy: what it allows, on what."""

    operations: frozenset[str]
    resources: tuple[str, ...]


class Group(NamedTuple):
    """A device group: a rule (an OR of ANDs of name patterns) and its statements."""

    rule: Rule
    statements: tuple[Statement, ...]


def read_rule(text: str, where: str = "") -> Rule:
    """Parse a selection rule. Raises UserError with the place."""
    alternatives = []
    for part in re.split(r"[ \t\r]+OR[ \t\r]+", text.strip(" \t\r")):
        terms = [_TERM.fullmatch(term.strip(" \t\r")) for term in re.split(r"[ \t\r]+AND[ \t\r]+", part)]
        names = [term[1].replace("\\:", ":") for term in terms if term is not None]
        if len(names) < len(terms):
            raise UserError(
                f"selection rule {text!r}: {part.strip()!r} is not `thingName: <name>`",
                code="selection-rule", where=where,
                mend="write thingName: NAME joined by OR and AND; letters, digits, - _ and \\: with * at either end",
            )  # fmt: skip
        alternatives.append(tuple(names))
    return tuple(alternatives)


def read_groups(configuration: Mapping[str, Any]) -> list[Group]:
    """Read `deviceGroups`. Raises UserError for what the component would refuse."""
    groups = _map(configuration.get("deviceGroups"), "deviceGroups")
    version = groups.get("formatVersion")
    if version not in (None, FORMAT_VERSION):
        raise UserError(
            f"formatVersion {version!r} is not known", code="device-group", where="deviceGroups",
            mend=f"write {FORMAT_VERSION}",
        )  # fmt: skip
    policies = {
        str(name): _policy(policy, f"deviceGroups.policies.{name}")
        for name, policy in _map(groups.get("policies"), "deviceGroups.policies").items()
    }
    found = []
    for name, definition in _map(groups.get("definitions"), "deviceGroups.definitions").items():
        where = f"deviceGroups.definitions.{name}"
        members = _map(definition, where)
        policy = str(members.get("policyName"))
        if policy not in policies:
            raise UserError(
                f"Policy definition {policy} does not have a corresponding policy", code="device-group", where=where,
                mend="add it under policies",
            )  # fmt: skip
        found.append(Group(read_rule(str(members.get("selectionRule") or ""), where), policies[policy]))
    return found


def _policy(policy: object, where: str) -> tuple[Statement, ...]:
    return tuple(_statement(item, f"{where}.{name}") for name, item in _map(policy, where).items())


def _statement(item: object, where: str) -> Statement:
    members = _map(item, where)
    effect = members.get("effect", "ALLOW")
    if effect != "ALLOW":
        raise UserError(
            f"effect {effect!r} is not supported", code="device-policy", where=where,
            mend="leave it out: a device group's policy can only allow",
        )  # fmt: skip
    resources = _texts(members.get("resources"), where)
    unknown = [name for text in resources for name in _VARIABLE.findall(text) if name != THING_VARIABLE]
    if unknown:
        raise UserError(
            f"Policy contains unknown variables: {unknown[0]}", code="device-policy", where=where,
            mend=f"{THING_VARIABLE} is the only one",
        )  # fmt: skip
    return Statement(frozenset(_texts(members.get("operations"), where)), resources)


def _map(value: object, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UserError("must be a map", code="device-group", where=where)
    return value or {}


def _texts(value: object, where: str) -> tuple[str, ...]:
    items = value or []
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UserError("must list strings", code="device-policy", where=where)
    return tuple(item for item in items if item)


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
    """Whether a thing's groups allow an operation on a resource; what is malformed is not.

    Raises ValueError when operation and resource are of two services.
    """
    asked, on = _OPERATION.fullmatch(operation), _RESOURCE.fullmatch(resource)
    if asked is None or on is None:
        return False
    if asked[1] != on[1]:
        raise ValueError(f"Operation {operation} service is not same as resource {resource} service")
    wanted = {operation, asked[1] + ":*", "*"}
    for group in groups:
        if not any(all(matches(name, thing) for name in names) for names in group.rule):
            continue
        for statement in group.statements:
            if not wanted.isdisjoint(statement.operations) and _covers(statement, thing, resource):
                return True
    return False


def _covers(statement: Statement, thing: str, resource: str) -> bool:
    return any(matches(pattern.replace(THING_VARIABLE, thing), resource) for pattern in statement.resources)
