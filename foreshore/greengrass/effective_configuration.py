"""`config/effectiveConfig.yaml`: what the core's configuration is now, for people to read. A copy, never read back.

The nucleus writes it beside its transaction log; ours is written at most once a second and at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import yaml

WRITE_EVERY_S = 1.0


class EffectiveConfiguration:
    """Writes the document some time after `changed`."""

    def __init__(self, path: Path, document: Callable[[], dict[str, object]]) -> None:
        self._path = path
        self._document = document
        self._timer: asyncio.TimerHandle | None = None
        self._is_stale = True
        self._write()

    def changed(self) -> None:
        """The file is behind: write it soon."""
        self._is_stale = True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_EVERY_S, self._write)

    def _write(self) -> None:
        self._timer = None
        if not self._is_stale:
            return
        self._is_stale = False
        fresh = self._path.with_suffix(".yaml.new")
        fresh.write_text(yaml.safe_dump(self._document(), sort_keys=False, allow_unicode=True), "utf-8")
        fresh.replace(self._path)

    def close(self) -> None:
        """Write the last state."""
        if self._timer is not None:
            self._timer.cancel()
        self._write()
