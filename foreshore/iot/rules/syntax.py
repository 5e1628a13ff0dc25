"""The tree of a statement. Every node knows the half-open range of the source that it came from."""

from __future__ import annotations

from dataclasses import dataclass

from foreshore.iot.rules.values import Value


@dataclass(slots=True, frozen=True)
class Node:
    """Any expression."""

    start: int
    end: int


@dataclass(slots=True, frozen=True)
class Literal(Node):
    """A string, number, TRUE, FALSE or NULL."""

    value: Value


@dataclass(slots=True, frozen=True)
class Star(Node):
    """`*`: the payload, or the row of a nested query."""


@dataclass(slots=True, frozen=True)
class Field(Node):
    """The head of a path."""

    name: str


@dataclass(slots=True, frozen=True)
class Variable(Node):
    """`@name`, without the sign."""

    name: str


@dataclass(slots=True, frozen=True)
class Member(Node):
    """`base.name`."""

    base: Node
    name: str


@dataclass(slots=True, frozen=True)
class Index(Node):
    """`base[index]`; not documented, taken as `get(base, index)`."""

    base: Node
    index: Node


@dataclass(slots=True, frozen=True)
class Call(Node):
    """A function call; `name` as written."""

    name: str
    arguments: tuple[Node, ...]


@dataclass(slots=True, frozen=True)
class Cast(Node):
    """`cast(operand AS type)`; the type's name in lower case."""

    operand: Node
    target: str


@dataclass(slots=True, frozen=True)
class Negate(Node):
    """Unary minus."""

    operand: Node


@dataclass(slots=True, frozen=True)
class Not(Node):
    """NOT operand."""

    operand: Node


@dataclass(slots=True, frozen=True)
class Logic(Node):
    """AND or OR of two or more operands; a chain is one node, so its length costs no depth."""

    operator: str
    operands: tuple[Node, ...]


@dataclass(slots=True, frozen=True)
class Binary(Node):
    """One of = <> < <= > >= + - * / % IN."""

    operator: str
    left: Node
    right: Node


@dataclass(slots=True, frozen=True)
class Case(Node):
    """CASE subject WHEN test THEN result … ELSE otherwise END."""

    subject: Node
    branches: tuple[tuple[Node, Node], ...]
    otherwise: Node | None


@dataclass(slots=True, frozen=True)
class ObjectLiteral(Node):
    """`{key: value, …}`; keys are words or strings."""

    pairs: tuple[tuple[str, Node], ...]


@dataclass(slots=True, frozen=True)
class ArrayLiteral(Node):
    """`[value, …]`."""

    items: tuple[Node, ...]


@dataclass(slots=True, frozen=True)
class Item:
    """One SELECT item: `*` (key empty) or an expression under a dotted key."""

    key: tuple[str, ...]
    value: Node


@dataclass(slots=True, frozen=True)
class Subquery(Node):
    """A nested SELECT over `source`."""

    is_value: bool
    items: tuple[Item, ...]
    source: Node
    alias: str
    where: Node | None


@dataclass(slots=True, frozen=True)
class Exists(Node):
    """EXISTS (subquery)."""

    query: Subquery


@dataclass(slots=True, frozen=True)
class Statement:
    """A whole rule statement. `topic_filter` is None without FROM."""

    text: str
    variables: tuple[tuple[str, Node], ...]
    is_value: bool
    items: tuple[Item, ...]
    topic_filter: str | None
    where: Node | None
