"""Keeps component configuration in SQLite: one row a component, written in the transaction that a change belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import orjson

from foreshore.database import Database
from foreshore.greengrass.configuration import Branch, from_record, to_record

_SCHEMA = "CREATE TABLE IF NOT EXISTS configuration (component TEXT PRIMARY KEY, tree BLOB NOT NULL) STRICT;"


class ConfigurationJournal:
    """The durable side of a `Configuration`."""

    def __init__(self, path: Path, *, case_sensitive: bool) -> None:
        self._database = Database(path, _SCHEMA)
        self._case_sensitive = case_sensitive

    def load(self) -> list[tuple[str, Branch]]:
        """Every component's tree."""
        trees = []
        for name, record in self._database.execute("SELECT component, tree FROM configuration ORDER BY component"):
            tree = from_record(orjson.loads(record), case_sensitive=self._case_sensitive)
            if isinstance(tree, Branch):
                trees.append((name, tree))
        return trees

    def save(self, trees: Mapping[str, Branch | None]) -> None:
        """Write all or nothing; on return it survives kill -9."""
        with self._database.transaction():
            for name, tree in trees.items():
                if tree is None:
                    self._database.execute("DELETE FROM configuration WHERE component = ?", (name,))
                else:
                    record = orjson.dumps(to_record(tree))
                    self._database.execute("INSERT OR REPLACE INTO configuration VALUES (?, ?)", (name, record))

    def close(self) -> None:
        """Close the file."""
        self._database.close()
