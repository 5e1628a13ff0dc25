"""The durable half of the broker: persistent sessions, their waiting messages and retained messages in SQLite.

Changes are collected and written in one transaction by `commit`, which the broker calls before it writes any
acknowledgement to a socket: what was acknowledged survives kill -9. A message that is queued and acknowledged within
one loop turn never reaches the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from foreshore.database import Database
from foreshore.iot.mqtt.session import Delivery, Message, Session, Subscription

SCHEMA = """
CREATE TABLE IF NOT EXISTS mqtt_sessions (
  client_id TEXT PRIMARY KEY, expiry_s INTEGER NOT NULL, ended_ms INTEGER, principal TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS mqtt_subscriptions (
  client_id TEXT NOT NULL, filter TEXT NOT NULL, qos INTEGER NOT NULL, no_local INTEGER NOT NULL,
  retain_as_published INTEGER NOT NULL, retain_handling INTEGER NOT NULL, identifier INTEGER NOT NULL,
  share TEXT, PRIMARY KEY (client_id, filter)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mqtt_messages (
  id INTEGER PRIMARY KEY, field BLOB NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL, retain INTEGER NOT NULL,
  properties BLOB NOT NULL, expires_ms INTEGER, sent_ms INTEGER NOT NULL, traceparent TEXT);
CREATE TABLE IF NOT EXISTS mqtt_queue (
  id INTEGER PRIMARY KEY, client_id TEXT NOT NULL, message INTEGER NOT NULL, qos INTEGER NOT NULL,
  retain INTEGER NOT NULL, ids TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS mqtt_queue_client ON mqtt_queue (client_id);
CREATE TABLE IF NOT EXISTS mqtt_retained (
  topic TEXT PRIMARY KEY, field BLOB NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL, properties BLOB NOT NULL,
  expires_ms INTEGER, sent_ms INTEGER NOT NULL);
"""


class Stored(NamedTuple):
    """A session as it was read back. `ended_ms` is None when the broker was killed while it was connected."""

    session: Session
    ended_ms: int | None


class Store:
    """Collects changes; `is_pending` tells whether `commit` has something to write."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.connection.executescript(SCHEMA)
        self._message_id = self._largest("mqtt_messages")
        self._queue_id = self._largest("mqtt_queue")
        self._messages: dict[int, tuple[object, ...]] = {}
        self._dead_messages: list[tuple[int]] = []
        self._queued: dict[int, tuple[object, ...]] = {}
        self._settled: list[tuple[int]] = []
        self._others: list[tuple[str, tuple[object, ...]]] = []
        self.is_pending = False

    def _largest(self, table: str) -> int:
        return int(self._database.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0])

    def enqueue(self, client_id: str, message: Message, qos: int, retain: bool, ids: tuple[int, ...]) -> int:
        """Note a delivery that waits for its client; give its row."""
        if not message.row:
            self._message_id += 1
            message.row = self._message_id
            self._messages[message.row] = (
                message.row, message.field, message.payload, message.qos, message.retain, message.properties,
                message.expires_ms, message.sent_ms, message.traceparent,
            )  # fmt: skip
        message.refs += 1
        self._queue_id += 1
        text = " ".join(map(str, ids)) if ids else ""
        self._queued[self._queue_id] = (self._queue_id, client_id, message.row, qos, retain, text)
        self.is_pending = True
        return self._queue_id

    def settle(self, delivery: Delivery) -> None:
        """Forget a delivery that was acknowledged or dropped, and its message with the last of them."""
        message = delivery.message
        if self._queued.pop(delivery.row, None) is None:
            self._settled.append((delivery.row,))
            self.is_pending = True
        message.refs -= 1
        if not message.refs:
            if self._messages.pop(message.row, None) is None:
                self._dead_messages.append((message.row,))
            message.row = 0

    def save_session(self, session: Session, ended_ms: int | None) -> None:
        """Write a session's own row."""
        session.is_kept = True
        self._later(
            "INSERT OR REPLACE INTO mqtt_sessions VALUES (?,?,?,?)",
            (session.client_id, session.expiry_s, ended_ms, session.principal),
        )

    def drop_session(self, session: Session) -> None:
        """Forget a session; its queued deliveries must have been settled."""
        session.is_kept = False
        self._later("DELETE FROM mqtt_sessions WHERE client_id=?", (session.client_id,))
        self._later("DELETE FROM mqtt_subscriptions WHERE client_id=?", (session.client_id,))

    def save_subscription(self, one: Subscription) -> None:
        """Write a subscription of a persistent session."""
        self._later(
            "INSERT OR REPLACE INTO mqtt_subscriptions VALUES (?,?,?,?,?,?,?,?)",
            (
                one.session.client_id, one.filter, one.qos, one.no_local, one.retain_as_published, one.retain_handling,
                one.identifier, one.group,
            ),
        )  # fmt: skip

    def drop_subscription(self, one: Subscription) -> None:
        """Forget a subscription."""
        self._later(
            "DELETE FROM mqtt_subscriptions WHERE client_id=? AND filter=?", (one.session.client_id, one.filter)
        )

    def retain(self, topic: str, message: Message) -> None:
        """Write a retained message; an empty payload removes it."""
        if message.payload:
            self._later(
                "INSERT OR REPLACE INTO mqtt_retained VALUES (?,?,?,?,?,?,?)",
                (
                    topic, message.field, message.payload, message.qos, message.properties, message.expires_ms,
                    message.sent_ms,
                ),
            )  # fmt: skip
        else:
            self._later("DELETE FROM mqtt_retained WHERE topic=?", (topic,))

    def _later(self, sql: str, parameters: tuple[object, ...]) -> None:
        self._others.append((sql, parameters))
        self.is_pending = True

    def commit(self) -> None:
        """Write all that is pending in one transaction."""
        if not self.is_pending:
            return
        database = self._database
        with database.transaction():
            for sql, parameters in self._others:
                database.execute(sql, parameters)
            if self._messages:
                database.executemany("INSERT INTO mqtt_messages VALUES (?,?,?,?,?,?,?,?,?)", self._messages.values())
            if self._queued:
                database.executemany("INSERT INTO mqtt_queue VALUES (?,?,?,?,?,?)", self._queued.values())
            if self._settled:
                database.executemany("DELETE FROM mqtt_queue WHERE id=?", self._settled)
            if self._dead_messages:
                database.executemany("DELETE FROM mqtt_messages WHERE id=?", self._dead_messages)
        self._others.clear()
        self._settled.clear()
        self._dead_messages.clear()
        self._messages.clear()
        self._queued.clear()
        self.is_pending = False

    # Reading back

    def retained(self) -> Iterator[tuple[str, Message]]:
        """Every retained message with its topic."""
        for topic, *rest in self._database.execute("SELECT * FROM mqtt_retained"):
            field, payload, qos, properties, expires_ms, sent_ms = rest
            yield topic, Message(field, payload, qos, True, properties, expires_ms, None, sent_ms)

    def sessions(self) -> list[Stored]:
        """Every session with its subscriptions and its queue, in the order the messages came."""
        stored: dict[str, Stored] = {}
        for client_id, expiry_s, ended_ms, principal in self._database.execute("SELECT * FROM mqtt_sessions"):
            session = Session(client_id, expiry_s)
            session.principal = principal
            session.is_kept = True
            stored[client_id] = Stored(session, ended_ms)
        for row in self._database.execute("SELECT * FROM mqtt_subscriptions"):
            client_id, filter, qos, no_local, as_published, handling, identifier, group = row
            if client_id in stored:
                session = stored[client_id].session
                session.subscriptions[filter] = Subscription(
                    session, filter, qos, no_local=bool(no_local), retain_as_published=bool(as_published),
                    retain_handling=handling, identifier=identifier, group=group,
                )  # fmt: skip
        self._read_queue(stored)
        return list(stored.values())

    def _read_queue(self, stored: dict[str, Stored]) -> None:
        messages: dict[int, Message] = {}
        for row in self._database.execute("SELECT * FROM mqtt_messages"):
            row_id, field, payload, qos, retain, properties, expires_ms, sent_ms, traceparent = row
            message = Message(field, payload, qos, bool(retain), properties, expires_ms, None, sent_ms)
            message.row, message.traceparent = row_id, traceparent
            messages[row_id] = message
        for row in self._database.execute("SELECT * FROM mqtt_queue ORDER BY id"):
            row_id, client_id, message_id, qos, retain, ids = row
            entry, waiting = stored.get(client_id), messages.get(message_id)
            if entry is None or waiting is None:
                self._settled.append((row_id,))
                self.is_pending = True
                continue
            waiting.refs += 1
            delivery = Delivery(waiting, qos, bool(retain), tuple(map(int, ids.split())), row_id)
            entry.session.push(delivery, 1 << 30, 1 << 40)
        orphans = [(row_id,) for row_id, message in messages.items() if not message.refs]
        self._dead_messages += orphans
        self.is_pending = self.is_pending or bool(orphans)
