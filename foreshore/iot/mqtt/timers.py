"""One timer wheel for keep-alive, will delay, session expiry and connection lifetime: no timer per connection. Pure.

Times are seconds of any monotonic clock. A callback that is no longer wanted finds that out itself when it is called.
"""

from __future__ import annotations

from collections.abc import Callable

STEP_S = 0.25


class Wheel:
    """Callbacks in buckets of `STEP_S`; one that falls due within a bucket is called at the bucket's end."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[Callable[[], None]]] = {}
        self._done = 0

    def add(self, at: float, callback: Callable[[], None]) -> None:
        """Call back at the first `advance` past `at`."""
        bucket = max(int(at / STEP_S) + 1, self._done + 1)
        self._buckets.setdefault(bucket, []).append(callback)

    def advance(self, now: float) -> None:
        """Call all that is due. A jump over many buckets costs no more than the buckets in use."""
        target = int(now / STEP_S)
        if target <= self._done:
            return
        if target - self._done > len(self._buckets):
            due = sorted(bucket for bucket in self._buckets if bucket <= target)
        else:
            due = [bucket for bucket in range(self._done + 1, target + 1) if bucket in self._buckets]
        self._done = target
        for bucket in due:
            for callback in self._buckets.pop(bucket):
                callback()
