"""Takes spans and log lines from the event loop and writes them in batches from a thread of its own.

`span` and `log` only append to a list: no I/O, no lock beyond the list's. The list is bounded; what does not fit is
counted in `dropped` and reported as a log line, so a flood can't take the memory and is never hidden.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from foreshore.database import Database
from foreshore.errors import UserError
from foreshore.seams import LogLine, Span
from foreshore.traces.store import SCHEMA

FLUSH_SECONDS = 0.2
MAX_PENDING = 200_000
MAX_KEPT = 500_000
"""Spans, and log lines, that the store keeps; the oldest go first, a tenth of that at a time."""

ROWS_AT_ONCE = 16
PAUSE_S = 0.0005
"""Between so many spans the thread lets others have the processor: a batch in one go held messages up for 0.8 ms."""

_random = random.Random(random.SystemRandom().getrandbits(128))


def new_trace_id() -> str:
    """32 lower-case hex digits, never all zero (W3C Trace Context, section 3.2.2.3)."""
    return f"{_random.getrandbits(128) | 1:032x}"


def new_span_id() -> str:
    """16 lower-case hex digits, never all zero."""
    return f"{_random.getrandbits(64) | 1:016x}"


class Recorder:
    """The writing side of the trace store. `listeners` get every span and log line as they come (console, `--json`)."""

    def __init__(self, path: Path, *, max_kept: int = MAX_KEPT) -> None:
        self.path = path
        self.max_kept = max_kept
        Database(path, SCHEMA).close()
        self._spans: list[Span] = []
        self._logs: list[LogLine] = []
        self.dropped = 0
        self.listeners: list[Callable[[Span | LogLine], None]] = []
        self._wake = threading.Event()
        self._stopping = False
        self._flushed = threading.Condition()
        self._written = 0
        self._taken = 0
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def span(self, span: Span) -> None:
        """Record one span."""
        if len(self._spans) < MAX_PENDING:
            self._spans.append(span)
            self._taken += 1
        else:
            self.dropped += 1
        if self.listeners:
            for listener in self.listeners:
                listener(span)

    def log(self, line: LogLine) -> None:
        """Record one log line."""
        if len(self._logs) < MAX_PENDING:
            self._logs.append(line)
            self._taken += 1
        else:
            self.dropped += 1
        if self.listeners:
            for listener in self.listeners:
                listener(line)

    def say(self, service: str, text: str, *, level: str = "INFO", source: str = "", trace_id: str = "") -> None:
        """Record a line of a service's own, stamped now."""
        self.log(LogLine(time.time_ns(), service, source or service, level, trace_id, text))

    def flush(self, timeout: float = 10.0) -> None:
        """Wait until all that was recorded before this call can be read."""
        target = self._taken
        self._wake.set()
        with self._flushed:
            self._flushed.wait_for(lambda: self._written >= target, timeout)

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        database = Database(self.path, SCHEMA)
        while True:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            stopping = self._stopping
            self._write(database)
            if stopping:
                database.close()
                return

    def _forget(self, database: Database, table: str) -> None:
        """Delete the oldest rows once there are a tenth too many; row numbers only grow."""
        first, last = database.execute(f"SELECT MIN(rowid), MAX(rowid) FROM {table}").fetchone()
        if first is not None and last - first >= self.max_kept + self.max_kept // 10:
            database.execute(f"DELETE FROM {table} WHERE rowid <= ?", (last - self.max_kept,))

    def _write(self, database: Database) -> None:
        # Swapping the lists is atomic under the interpreter lock; the loop appends to the new ones from here on.
        spans, self._spans = self._spans, []
        logs, self._logs = self._logs, []
        dropped, self.dropped = self.dropped, 0
        if dropped:
            text = f"{dropped} spans or log lines came faster than they could be written and were dropped"
            logs.append(LogLine(time.time_ns(), "traces", "traces", "WARN", "", text))
        if not spans and not logs:
            return
        try:
            with database.transaction():
                for start in range(0, len(spans), ROWS_AT_ONCE):
                    database.executemany(
                        "INSERT INTO spans VALUES (?,?,?,?,?,?,?,?,?)",
                        (
                            (*s[:8], orjson.dumps(s[8], default=str).decode() if s[8] else None)
                            for s in spans[start : start + ROWS_AT_ONCE]
                        ),
                    )
                    if not self._stopping:
                        time.sleep(PAUSE_S)
                database.executemany("INSERT INTO logs VALUES (?,?,?,?,?,?)", logs)
                self._forget(database, "spans")
                self._forget(database, "logs")
        except UserError as error:
            print(f"foreshore: traces are lost: {error}", file=sys.stderr)
        with self._flushed:
            self._written += len(spans) + len(logs) - bool(dropped)
            self._flushed.notify_all()
