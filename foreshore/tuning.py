"""How a long-running process of ours is set once it is up."""

from __future__ import annotations

import gc


def settle_memory() -> None:
    """Take what is loaded out of the garbage collector's sight and let it run less often; once, after the start."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
