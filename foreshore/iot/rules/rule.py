"""`compile` and `Rule`: a statement ready to be evaluated, and the substitution templates of its actions."""

from __future__ import annotations

from foreshore.iot.mqtt.topics import matches
from foreshore.iot.rules import syntax
from foreshore.iot.rules.compiler import MAX_ROWS, VERSIONS, Closure, Compiler, Env, Watch, check_size
from foreshore.iot.rules.functions import basic_ingest_topic
from foreshore.iot.rules.message import MAX_VALUE, Message, Result, RuleFailed
from foreshore.iot.rules.parser import Parser
from foreshore.iot.rules.problems import SqlParseError
from foreshore.iot.rules.values import UNDEFINED, NotJson, Value, to_boolean, to_string

MAX_RESULT = 1024 * 1024
"""Largest result in bytes that is serialized. AWS's limit for a message is 128 KiB; nested queries can multiply."""

_GROWTH = 2000


class Rule:
    """A compiled statement. `topic_filter` is None without FROM (Basic Ingest only); `has_external` says that an
    evaluation may call services, and so block."""

    def __init__(self, statement: syntax.Statement, version: str, watch: Watch | None = None) -> None:
        compiler = Compiler(statement.text, version, watch)
        self.sql = statement.text
        self.version = version
        self.old = compiler.old
        self.statement = statement
        self.topic_filter = statement.topic_filter
        self._sets: list[tuple[str, Closure]] = []
        for name, node in statement.variables:
            self._sets.append((name, compiler.compile(node)))
            compiler.variables.add(name)
        self.variables = frozenset(compiler.variables)
        self._where = compiler.compile(statement.where) if statement.where else None
        self._select = compiler.items(statement.items, statement.is_value)
        self.has_external = compiler.has_external
        self._may_grow = compiler.has_subquery or len(statement.text) > _GROWTH

    def is_same(self, other: Rule) -> bool:
        """Whether another rule has the same statement and version."""
        return self.sql == other.sql and self.version == other.version

    def matches(self, topic: str) -> bool:
        """Whether FROM matches a topic. `sensor/#` does not match `sensor` (AWS IoT, "MQTT", differences)."""
        topic = basic_ingest_topic(topic)
        return self.topic_filter is None or matches(self.topic_filter, topic, hash_matches_parent=False)

    def evaluate(self, message: Message) -> Result:
        """Evaluate for one message, whose topic is taken to match FROM when it came by Basic Ingest.

        Never raises for what a message holds: a failure is in the result's `error`, and nothing fires then.
        """
        if not message.topic.startswith("$aws/rules/") and not self.matches(message.topic):
            return Result(False, False, UNDEFINED, old=self.old)
        return self.apply(message)

    def apply(self, message: Message) -> Result:
        """`evaluate` for a message whose topic is known to match."""
        env = Env(message, message.value(self.old))
        where: Value = UNDEFINED
        try:
            if self._sets:
                self._set(env)
            where = True
            if self._where is not None:
                where = self._where(env)
                if where is not True and to_boolean(where) is not True:
                    return Result(False, True, where, old=self.old, variables=env.variables)
            value = self._select(env)
            if self._may_grow:
                _check_growth(value, MAX_RESULT)
            return Result(True, True, where, value, "", self.old, env.variables)
        except (RuleFailed, NotJson) as error:
            return Result(False, True, where, UNDEFINED, str(error), self.old, env.variables)
        except (ArithmeticError, ValueError, RecursionError, MemoryError) as error:
            return Result(False, True, where, UNDEFINED, f"{type(error).__name__}: {error}", self.old, env.variables)

    def _set(self, env: Env) -> None:
        total = 0
        for name, closure in self._sets:
            value = closure(env)
            total += check_size(value, self.old, name)
            if total > MAX_VALUE:
                raise RuleFailed(f"the variables are larger than {MAX_VALUE} bytes together")
            env.variables[name] = value

    def template(self, text: str) -> Template:
        """Compile a substitution template in this rule's version and with its variables. Raises SqlParseError."""
        return Template(text, self.version, self.variables)


def _check_growth(value: Value, left: int) -> int:
    """Walk a result until its rough size is known to fit; shared values count as often as they appear."""
    kind = type(value)
    if kind is str or kind is bytes:
        left -= len(value)
    elif kind is dict:
        for key, item in value.items():
            left = _check_growth(item, left - len(key) - 4)
    elif kind is list:
        for item in value:
            left = _check_growth(item, left - 1)
    else:
        left -= 4
    if left < 0:
        raise RuleFailed(f"the result is larger than {MAX_RESULT} bytes")
    return left


class Template:
    """Text with `${expression}` parts (developer guide, "Substitution templates"). It reads the original payload, not
    the SELECT's result, and SET's variables. Undefined becomes the empty text."""

    def __init__(self, text: str, version: str, variables: frozenset[str] = frozenset()) -> None:
        self.text = text
        self.parts: list[str | Closure] = []
        compiler = Compiler(text, version, None, variables)
        compiler.in_template = True
        self.old = compiler.old
        position = 0
        while (start := text.find("${", position)) >= 0:
            self.parts.append(text[position:start])
            parser = Parser(text, start + 2)
            node = parser.expression()
            if parser.token.text != "}":
                raise SqlParseError(
                    f"Unexpected token, '{parser.token.text}' in a substitution template", text, parser.token.start,
                    "close the expression with }",
                )  # fmt: skip
            self.parts.append(compiler.compile(node))
            position = parser.token.end
        self.parts.append(text[position:])
        self.parts = [part for part in self.parts if part != ""]
        self.is_constant = all(isinstance(part, str) for part in self.parts)
        self.has_external = compiler.has_external

    def render(self, message: Message, variables: dict[str, Value]) -> str:
        """The text for one message. Raises RuleFailed when an external function fails."""
        if self.is_constant:
            return self.text
        env = Env(message, message.value(self.old))
        env.variables = variables
        texts = []
        for part in self.parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            value = part(env)
            text = "null" if value is None else to_string(value, self.old)
            texts.append("" if text is UNDEFINED else text)
        return "".join(texts)


def compile(sql: str, version: str = "2015-10-08", *, strict_live: bool = False, watch: Watch | None = None) -> Rule:
    """Compile a rule statement. `version` is 2015-10-08 (AWS's default), 2016-03-23 or beta, taken for 2016-03-23.

    `strict_live` also refuses what the live service was measured to refuse although it is documented: a nested query
    in WHERE. `watch` is told every expression's value in every evaluation. Raises SqlParseError.
    """
    if version not in VERSIONS:
        raise SqlParseError(f"Unknown SQL version '{version}'", sql, 0, f"use one of {', '.join(VERSIONS)}")
    try:
        return Rule(Parser(sql, strict_live=strict_live).statement(), version, watch)
    except RecursionError:
        raise SqlParseError("The statement nests too deep", sql, 0) from None


__all__ = ["MAX_ROWS", "Rule", "Template", "compile"]
