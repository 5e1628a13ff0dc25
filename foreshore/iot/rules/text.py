"""The string, array, hashing and encoding functions (developer guide, "Functions", iot-sql-functions.html).

Each function takes `old` (SQL version 2015-10-08, which writes Decimals as `10.0`) first. Arguments that are no
strings are converted by the standard table; what can't be converted gives Undefined.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable

from foreshore.iot.rules.operators import MAX_TEXT, bounded
from foreshore.iot.rules.values import (
    UNDEFINED,
    NotJson,
    Value,
    floor_argument,
    read_json,
    to_int,
    to_string,
    write_json,
)

MAX_PADDING = 1000
MAX_ENRICHED = 128 * 1024
_WHITESPACE = "".join(map(chr, range(33)))
"""What Java's `String.trim` removes: every character up to U+0020."""

Function = Callable[..., Value]


def _text(function: Callable[[str], Value]) -> Function:
    def applied(old: bool, value: Value) -> Value:
        text = to_string(value, old)
        return UNDEFINED if text is UNDEFINED else function(text)

    return applied


def _texts(function: Callable[[str, str], Value]) -> Function:
    def applied(old: bool, left: Value, right: Value) -> Value:
        left, right = to_string(left, old), to_string(right, old)
        return UNDEFINED if left is UNDEFINED or right is UNDEFINED else function(left, right)

    return applied


def _pad(on_left: bool) -> Function:
    def padded(old: bool, value: Value, count: Value) -> Value:
        text, number = to_string(value, old), floor_argument(count)
        if text is UNDEFINED or type(number) is not int:
            return UNDEFINED
        spaces = " " * min(max(number, 0), MAX_PADDING)
        return bounded(spaces + text if on_left else text + spaces)

    return padded


def character(old: bool, value: Value) -> Value:
    """`chr`: the character of a code point, rounded down; Undefined outside of Unicode and for lone surrogates."""
    number = floor_argument(value)
    if type(number) is not int or not 0 <= number <= 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        return UNDEFINED
    return chr(number)


def concat(old: bool, *values: Value) -> Value:
    """One array of everything when any argument is an Array, else one string. Without arguments Undefined."""
    if not values or UNDEFINED in values:
        return UNDEFINED
    if any(type(value) is list for value in values):
        joined: list[Value] = []
        for value in values:
            if type(value) is list:
                joined += value
            else:
                joined.append(value)
        return joined
    texts = [to_string(value, old) for value in values]
    if UNDEFINED in texts:
        return UNDEFINED
    if sum(map(len, texts)) > MAX_TEXT:
        bounded(" " * (MAX_TEXT + 1))
    return "".join(texts)


def indexof(old: bool, text: Value, part: Value) -> Value:
    """The first place of `part` in `text`, -1 without one; Undefined for an array."""
    if type(text) is list or type(part) is list:
        return UNDEFINED
    text, part = to_string(text, old), to_string(part, old)
    return UNDEFINED if text is UNDEFINED or part is UNDEFINED else text.find(part)


def replace(old: bool, value: Value, part: Value, replacement: Value) -> Value:
    """Every occurrence of `part` replaced."""
    text, part, replacement = to_string(value, old), to_string(part, old), to_string(replacement, old)
    if text is UNDEFINED or part is UNDEFINED or replacement is UNDEFINED:
        return UNDEFINED
    growth = (text.count(part) if part else len(text) + 1) * (len(replacement) - len(part))
    if len(text) + growth > MAX_TEXT:
        bounded(" " * (MAX_TEXT + 1))
    return text.replace(part, replacement)


def substring(old: bool, value: Value, start: Value, end: Value = None) -> Value:
    """From `start` (0-based) to before `end`; both rounded down and clamped to the text."""
    text, first = to_string(value, old), floor_argument(start)
    last = len(text) if end is None and text is not UNDEFINED else floor_argument(end)
    if text is UNDEFINED or type(first) is not int or type(last) is not int:
        return UNDEFINED
    return text[max(first, 0) : max(last, 0)]


def _substring(old: bool, *values: Value) -> Value:
    # A third argument of Null is not the same as none.
    return UNDEFINED if len(values) == 3 and values[2] is None else substring(old, *values)


def get(old: bool, collection: Value, key: Value) -> Value:
    """The item of an Array, the character of a String (0-based) or the member of an Object (key not converted)."""
    kind = type(collection)
    if kind is dict:
        return collection.get(key, UNDEFINED) if type(key) is str else UNDEFINED
    if kind is not list and kind is not str:
        return UNDEFINED
    place = to_int(key)
    if type(place) is not int or not 0 <= place < len(collection):
        return UNDEFINED
    return collection[place]


def transform(old: bool, mode: Value, attributes: Value, items: Value) -> Value:
    """`enrichArray`: every Object of the array with the attributes added, at most 128 KiB in all."""
    if mode != "enrichArray" or type(attributes) is not dict or type(items) is not list:
        return UNDEFINED
    if any(type(item) is not dict for item in items):
        return UNDEFINED
    try:
        size = len(write_json(items, old)) + len(items) * (len(write_json(attributes, old)) - 1)
    except NotJson:
        return UNDEFINED
    if size > MAX_ENRICHED:
        return UNDEFINED
    return [{**item, **attributes} for item in items]


def is_null(old: bool, value: Value) -> Value:
    """Whether it is Null; Undefined is not."""
    return value is None


def is_undefined(old: bool, value: Value) -> Value:
    """Whether it is Undefined; Null is not."""
    return value is UNDEFINED


def numbytes(old: bool, value: Value) -> Value:
    """The bytes of a string's UTF-8, or of a raw payload."""
    if type(value) is bytes:
        return len(value)
    text = to_string(value, old)
    return UNDEFINED if text is UNDEFINED else len(text.encode())


def _md2(data: bytes) -> str:
    from foreshore.iot.rules.md2 import md2

    return md2(data).hex()


def _hash(name: str) -> Function:
    return _text(lambda text: hashlib.new(name, text.encode(), usedforsecurity=False).hexdigest())


def encode(old: bool, value: Value, scheme: Value) -> Value:
    """Base64 of a string's UTF-8, of raw bytes, or of the JSON of anything else."""
    if type(scheme) is not str or scheme.lower() != "base64":
        return UNDEFINED
    if type(value) is bytes:
        data = value
    else:
        text = to_string(value, old)
        if text is UNDEFINED:
            return UNDEFINED
        data = text.encode()
    return bounded(base64.b64encode(data).decode())


def decode_base64(old: bool, value: Value) -> Value:
    """The JSON value or the string that base64 text holds; Null when it can't be decoded."""
    text = to_string(value, old)
    if text is UNDEFINED:
        return UNDEFINED
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    try:
        return read_json(data, old)
    except NotJson:
        pass
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


FUNCTIONS: dict[str, tuple[Function, int, int]] = {
    "chr": (character, 1, 1),
    "concat": (concat, 0, 100_000),
    "encode": (encode, 2, 2),
    "endswith": (_texts(str.endswith), 2, 2),
    "get": (get, 2, 2),
    "indexof": (indexof, 2, 2),
    "isnull": (is_null, 1, 1),
    "isundefined": (is_undefined, 1, 1),
    "length": (_text(len), 1, 1),
    "lower": (_text(str.lower), 1, 1),
    "lpad": (_pad(True), 2, 2),
    "ltrim": (_text(lambda text: text.lstrip(_WHITESPACE)), 1, 1),
    "md2": (_text(lambda text: _md2(text.encode())), 1, 1),
    "numbytes": (numbytes, 1, 1),
    "replace": (replace, 3, 3),
    "rpad": (_pad(False), 2, 2),
    "rtrim": (_text(lambda text: text.rstrip(_WHITESPACE)), 1, 1),
    "startswith": (_texts(str.startswith), 2, 2),
    "substring": (_substring, 2, 3),
    "transform": (transform, 3, 3),
    "trim": (_text(lambda text: text.strip(_WHITESPACE)), 1, 1),
    "upper": (_text(str.upper), 1, 1),
    **{name: (_hash(name), 1, 1) for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")},
}
"""Name to (function, fewest arguments, most arguments)."""
