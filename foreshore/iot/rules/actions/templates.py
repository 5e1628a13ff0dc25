"""An action's parameters with their substitution templates compiled once and rendered for each message. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foreshore.iot.rules.message import Message
from foreshore.iot.rules.rule import Rule
from foreshore.iot.rules.values import Value

# Developer guide, "Substitution templates": allowed in any string field but these.
PLAIN_FIELDS = frozenset({"roleArn", "qos", "batchMode", "useBase64", "enableBatching"})

Renderer = Callable[[Message, dict[str, Value]], Any]


def unescape_topic(topic: str) -> str:
    """A republish topic that begins with `$` is written with `$$` (developer guide, "Republish")."""
    return topic[1:] if topic.startswith("$$") else topic


class Parameters:
    """The parameters of one action. `render` gives them for one message; constant ones are given as they are."""

    def __init__(self, rule: Rule, values: dict[str, Any]) -> None:
        self.values = values
        self.has_external = False
        self._render = self._compile(rule, values)

    def _compile(self, rule: Rule, value: Any, field: str = "") -> Renderer | None:
        """A renderer, or None for what no message changes."""
        if isinstance(value, str) and "${" in value and field not in PLAIN_FIELDS:
            template = rule.template(value)
            self.has_external |= template.has_external
            return template.render
        if isinstance(value, dict):
            return _of_dict(value, {key: self._compile(rule, item, key) for key, item in value.items()})
        if isinstance(value, list):
            return _of_list(value, [self._compile(rule, item, field) for item in value])
        return None

    def render(self, message: Message, variables: dict[str, Value]) -> dict[str, Any]:
        """The parameters for one message. Raises RuleFailed when an external function fails."""
        if self._render is None:
            return self.values
        rendered: dict[str, Any] = self._render(message, variables)
        return rendered


def _of_dict(value: dict[str, Any], parts: dict[str, Renderer | None]) -> Renderer | None:
    changing = [(key, part) for key, part in parts.items() if part is not None]
    if not changing:
        return None

    def render(message: Message, variables: dict[str, Value]) -> Any:
        made = dict(value)
        for key, part in changing:
            made[key] = part(message, variables)
        return made

    return render


def _of_list(value: list[Any], parts: list[Renderer | None]) -> Renderer | None:
    if not any(parts):
        return None
    pairs = list(zip(value, parts, strict=True))
    return lambda message, variables: [part(message, variables) if part else item for item, part in pairs]
