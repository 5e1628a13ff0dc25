"""Why a rule did or did not fire: the SQL with the value of every sub-expression under it. Pure.

The statement is compiled once more with a watch, and evaluated for the recorded message, so the hot path carries
nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foreshore.iot.rules import syntax
from foreshore.iot.rules.functions import basic_ingest_topic
from foreshore.iot.rules.message import Message, Result
from foreshore.iot.rules.rule import Rule, compile
from foreshore.iot.rules.values import UNDEFINED, NotJson, Value, type_name, write_json

MAX_SHOWN = 3
MAX_VALUE = 120


@dataclass(slots=True)
class Explanation:
    """The result, and the whole story as text."""

    result: Result
    text: str


class Trail:
    """Gathers the values of watched nodes; use its `note` as a rule's watch."""

    def __init__(self) -> None:
        self.values: dict[tuple[int, int], list[Value]] = {}

    def note(self, node: syntax.Node, value: Value) -> None:
        """Remember one value of a node that is worth showing."""
        if not isinstance(node, syntax.Literal):
            self.values.setdefault((node.start, node.end), []).append(value)


def show(value: Value) -> str:
    """A value as a reader wants it: JSON, shortened, with its type where JSON does not tell."""
    if value is UNDEFINED:
        return "Undefined"
    if type(value) is bytes:
        text = repr(value)
    else:
        try:
            text = write_json(value).decode()
        except NotJson as error:
            text = f"({error})"
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"


def annotated(sql: str, trail: Trail) -> list[str]:
    """The SQL, and under it one line for each watched expression: a mark as long as it, and its value."""
    flat = "".join(" " if c in "\r\n\t" else c for c in sql)
    lines = [f"    {flat}"]
    for (start, end), values in sorted(trail.values.items(), key=lambda pair: (pair[0][0], pair[0][1])):
        mark = "^" if end - start <= 1 else "^" + "~" * (end - start - 1)
        shown = " | ".join(show(value) for value in values[:MAX_SHOWN])
        more = f" | … {len(values) - MAX_SHOWN} more" if len(values) > MAX_SHOWN else ""
        kind = f"  ({type_name(values[0])})" if len(values) == 1 and values[0] is not UNDEFINED else ""
        lines.append(f"    {' ' * start}{mark} {shown}{more}{kind}")
    return lines


def verdict(rule: Rule, message: Message, result: Result) -> list[str]:
    """What FROM, WHERE and SELECT came to, in words."""
    topic = basic_ingest_topic(message.topic)
    if rule.topic_filter is None:
        lines = ["FROM   none: only Basic Ingest reaches this rule"]
    elif result.matched:
        lines = [f"FROM   '{rule.topic_filter}' matches {topic}"]
    else:
        return [f"FROM   '{rule.topic_filter}' does not match {topic}", "The rule does not fire."]
    if message.value(rule.old) is UNDEFINED and message.payload:
        lines.append("payload  is no JSON: its fields are Undefined, * is its bytes")
    if result.error:
        return [*lines, f"failed {result.error}", "The rule does not fire, and runs no action."]
    if rule.statement.where is not None:
        lines.append(f"WHERE  {show(result.where)}")
    if not result.fired:
        why = "Undefined is not true" if result.where is UNDEFINED else "only true fires"
        return [*lines, f"The rule does not fire: WHERE is {show(result.where)}, and {why}."]
    return [*lines, f"SELECT {show(result.value)}", "The rule fires."]


def explain(sql: str, version: str, message_for: Callable[[str], Message], strict_live: bool = False) -> Explanation:
    """Evaluate `sql` and tell the story. `message_for` is given a topic that FROM matches. Raises SqlParseError."""
    trail = Trail()
    rule = compile(sql, version, strict_live=strict_live, watch=trail.note)
    message = message_for((rule.topic_filter or "$aws/rules/rule/topic").replace("#", "x").replace("+", "x"))
    result = rule.evaluate(message)
    return Explanation(result, "\n".join([*annotated(sql, trail), "", *verdict(rule, message, result)]))


def explain_recorded(rule: Rule, message: Message, result: Result, actions: list[dict[str, Any]]) -> str:
    """The story of a message that a running rule saw. External functions are not called again."""
    trail = Trail()
    watched = compile(rule.sql, rule.version, watch=trail.note)
    services, message.services = message.services, None
    try:
        watched.apply(message)
    finally:
        message.services = services
    lines = [*annotated(rule.sql, trail), "", *verdict(rule, message, result)]
    if rule.has_external:
        lines.insert(-1, "(values of external functions are not shown: they are not called again)")
    for action in actions:
        lines.append(f"{action['outcome']:8} {action['action']} {action['resource']}  {action['error']}".rstrip())
        if action.get("parameters") is not None:
            lines.append(f"         {show(action['parameters'])}")
    return "\n".join(lines)
