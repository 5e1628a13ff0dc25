"""The fork server: a small warm Python that forks a worker for each new execution environment.

Run as `zygote.py FD [MODULE …]`. It imports the modules named (what AWS's image ships), then reads one JSON order a
message from the SOCK_SEQPACKET socket FD: `{"id", "env", "cwd", "handler", "path"}` with two file descriptors, the
worker's stdout and stderr. It answers `{"id", "pid"}`, and `{"pid", "status"}` (as waitpid gives it) when a worker has
ended. It ends when the socket closes; its workers die with it. POSIX and the standard library only.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
_PDEATHSIG = 1
_TABLES = ("endpoints", "partitions", "sdk-default-configuration", "_retry")


def load_client() -> Any:
    """The Runtime API client, under a name that no user's module has."""
    sys.path.insert(0, _HERE)
    try:
        return importlib.import_module("client")
    finally:
        sys.path.remove(_HERE)
        sys.modules["_lambda_runtime_client"] = sys.modules.pop("client")


def warm(modules: list[str]) -> None:
    """Import what AWS's image ships; a module that is missing here is simply not warm."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            continue


def share_tables() -> None:
    """Read the tables that every botocore client needs once, before forking: a client then costs a third less.

    They are the same for all services and botocore only reads them; service models are left alone.
    """
    if "botocore.loaders" not in sys.modules:
        return
    loaders: Any = sys.modules["botocore.loaders"]
    load = loaders.JSONFileLoader.load_file
    kept: dict[str, Any] = {}

    def load_file(self: Any, file_path: str) -> Any:
        if os.path.basename(file_path) not in _TABLES:  # noqa: PTH119
            return load(self, file_path)
        if file_path not in kept:
            kept[file_path] = load(self, file_path)
        return kept[file_path]

    loaders.JSONFileLoader.load_file = load_file
    for name in _TABLES:
        try:
            loaders.Loader().load_data(name)
        except loaders.DataNotFoundError:
            continue


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


class Supervisor:
    """The socket to the process that gives orders, and the children it gave."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.waking, wake = socket.socketpair()
        self.wake = wake
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def next_order(self) -> dict[str, Any] | None:
        """Fork for each order that comes. Returns in the child, with its order; None in the parent, at the end."""
        while True:
            ready, _, _ = select.select([self.socket, self.waking], [], [])
            if self.waking in ready:
                self.waking.recv(4096)
                self.report_ended()
            if self.socket not in ready:
                continue
            data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 2)
            if not data:
                return None
            order: dict[str, Any] = json.loads(data)
            pid = os.fork()
            if pid == 0:
                self.become_child(fds)
                return order
            for fd in fds:
                os.close(fd)
            self.socket.send(json.dumps({"id": order["id"], "pid": pid}).encode())

    def report_ended(self) -> None:
        """Tell of every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.socket.send(json.dumps({"pid": pid, "status": status}).encode())

    def become_child(self, fds: list[int]) -> None:
        """Leave the server's descriptors, signals and group behind."""
        os.setsid()
        die_with_parent()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self.waking.close()
        self.wake.close()
        self.socket.close()
        os.dup2(fds[0], 1)
        os.dup2(fds[-1], 2)
        for fd in set(fds):
            os.close(fd)


def enter(order: dict[str, Any]) -> None:
    """Take on the worker's environment, folder and import path."""
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    os.chdir(order["cwd"])
    sys.path[:] = [order["cwd"], *order["path"], *(path for path in sys.path if path not in (_HERE, ""))]
    sys.argv = ["bootstrap", order["handler"]]
    importlib.invalidate_caches()


def main() -> None:
    """Serve until the supervisor goes; in a child, become the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.dont_write_bytecode = True
    client = load_client()
    warm(sys.argv[2:])
    share_tables()
    supervisor = Supervisor(int(sys.argv[1]))
    gc.collect()
    gc.freeze()
    order = supervisor.next_order()
    if order is not None:
        enter(order)
        client.run(order["handler"], order["env"]["AWS_LAMBDA_RUNTIME_API"])


if __name__ == "__main__":
    main()
