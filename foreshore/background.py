"""One coroutine that runs beside the rest of a shell until it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Background:
    """Work in the background. When it fails, the loop's exception handler hears of it at once, not at the end."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._task is not None and not self._task.done()

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin, unless it runs already."""
        if not self.is_running:
            self._task = asyncio.get_running_loop().create_task(work())
            self._task.add_done_callback(_report)

    async def stop(self) -> None:
        """End it and wait until it has ended; a second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


def _report(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        message = f"{task.get_coro()} ended with an error"
        task.get_loop().call_exception_handler({"message": message, "exception": error, "task": task})
