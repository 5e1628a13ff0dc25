"""Shadows on the core's disk: documents, the versions of deleted ones, and what was last in step with the cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from foreshore.database import Database
from foreshore.greengrass.shadows import Document

_SCHEMA = """
CREATE TABLE IF NOT EXISTS shadow (
    thing TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, document BLOB, base BLOB,
    PRIMARY KEY (thing, name)
) STRICT;
"""


class ShadowStore:
    """One core's shadows. The classic shadow's name is ""."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA)

    def read(self, thing: str, name: str) -> tuple[Document | None, int]:
        """(document or None, the newest version the shadow ever had)."""
        sql = "SELECT version, document FROM shadow WHERE thing = ? AND name = ?"
        row = self._database.execute(sql, (thing, name)).fetchone()
        if row is None:
            return None, 0
        version, record = row
        if record is None:
            return None, version
        state, metadata = orjson.loads(record)
        return Document(state, metadata, version), version

    def write(self, thing: str, name: str, document: Document) -> None:
        """Keep a document."""
        self._put(thing, name, document.version, orjson.dumps([document.state, document.metadata]))

    def delete(self, thing: str, name: str, version: int) -> None:
        """Forget a document but not its version (a new one goes on from there)."""
        self._put(thing, name, version, None)

    def _put(self, thing: str, name: str, version: int, record: bytes | None) -> None:
        self._database.execute(
            "INSERT INTO shadow (thing, name, version, document) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET version = excluded.version, document = excluded.document",
            (thing, name, version, record),
        )

    def names(self, thing: str) -> list[str]:
        """Named shadows of a thing, sorted."""
        sql = "SELECT name FROM shadow WHERE thing = ? AND name != '' AND document IS NOT NULL ORDER BY name"
        return [str(row[0]) for row in self._database.execute(sql, (thing,))]

    def base(self, thing: str, name: str) -> dict[str, Any] | None:
        """The state on which device and cloud last agreed, or None."""
        row = self._database.execute("SELECT base FROM shadow WHERE thing = ? AND name = ?", (thing, name)).fetchone()
        return orjson.loads(row[0]) if row is not None and row[0] is not None else None

    def set_base(self, thing: str, name: str, state: dict[str, Any] | None) -> None:
        """Note what both sides agree on."""
        self._database.execute(
            "INSERT INTO shadow (thing, name, version, base) VALUES (?, ?, 0, ?) "
            "ON CONFLICT DO UPDATE SET base = excluded.base",
            (thing, name, None if state is None else orjson.dumps(state)),
        )

    def close(self) -> None:
        """Close the file."""
        self._database.close()
