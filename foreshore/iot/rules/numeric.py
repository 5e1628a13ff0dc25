"""The mathematical and bitwise functions (developer guide, "Functions", iot-sql-functions.html).

Arguments are numbers or strings that spell one; anything else, NaN and imaginary results are Undefined. The
trigonometric and logarithmic functions and `power` and `sqrt` round to a double first, as documented; the others keep
34 digits. Each function takes `old` (SQL version 2015-10-08) first, and ignores it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_DOWN, Context, Decimal

from foreshore.iot.rules import operators
from foreshore.iot.rules.values import (
    UNDEFINED,
    Value,
    floor_int,
    normal_decimal,
    normal_int,
    round_int,
    to_number,
)

_WIDE = Context(prec=2200, Emin=-9999, Emax=9999, traps=[])


def from_double(number: float) -> Value:
    """A double as the Decimal with its shortest spelling, as Java writes it; NaN and Infinity are Undefined."""
    if not math.isfinite(number):
        return UNDEFINED
    return normal_decimal(Decimal(repr(number)))


def _double(function: Callable[[float], float]) -> Callable[[bool, Value], Value]:
    def applied(old: bool, value: Value) -> Value:
        number = to_number(value)
        if number is UNDEFINED:
            return UNDEFINED
        try:
            return from_double(function(float(number)))
        except (ValueError, OverflowError):
            return UNDEFINED

    return applied


def _double_pair(function: Callable[[float, float], float]) -> Callable[[bool, Value, Value], Value]:
    def applied(old: bool, left: Value, right: Value) -> Value:
        left, right = to_number(left), to_number(right)
        if left is UNDEFINED or right is UNDEFINED:
            return UNDEFINED
        try:
            return from_double(function(float(left), float(right)))
        except (ValueError, OverflowError, ZeroDivisionError):
            return UNDEFINED

    return applied


def _number(function: Callable[[Value], Value]) -> Callable[[bool, Value], Value]:
    def applied(old: bool, value: Value) -> Value:
        number = to_number(value)
        return UNDEFINED if number is UNDEFINED else function(number)

    return applied


def _ceil(number: Value) -> Value:
    if type(number) is int:
        return number
    floor = floor_int(-number)
    return UNDEFINED if floor is UNDEFINED else _negative(floor)


def _negative(number: Value) -> Value:
    return -number if type(number) is int else normal_decimal(number.copy_negate())


def _sign(number: Value) -> int:
    return int(number > 0) - int(number < 0)


def trunc(old: bool, value: Value, places: Value) -> Value:
    """Cut to `places` decimals (0 to 34), trailing zeros stripped; an Int is returned as it is."""
    number, count = to_number(value), to_number(places)
    if number is UNDEFINED or count is UNDEFINED:
        return UNDEFINED
    if type(number) is int:
        return number
    digits = min(max(int(floor_int(count)), 0), 34)
    cut = number
    if number.as_tuple().exponent < -digits:
        cut = number.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_DOWN, context=_WIDE)
    if cut == cut.to_integral_value():
        return normal_int(int(cut))
    return normal_decimal(cut.normalize(_WIDE))


def _bits(function: Callable[[int, int], int]) -> Callable[[bool, Value, Value], Value]:
    def applied(old: bool, left: Value, right: Value) -> Value:
        left, right = to_number(left), to_number(right)
        if left is UNDEFINED or right is UNDEFINED:
            return UNDEFINED
        left, right = floor_int(left), floor_int(right)
        if type(left) is not int or type(right) is not int:
            return UNDEFINED
        return normal_int(function(left, right))

    return applied


def bitnot(old: bool, value: Value) -> Value:
    """The complement of the Int. (The page prints `bitnot(13) = 2`, a complement in four bits.)"""
    number = to_number(value)
    whole = UNDEFINED if number is UNDEFINED else floor_int(number)
    return ~whole if type(whole) is int else UNDEFINED


def mod(old: bool, left: Value, right: Value) -> Value:
    """The remainder, with the sign of the first argument; `remainder` and `%` are the same."""
    return operators.remainder(left, right)


def nanvl(old: bool, value: Value, default: Value) -> Value:
    """The first argument unless it is Undefined, Null or no number; then the second."""
    return default if value is UNDEFINED or value is None else value


FUNCTIONS: dict[str, tuple[Callable[..., Value], int, int]] = {
    "abs": (_number(abs), 1, 1),
    "acos": (_double(math.acos), 1, 1),
    "asin": (_double(math.asin), 1, 1),
    "atan": (_double(math.atan), 1, 1),
    "atan2": (_double_pair(math.atan2), 2, 2),
    "bitand": (_bits(int.__and__), 2, 2),
    "bitnot": (bitnot, 1, 1),
    "bitor": (_bits(int.__or__), 2, 2),
    "bitxor": (_bits(int.__xor__), 2, 2),
    "ceil": (_number(_ceil), 1, 1),
    "cos": (_double(math.cos), 1, 1),
    "cosh": (_double(math.cosh), 1, 1),
    "exp": (_double(math.exp), 1, 1),
    "floor": (_number(floor_int), 1, 1),
    "ln": (_double(math.log), 1, 1),
    "log": (_double(math.log10), 1, 1),
    "mod": (mod, 2, 2),
    "nanvl": (nanvl, 2, 2),
    "power": (_double_pair(math.pow), 2, 2),
    "remainder": (mod, 2, 2),
    "round": (_number(round_int), 1, 1),
    "sign": (_number(_sign), 1, 1),
    "sin": (_double(math.sin), 1, 1),
    "sinh": (_double(math.sinh), 1, 1),
    "sqrt": (_double(math.sqrt), 1, 1),
    "tan": (_double(math.tan), 1, 1),
    "tanh": (_double(math.tanh), 1, 1),
    "trunc": (trunc, 2, 2),
}
"""Name to (function, fewest arguments, most arguments)."""
