"""Shell: a component's log file in AWS's format, rotated by size, and the same lines for the trace store."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from foreshore.greengrass.log_lines import LogLineParts, LogSettings, format_line
from foreshore.seams import EmitLog, LogLine

TAIL_LINES = 20
_SPOKEN = ("stdout", "stderr", "shell-runner-error")


class Logging:
    """What all log files of a core share; `settings` may be replaced while they are written."""

    def __init__(self, settings: LogSettings | None = None) -> None:
        self.settings = settings or LogSettings()


class ComponentLog:
    """One log file. `tail` are the last lines that the component, or the attempt to start it, wrote."""

    def __init__(self, path: Path, component: str, emit: EmitLog, logging: Logging) -> None:
        self.path = path
        self.component = component
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._emit = emit
        self._logging = logging
        self._told = False
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line that did not fit the disk must not come back with the next one.
        self._file = path.open("ab", buffering=0)
        self._size = path.stat().st_size

    def write(
        self,
        level: str,
        event: str,
        message: str,
        contexts: Mapping[str, object],
        *,
        thread: str = "Copier",
        shown: str = "",
    ) -> None:
        """Append one line and hand it on, as `shown` when the file's text alone would not say enough."""
        now = time.time_ns()
        settings = self._logging.settings
        if settings.takes(level):
            parts = LogLineParts(now, level, thread, self.component, event, message, contexts)
            try:
                self._append(format_line(parts, settings.format).encode("utf-8", "replace"), settings)
                self._told = False
            except OSError as error:
                self._tell_once(now, error)
        if event in _SPOKEN:
            self.tail.append(message)
        text = message if event in ("stdout", "stderr") else shown or ". ".join(filter(None, (event, message)))
        self._emit(LogLine(now, "greengrass", self.component, level, "", text))

    def _append(self, line: bytes, settings: LogSettings) -> None:
        if self._size and self._size + len(line) > settings.file_bytes:
            self._rotate(settings)
        self._file.write(line)
        self._size += len(line)

    def _tell_once(self, now: int, error: OSError) -> None:
        """A full disk must not end the component, nor be hidden."""
        if not self._told:
            self._told = True
            text = f"log lines are lost: {self.path}: {error.strerror}"
            self._emit(LogLine(now, "greengrass", self.component, "ERROR", "", text))

    def _rotate(self, settings: LogSettings) -> None:
        """`<component>_yyyy_MM_dd_HH_<n>.log`, the oldest removed beyond the total limit."""
        self._file.close()
        stamp = f"{datetime.now(UTC):%Y_%m_%d_%H}"
        number = 0
        while (target := self.path.with_name(f"{self.component}_{stamp}_{number}.log")).exists():
            number += 1
        self.path.rename(target)
        old = sorted(self.path.parent.glob(f"{self.component}_*_*.log"), key=lambda each: each.stat().st_mtime)
        while old and sum(each.stat().st_size for each in old) > settings.total_bytes:
            old.pop(0).unlink()
        self._file = self.path.open("ab", buffering=0)
        self._size = 0

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()
