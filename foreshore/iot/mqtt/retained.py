"""Retained messages by topic, found by exact topic or by filter (MQTT 5, section 3.3.1.3). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from foreshore.iot.mqtt.session import Message
from foreshore.iot.mqtt.topics import TopicTree, has_wildcard


class Retained:
    """At most one message a topic."""

    def __init__(self, *, hash_matches_parent: bool) -> None:
        self._messages: dict[str, Message] = {}
        self._tree: TopicTree[Message] = TopicTree(hash_matches_parent=hash_matches_parent)

    def __len__(self) -> int:
        return len(self._messages)

    def set(self, topic: str, message: Message) -> None:
        """Keep a message in place of the topic's older one [MQTT-3.3.1-5]; an empty payload removes [MQTT-3.3.1-6]."""
        if message.payload:
            self._messages[topic] = message
            self._tree.set(topic, message)
        elif self._messages.pop(topic, None) is not None:
            self._tree.remove(topic)

    def get(self, topic: str, now_ms: int) -> Message | None:
        """The topic's message unless it has expired; an expired one is forgotten."""
        message = self._messages.get(topic)
        if message is not None and message.is_expired(now_ms):
            self.forget(topic)
            return None
        return message

    def forget(self, topic: str) -> None:
        """Remove a topic's message."""
        if self._messages.pop(topic, None) is not None:
            self._tree.remove(topic)

    def find(self, filter: str, now_ms: int) -> list[Message]:
        """Messages of every topic that a filter matches."""
        if not has_wildcard(filter):
            message = self.get(filter, now_ms)
            return [message] if message else []
        return [message for message in self._tree.find(filter) if not message.is_expired(now_ms)]

    def topics(self, now_ms: int) -> Iterator[tuple[str, Message]]:
        """All that have not expired, in the order they were first written."""
        for topic, message in list(self._messages.items()):
            if not message.is_expired(now_ms):
                yield topic, message
