"""The trace store: one SQLite file, `.foreshore/state/traces.db`, written by one process and read by any.

The newest spans and log lines are kept, so many of each; there is no index over the spans: it would cost as much as
they do, and a look through all that are kept takes a moment only.

A span is one step of one message (W3C Trace Context names); all spans of a trace share a 32-hex trace id. Log lines
carry the trace id they belong to, or an empty one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from foreshore.seams import LogLine, Span

SCHEMA = """
CREATE TABLE IF NOT EXISTS spans (
  trace_id TEXT NOT NULL, span_id TEXT NOT NULL, parent_id TEXT NOT NULL, service TEXT NOT NULL, name TEXT NOT NULL,
  start_ns INTEGER NOT NULL, duration_ns INTEGER NOT NULL, ok INTEGER NOT NULL, attributes TEXT);
DROP INDEX IF EXISTS spans_by_trace;
CREATE TABLE IF NOT EXISTS logs (
  time_ns INTEGER NOT NULL, service TEXT NOT NULL, source TEXT NOT NULL, level TEXT NOT NULL, trace_id TEXT NOT NULL,
  text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS logs_by_trace ON logs (trace_id) WHERE trace_id <> '';
"""


class TraceReader:
    """Read-only queries; safe while the recorder writes (WAL)."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0, check_same_thread=False)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def trace(self, trace_id: str) -> list[Span]:
        """All spans whose trace id starts with `trace_id`, in order of start."""
        rows = self._db.execute(
            "SELECT trace_id, span_id, parent_id, service, name, start_ns, duration_ns, ok, attributes FROM spans "
            "WHERE trace_id >= ? AND trace_id < ? ORDER BY start_ns, rowid",
            (trace_id, trace_id + "g"),
        )
        return [_span(row) for row in rows]

    def latest(self, limit: int = 20) -> list[tuple[str, int, int, int, bool, str]]:
        """The last traces: (trace id, first start ns, wall ns, spans, all ok, names joined by ` > `), newest first."""
        found: dict[str, None] = {}
        for (trace_id,) in self._db.execute("SELECT trace_id FROM spans ORDER BY rowid DESC"):
            found[trace_id] = None
            if len(found) >= limit:
                break
        marks = ",".join("?" * len(found))
        rows = self._db.execute(
            "SELECT trace_id, MIN(start_ns), MAX(start_ns + duration_ns) - MIN(start_ns), COUNT(*), MIN(ok), "
            f"GROUP_CONCAT(name, ' > ') FROM spans WHERE trace_id IN ({marks}) GROUP BY trace_id ORDER BY 2 DESC",
            tuple(found),
        )
        return [(r[0], r[1], r[2], r[3], bool(r[4]), r[5]) for r in rows]

    def counts(self) -> list[tuple[str, str, bool, int]]:
        """How many spans each (service, name, ok) has."""
        rows = self._db.execute("SELECT service, name, ok, COUNT(*) FROM spans GROUP BY 1, 2, 3 ORDER BY 1, 2, 3")
        return [(r[0], r[1], bool(r[2]), r[3]) for r in rows]

    def logs(
        self, *, after_row: int = 0, source: str = "", trace_id: str = "", limit: int = 1000
    ) -> Iterator[tuple[int, LogLine]]:
        """Log lines after a row number, oldest first, with their row numbers."""
        where, parameters = ["rowid > ?"], [after_row]  # type: tuple[list[str], list[object]]
        if source:
            where.append("(source GLOB ? OR service GLOB ?)")
            parameters += [source, source]
        if trace_id:
            where.append("trace_id >= ? AND trace_id < ?")
            parameters += [trace_id, trace_id + "g"]
        rows = self._db.execute(
            "SELECT rowid, time_ns, service, source, level, trace_id, text FROM logs WHERE "
            + " AND ".join(where)
            + " ORDER BY rowid LIMIT ?",
            (*parameters, limit),
        )
        for row in rows:
            yield row[0], LogLine(*row[1:])

    def last_log_row(self) -> int:
        """The newest row number, 0 when empty."""
        return int(self._db.execute("SELECT COALESCE(MAX(rowid), 0) FROM logs").fetchone()[0])


def _span(row: Sequence[object]) -> Span:
    attributes = json.loads(str(row[8])) if row[8] else None
    return Span(*row[:7], bool(row[7]), attributes)  # type: ignore[arg-type,call-arg]
