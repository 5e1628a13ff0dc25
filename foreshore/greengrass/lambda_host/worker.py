"""An instance of an on-demand function: `--worker FD` runs the handler for messages that come over a pipe."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from .calls import encode_error, encode_result
from .invocation import TimedOut, arm, handler_traceback, invoke
from .loading import configure_logging, load_handler
from .pool import Setup
from .wire import Event

log = logging.getLogger("foreshore_lambda_host")


class Backend:
    """greengrasssdk's calls, sent to the host process. Safe in the handler's own threads."""

    def __init__(self, pipe: Connection, failure: type[Exception]) -> None:
        self._pipe = pipe
        self._failure = failure
        self._lock = threading.Lock()

    def invoke(self, arn: str, payload: bytes, context: Mapping[str, Any], kind: str) -> tuple[bytes, str]:
        """One call and its answer. Raises the shim's IPCException."""
        with self._lock:
            self._pipe.send(("call", arn, payload, context, kind))
            done, answer = self._pipe.recv()
        if not done:
            raise self._failure(answer)
        found: tuple[bytes, str] = answer
        return found


def work(descriptor: int) -> int:
    """Handle messages until the pipe is closed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(descriptor)
    setup = Setup(*pipe.recv())
    configure_logging(setup.log_level)
    os.environ.update(setup.environment)
    sys.path[:0] = setup.paths
    shim = importlib.import_module("greengrass_ipc_python_sdk.ipc_client")
    shim.install(Backend(pipe, shim.IPCException).invoke)
    handler = load_handler(setup.handler)
    arm()
    pipe.send(("idle", "ready", b""))
    try:
        while True:
            event = Event(*pipe.recv())
            outcome, answer = "handled", b""
            try:
                result = invoke(handler, event, setup.arn, setup.encoding, setup.timeout_s)
                if event.reply is not None:
                    answer = encode_result(result, setup.encoding)
            except Exception as error:
                outcome, answer = "failed", encode_error(error)
                log.error("%s", handler_traceback(error))
            pipe.send(("idle", outcome, answer))
    except (EOFError, ConnectionError):
        return 0
    except TimedOut:
        log.error("Task timed out after %.2f seconds", setup.timeout_s)
        return 1
