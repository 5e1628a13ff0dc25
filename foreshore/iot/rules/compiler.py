"""A statement's tree made into one closure of closures: what can be decided once is decided here, not per message.

Each expression becomes a function of an `Env`. Paths of the top level read the decoded payload directly; names in a
nested query are resolved to the row, to an alias of an enclosing query or, in FROM, outward to the payload. With a
`watch` callback every closure also reports its node and value (that is how `explain` sees inside), at no cost
without one.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from difflib import get_close_matches
from typing import NamedTuple

from foreshore.iot.rules import functions, operators, syntax, text
from foreshore.iot.rules.message import MAX_VALUE, ExternalFailed, Message, RuleFailed
from foreshore.iot.rules.problems import SqlParseError
from foreshore.iot.rules.values import (
    UNDEFINED,
    Value,
    floor_int,
    is_equal,
    read_number,
    to_boolean,
    to_string,
    write_json,
)

VERSIONS = ("2015-10-08", "2016-03-23", "beta")
MAX_DEPTH = 120
MAX_ROWS = 100_000
"""Rows that all nested queries of one evaluation may visit together."""


class Env:
    """What one evaluation reads: the message, its decoded payload, the rows of nested queries, SET's variables."""

    __slots__ = ("message", "root", "rows", "rows_left", "variables")

    def __init__(self, message: Message, root: Value) -> None:
        self.message = message
        self.root = root
        self.rows: list[Value] = []
        self.rows_left = MAX_ROWS
        self.variables: dict[str, Value] = {}


Closure = Callable[[Env], Value]
Watch = Callable[[syntax.Node, Value], None]


class Scope(NamedTuple):
    """One nested query: where its row is kept, its alias, and the name of its source (an alias of last resort)."""

    place: int
    alias: str
    implicit: str


CAST_NAMES: dict[str, str] = {
    "string": "String", "nvarchar": "String", "text": "String", "ntext": "String", "varchar": "String",
    "int": "Int", "integer": "Int", "double": "Decimal", "decimal": "Decimal", "bool": "Boolean", "boolean": "Boolean",
}  # fmt: skip
_CASTS_SINCE_2016 = ("decimal", "bool", "boolean")


def cast(value: Value, target: str, old: bool) -> Value:
    """`cast`'s own table, which differs from the standard conversions. `target` is String, Int, Decimal or Boolean."""
    if target == "String":
        return to_string(value, old)
    kind = type(value)
    if target == "Boolean":
        if kind is int or kind is Decimal:
            return value != 0
        return to_boolean(value)
    if kind is bool:
        number: Value = int(value) if target == "Int" else Decimal(int(value)).quantize(Decimal("1.0"))
    elif kind is str:
        number = read_number(value)
    elif kind is int or kind is Decimal:
        number = value
    else:
        return UNDEFINED
    if number is UNDEFINED:
        return UNDEFINED
    if target == "Int":
        return floor_int(number)
    return Decimal(number) if type(number) is int else number


class Compiler:
    """Compiles the nodes of one text. After use, `has_external` says whether a service may be called."""

    def __init__(
        self, source: str, version: str, watch: Watch | None = None, variables: frozenset[str] = frozenset()
    ) -> None:
        self.text = source
        self.version = version
        self.old = version == "2015-10-08"
        self.watch = watch
        self.variables = set(variables)
        self.scopes: list[Scope] = []
        self.has_external = False
        self.has_subquery = False
        self.in_template = False
        self._depth = 0
        self._uses: dict[str, int] = {}

    def fail(self, what: str, node: syntax.Node, suggestion: str = "") -> SqlParseError:
        """An error at a node."""
        return SqlParseError(what, self.text, node.start, suggestion)

    def compile(self, node: syntax.Node) -> Closure:
        """The closure of one expression. Raises SqlParseError."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self.fail("The expression nests too deep", node)
        closure: Closure = getattr(self, "_" + type(node).__name__.lower())(node)
        self._depth -= 1
        watch = self.watch
        if watch is None:
            return closure

        def watched(env: Env) -> Value:
            value = closure(env)
            watch(node, value)
            return value

        return watched

    def _since_2016(self, what: str, node: syntax.Node) -> None:
        if self.old:
            raise self.fail(
                f"{what} needs SQL version 2016-03-23", node, 'set "awsIotSqlVersion": "2016-03-23" in the rule'
            )

    # leaves

    def _literal(self, node: syntax.Literal) -> Closure:
        value = node.value
        return lambda env: value

    def _star(self, node: syntax.Star) -> Closure:
        if self.scopes:
            place = self.scopes[-1].place
            return lambda env: env.rows[place]

        def payload(env: Env) -> Value:
            return env.message.payload if env.root is UNDEFINED else env.root

        return payload

    def _field(self, node: syntax.Field) -> Closure:
        name = node.name
        if not self.scopes:
            return _root_field(name)
        for scope in reversed(self.scopes):
            if scope.alias == name:
                place = scope.place
                return lambda env: env.rows[place]
        return self._row_field(name, self.scopes[-1])

    def _row_field(self, name: str, scope: Scope) -> Closure:
        place, is_source = scope.place, scope.implicit == name

        def field(env: Env) -> Value:
            row = env.rows[place]
            value = row.get(name, UNDEFINED) if type(row) is dict else UNDEFINED
            return row if value is UNDEFINED and is_source else value

        return field

    def _variable(self, node: syntax.Variable) -> Closure:
        name = node.name
        if name not in self.variables:
            close = get_close_matches(name, self.variables, 1)
            raise self.fail(
                f"Variable @{name} is not set", node, f"did you mean @{close[0]}?" if close else "SET it before SELECT"
            )
        return lambda env: env.variables.get(name, UNDEFINED)

    # paths

    def _member(self, node: syntax.Member) -> Closure:
        base, name = self.compile(node.base), node.name

        def member(env: Env) -> Value:
            value = base(env)
            return value.get(name, UNDEFINED) if type(value) is dict else UNDEFINED

        return member

    def _index(self, node: syntax.Index) -> Closure:
        base, index = self.compile(node.base), self.compile(node.index)
        get, old = text.get, self.old
        return lambda env: get(old, base(env), index(env))

    # operators

    def _negate(self, node: syntax.Negate) -> Closure:
        operand, negate = self.compile(node.operand), operators.negate
        return lambda env: negate(operand(env))

    def _not(self, node: syntax.Not) -> Closure:
        operand = self.compile(node.operand)

        def negation(env: Env) -> Value:
            value = to_boolean(operand(env))
            return UNDEFINED if value is UNDEFINED else not value

        return negation

    def _logic(self, node: syntax.Logic) -> Closure:
        operands = [self.compile(operand) for operand in node.operands]
        # By the operators' tables an operand that is no Boolean makes the whole Undefined, so all are looked at.
        absorbing = node.operator == "OR"
        if len(operands) == 2:
            return _pair(operands[0], operands[1], absorbing)

        def logic(env: Env) -> Value:
            result: Value = not absorbing
            for operand in operands:
                value = operand(env)
                if value is not True and value is not False:
                    value = to_boolean(value)
                    if value is UNDEFINED:
                        return UNDEFINED
                if value is absorbing:
                    result = absorbing
            return result

        return logic

    def _binary(self, node: syntax.Binary) -> Closure:
        left, right = self.compile(node.left), self.compile(node.right)
        operate = operators.add(self.old) if node.operator == "+" else operators.OPERATORS[node.operator]
        if isinstance(node.right, syntax.Literal) and self.watch is None:
            constant = node.right.value
            compare = operators.COMPARE.get(node.operator)
            if compare is not None and type(constant) in (int, Decimal):
                return _number_test(left, operate, compare, constant)
            return lambda env: operate(left(env), constant)
        return lambda env: operate(left(env), right(env))

    def _case(self, node: syntax.Case) -> Closure:
        subject = self.compile(node.subject)
        branches = [(self.compile(test), self.compile(result)) for test, result in node.branches]
        otherwise = self.compile(node.otherwise) if node.otherwise else None

        def case(env: Env) -> Value:
            value = subject(env)
            if value is not UNDEFINED:
                for test, result in branches:
                    wanted = test(env)
                    if wanted is not UNDEFINED and is_equal(value, wanted):
                        return result(env)
            return otherwise(env) if otherwise else UNDEFINED

        return case

    # constructors

    def _objectliteral(self, node: syntax.ObjectLiteral) -> Closure:
        self._since_2016("An object literal", node)
        pairs = [(key, self.compile(value)) for key, value in node.pairs]

        def make(env: Env) -> Value:
            made = {}
            for key, closure in pairs:
                value = closure(env)
                if value is not UNDEFINED:
                    made[key] = _no_bytes(value)
            return made

        return make

    def _arrayliteral(self, node: syntax.ArrayLiteral) -> Closure:
        self._since_2016("An array literal", node)
        items = [self.compile(item) for item in node.items]

        def make(env: Env) -> Value:
            values = [item(env) for item in items]
            return [_no_bytes(value) for value in values if value is not UNDEFINED]

        return make

    # functions

    def _cast(self, node: syntax.Cast) -> Closure:
        operand, old = self.compile(node.operand), self.old
        target = CAST_NAMES.get(node.target)
        if target is None:
            close = get_close_matches(node.target, CAST_NAMES, 1)
            advice = f"did you mean {close[0]}?" if close else "Int, Decimal, String or Boolean"
            raise self.fail(f"Unknown type '{node.target}' in cast", node, advice)
        if node.target in _CASTS_SINCE_2016:
            self._since_2016(f"cast to {node.target}", node)
        return lambda env: cast(operand(env), target, old)

    def _call(self, node: syntax.Call) -> Closure:
        name = node.name.lower()
        if name not in functions.NAMES or name == "cast":
            close = get_close_matches(name, functions.NAMES, 1)
            raise self.fail(f"Unknown function '{node.name}'", node, f"did you mean {close[0]}()?" if close else "")
        if name in functions.SINCE_2016:
            self._since_2016(f"{node.name}()", node)
        if name == "sql_version":
            version = self.version
            return (lambda env: version) if not node.arguments else _undefined
        if name == "get_or_default":
            return self._get_or_default(node)
        if name == "decode":
            return self._decode(node)
        if name == "transform":
            arguments = [self._unwrapped(argument) for argument in node.arguments]
        elif name == "encode":
            arguments = [self._raw(argument) for argument in node.arguments]
        else:
            arguments = [self.compile(argument) for argument in node.arguments]
        if name in functions.PLAIN:
            return _plain_call(*functions.PLAIN[name], arguments, self.old)
        if name in functions.EXTERNAL:
            return self._external(node, name, arguments)
        return _context_call(*functions.CONTEXT[name], arguments, self.old)

    def _external(self, node: syntax.Call, name: str, arguments: list[Closure]) -> Closure:
        function, fewest, most = functions.EXTERNAL[name]
        if name == "machinelearning_predict":
            function(None, self.old)
        self.has_external = True
        self._uses[name] = self._uses.get(name, 0) + 1
        if name in functions.ONCE and self._uses[name] > 1:
            raise self.fail(f"{node.name}() may be used once in a statement", node)
        if not fewest <= len(arguments) <= most:
            raise self.fail(f"{node.name}() takes {fewest} to {most} arguments", node)
        return _context_call(function, fewest, most, arguments, self.old)

    def _raw(self, node: syntax.Node) -> Closure:
        """An argument for encode and decode: there, `*` is the payload's bytes."""
        if isinstance(node, syntax.Star) and not self.scopes:
            return lambda env: env.message.payload
        return self.compile(node)

    def _unwrapped(self, node: syntax.Node) -> Closure:
        """An argument for transform: there, a nested query over an Object is its one row."""
        if not isinstance(node, syntax.Subquery):
            return self.compile(node)
        return self._select(node, unwrap=True)

    def _decode(self, node: syntax.Call) -> Closure:
        arguments = [self._raw(argument) for argument in node.arguments]
        if len(arguments) == 6:
            self.has_external = True
            self._uses["proto"] = self._uses.get("proto", 0) + 1
            if self.in_template:
                raise self.fail("decode() of protobuf is not allowed in a substitution template", node)
            if self._uses["proto"] > 2:
                raise self.fail("decode() of protobuf may be used twice in a statement", node)
        if len(arguments) not in (2, 6):
            return _undefined
        return _context_call(functions.decode, 2, 6, arguments, self.old)

    def _get_or_default(self, node: syntax.Call) -> Closure:
        arguments = node.arguments
        if not 1 <= len(arguments) <= 2:
            return _undefined
        value = self.compile(arguments[0])
        if len(arguments) == 2:
            external, self.has_external = self.has_external, False
            default = self.compile(arguments[1])
            if self.has_external:
                raise self.fail("The default of get_or_default() can't call an external function", arguments[1])
            self.has_external = external
        else:
            default = _undefined

        def guarded(env: Env) -> Value:
            try:
                found = value(env)
            except RuleFailed:
                return default(env)
            return default(env) if found is None or found is UNDEFINED else found

        return guarded

    # nested queries

    def _exists(self, node: syntax.Exists) -> Closure:
        rows = self._select(node.query)

        def exists(env: Env) -> Value:
            found = rows(env)
            return type(found) is list and len(found) > 0

        return exists

    def _subquery(self, node: syntax.Subquery) -> Closure:
        return self._select(node)

    def _select(self, node: syntax.Subquery, *, unwrap: bool = False) -> Closure:
        """A nested query: the list of its rows; with `unwrap`, the one row of an Object itself."""
        self._since_2016("A nested query", node)
        self.has_subquery = True
        source = self._source(node.source)
        origin = node.source
        implicit = origin.name if isinstance(origin, syntax.Field | syntax.Member) and not node.alias else ""
        place = len(self.scopes)
        self.scopes.append(Scope(place, node.alias, implicit))
        where = self.compile(node.where) if node.where else None
        build = self.items(node.items, node.is_value)
        self.scopes.pop()

        def select(env: Env) -> Value:
            collection = source(env)
            kind = type(collection)
            if kind is not list and kind is not dict:
                return UNDEFINED
            rows = env.rows
            while len(rows) <= place:
                rows.append(UNDEFINED)
            made = []
            for row in collection if kind is list else (collection,):
                if env.rows_left == 0:
                    raise RuleFailed(f"the nested queries visit more than {MAX_ROWS} rows")
                env.rows_left -= 1
                rows[place] = row
                if where is not None and to_boolean(where(env)) is not True:
                    continue
                value = build(env)
                if value is not UNDEFINED:
                    made.append(_no_bytes(value))
            if unwrap and kind is dict:
                return made[0] if made else UNDEFINED
            return made

        return select

    def _source(self, node: syntax.Node) -> Closure:
        """FROM's expression. A name that the enclosing row does not have is looked up further out."""
        if not isinstance(node, syntax.Field) or not self.scopes:
            return self._outward_member(node) or self.compile(node)
        candidates: list[Closure] = []
        for depth in range(len(self.scopes), 0, -1):
            scope = self.scopes[depth - 1]
            candidates.append(
                _row_itself(scope.place) if scope.alias == node.name else _row_member(scope.place, node.name)
            )
        candidates.append(_root_field(node.name))

        def find(env: Env) -> Value:
            for candidate in candidates:
                value = candidate(env)
                if value is not UNDEFINED:
                    return value
            return UNDEFINED

        return find

    def _outward_member(self, node: syntax.Node) -> Closure | None:
        if not isinstance(node, syntax.Member) or not self.scopes:
            return None
        base, name = self._source(node.base), node.name

        def member(env: Env) -> Value:
            value = base(env)
            return value.get(name, UNDEFINED) if type(value) is dict else UNDEFINED

        return member

    # SELECT lists

    def items(self, items: tuple[syntax.Item, ...], is_value: bool) -> Closure:
        """The closure that builds what SELECT gives."""
        if is_value:
            value = self.compile(items[0].value)
            if self.old and not self.scopes:
                return _scalar_only(value)
            return value
        if len(items) == 1 and isinstance(items[0].value, syntax.Star) and not items[0].key:
            return self.compile(items[0].value)
        columns = [(item.key, self.compile(item.value), _is_bare_star(item)) for item in items]
        if all(len(key) == 1 for key, _, _ in columns):
            return _flat_row([(key[0], closure) for key, closure, _ in columns])

        def row(env: Env) -> Value:
            made: dict[str, Value] = {}
            for key, closure, is_star in columns:
                value = closure(env)
                if is_star:
                    if type(value) is dict:
                        made.update(value)
                elif value is not UNDEFINED:
                    _place(made, key, _no_bytes(value))
            return made

        return row


def _is_bare_star(item: syntax.Item) -> bool:
    return isinstance(item.value, syntax.Star) and not item.key


def _flat_row(columns: list[tuple[str, Closure]]) -> Closure:
    def row(env: Env) -> Value:
        made = {}
        for key, closure in columns:
            value = closure(env)
            if value is not UNDEFINED:
                made[key] = _no_bytes(value) if type(value) is bytes else value
        return made

    return row


def _place(made: dict[str, Value], key: tuple[str, ...], value: Value) -> None:
    """Put a value under a dotted alias: objects on the way are made, or copied before they are changed."""
    for name in key[:-1]:
        inner = made.get(name)
        made[name] = dict(inner) if type(inner) is dict else {}
        made = made[name]
    made[key[-1]] = value


def _no_bytes(value: Value) -> Value:
    """A raw payload inside JSON is text: UTF-8 where it is that."""
    return value.decode("utf-8", "replace") if type(value) is bytes else value


def _undefined(env: Env) -> Value:
    return UNDEFINED


def _row_itself(place: int) -> Closure:
    return lambda env: env.rows[place]


def _row_member(place: int, name: str) -> Closure:
    def member(env: Env) -> Value:
        row = env.rows[place]
        return row.get(name, UNDEFINED) if type(row) is dict else UNDEFINED

    return member


def _root_field(name: str) -> Closure:
    def field(env: Env) -> Value:
        root = env.root
        return root.get(name, UNDEFINED) if type(root) is dict else UNDEFINED

    return field


def _pair(first: Closure, second: Closure, absorbing: bool) -> Closure:
    """AND (`absorbing` False) or OR of two operands, the common case."""

    def pair(env: Env) -> Value:
        left, right = first(env), second(env)
        if left is not True and left is not False:
            left = to_boolean(left)
        if right is not True and right is not False:
            right = to_boolean(right)
        if left is UNDEFINED or right is UNDEFINED:
            return UNDEFINED
        return absorbing if left is absorbing or right is absorbing else not absorbing

    return pair


def _number_test(left: Closure, operate: operators.Operator, compare: operators.Operator, constant: Value) -> Closure:
    """`x > 30`: two numbers are compared at once; anything else goes the operator's whole way."""

    def test(env: Env) -> Value:
        value = left(env)
        kind = type(value)
        return compare(value, constant) if kind is int or kind is Decimal else operate(value, constant)

    return test


def _scalar_only(value: Closure) -> Closure:
    """SQL version 2015-10-08 gives scalars with SELECT VALUE, no arrays or objects."""

    def scalar(env: Env) -> Value:
        found = value(env)
        return UNDEFINED if type(found) is list else found

    return scalar


def _plain_call(function: functions.Function, fewest: int, most: int, arguments: list[Closure], old: bool) -> Closure:
    count = len(arguments)
    if not fewest <= count <= most:
        return _undefined
    if count == 1:
        first = arguments[0]
        return lambda env: function(old, first(env))
    if count == 2:
        first, second = arguments
        return lambda env: function(old, first(env), second(env))
    return lambda env: function(old, *[argument(env) for argument in arguments])


def _context_call(function: functions.Function, fewest: int, most: int, arguments: list[Closure], old: bool) -> Closure:
    if not fewest <= len(arguments) <= most:
        return _undefined
    if not arguments:
        return lambda env: function(env.message, old)
    return lambda env: function(env.message, old, *[argument(env) for argument in arguments])


def check_size(value: Value, old: bool, name: str) -> int:
    """The size of a SET variable in bytes of JSON. Raises RuleFailed beyond 128 KiB."""
    size = 0 if value is UNDEFINED else len(value) if type(value) is bytes else len(write_json(value, old))
    if size > MAX_VALUE:
        raise RuleFailed(f"the value of @{name} is larger than {MAX_VALUE} bytes")
    return size


__all__ = ["CAST_NAMES", "VERSIONS", "Closure", "Compiler", "Env", "ExternalFailed", "cast", "check_size"]
