"""Log entries gathered and put into CloudWatch Logs of the backend. Shell.

Entries wait a moment for one another, so that a crowd is one call; what can't be written is counted and said, and holds
nobody up. Source: CloudWatch Logs API reference, PutLogEvents (at most 10,000 events and 1 MiB a call).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

from foreshore.background import Background
from foreshore.iot.rules.actions.aws import Aws
from foreshore.iot.rules.actions.cloudwatch import MAX_EVENTS, make_log_stream, put_log_events
from foreshore.iot.rules.actions.failures import ActionFailed

GATHER_S = 0.2
MAX_WAITING = 20_000
MAX_BYTES = 1_000_000
_OVERHEAD = 26
"""Bytes that each event counts beyond its message."""


class Entry(NamedTuple):
    """One entry for a log group, at epoch milliseconds."""

    group: str
    timestamp_ms: int
    text: str


class LogWriter:
    """Writes to one stream in each log group. `warn` is told what can't be written, once for each reason."""

    def __init__(self, aws: Aws, stream: str, warn: Callable[[str], None]) -> None:
        self._aws = aws
        self._stream = stream
        self._warn = warn
        self._waiting: deque[Entry] = deque(maxlen=MAX_WAITING)
        self._wanted = asyncio.Event()
        self._work = Background()
        self._made: set[str] = set()
        self._told: set[str] = set()
        self._is_stopped = False

    def put(self, entry: Entry) -> None:
        """Write an entry soon; the oldest go when too many wait."""
        if self._is_stopped:
            return
        self._waiting.append(entry)
        self._work.start(self._write)
        self._wanted.set()

    async def stop(self) -> None:
        """Write what waits, and end; what comes later is not written."""
        self._is_stopped = True
        await self._work.stop()
        await self.flush()

    async def _write(self) -> None:
        while True:
            await self._wanted.wait()
            await asyncio.sleep(GATHER_S)
            self._wanted.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write everything that waits now."""
        entries = sorted(self._waiting)
        self._waiting.clear()
        for group, each in groupby(entries, key=lambda entry: entry.group):
            for batch in _batches(list(each)):
                try:
                    await self._put(group, batch)
                except ActionFailed as error:
                    if str(error) not in self._told:
                        self._told.add(str(error))
                        self._warn(f"log entries for {group} are lost: {error}")

    async def _put(self, group: str, events: list[dict[str, Any]]) -> None:
        if group not in self._made:
            await make_log_stream(self._aws, group, self._stream, with_group=True)
            self._made.add(group)
        try:
            await put_log_events(self._aws, group, self._stream, events)
        except ActionFailed:
            # The backend may have lost the group; the next batch makes it anew.
            self._made.discard(group)
            raise


def _batches(entries: list[Entry]) -> list[list[dict[str, Any]]]:
    batches: list[list[dict[str, Any]]] = []
    left = 0
    for entry in entries:
        size = len(entry.text.encode()) + _OVERHEAD
        if size > left or len(batches[-1]) >= MAX_EVENTS:
            batches.append([])
            left = MAX_BYTES
        batches[-1].append({"timestamp": entry.timestamp_ms, "message": entry.text})
        left -= size
    return batches
