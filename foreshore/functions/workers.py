"""Starts worker processes: forked from a warm server, or each in a Python of its own. Shell.

`Zygote` is the fork server (`worker/zygote.py`), one a set of warm modules; `Spawner` starts `worker/client.py`,
awslambdaric or a `bootstrap` by exec. Both give a `Worker`: a process group that leads a session of its own, with one
pipe for stdout and stderr. On macOS and Windows forking after imports is not safe, so there everything is spawned.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from foreshore.children import Child, die_with_parent, spawn
from foreshore.errors import UserError
from foreshore.functions.spec import FunctionSpec

WORKER = Path(__file__).parent / "worker"
CAN_FORK = sys.platform == "linux"
WARM_MODULES = ("json", "logging", "datetime", "decimal", "urllib3", "boto3", "botocore.client", "botocore.httpsession",
                "botocore.endpoint", "botocore.parsers", "botocore.signers",
                "boto3.dynamodb.transform", "boto3.dynamodb.table",
                "boto3.dynamodb.conditions")  # fmt: skip


@dataclass(slots=True)
class Order:
    """What a worker is to run. `argv` is empty for the thin client."""

    spec: FunctionSpec
    environment: dict[str, str]
    argv: list[str] = field(default_factory=list)


class Worker:
    """A started worker. `status` is None while it lives, then its exit code or minus its signal."""

    def __init__(self, pid: int, output: int, on_exit: Callable[[int], None]) -> None:
        self.pid = pid
        self.output = output
        self.status: int | None = None
        self._on_exit = on_exit
        self._statm = -1

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; a group that is gone is fine."""
        if self.status is None:
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                pass

    def kill(self) -> None:
        """End the group now."""
        self.signal(signal.SIGKILL)

    def resident_bytes(self) -> int:
        """The resident memory of the worker now, 0 where the system does not tell (/proc/<pid>/statm, proc(5))."""
        try:
            if self._statm < 0:
                self._statm = os.open(f"/proc/{self.pid}/statm", os.O_RDONLY)
            return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE
        except (OSError, IndexError):
            return 0

    def ended(self, status: int) -> None:
        """Note the end. Members of the group that outlived their leader are ended too."""
        if self.status is not None:
            return
        self.kill()
        self.status = status
        if self._statm >= 0:
            os.close(self._statm)
            self._statm = -1
        self._on_exit(status)


_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Launcher(Protocol):
    """Starts workers."""

    async def launch(self, order: Order, on_exit: Callable[[int], None]) -> Worker:
        """Start one. Raises OSError."""
        ...

    async def stop(self) -> None:
        """End all of them."""
        ...


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    return read, write


class Zygote:
    """The fork server and the workers it forked."""

    def __init__(self, python: str, modules: Sequence[str], run_folder: Path) -> None:
        self._python = python
        self._modules = modules
        self._run_folder = run_folder
        self._socket: socket.socket | None = None
        self._child: Child | None = None
        self._starting: asyncio.Task[None] | None = None
        self._orders: dict[int, asyncio.Future[int]] = {}
        self._workers: dict[int, Worker] = {}
        self._early: dict[int, int] = {}
        self._count = 0
        self.problem = ""

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            self._child = await spawn(
                [self._python, "-P", str(WORKER / "zygote.py"), str(theirs.fileno()), *self._modules],
                pass_fds=(theirs.fileno(),),
                run_folder=self._run_folder,
                on_line=self._note,
                on_exit=self._gone,
            )
        finally:
            theirs.close()
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    def _note(self, stream: str, line: str) -> None:
        self.problem = line

    async def warm(self) -> None:
        """Start the server; a second call waits for the first."""
        if self._starting is None or (self._starting.done() and self._socket is None):
            self._starting = asyncio.ensure_future(self._start())
        await asyncio.shield(self._starting)

    async def launch(self, order: Order, on_exit: Callable[[int], None]) -> Worker:
        """Fork a worker. Raises OSError when the server can't be started or dies first."""
        await self.warm()
        assert self._socket is not None
        self._count += 1
        number = self._count
        read, write = _pipe()
        message = {
            "id": number,
            "env": order.environment,
            "cwd": str(order.spec.code),
            "handler": order.spec.handler,
            "path": order.spec.import_path(),
        }
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._orders[number] = started
        try:
            fds = array.array("i", [write, write])
            self._socket.sendmsg([json.dumps(message).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            pid = await started
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
            self._orders.pop(number, None)
        worker = Worker(pid, read, on_exit)
        self._workers[pid] = worker
        early = self._early.pop(pid, None)
        if early is not None:
            asyncio.get_running_loop().call_soon(self._ended, pid, early)
        return worker

    def _read(self) -> None:
        assert self._socket is not None
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close()
                return
            self._take(json.loads(data))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            started = self._orders.get(message["id"])
            if started is not None and not started.done():
                started.set_result(message["pid"])
            return
        status = message["status"]
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        self._ended(message["pid"], code)

    def _ended(self, pid: int, code: int) -> None:
        worker = self._workers.pop(pid, None)
        if worker is None:
            self._early[pid] = code
        else:
            worker.ended(code)

    def _close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _gone(self, code: int) -> None:
        self._close()
        self._starting = None
        for started in self._orders.values():
            if not started.done():
                started.set_exception(ConnectionResetError(f"the fork server ended: {self.problem or code}"))
        for pid in list(self._workers):
            self._ended(pid, -signal.SIGKILL)

    async def stop(self) -> None:
        """End the workers and the server."""
        for worker in list(self._workers.values()):
            worker.kill()
        if self._child is not None:
            await self._child.stop(grace_s=0.2)
            self._child = None
        self._close()


class Spawner:
    """Starts each worker by exec."""

    def __init__(self, python: str) -> None:
        self._python = python
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers: set[Worker] = set()

    async def launch(self, order: Order, on_exit: Callable[[int], None]) -> Worker:
        """Start a process. Raises OSError."""
        spec = order.spec
        argv = order.argv or [self._python, "-P", str(WORKER / "client.py"), spec.handler]
        environment = dict(order.environment)
        paths = [*spec.import_path(), *filter(None, [environment.get("PYTHONPATH", "")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        environment.setdefault("PYTHONDONTWRITEBYTECODE", "1")
        read, write = _pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=environment,
                cwd=spec.code,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        worker = Worker(process.pid, read, on_exit)
        self._workers.add(worker)
        task = asyncio.ensure_future(self._watch(process, worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return worker

    async def _watch(self, process: asyncio.subprocess.Process, worker: Worker) -> None:
        code = await process.wait()
        self._workers.discard(worker)
        worker.ended(code)

    async def stop(self) -> None:
        """End every process."""
        for worker in list(self._workers):
            worker.kill()
        if self._tasks:
            await asyncio.wait(self._tasks)


def argv_for(spec: FunctionSpec, client: str, python: str) -> list[str]:
    """What to exec instead of the thin client; empty for the thin client. Raises UserError."""
    bootstrap = spec.code / "bootstrap"
    if spec.runtime.startswith("provided"):
        if not os.access(bootstrap, os.X_OK):
            raise UserError(
                f"the runtime {spec.runtime} needs an executable file named bootstrap",
                code="function", where=str(spec.code), mend="add it, or chmod +x it",
            )  # fmt: skip
        return [str(bootstrap)]
    if client == "awslambdaric":
        return [python, "-m", "awslambdaric", spec.handler]
    return []
