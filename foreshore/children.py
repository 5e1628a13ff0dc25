"""Child processes that never outlive us: Lambda workers, Greengrass components, the backend.

Each child leads a process group of its own, so that a stop reaches its grandchildren. On Linux the kernel ends it
when we die (prctl PR_SET_PDEATHSIG). Because grandchildren don't inherit that, every group is also noted in
`<run folder>/<pid>` with its start time, and `reap_strays` ends what a killed run left behind.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies. Runs in the child between fork and exec."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _become(user: tuple[int, int, Sequence[int]]) -> Callable[[], None]:
    """Take another user's identity, then `die_with_parent`, which a change of identity would undo (prctl(2))."""
    uid, gid, groups = user

    def prepare() -> None:
        os.setgroups(list(groups))
        os.setgid(gid)
        os.setuid(uid)
        die_with_parent()

    return prepare


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Tells of the end of the process itself: `Process.wait` also waits for whoever still holds its pipes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=65536, loop=loop)
        self.ended = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.ended.set()


class Child:
    """One running child. `on_line(stream, text)` gets each output line, `on_exit(returncode)` the end."""

    def __init__(
        self, process: asyncio.subprocess.Process, transport: asyncio.SubprocessTransport, note: Path | None
    ) -> None:
        self.process = process
        self.pid = process.pid
        self._transport = transport
        self._note = note
        self._tasks: list[asyncio.Task[None]] = []
        self.exited = asyncio.Event()

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal number when a signal ended it, None while it runs."""
        return self.process.returncode

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; a group that is gone is fine."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    @property
    def group_lives(self) -> bool:
        """Whether any process of the group is left: a daemon may outlive its leader."""
        if self.process.returncode is None:
            return True
        if _start_time(self.pid):
            return False  # Another process has the pid now, so the group had ended.
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    async def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM the group, wait at most `grace_s` seconds, then SIGKILL what is left of it."""
        if self.process.returncode is None:
            self.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.exited.wait(), grace_s)
            except TimeoutError:
                pass
        if self.group_lives:
            self.signal(signal.SIGKILL)
        await self.exited.wait()
        await asyncio.wait(self._tasks, timeout=0.5)
        self._transport.close()
        if self._note is not None:
            self._note.unlink(missing_ok=True)


async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    on_line: Callable[[str, str], None] | None = None,
    on_exit: Callable[[int], None] | None = None,
    run_folder: Path | None = None,
    stdin: int = asyncio.subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    leaves_daemons: bool = False,
    user: tuple[int, int, Sequence[int]] | None = None,
) -> Child:
    """Start a child. Output is read line by line (a line is cut at 64 KiB) until end of file.

    `user` (uid, gid, groups) is whom it runs as; only root may name one. With `leaves_daemons`, what it leaves in its
    group is still read after its own end, and noted until `stop`.
    """
    pipe = asyncio.subprocess.PIPE if on_line else asyncio.subprocess.DEVNULL
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        lambda: _Protocol(loop),
        *argv,
        env=dict(env) if env is not None else None,
        cwd=cwd,
        stdin=stdin,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
        preexec_fn=_become(user) if user else die_with_parent if sys.platform == "linux" else None,
        pass_fds=tuple(pass_fds),
    )
    process = asyncio.subprocess.Process(transport, protocol, loop)
    child = Child(process, transport, _write_note(run_folder, process.pid))
    readers = []
    if on_line is not None:
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            if stream is not None:
                readers.append(asyncio.ensure_future(_read_lines(name, stream, on_line)))
    child._tasks = [*readers, asyncio.ensure_future(_watch(child, protocol.ended, readers, on_exit, leaves_daemons))]
    return child


async def _read_lines(name: str, stream: asyncio.StreamReader, on_line: Callable[[str, str], None]) -> None:
    pending = b""
    while chunk := await stream.read(65536):
        *lines, pending = (pending + chunk).split(b"\n")
        if len(pending) > 65536:
            lines, pending = [*lines, pending], b""
        for line in lines:
            on_line(name, line.decode("utf-8", "replace"))
    if pending:
        on_line(name, pending.decode("utf-8", "replace"))


async def _watch(
    child: Child,
    ended: asyncio.Event,
    readers: list[asyncio.Task[None]],
    on_exit: Callable[[int], None] | None,
    leaves_daemons: bool,
) -> None:
    await ended.wait()
    code = child.process.returncode or 0
    if readers:
        # A grandchild may hold the pipe open; what the child itself wrote is already in it.
        await asyncio.wait(readers, timeout=0.1 if leaves_daemons else 0.5)
    if not leaves_daemons:
        for reader in readers:
            reader.cancel()
        child._transport.close()
    if child._note is not None and not (leaves_daemons and child.group_lives):
        child._note.unlink(missing_ok=True)
    child.exited.set()
    if on_exit is not None:
        on_exit(code)


def _start_time(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat: with the pid it names one process for good (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _write_note(folder: Path | None, pid: int) -> Path | None:
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / str(pid)
    note.write_text(_start_time(pid))
    return note


def reap_strays(folder: Path) -> list[int]:
    """Kill the process groups that an earlier, killed run left; give their leaders' pids."""
    killed = []
    for note in folder.glob("[0-9]*") if folder.is_dir() else ():
        pid = int(note.name)
        started = note.read_text()
        leader_now = _start_time(pid)
        # A dead leader leaves its group id reserved while members live; a reused pid has another start time.
        if started and leader_now in ("", started):
            try:
                os.killpg(pid, signal.SIGKILL)
                killed.append(pid)
            except (ProcessLookupError, PermissionError):
                pass
        note.unlink(missing_ok=True)
    return killed
