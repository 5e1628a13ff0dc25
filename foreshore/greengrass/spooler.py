"""Messages on their way to IoT Core: kept while the link is away, sent in order when it is back. No I/O but SQLite's.

Rules (developer guide, "Greengrass nucleus" component, `mqtt.spooler`): storageType Memory or Disk, maxSizeInBytes
2.5 MiB, keepQos0WhenOffline false. When the store is full, the oldest QoS 0 messages make room; if that is not enough
the new message is refused. With Disk, a message is on disk before its publisher is answered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from foreshore.database import Database
from foreshore.errors import AwsError
from foreshore.seams import Publication

DEFAULT_MAX_BYTES = 2_621_440
_SCHEMA = """
CREATE TABLE IF NOT EXISTS spool (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL,
    properties BLOB NOT NULL
) STRICT;
"""


class SpoolerSettings(NamedTuple):
    """`mqtt.spooler` of the nucleus' configuration. Foreshore keeps to disk unless Memory is asked for."""

    to_disk: bool = True
    max_bytes: int = DEFAULT_MAX_BYTES
    keep_qos0_when_offline: bool = False


def read_settings(nucleus: Mapping[str, Any]) -> SpoolerSettings:
    """Read the nucleus component's configuration; names compare without case, absent ones have their defaults."""
    spooler = _member(_member(nucleus, "mqtt"), "spooler")
    values = {str(key).lower(): value for key, value in spooler.items()} if isinstance(spooler, Mapping) else {}
    return SpoolerSettings(
        str(values.get("storagetype", "Disk")).lower() != "memory",
        size_of(values.get("maxsizeinbytes"), DEFAULT_MAX_BYTES),
        str(values.get("keepqos0whenoffline", False)).lower() == "true",
    )


def size_of(value: object, default: int) -> int:
    """A size in a configuration: a number of bytes, or its digits; anything else is the default."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53:
        return int(value)
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else default


def _member(document: object, name: str) -> object:
    if not isinstance(document, Mapping):
        return None
    return next((value for key, value in document.items() if str(key).lower() == name), None)


class Spooler:
    """The queue. Ids grow; `peek` gives the next message that is not in flight, `acknowledge` forgets one."""

    def __init__(self, path: Path | None, settings: SpoolerSettings) -> None:
        self.settings = settings
        self._messages: OrderedDict[int, Publication] = OrderedDict()
        self._in_flight: set[int] = set()
        self._next = 1
        self.size = 0
        self._database = Database(path, _SCHEMA) if path is not None and settings.to_disk else None
        if self._database is not None:
            for row in self._database.execute("SELECT id, topic, payload, qos, properties FROM spool ORDER BY id"):
                self._hold(row[0], _read(*row[1:]))

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, publication: Publication, *, online: bool) -> int:
        """Keep a message and give its id. Raises AwsError when it can't be kept."""
        settings = self.settings
        if publication.qos == 0 and not online and not settings.keep_qos0_when_offline:
            raise AwsError("SpoolerStoreException", "Device is offline. Dropping QoS 0 message.")
        size = len(publication.payload)
        if size > settings.max_bytes:
            raise AwsError("SpoolerStoreException", "Message is larger than the size of message spool.")
        if self.size + size > settings.max_bytes:
            self._make_room(size)
        number = self._next if self._database is None else self._store(self._database, publication)
        self._hold(number, publication)
        return number

    def _make_room(self, size: int) -> None:
        """Drop the oldest QoS 0 messages, but only when that makes room enough."""
        dropped: list[int] = []
        freed = 0
        for number, message in self._messages.items():
            if self.size - freed + size <= self.settings.max_bytes:
                break
            if message.qos == 0 and number not in self._in_flight:
                dropped.append(number)
                freed += len(message.payload)
        if self.size - freed + size > self.settings.max_bytes:
            raise AwsError("SpoolerStoreException", "Message spool is full. Message could not be added.")
        for number in dropped:
            self.acknowledge(number)

    def _store(self, database: Database, publication: Publication) -> int:
        row = (publication.topic, publication.payload, publication.qos, orjson.dumps(_properties(publication)))
        cursor = database.execute("INSERT INTO spool (topic, payload, qos, properties) VALUES (?, ?, ?, ?)", row)
        return int(cursor.lastrowid or 0)

    def _hold(self, number: int, publication: Publication) -> None:
        self._messages[number] = publication
        self.size += len(publication.payload)
        self._next = number + 1

    def take(self) -> tuple[int, Publication] | None:
        """The oldest message that is not in flight, now in flight; None when there is none."""
        if len(self._in_flight) == len(self._messages):
            return None
        for number, message in self._messages.items():
            if number not in self._in_flight:
                self._in_flight.add(number)
                return number, message
        return None

    def give_back(self, number: int) -> None:
        """A message was not acknowledged: it keeps its place."""
        self._in_flight.discard(number)

    def acknowledge(self, number: int) -> None:
        """Forget a message; a second time is fine."""
        message = self._messages.pop(number, None)
        self._in_flight.discard(number)
        if message is not None:
            self.size -= len(message.payload)
            if self._database is not None:
                self._database.execute("DELETE FROM spool WHERE id = ?", (number,))

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()


def _properties(publication: Publication) -> dict[str, object]:
    return {
        "retain": publication.retain,
        "timestamp_ms": publication.timestamp_ms,
        "traceparent": publication.traceparent,
        "content_type": publication.content_type,
        "response_topic": publication.response_topic,
        "correlation_data": publication.correlation_data.hex() if publication.correlation_data is not None else None,
        "payload_format": publication.payload_format,
        "message_expiry_s": publication.message_expiry_s,
        "user_properties": publication.user_properties,
    }


def _read(topic: str, payload: bytes, qos: int, properties: bytes) -> Publication:
    values = orjson.loads(properties)
    correlation = values.pop("correlation_data")
    values["correlation_data"] = bytes.fromhex(correlation) if correlation is not None else None
    values["user_properties"] = [(key, value) for key, value in values["user_properties"]]
    return Publication(topic, payload, qos=qos, **values)
