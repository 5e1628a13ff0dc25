"""Streams and their messages in SQLite: segments, size, time to live, sequence numbers, progress of exports. Shell.

A stream is a row of segments. A message goes to the newest one; when that has `streamSegmentSize` bytes, a new one
begins. Space is made by dropping whole segments, as AWS's stream manager does: the oldest when the stream is full and
may overwrite, and those whose newest message is older than the time to live. What `append` returned survives a kill;
with `flushOnWrite` also a power cut. Memory streams live in a database of their own, in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from foreshore.database import MEMORY as IN_MEMORY
from foreshore.database import Database
from foreshore.errors import UserError
from foreshore.greengrass.stream_manager.definitions import (
    FILE,
    MEMORY,
    OVERWRITE,
    Definition,
    changed_starts,
    read_definition,
)
from foreshore.greengrass.stream_manager.frames import Failure, Status

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stream (
  name TEXT PRIMARY KEY, definition TEXT NOT NULL, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment (
  stream TEXT NOT NULL, number INTEGER NOT NULL, bytes INTEGER NOT NULL, newest_ms INTEGER NOT NULL,
  PRIMARY KEY (stream, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS message (
  stream TEXT NOT NULL, sequence INTEGER NOT NULL, segment INTEGER NOT NULL, ingest_ms INTEGER NOT NULL,
  payload BLOB NOT NULL, PRIMARY KEY (stream, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS export (
  stream TEXT NOT NULL, identifier TEXT NOT NULL, last INTEGER NOT NULL, time_ms INTEGER, error TEXT,
  bytes INTEGER NOT NULL, messages INTEGER NOT NULL, PRIMARY KEY (stream, identifier)) WITHOUT ROWID;
"""


class Message(NamedTuple):
    """One message: its sequence number (from 0), when it was taken in (epoch ms), and its bytes."""

    sequence: int
    ingest_ms: int
    payload: bytes


@dataclass(slots=True)
class Progress:
    """How far an export came; `last` is -1 before the first message."""

    last: int
    time_ms: int | None
    error: str | None
    bytes: int
    messages: int


@dataclass(slots=True)
class Stream:
    """A stream's definition and where it stands. `size` is the sum of its payloads' bytes."""

    definition: Definition
    database: Database
    next: int
    oldest: int
    size: int
    segment: int
    segment_bytes: int


OnDrop = Callable[[Stream, int], None]


class Streams:
    """All streams of one core. `now_ms` arguments are epoch ms. Raises Failure as the protocol's answers."""

    def __init__(self, path: Path) -> None:
        self._file = Database(path, _SCHEMA)
        self._memory = Database(IN_MEMORY, _SCHEMA)
        self._streams: dict[str, Stream] = {}
        # Asked before messages are dropped for their age or for room.
        self.on_drop: OnDrop = lambda stream, segment: None
        for name, text, following in self._file.execute("SELECT name, definition, next FROM stream").fetchall():
            definition = read_definition(json.loads(text))
            if definition.persistence == FILE:
                self._streams[name] = _load(definition, self._file, following)
            else:
                self._streams[name] = self._begin(definition, keep=False)

    def close(self) -> None:
        """Close both databases; a second call does nothing."""
        self._file.close()
        self._memory.close()

    def names(self) -> list[str]:
        """Every stream, by name."""
        return sorted(self._streams)

    def get(self, name: str) -> Stream:
        """One stream. Raises Failure(RESOURCE_NOT_FOUND)."""
        stream = self._streams.get(name)
        if stream is None:
            raise Failure(Status.RESOURCE_NOT_FOUND, f"Message stream {name} does not exist")
        return stream

    def create(self, definition: Definition) -> None:
        """Make a stream; its definition is durable even when its messages are not."""
        if definition.name in self._streams:
            raise Failure(Status.INVALID_REQUEST, f"Message stream {definition.name} already exists")
        self._streams[definition.name] = self._begin(definition, keep=True)

    def _begin(self, definition: Definition, *, keep: bool) -> Stream:
        name = definition.name
        database = self._memory if definition.persistence == MEMORY else self._file
        if keep:
            row = (name, json.dumps(definition.raw), 0)
            self._file.execute("INSERT INTO stream VALUES (?, ?, ?)", row)
        if database is self._memory:
            self._memory.execute("INSERT INTO stream VALUES (?, '', 0)", (name,))
        return Stream(definition, database, 0, 0, 0, 0, 0)

    def update(self, definition: Definition) -> None:
        """Change a stream. Raises Failure(UPDATE_NOT_ALLOWED) for what may not change, INVALID_REQUEST for a bad start.

        Developer guide, "Use StreamManagerClient to work with streams" (constraints on updating streams).
        """
        stream = self.get(definition.name)
        if definition.persistence != stream.definition.persistence:
            raise Failure(Status.UPDATE_NOT_ALLOWED, "The persistence of a message stream can't be changed")
        if definition.max_size < stream.size:
            text = f"maxSize must not be less than the {stream.size} bytes that the stream holds"
            raise Failure(Status.UPDATE_NOT_ALLOWED, text)
        moved = changed_starts(stream.definition, definition)
        for export in moved:
            if export.start is not None and export.start >= stream.next - 1:
                text = f"startSequenceNumber must be less than the newest sequence number, {stream.next - 1}"
                raise Failure(Status.INVALID_REQUEST, text)
        text = json.dumps(definition.raw)
        with self._file.transaction():
            self._file.execute("UPDATE stream SET definition = ? WHERE name = ?", (text, definition.name))
            for export in moved:
                progress = self.progress(definition.name, export.identifier)
                progress.last = (export.start or 0) - 1
                self.note_progress(definition.name, export.identifier, progress)
            self._forget_exports(stream, definition)
        stream.definition = definition

    def _forget_exports(self, stream: Stream, definition: Definition) -> None:
        """An export that an update leaves out is deleted: under the same identifier a later one begins anew."""
        left = {export.identifier for export in definition.exports}
        for export in stream.definition.exports:
            if export.identifier not in left:
                row = (definition.name, export.identifier)
                stream.database.execute("DELETE FROM export WHERE stream = ? AND identifier = ?", row)

    def delete(self, name: str) -> None:
        """Remove a stream with everything in it."""
        stream = self.get(name)
        for database in {id(each): each for each in (self._file, stream.database)}.values():
            with database.transaction():
                for table, column in (
                    ("stream", "name"),
                    ("segment", "stream"),
                    ("message", "stream"),
                    ("export", "stream"),
                ):
                    database.execute(f"DELETE FROM {table} WHERE {column} = ?", (name,))
        del self._streams[name]

    def append(self, name: str, payload: bytes, now_ms: int) -> int:
        """Take a message in; give its sequence number. It is durable when this returns."""
        stream = self.get(name)
        definition, database = stream.definition, stream.database
        if len(payload) > definition.max_size:
            raise Failure(
                Status.REQUEST_PAYLOAD_TOO_LARGE, f"The message is larger than the stream's maxSize of {name}"
            )
        self.expire(stream, now_ms)
        if definition.flush_on_write:
            database.execute("PRAGMA synchronous=FULL")
        try:
            with database.transaction():
                self._make_room(stream, len(payload))
                self._write(stream, payload, now_ms)
        except UserError as error:
            self._streams[name] = _load(definition, database, stream.next)
            raise Failure(Status.MESSAGE_STORE_READ_ERROR, str(error)) from error
        finally:
            if definition.flush_on_write:
                database.execute("PRAGMA synchronous=NORMAL")
        stream.size += len(payload)
        stream.segment_bytes += len(payload)
        stream.next += 1
        return stream.next - 1

    def _write(self, stream: Stream, payload: bytes, now_ms: int) -> None:
        name, database = stream.definition.name, stream.database
        if stream.segment_bytes and stream.segment_bytes + len(payload) > stream.definition.segment_size:
            stream.segment += 1
            stream.segment_bytes = 0
        row = (name, stream.next, stream.segment, now_ms, payload)
        database.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?)", row)
        database.execute(
            "INSERT INTO segment VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes,"
            " newest_ms = excluded.newest_ms",
            (name, stream.segment, len(payload), now_ms),
        )
        database.execute("UPDATE stream SET next = ? WHERE name = ?", (stream.next + 1, name))

    def _make_room(self, stream: Stream, size: int) -> None:
        while stream.size + size > stream.definition.max_size:
            if stream.definition.strategy != OVERWRITE:
                raise Failure(Status.UNKNOWN_FAILURE, f"Message stream {stream.definition.name} is full")
            self._drop_oldest(stream)

    def _drop_oldest(self, stream: Stream) -> None:
        name, database = stream.definition.name, stream.database
        found = database.execute(
            "SELECT number, bytes FROM segment WHERE stream = ? ORDER BY number LIMIT 1", (name,)
        ).fetchone()
        if found is None:
            return
        number, size = found
        self.on_drop(stream, number)
        with database.transaction():
            database.execute("DELETE FROM message WHERE stream = ? AND segment = ?", (name, number))
            database.execute("DELETE FROM segment WHERE stream = ? AND number = ?", (name, number))
        stream.size -= size
        if number == stream.segment:
            stream.segment, stream.segment_bytes = number + 1, 0
        stream.oldest = _oldest(database, name, stream.next)

    def expire(self, stream: Stream, now_ms: int) -> None:
        """Drop the segments whose newest message is older than the time to live."""
        ttl_ms = stream.definition.ttl_ms
        while ttl_ms is not None and stream.size:
            row = stream.database.execute(
                "SELECT newest_ms FROM segment WHERE stream = ? ORDER BY number LIMIT 1", (stream.definition.name,)
            ).fetchone()
            if row is None or row[0] > now_ms - ttl_ms:
                return
            self._drop_oldest(stream)

    def read(self, name: str, start: int, limit: int, max_bytes: int = 32 * 1024 * 1024) -> list[Message]:
        """Messages from `start` (or the oldest there is) on, at most `limit` and about `max_bytes`."""
        stream = self.get(name)
        rows = stream.database.execute(
            "SELECT sequence, ingest_ms, payload FROM message WHERE stream = ? AND sequence >= ?"
            " ORDER BY sequence LIMIT ?",
            (name, start, limit),
        )
        return list(_bounded(rows, max_bytes))

    def segment(self, name: str, number: int) -> list[Message]:
        """The messages of one segment."""
        database = self.get(name).database
        sql = "SELECT sequence, ingest_ms, payload FROM message WHERE stream = ? AND segment = ? ORDER BY sequence"
        return [Message(*row) for row in database.execute(sql, (name, number))]

    def progress(self, name: str, identifier: str) -> Progress:
        """How far an export came."""
        database = self.get(name).database
        row = database.execute(
            "SELECT last, time_ms, error, bytes, messages FROM export WHERE stream = ? AND identifier = ?",
            (name, identifier),
        ).fetchone()
        return Progress(*row) if row else Progress(-1, None, None, 0, 0)

    def note_progress(self, name: str, identifier: str, progress: Progress) -> None:
        """Keep how far an export came. A stream that was deleted meanwhile is fine."""
        stream = self._streams.get(name)
        if stream is not None:
            row = (name, identifier, progress.last, progress.time_ms, progress.error, progress.bytes, progress.messages)
            stream.database.execute("INSERT OR REPLACE INTO export VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _bounded(rows: Iterator[tuple[int, int, bytes]], max_bytes: int) -> Iterator[Message]:
    total = 0
    for row in rows:
        total += len(row[2])
        if total > max_bytes and total != len(row[2]):
            return
        yield Message(*row)


def _oldest(database: Database, name: str, following: int) -> int:
    row = database.execute("SELECT min(sequence) FROM message WHERE stream = ?", (name,)).fetchone()
    return following if row[0] is None else int(row[0])


def _load(definition: Definition, database: Database, following: int) -> Stream:
    name = definition.name
    size, newest = database.execute(
        "SELECT coalesce(sum(bytes), 0), coalesce(max(number), 0) FROM segment WHERE stream = ?", (name,)
    ).fetchone()
    row = database.execute("SELECT bytes FROM segment WHERE stream = ? AND number = ?", (name, newest)).fetchone()
    oldest = _oldest(database, name, following)
    return Stream(definition, database, following, oldest, size, newest, row[0] if row else 0)
