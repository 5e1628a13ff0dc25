"""One call of the handler: its event, its context, its time limit, its errors. Runs in the main thread (signals)."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
import traceback
import uuid
from collections.abc import Callable
from types import FrameType
from typing import Any

from .context import LambdaContext
from .wire import Event

log = logging.getLogger("foreshore_lambda_host")

Handler = Callable[[Any, Any], Any]
TRACE_ENVIRONMENT = "_X_AMZN_TRACE_ID"


class TimedOut(BaseException):
    """Raised inside a handler that ran too long; not an Exception, so that a handler's own `except` lets it pass."""


def invoke(handler: Handler, event: Event, arn: str, encoding: str, timeout_s: float) -> Any:
    """Call the handler. Raises what it raises, ValueError for a payload that is no JSON, TimedOut."""
    deadline = time.monotonic() + timeout_s
    custom = {"subject": event.topic} if event.context is None else event.context.get("custom") or {}
    context = LambdaContext(arn, str(uuid.uuid4()), custom, deadline, time.monotonic)
    if event.traceparent is not None:
        os.environ[TRACE_ENVIRONMENT] = amzn_trace_id(event.traceparent)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        return handler(payload_of(event, encoding), context)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def arm() -> None:
    """Make the timer of `invoke` raise TimedOut."""
    signal.signal(signal.SIGALRM, _interrupt)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise TimedOut


def payload_of(event: Event, encoding: str) -> Any:
    """What the handler gets as its event: parsed JSON, or the bytes. Raises ValueError."""
    if encoding == "binary":
        return event.payload if event.payload is not None else json.dumps(event.message).encode()
    return event.message if event.payload is None else json.loads(event.payload)


def handler_traceback(error: BaseException) -> str:
    """The traceback without this host's own frames at its top."""
    frames = error.__traceback__
    folder = os.path.dirname(__file__)  # noqa: PTH120
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(folder):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def amzn_trace_id(traceparent: str) -> str:
    """A W3C traceparent as X-Amzn-Trace-Id (AWS X-Ray, "Tracing header")."""
    _, trace_id, span_id, *_ = traceparent.split("-")
    return f"Root=1-{trace_id[:8]}-{trace_id[8:]};Parent={span_id};Sampled=1"
