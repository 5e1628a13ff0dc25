"""The operators of AWS IoT SQL over values (developer guide, "Operators", iot-sql-operators.html).

Whatever an operator's table does not name is Undefined. Division by zero, which no page mentions, is Undefined too.
Int / Int is an Int, truncated, as the operators page says.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal

from foreshore.iot.rules.message import RuleFailed
from foreshore.iot.rules.values import (
    ARITHMETIC,
    INT_LIMIT,
    UNDEFINED,
    Value,
    is_equal,
    normal_decimal,
    normal_int,
    to_number,
    to_string,
)

MAX_TEXT = 1024 * 1024
"""Longest text, in characters, that an expression may build. AWS's own limit for a message is 128 KiB."""

Operator = Callable[[Value, Value], Value]


def bounded(text: str) -> str:
    """The text itself. Raises RuleFailed when it is longer than MAX_TEXT."""
    if len(text) > MAX_TEXT:
        raise RuleFailed(f"an expression made a text of more than {MAX_TEXT} characters")
    return text


def equal(left: Value, right: Value) -> Value:
    """`=`: no conversion; Undefined on either side gives Undefined."""
    if left is UNDEFINED or right is UNDEFINED:
        return UNDEFINED
    return is_equal(left, right)


def unequal(left: Value, right: Value) -> Value:
    """`<>`: the opposite of `=`; mismatched types are unequal."""
    if left is UNDEFINED or right is UNDEFINED:
        return UNDEFINED
    return not is_equal(left, right)


def _ordering(compare: Callable[[Value, Value], bool]) -> Operator:
    def ordered(left: Value, right: Value) -> Value:
        kind, other = type(left), type(right)
        if (kind is int or kind is Decimal) and (other is int or other is Decimal):
            return compare(left, right)
        left, right = to_number(left), to_number(right)
        if left is UNDEFINED or right is UNDEFINED:
            return UNDEFINED
        return compare(left, right)

    return ordered


def add(old: bool) -> Operator:
    """`+`: joins when either side is a String, else adds numbers. `old` chooses how Decimals read as text."""

    def plus(left: Value, right: Value) -> Value:
        kind, other = type(left), type(right)
        if kind is int and other is int:
            total = left + right
            return total if -INT_LIMIT < total < INT_LIMIT else normal_int(total)
        if kind is str or other is str:
            left, right = to_string(left, old), to_string(right, old)
            if left is UNDEFINED or right is UNDEFINED:
                return UNDEFINED
            return bounded(left + right)
        if (kind is int or kind is Decimal) and (other is int or other is Decimal):
            return normal_decimal(ARITHMETIC.add(left, right))
        return UNDEFINED

    return plus


def _arithmetic(whole: Callable[[int, int], Value], exact: Callable[[Value, Value], Decimal]) -> Operator:
    def calculate(left: Value, right: Value) -> Value:
        if type(left) is int and type(right) is int:
            return whole(left, right)
        left, right = to_number(left), to_number(right)
        if left is UNDEFINED or right is UNDEFINED:
            return UNDEFINED
        return normal_decimal(exact(left, right))

    return calculate


def _subtract(left: int, right: int) -> Value:
    return normal_int(left - right)


def _multiply(left: int, right: int) -> Value:
    return normal_int(left * right)


def _divide(left: int, right: int) -> Value:
    if right == 0:
        return UNDEFINED
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _remainder(left: int, right: int) -> Value:
    if right == 0:
        return UNDEFINED
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


def is_in(left: Value, right: Value) -> Value:
    """`IN`: whether an Array holds an equal value. Anything but an Array on the right is Undefined."""
    if left is UNDEFINED or type(right) is not list:
        return UNDEFINED
    return any(is_equal(left, item) for item in right)


def negate(value: Value) -> Value:
    """Unary minus, with the conversions of binary minus."""
    return subtract(0, value)


subtract = _arithmetic(_subtract, ARITHMETIC.subtract)
multiply = _arithmetic(_multiply, ARITHMETIC.multiply)
divide = _arithmetic(_divide, ARITHMETIC.divide)
remainder = _arithmetic(_remainder, ARITHMETIC.remainder)

COMPARE: dict[str, Operator] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "<>": operator.ne,
}  # fmt: skip
"""What a comparison of two numbers comes to."""

OPERATORS: dict[str, Operator] = {
    "=": equal,
    "<>": unequal,
    "<": _ordering(operator.lt),
    "<=": _ordering(operator.le),
    ">": _ordering(operator.gt),
    ">=": _ordering(operator.ge),
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": remainder,
    "IN": is_in,
}
"""All but `+`, which depends on the SQL version (`add`), and the logical ones, which the compiler writes out."""
