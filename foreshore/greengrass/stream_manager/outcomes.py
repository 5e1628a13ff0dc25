"""What becomes of a batch: how much of it is over, and why the rest must wait. Pure."""

from __future__ import annotations

from dataclasses import dataclass


class TryAgain(Exception):
    """The batch, or the rest of it, must be sent again; the text says why."""


@dataclass(slots=True)
class Outcome:
    """`done` messages from the beginning are over; `error` tells of those refused for good."""

    done: int
    error: str | None = None
