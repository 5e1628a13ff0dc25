"""Tells whether a function's files changed since it was last asked. Shell.

Linux: inotify, so that asking costs one empty read (about a microsecond) and a saved file is seen by the very next
invocation. Elsewhere: the newest modification time and the number of files, compared at most every `interval_s`.
Bytecode caches, editors' swap files and version control folders don't count. Source: inotify(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_MASK = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_OVERFLOW, _IS_DIR = 0x4000, 0x40000000
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, getattr(os, "O_CLOEXEC", 0)
_IGNORED = {"__pycache__", ".git", ".hg", ".foreshore", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_HEADER = struct.Struct("iIII")


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is no part of a function's code."""
    return name in _IGNORED or name.endswith((".pyc", ".pyo", ".swp", ".swx", "~")) or name.startswith(".#")


def folders(roots: Sequence[Path]) -> Iterator[str]:
    """Every folder that holds code, the roots included."""
    for root in roots:
        for folder, names, _ in os.walk(root):
            names[:] = [name for name in names if not is_ignored(name)]
            yield folder


class CodeWatch:
    """Watches folders. `changed` is true once for each burst of changes."""

    def __init__(self, roots: Sequence[Path], *, interval_s: float = 0.1, use_inotify: bool = True) -> None:
        self._roots = [root for root in roots if root.is_dir()]
        self._interval_s = interval_s
        self._fd = self._open() if use_inotify and sys.platform == "linux" else -1
        self._watched: dict[int, str] = {}
        self._asked = 0.0
        self._seen = ""
        if self._fd >= 0:
            self._add(folders(self._roots))
        else:
            self._seen = self._fingerprint()

    def _open(self) -> int:
        self._libc = ctypes.CDLL(None, use_errno=True)
        return int(self._libc.inotify_init1(_NONBLOCK | _CLOEXEC))

    def _add(self, found: Iterator[str]) -> None:
        for folder in found:
            number = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), _MASK)
            if number < 0:
                # Out of watches (fs.inotify.max_user_watches): the slower way sees everything too.
                os.close(self._fd)
                self._fd = -1
                self._seen = self._fingerprint()
                return
            self._watched[number] = folder

    def changed(self) -> bool:
        """Whether a file was saved, added or removed since the last call."""
        if self._fd < 0:
            return self._has_new_fingerprint()
        found = False
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return found
            found = self._read(data) or found

    def _read(self, data: bytes) -> bool:
        found = False
        offset = 0
        while offset < len(data):
            number, mask, _, size = _HEADER.unpack_from(data, offset)
            name = os.fsdecode(data[offset + 16 : offset + 16 + size].rstrip(b"\0"))
            offset += 16 + size
            if mask & _OVERFLOW:
                found = True
            elif name and not is_ignored(name):
                found = True
                if mask & _IS_DIR and mask & (_CREATE | _MOVED_TO) and self._fd >= 0:
                    self._add(folders([Path(self._watched.get(number, "")) / name]))
        return found

    def _has_new_fingerprint(self) -> bool:
        now = time.monotonic()
        if now - self._asked < self._interval_s:
            return False
        self._asked = now
        before, self._seen = self._seen, self._fingerprint()
        return before != self._seen

    def _fingerprint(self) -> str:
        newest, count = 0, 0
        for folder in folders(self._roots):
            for entry in os.scandir(folder):
                if entry.is_file() and not is_ignored(entry.name):
                    newest = max(newest, entry.stat().st_mtime_ns)
                    count += 1
        return f"{newest}/{count}"

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
