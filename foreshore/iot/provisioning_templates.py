"""Provisioning templates: parse a template's document and resolve it with parameters into resources. Pure.

Knows AWS::IoT::Thing, AWS::IoT::Certificate and AWS::IoT::Policy, `Ref`, the functions Join, Select, Split, Sub and
FindInMap, defaults of parameters, and DeviceConfiguration. It creates nothing. Another function or resource type
raises.

Source: AWS IoT developer guide, "Provisioning templates".
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson

from foreshore.errors import AwsError, NotEmulated

Json = Any
MAX_TEMPLATE = 10_240
"""Characters of a template's body (CreateProvisioningTemplate)."""

THING, CERTIFICATE, POLICY = "AWS::IoT::Thing", "AWS::IoT::Certificate", "AWS::IoT::Policy"
_MODES: dict[str, dict[str, tuple[str, ...]]] = {
    THING: {
        "AttributePayload": ("DO_NOTHING", "REPLACE", "FAIL", "MERGE"),
        "ThingTypeName": ("DO_NOTHING", "REPLACE", "FAIL"),
        "ThingGroups": ("DO_NOTHING", "REPLACE", "FAIL", "MERGE"),
    },
    CERTIFICATE: {"Status": ("DO_NOTHING", "REPLACE", "FAIL")},
    POLICY: {},
}
_PLACE = re.compile(r"\$\{([^}]+)\}")


class Resource(NamedTuple):
    """One resource of a resolved template: `overrides` says by property what to do when it is there already."""

    logical_id: str
    properties: dict[str, Json]
    overrides: dict[str, str]


class Resolved(NamedTuple):
    """A template with its parameters put in. Each kind of resource is there at most once."""

    thing: Resource | None
    certificate: Resource | None
    policy: Resource | None
    device_configuration: dict[str, Json]


def invalid(text: str) -> AwsError:
    """AWS's refusal of a template or of its parameters."""
    return AwsError("InvalidRequestException", text, 400)


def parse(body: str) -> dict[str, Json]:
    """Read a template. Raises AwsError InvalidRequestException, or NotEmulated for a resource type not known."""
    if len(body) > MAX_TEMPLATE:
        raise invalid(f"The template exceeds {MAX_TEMPLATE} characters.")
    try:
        template = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid("The template is not JSON.") from error
    if not isinstance(template, dict):
        raise invalid("The template is not an object.")
    for section in ("Parameters", "Resources", "Mappings", "DeviceConfiguration"):
        if not isinstance(template.get(section, {}), dict):
            raise invalid(f"{section} is not an object.")
    resources = template.get("Resources")
    if not resources:
        raise invalid("The template has no Resources.")
    seen: set[str] = set()
    for name, resource in resources.items():
        kind = _check_resource(name, resource)
        if kind in seen:
            raise invalid(f"The template has more than one {kind}.")
        seen.add(kind)
    return template


def _check_resource(name: str, resource: Json) -> str:
    if not isinstance(resource, dict) or not isinstance(resource.get("Properties", {}), dict):
        raise invalid(f"Resource {name} is malformed.")
    kind = resource.get("Type")
    if not isinstance(kind, str) or kind not in _MODES:
        raise NotEmulated(f"resource type {kind} in provisioning templates")
    overrides = resource.get("OverrideSettings") or {}
    known = _MODES[kind]
    if not isinstance(overrides, dict) or any(mode not in known.get(each, ()) for each, mode in overrides.items()):
        raise invalid(f"OverrideSettings of {name} are not valid.")
    return kind


def resolve(body: str, given: dict[str, str]) -> Resolved:
    """Put parameters into a template. Raises AwsError InvalidRequestException for what is missing or malformed.

    Parameters that the template does not declare are ignored: a device may send more than the template uses.
    """
    template = parse(body)
    values = {}
    for name, declared in (template.get("Parameters") or {}).items():
        if not isinstance(declared, dict):
            raise invalid(f"Parameter {name} is malformed.")
        value = given.get(name, declared.get("Default"))
        if value is None:
            raise invalid(f"Parameter {name} has no value.")
        if not isinstance(value, str):
            raise invalid(f"Parameter {name} is not a string.")
        values[name] = value
    scope = _Scope(values, template.get("Mappings") or {})
    found: dict[str, Resource] = {}
    for name, resource in template["Resources"].items():
        properties = scope.value(resource.get("Properties") or {})
        found[resource["Type"]] = Resource(name, properties, resource.get("OverrideSettings") or {})
    configuration = scope.value(template.get("DeviceConfiguration") or {})
    return Resolved(found.get(THING), found.get(CERTIFICATE), found.get(POLICY), configuration)


class _Scope:
    """What functions resolve against."""

    def __init__(self, values: dict[str, str], mappings: dict[str, Json]) -> None:
        self._values = values
        self._mappings = mappings

    def value(self, node: Json) -> Json:
        if isinstance(node, list):
            return [self.value(each) for each in node]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            name, argument = next(iter(node.items()))
            if name == "Ref":
                return self._ref(argument)
            if name.startswith("Fn::"):
                return self._call(name, argument)
        return {key: self.value(each) for key, each in node.items()}

    def _ref(self, name: Json) -> str:
        if not isinstance(name, str) or name not in self._values:
            raise invalid(f"Ref {name} does not name a parameter.")
        return self._values[name]

    def _call(self, name: str, argument: Json) -> Json:
        functions = {
            "Fn::Join": self._join,
            "Fn::Select": self._select,
            "Fn::Split": self._split,
            "Fn::Sub": self._sub,
            "Fn::FindInMap": self._find,
        }
        if name not in functions:
            raise NotEmulated(f"{name} in provisioning templates")
        try:
            return functions[name](argument)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise invalid(f"{name} is malformed or finds nothing.") from error

    def _join(self, argument: Json) -> str:
        separator, parts = argument
        return str(separator).join(self.value(parts))

    def _select(self, argument: Json) -> Json:
        index, parts = argument
        position = int(self.value(index))
        if position < 0:
            raise IndexError(position)
        return self.value(parts)[position]

    def _split(self, argument: Json) -> list[str]:
        separator, text = argument
        return list(self.value(text).split(separator))

    def _sub(self, argument: Json) -> str:
        text, more = (argument, {}) if isinstance(argument, str) else argument
        extra = {key: self.value(each) for key, each in more.items()}

        def put(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            return str(extra[name]) if name in extra else self._ref(name)

        return _PLACE.sub(put, text)

    def _find(self, argument: Json) -> Json:
        table, first, second = self.value(argument)
        return self._mappings[table][first][second]
