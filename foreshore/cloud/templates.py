"""CloudFormation documents: short-form tags, parameters, conditions, intrinsic functions. Pure.

`load` reads YAML or JSON with AWS's short tags (`!Ref`, `!Sub`, …) into their long form. A `Resolver` evaluates
intrinsics; what depends on a resource whose values are not known yet is left as it is (`Unknown`), so that one pass
gives both the part of a template that we own, fully resolved, and the part that is handed to the backend's own
CloudFormation, with only references inside it left.

Source: AWS CloudFormation User Guide, "Intrinsic function reference", "Pseudo parameters reference".
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from foreshore.errors import UserError

Json = Any

_SUB = re.compile(r"\$\{(!?)([^}]*)\}")
_SHORT = ("Base64", "Cidr", "FindInMap", "GetAtt", "GetAZs", "If", "ImportValue", "Join", "Select", "Split", "Sub",
          "Transform", "And", "Equals", "Not", "Or", "ToJsonString", "Length", "ForEach")  # fmt: skip
_FUNCTION = re.compile(r"^(Fn::\w+|Ref|Condition)$")


class _Loader(yaml.SafeLoader):
    """Safe YAML plus CloudFormation's short tags; times stay text, as CloudFormation keeps them."""


_Loader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _short_tag(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Json:
    if suffix not in (*_SHORT, "Ref", "Condition"):
        raise yaml.constructor.ConstructorError(None, None, f"unknown tag !{suffix}", node.start_mark)
    value: Json
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = list(value.partition(".")[::2])
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_tag)


def load(text: str, where: str) -> dict[str, Json]:
    """Read a template. Raises UserError with file, line and column."""
    try:
        document = yaml.load(text, _Loader)  # a SafeLoader subclass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise UserError(f"not a readable template: {error.problem}", code="template", where=place) from error
    except yaml.YAMLError as error:
        raise UserError(f"not a readable template: {error}", code="template", where=where) from error
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        raise UserError("a template needs a Resources section", code="template", where=where)
    return document


class Unknown(Exception):
    """The value depends on a resource that does not exist yet."""


Lookup = Callable[[str, str | None], Json]


class Resolver:
    """Evaluates the intrinsics of one template.

    `lookup(logical_id, attribute)` gives a resource's Ref value (attribute None) or attribute, or raises `Unknown`.
    `parameters` hold the values given; defaults come from the template. Raises UserError for what can't be right.
    """

    def __init__(
        self,
        template: Mapping[str, Json],
        *,
        where: str,
        parameters: Mapping[str, Json],
        pseudo: Mapping[str, str],
        lookup: Lookup,
        imports: Mapping[str, Json] | None = None,
    ) -> None:
        self.template = template
        self.where = where
        self.lookup = lookup
        self.pseudo = pseudo
        self.imports = imports or {}
        self.parameters = self._parameter_values(parameters)
        self._conditions: dict[str, bool] = {}

    def _parameter_values(self, given: Mapping[str, Json]) -> dict[str, Json]:
        values: dict[str, Json] = {}
        for name, declared in (self.template.get("Parameters") or {}).items():
            value = given.get(name, declared.get("Default"))
            if value is None:
                raise UserError(
                    f"parameter {name} has no value",
                    code="template-parameter",
                    where=self.where,
                    mend=f"give it a Default, or a value in foreshore.toml, or deploy a stack that outputs {name}",
                )
            allowed = declared.get("AllowedValues")
            if allowed and str(value) not in [str(item) for item in allowed]:
                raise UserError(
                    f"parameter {name} is {value!r}, not one of {allowed}", code="template-parameter", where=self.where
                )
            kind = str(declared.get("Type", "String"))
            if (kind == "CommaDelimitedList" or kind.startswith("List<")) and isinstance(value, str):
                value = [item.strip() for item in value.split(",")]
            values[name] = value
        return values

    def is_wanted(self, logical_id: str) -> bool:
        """Whether a resource's Condition holds (no Condition: yes)."""
        name = self.template["Resources"][logical_id].get("Condition")
        return name is None or self.condition(name)

    def condition(self, name: str) -> bool:
        """Evaluate a named condition once."""
        if name not in self._conditions:
            declared = (self.template.get("Conditions") or {}).get(name)
            if declared is None:
                raise self._error(f"condition {name} is not declared")
            self._conditions[name] = self._truth(declared)
        return self._conditions[name]

    def resolve(self, value: Json) -> Json:
        """Evaluate fully. Raises Unknown when something in it is not known yet."""
        return self._value(value, partial=False)

    def resolve_known(self, value: Json) -> Json:
        """Evaluate what is known and leave the rest as intrinsics (for the backend's CloudFormation)."""
        return self._value(value, partial=True)

    def references(self, value: Json) -> set[str]:
        """The logical ids of resources that a value refers to."""
        found: set[str] = set()
        self._collect(value, found)
        return found & set(self.template["Resources"])

    def _collect(self, value: Json, found: set[str]) -> None:
        if isinstance(value, list):
            for item in value:
                self._collect(item, found)
        elif isinstance(value, dict):
            for key, item in value.items():
                if key == "Ref":
                    found.add(str(item))
                elif key == "Fn::GetAtt":
                    found.add(str(item[0] if isinstance(item, list) else str(item).partition(".")[0]))
                elif key == "Fn::Sub":
                    text = item[0] if isinstance(item, list) else item
                    found.update(match[2].partition(".")[0] for match in _SUB.finditer(str(text)))
                    self._collect(item, found)
                else:
                    self._collect(item, found)

    def _error(self, what: str) -> UserError:
        return UserError(what, code="template", where=self.where)

    def _value(self, value: Json, *, partial: bool) -> Json:
        if isinstance(value, list):
            items = [self._value(item, partial=partial) for item in value]
            return [item for item in items if item is not _NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if _FUNCTION.match(str(name)) and (name != "Condition" or isinstance(argument, str)):
                try:
                    return self._call(name, argument)
                except Unknown:
                    if not partial:
                        raise
                    return {name: self._leave(name, argument)}
        pairs = {key: self._value(item, partial=partial) for key, item in value.items()}
        return {key: item for key, item in pairs.items() if item is not _NO_VALUE}

    def _leave(self, name: str, argument: Json) -> Json:
        """The argument of an intrinsic that stays: parameters and our own resources in it are still filled in."""
        if name in ("Ref", "Fn::GetAtt"):
            return argument
        if name == "Fn::Sub":
            text, names = (argument[0], dict(argument[1])) if isinstance(argument, list) else (argument, {})
            for match in _SUB.finditer(text):
                key = match[2].strip()
                if not match[1] and key not in names:
                    try:
                        names[key.replace(".", "__").replace(":", "_")] = self._reference(key)
                        text = text.replace(match[0], "${" + key.replace(".", "__").replace(":", "_") + "}")
                    except Unknown:
                        pass
            names = {key: self._value(item, partial=True) for key, item in names.items()}
            return [text, names] if names else text
        return self._value(argument, partial=True)

    def _call(self, name: str, argument: Json) -> Json:
        handler = _FUNCTIONS.get(name)
        if handler is None:
            raise self._error(f"{name} is not supported")
        return handler(self, argument)

    def _reference(self, name: str) -> Json:
        """`Name`, `Name.Attribute` or a pseudo parameter, as in Ref and ${…}."""
        if name == "AWS::NoValue":
            return _NO_VALUE
        if name in self.pseudo:
            return self.pseudo[name]
        if name in self.parameters:
            return self.parameters[name]
        logical_id, dot, attribute = name.partition(".")
        if logical_id in self.template["Resources"]:
            return self.lookup(logical_id, attribute if dot else None)
        raise self._error(f"{name} is neither a parameter nor a resource")

    def _truth(self, value: Json) -> bool:
        result = self.resolve(value)
        if isinstance(result, str) and result in ("true", "false"):
            return result == "true"
        if not isinstance(result, bool):
            raise self._error(f"a condition gave {result!r}, not true or false")
        return result

    # The intrinsic functions, one method each.

    def fn_ref(self, argument: Json) -> Json:
        return self._reference(str(argument))

    def fn_get_att(self, argument: Json) -> Json:
        parts = argument if isinstance(argument, list) else str(argument).split(".", 1)
        attribute = self.resolve(parts[1])
        if parts[0] not in self.template["Resources"]:
            raise self._error(f"Fn::GetAtt names {parts[0]}, which is not a resource")
        return self.lookup(str(parts[0]), str(attribute))

    def fn_sub(self, argument: Json) -> str:
        text, names = (argument[0], self.resolve(argument[1])) if isinstance(argument, list) else (argument, {})

        def replace(match: re.Match[str]) -> str:
            if match[1]:
                return "${" + match[2] + "}"
            key = match[2].strip()
            return _text(names[key] if key in names else self._reference(key))

        return _SUB.sub(replace, str(text))

    def fn_join(self, argument: Json) -> str:
        separator, items = argument
        return str(separator).join(_text(item) for item in self.resolve(items))

    def fn_select(self, argument: Json) -> Json:
        index, items = self.resolve(argument)
        try:
            return items[int(index)]
        except (IndexError, ValueError) as error:
            raise self._error(f"Fn::Select has no item {index}") from error

    def fn_split(self, argument: Json) -> list[str]:
        separator, text = self.resolve(argument)
        return str(text).split(str(separator))

    def fn_if(self, argument: Json) -> Json:
        name, yes, no = argument
        return self._value(yes if self.condition(str(name)) else no, partial=False)

    def fn_find_in_map(self, argument: Json) -> Json:
        keys = [self.resolve(item) for item in argument[:3]]
        found = self.template.get("Mappings") or {}
        for key in keys:
            if not isinstance(found, dict) or str(key) not in {str(name) for name in found}:
                if len(argument) > 3 and "DefaultValue" in argument[3]:
                    return self.resolve(argument[3]["DefaultValue"])
                raise self._error(f"Fn::FindInMap finds no {'.'.join(map(str, keys))}")
            found = next(item for name, item in found.items() if str(name) == str(key))
        return found

    def fn_import_value(self, argument: Json) -> Json:
        name = str(self.resolve(argument))
        if name not in self.imports:
            raise self._error(f"no stack deployed before exports {name}")
        return self.imports[name]

    def fn_base64(self, argument: Json) -> str:
        return base64.b64encode(str(self.resolve(argument)).encode()).decode()

    def fn_get_azs(self, argument: Json) -> list[str]:
        region = self.resolve(argument) or self.pseudo["AWS::Region"]
        return [f"{region}{letter}" for letter in "abc"]

    def fn_cidr(self, argument: Json) -> list[str]:
        block, count, bits = [*self.resolve(argument), 8][:3]
        network = ipaddress.ip_network(str(block))
        subnets = network.subnets(new_prefix=network.max_prefixlen - int(bits))
        return [str(next(subnets)) for _ in range(int(count))]

    def fn_to_json_string(self, argument: Json) -> str:
        return json.dumps(self.resolve(argument), separators=(",", ":"))

    def fn_length(self, argument: Json) -> int:
        return len(self.resolve(argument))

    def fn_equals(self, argument: Json) -> bool:
        left, right = self.resolve(argument)
        return _text(left) == _text(right)

    def fn_and(self, argument: Json) -> bool:
        return all(self._truth(item) for item in argument)

    def fn_or(self, argument: Json) -> bool:
        return any(self._truth(item) for item in argument)

    def fn_not(self, argument: Json) -> bool:
        return not self._truth(argument[0])


def _text(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    return str(value)


class _NoValue:
    """AWS::NoValue: the property is left out."""


_NO_VALUE = _NoValue()

_FUNCTIONS: dict[str, Callable[[Resolver, Json], Json]] = {
    "Ref": Resolver.fn_ref,
    "Condition": lambda resolver, name: resolver.condition(str(name)),
    "Fn::GetAtt": Resolver.fn_get_att,
    "Fn::Sub": Resolver.fn_sub,
    "Fn::Join": Resolver.fn_join,
    "Fn::Select": Resolver.fn_select,
    "Fn::Split": Resolver.fn_split,
    "Fn::If": Resolver.fn_if,
    "Fn::FindInMap": Resolver.fn_find_in_map,
    "Fn::ImportValue": Resolver.fn_import_value,
    "Fn::Base64": Resolver.fn_base64,
    "Fn::GetAZs": Resolver.fn_get_azs,
    "Fn::Cidr": Resolver.fn_cidr,
    "Fn::ToJsonString": Resolver.fn_to_json_string,
    "Fn::Length": Resolver.fn_length,
    "Fn::Equals": Resolver.fn_equals,
    "Fn::And": Resolver.fn_and,
    "Fn::Or": Resolver.fn_or,
    "Fn::Not": Resolver.fn_not,
}
