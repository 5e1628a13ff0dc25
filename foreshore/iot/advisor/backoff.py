"""What kind of waiting a row of delays between attempts shows. Pure.

AWS publishes no tolerances; these are wide enough for a busy machine: a tenth of a second or 15 % is no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

Kind = Literal["none", "constant", "linear", "exponential", "jitter"]

NO_WAIT_S = 0.05
SLACK_S = 0.1
SLACK = 0.15
LEAST_FACTOR = 1.3


def classify(delays: Sequence[float]) -> Kind:
    """Tell how delays (seconds, in order) grow.

    "none": no waiting to speak of; "constant"; "linear": by the same step; "exponential": by the same factor, up to a
    cap that may repeat; "jitter": by no rule, as randomness gives.
    """
    if not delays or max(delays) < NO_WAIT_S:
        return "none"
    if _alike(delays):
        return "constant"
    growing = _before_cap(delays)
    steps = [second - first for first, second in pairwise(growing)]
    if len(growing) > 2 and min(steps) > 0 and _alike(steps):
        return "linear"
    if len(growing) > 1 and min(growing) > 0:
        factors = [second / first for first, second in pairwise(growing)]
        if min(factors) >= LEAST_FACTOR and max(factors) - min(factors) <= 0.35 * max(factors):
            return "exponential"
    return "jitter"


def _alike(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= max(SLACK_S, SLACK * sum(values) / len(values))


def _before_cap(delays: Sequence[float]) -> Sequence[float]:
    """The delays up to the first of those that stay at the greatest one."""
    end = len(delays)
    while end > 2 and _alike([delays[end - 1], delays[end - 2]]) and _alike([delays[end - 1], max(delays)]):
        end -= 1
    return delays[:end]
