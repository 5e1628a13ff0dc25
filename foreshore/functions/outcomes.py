"""What AWS says of an invocation: error payloads, log lines, records for destinations and dead-letter queues. Pure.

Every shape is the one recorded against the live service (the members' order included). Durations are milliseconds.
Sources: AWS Lambda Developer Guide, "Lambda runtime API", "Retaining records of asynchronous invocations", "View
CloudWatch logs for Python Lambda functions".
"""

from __future__ import annotations

import json
import math
from typing import Any

from foreshore.errors import AwsError
from foreshore.functions.spec import MAX_RESPONSE


def timed_out(request_id: str, timeout_s: float) -> bytes:
    """The payload of an invocation that ran out of time."""
    return _dump(
        {"errorType": "Sandbox.Timedout", "errorMessage": f"RequestId: {request_id} Error: {timeout_text(timeout_s)}"}
    )


def timeout_text(timeout_s: float) -> str:
    """How the log and the payload name a timeout."""
    return f"Task timed out after {timeout_s:.2f} seconds"


def exited(request_id: str, status: int) -> bytes:
    """The payload when the runtime ended in the middle. `status` is the exit code, or minus the signal's number."""
    return _dump(
        {"errorType": "Runtime.ExitError", "errorMessage": f"RequestId: {request_id} Error: {exit_text(status)}"}
    )


def exit_text(status: int) -> str:
    """How AWS words the end of a runtime."""
    if status == 0:
        return "Runtime exited without providing a reason"
    if status > 0:
        return f"Runtime exited with error: exit status {status}"
    return f"Runtime exited with error: signal: {SIGNALS.get(-status, str(-status))}"


SIGNALS = {
    1: "hangup", 2: "interrupt", 3: "quit", 4: "illegal instruction", 6: "aborted", 7: "bus error",
    8: "floating point exception", 9: "killed", 11: "segmentation fault", 13: "broken pipe", 15: "terminated",
}  # fmt: skip


def no_entrypoint(request_id: str) -> bytes:
    """The payload when a custom runtime has no bootstrap."""
    message = f"RequestId: {request_id} Error: Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"
    return _dump({"errorType": "Runtime.InvalidEntrypoint", "errorMessage": message})


def response_too_big(size: int) -> bytes:
    """The payload in place of a result over the limit."""
    return _dump(
        {
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE} bytes).",
        }
    )


def throttled(reason: str = "ReservedFunctionConcurrentInvocationLimitExceeded") -> AwsError:
    """429 for an invocation over a concurrency limit."""
    return AwsError("TooManyRequestsException", "Rate Exceeded.", 429, {"Reason": reason, "Type": "User"})


def not_json(problem: str) -> AwsError:
    """400 for a payload that is not JSON."""
    return AwsError(
        "InvalidRequestContentException", f"Could not parse request body into json: {problem}", 400, {"Type": "User"}
    )


def too_large(limit: int) -> AwsError:
    """413 for a payload over the limit (bytes)."""
    return AwsError(
        "RequestTooLargeException",
        f"Request must be smaller than {limit} bytes for the InvokeFunction operation",
        413,
        {"Type": "User"},
    )


# Log lines


def start_line(request_id: str, version: str) -> str:
    """The first line of an invocation."""
    return f"START RequestId: {request_id} Version: {version}\n"


def end_lines(
    request_id: str,
    duration_ms: float,
    memory_mb: int,
    used_mb: int,
    init_ms: float | None = None,
    status: str = "",
    trace_id: str = "",
) -> str:
    """END and REPORT. `status` is "timeout" or "error" when the sandbox ended; billed time is rounded up to 1 ms."""
    billed = max(math.ceil(duration_ms + (init_ms or 0.0)), 1)
    report = (
        f"END RequestId: {request_id}\nREPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\t"
        f"Billed Duration: {billed} ms\tMemory Size: {memory_mb} MB\tMax Memory Used: {used_mb} MB\t"
    )
    if init_ms is not None:
        report += f"Init Duration: {init_ms:.2f} ms\t"
    if status:
        report += f"Status: {status}\t"
    report += "\n"
    if trace_id:
        report += f"XRAY TraceId: {trace_id}\tSampled: true\n"
    return report


def init_report(duration_ms: float, phase: str, status: str, error_type: str = "") -> str:
    """The line about an initialization that failed. `phase` is init or invoke, `status` timeout or error."""
    tail = f"\tError Type: {error_type}" if error_type else ""
    return f"INIT_REPORT Init Duration: {duration_ms:.2f} ms\tPhase: {phase}\tStatus: {status}{tail}\n"


# Asynchronous invocations


def destination_record(
    *,
    timestamp: str,
    request_id: str,
    function_arn: str,
    condition: str,
    attempts: int,
    request_payload: bytes,
    response_payload: bytes | None,
    executed_version: str = "$LATEST",
    function_error: str | None = None,
    status_code: int = 200,
) -> dict[str, Any]:
    """The record sent to an on-success or on-failure destination. `condition`: Success, RetriesExhausted or
    EventAgeExceeded."""
    record: dict[str, Any] = {
        "version": "1.0",
        "timestamp": timestamp,
        "requestContext": {
            "requestId": request_id,
            "functionArn": function_arn,
            "condition": condition,
            "approximateInvokeCount": attempts,
        },
        "requestPayload": _load(request_payload),
    }
    if response_payload is not None:
        context: dict[str, Any] = {"statusCode": status_code, "executedVersion": executed_version}
        if function_error:
            context["functionError"] = function_error
        record["responseContext"] = context
        record["responsePayload"] = _load(response_payload)
    return record


def dead_letter_attributes(request_id: str, payload: bytes | None, code: int = 200) -> dict[str, str]:
    """The message attributes of a dead letter; its body is the event as it came."""
    error = _load(payload) if payload else None
    message = error.get("errorMessage", "") if isinstance(error, dict) else ""
    return {"RequestID": request_id, "ErrorCode": str(code), "ErrorMessage": str(message)[:1024]}


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _load(payload: bytes) -> Any:
    try:
        return json.loads(payload) if payload else None
    except ValueError:
        return payload.decode("utf-8", "replace")
