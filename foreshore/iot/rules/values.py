"""The values of AWS IoT SQL, and how they turn into one another and into JSON.

Int is `int`, Decimal is `decimal.Decimal`, Boolean `bool`, String `str`, Array `list`, Object `dict`, Null `None`;
Undefined is `UNDEFINED`, which is none of them. A payload that is no JSON is `bytes`. No number of a payload ever
passes through a float.

Source: AWS IoT Core developer guide, "Data types" (iot-sql-data-types.html) and "SQL versions"
(iot-rule-sql-version.html). Knows nothing of topics, functions or statements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import (
    ROUND_DOWN,
    ROUND_FLOOR,
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
)
from typing import Any, Final

import orjson

Value = Any
"""One of the types above. `Any`, because a recursive JSON type costs more casts than it finds mistakes."""


class Undefined:
    """The type of `UNDEFINED`. It is falsy and equal to itself alone."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Undefined"

    def __bool__(self) -> bool:
        return False


UNDEFINED: Final = Undefined()

DIGITS = 34
INT_LIMIT = 10**DIGITS
EXPONENT_LIMIT = 999

# 34 digits, 1E-999 to 9.99…E999; what leaves the range becomes Infinity or NaN, and then Undefined.
ARITHMETIC = Context(
    prec=DIGITS, rounding=ROUND_HALF_EVEN, Emin=-EXPONENT_LIMIT, Emax=EXPONENT_LIMIT, capitals=1, clamp=0, traps=[]
)
_READING = Context(
    prec=DIGITS,
    rounding=ROUND_HALF_EVEN,
    Emin=-EXPONENT_LIMIT,
    Emax=EXPONENT_LIMIT,
    traps=[Overflow, InvalidOperation, DivisionByZero],
)
# Rounding to a whole number must not round to 34 digits first.
_WHOLE = Context(prec=EXPONENT_LIMIT + DIGITS + 2, rounding=ROUND_HALF_UP, Emin=-99999, Emax=99999, traps=[])

_NUMBER_TEXT = re.compile(r"-?\d+(\.\d+)?([eE]-?\d+)?", re.ASCII)
_ONE = Decimal(1)


class NotJson(ValueError):
    """The bytes are no JSON text, or hold a number outside the range of a Decimal."""


# numbers


def normal_decimal(value: Decimal) -> Value:
    """Give the result of an operation its type: Undefined when it is NaN or out of range, and no negative zero."""
    if not value.is_finite():
        return UNDEFINED
    return value if value else abs(value)


def normal_int(value: int) -> Value:
    """An Int of at most 34 digits, else the Decimal that is nearest."""
    if -INT_LIMIT < value < INT_LIMIT:
        return value
    if value.bit_length() > 4000:
        return UNDEFINED
    return normal_decimal(ARITHMETIC.create_decimal(value))


def read_number(text: str) -> Value:
    """The Decimal that a String spells, or Undefined. `^-?\\d+(\\.\\d+)?((?i)E-?\\d+)?$` is the documented form."""
    if _NUMBER_TEXT.fullmatch(text) is None or len(text) > 2048:
        return UNDEFINED
    return normal_decimal(ARITHMETIC.create_decimal(text))


def to_number(value: Value) -> Value:
    """The standard conversion to Decimal, where Null is as useless as Undefined. Give int or Decimal, or UNDEFINED."""
    kind = type(value)
    if kind is Decimal or kind is int:
        return value
    if kind is str:
        return read_number(value)
    return UNDEFINED


def floor_int(value: Value) -> Value:
    """An int or Decimal rounded down (towards minus infinity) to an Int."""
    return value if type(value) is int else _whole(value, ROUND_FLOOR)


def truncate_int(value: Value) -> Value:
    """An int or Decimal without its fraction."""
    return value if type(value) is int else _whole(value, ROUND_DOWN)


def round_int(value: Value) -> Value:
    """The nearest Int; halves go away from zero (`round(-1.5)` is -2)."""
    return value if type(value) is int else _whole(value, ROUND_HALF_UP)


def _whole(value: Decimal, rounding: str) -> Value:
    return normal_int(int(value.quantize(_ONE, rounding=rounding, context=_WHOLE)))


def to_int(value: Value) -> Value:
    """The standard conversion to Int: a Decimal to the nearest, a String parsed and then truncated; Null stays Null."""
    kind = type(value)
    if kind is int or value is None:
        return value
    if kind is Decimal:
        return round_int(value)
    if kind is str:
        number = read_number(value)
        return number if number is UNDEFINED else truncate_int(number)
    return UNDEFINED


def floor_argument(value: Value) -> Value:
    """An Int argument of a function: numbers and numeric strings rounded down, anything else Undefined."""
    kind = type(value)
    if kind is int:
        return value
    number = to_number(value)
    return number if number is UNDEFINED else floor_int(number)


def to_boolean(value: Value) -> Value:
    """The standard conversion to Boolean: only Booleans and the words true and false, in any case."""
    if value is True or value is False:
        return value
    if type(value) is str:
        word = value.lower()
        if word == "true":
            return True
        if word == "false":
            return False
    return UNDEFINED


# text


def number_text(value: Decimal, old: bool) -> str:
    """A Decimal as text. `old` (2015-10-08) keeps `10.0`; later versions write whole numbers as Ints do."""
    if not old and value.adjusted() < DIGITS and value == value.to_integral_value():
        return str(int(value))
    return str(value)


def to_string(value: Value, old: bool = False) -> Value:
    """The standard conversion to String; Null and Undefined give Undefined."""
    kind = type(value)
    if kind is str:
        return value
    if kind is int:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is Decimal:
        return number_text(value, old)
    if kind is list or kind is dict:
        return write_json(value, old).decode()
    if kind is bytes:
        return value.decode("utf-8", "replace")
    return UNDEFINED


# comparison


def is_equal(left: Value, right: Value) -> bool:
    """Equality without conversion. Int and Decimal compare as numbers; arrays in order, objects without order."""
    kind, other = type(left), type(right)
    if kind is not other:
        return ((kind is int and other is Decimal) or (kind is Decimal and other is int)) and left == right
    if kind is list:
        return len(left) == len(right) and all(map(is_equal, left, right))
    if kind is dict:
        if left.keys() != right.keys():
            return False
        return all(is_equal(value, right[key]) for key, value in left.items())
    return bool(left == right)


# JSON


def _read_decimal(text: str) -> Decimal:
    if len(text) > 4096:
        raise NotJson("a number of more than 4096 characters")
    value = _READING.create_decimal(text)
    return value if value else abs(value)


def _read_decimal_or_int(text: str) -> Value:
    value = _read_decimal(text)
    if value.adjusted() < DIGITS and value == value.to_integral_value():
        return int(value)
    return value


def _read_int(text: str) -> Value:
    return int(text) if len(text) <= DIGITS else normal_int_text(text)


def normal_int_text(text: str) -> Value:
    """Digits of any length: an Int when they are at most 34, else the nearest Decimal."""
    if len(text.lstrip("-")) <= DIGITS:
        return int(text)
    return _read_decimal(text)


def _no_constant(text: str) -> Value:
    raise NotJson(f"{text} is no JSON")


Decoder = Callable[[str], Value]


def _decoder(read_float: Decoder, read_int: Decoder | None = None) -> Decoder:
    """As `JSONDecoder.decode`, without its two searches for white space where there is none."""
    decoder: Any = json.JSONDecoder(parse_float=read_float, parse_int=read_int, parse_constant=_no_constant)

    def decode(text: str) -> Value:
        if text[0] not in "{[":
            return decoder.decode(text)
        value, end = decoder.scan_once(text, 0)
        if end != len(text) and text[end:].strip(" \t\r\n"):
            raise NotJson("there is more after the JSON value")
        return value

    return decode


_decode_plain = _decoder(Decimal)
_decode_new = _decoder(_read_decimal_or_int, _read_int)
_decode_old = _decoder(_read_decimal, _read_int)

# Digits and points become 0, exponent letters e, all else a space: two searches tell whether any number is unusual.
_SHAPE = bytes(0x30 if c in b"0123456789." else 0x65 if c in b"eE" else 0x20 for c in range(256))
_LONG = b"0" * DIGITS


def _is_plain(text: bytes) -> bool:
    """Whether every number is short, without exponent, and no fraction begins with 0: then no Decimal is whole, zero
    or out of range, and each can be read as it stands."""
    if b".0" in text:
        return False
    shape = text.translate(_SHAPE)
    return b"0e" not in shape and _LONG not in shape


_FLAT = frozenset({str, int, bool, type(None)})


def _has_float(value: Value) -> bool:
    kinds = set(map(type, value.values() if type(value) is dict else value))
    if kinds <= _FLAT:
        return False
    if float in kinds:
        return True
    items = value.values() if type(value) is dict else value
    return any(_has_float(item) for item in items if type(item) is dict or type(item) is list)


def read_json(text: bytes, old: bool = False) -> Value:
    """Read JSON exactly. Raises NotJson.

    orjson is fast and turns fractions, exponents and very long integers into floats; when it did, or a point says that
    it will, the text is read again by a decoder that hands over each number as text. Nothing of the first reading
    is kept then. `old` keeps whole Decimals (`10.0`) as Decimals, which later versions make Ints.
    """
    try:
        if b"." not in text:
            value = orjson.loads(text)
            kind = type(value)
            if kind is dict or kind is list:
                if not _has_float(value):
                    return value
            elif kind is not float:
                return value
        value = (_decode_plain if _is_plain(text) else _decode_old if old else _decode_new)(text.decode())
        if b"\\" in text and b"\\u" in text:
            # Lone surrogates are no text; orjson refuses them, so this reading must too.
            write_json(value, old)
        return value
    except (ValueError, RecursionError, ArithmeticError, StopIteration, IndexError) as error:
        raise NotJson(str(error)) from None


def _plain_new(value: Value) -> Value:
    if type(value) is Decimal:
        return orjson.Fragment(number_text(value, False))
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _plain_old(value: Value) -> Value:
    if type(value) is Decimal:
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _wide(value: Value) -> Value:
    """orjson writes 64-bit integers only: longer ones go the way of Decimals, which it asks us about."""
    kind = type(value)
    if kind is int:
        return Decimal(value) if not -(2**63) <= value < 2**63 else value
    if kind is list:
        return [_wide(item) for item in value]
    if kind is dict:
        return {key: _wide(item) for key, item in value.items()}
    return value


def write_json(value: Value, old: bool = False) -> bytes:
    """Write a value (not Undefined, not bytes) as compact JSON. Raises NotJson when it nests too deep."""
    default = _plain_old if old else _plain_new
    try:
        return orjson.dumps(value, default)
    except TypeError:
        try:
            return orjson.dumps(_wide(value), default)
        except (TypeError, RecursionError) as error:
            raise NotJson(f"the value can't be written as JSON: {error}") from None


def type_name(value: Value) -> str:
    """The name of a value's type as AWS spells it."""
    return {
        int: "Int", Decimal: "Decimal", bool: "Boolean", str: "String", list: "Array", dict: "Object", bytes: "Binary",
    }.get(type(value), "Null" if value is None else "Undefined")  # fmt: skip
