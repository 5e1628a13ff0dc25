"""YAML and JSON documents that remember the line of every key: recipes and deployment documents.

Reads what the core device's own parser (Jackson) reads: plain `true`/`false` are the only booleans, so `on` and `yes`
stay text; anchors and aliases are refused, because the device does not expand them. Knows nothing of recipes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import yaml

from foreshore.errors import UserError

Path = tuple[str | int, ...]

MAX_CHARACTERS = 1_000_000
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.CSafeLoader):
    """The C parser, with the scalars of YAML 1.2's core schema and nothing more."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own shape


_Loader.add_implicit_resolver(_TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    _TAG + "int", re.compile(r"^(?:[-+]?[0-9]{1,300}|0x[0-9a-fA-F]{1,64})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _TAG + "float", re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$"), list("-+.0123456789")
)


@dataclass(slots=True)
class Document:
    """A parsed document: `value`, the 1-based line of every key and item by its path, and keys that came twice."""

    value: object
    where: str
    lines: dict[Path, int] = field(default_factory=dict)
    duplicates: list[tuple[Path, int]] = field(default_factory=list)

    def line(self, path: Path = ()) -> int:
        """The line of the path, or of the nearest place above it that has one."""
        for end in range(len(path), -1, -1):
            found = self.lines.get(path[:end])
            if found is not None:
                return found
        return 1

    def at(self, path: Path = ()) -> str:
        """`file:line` of the path."""
        return f"{self.where}:{self.line(path)}"


def read(text: str, where: str) -> Document:
    """Read JSON when the first character says so, else YAML. Raises UserError(`bad-document`) with file and line."""
    if len(text) > MAX_CHARACTERS:
        raise _bad(where, f"it is {len(text)} characters long; no recipe or deployment is", "split it")
    is_json = text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[")
    if is_json and where.endswith(".json"):
        return _read_json(text, where)
    try:
        return _read_yaml(text, where)
    except UserError:
        if is_json:
            return _read_json(text, where)
        raise


def _read_json(text: str, where: str) -> Document:
    try:
        value = json.loads(text.lstrip("\ufeff"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise _bad(f"{where}:{line}", f"this is not JSON: {error}", "mend the JSON at that line") from None
    try:
        lines = _read_yaml(text.replace("\t", " "), where)
    except UserError:
        return Document(value, where)
    return Document(value, where, lines.lines, lines.duplicates)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _read_yaml(text: str, where: str) -> Document:
    document = Document(None, where)
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            document.value = _walk(node, (), document, set())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise _bad(f"{where}:{line}", f"this is not YAML: {error.problem or error.context}", _YAML_MEND) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _bad(where, f"this is not YAML: {error}", _YAML_MEND) from None
    except RecursionError:
        raise _bad(where, "it is nested too deeply", "flatten it") from None
    return document


_YAML_MEND = "mend the YAML at that line (indentation, a missing colon or quote)"


def _bad(where: str, what: str, mend: str) -> UserError:
    return UserError(what, code="bad-document", where=where, mend=mend)


def _walk(node: yaml.Node, path: Path, document: Document, seen: set[int]) -> object:
    if id(node) in seen:
        where = f"{document.where}:{node.start_mark.line + 1}"
        raise _bad(where, "a YAML alias points here; the core device does not expand aliases", "write the value out")
    seen.add(id(node))
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document, seen)
    if isinstance(node, yaml.SequenceNode):
        return [_walk(child, (*path, index), document, seen) for index, child in enumerate(node.value)]
    return _scalar(node.tag.removeprefix(_TAG), node.value)


def _mapping(node: yaml.MappingNode, path: Path, document: Document, seen: set[int]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise _bad(f"{document.where}:{line}", "a key must be text", "quote the key")
        key = key_node.value
        child = (*path, key)
        if key in values:
            document.duplicates.append((child, line))
        document.lines[child] = line
        values[key] = _walk(value_node, child, document, seen)
    return values


def _scalar(kind: str, text: str) -> object:
    if kind == "bool":
        return text.lower() == "true"
    if kind == "null":
        return None
    if kind == "int":
        return int(text, 16) if text[:2] == "0x" else int(text)
    if kind == "float":
        return float(text)
    return text
