"""Which export goes next, and when. Pure: times are epoch ms.

An export without batch interval is due as soon as a message waits; with one, when its batch is full or its oldest
waiting message is that old (stream-manager 1.1.2, KinesisConfig). Among those due the least priority number goes first,
then the one that waited longest; an export has one batch on its way at a time, so its order is kept. After a failure an
export pauses: 1 s, doubled up to five minutes, for ever (developer guide, "Export configurations for supported AWS
Cloud destinations").
"""

from __future__ import annotations

from dataclasses import dataclass

from foreshore.greengrass.stream_manager.definitions import Export

FIRST_PAUSE_MS = 1_000
LONGEST_PAUSE_MS = 300_000


@dataclass(slots=True)
class Turn:
    """One export's place in the queue."""

    stream: str
    export: Export
    last_ms: int = 0
    failures: int = 0
    paused_until_ms: int = 0
    is_busy: bool = False

    def fail(self, now_ms: int) -> None:
        """Pause after a failure."""
        pause_ms = min(FIRST_PAUSE_MS << min(self.failures, 16), LONGEST_PAUSE_MS)
        self.failures += 1
        self.paused_until_ms = now_ms + pause_ms

    def succeed(self, now_ms: int) -> None:
        """Go on at once."""
        self.failures = 0
        self.paused_until_ms = 0
        self.last_ms = now_ms


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for an export: how many messages, and when the oldest came."""

    count: int
    oldest_ms: int


def due_ms(turn: Turn, waiting: Waiting) -> int | None:
    """When the export may send; None when nothing waits, it is disabled or on its way."""
    export = turn.export
    if export.disabled or turn.is_busy or waiting.count == 0:
        return None
    ready_ms = 0
    if export.batch_interval_ms is not None and waiting.count < export.batch_size:
        ready_ms = waiting.oldest_ms + export.batch_interval_ms
    return max(ready_ms, turn.paused_until_ms)


def choose(candidates: list[tuple[Turn, Waiting]], now_ms: int) -> tuple[Turn | None, int | None]:
    """The turn to take now, or None and when to look again (None: at the next message)."""
    times = [(due, turn) for turn, waiting in candidates if (due := due_ms(turn, waiting)) is not None]
    ready = [turn for due, turn in times if due <= now_ms]
    if ready:
        return min(ready, key=lambda turn: (turn.export.priority, turn.last_ms)), None
    return None, min((due for due, _ in times), default=None)


class Pacer:
    """Keeps all exports together to an average bandwidth in kilobits a second; 0 is no limit."""

    def __init__(self, kilobits_a_second: float = 0.0) -> None:
        self.kilobits_a_second = kilobits_a_second
        self._free_ms = 0.0

    def reserve(self, size: int, now_ms: float) -> float:
        """Take room for `size` bytes; give how many ms to wait before sending them."""
        if self.kilobits_a_second <= 0:
            return 0.0
        start_ms = max(now_ms, self._free_ms)
        self._free_ms = start_ms + size * 8 / self.kilobits_a_second
        return start_ms - now_ms
