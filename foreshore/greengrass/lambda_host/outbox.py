"""Publishes on their way to the nucleus: sent without waiting, with a bounded number unconfirmed."""

from __future__ import annotations

import logging
import queue
import threading

from .parameters import IOT_CORE, Route
from .wire import Wire

log = logging.getLogger("foreshore_lambda_host")


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
            if route.type == IOT_CORE:
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
