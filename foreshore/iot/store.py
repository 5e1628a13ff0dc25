"""Where the control plane keeps its resources: documents by kind and name, links between them, and tags.

Everything is written through to SQLite (`state/iot.db`) at once and read from memory. A document is a JSON object in
the shape the service answers with, so that what AWS calls a resource is one row. Knows no AWS rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from foreshore.database import Database

Document = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS resource (kind TEXT, name TEXT, document BLOB NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS link (kind TEXT, a TEXT, b TEXT, note TEXT NOT NULL, PRIMARY KEY (kind, a, b)) WITHOUT ROWID;
"""  # noqa: E501


class Kind:
    """All resources of one kind by name. `names()` is sorted, as AWS's list operations are paged."""

    def __init__(self, database: Database, kind: str) -> None:
        self._database = database
        self._kind = kind
        rows = database.execute("SELECT name, document FROM resource WHERE kind = ?", (kind,))
        self._documents: dict[str, Document] = {name: orjson.loads(document) for name, document in rows}

    def __contains__(self, name: str) -> bool:
        return name in self._documents

    def __len__(self) -> int:
        return len(self._documents)

    def get(self, name: str) -> Document | None:
        """The document, not to be changed without `put`."""
        return self._documents.get(name)

    def put(self, name: str, document: Document) -> None:
        """Write a document under a name, new or not."""
        self._database.execute(
            "INSERT INTO resource VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET document = excluded.document",
            (self._kind, name, orjson.dumps(document)),
        )
        self._documents[name] = document

    def delete(self, name: str) -> None:
        """Remove a document; none is fine."""
        self._database.execute("DELETE FROM resource WHERE kind = ? AND name = ?", (self._kind, name))
        self._documents.pop(name, None)

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._documents)

    def values(self) -> list[Document]:
        """Every document, in the order of names."""
        return [self._documents[name] for name in self.names()]


class Links:
    """A many-to-many relation between names, with a short note on each pair."""

    def __init__(self, database: Database, kind: str) -> None:
        self._database = database
        self._kind = kind
        self._of: dict[str, dict[str, str]] = {}
        self._to: dict[str, dict[str, str]] = {}
        for a, b, note in database.execute("SELECT a, b, note FROM link WHERE kind = ?", (kind,)):
            self._remember(a, b, note)

    def _remember(self, a: str, b: str, note: str) -> None:
        self._of.setdefault(a, {})[b] = note
        self._to.setdefault(b, {})[a] = note

    def add(self, a: str, b: str, note: str = "") -> None:
        """Join two names; a pair that is there gets the new note."""
        self._database.execute(
            "INSERT INTO link VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET note = excluded.note",
            (self._kind, a, b, note),
        )
        self._remember(a, b, note)

    def remove(self, a: str, b: str) -> bool:
        """Part two names; tells whether they were joined."""
        self._database.execute("DELETE FROM link WHERE kind = ? AND a = ? AND b = ?", (self._kind, a, b))
        self._to.get(b, {}).pop(a, None)
        return self._of.get(a, {}).pop(b, None) is not None

    def has(self, a: str, b: str) -> bool:
        """Whether the two are joined."""
        return b in self._of.get(a, {})

    def note(self, a: str, b: str) -> str:
        """The pair's note, or ""."""
        return self._of.get(a, {}).get(b, "")

    def of(self, a: str) -> list[str]:
        """What `a` is joined to, sorted."""
        return sorted(self._of.get(a, ()))

    def to(self, b: str) -> list[str]:
        """What is joined to `b`, sorted."""
        return sorted(self._to.get(b, ()))

    def drop(self, a: str) -> None:
        """Part `a` from everything."""
        for b in self.of(a):
            self.remove(a, b)

    def drop_to(self, b: str) -> None:
        """Part everything from `b`."""
        for a in self.to(b):
            self.remove(a, b)


@dataclass(frozen=True, slots=True)
class Arns:
    """ARNs of one region and account."""

    region: str
    account: str

    def iot(self, rest: str) -> str:
        """`arn:aws:iot:<region>:<account>:<rest>`."""
        return f"arn:aws:iot:{self.region}:{self.account}:{rest}"


@dataclass(slots=True)
class Ground:
    """What every part of the control plane is built on. `changed` is called when an access decision may differ."""

    database: Database
    arns: Arns
    clock: Callable[[], float]
    new_id: Callable[[], str]
    listeners: list[Callable[[], None]] = field(default_factory=list)
    _kinds: dict[str, Kind] = field(default_factory=dict)
    _links: dict[str, Links] = field(default_factory=dict)

    def kind(self, name: str) -> Kind:
        """The resources of a kind; the same object for everybody."""
        if name not in self._kinds:
            self._kinds[name] = Kind(self.database, name)
        return self._kinds[name]

    def links(self, name: str) -> Links:
        """A relation; the same object for everybody."""
        if name not in self._links:
            self._links[name] = Links(self.database, name)
        return self._links[name]

    def changed(self) -> None:
        """Tell every listener that policies, certificates or attachments are not what they were."""
        for listener in self.listeners:
            listener()


def open_database(path: Path) -> Database:
    """Open `iot.db`; `foreshore.database.MEMORY` for tests."""
    return Database(path, _SCHEMA)


def tag_map(tags: list[Document] | None) -> dict[str, str]:
    """AWS's list of {Key, Value} as a dict."""
    return {tag["Key"]: tag.get("Value", "") for tag in tags or ()}


class Tags:
    """Tags by ARN."""

    def __init__(self, ground: Ground) -> None:
        self._kind = ground.kind("tags")

    def set(self, arn: str, tags: list[Document] | None) -> None:
        """Add or replace tags."""
        if tags:
            self._kind.put(arn, {**(self._kind.get(arn) or {}), **tag_map(tags)})

    def remove(self, arn: str, keys: list[str]) -> None:
        """Take tags away."""
        left = {key: value for key, value in (self._kind.get(arn) or {}).items() if key not in keys}
        self._kind.put(arn, left)

    def drop(self, arn: str) -> None:
        """Forget a deleted resource."""
        self._kind.delete(arn)

    def of(self, arn: str) -> Iterator[Document]:
        """The tags as AWS lists them."""
        for key, value in sorted((self._kind.get(arn) or {}).items()):
            yield {"Key": key, "Value": value}
