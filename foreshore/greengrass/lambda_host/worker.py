"""An instance of an on-demand function: `--worker FD` runs the handler for messages that come over a pipe.

There may be a hundred of them, so it imports nothing of the host's that it does not need.
"""

from __future__ import annotations

import importlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any

from .invocation import Handler, TimedOut, arm, handler_traceback, invoke
from .loading import configure_logging, load_handler
from .pipe import Pipe
from .results import encode_error, encode_result
from .setup import Setup
from .wire import Event

log = logging.getLogger("foreshore_lambda_host")


class Backend:
    """The pipe to the host process: messages come on `events`, answers to calls to whoever called. A thread reads."""

    def __init__(self, pipe: Pipe, failure: type[Exception]) -> None:
        self._pipe = pipe
        self._failure = failure
        self._calling = threading.Lock()
        self._sending = threading.Lock()
        self._answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="pipe", daemon=True).start()

    def send(self, *message: Any) -> None:
        """Tell the host something. Raises OSError when it is gone."""
        with self._sending:
            self._pipe.send(message)

    def invoke(self, arn: str, payload: bytes, context: Mapping[str, Any], kind: str) -> tuple[bytes, str]:
        """One call of greengrasssdk's and its answer, from any thread. Raises the shim's IPCException."""
        with self._calling:
            self.send("call", arn, payload, context, kind)
            done, answer = self._answers.get()
        if not done:
            raise self._failure(answer)
        found: tuple[bytes, str] = answer
        return found

    def _read(self) -> None:
        try:
            while True:
                kind, *rest = self._pipe.recv()
                if kind == "event":
                    self.events.put(Event(*rest))
                else:
                    self._answers.put((rest[0], rest[1]))
        except (EOFError, OSError):
            self._answers.put((False, "the host process is gone"))
            self.events.put(None)


def work(descriptor: int) -> int:
    """Handle messages until the pipe is closed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Pipe(socket.socket(fileno=descriptor))
    setup = Setup(*pipe.recv())
    configure_logging(setup.log_level)
    os.environ.update(setup.environment)
    sys.path[:0] = setup.paths
    shim = importlib.import_module("greengrass_ipc_python_sdk.ipc_client")
    backend = Backend(pipe, shim.IPCException)
    shim.install(backend.invoke)
    arm()
    try:
        handler = load_handler(setup.handler)
        backend.send("idle", "ready", b"")
        while (event := backend.events.get()) is not None:
            backend.send("idle", *_handle(handler, event, setup))
    except OSError:
        return 0
    except TimedOut:
        log.error("Task timed out after %.2f seconds", setup.timeout_s)
        return 1
    return 0


def _handle(handler: Handler, event: Event, setup: Setup) -> tuple[str, bytes]:
    """One message: ("handled" or "failed", what the caller gets, if one waits). Raises TimedOut."""
    try:
        result = invoke(handler, event, setup.arn, setup.encoding, setup.timeout_s)
        return "handled", encode_result(result, setup.encoding) if event.reply is not None else b""
    except Exception as error:
        log.error("%s", handler_traceback(error))
        return "failed", encode_error(error)
