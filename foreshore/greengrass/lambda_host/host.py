"""The run loop of one handler: a bounded queue in, an outbox with a bounded number of unconfirmed publishes out.

Like a pinned Greengrass Lambda: one instance, messages one after the other in the order they came. A message that
finds the queue full is dropped and counted (Greengrass: the function's queue is full). A handler that runs longer
than its timeout is interrupted and the process ends with code 1, so that the nucleus starts it afresh.

The handler runs in the main thread; messages and confirmations arrive on the IPC client's thread.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from types import FrameType
from typing import Any

from .context import LambdaContext
from .parameters import Parameters, Route
from .services import is_cloud
from .wire import Disconnected, Event, TraceSlot, Wire

log = logging.getLogger("foreshore_lambda_host")

Handler = Callable[[Any, Any], Any]
_TRACE_ENVIRONMENT = "_X_AMZN_TRACE_ID"
DRAIN_S = 4.0


class TimedOut(BaseException):
    """Raised inside a handler that ran too long; not an Exception, so that a handler's own `except` lets it pass."""


class Outbox:
    """Sends publishes without waiting for each confirmation; at most `window` are unconfirmed at a time.

    `confirmed` and `failed` count answers; a refusal that nobody waited for is logged.
    """

    def __init__(self, wire: Wire, window: int, timeout_s: float) -> None:
        self._wire = wire
        self._window = window
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._open = 0
        self.confirmed = 0
        self.failed = 0

    def publish(self, route: Route, topic: str, payload: bytes, wait: bool) -> None:
        """Send by a route. With `wait`, return when the nucleus confirmed, or raise what it answered."""
        self._take_slot()
        answer: queue.SimpleQueue[Exception | None] | None = queue.SimpleQueue() if wait else None

        def done(error: Exception | None) -> None:
            self._settle(topic, error, logged=answer is None)
            if answer is not None:
                answer.put(error)

        try:
            if is_cloud(route):
                self._wire.publish_cloud(topic, payload, route.qos, done)
            else:
                self._wire.publish(topic, payload, done)
        except BaseException as error:
            self._settle(topic, error, logged=False)
            raise
        if answer is not None:
            _raise_answer(answer, self._timeout_s)

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything sent is confirmed or refused; False when time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout_s)

    def _take_slot(self) -> None:
        with self._changed:
            if self._open >= self._window and not self._changed.wait_for(
                lambda: self._open < self._window, self._timeout_s
            ):
                raise TimeoutError(f"the nucleus confirmed no publish for {self._timeout_s:g} s")
            self._open += 1

    def _settle(self, topic: str, error: BaseException | None, *, logged: bool) -> None:
        with self._changed:
            self._open -= 1
            if error is None:
                self.confirmed += 1
            else:
                self.failed += 1
            self._changed.notify()
        if error is not None and logged:
            log.error("publish to %s failed: %s", topic, error)


def _raise_answer(answer: queue.SimpleQueue[Exception | None], timeout_s: float) -> None:
    try:
        error = answer.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"the nucleus did not confirm a publish within {timeout_s:g} s") from None
    if error is not None:
        raise error


class Host:
    """One pinned instance. `accept` is called by the wire's thread, `run` by the main thread."""

    def __init__(self, handler: Handler, arn: str, parameters: Parameters, outbox: Outbox, trace: TraceSlot) -> None:
        self._handler = handler
        self._arn = arn
        self._parameters = parameters
        self._outbox = outbox
        self._trace = trace
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stop_at: float | None = None
        self._lost: str | None = None
        self.handled = 0
        self.failed = 0
        self.dropped = 0

    def accept(self, event: Event) -> None:
        """Queue one delivered message, or drop it when the queue is full."""
        if self._queue.qsize() >= self._parameters.max_queue_size:
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:
                log.warning("queue full (maxQueueSize %d): %d dropped", self._parameters.max_queue_size, self.dropped)
            return
        self._queue.put(event)

    def stop(self, grace_s: float = DRAIN_S) -> None:
        """End `run` after what is queued, at most `grace_s` seconds from now. May be called in a signal handler."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + grace_s
            self._queue.put(None)

    def lose(self, reason: str) -> None:
        """The connection is gone: end `run` at once."""
        if self._stop_at is None:
            self._lost = reason or "closed by the nucleus"
            self.stop(0)

    def run(self) -> int:
        """Handle messages until stopped; give the exit code: 0, or 1 after a timeout or a lost connection."""
        signal.signal(signal.SIGALRM, _interrupt)
        try:
            while (event := self._queue.get()) is not None:
                if self._stop_at is not None and time.monotonic() > self._stop_at:
                    break
                self.handle(event)
        except TimedOut:
            waiting = self._queue.qsize()
            log.error(
                "Task timed out after %.2f seconds; %d queued messages are lost", self._parameters.timeout_s, waiting
            )
            return 1
        if self._lost is not None:
            log.error("lost the connection to the nucleus: %s", self._lost)
            return 1
        drained = self._outbox.drain(max(0.0, (self._stop_at or 0.0) - time.monotonic()))
        left = max(0, self._queue.qsize() - 1)
        log.info(
            "stopped: handled %d, failed %d, dropped %d, left in the queue %d, publishes confirmed %d, failed %d%s",
            self.handled, self.failed, self.dropped, left, self._outbox.confirmed, self._outbox.failed,
            "" if drained else ", some unconfirmed",
        )  # fmt: skip
        return 0

    def handle(self, event: Event) -> Any:
        """One invocation. An exception of the handler is logged with its own traceback, and counted."""
        timeout_s = self._parameters.timeout_s
        context = LambdaContext(
            self._arn, str(uuid.uuid4()), {"subject": event.topic}, time.monotonic() + timeout_s, time.monotonic
        )
        self._trace.current = event.traceparent
        if event.traceparent is not None:
            os.environ[_TRACE_ENVIRONMENT] = amzn_trace_id(event.traceparent)
        try:
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            try:
                result = self._handler(payload_of(event, self._parameters.encoding), context)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            self.handled += 1
            return result
        except Disconnected as error:
            self.lose(str(error))
        except Exception as error:
            self.failed += 1
            log.error("%s", handler_traceback(error))
        finally:
            self._trace.current = None
        return None


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise TimedOut


def payload_of(event: Event, encoding: str) -> Any:
    """What the handler gets as its event: parsed JSON, or the bytes. Raises ValueError."""
    if encoding == "binary":
        return event.payload if event.payload is not None else json.dumps(event.message).encode()
    return event.message if event.payload is None else json.loads(event.payload)


def handler_traceback(error: BaseException) -> str:
    """The traceback without this module's own frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def amzn_trace_id(traceparent: str) -> str:
    """A W3C traceparent as X-Amzn-Trace-Id (AWS X-Ray, "Tracing header")."""
    _, trace_id, span_id, *_ = traceparent.split("-")
    return f"Root=1-{trace_id[:8]}-{trace_id[8:]};Parent={span_id};Sampled=1"
