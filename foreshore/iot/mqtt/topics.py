"""Topic names, topic filters, `$share` filters and the trie that finds filters by topic (MQTT 5, section 4.7). Pure.

AWS IoT differs from MQTT in one rule of matching: `sensor/#` does not match `sensor` (AWS IoT developer guide,
"MQTT"). Every function that matches takes a flag for it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value", bound=Hashable)

MAX_SHARE_NAME = 128
"""Bytes of a share name (AWS IoT Core quotas)."""

BASIC_INGEST = "$aws/rules/"


def is_topic(topic: str) -> bool:
    """A topic name that may be published to: not empty, no wildcard, no U+0000 [MQTT-3.3.2-2] [MQTT-4.7.3-1/2]."""
    return bool(topic) and "#" not in topic and "+" not in topic and "\0" not in topic and len(topic) <= 65535


def is_filter(filter: str) -> bool:
    """A topic filter with its wildcards in allowed places [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1]."""
    if not filter or "\0" in filter or len(filter) > 65535:
        return False
    if "#" not in filter and "+" not in filter:
        return True
    levels = filter.split("/")
    if any("#" in level for level in levels[:-1]):
        return False
    return all(len(level) == 1 or ("#" not in level and "+" not in level) for level in levels)


def has_wildcard(filter: str) -> bool:
    """Whether a filter can match more than one topic."""
    return "#" in filter or "+" in filter


class Share(NamedTuple):
    """A shared subscription: `$share/<group>/<filter>` (MQTT 5, section 4.8.2)."""

    group: str
    filter: str


def parse_share(filter: str) -> Share | None:
    """Split a `$share/` filter; None for an ordinary one. Raises ValueError when it is malformed [MQTT-4.8.2-1/2]."""
    if not filter.startswith("$share/"):
        return None
    group, slash, inner = filter[7:].partition("/")
    if not group or not slash or has_wildcard(group) or len(group.encode()) > MAX_SHARE_NAME or not is_filter(inner):
        raise ValueError(f"not a shared subscription filter: {filter}")
    return Share(group, inner)


def is_well_formed(filter: str) -> bool:
    """Whether a filter, shared or not, has its wildcards and its share name in order."""
    try:
        return parse_share(filter) is not None or is_filter(filter)
    except ValueError:
        return False


def strip_basic_ingest(topic: str) -> tuple[str, str] | None:
    """Give (rule name, remaining topic) of a Basic Ingest topic `$aws/rules/<rule>/<topic>`, or None."""
    if not topic.startswith(BASIC_INGEST):
        return None
    rule, _, rest = topic[len(BASIC_INGEST) :].partition("/")
    return rule, rest


def matches(filter: str, topic: str, *, hash_matches_parent: bool = True) -> bool:
    """Whether one filter matches one topic; a `TopicTrie` is the way for many filters.

    A leading wildcard doesn't match a topic that begins with `$` [MQTT-4.7.2-1].
    """
    if topic.startswith("$") and filter[:1] in ("#", "+"):
        return False
    wanted, levels = filter.split("/"), topic.split("/")
    for place, level in enumerate(wanted):
        if level == "#":
            return hash_matches_parent or place < len(levels)
        if place >= len(levels) or level not in ("+", levels[place]):
            return False
    return len(wanted) == len(levels)


class _Node(Generic[Value]):
    """One level. `below` are the literal children, `plus` the child `+`, `here` the values that end at this level,
    `rest` those that end with `#` below it."""

    __slots__ = ("below", "here", "plus", "rest")

    def __init__(self) -> None:
        self.below: dict[str, _Node[Value]] = {}
        self.plus: _Node[Value] | None = None
        self.here: dict[Value, None] = {}
        self.rest: dict[Value, None] = {}

    def is_empty(self) -> bool:
        return not (self.below or self.here or self.rest or self.plus)


class TopicTrie(Generic[Value]):
    """Filters with values, found by topic in time proportional to the topic's levels, not to the number of filters.

    `hash_matches_parent=False` is AWS's rule that `a/#` does not match `a`. Values are hashable; a value is kept once
    a filter.
    """

    def __init__(self, *, hash_matches_parent: bool = True) -> None:
        self._root: _Node[Value] = _Node()
        self._hash_matches_parent = hash_matches_parent
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, filter: str, value: Value) -> None:
        """Add a value under a (valid) filter; adding it again changes nothing."""
        node = self._root
        levels = filter.split("/")
        into_rest = levels[-1] == "#"
        if into_rest:
            levels.pop()
        for level in levels:
            if level == "+":
                node.plus = node.plus or _Node()
                node = node.plus
            else:
                child = node.below.get(level)
                if child is None:
                    child = node.below[level] = _Node()
                node = child
        values = node.rest if into_rest else node.here
        self._size += value not in values
        values[value] = None

    def remove(self, filter: str, value: Value) -> bool:
        """Take a value away; False when it was not there. Empty branches are pruned."""
        levels = filter.split("/")
        from_rest = levels[-1] == "#"
        if from_rest:
            levels.pop()
        path: list[tuple[_Node[Value], str]] = []
        node = self._root
        for level in levels:
            child = node.plus if level == "+" else node.below.get(level)
            if child is None:
                return False
            path.append((node, level))
            node = child
        values = node.rest if from_rest else node.here
        if value not in values:
            return False
        del values[value]
        self._size -= 1
        for parent, level in reversed(path):
            if not node.is_empty():
                break
            if level == "+":
                parent.plus = None
            else:
                del parent.below[level]
            node = parent
        return True

    def may_match(self, topic: str) -> bool:
        """Whether a filter fits the topic's first two levels; False means that `match` would find nothing."""
        first, _, tail = topic.partition("/")
        root = self._root
        nodes = [root.below.get(first)]
        if not topic.startswith("$"):
            if root.rest:
                return True
            nodes.append(root.plus)
        second = tail.partition("/")[0]
        return any(
            node is not None and bool(node.here or node.rest or node.plus or second in node.below) for node in nodes
        )

    def match(self, topic: str) -> list[Value]:
        """Values of every filter that matches. A value under two matching filters comes twice."""
        found: list[Value] = []
        nodes = [self._root]
        # [MQTT-4.7.2-1]: a leading wildcard does not match $-topics.
        wild = not topic.startswith("$")
        for level in topic.split("/"):
            following: list[_Node[Value]] = []
            for node in nodes:
                if wild:
                    if node.rest:
                        found += node.rest
                    if node.plus is not None:
                        following.append(node.plus)
                child = node.below.get(level)
                if child is not None:
                    following.append(child)
            if not following:
                return found
            nodes = following
            wild = True
        for node in nodes:
            if node.here:
                found += node.here
            if node.rest and self._hash_matches_parent:
                found += node.rest
        return found


class TopicTree(Generic[Value]):
    """The other way round: topics with one value each, found by filter. Topics come back in no particular order."""

    def __init__(self, *, hash_matches_parent: bool = True) -> None:
        self._root: dict[str, object] = {}
        self._hash_matches_parent = hash_matches_parent

    def set(self, topic: str, value: Value) -> None:
        """Put a value at a topic, in place of an older one."""
        node = self._root
        for level in topic.split("/"):
            node = node.setdefault(level, {})  # type: ignore[assignment]
        node["/"] = value  # No level can contain a slash, so the key is free for the value.

    def remove(self, topic: str) -> None:
        """Forget a topic; one that is not there is fine."""
        path: list[tuple[dict[str, object], str]] = []
        node = self._root
        for level in topic.split("/"):
            child = node.get(level)
            if child is None:
                return
            path.append((node, level))
            node = child  # type: ignore[assignment]
        node.pop("/", None)
        for parent, level in reversed(path):
            if parent[level]:
                break
            del parent[level]

    def find(self, filter: str) -> list[Value]:
        """Values of every topic that the filter matches."""
        levels = filter.split("/")
        nodes: list[dict[str, object]] = [self._root]
        for place, level in enumerate(levels):
            if level == "#":
                found: list[Value] = []
                for node in nodes:
                    self._collect(node, found, include_here=self._hash_matches_parent, hide_dollar=place == 0)
                return found
            if level == "+":
                nodes = [
                    child  # type: ignore[misc]
                    for node in nodes
                    for name, child in node.items()
                    if name != "/" and not (place == 0 and name.startswith("$"))
                ]
            else:
                nodes = [node[level] for node in nodes if level in node]  # type: ignore[misc]
        return [node["/"] for node in nodes if "/" in node]  # type: ignore[misc]

    def _collect(
        self, node: dict[str, object], found: list[Value], *, include_here: bool, hide_dollar: bool = False
    ) -> None:
        for name, child in node.items():
            if name == "/":
                if include_here:
                    found.append(child)  # type: ignore[arg-type]
            elif not (hide_dollar and name.startswith("$")):
                self._collect(child, found, include_here=True)  # type: ignore[arg-type]
