"""Check parsed parameters against required members, lengths, ranges, patterns and enums, as AWS's services do. Pure.

AWS's service frameworks answer with one message that lists every violated constraint:

    2 validation errors detected: Value '' at 'thingName' failed to satisfy constraint: Member must have length greater
    than or equal to 1; Value null at 'principal' failed to satisfy constraint: Member must not be null

Source: the constraint traits of the service models; wording as answered by AWS (IoT, Lambda, DynamoDB alike).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from foreshore.shapes.values import Shape, Shapes

# Java's character classes that Python's `re` lacks, as they stand inside or outside a bracket class.
_CLASSES = {
    "L": "A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02c1\u0370-\u03ff\u0400-\u1fff"
    "\u2c00-\ud7ff\uf900-\uffdc",
    "N": "0-9\u00b2\u00b3\u00b9\u00bc-\u00be\u0660-\u0669",
    "Z": " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
    "S": "$+<=>^`|~\u00a2-\u00a9\u00ac\u00ae-\u00b1\u00b4\u00b8\u00d7\u00f7\u2044\u2052\u207a-\u209c\u20a0-\u23ff",
    "P": "!-#%-*,-/:;?@\\[-\\]_{}\u00a1\u00a7\u00ab\u00b6\u00b7\u00bb\u00bf\u2010-\u2027\u2030-\u205e",
    "M": "\u0300-\u036f\u0483-\u0489\u20d0-\u20f0",
    "C": "\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f",
    "Graph": "!-~", "Print": " -~", "ASCII": "\x00-\x7f", "Alnum": "A-Za-z0-9", "Alpha": "A-Za-z", "Digit": "0-9",
    "Punct": "!-/:-@\\[-`{-~", "Space": " \\t\\n\\r\\f\\v", "Upper": "A-Z", "Lower": "a-z", "Cntrl": "\x00-\x1f\x7f",
    "XDigit": "0-9A-Fa-f", "Lu": "A-Z", "Ll": "a-z", "Nd": "0-9", "Zs": " \u00a0",
}  # fmt: skip
_PROPERTY = re.compile(r"\\p\{(?:Is)?([A-Za-z]+)\}|\\p([LNZSPMC])")


@lru_cache(maxsize=2048)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a Java-flavoured pattern of a service model. Raises re.error for what Python can't express."""
    return re.compile(_to_python(pattern), re.DOTALL if ".*" not in pattern else 0)


def _to_python(pattern: str) -> str:
    """Replace `\\p{…}`, which may stand inside a bracket class or alone."""
    result: list[str] = []
    position = 0
    in_class = False
    while position < len(pattern):
        found = _PROPERTY.match(pattern, position)
        if found is not None:
            body = _CLASSES.get(found[1] or found[2])
            if body is None:
                raise re.error(f"unknown property {found[0]}", pattern, position)
            result.append(body if in_class else f"[{body}]")
            position = found.end()
            continue
        character = pattern[position]
        if character == "\\":
            result.append(pattern[position : position + 2])
            position += 2
            continue
        if character == "[" and in_class:
            result.append("\\[")
            position += 1
            continue
        if character == "[":
            in_class = True
        elif character == "]":
            in_class = False
        result.append(character)
        position += 1
    return "".join(result)


def problems(shapes: Shapes, name: str, params: Mapping[str, Any]) -> list[str]:
    """Every violated constraint of the structure `name`, in AWS's words."""
    return list(_structure(shapes, shapes[name], params, ""))


def message(found: list[str]) -> str:
    """AWS's one message for all of them."""
    plural = "s" if len(found) > 1 else ""
    return f"{len(found)} validation error{plural} detected: " + "; ".join(found)


def _fault(value: str, path: str, constraint: str) -> str:
    return f"Value {value} at '{path}' failed to satisfy constraint: Member must {constraint}"


def _structure(shapes: Shapes, shape: Shape, value: Mapping[str, Any], path: str) -> Iterator[str]:
    prefix = f"{path}." if path else ""
    for member in shape.get("required", ()):
        if value.get(member) is None and not shape["members"][member].get("idempotencyToken"):
            yield _fault("null", prefix + _lower(member), "not be null")
    members = shape["members"]
    for member, item in value.items():
        if item is not None:
            yield from _value(shapes, members[member]["shape"], item, prefix + _lower(member))


def _lower(member: str) -> str:
    return member[:1].lower() + member[1:]


def _value(shapes: Shapes, name: str, value: Any, path: str) -> Iterator[str]:
    shape = shapes[name]
    kind = shape["type"]
    if kind == "structure":
        if not shape.get("document") and isinstance(value, Mapping):
            yield from _structure(shapes, shape, value, path)
        return
    if kind == "list":
        yield from _size(shape, len(value), path, f"'{value}'")
        for index, item in enumerate(value):
            if item is not None:
                yield from _value(shapes, shape["member"]["shape"], item, f"{path}.{index + 1}.member")
        return
    if kind == "map":
        yield from _size(shape, len(value), path, f"'{value}'")
        for key, item in value.items():
            yield from _value(shapes, shape["key"]["shape"], key, path)
            if item is not None:
                yield from _value(shapes, shape["value"]["shape"], item, f"{path}.{key}.member")
        return
    yield from _scalar(shape, kind, value, path)


def _scalar(shape: Shape, kind: str, value: Any, path: str) -> Iterator[str]:
    if kind == "string":
        yield from _size(shape, len(value), path, f"'{value}'")
        if "enum" in shape and value not in shape["enum"]:
            yield _fault(f"'{value}'", path, f"satisfy enum value set: [{', '.join(shape['enum'])}]")
        elif "pattern" in shape and not _matches(shape["pattern"], value):
            yield _fault(f"'{value}'", path, f"satisfy regular expression pattern: {shape['pattern']}")
    elif kind == "blob" and isinstance(value, (bytes, bytearray)):
        yield from _size(shape, len(value), path, "of the blob")
    elif kind in ("integer", "long", "float", "double", "short", "byte"):
        if "min" in shape and value < shape["min"]:
            yield _fault(f"'{value}'", path, f"have value greater than or equal to {shape['min']}")
        if "max" in shape and value > shape["max"]:
            yield _fault(f"'{value}'", path, f"have value less than or equal to {shape['max']}")


def _matches(pattern: str, value: str) -> bool:
    try:
        return compile_pattern(pattern).fullmatch(value) is not None
    except re.error:
        return True


def _size(shape: Shape, size: int, path: str, shown: str) -> Iterator[str]:
    if "min" in shape and size < shape["min"]:
        yield _fault(shown, path, f"have length greater than or equal to {shape['min']}")
    if "max" in shape and size > shape["max"]:
        yield _fault(shown, path, f"have length less than or equal to {shape['max']}")
