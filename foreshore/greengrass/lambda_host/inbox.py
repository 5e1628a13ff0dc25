"""Delivered messages on their way to the handler: a bounded queue with an end."""

from __future__ import annotations

import logging
import queue
import time

from .wire import Event

log = logging.getLogger("foreshore_lambda_host")
GRACE_S = 4.0


class Inbox:
    """`accept`, `stop` and `lose` may be called by any thread and in signal handlers; one thread calls `next`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stop_at: float | None = None
        self.dropped = 0
        self.lost: str | None = None

    def accept(self, event: Event) -> None:
        """Queue one delivered message, or drop it when the queue is full. Drops are logged at 1, 2, 4, 8 …"""
        if self._queue.qsize() >= self._limit:
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:
                log.warning("queue full (maxQueueSize %d): %d dropped", self._limit, self.dropped)
            return
        self._queue.put(event)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Take no more than what is queued, and that for at most `grace_s` seconds from now."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + grace_s
            self._queue.put(None)

    def lose(self, reason: str) -> None:
        """The connection is gone: end at once."""
        if self._stop_at is None:
            self.lost = reason or "closed by the nucleus"
            self.stop(0)

    def next(self) -> Event | None:
        """The next message, when there is one; None at the end."""
        event = self._queue.get()
        if event is None or (self._stop_at is not None and time.monotonic() > self._stop_at):
            return None
        return event

    @property
    def grace_left_s(self) -> float:
        """How many seconds of the grace given to `stop` are left; 0 when nobody called it."""
        return max(0.0, (self._stop_at or 0.0) - time.monotonic())

    @property
    def waiting(self) -> int:
        """How many messages are queued."""
        return max(0, self._queue.qsize() - (self._stop_at is not None))
