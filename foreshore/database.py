"""One SQLite file in WAL mode: the durable half of every room (`.foreshore/state/<room>.db`).

WAL with synchronous=NORMAL survives kill -9 of the process at any point (SQLite, "Write-Ahead Logging", section 2.3);
`full=True` also survives a power cut, at one fsync a commit. Calls are synchronous and meant for one thread: a commit
without fsync costs tens of microseconds, less than a hop to a worker thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from foreshore.errors import UserError

MEMORY = Path(":memory:")


class Database:
    """A connection with explicit transactions. `schema` is idempotent SQL (CREATE TABLE IF NOT EXISTS …)."""

    def __init__(self, path: Path, schema: str, *, full: bool = False) -> None:
        self.path = path
        try:
            if path != MEMORY:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.connection = sqlite3.connect(path, isolation_level=None, cached_statements=256, timeout=5.0)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self.connection.executescript(schema)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(path, error) from error

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run one statement. A write outside `transaction` commits at once."""
        try:
            return self.connection.execute(sql, parameters)
        except sqlite3.OperationalError as error:
            raise _unusable(self.path, error) from error

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for many rows."""
        try:
            self.connection.executemany(sql, rows)
        except sqlite3.OperationalError as error:
            raise _unusable(self.path, error) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Nested use joins the outer transaction."""
        if self.connection.in_transaction:
            yield
            return
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def close(self) -> None:
        """Close; a second call does nothing."""
        self.connection.close()


def _unusable(path: Path, error: Exception) -> Exception:
    """A full disk or an unwritable folder is the user's to mend; any other SQL error is a bug and passes as it is."""
    text = str(error)
    mends = {
        "full": "free some space, or choose another folder with -C",
        "readonly": "make the file writable",
        "unable to open": "make the folder writable",
        "malformed": "restore it from a copy, or start anew with `foreshore state reset`",
        "not a database": "restore it from a copy, or start anew with `foreshore state reset`",
        "locked": "another foreshore is using this folder: stop it first",
    }
    if isinstance(error, OSError):
        return UserError(
            f"can't keep state: {error.strerror}",
            code="state-unusable",
            where=str(path),
            mend="free some space or make the folder writable",
        )
    for sign, mend in mends.items():
        if sign in text:
            return UserError(f"can't keep state: {text}", code="state-unusable", where=str(path), mend=mend)
    return error
