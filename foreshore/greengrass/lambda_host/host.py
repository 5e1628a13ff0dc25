"""A pinned function: one instance in this process, messages one after the other in the order they came.

A handler that runs longer than its timeout is interrupted and the process ends with code 1, so that the nucleus starts
it afresh. The handler runs in the main thread; messages and confirmations arrive on the IPC client's thread.
"""

from __future__ import annotations

import logging

from .calls import Calls
from .inbox import Inbox
from .invocation import Handler, TimedOut, arm, handler_traceback, invoke
from .outbox import Outbox
from .parameters import Parameters
from .results import encode_error, encode_result
from .wire import Disconnected, Event, TraceSlot

log = logging.getLogger("foreshore_lambda_host")


class Host:
    """Takes messages from `inbox` until it ends."""

    def __init__(
        self,
        handler: Handler,
        arn: str,
        parameters: Parameters,
        inbox: Inbox,
        outbox: Outbox,
        calls: Calls,
        trace: TraceSlot,
    ) -> None:
        self._handler = handler
        self._arn = arn
        self._parameters = parameters
        self._inbox = inbox
        self._outbox = outbox
        self._calls = calls
        self._trace = trace
        self.handled = 0
        self.failed = 0

    def run(self) -> int:
        """Handle messages until stopped; give the exit code: 0, or 1 after a timeout or a lost connection."""
        arm()
        while (event := self._inbox.next()) is not None:
            try:
                self.handle(event)
            except TimedOut as error:
                limit_s, waiting = self._parameters.timeout_s, self._inbox.waiting
                log.error("Task timed out after %.2f seconds; %d queued messages are lost", limit_s, waiting)
                self._calls.answer(event, encode_error(error), "Unhandled")
                self._outbox.drain(1)
                return 1
        return conclude(self._inbox, self._outbox, self.handled, self.failed)

    def handle(self, event: Event) -> None:
        """One invocation. An exception of the handler is logged with its own traceback, and counted."""
        encoding = self._parameters.encoding
        self._trace.current = event.traceparent
        try:
            result = invoke(self._handler, event, self._arn, encoding, self._parameters.timeout_s)
            if event.reply is not None:
                self._calls.answer(event, encode_result(result, encoding), "")
            self.handled += 1
        except Disconnected as error:
            self._inbox.lose(str(error))
        except Exception as error:
            self.failed += 1
            log.error("%s", handler_traceback(error))
            self._calls.answer(event, encode_error(error), "Handled")
        finally:
            self._trace.current = None


def conclude(inbox: Inbox, outbox: Outbox, handled: int, failed: int) -> int:
    """Confirm what was published, log the counts, give the exit code."""
    if inbox.lost is not None:
        log.error("lost the connection to the nucleus: %s", inbox.lost)
        return 1
    drained = outbox.drain(inbox.grace_left_s)
    log.info(
        "stopped: handled %d, failed %d, dropped %d, left in the queue %d, publishes confirmed %d, failed %d%s",
        handled, failed, inbox.dropped, inbox.waiting, outbox.confirmed, outbox.failed,
        "" if drained else ", some unconfirmed",
    )  # fmt: skip
    return 0
