"""AWS IoT Jobs: the control plane, the device API over HTTP and MQTT, rollouts, timeouts, retries, notifications.

Answers to MQTT requests go straight to the requester, subscribed or not. `tick` is to be called about once a second:
it rolls out, times out and retries.

Sources: AWS IoT developer guide, "AWS IoT Jobs", "Jobs device MQTT and HTTPS APIs", "Jobs events"; API references.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import orjson

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot import job_executions as executions
from foreshore.iot.job_executions import TERMINAL, device_summary, for_device, in_order, is_pending, state_of
from foreshore.iot.listing import tokens
from foreshore.iot.store import Document, Ground, Tags
from foreshore.seams import Publication
from foreshore.shapes.service_model import CallContext, OperationHandler

Json = Any
Params = dict[str, Any]
MAX_DOCUMENT = 32 * 1024
_REQUEST = re.compile(r"\$aws/things/([^/]+)/jobs/(?:(get|start-next)|([^/]+)/(get|update))$")
FILTERS = (
    "$aws/things/+/jobs/get",
    "$aws/things/+/jobs/start-next",
    "$aws/things/+/jobs/+/get",
    "$aws/things/+/jobs/+/update",
)
_COUNTS = {
    "QUEUED": "numberOfQueuedThings", "IN_PROGRESS": "numberOfInProgressThings", "SUCCEEDED": "numberOfSucceededThings",
    "FAILED": "numberOfFailedThings", "REJECTED": "numberOfRejectedThings", "TIMED_OUT": "numberOfTimedOutThings",
    "CANCELED": "numberOfCanceledThings", "REMOVED": "numberOfRemovedThings",
}  # fmt: skip
_KEPT = (
    "description", "presignedUrlConfig", "jobExecutionsRolloutConfig", "abortConfig", "timeoutConfig", "namespaceId",
    "jobExecutionsRetryConfig", "destinationPackageVersions",
)  # fmt: skip


class Bus(Protocol):
    """What of the broker jobs use."""

    def publish(self, publication: Publication, /) -> None: ...

    def add_listener(self, filter: str, callback: Callable[[Publication], None], /) -> object: ...

    def deliver_to(self, client_id: str, publication: Publication, /) -> bool: ...


class Members(Protocol):
    """Who is in a thing group."""

    def things_in(self, name: str, *, recursive: bool = False) -> list[str]: ...


class Jobs:
    """All jobs of an account. `events_on(type)` tells whether an event type is switched on."""

    def __init__(self, ground: Ground, tags: Tags, groups: Members, bus: Bus, events_on: Callable[[str], bool]) -> None:
        self._ground = ground
        self._tags = tags
        self._groups = groups
        self._bus = bus
        self._events_on = events_on
        self.kind = ground.kind("job")
        self.templates = ground.kind("job-template")
        self._executions = ground.kind("job-execution")
        for filter in FILTERS:
            bus.add_listener(filter, self._on_request)

    def operations(self) -> dict[str, OperationHandler]:
        """The control plane's operations."""
        return {
            "CreateJob": self.create, "DescribeJob": self.describe, "GetJobDocument": self.document_of,
            "ListJobs": self.list_all, "UpdateJob": self.change, "CancelJob": self.cancel, "DeleteJob": self.delete,
            "AssociateTargetsWithJob": self.associate, "DescribeJobExecution": self.describe_execution,
            "ListJobExecutionsForJob": self.list_of_job, "ListJobExecutionsForThing": self.list_of_thing,
            "CancelJobExecution": self.cancel_execution, "DeleteJobExecution": self.delete_execution,
            "CreateJobTemplate": self.create_template, "DescribeJobTemplate": self.describe_template,
            "ListJobTemplates": self.list_templates, "DeleteJobTemplate": self.delete_template,
        }  # fmt: skip

    # Looking up

    def _arn(self, job_id: str) -> str:
        return self._ground.arns.iot(f"job/{job_id}")

    def _job(self, job_id: str) -> Document:
        found = self.kind.get(job_id)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Job {job_id} cannot be found.", 404)
        return found

    def _of(self, *, job: str = "", thing: str = "") -> list[Document]:
        return [
            e
            for e in self._executions.values()
            if (not job or e["jobId"] == job) and (not thing or e["thing"] == thing)
        ]

    def _latest(self, job_id: str, thing: str, number: int | None = None) -> Document:
        found = [e for e in self._of(job=job_id, thing=thing) if number is None or e["executionNumber"] == number]
        if not found:
            text = f"Job Execution doesn't exist for thing {thing} and job {job_id}."
            raise AwsError("ResourceNotFoundException", text, 404)
        return max(found, key=lambda e: int(e["executionNumber"]))

    def pending(self, thing: str) -> list[Document]:
        """What a device has before itself, in the order it gets it."""
        return sorted((e for e in self._of(thing=thing) if is_pending(e)), key=in_order)

    def _save(self, execution: Document) -> None:
        key = f"{execution['thing']}/{execution['jobId']}/{execution['executionNumber']}"
        self._executions.put(key, execution)

    # Control plane: jobs

    def create(self, params: Params, context: CallContext) -> Document:
        """CreateJob."""
        job_id = params["jobId"]
        if job_id in self.kind:
            extra = {"resourceId": job_id, "resourceArn": self._arn(job_id)}
            raise AwsError("ResourceAlreadyExistsException", f"Job {job_id} already exists.", 409, extra)
        if params.get("schedulingConfig"):
            raise NotEmulated("scheduled jobs (schedulingConfig)")
        template = self._template_of(params.get("jobTemplateArn"))
        document = self._document(params, template)
        now = self._ground.clock()
        job = {
            **{name: params.get(name, template.get(name)) for name in _KEPT},
            "jobArn": self._arn(job_id), "jobId": job_id, "targets": list(params["targets"]), "status": "IN_PROGRESS",
            "targetSelection": params.get("targetSelection", "SNAPSHOT"), "createdAt": now, "lastUpdatedAt": now,
            "document": document, "jobTemplateArn": params.get("jobTemplateArn"), "rolledOut": 0, "minute": [0, 0],
            "documentSource": params.get("documentSource"),
        }  # fmt: skip
        self._targets(job)
        self.kind.put(job_id, {name: value for name, value in job.items() if value is not None})
        self._tags.set(self._arn(job_id), params.get("tags"))
        self._event(job_id, "created", {})
        self._roll_out(job_id)
        return {"jobArn": self._arn(job_id), "jobId": job_id, "description": job["description"]}

    def _document(self, params: Params, template: Document) -> str:
        if params.get("documentSource") and not params.get("document"):
            raise NotEmulated("job documents from S3 (documentSource)", "Give `document`.")
        text = params.get("document") or template.get("document")
        if not text:
            raise AwsError("InvalidRequestException", "Either document or documentSource is required", 400)
        for name, value in (params.get("documentParameters") or {}).items():
            text = text.replace("${aws:iot:parameter:" + name + "}", value)
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise AwsError("InvalidRequestException", "The job document is not JSON", 400) from error
        if len(text.encode()) > MAX_DOCUMENT:
            raise AwsError("InvalidRequestException", f"The job document exceeds {MAX_DOCUMENT} bytes", 400)
        return str(text)

    def _targets(self, job: Document) -> list[str]:
        """The things a job is for. Raises AwsError for a target that is neither thing nor group."""
        found: dict[str, None] = {}
        for target in job["targets"]:
            kind, _, name = target.rpartition(":")[2].partition("/")
            if kind == "thing":
                found[name] = None
            elif kind == "thinggroup":
                found.update(dict.fromkeys(self._groups.things_in(name, recursive=True)))
            else:
                raise AwsError("InvalidRequestException", f"Invalid target: {target}", 400)
        return list(found)

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeJob."""
        job = self._job(params["jobId"])
        counts = dict.fromkeys(_COUNTS.values(), 0)
        for execution in self._newest(job["jobId"]):
            counts[_COUNTS[execution["status"]]] += 1
        hidden = ("document", "documentSource", "rolledOut", "minute")
        shown = {name: value for name, value in job.items() if name not in hidden}
        done = {"documentSource": job["documentSource"]} if job.get("documentSource") else {}
        return {**done, "job": {**shown, "jobProcessDetails": counts}}

    def _newest(self, job_id: str) -> Iterable[Document]:
        newest: dict[str, Document] = {}
        for execution in self._of(job=job_id):
            known = newest.get(execution["thing"])
            if known is None or execution["executionNumber"] > known["executionNumber"]:
                newest[execution["thing"]] = execution
        return newest.values()

    def document_of(self, params: Params, context: CallContext) -> Document:
        """GetJobDocument."""
        return {"document": self._job(params["jobId"])["document"]}

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListJobs."""
        group = params.get("thingGroupName")
        names = ("jobArn", "jobId", "targetSelection", "status", "createdAt", "lastUpdatedAt", "completedAt")
        found = [
            {name: job[name] for name in names if name in job}
            for job in self.kind.values()
            if params.get("status") in (None, job["status"])
            and params.get("targetSelection") in (None, job["targetSelection"])
            and (group is None or any(target.endswith(f":thinggroup/{group}") for target in job["targets"]))
        ]
        return tokens(found, params, "jobs", key=lambda job: str(job["jobId"]))

    def change(self, params: Params, context: CallContext) -> None:
        """UpdateJob."""
        job = self._job(params["jobId"])
        given = {name: params[name] for name in _KEPT if params.get(name) is not None}
        self.kind.put(job["jobId"], {**job, **given, "lastUpdatedAt": self._ground.clock()})

    def associate(self, params: Params, context: CallContext) -> Document:
        """AssociateTargetsWithJob: more groups for a continuous job."""
        job = self._job(params["jobId"])
        if job["targetSelection"] != "CONTINUOUS" or job["status"] != "IN_PROGRESS":
            text = "Targets can be associated only with a continuous job that is in progress."
            raise AwsError("InvalidRequestException", text, 400)
        grown = {**job, "targets": list(dict.fromkeys([*job["targets"], *params["targets"]]))}
        self._targets(grown)
        self.kind.put(job["jobId"], grown)
        self._roll_out(job["jobId"])
        return {"jobArn": job["jobArn"], "jobId": job["jobId"], "description": job.get("description")}

    def cancel(self, params: Params, context: CallContext) -> Document:
        """CancelJob: queued executions end; those in progress only with `force`."""
        job = self._job(params["jobId"])
        if job["status"] in ("COMPLETED", "CANCELED"):
            raise AwsError("InvalidRequestException", f"Job {job['jobId']} is {job['status']} already.", 400)
        self._cancel(job, params, bool(params.get("force")))
        return {"jobArn": job["jobArn"], "jobId": job["jobId"], "description": job.get("description")}

    def _cancel(self, job: Document, why: Document, force: bool) -> None:
        now = self._ground.clock()
        given = {name: why[name] for name in ("reasonCode", "comment") if why.get(name)}
        ended = {**job, **given, "status": "CANCELED", "completedAt": now, "lastUpdatedAt": now, "forceCanceled": force}
        self.kind.put(job["jobId"], ended)
        for execution in self._of(job=job["jobId"]):
            if execution["status"] == "QUEUED" or (force and execution["status"] == "IN_PROGRESS"):
                self._end(execution, "CANCELED")
        self._event(job["jobId"], "canceled", {})

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteJob."""
        job = self._job(params["jobId"])
        if job["status"] == "IN_PROGRESS" and not params.get("force"):
            text = "Job is in status 'IN_PROGRESS'. Please set force to 'true' to delete it."
            raise AwsError("InvalidStateTransitionException", text, 409)
        for execution in self._of(job=job["jobId"]):
            self._remove(execution)
        self.kind.delete(job["jobId"])
        self._tags.drop(self._arn(job["jobId"]))
        self._event(job["jobId"], "deleted", {})

    # Control plane: executions

    def describe_execution(self, params: Params, context: CallContext) -> Document:
        """DescribeJobExecution of the control plane."""
        execution = self._latest(params["jobId"], params["thingName"], params.get("executionNumber"))
        names = ("jobId", "status", "queuedAt", "startedAt", "lastUpdatedAt", "executionNumber", "versionNumber")
        shown = {name: execution[name] for name in names if execution[name] is not None}
        left = executions.seconds_left(execution, self._ground.clock())
        return {
            "execution": {
                **shown,
                "statusDetails": {"detailsMap": execution["statusDetails"]},
                "thingArn": self._ground.arns.iot(f"thing/{execution['thing']}"),
                **({"approximateSecondsBeforeTimedOut": left} if left is not None else {}),
            }
        }

    def _summary(self, execution: Document) -> Document:
        names = ("status", "queuedAt", "startedAt", "lastUpdatedAt", "executionNumber", "retryAttempt")
        return {name: execution[name] for name in names if execution[name] is not None}

    def list_of_job(self, params: Params, context: CallContext) -> Document:
        """ListJobExecutionsForJob."""
        self._job(params["jobId"])
        arn = self._ground.arns.iot
        found = [
            {"thingArn": arn(f"thing/{e['thing']}"), "jobExecutionSummary": self._summary(e)}
            for e in sorted(self._newest(params["jobId"]), key=lambda e: str(e["thing"]))
            if params.get("status") in (None, e["status"])
        ]
        return tokens(found, params, "executionSummaries", key=lambda each: str(each["thingArn"]))

    def list_of_thing(self, params: Params, context: CallContext) -> Document:
        """ListJobExecutionsForThing."""
        found = [
            {"jobId": e["jobId"], "jobExecutionSummary": self._summary(e)}
            for e in sorted(self._of(thing=params["thingName"]), key=lambda e: (e["jobId"], e["executionNumber"]))
            if params.get("status") in (None, e["status"]) and params.get("jobId") in (None, e["jobId"])
        ]
        return tokens(found, params, "executionSummaries", key=lambda each: str(each["jobId"]))

    def cancel_execution(self, params: Params, context: CallContext) -> None:
        """CancelJobExecution."""
        execution = self._latest(params["jobId"], params["thingName"])
        if execution["status"] in TERMINAL or (execution["status"] == "IN_PROGRESS" and not params.get("force")):
            text = f"Job execution is in status '{execution['status']}' and can't be canceled."
            raise AwsError("InvalidStateTransitionException", text, 409)
        expected = params.get("expectedVersion")
        if expected is not None and int(expected) != execution["versionNumber"]:
            raise AwsError("VersionConflictException", f"Version is {execution['versionNumber']}", 409)
        details = params.get("statusDetails")
        self._end({**execution, **({"statusDetails": details} if details else {})}, "CANCELED")

    def delete_execution(self, params: Params, context: CallContext) -> None:
        """DeleteJobExecution."""
        execution = self._latest(params["jobId"], params["thingName"], params.get("executionNumber"))
        if execution["status"] == "IN_PROGRESS" and not params.get("force"):
            text = "Job execution is in status 'IN_PROGRESS'. Please set force to 'true' to delete it."
            raise AwsError("InvalidStateTransitionException", text, 409)
        before = self.pending(execution["thing"])
        self._remove(execution)
        self._notify(execution["thing"], before)

    def _remove(self, execution: Document) -> None:
        self._executions.delete(f"{execution['thing']}/{execution['jobId']}/{execution['executionNumber']}")

    # Control plane: templates

    def _template_arn(self, name: str) -> str:
        return self._ground.arns.iot(f"jobtemplate/{name}")

    def _template(self, name: str) -> Document:
        found = self.templates.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Job template {name} cannot be found.", 404)
        return found

    def _template_of(self, arn: str | None) -> Document:
        if not arn:
            return {}
        if "::jobtemplate/" in arn:
            raise NotEmulated("AWS managed job templates")
        return self._template(arn.rpartition("/")[2])

    def create_template(self, params: Params, context: CallContext) -> Document:
        """CreateJobTemplate."""
        name = params["jobTemplateId"]
        if name in self.templates:
            raise AwsError("ConflictException", f"Job template {name} already exists.", 409)
        source = self._job(params["jobArn"].rpartition("/")[2]) if params.get("jobArn") else {}
        document = self._document(params, source)
        kept = {each: params.get(each, source.get(each)) for each in _KEPT}
        made = {**kept, "jobTemplateId": name, "document": document, "createdAt": self._ground.clock()}
        self.templates.put(name, {each: value for each, value in made.items() if value is not None})
        self._tags.set(self._template_arn(name), params.get("tags"))
        return {"jobTemplateArn": self._template_arn(name), "jobTemplateId": name}

    def describe_template(self, params: Params, context: CallContext) -> Document:
        """DescribeJobTemplate."""
        found = self._template(params["jobTemplateId"])
        return {**found, "jobTemplateArn": self._template_arn(found["jobTemplateId"])}

    def list_templates(self, params: Params, context: CallContext) -> Document:
        """ListJobTemplates."""
        names = ("jobTemplateId", "description", "createdAt")
        found = [
            {**{n: t[n] for n in names if n in t}, "jobTemplateArn": self._template_arn(t["jobTemplateId"])}
            for t in self.templates.values()
        ]
        return tokens(found, params, "jobTemplates", key=lambda each: str(each["jobTemplateId"]))

    def delete_template(self, params: Params, context: CallContext) -> None:
        """DeleteJobTemplate."""
        self._template(params["jobTemplateId"])
        self.templates.delete(params["jobTemplateId"])
        self._tags.drop(self._template_arn(params["jobTemplateId"]))

    # Rolling out, timing out, retrying

    def tick(self) -> None:
        """Roll out within each job's rate, end what timed out, complete what is done."""
        now = self._ground.clock()
        for execution in self._executions.values():
            if executions.timed_out(execution, now):
                self._end(execution, "TIMED_OUT")
        for job in self.kind.values():
            if job["status"] == "IN_PROGRESS":
                self._roll_out(job["jobId"])

    def _roll_out(self, job_id: str) -> None:
        job = self._job(job_id)
        if job["status"] != "IN_PROGRESS":
            return
        have = {execution["thing"] for execution in self._of(job=job_id)}
        waiting = [thing for thing in self._targets(job) if thing not in have]
        minute = int(self._ground.clock() // 60)
        used = job["minute"][1] if job["minute"][0] == minute else 0
        room = max(0, self._rate(job) - used)
        for thing in waiting[:room]:
            self._queue(executions.queued(job_id, thing, 1, self._ground.clock()))
        taken = min(room, len(waiting))
        if taken:
            self.kind.put(job_id, {**job, "rolledOut": job["rolledOut"] + taken, "minute": [minute, used + taken]})
        self._complete(job_id)

    def _rate(self, job: Document) -> int:
        """How many executions this minute may begin (AWS's default is 1,000)."""
        config = job.get("jobExecutionsRolloutConfig") or {}
        growth = config.get("exponentialRate")
        limit = int(config.get("maximumPerMinute") or 1000)
        if not growth:
            return limit
        criteria = growth["rateIncreaseCriteria"]
        succeeded = sum(e["status"] == "SUCCEEDED" for e in self._newest(job["jobId"]))
        if criteria.get("numberOfNotifiedThings"):
            steps = job["rolledOut"] // int(criteria["numberOfNotifiedThings"])
        else:
            steps = succeeded // int(criteria["numberOfSucceededThings"])
        return min(limit, int(growth["baseRatePerMinute"] * float(growth["incrementFactor"]) ** min(steps, 50)))

    def _queue(self, execution: Document) -> None:
        before = self.pending(execution["thing"])
        self._save(execution)
        self._notify(execution["thing"], before)

    def _end(self, execution: Document, status: str) -> None:
        before = self.pending(execution["thing"])
        ended = executions.finish(execution, status, self._ground.clock())
        self._save(ended)
        self._after(ended, before)

    def _after(self, execution: Document, before: list[Document]) -> None:
        """What follows from an execution's new state: events, a retry, the job's end, notifications."""
        job = self.kind.get(execution["jobId"])
        if execution["status"] in TERMINAL:
            self._execution_event(execution, execution["status"].lower())
            criteria = ((job or {}).get("jobExecutionsRetryConfig") or {}).get("criteriaList") or []
            if job is not None and job["status"] == "IN_PROGRESS" and executions.wants_retry(execution, criteria):
                number, attempt = execution["executionNumber"] + 1, execution["retryAttempt"] + 1
                now = self._ground.clock()
                self._save(executions.queued(execution["jobId"], execution["thing"], number, now, attempt))
        self._notify(execution["thing"], before)
        if job is not None and execution["status"] in TERMINAL:
            self._abort_or_go_on(job)
            self._complete(job["jobId"])

    def _abort_or_go_on(self, job: Document) -> None:
        newest = list(self._newest(job["jobId"]))
        ended = [e for e in newest if e["status"] in TERMINAL]
        for each in ((job.get("abortConfig") or {}).get("criteriaList")) or []:
            kinds = ("FAILED", "REJECTED", "TIMED_OUT") if each["failureType"] == "ALL" else (each["failureType"],)
            failed = sum(e["status"] in kinds for e in ended)
            if len(ended) >= int(each["minNumberOfExecutedThings"]) and ended:
                share = failed / len(ended) * 100
                if share >= float(each["thresholdPercentage"]) and self._job(job["jobId"])["status"] == "IN_PROGRESS":
                    self._cancel(job, {"reasonCode": "ABORT_CRITERIA_MET"}, force=False)

    def _complete(self, job_id: str) -> None:
        """A snapshot job is over when every target's last execution is."""
        job = self.kind.get(job_id)
        if job is None or job["status"] != "IN_PROGRESS" or job["targetSelection"] != "SNAPSHOT":
            return
        newest = {execution["thing"]: execution for execution in self._newest(job_id)}
        targets = self._targets(job)
        if all(thing in newest and newest[thing]["status"] in TERMINAL for thing in targets):
            now = self._ground.clock()
            self.kind.put(job_id, {**job, "status": "COMPLETED", "completedAt": now, "lastUpdatedAt": now})
            self._event(job_id, "completed", {})

    # Notifications and events

    def _notify(self, thing: str, before: list[Document]) -> None:
        """`notify` when the set of pending executions changed, `notify-next` when the first one did."""
        after = self.pending(thing)
        now = int(self._ground.clock())
        keys = [[(e["jobId"], e["executionNumber"], e["status"]) for e in each] for each in (before, after)]
        if sorted(k[:2] for k in keys[0]) != sorted(k[:2] for k in keys[1]):
            jobs: dict[str, list[Document]] = {}
            for execution in after:
                jobs.setdefault(execution["status"], []).append(device_summary(execution))
            self._publish(f"$aws/things/{thing}/jobs/notify", {"timestamp": now, "jobs": jobs})
        if [k[:2] for k in keys[0][:1]] != [k[:2] for k in keys[1][:1]]:
            message: Document = {"timestamp": now}
            if after:
                message["execution"] = self._shown(after[0])
            self._publish(f"$aws/things/{thing}/jobs/notify-next", message)

    def _shown(self, execution: Document, *, with_document: bool = True) -> Document:
        document = orjson.loads(self._job(execution["jobId"])["document"]) if with_document else None
        return for_device(execution, self._ground.clock(), document)

    def _publish(self, topic: str, message: Document) -> None:
        self._bus.publish(Publication(topic, orjson.dumps(message), qos=1))

    def _event(self, job_id: str, operation: str, more: Document) -> None:
        if self._events_on("JOB"):
            job = self.kind.get(job_id) or {"jobId": job_id}
            names = ("jobArn", "jobId", "status", "targetSelection", "targets", "description")
            shown = {name: job[name] for name in names if job.get(name) is not None}
            now = int(self._ground.clock())
            event = {"eventType": "JOB", "eventId": self._ground.new_id(), "timestamp": now}
            self._publish(f"$aws/events/job/{job_id}/{operation}", {**event, "operation": operation, **shown, **more})

    def _execution_event(self, execution: Document, operation: str) -> None:
        if self._events_on("JOB_EXECUTION"):
            event = {
                "eventType": "JOB_EXECUTION",
                "eventId": self._ground.new_id(),
                "timestamp": int(self._ground.clock()),
            }
            shown = {
                "operation": operation, "jobId": execution["jobId"], "status": execution["status"],
                "thingArn": self._ground.arns.iot(f"thing/{execution['thing']}"),
                "statusDetails": execution["statusDetails"],
            }  # fmt: skip
            self._publish(f"$aws/events/jobExecution/{execution['jobId']}/{operation}", {**event, **shown})

    # The device API

    def get_pending(self, thing: str) -> Document:
        """GetPendingJobExecutions."""
        found: dict[str, list[Document]] = {"inProgressJobs": [], "queuedJobs": []}
        for execution in self.pending(thing):
            name = "inProgressJobs" if execution["status"] == "IN_PROGRESS" else "queuedJobs"
            found[name].append(device_summary(execution))
        return found

    def start_next(self, thing: str, request: Document) -> Document:
        """StartNextPendingJobExecution."""
        before = self.pending(thing)
        if not before:
            return {}
        now, execution = self._ground.clock(), before[0]
        if execution["status"] == "QUEUED":
            execution = executions.start(execution, now, self._job_minutes(execution))
            if request.get("statusDetails"):
                execution["statusDetails"] = dict(request["statusDetails"])
        execution = executions.with_step(execution, request.get("stepTimeoutInMinutes"), now)
        self._save(execution)
        self._notify(thing, before)
        return {"execution": self._shown(execution)}

    def _job_minutes(self, execution: Document) -> int | None:
        config = (self.kind.get(execution["jobId"]) or {}).get("timeoutConfig") or {}
        return config.get("inProgressTimeoutInMinutes")

    def describe_for_device(self, thing: str, job_id: str, request: Document) -> Document:
        """DescribeJobExecution of the device API; `$next` is the first pending one."""
        if job_id == "$next":
            found = self.pending(thing)
            if not found:
                return {}
            execution = found[0]
        else:
            execution = self._latest(job_id, thing, request.get("executionNumber"))
        return {"execution": self._shown(execution, with_document=request.get("includeJobDocument", True) is not False)}

    def update_execution(self, thing: str, job_id: str, request: Document) -> Document:
        """UpdateJobExecution."""
        execution = self._latest(job_id, thing, request.get("executionNumber"))
        before = self.pending(thing)
        changed = executions.update(execution, request, self._ground.clock(), self._job_minutes(execution))
        self._save(changed)
        self._after(changed, before)
        answer: Document = {}
        if request.get("includeJobExecutionState"):
            answer["executionState"] = state_of(changed)
        if request.get("includeJobDocument"):
            answer["jobDocument"] = orjson.loads(self._job(job_id)["document"])
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
                answer = self.describe_for_device(thing, job_id, request)
            else:
                answer = self.update_execution(thing, job_id, request)
            outcome = "accepted"
        except AwsError as error:
            outcome, answer = "rejected", self._refusal(thing, job_id, error)
        answer["timestamp"] = int(self._ground.clock())
        if isinstance(request.get("clientToken"), str):
            answer["clientToken"] = request["clientToken"]
        reply = Publication(
            f"{publication.topic}/{outcome}", orjson.dumps(answer), qos=1, traceparent=publication.traceparent
        )
        if publication.client_id is None or not self._bus.deliver_to(publication.client_id, reply):
            self._bus.publish(reply)

    def _refusal(self, thing: str, job_id: str | None, error: AwsError) -> Document:
        answer: Document = {"code": error.code.removesuffix("Exception"), "message": error.message}
        if job_id and error.code in ("InvalidStateTransitionException", "VersionMismatch"):
            answer["executionState"] = state_of(self._latest(job_id, thing))
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
    return request


class JobsData:
    """The `iot-jobs-data` API over `Jobs`. `permit(context, action, resource)` asks a device's policies."""

    def __init__(self, jobs: Jobs, permit: Callable[[CallContext, str, str], object]) -> None:
        self._jobs = jobs
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
        return self._jobs.get_pending(params["thingName"])

    def start_next(self, params: Params, context: CallContext) -> Document:
        """StartNextPendingJobExecution."""
        self._permit(context, "iot:StartNextPendingJobExecution", f"thing/{params['thingName']}")
        return _as_text(self._jobs.start_next(params["thingName"], params))

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeJobExecution."""
        self._permit(context, "iot:DescribeJobExecution", f"thing/{params['thingName']}")
        return _as_text(self._jobs.describe_for_device(params["thingName"], params["jobId"], params))

    def update(self, params: Params, context: CallContext) -> Document:
        """UpdateJobExecution."""
        self._permit(context, "iot:UpdateJobExecution", f"thing/{params['thingName']}")
        answer = self._jobs.update_execution(params["thingName"], params["jobId"], params)
        if "jobDocument" in answer:
            answer["jobDocument"] = orjson.dumps(answer["jobDocument"]).decode()
        return answer


def _as_text(answer: Document) -> Document:
    """Over HTTP the job document is text, over MQTT it is JSON."""
    if "jobDocument" in answer.get("execution", {}):
        answer["execution"]["jobDocument"] = orjson.dumps(answer["execution"]["jobDocument"]).decode()
    return answer
