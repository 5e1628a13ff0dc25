"""When many clients each speak seldom: let their packets gather for a moment instead of waking for every one. Pure.

Waking costs more than a packet does: the system's scheduler, and caches that have gone cold meanwhile. Network cards
answer the same trouble by interrupt moderation (adaptive coalescing, ethtool(8) `rx-usecs`), and so does the broker:
after a loop turn it rests for `REST_S`. It does so only while nobody can notice: at many reads a second, of clients
whose own packets lie far apart. A client in conversation (a few clients, many packets) is answered at once.
"""

from __future__ import annotations

REST_S = 0.001
MIN_READS_PER_S = 3_000
"""Below this rate waking for each read costs little in all."""
MAX_READS_A_CLIENT = 4
"""In one tick (0.25 s): clients that say more, on average, may be waiting for the answers."""
FULL_TURN = 16
"""A turn with so many reads has gathered enough without rest: the broker is busy."""


class Moderation:
    """Counts reads, and clients heard for the first time in a tick; says at its end whether turns of the next rest."""

    __slots__ = ("_clients", "_reads", "_since", "_turn", "is_on")

    def __init__(self, now: float) -> None:
        self.is_on = False
        self._reads = 0
        self._clients = 0
        self._turn = 0
        self._since = now

    def count(self, heard: float) -> None:
        """A read, of a client that was last heard then. One that has just come is not counted as seldom heard."""
        self._turn += 1
        if heard < self._since:
            self._clients += 1

    def end_turn(self) -> bool:
        """Whether to rest after this loop turn. One that read nothing needs none: the loop sleeps by itself."""
        reads, self._turn = self._turn, 0
        self._reads += reads
        return self.is_on and 0 < reads < FULL_TURN

    def end_tick(self, now: float) -> None:
        """Decide for the next tick. `now` is seconds of any monotonic clock."""
        elapsed = now - self._since
        if elapsed <= 0:
            return
        reads = self._reads + self._turn
        self.is_on = reads >= MIN_READS_PER_S * elapsed and 0 < reads <= MAX_READS_A_CLIENT * self._clients
        self._since = now
        self._reads = -self._turn
        self._clients = 0
