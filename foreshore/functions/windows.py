"""Tumbling windows of a stream's shard: the state a function carries from batch to batch. Pure.

Source: Lambda Developer Guide, "Configuring tumbling windows for streaming applications". Times are epoch seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from foreshore.functions.batches import arrival_of

MAX_STATE = 1024 * 1024


class Window:
    """The open window of one shard. `start` is None while none is open; `last` is its newest sequence number."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start: float | None = None
        self.state: dict[str, Any] = {}
        self.last = ""

    def start_of(self, arrival: float) -> float:
        """The start of the window that a moment belongs to."""
        return arrival - arrival % self.seconds

    def split(self, records: Sequence[dict[str, Any]]) -> Iterator[tuple[float, list[dict[str, Any]]]]:
        """Runs of records of the same window, in order, with that window's start."""
        run: list[dict[str, Any]] = []
        start = 0.0
        for record in records:
            here = self.start_of(arrival_of(record))
            if run and here != start:
                yield start, run
                run = []
            start = here
            run.append(record)
        if run:
            yield start, run

    def is_over(self, now: float) -> bool:
        """Whether an open window has come to its end."""
        return self.start is not None and now >= self.start + self.seconds

    def envelope(self, shard: str, source_arn: str, *, is_final: bool, is_early: bool = False) -> dict[str, Any]:
        """What an event has beside its records."""
        start = self.start or 0.0
        return {
            "window": {"start": _stamp(start), "end": _stamp(start + self.seconds)},
            "state": self.state,
            "shardId": shard,
            "eventSourceARN": source_arn,
            "isFinalInvokeForWindow": is_final,
            "isWindowTerminatedEarly": is_early,
        }

    def take(self, payload: bytes) -> bool:
        """Keep the state a function gave; False when it is over 1 MB, which ends the window early."""
        try:
            answer = json.loads(payload) if payload else None
        except ValueError:
            answer = None
        state = answer.get("state") if isinstance(answer, Mapping) else None
        self.state = dict(state) if isinstance(state, Mapping) else {}
        return len(json.dumps(self.state)) <= MAX_STATE

    def close(self) -> None:
        """Forget the window."""
        self.start, self.state, self.last = None, {}, ""


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
