"""The control plane of AWS IoT Jobs: jobs and their executions.

What moves a job is in `job_rollouts.py`, what devices ask in `job_devices.py`, templates in `job_templates.py`.

Sources: AWS IoT developer guide, "AWS IoT Jobs"; API reference of iot.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot import job_executions as executions
from foreshore.iot import job_schedules as schedules
from foreshore.iot.job_documents import bad, check, s3_object, with_parameters
from foreshore.iot.job_executions import TERMINAL
from foreshore.iot.job_files import Files
from foreshore.iot.job_rollouts import OPEN, Rollouts
from foreshore.iot.job_templates import CONFIGS, JobTemplates, check_configs
from foreshore.iot.listing import tokens
from foreshore.iot.store import Document, Ground, Tags
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
MAX_TARGETS = 100
_ALWAYS = ("presignedUrlConfig", "jobExecutionsRolloutConfig", "timeoutConfig")
"""Configurations that DescribeJob shows even when they were not given."""
_HIDDEN = ("document", "template", "documentSource", "rolledOut", "minute", "rolloutEnded")


class Jobs:
    """All jobs of an account."""

    def __init__(self, ground: Ground, tags: Tags, rollouts: Rollouts, templates: JobTemplates, files: Files) -> None:
        self._ground = ground
        self._tags = tags
        self._rollouts = rollouts
        self._templates = templates
        self._files = files
        self._executions = rollouts.executions
        self.kind = rollouts.jobs

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateJob": self.create, "DescribeJob": self.describe, "GetJobDocument": self.document_of,
            "ListJobs": self.list_all, "UpdateJob": self.change, "CancelJob": self.cancel, "DeleteJob": self.delete,
            "AssociateTargetsWithJob": self.associate, "DescribeJobExecution": self.describe_execution,
            "ListJobExecutionsForJob": self.list_of_job, "ListJobExecutionsForThing": self.list_of_thing,
            "CancelJobExecution": self.cancel_execution, "DeleteJobExecution": self.delete_execution,
        }  # fmt: skip

    def _arn(self, job_id: str) -> str:
        return self._ground.arns.iot(f"job/{job_id}")

    # Jobs

    def create(self, params: Params, context: CallContext) -> Document | Awaitable[Document]:
        """CreateJob, of a document, an object of S3 or a template. AWS keeps namespaces for Greengrass."""
        if params.get("namespaceId") is not None:
            raise NotEmulated("jobs in a namespace of one's own", "Leave namespaceId out.")
        return self.open(params)

    def open(self, params: Params) -> Document | Awaitable[Document]:
        """Create a job, which may be in the namespace of Greengrass's deployments. Raises AwsError."""
        job_id = params["jobId"]
        if job_id in self.kind:
            extra = {"resourceId": job_id, "resourceArn": self._arn(job_id)}
            raise AwsError("ResourceAlreadyExistsException", f"Job {job_id} already exists.", 409, extra)
        check_configs(params)
        template = self._templates.by_arn(params["jobTemplateArn"]) if params.get("jobTemplateArn") else {}
        is_managed = "templateName" in template
        if params.get("documentParameters") and not is_managed:
            raise bad("documentParameters can only be used with AWS managed templates")
        if params.get("document") is None and params.get("documentSource"):
            return self._create_from_s3(params, template)
        text = params.get("document") or template.get("document")
        if is_managed and params.get("document") is None:
            text = with_parameters(template, params.get("documentParameters") or {})
        return self._create(params, template, text)

    async def _create_from_s3(self, params: Params, template: Document) -> Document:
        document = await self._files.read(s3_object(params["documentSource"]))
        return self._create(params, template, document.decode("utf-8", "replace"))

    def _create(self, params: Params, template: Document, text: str | None) -> Document:
        if not text:
            raise bad("One of document, documentSource and jobTemplateArn is required")
        configs = {name: params.get(name, template.get(name)) for name in CONFIGS}
        check(text, configs["presignedUrlConfig"])
        job_id, now = params["jobId"], self._ground.clock()
        selection = params.get("targetSelection", "SNAPSHOT")
        schedule = dict(params.get("schedulingConfig") or {})
        if template.get("maintenanceWindows") and not schedule.get("maintenanceWindows"):
            schedule["maintenanceWindows"] = template["maintenanceWindows"]
        schedules.check(schedule, now, continuous=selection == "CONTINUOUS")
        named = ("namespaceId", "documentParameters", "jobTemplateArn", "documentSource")
        job = {
            **configs, **{name: params.get(name) for name in named},
            "jobArn": self._arn(job_id), "jobId": job_id, "targets": list(params["targets"]),
            "description": params.get("description", template.get("description")), "targetSelection": selection,
            "status": "IN_PROGRESS" if schedules.is_begun(schedule, now) else "SCHEDULED",
            "schedulingConfig": schedule or None, "createdAt": now, "lastUpdatedAt": now, "document": text,
            "template": template.get("document") if "templateName" in template else None,
            "rolledOut": 0, "minute": [0, 0],
        }  # fmt: skip
        self._check_targets(job["targets"])
        self.kind.put(job_id, {name: value for name, value in job.items() if value is not None})
        self._tags.set(self._arn(job_id), params.get("tags"))
        self._rollouts.advance(job_id)
        return {"jobArn": self._arn(job_id), "jobId": job_id, "description": job["description"]}

    def _check_targets(self, targets: list[str]) -> None:
        """Targets are things and thing groups that there are, at most 100 (AssociateTargetsWithJob)."""
        if len(targets) > MAX_TARGETS:
            raise bad(f"A job has at most {MAX_TARGETS} targets")
        self._rollouts.members({"targets": targets})
        prefix = self._ground.arns.iot("thing/")
        things = self._ground.kind("thing")
        for target in targets:
            if target.startswith(prefix) and target[len(prefix) :] not in things:
                raise AwsError("ResourceNotFoundException", f"The target {target} was not found.", 404)

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeJob."""
        job = self._rollouts.find(params["jobId"])
        waiting = self._rollouts.waiting(job)
        shown = {name: value for name, value in job.items() if name not in _HIDDEN}
        windows = schedules.next_windows(job.get("schedulingConfig") or {}, self._ground.clock())
        if windows and job["status"] in OPEN:
            shown["scheduledJobRollouts"] = [{"startTime": each} for each in windows]
        counts: Document = dict(self._rollouts.counts(job["jobId"]))
        if waiting:
            counts["processingTargets"] = [self._ground.arns.iot(f"thing/{thing}") for thing in waiting]
        done = {"documentSource": job["documentSource"]} if job.get("documentSource") else {}
        shown = {**{name: {} for name in _ALWAYS}, **shown}
        return {**done, "job": {**shown, "isConcurrent": bool(waiting), "jobProcessDetails": counts}}

    def document_of(self, params: Params, context: CallContext) -> Document:
        """GetJobDocument; `beforeSubstitution` shows a managed template's parameters unresolved."""
        job = self._rollouts.find(params["jobId"])
        if params.get("beforeSubstitution") and "template" in job:
            return {"document": job["template"]}
        return {"document": job["document"]}

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListJobs."""
        group = params.get("thingGroupName")
        if params.get("thingGroupId"):
            groups = self._ground.kind("thing-group").values()
            found = [each["thingGroupName"] for each in groups if each["thingGroupId"] == params["thingGroupId"]]
            group = found[0] if found else params["thingGroupId"]
        names = ("jobArn", "jobId", "targetSelection", "status", "createdAt", "lastUpdatedAt", "completedAt")
        listed = [
            {name: job[name] for name in names if name in job}
            for job in self.kind.values()
            if params.get("status") in (None, job["status"])
            and params.get("targetSelection") in (None, job["targetSelection"])
            and params.get("namespaceId") in (None, job.get("namespaceId"))
            and (group is None or any(target.endswith(f":thinggroup/{group}") for target in job["targets"]))
        ]
        return tokens(listed, params, "jobs", key=lambda job: str(job["jobId"]))

    def change(self, params: Params, context: CallContext) -> None:
        """UpdateJob."""
        job = self._rollouts.find(params["jobId"])
        check_configs(params)
        given = {name: params[name] for name in (*CONFIGS, "description") if params.get(name) is not None}
        check(job["document"], {**job, **given}.get("presignedUrlConfig"))
        self._rollouts.put(job, **given)

    def associate(self, params: Params, context: CallContext) -> Document:
        """AssociateTargetsWithJob: more groups for a continuous job."""
        job = self._rollouts.find(params["jobId"])
        if job["targetSelection"] != "CONTINUOUS" or job["status"] != "IN_PROGRESS":
            raise bad("Targets can be associated only with a continuous job that is in progress.")
        grown = {**job, "targets": list(dict.fromkeys([*job["targets"], *params["targets"]]))}
        if params.get("comment"):
            grown["comment"] = params["comment"]
        self._check_targets(grown["targets"])
        self._rollouts.put(grown)
        self._rollouts.advance(job["jobId"])
        return self._named(job)

    def _named(self, job: Document) -> Document:
        return {"jobArn": job["jobArn"], "jobId": job["jobId"], "description": job.get("description")}

    def cancel(self, params: Params, context: CallContext) -> Document:
        """CancelJob: queued executions end; those in progress only with `force`."""
        job = self._rollouts.find(params["jobId"])
        if job["status"] not in OPEN:
            raise bad(f"Job {job['jobId']} is {job['status']} already.")
        self._rollouts.cancel(job, params, force=bool(params.get("force")))
        return self._named(job)

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteJob: without `force` only one that is completed or canceled."""
        job = self._rollouts.find(params["jobId"])
        if job["status"] in OPEN and not params.get("force"):
            text = f"Job is in status '{job['status']}'. Please set force to 'true' to delete it."
            raise AwsError("InvalidStateTransitionException", text, 409)
        self._rollouts.delete(job)
        self._tags.drop(self._arn(job["jobId"]))

    # Executions

    def describe_execution(self, params: Params, context: CallContext) -> Document:
        """DescribeJobExecution of the control plane."""
        execution = self._executions.latest(params["jobId"], params["thingName"], params.get("executionNumber"))
        names = (
            "jobId", "status", "queuedAt", "startedAt", "lastUpdatedAt", "executionNumber", "versionNumber",
            "forceCanceled",
        )  # fmt: skip
        shown = {name: execution[name] for name in names if execution.get(name) is not None}
        left = executions.seconds_left(execution, self._ground.clock())
        return {
            "execution": {
                **shown,
                "statusDetails": {"detailsMap": execution["statusDetails"]} if execution["statusDetails"] else {},
                "thingArn": self._ground.arns.iot(f"thing/{execution['thing']}"),
                **({"approximateSecondsBeforeTimedOut": left} if left is not None else {}),
            }
        }

    def _summary(self, execution: Document) -> Document:
        names = ("status", "queuedAt", "startedAt", "lastUpdatedAt", "executionNumber", "retryAttempt")
        return {name: execution[name] for name in names if execution[name] is not None}

    def list_of_job(self, params: Params, context: CallContext) -> Document:
        """ListJobExecutionsForJob."""
        self._rollouts.find(params["jobId"])
        arn = self._ground.arns.iot
        found = [
            {"thingArn": arn(f"thing/{each['thing']}"), "jobExecutionSummary": self._summary(each)}
            for each in sorted(self._executions.newest(params["jobId"]), key=lambda each: str(each["thing"]))
            if params.get("status") in (None, each["status"])
        ]
        return tokens(found, params, "executionSummaries", key=lambda each: str(each["thingArn"]))

    def list_of_thing(self, params: Params, context: CallContext) -> Document:
        """ListJobExecutionsForThing."""
        named = params.get("namespaceId")
        found = [
            {"jobId": each["jobId"], "jobExecutionSummary": self._summary(each)}
            for each in sorted(self._executions.of_thing(params["thingName"]), key=_unique)
            if params.get("status") in (None, each["status"])
            and params.get("jobId") in (None, each["jobId"])
            and named in (None, (self.kind.get(each["jobId"]) or {}).get("namespaceId"))
        ]
        return tokens(found, params, "executionSummaries", key=lambda each: _unique(each | each["jobExecutionSummary"]))

    def cancel_execution(self, params: Params, context: CallContext) -> None:
        """CancelJobExecution."""
        execution = self._executions.latest(params["jobId"], params["thingName"])
        if execution["status"] in TERMINAL or (execution["status"] == "IN_PROGRESS" and not params.get("force")):
            text = f"Job execution is in status '{execution['status']}' and can't be canceled."
            raise AwsError("InvalidStateTransitionException", text, 409)
        expected = params.get("expectedVersion")
        if expected is not None and int(expected) != execution["versionNumber"]:
            raise AwsError("VersionConflictException", f"Version is {execution['versionNumber']}", 409)
        executions.check_details(params.get("statusDetails"))
        given = {"statusDetails": params["statusDetails"]} if params.get("statusDetails") else {}
        forced = {"forceCanceled": True} if params.get("force") else {}
        self._rollouts.end({**execution, **given, **forced}, "CANCELED")

    def delete_execution(self, params: Params, context: CallContext) -> None:
        """DeleteJobExecution: without `force` only one that has ended."""
        execution = self._executions.latest(params["jobId"], params["thingName"], params.get("executionNumber"))
        if execution["status"] not in TERMINAL and not params.get("force"):
            text = f"Job execution is in status '{execution['status']}'. Please set force to 'true' to delete it."
            raise AwsError("InvalidStateTransitionException", text, 409)
        self._rollouts.remove(execution)


def _unique(execution: Document) -> str:
    return f"{execution['jobId']}/{int(execution['executionNumber']):010}"
