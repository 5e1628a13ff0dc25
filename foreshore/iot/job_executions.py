"""One device's execution of a job: states, who may move it where, timeouts, retries, and how each API shows it. Pure.

Times are seconds since the epoch. Sources: AWS IoT developer guide, "Jobs key concepts" (execution states), "Jobs
device MQTT and HTTPS APIs", "Specify job configurations" (timeouts, retries); API references of iot and iot-jobs-data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from foreshore.errors import AwsError

Json = Any
Document = dict[str, Any]

PENDING = ("IN_PROGRESS", "QUEUED")
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "REJECTED", "TIMED_OUT", "REMOVED", "CANCELED"})
DEVICE_STATES = frozenset({"IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"})
DEPLOYMENTS = "aws-gg-deployment"
MAX_DETAILS = 10
MAX_DETAIL = 1024
_DETAILS_KEY = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
MAX_STEP_MINUTES = 10_080


def queued(job_id: str, thing: str, number: int, now: float, attempt: int = 0, namespace: str = "") -> Document:
    """A new execution. One in the namespace of Greengrass's deployments never stands before a device's own programs."""
    hidden = {"namespaceId": namespace} if namespace == DEPLOYMENTS else {}
    return {
        **hidden,
        "jobId": job_id, "thing": thing, "status": "QUEUED", "statusDetails": {}, "queuedAt": now, "startedAt": None,
        "lastUpdatedAt": now, "executionNumber": number, "versionNumber": 1, "retryAttempt": attempt,
        "stepDeadline": None, "deadline": None,
    }  # fmt: skip


def is_pending(execution: Mapping[str, Json]) -> bool:
    """Whether the device still has it before itself."""
    return execution["status"] in PENDING


def start(execution: Document, now: float, job_minutes: int | None) -> Document:
    """QUEUED to IN_PROGRESS; the job's own timer begins to run."""
    deadline = now + job_minutes * 60 if job_minutes else None
    changed = {**execution, "status": "IN_PROGRESS", "startedAt": now, "lastUpdatedAt": now, "deadline": deadline}
    changed["versionNumber"] += 1
    return changed


def update(execution: Document, request: Mapping[str, Json], now: float, job_minutes: int | None) -> Document:
    """What a device reports. Raises AwsError as UpdateJobExecution does."""
    status = request.get("status")
    if status not in DEVICE_STATES:
        raise AwsError("InvalidRequestException", f"Invalid status: {status}", 400)
    expected = request.get("expectedVersion")
    if expected is not None and int(expected) != execution["versionNumber"]:
        raise AwsError("VersionMismatch", f"Expected version {expected}, found {execution['versionNumber']}", 409)
    if execution["status"] in TERMINAL:
        text = f"The update would change the status from {execution['status']}, which is terminal, to {status}"
        raise AwsError("InvalidStateTransitionException", text, 409)
    details = request.get("statusDetails")
    check_details(details)
    changed = execution if execution["status"] == "IN_PROGRESS" else start(execution, now, job_minutes)
    changed = {**changed, "status": status, "lastUpdatedAt": now, "versionNumber": execution["versionNumber"] + 1}
    if details is not None:
        changed["statusDetails"] = dict(details)
    return with_step(changed, request.get("stepTimeoutInMinutes"), now)


def check_details(details: object) -> None:
    """Check statusDetails. Raises AwsError InvalidRequestException.

    At most 10 pairs; keys as `DetailsKey` has them, values of 1 to 1,024 characters (API reference, JobExecutionState).
    """
    if details is None:
        return
    if not isinstance(details, Mapping):
        raise AwsError("InvalidRequestException", "statusDetails has to be an object", 400)
    if len(details) > MAX_DETAILS:
        raise AwsError("InvalidRequestException", f"statusDetails has more than {MAX_DETAILS} entries", 400)
    for key, value in details.items():
        if not _DETAILS_KEY.fullmatch(key):
            raise AwsError("InvalidRequestException", f"statusDetails: {key!r} is no name", 400)
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_DETAIL:
            text = f"statusDetails: the value of {key} is not a text of 1 to {MAX_DETAIL} characters"
            raise AwsError("InvalidRequestException", text, 400)


def with_step(execution: Document, minutes: int | None, now: float) -> Document:
    """Set, keep (None) or clear (-1) the step timer; it never outlasts the job's timer."""
    if minutes is None:
        return execution
    if minutes == -1:
        return {**execution, "stepDeadline": None}
    if not 1 <= minutes <= MAX_STEP_MINUTES:
        raise AwsError("InvalidRequestException", f"stepTimeoutInMinutes is 1 to {MAX_STEP_MINUTES}", 400)
    return {**execution, "stepDeadline": now + minutes * 60}


def finish(execution: Document, status: str, now: float) -> Document:
    """End it from the service's side: CANCELED, TIMED_OUT or REMOVED."""
    return {**execution, "status": status, "lastUpdatedAt": now, "versionNumber": execution["versionNumber"] + 1}


def timed_out(execution: Mapping[str, Json], now: float) -> bool:
    """Whether one of the timers of an execution in progress has run out."""
    limits = [each for each in (execution["deadline"], execution["stepDeadline"]) if each is not None]
    return execution["status"] == "IN_PROGRESS" and bool(limits) and now >= min(limits)


def wants_retry(execution: Mapping[str, Json], criteria: list[Document]) -> bool:
    """Whether the job's retry criteria give this ended execution another attempt."""
    for each in criteria:
        if each["failureType"] in (execution["status"], "ALL") and execution["status"] in ("FAILED", "TIMED_OUT"):
            return bool(execution["retryAttempt"] < int(each["numberOfRetries"]))
    return False


def seconds_left(execution: Mapping[str, Json], now: float) -> int | None:
    """approximateSecondsBeforeTimedOut."""
    limits = [each for each in (execution["deadline"], execution["stepDeadline"]) if each is not None]
    return max(0, int(min(limits) - now)) if limits and execution["status"] == "IN_PROGRESS" else None


def for_device(execution: Mapping[str, Json], now: float, document: Json | None) -> Document:
    """As the device topics show it; whole seconds, `jobDocument` when it is given. They don't name the thing."""
    shown = {
        "jobId": execution["jobId"],
        "status": execution["status"],
        "statusDetails": execution["statusDetails"] or None,
        "queuedAt": int(execution["queuedAt"]),
        "startedAt": _whole(execution["startedAt"]),
        "lastUpdatedAt": int(execution["lastUpdatedAt"]),
        "approximateSecondsBeforeTimedOut": seconds_left(execution, now),
        "versionNumber": execution["versionNumber"],
        "executionNumber": execution["executionNumber"],
        "jobDocument": document,
    }
    return {name: value for name, value in shown.items() if value is not None}


def device_summary(execution: Mapping[str, Json]) -> Document:
    """One line of GetPendingJobExecutions."""
    names = ("jobId", "queuedAt", "startedAt", "lastUpdatedAt", "versionNumber", "executionNumber")
    shown = {name: execution[name] for name in names if execution[name] is not None}
    return {name: int(value) if name.endswith("At") else value for name, value in shown.items()}


def state_of(execution: Mapping[str, Json]) -> Document:
    """JobExecutionState."""
    return {
        "status": execution["status"],
        "statusDetails": execution["statusDetails"],
        "versionNumber": execution["versionNumber"],
    }


def in_order(execution: Mapping[str, Json]) -> tuple[int, float, str]:
    """The order in which a device is given its executions: those in progress first, then by time queued."""
    return (PENDING.index(execution["status"]), execution["queuedAt"], execution["jobId"])


def _whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
