"""One execution of a command on one device: its states, who may move it where, and how the API shows it. Pure.

Times are seconds since the epoch.

Sources: AWS IoT developer guide, "Commands concepts and status" (command execution status), "Start and monitor
command executions" (UpdateCommandExecution, time outs); API reference, GetCommandExecution.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from foreshore.errors import AwsError
from foreshore.iot.command_payloads import invalid

Json = Any
Document = dict[str, Any]

DEFAULT_TIMEOUT_S = 10
MAX_TIMEOUT_S = 12 * 3600
KEPT_S = 180 * 24 * 3600
"""How long an execution is kept: "six months"."""

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "REJECTED"})
DEVICE_STATES = frozenset({"IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED", "TIMED_OUT"})
NO_RESPONSE = "$NO_RESPONSE_FROM_DEVICE"
_REASON = re.compile(r"[A-Z0-9_-]{1,64}$")
_RESULT_NAME = re.compile(r"[a-zA-Z0-9_-]{1,32}$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MEMBERS = {"s": "S", "b": "B", "bin": "BIN"}


def created(execution_id: str, command: str, target: str, timeout: int, parameters: Json, now: float) -> Document:
    """A new execution."""
    return {
        "executionId": execution_id, "commandArn": command, "targetArn": target, "status": "CREATED",
        "executionTimeoutSeconds": timeout, "parameters": parameters, "createdAt": now, "lastUpdatedAt": now,
        "startedAt": now, "timeToLive": now + KEPT_S, "isTerminal": False,
    }  # fmt: skip


def deadline(execution: Mapping[str, Json]) -> float | None:
    """When the service gives up waiting; None once it has, or when it need not."""
    if execution["status"] not in ("CREATED", "IN_PROGRESS"):
        return None
    return float(execution["createdAt"] + execution["executionTimeoutSeconds"])


def timed_out(execution: Document, now: float) -> Document:
    """The service's own TIMED_OUT, which the device may still override."""
    return {**execution, "status": "TIMED_OUT", "statusReason": {"reasonCode": NO_RESPONSE}, "lastUpdatedAt": now}


def update(execution: Document, request: Mapping[str, Json], now: float) -> Document:
    """What a device reports. Raises AwsError: a bad request, an execution that has ended, a step back in its states."""
    status = request.get("status")
    if status not in DEVICE_STATES:
        raise _bad(f"Invalid status: {status}")
    reason = _reason(request.get("statusReason"))
    result = _result(request.get("result"))
    if execution["isTerminal"]:
        text = (
            f"Command Execution status cannot be updated to {status} since execution has already completed"
            f" with status {execution['status']}."
        )
        raise AwsError("TerminalStateReachedException", text, 409)
    if execution["status"] == "TIMED_OUT" and status == "IN_PROGRESS":
        raise AwsError("InvalidStateTransitionException", "The execution can't go from TIMED_OUT to IN_PROGRESS.", 409)
    changed = {**execution, "status": status, "lastUpdatedAt": now}
    changed.pop("statusReason", None)
    if reason is not None:
        changed["statusReason"] = reason
    if result is not None:
        changed["result"] = result
    if status != "IN_PROGRESS":
        changed |= {"isTerminal": True, "completedAt": now}
    return changed


def _bad(text: str) -> AwsError:
    return AwsError("InvalidRequestException", text, 400)


def _reason(reason: Json) -> Document | None:
    if reason is None:
        return None
    code = reason.get("reasonCode") if isinstance(reason, dict) else None
    if not isinstance(code, str) or not _REASON.match(code):
        raise _bad("statusReason.reasonCode has to match [A-Z0-9_-]+ with at most 64 characters")
    text = reason.get("reasonDescription")
    if text is None:
        return {"reasonCode": code}
    if not isinstance(text, str) or len(text) > 1024 or _CONTROL.search(text):
        raise _bad("statusReason.reasonDescription has at most 1024 characters and no control characters")
    return {"reasonCode": code, "reasonDescription": text}


def _result(result: Json) -> Document | None:
    if result is None:
        return None
    if not isinstance(result, dict):
        raise _bad("result has to be an object")
    if not result:
        raise _bad("At least 1 command execution result is required")
    return {_name(name): _typed(name, value) for name, value in result.items()}


def _name(name: Json) -> str:
    if not isinstance(name, str) or not _RESULT_NAME.match(name):
        raise _bad(f"The result name {name} has to match [a-zA-Z0-9_-]+ with at most 32 characters")
    return name


def _typed(name: str, value: Json) -> Document:
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in _MEMBERS:
        raise _bad(f"The result {name} has to be an object of one of s, b, bin")
    member, raw = next(iter(value.items()))
    if (member == "b") != isinstance(raw, bool):
        raise _bad(f"The result {name} is not of the type {member}")
    if member == "s" and (not isinstance(raw, str) or not raw):
        raise _bad(f"The result {name} is not of the type s")
    if member == "bin":
        try:
            raw = base64.b64decode(raw, validate=True) if isinstance(raw, str) else bytes(raw)
        except (binascii.Error, TypeError, ValueError):
            raise _bad(f"The result {name} is not of the type bin") from None
    return {_MEMBERS[member]: raw}


def shown(execution: Mapping[str, Json], *, with_result: bool) -> Document:
    """As GetCommandExecution answers."""
    hidden = {"isTerminal", "clientToken"} | (set() if with_result else {"result"})
    return {name: value for name, value in execution.items() if name not in hidden and value is not None}


def summary(execution: Mapping[str, Json]) -> Document:
    """As ListCommandExecutions answers."""
    names = ("commandArn", "executionId", "targetArn", "status", "createdAt", "startedAt", "completedAt")
    return {name: execution[name] for name in names if execution.get(name) is not None}


def event(execution: Mapping[str, Json], now_ms: int) -> Document:
    """The message on `$aws/events/commandExecution/<command>/<status>`."""
    members = {"executionId": execution["executionId"], "status": execution["status"]}
    if execution.get("statusReason"):
        members["statusReason"] = execution["statusReason"]
    more = {"eventType": "COMMAND_EXECUTION", "commandArn": execution["commandArn"]}
    return {**members, **more, "targetArn": execution["targetArn"], "timestamp": now_ms}


def is_within(moment: float | None, limits: Mapping[str, str] | None) -> bool:
    """Whether a moment lies in a time filter. Raises AwsError ValidationException for text that is no time."""
    if limits is None:
        return True
    after, before = (_moment(limits.get(name)) for name in ("after", "before"))
    if moment is None:
        return False
    return (after is None or moment > after) and (before is None or moment < before)


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"{text} is no time of the form yyyy-MM-dd'T'HH:mm.") from None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
