"""A second reading of the SQL, written for plainness: it walks the tree for every message and shares no operator with
the compiler. It covers what the generator in test_property.py makes: paths, literals, operators, CASE, IN, nested
queries, and the functions whose meaning fits in a line.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Any

from foreshore.iot.rules import syntax

NOTHING: Any = type("Nothing", (), {"__repr__": lambda self: "Undefined"})()
CONTEXT = Context(prec=34, Emin=-999, Emax=999, traps=[])


def number(value: Any) -> Any:
    """A number or the number that a string spells; NOTHING otherwise."""
    if isinstance(value, bool) or value is NOTHING or value is None:
        return NOTHING
    if isinstance(value, int | Decimal):
        return value
    if isinstance(value, str):
        import re

        return Decimal(value) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?", value) else NOTHING
    return NOTHING


def boolean(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return NOTHING


def text(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if value is None or value is NOTHING:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        return str(int(value)) if value == int(value) else str(value)
    if isinstance(value, list):
        return "[" + ",".join(inner(item) for item in value) + "]"
    return "{" + ",".join(f"{inner(key)}:{inner(item)}" for key, item in value.items()) + "}"


def inner(value: Any) -> str:
    import json

    if value is None:
        return "null"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(text(value))


def same(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool) and left == right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return set(left) == set(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, int | Decimal) and isinstance(right, int | Decimal):
        return left == right
    return type(left) is type(right) and left == right


def finished(value: Decimal) -> Any:
    return value if value.is_finite() else NOTHING


def arithmetic(operator: str, left: Any, right: Any) -> Any:
    whole = (
        isinstance(left, int) and isinstance(right, int) and not isinstance(left, bool) and not isinstance(right, bool)
    )
    left, right = number(left), number(right)
    if left is NOTHING or right is NOTHING:
        return NOTHING
    if operator in "/%" and right == 0:
        return NOTHING
    with localcontext(CONTEXT):
        a, b = Decimal(left), Decimal(right)
        if whole:
            with localcontext(Context(prec=400)):
                exact = {"+": a + b, "-": a - b, "*": a * b}.get(operator)
                if exact is None:
                    quotient = int(a / b)
                    exact = Decimal(quotient) if operator == "/" else a - b * quotient
            return int(exact) if abs(exact) < 10**34 else finished(CONTEXT.plus(exact))
        if operator == "%":
            return finished(CONTEXT.remainder(a, b))
        return finished({"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else Decimal("NaN")}[operator])


class Walker:
    """Evaluates one tree. `rows` is the stack of (row, alias, implicit alias) of nested queries."""

    def __init__(self, payload: Any) -> None:
        self.payload = payload
        self.rows: list[tuple[Any, str, str]] = []

    def value(self, node: syntax.Node) -> Any:
        return getattr(self, type(node).__name__.lower())(node)

    def literal(self, node: syntax.Literal) -> Any:
        return node.value

    def star(self, node: syntax.Star) -> Any:
        return self.rows[-1][0] if self.rows else self.payload

    def field(self, node: syntax.Field) -> Any:
        if not self.rows:
            return self.payload.get(node.name, NOTHING)
        for row, alias, _ in reversed(self.rows):
            if alias == node.name:
                return row
        row, _, implicit = self.rows[-1]
        found = row.get(node.name, NOTHING) if isinstance(row, dict) else NOTHING
        return row if found is NOTHING and implicit == node.name else found

    def member(self, node: syntax.Member) -> Any:
        base = self.value(node.base)
        return base.get(node.name, NOTHING) if isinstance(base, dict) else NOTHING

    def negate(self, node: syntax.Negate) -> Any:
        return arithmetic("-", 0, self.value(node.operand))

    def binary(self, node: syntax.Binary) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        if node.operator == "IN":
            return (
                NOTHING if left is NOTHING or not isinstance(right, list) else any(same(left, item) for item in right)
            )
        if node.operator in ("=", "<>"):
            if left is NOTHING or right is NOTHING:
                return NOTHING
            return same(left, right) == (node.operator == "=")
        if node.operator in ("<", "<=", ">", ">="):
            left, right = number(left), number(right)
            if left is NOTHING or right is NOTHING:
                return NOTHING
            return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[node.operator]
        if node.operator == "+":
            if isinstance(left, str) or isinstance(right, str):
                left, right = text(left), text(right)
                return NOTHING if left is NOTHING or right is NOTHING else left + right
            plain = (int, Decimal)
            if (
                isinstance(left, bool)
                or isinstance(right, bool)
                or not isinstance(left, plain)
                or not isinstance(right, plain)
            ):
                return NOTHING
        return arithmetic(node.operator, left, right)

    def _not(self, value: Any) -> Any:
        found = boolean(value)
        return NOTHING if found is NOTHING else not found

    def logic(self, node: syntax.Logic) -> Any:
        values = [boolean(self.value(operand)) for operand in node.operands]
        if NOTHING in values:
            return NOTHING
        return all(values) if node.operator == "AND" else any(values)

    def case(self, node: syntax.Case) -> Any:
        subject = self.value(node.subject)
        for test, result in node.branches:
            wanted = self.value(test)
            if subject is not NOTHING and wanted is not NOTHING and same(subject, wanted):
                return self.value(result)
        return self.value(node.otherwise) if node.otherwise else NOTHING

    def arrayliteral(self, node: syntax.ArrayLiteral) -> Any:
        return [item for item in map(self.value, node.items) if item is not NOTHING]

    def objectliteral(self, node: syntax.ObjectLiteral) -> Any:
        pairs = {key: self.value(item) for key, item in node.pairs}
        return {key: item for key, item in pairs.items() if item is not NOTHING}

    def call(self, node: syntax.Call) -> Any:
        arguments = [self.value(argument) for argument in node.arguments]
        return getattr(self, "fn_" + node.name.lower())(*arguments)

    def fn_isnull(self, value: Any) -> Any:
        return value is None

    def fn_isundefined(self, value: Any) -> Any:
        return value is NOTHING

    def fn_abs(self, value: Any) -> Any:
        found = number(value)
        return NOTHING if found is NOTHING else abs(found)

    def fn_floor(self, value: Any) -> Any:
        found = number(value)
        return NOTHING if found is NOTHING else int(Decimal(found).to_integral_value(ROUND_FLOOR))

    def fn_round(self, value: Any) -> Any:
        found = number(value)
        return NOTHING if found is NOTHING else int(Decimal(found).to_integral_value(ROUND_HALF_UP))

    def fn_upper(self, value: Any) -> Any:
        found = text(value)
        return NOTHING if found is NOTHING else found.upper()

    def fn_length(self, value: Any) -> Any:
        found = text(value)
        return NOTHING if found is NOTHING else len(found)

    def fn_nanvl(self, value: Any, default: Any) -> Any:
        return default if value is None or value is NOTHING else value

    def fn_get_or_default(self, value: Any, default: Any = NOTHING) -> Any:
        return self.fn_nanvl(value, default)

    def exists(self, node: syntax.Exists) -> Any:
        return bool(self.subquery(node.query)) and self.subquery(node.query) is not NOTHING

    def subquery(self, node: syntax.Subquery) -> Any:
        source = self.source(node.source)
        if not isinstance(source, list | dict):
            return NOTHING
        named = isinstance(node.source, syntax.Field | syntax.Member) and not node.alias
        implicit = node.source.name if named else ""
        made = []
        for row in source if isinstance(source, list) else [source]:
            self.rows.append((row, node.alias, implicit))
            if node.where is None or boolean(self.value(node.where)) is True:
                value = self.items(node.items, node.is_value)
                if value is not NOTHING:
                    made.append(value)
            self.rows.pop()
        return made

    def source(self, node: syntax.Node) -> Any:
        if isinstance(node, syntax.Member):
            base = self.source(node.base)
            return base.get(node.name, NOTHING) if isinstance(base, dict) else NOTHING
        if not isinstance(node, syntax.Field):
            return self.value(node)
        for row, alias, _ in reversed(self.rows):
            if alias == node.name:
                return row
            if isinstance(row, dict) and node.name in row:
                return row[node.name]
        return self.payload.get(node.name, NOTHING)

    def items(self, items: tuple[syntax.Item, ...], is_value: bool) -> Any:
        if is_value:
            return self.value(items[0].value)
        if len(items) == 1 and isinstance(items[0].value, syntax.Star) and not items[0].key:
            return self.value(items[0].value)
        made: dict[str, Any] = {}
        for item in items:
            value = self.value(item.value)
            if isinstance(item.value, syntax.Star) and not item.key:
                made.update(value if isinstance(value, dict) else {})
            elif value is not NOTHING:
                into = made
                for name in item.key[:-1]:
                    into[name] = dict(into[name]) if isinstance(into.get(name), dict) else {}
                    into = into[name]
                into[item.key[-1]] = value
        return made


setattr(Walker, "not", lambda self, node: self._not(self.value(node.operand)))


def walk(statement: syntax.Statement, payload: Any) -> tuple[Any, Any]:
    """(value of WHERE, value of SELECT or NOTHING when it does not fire)."""
    walker = Walker(payload)
    where = True if statement.where is None else boolean(walker.value(statement.where))
    return where, walker.items(statement.items, statement.is_value) if where is True else NOTHING
