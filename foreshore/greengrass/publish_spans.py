"""The spans of local publishes. Pure: the time and the seed of the ids are arguments.

So many publishes a tick have a span of their own; beyond them, those of a topic that nobody follows share one span a
tick (attribute `messages`: how many). A publish that brings a trace, or goes to a subscriber that passes it on, always
has its own.
"""

from __future__ import annotations

from foreshore.greengrass.pubsub import Route
from foreshore.seams import EmitSpan, Span, split_traceparent

SPANS_A_TICK = 500
TICK_S = 0.25
_STEP = 0x9E3779B97F4A7C15
_MASK = 0xFFFF_FFFF_FFFF_FFFF


class PublishSpans:
    """Gives out ids and spans. Call `settle` a tick after the first of them."""

    def __init__(self, emit: EmitSpan, seed: int) -> None:
        self.left = SPANS_A_TICK
        self._emit = emit
        self._suffix = f"{seed >> 64 & _MASK | 1:016x}"
        self._next = seed & _MASK
        self._bursts: list[Route] = []

    def ids(self) -> tuple[str, str]:
        """A trace id (32 hex digits) and a span id (16): a step by 2^64 over the golden ratio meets no number twice."""
        self._next = number = (self._next + _STEP) & _MASK
        span_id = f"{number or 1:016x}"
        return span_id + self._suffix, span_id

    def step(self, traceparent: str | None) -> tuple[str, str, str]:
        """(trace id, parent span id, a new span id) for a message that came with a traceparent, or with none."""
        trace_id, span_id = self.ids()
        given = split_traceparent(traceparent) if traceparent else None
        return (trace_id, "", span_id) if given is None else (*given, span_id)

    def is_shared(self, route: Route, traceparent: str | None) -> bool:
        """Whether a publish only counts towards its topic's next shared span; if so it is counted."""
        if self.left > 0 or traceparent is not None or route.is_followed:
            return False
        if not route.burst:
            self._bursts.append(route)
        route.burst += 1
        return True

    def settle(self, now_ns: int) -> None:
        """A tick is over: emit the shared spans and begin to count anew."""
        self.left = SPANS_A_TICK
        bursts, self._bursts = self._bursts, []
        for route in bursts:
            trace_id, span_id = self.ids()
            count, route.burst = route.burst, 0
            attributes: dict[str, object] = {"messages": count}
            self._emit(Span(trace_id, span_id, "", "greengrass", route.span_name, now_ns, 0, True, attributes))
