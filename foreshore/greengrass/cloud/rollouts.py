"""How a deployment to a thing group goes out: how many cores a minute, when it is aborted, when a core is too late.

Pure. Source: API reference, DeploymentIoTJobConfiguration; IoT developer guide, "How job configurations work".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DEFAULT_PER_MINUTE = 1000
MINUTE_S = 60.0
FAILURES = ("FAILED", "REJECTED", "TIMED_OUT")
SUCCESSES = ("SUCCEEDED", "COMPLETED")
OVER = (*SUCCESSES, *FAILURES, "CANCELED")

Configuration = Mapping[str, Any]


def rate_of(configuration: Configuration, notified: int, succeeded: int) -> int:
    """How many cores a minute are told now, of a job that has told and satisfied so many."""
    rollout = configuration.get("jobExecutionsRolloutConfig") or {}
    ceiling = int(rollout.get("maximumPerMinute") or DEFAULT_PER_MINUTE)
    growth = rollout.get("exponentialRate")
    if not growth:
        return ceiling
    criteria = growth.get("rateIncreaseCriteria") or {}
    steps = 0
    for name, count in (("numberOfNotifiedThings", notified), ("numberOfSucceededThings", succeeded)):
        if criteria.get(name):
            steps = count // int(criteria[name])
    return min(ceiling, int(float(growth["baseRatePerMinute"]) * float(growth["incrementFactor"]) ** steps))


def may_tell(configuration: Configuration, told: Sequence[float], succeeded: int, now: float) -> bool:
    """Whether one more core may be told at `now` (s), others having been told at the times `told`."""
    lately = sum(now - each < MINUTE_S for each in told)
    return lately < rate_of(configuration, len(told), succeeded)


def is_to_abort(configuration: Configuration, statuses: Sequence[str]) -> bool:
    """Whether the executions' statuses meet one of the abort criteria."""
    executed = sum(status in (*SUCCESSES, *FAILURES) for status in statuses)
    for criterion in (configuration.get("abortConfig") or {}).get("criteriaList") or []:
        kinds = FAILURES if criterion["failureType"] == "ALL" else (criterion["failureType"],)
        failed = sum(status in kinds for status in statuses)
        enough = executed >= int(criterion["minNumberOfExecutedThings"])
        if enough and executed and failed * 100.0 / executed >= float(criterion["thresholdPercentage"]):
            return True
    return False


def deadline_of(configuration: Configuration, begun: float) -> float | None:
    """When (s) an execution that began at `begun` is TIMED_OUT; None: never."""
    minutes = (configuration.get("timeoutConfig") or {}).get("inProgressTimeoutInMinutes")
    return None if not minutes else begun + int(minutes) * MINUTE_S
