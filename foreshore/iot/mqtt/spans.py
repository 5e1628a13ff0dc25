"""How many spans the broker makes: one a message while they are few, shared ones when they come thick. Pure.

A message whose trace somebody continues always has a span of its own; the others have until the tick's budget is
spent. After that the messages of one topic share a span, and where many topics are busy those share one as well.
"""

from __future__ import annotations

from collections.abc import Callable

from foreshore.iot.mqtt.routing import Route
from foreshore.seams import EmitSpan, Span

SPANS_A_TICK = 200
"""Spans of their own, a quarter of a second, for messages whose trace nobody continues."""

TOPICS_A_TICK = 20
"""Topics that get a shared span of their own, a quarter of a second; all others share one."""


class Spans:
    """The budget of a tick, and the routes whose messages share spans."""

    def __init__(
        self, emit: EmitSpan | None, new_ids: Callable[[], tuple[str, str]], wall_ns: Callable[[], int]
    ) -> None:
        self.emit = emit
        self._new_ids = new_ids
        self._wall_ns = wall_ns
        self.left = SPANS_A_TICK
        self._bursts: list[Route] = []

    def share(self, route: Route) -> None:
        """Count a message for its topic's next shared span."""
        if self.emit is not None:
            if not route.burst:
                self._bursts.append(route)
            route.burst += 1

    def settle(self) -> None:
        """Once a tick: write the shared spans (attribute `messages`: how many) and begin to count anew."""
        self.left = SPANS_A_TICK
        if not self._bursts:
            return
        bursts, self._bursts = self._bursts, []
        bursts.sort(key=lambda route: route.burst, reverse=True)
        for route in bursts[:TOPICS_A_TICK]:
            self._write(route.span_name, {"messages": route.burst})
        rest = bursts[TOPICS_A_TICK:]
        if rest:
            self._write("publish", {"messages": sum(route.burst for route in rest), "topics": len(rest)})
        for route in bursts:
            route.burst = 0

    def _write(self, name: str, attributes: dict[str, object]) -> None:
        if self.emit is not None:
            trace_id, span_id = self._new_ids()
            self.emit(Span(trace_id, span_id, "", "iot", name, self._wall_ns(), 0, True, attributes))
