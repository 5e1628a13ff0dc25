"""The jobs API of devices, over MQTT and over HTTP (`iot-jobs-data`).

Answers to MQTT requests go straight to the requester, subscribed or not.

Source: AWS IoT developer guide, "Jobs device MQTT and HTTPS APIs"; API reference of iot-jobs-data.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from foreshore.errors import AwsError
from foreshore.iot import job_executions as executions
from foreshore.iot.job_executions import check_details, device_summary, state_of
from foreshore.iot.job_rollouts import Bus, Rollouts
from foreshore.iot.store import Document, Ground
from foreshore.seams import Publication
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
FILTERS = (
    "$aws/things/+/jobs/get",
    "$aws/things/+/jobs/start-next",
    "$aws/things/+/jobs/+/get",
    "$aws/things/+/jobs/+/update",
)
_CODES = {"TerminalStateException": "TerminalStateReached"}
_NUMBERS = ("executionNumber", "expectedVersion", "stepTimeoutInMinutes")
_REQUEST = re.compile(r"\$aws/things/([^/]+)/jobs/(?:(get|start-next)|([^/]+)/(get|update))$")


class JobDevices:
    """What devices ask. Every operation takes the thing's name and the request as a dict; raises AwsError."""

    def __init__(self, ground: Ground, rollouts: Rollouts, bus: Bus) -> None:
        self._ground = ground
        self._rollouts = rollouts
        self._executions = rollouts.executions
        self._bus = bus
        for filter in FILTERS:
            bus.add_listener(filter, self._on_request)

    def get_pending(self, thing: str) -> Document:
        """GetPendingJobExecutions."""
        found: dict[str, list[Document]] = {"inProgressJobs": [], "queuedJobs": []}
        for execution in self._executions.pending(thing):
            name = "inProgressJobs" if execution["status"] == "IN_PROGRESS" else "queuedJobs"
            found[name].append(device_summary(execution))
        return found

    def start_next(self, thing: str, request: Document) -> Document:
        """StartNextPendingJobExecution."""
        check_details(request.get("statusDetails"))
        before = self._executions.pending(thing)
        if not before:
            return {}
        now, execution = self._ground.clock(), before[0]
        if execution["status"] == "QUEUED":
            execution = executions.start(execution, now, self._job_minutes(execution))
            if request.get("statusDetails"):
                execution["statusDetails"] = dict(request["statusDetails"])
        execution = executions.with_step(execution, request.get("stepTimeoutInMinutes"), now)
        self._executions.save(execution)
        self._rollouts.notify(thing, before)
        return {"execution": self._rollouts.shown(execution)}

    def _job_minutes(self, execution: Document) -> int | None:
        config = (self._rollouts.jobs.get(execution["jobId"]) or {}).get("timeoutConfig") or {}
        return config.get("inProgressTimeoutInMinutes")

    def describe(self, thing: str, job_id: str, request: Document) -> Document:
        """DescribeJobExecution of one that has not ended; `$next` is the first pending one."""
        if job_id == "$next":
            found = self._executions.pending(thing)
            if not found:
                return {}
            execution = found[0]
        else:
            execution = self._executions.latest(job_id, thing, request.get("executionNumber"))
            if execution["status"] in executions.TERMINAL:
                text = "Job Execution has reached terminal state. It is neither IN_PROGRESS nor QUEUED"
                raise AwsError("TerminalStateException", text, 410)
        wanted = request.get("includeJobDocument", True) is not False
        return {"execution": self._rollouts.shown(execution, with_document=wanted)}

    def update(self, thing: str, job_id: str, request: Document) -> Document:
        """UpdateJobExecution."""
        execution = self._executions.latest(job_id, thing, request.get("executionNumber"))
        before = self._executions.pending(thing)
        changed = executions.update(execution, request, self._ground.clock(), self._job_minutes(execution))
        self._executions.save(changed)
        self._rollouts.after(changed, before)
        answer: Document = {}
        if request.get("includeJobExecutionState"):
            answer["executionState"] = state_of(changed)
        if request.get("includeJobDocument"):
            answer["jobDocument"] = self._rollouts.document(changed)
        return answer

    def _on_request(self, publication: Publication) -> None:
        match = _REQUEST.match(publication.topic)
        if match is None:
            return
        thing, general, job_id, action = match[1], match[2], match[3], match[4]
        request: Document = {}
        try:
            request = _parsed(publication.payload)
            if general == "get":
                answer = self.get_pending(thing)
            elif general == "start-next":
                answer = self.start_next(thing, request)
            elif action == "get":
                answer = self.describe(thing, job_id, request)
            else:
                answer = self.update(thing, job_id, request)
            outcome = "accepted"
        except AwsError as error:
            outcome, answer = "rejected", self._refusal(thing, job_id, error)
        answer["timestamp"] = int(self._ground.clock())
        if isinstance(request.get("clientToken"), str):
            answer["clientToken"] = request["clientToken"]
        topic = f"{publication.topic}/{outcome}"
        reply = Publication(topic, orjson.dumps(answer), qos=1, traceparent=publication.traceparent)
        if publication.client_id is None or not self._bus.deliver_to(publication.client_id, reply):
            self._bus.publish(reply)

    def _refusal(self, thing: str, job_id: str | None, error: AwsError) -> Document:
        code = _CODES.get(error.code) or error.code.removesuffix("Exception")
        answer: Document = {"code": code, "message": error.message}
        if job_id and error.code in ("InvalidStateTransitionException", "VersionMismatch"):
            answer["executionState"] = state_of(self._executions.latest(job_id, thing))
        return answer


def _parsed(payload: bytes) -> Document:
    """A device's request. Raises AwsError InvalidJson."""
    if not payload:
        return {}
    try:
        request = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise AwsError("InvalidJson", "The contents of the request were not valid JSON.", 400) from error
    if not isinstance(request, dict):
        raise AwsError("InvalidRequestException", "The request is not a JSON object.", 400)
    if isinstance(request.get("statusDetails"), dict):
        request["statusDetails"] = {name: _text(value) for name, value in request["statusDetails"].items()}
    return {name: _number(name, value) if name in _NUMBERS else value for name, value in request.items()}


def _text(value: object) -> object:
    """A value of the status details: AWS's own job agent sends true and false where the API has text."""
    return orjson.dumps(value).decode() if isinstance(value, bool | int | float) else value


def _number(name: str, value: object) -> int | None:
    """A number of a request; the older SDKs send it as text. Raises AwsError InvalidRequestException."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
        return int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise AwsError("InvalidRequestException", f"{name} has to be a number.", 400)


class JobsData:
    """The `iot-jobs-data` API over `JobDevices`. `permit(context, action, resource)` asks a device's policies."""

    def __init__(self, devices: JobDevices, permit: Callable[[CallContext, str, str], object]) -> None:
        self._devices = devices
        self._permit = permit

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "GetPendingJobExecutions": self.pending, "StartNextPendingJobExecution": self.start_next,
            "DescribeJobExecution": self.describe, "UpdateJobExecution": self.update,
        }  # fmt: skip

    def pending(self, params: Params, context: CallContext) -> Document:
        """GetPendingJobExecutions."""
        self._permit(context, "iot:GetPendingJobExecutions", f"thing/{params['thingName']}")
        return self._devices.get_pending(params["thingName"])

    def start_next(self, params: Params, context: CallContext) -> Document:
        """StartNextPendingJobExecution."""
        self._permit(context, "iot:StartNextPendingJobExecution", f"thing/{params['thingName']}")
        return _for_http(self._devices.start_next(params["thingName"], params), params["thingName"])

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeJobExecution."""
        self._permit(context, "iot:DescribeJobExecution", f"thing/{params['thingName']}")
        return _for_http(self._devices.describe(params["thingName"], params["jobId"], params), params["thingName"])

    def update(self, params: Params, context: CallContext) -> Document:
        """UpdateJobExecution."""
        self._permit(context, "iot:UpdateJobExecution", f"thing/{params['thingName']}")
        answer = self._devices.update(params["thingName"], params["jobId"], params)
        if "jobDocument" in answer:
            answer["jobDocument"] = orjson.dumps(answer["jobDocument"]).decode()
        return answer


def _for_http(answer: Document, thing: str) -> Document:
    """Over HTTP an execution names its thing, and the job document is text; over MQTT it is JSON."""
    if "execution" not in answer:
        return answer
    execution = {**answer["execution"], "thingName": thing}
    if "jobDocument" in execution:
        execution["jobDocument"] = orjson.dumps(execution["jobDocument"]).decode()
    return {**answer, "execution": execution}
