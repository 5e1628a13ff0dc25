"""The clock and the randomness that a message is given when its maker gives none. The only impure corner of the SQL."""

from __future__ import annotations

import os
import time

entropy = os.urandom


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
