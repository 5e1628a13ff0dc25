"""Bulk registration: a provisioning template for every line of a file in S3, in the background.

The file has one JSON object of parameters a line. What was made, and what failed, is written to the input's bucket,
and the reports give presigned URLs of it. One task runs at a time; the others wait, InProgress.

Sources: AWS IoT developer guide, "Bulk registration"; API reference, StartThingRegistrationTask and its relatives.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.job_documents import S3Object
from foreshore.iot.job_files import Files
from foreshore.iot.listing import tokens
from foreshore.iot.provisioning_resources import Provisioner
from foreshore.iot.provisioning_templates import parse, resolve
from foreshore.iot.store import Document, Ground
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
REPORT_S = 3600
MAX_LINE = 8 * 1024
"""Bytes of one line of the input."""

_RUNNING = ("InProgress", "Cancelling")


class BulkRegistration:
    """The tasks of an account. `spawn` runs a coroutine on the loop."""

    def __init__(
        self,
        ground: Ground,
        provisioner: Provisioner,
        files: Files,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._ground = ground
        self._provisioner = provisioner
        self._files = files
        self._spawn = spawn
        self.kind = ground.kind("registration-task")
        for task in self.kind.values():
            if task["status"] in _RUNNING:  # It went with the last process.
                self._save(task, status="Failed", message="The service stopped before the task was done.")

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "StartThingRegistrationTask": self.start, "StopThingRegistrationTask": self.stop,
            "DescribeThingRegistrationTask": self.describe, "ListThingRegistrationTasks": self.list_all,
            "ListThingRegistrationTaskReports": self.reports,
        }  # fmt: skip

    def _find(self, task_id: str) -> Document:
        found = self.kind.get(task_id)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Task {task_id} not found.", 404)
        return found

    def _save(self, task: Document, **changed: Any) -> Document:
        task = {**task, **changed, "lastModifiedDate": self._ground.clock()}
        self.kind.put(task["taskId"], task)
        return task

    def start(self, params: Params, context: CallContext) -> Document:
        """StartThingRegistrationTask."""
        parse(params["templateBody"])
        names = ("templateBody", "inputFileBucket", "inputFileKey", "roleArn")
        task = {
            **{name: params[name] for name in names}, "taskId": self._ground.new_id(), "status": "InProgress",
            "creationDate": self._ground.clock(), "successCount": 0, "failureCount": 0, "percentageProgress": 0,
        }  # fmt: skip
        self._save(task)
        self._spawn(self._run(task["taskId"]))
        return {"taskId": task["taskId"]}

    def stop(self, params: Params, context: CallContext) -> Document:
        """StopThingRegistrationTask: it ends before its next line."""
        task = self._find(params["taskId"])
        if task["status"] not in _RUNNING:
            raise AwsError("InvalidRequestException", f"Task {task['taskId']} is {task['status']}.", 400)
        self._save(task, status="Cancelling")
        return {}

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeThingRegistrationTask."""
        return {name: each for name, each in self._find(params["taskId"]).items() if name != "reports"}

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListThingRegistrationTasks."""
        wanted = params.get("status")
        found = [each["taskId"] for each in self.kind.values() if wanted in (None, each["status"])]
        return tokens(found, params, "taskIds")

    def reports(self, params: Params, context: CallContext) -> Document:
        """ListThingRegistrationTaskReports: a URL of the results or of the errors, once there are any."""
        task, kind = self.kind.get(params["taskId"]), params["reportType"]
        if task is None:
            raise AwsError("InvalidRequestException", f"Task {params['taskId']} not found.", 400)
        key = task.get("reports", {}).get(kind)
        links = [self._files.presign("GET", S3Object(task["inputFileBucket"], key), REPORT_S)] if key else []
        return {**tokens(links, params, "resourceLinks"), "reportType": kind}

    # The work

    async def _run(self, task_id: str) -> None:
        task = self._find(task_id)
        try:
            data = await self._files.read(S3Object(task["inputFileBucket"], task["inputFileKey"]), limit=None)
        except AwsError as error:
            self._save(task, status="Failed", message=error.message[:2048])
            return
        lines = [line for line in data.splitlines() if line.strip()]
        results: list[Document] = []
        errors: list[Document] = []
        for number, line in enumerate(lines, 1):
            if self._find(task_id)["status"] == "Cancelling":
                break
            self._register(task["templateBody"], number, line, results, errors)
        await self._report(task, results, errors)
        done = len(results) + len(errors)
        self._save(
            self._find(task_id), status="Completed" if done == len(lines) else "Cancelled", successCount=len(results),
            failureCount=len(errors), percentageProgress=100 * done // len(lines) if lines else 100,
            reports=_keys(task_id, results, errors),
        )  # fmt: skip

    def _register(self, body: str, number: int, line: bytes, results: list[Document], errors: list[Document]) -> None:
        try:
            if len(line) > MAX_LINE:
                raise AwsError("InvalidRequestException", f"The line exceeds {MAX_LINE} bytes.", 400)
            parameters = orjson.loads(line)
            if not isinstance(parameters, dict) or not all(isinstance(each, str) for each in parameters.values()):
                raise AwsError("InvalidRequestException", "The line is no JSON object of strings.", 400)
            arns = self._provisioner.provision(resolve(body, parameters))
        except orjson.JSONDecodeError:
            errors.append({"lineNumber": number, "offset": 0, "errorMessage": "The line is not JSON."})
        except NotEmulated:
            raise
        except AwsError as error:
            shown = {"errorMessage": error.message, "errorCode": error.code}
            errors.append({"lineNumber": number, "offset": 0, **shown})
        else:
            results.append({"lineNumber": number, "offset": 0, "response": {"ResourceArns": arns}})

    async def _report(self, task: Document, results: list[Document], errors: list[Document]) -> None:
        for kind, key in _keys(task["taskId"], results, errors).items():
            rows = results if kind == "RESULTS" else errors
            body = b"".join(orjson.dumps(row) + b"\n" for row in rows)
            await self._files.write(S3Object(task["inputFileBucket"], key), body)


def _keys(task_id: str, results: list[Document], errors: list[Document]) -> dict[str, str]:
    """Where the reports are, those that hold anything."""
    kinds = {"RESULTS": results, "ERRORS": errors}
    return {kind: f"{task_id}/{kind.lower()}.json" for kind, rows in kinds.items() if rows}
