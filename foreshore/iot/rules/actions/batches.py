"""Messages gathered until a batch is full, old or large enough, then sent by one of those who wait for it. Shell.

`http` and `influxDB` batch so (developer guide, "HTTP", batchConfig). Each caller gets the outcome of its own batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

Send = Callable[[list[Any]], Awaitable[None]]


@dataclass(slots=True)
class _Open:
    """A batch that still takes messages."""

    send: Send
    done: asyncio.Future[None]
    items: list[Any] = field(default_factory=list)
    size: int = 0
    timer: asyncio.TimerHandle | None = None


class Batches:
    """Open batches by key. `tasks` holds those being sent."""

    def __init__(self) -> None:
        self._open: dict[Hashable, _Open] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(
        self, key: Hashable, item: Any, size: int, send: Send, *, most: int, open_ms: int, most_bytes: int
    ) -> None:
        """Put an item into the batch of `key` and wait until it is sent. Raises what `send` raises."""
        batch = self._open.get(key)
        if batch is not None and batch.size + size > most_bytes:
            self._close(key)
            batch = None
        loop = asyncio.get_running_loop()
        if batch is None:
            batch = self._open[key] = _Open(send, loop.create_future())
            batch.timer = loop.call_later(open_ms / 1000, self._close, key)
        batch.items.append(item)
        batch.size += size
        if len(batch.items) >= most:
            self._close(key)
        await asyncio.shield(batch.done)

    def _close(self, key: Hashable) -> None:
        batch = self._open.pop(key, None)
        if batch is None:
            return
        if batch.timer is not None:
            batch.timer.cancel()
        task = asyncio.ensure_future(self._send(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, batch: _Open) -> None:
        try:
            await batch.send(batch.items)
        except Exception as error:
            if not batch.done.done():
                batch.done.set_exception(error)
            # Those who waited raise it; a batch whose waiters are gone has nobody left to tell.
            batch.done.exception()
        else:
            if not batch.done.done():
                batch.done.set_result(None)

    async def stop(self) -> None:
        """Send what is open and wait for it."""
        for key in list(self._open):
            self._close(key)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=3.0)
