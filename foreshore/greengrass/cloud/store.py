"""What the greengrassv2 API keeps: JSON documents by kind and id in one SQLite file. Pure but for that file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from foreshore.database import Database

SCHEMA = """CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID"""
_LAST = "\U0010ffff"
Item = dict[str, Any]
Say = Callable[[str, str], None]
"""`(level, text)` writes a log line."""


class Store:
    """Documents by kind and id; every write is one commit unless it stands in `transaction`."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, SCHEMA)

    def get(self, kind: str, key: str) -> Item | None:
        """One document."""
        row = self.database.execute("SELECT body FROM documents WHERE kind = ? AND id = ?", (kind, key)).fetchone()
        return None if row is None else orjson.loads(row[0])

    def put(self, kind: str, key: str, body: Item) -> None:
        """Write a document, over the one that is there."""
        self.database.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (kind, key, orjson.dumps(body)))

    def delete(self, kind: str, key: str) -> None:
        """Delete a document, if it is there."""
        self.database.execute("DELETE FROM documents WHERE kind = ? AND id = ?", (kind, key))

    def all(self, kind: str, prefix: str = "") -> list[Item]:
        """The documents whose id begins with `prefix`, by id."""
        rows = self.database.execute(
            "SELECT body FROM documents WHERE kind = ? AND id >= ? AND id < ? ORDER BY id",
            (kind, prefix, prefix + _LAST),
        )
        return [orjson.loads(row[0]) for row in rows]


@dataclass(frozen=True, slots=True)
class Ground:
    """What every part of the API stands on: the store, names for ARNs, a clock (s since 1970) and new ids."""

    store: Store
    region: str
    account: str
    clock: Callable[[], float]
    new_id: Callable[[], str]

    def job_arn(self, job: str) -> str:
        """The ARN of the IoT job that carries a deployment."""
        return f"arn:aws:iot:{self.region}:{self.account}:job/{job}"

    def arn(self, rest: str) -> str:
        """`arn:aws:greengrass:<region>:<account>:<rest>`."""
        return f"arn:aws:greengrass:{self.region}:{self.account}:{rest}"
