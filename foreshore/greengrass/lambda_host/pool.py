"""An on-demand function: instances are processes of their own, made when needed, stopped when idle.

As Greengrass does for a Lambda that is not pinned: a message goes to an idle instance; when all are busy a new one is
made, up to `maxInstancesCount`; an instance without work for `maxIdleTimeInSeconds` is stopped; one that runs longer
than `timeoutInSeconds` ends. Only this process speaks IPC: an instance's greengrasssdk calls come back to it over
a pipe.
"""

from __future__ import annotations

import logging
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .calls import Calls
from .host import conclude
from .inbox import Inbox
from .outbox import Outbox
from .pipe import Pipe
from .results import encode_error
from .setup import Setup
from .wire import Event, TraceSlot

log = logging.getLogger("foreshore_lambda_host")

END_LIMIT_S = 1.0
KILL_AFTER_S = 0.5
HOPELESS = 3
Invoke = Callable[[str, bytes, Mapping[str, Any], str], "tuple[bytes, str]"]


class Instance:
    """One child process, with a thread here that serves its calls."""

    def __init__(self, argv: Sequence[str], setup: Setup, pool: Pool) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            self.process = subprocess.Popen(
                [*argv, "--worker", str(descriptor)], pass_fds=[descriptor], stdin=subprocess.DEVNULL
            )
        self._sending = threading.Lock()
        self.pipe = Pipe(ours)
        self.idle_since = time.monotonic()
        self.deadline: float | None = None
        self.ready = False
        self.event: Event | None = None
        self._pool = pool
        self.thread = threading.Thread(target=self._serve, args=(setup,), name="instance", daemon=True)
        self.thread.start()

    def give(self, event: Event, timeout_s: float) -> None:
        """Let it handle a message. Raises OSError when it is dead."""
        self.event = event
        self.deadline = time.monotonic() + timeout_s
        self._send(("event", *event))

    def _send(self, message: tuple[Any, ...]) -> None:
        with self._sending:
            self.pipe.send(message)

    def _serve(self, setup: Setup) -> None:
        """Answer its calls until it ends; tell the pool when it becomes idle and when it is gone."""
        try:
            self.pipe.send(tuple(setup))
            while True:
                kind, *rest = self.pipe.recv()
                if kind == "idle":
                    self.deadline = None
                    self.idle_since = time.monotonic()
                    self._pool.on_idle(self, *rest)
                else:
                    self._send(("answer", *self._pool.call(self, *rest)))
        except (EOFError, OSError):
            self._pool.on_gone(self)
        self.pipe.close()
        try:
            self.process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def end(self) -> None:
        """Close the pipe: an idle instance ends."""
        try:
            self.pipe.end()
        except OSError:
            self.process.kill()


class Pool:
    """Takes messages from `inbox` until it ends, and spreads them over instances."""

    def __init__(
        self,
        argv: Sequence[str],
        setup: Setup,
        limits: tuple[int, float],
        inbox: Inbox,
        outbox: Outbox,
        calls: Calls,
        invoke: Invoke,
        trace: TraceSlot,
    ) -> None:
        self._argv = argv
        self._setup = setup
        self._most, self._max_idle_s = limits
        self._inbox = inbox
        self._outbox = outbox
        self._calls = calls
        self._invoke = invoke
        self._trace = trace
        self._changed = threading.Condition()
        self._idle: list[Instance] = []
        self._all: set[Instance] = set()
        self._over = False
        self._hopeless = 0
        self.handled = 0
        self.failed = 0

    def run(self) -> int:
        """Hand out messages until stopped; give the exit code."""
        watch = threading.Thread(target=self._watch, name="watch", daemon=True)
        watch.start()
        while (event := self._inbox.next()) is not None:
            self._hand_out(event)
            if self._hopeless >= HOPELESS:
                log.error("%d instances in a row ended before they could take a message", HOPELESS)
                return 1
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) == len(self._all), self._inbox.grace_left_s)
            self._over = True
            self._changed.notify_all()
            left = list(self._all)
        watch.join()
        for instance in left:
            instance.end()
        for instance in left:
            instance.thread.join()
        return conclude(self._inbox, self._outbox, self.handled, self.failed)

    def _hand_out(self, event: Event) -> None:
        """Give a message to an idle instance; make one when there is none and the limit allows it."""
        with self._changed:
            while not self._idle:
                if self._hopeless >= HOPELESS:
                    self.failed += 1
                    return
                if len(self._all) < self._most and all(instance.ready for instance in self._all):
                    self._all.add(Instance(self._argv, self._setup, self))
                self._changed.wait()
            instance = self._idle.pop()
            try:
                instance.give(event, self._setup.timeout_s)
            except OSError:
                self.failed += 1

    def call(self, instance: Instance, arn: str, payload: bytes, context: Any, kind: str) -> tuple[bool, Any]:
        """An instance's greengrasssdk call: (True, answer) or (False, what went wrong)."""
        self._trace.current = instance.event.traceparent if instance.event is not None else None
        try:
            return True, self._invoke(arn, payload, context, kind)
        except Exception as error:
            return False, str(error)
        finally:
            self._trace.current = None

    def on_idle(self, instance: Instance, outcome: str, result: bytes) -> None:
        """An instance is ready (outcome "ready") or has handled its message ("handled", "failed")."""
        self._answer(instance, result, "" if outcome == "handled" else "Handled")
        with self._changed:
            instance.ready = True
            self._hopeless = 0
            self.handled += outcome == "handled"
            self.failed += outcome == "failed"
            self._idle.append(instance)
            self._changed.notify_all()

    def _answer(self, instance: Instance, result: bytes, error: str) -> None:
        event, instance.event = instance.event, None
        if event is not None and event.reply is not None:
            self._calls.answer(event, result, error)

    def on_gone(self, instance: Instance) -> None:
        """An instance's pipe is closed."""
        self._answer(instance, encode_error(RuntimeError("the instance ended")), "Unhandled")
        with self._changed:
            if instance.deadline is not None and not self._over:
                self.failed += 1
                log.error("an instance ended while it handled a message")  # its own output says why
            elif not instance.ready and not self._over:
                self._hopeless += 1
            self._all.discard(instance)
            if instance in self._idle:
                self._idle.remove(instance)
            self._changed.notify_all()

    def _watch(self) -> None:
        """Stop what was idle too long; kill what is past its timeout and did not end itself."""
        with self._changed:
            while not self._over:
                now = time.monotonic()
                for instance in list(self._all):
                    if instance.deadline is not None and now > instance.deadline + KILL_AFTER_S:
                        log.error("an instance hangs %.1f s after its timeout: killed", KILL_AFTER_S)
                        instance.deadline = math.inf
                        instance.process.kill()
                    elif instance in self._idle and now - instance.idle_since > self._max_idle_s:
                        self._idle.remove(instance)
                        self._all.discard(instance)
                        instance.end()
                self._changed.wait(0.05)


def own_argv() -> list[str]:
    """How to start this program once more."""
    return [sys.executable, "-u", sys.argv[0]]
