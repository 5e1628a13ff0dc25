"""Jobs on their way: schedules, rollouts by rate, time outs, retries, aborts, completion; notifications and events.

`tick` is to be called about once a second. The API's operations are in `jobs.py` and `job_devices.py`.

Sources: AWS IoT developer guide, "Jobs key concepts", "How job configurations work", "Jobs events", "Jobs workflow".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import orjson

from foreshore.errors import AwsError
from foreshore.iot import job_executions as executions
from foreshore.iot import job_schedules as schedules
from foreshore.iot.job_documents import DEFAULT_EXPIRY_S, presigned
from foreshore.iot.job_executions import TERMINAL, device_summary, for_device
from foreshore.iot.job_files import Files
from foreshore.iot.job_store import Executions
from foreshore.iot.store import Document, Ground
from foreshore.seams import Publication

Json = Any
OPEN = ("IN_PROGRESS", "SCHEDULED")
DEFAULT_RATE = 1000
REST = 20
"""A job that took a while to look at, for its group is large, is left alone for so many times as long."""

COUNTS = {
    "QUEUED": "numberOfQueuedThings", "IN_PROGRESS": "numberOfInProgressThings", "SUCCEEDED": "numberOfSucceededThings",
    "FAILED": "numberOfFailedThings", "REJECTED": "numberOfRejectedThings", "TIMED_OUT": "numberOfTimedOutThings",
    "CANCELED": "numberOfCanceledThings", "REMOVED": "numberOfRemovedThings",
}  # fmt: skip
_IN_EVENTS = (
    "numberOfCanceledThings", "numberOfRejectedThings", "numberOfFailedThings", "numberOfRemovedThings",
    "numberOfSucceededThings",
)  # fmt: skip


class Bus(Protocol):
    """What of the broker jobs use."""

    def publish(self, publication: Publication, /) -> None: ...

    def add_listener(self, filter: str, callback: Callable[[Publication], None], /) -> object: ...

    def deliver_to(self, client_id: str, publication: Publication, /) -> bool: ...


class Members(Protocol):
    """Who is in a thing group."""

    def things_in(self, name: str, *, recursive: bool = False) -> list[str]: ...


class Rollouts:
    """Moves all jobs of an account. `events_on(type)` tells whether an event type is switched on."""

    def __init__(
        self, ground: Ground, groups: Members, bus: Bus, events_on: Callable[[str], bool], files: Files
    ) -> None:
        self._ground = ground
        self._groups = groups
        self._bus = bus
        self._events_on = events_on
        self._files = files
        self.jobs = ground.kind("job")
        self.executions = Executions(ground.kind("job-execution"))
        self._snapshots = ground.kind("job-targets")
        self._rest: dict[str, float] = {}

    def find(self, job_id: str) -> Document:
        """A job. Raises AwsError ResourceNotFoundException."""
        found = self.jobs.get(job_id)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Job {job_id} cannot be found.", 404)
        return found

    def put(self, job: Document, **changed: Json) -> Document:
        """Keep a changed job."""
        job = {**job, **changed, "lastUpdatedAt": self._ground.clock()}
        self.jobs.put(job["jobId"], job)
        return job

    # Targets

    def members(self, job: Document) -> list[str]:
        """The things that a job's targets are now. Raises AwsError for a target that is neither thing nor group."""
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

    def _targets(self, job: Document) -> list[str]:
        """The things a job is for: a snapshot's stay what they were when it began."""
        if job["targetSelection"] == "CONTINUOUS":
            return self.members(job)
        kept = self._snapshots.get(job["jobId"])
        if kept is None:
            kept = {"things": self.members(job)}
            self._snapshots.put(job["jobId"], kept)
        return list(kept["things"])

    def waiting(self, job: Document) -> list[str]:
        """The things a job has not been given to yet."""
        if job["status"] != "IN_PROGRESS" or job.get("rolloutEnded"):
            return []
        have = {each["thing"] for each in self.executions.newest(job["jobId"]) if each["status"] != "REMOVED"}
        return [thing for thing in self._targets(job) if thing not in have]

    def counts(self, job_id: str) -> dict[str, int]:
        """How many things are in which state."""
        counts = dict.fromkeys(COUNTS.values(), 0)
        for execution in self.executions.newest(job_id):
            counts[COUNTS[execution["status"]]] += 1
        return counts

    # Time

    def tick(self) -> None:
        """Begin and end by schedule, roll out within each job's rate, end what timed out, complete what is done."""
        now = self._ground.clock()
        for execution in self.executions.everything():
            if executions.timed_out(execution, now):
                self.end(execution, "TIMED_OUT")
        for job in self.jobs.values():
            if job["status"] in OPEN and self._rest.get(job["jobId"], 0.0) <= now:
                begun = self._ground.clock()
                self.advance(job["jobId"])
                ended = self._ground.clock()
                self._rest[job["jobId"]] = ended + REST * (ended - begun)

    def advance(self, job_id: str) -> None:
        """Do what a job has to do now."""
        job = self.find(job_id)
        schedule, now = job.get("schedulingConfig") or {}, self._ground.clock()
        if job["status"] == "SCHEDULED" and schedules.is_begun(schedule, now):
            job = self.put(job, status="IN_PROGRESS")
        if job["status"] in OPEN and schedules.is_over(schedule, now) and not job.get("rolloutEnded"):
            job = self._end_by_schedule(job, schedule.get("endBehavior") or "STOP_ROLLOUT")
        if job["status"] != "IN_PROGRESS":
            return
        self._remove_strangers(job)
        if schedules.is_open(schedule, now):
            self._give_out(job)
        self._complete(job_id)

    def _end_by_schedule(self, job: Document, behavior: str) -> Document:
        if behavior == "STOP_ROLLOUT":
            return self.put(job, rolloutEnded=True, status="IN_PROGRESS")
        return self.cancel(job, {"reasonCode": "END_TIME_REACHED"}, force=behavior == "FORCE_CANCEL")

    def _remove_strangers(self, job: Document) -> None:
        """What is queued for things that left the groups of a continuous job is no longer for them."""
        if job["targetSelection"] != "CONTINUOUS":
            return
        queued = [each for each in self.executions.of_job(job["jobId"]) if each["status"] == "QUEUED"]
        if queued:
            members = set(self.members(job))
            for execution in queued:
                if execution["thing"] not in members:
                    self.end(execution, "REMOVED")

    def _give_out(self, job: Document) -> None:
        now = self._ground.clock()
        minute = int(now // 60)
        used = job["minute"][1] if job["minute"][0] == minute else 0
        room = max(0, self._rate(job) - used)
        given = self.waiting(job)[:room]
        if not given:
            return
        # Kept first: what a queued execution sets off reads the job again.
        self.jobs.put(job["jobId"], {**job, "rolledOut": job["rolledOut"] + len(given), "minute": [minute, used + len(given)]})  # fmt: skip  # noqa: E501
        numbers = {each["thing"]: int(each["executionNumber"]) for each in self.executions.newest(job["jobId"])}
        for thing in given:
            self._queue(self._new(job, thing, numbers.get(thing, 0) + 1, now))

    def _rate(self, job: Document) -> int:
        """How many executions this minute may begin (AWS's default is 1,000)."""
        config = job.get("jobExecutionsRolloutConfig") or {}
        growth = config.get("exponentialRate")
        limit = int(config.get("maximumPerMinute") or DEFAULT_RATE)
        if not growth:
            return limit
        criteria, steps = growth["rateIncreaseCriteria"], 0  # With both, whichever is met first counts.
        if criteria.get("numberOfNotifiedThings"):
            steps = job["rolledOut"] // int(criteria["numberOfNotifiedThings"])
        if criteria.get("numberOfSucceededThings"):
            succeeded = sum(each["status"] == "SUCCEEDED" for each in self.executions.newest(job["jobId"]))
            steps = max(steps, succeeded // int(criteria["numberOfSucceededThings"]))
        return min(limit, int(growth["baseRatePerMinute"] * float(growth["incrementFactor"]) ** min(steps, 50)))

    def _new(self, job: Document, thing: str, number: int, now: float) -> Document:
        return executions.queued(job["jobId"], thing, number, now, namespace=job.get("namespaceId") or "")

    # Executions

    def report(self, job_id: str, thing: str, status: str, details: dict[str, str]) -> None:
        """Where an execution stands that a service carries out in the device's stead; one that is over stays so."""
        job = self.jobs.get(job_id)
        if job is None:
            return
        now = self._ground.clock()
        found = next((each for each in self.executions.newest(job_id) if each["thing"] == thing), None)
        execution = found or self._new(job, thing, 1, now)
        if execution["status"] in TERMINAL or execution["status"] == status:
            return
        before = self.executions.pending(thing)
        if execution["status"] == "QUEUED" and status != "CANCELED":
            minutes = (job.get("timeoutConfig") or {}).get("inProgressTimeoutInMinutes")
            execution = executions.start(execution, now, minutes)
        if status != "IN_PROGRESS":
            execution = {**executions.finish(execution, status, now), "statusDetails": details}
        self.executions.save(execution)
        self.after(execution, before)

    def _queue(self, execution: Document) -> None:
        before = self.executions.pending(execution["thing"])
        self.executions.save(execution)
        self.notify(execution["thing"], before)

    def end(self, execution: Document, status: str) -> None:
        """End an execution from the service's side."""
        before = self.executions.pending(execution["thing"])
        ended = executions.finish(execution, status, self._ground.clock())
        self.executions.save(ended)
        self.after(ended, before)

    def after(self, execution: Document, before: list[Document]) -> None:
        """What follows from an execution's new state: events, a retry, the job's end, notifications."""
        job = self.jobs.get(execution["jobId"])
        if execution["status"] in TERMINAL:
            self._execution_event(execution, execution["status"].lower())
            criteria = ((job or {}).get("jobExecutionsRetryConfig") or {}).get("criteriaList") or []
            if job is not None and job["status"] == "IN_PROGRESS" and executions.wants_retry(execution, criteria):
                number, attempt = execution["executionNumber"] + 1, execution["retryAttempt"] + 1
                now = self._ground.clock()
                again = executions.queued(execution["jobId"], execution["thing"], number, now, attempt)
                self.executions.save(again)
        self.notify(execution["thing"], before)
        if job is not None and execution["status"] in TERMINAL:
            self._abort_or_go_on(self.find(job["jobId"]))
            self._complete(job["jobId"])

    def remove(self, execution: Document) -> None:
        """Delete an execution."""
        before = self.executions.pending(execution["thing"])
        self.executions.remove(execution)
        self._execution_event(execution, "deleted")
        self.notify(execution["thing"], before)

    def thing_deleted(self, thing: str) -> None:
        """A thing is gone from the registry: what was pending for it is REMOVED."""
        for execution in self.executions.pending(thing):
            self.end(execution, "REMOVED")

    # Jobs

    def cancel(self, job: Document, why: Document, *, force: bool) -> Document:
        """Cancel a job with its queued executions, and with `force` those in progress."""
        given = {name: why[name] for name in ("reasonCode", "comment") if why.get(name)}
        self.event(job, "cancellation_in_progress", "CANCELLATION_IN_PROGRESS", given)
        ended = self.put(job, **given, status="CANCELED", completedAt=self._ground.clock(), forceCanceled=force)
        for execution in self.executions.of_job(job["jobId"]):
            if execution["status"] == "QUEUED" or (force and execution["status"] == "IN_PROGRESS"):
                self.end({**execution, **({"forceCanceled": True} if force else {})}, "CANCELED")
        self.event(ended, "canceled", "CANCELED", given)
        return ended

    def delete(self, job: Document) -> None:
        """Delete a job and its executions."""
        self.event(job, "deletion_in_progress", "DELETION_IN_PROGRESS", {})
        for execution in self.executions.of_job(job["jobId"]):
            self.remove(execution)
        self.jobs.delete(job["jobId"])
        self._snapshots.delete(job["jobId"])
        self._rest.pop(job["jobId"], None)
        self.event(job, "deleted", "DELETED", {})

    def _abort_or_go_on(self, job: Document) -> None:
        criteria = (job.get("abortConfig") or {}).get("criteriaList") or []
        if not criteria:
            return
        ended = [each for each in self.executions.newest(job["jobId"]) if each["status"] in TERMINAL]
        for each in criteria:
            kinds = ("FAILED", "REJECTED", "TIMED_OUT") if each["failureType"] == "ALL" else (each["failureType"],)
            failed = sum(execution["status"] in kinds for execution in ended)
            if not ended or len(ended) < int(each["minNumberOfExecutedThings"]):
                continue
            share = failed / len(ended) * 100
            if share >= float(each["thresholdPercentage"]) and self.find(job["jobId"])["status"] == "IN_PROGRESS":
                self.cancel(job, {"reasonCode": "ABORT_CRITERIA_MET"}, force=False)

    def _complete(self, job_id: str) -> None:
        """A snapshot job is over when every target's last execution is, and any job after its end time."""
        job = self.jobs.get(job_id)
        if job is None or job["status"] != "IN_PROGRESS" or self.executions.has_pending(job_id):
            return
        newest = {each["thing"]: each["status"] for each in self.executions.newest(job_id)}
        if job.get("rolloutEnded"):
            targets = list(newest)
        elif job["targetSelection"] == "SNAPSHOT":
            targets = self._targets(job)
        else:
            return
        if all(newest.get(thing) in TERMINAL for thing in targets):
            done = self.put(job, status="COMPLETED", completedAt=self._ground.clock())
            counts = self.counts(job_id)
            details = {"jobProcessDetails": {name: counts[name] for name in _IN_EVENTS}}
            self.event(done, "completed", "COMPLETED", details)

    # What devices and programs are told

    def notify(self, thing: str, before: list[Document]) -> None:
        """`notify` when the set of pending executions changed, `notify-next` when the first one did."""
        after = self.executions.pending(thing)
        now = int(self._ground.clock())
        keys = [[(each["jobId"], each["executionNumber"]) for each in found] for found in (before, after)]
        if sorted(keys[0]) != sorted(keys[1]):
            jobs: dict[str, list[Document]] = {}
            for execution in after:
                jobs.setdefault(execution["status"], []).append(device_summary(execution))
            self._publish(f"$aws/things/{thing}/jobs/notify", {"timestamp": now, "jobs": jobs})
        if keys[0][:1] != keys[1][:1]:
            message: Document = {"timestamp": now}
            if after:
                message["execution"] = self.shown(after[0])
            self._publish(f"$aws/things/{thing}/jobs/notify-next", message)

    def shown(self, execution: Document, *, with_document: bool = True) -> Document:
        """An execution as devices see it, with the job document whose S3 addresses are presigned URLs now."""
        document = self.document(execution) if with_document else None
        return for_device(execution, self._ground.clock(), document)

    def document(self, execution: Document) -> Json:
        """The job document for one execution."""
        job = self.find(execution["jobId"])
        number = str(execution["executionNumber"])
        values = {"thingName": execution["thing"], "jobId": execution["jobId"], "executionNumber": number}
        expiry = int((job.get("presignedUrlConfig") or {}).get("expiresInSec") or DEFAULT_EXPIRY_S)
        return orjson.loads(presigned(job["document"], values, self._files.presign, expiry))

    def _publish(self, topic: str, message: Document) -> None:
        self._bus.publish(Publication(topic, orjson.dumps(message), qos=1))

    def event(self, job: Document, operation: str, status: str, more: Document) -> None:
        """A message on `$aws/events/job/<job>/<operation>`, when such events are on."""
        if not self._events_on("JOB"):
            return
        names = ("targetSelection", "targets", "description", "comment")
        shown = {name: job[name] for name in names if job.get(name) is not None}
        times = ("completedAt", "createdAt", "lastUpdatedAt")
        shown |= {name: int(job[name] * 1000) for name in times if job.get(name) is not None}
        event = {
            "eventType": "JOB", "eventId": self._ground.new_id(), "timestamp": int(self._ground.clock()),
            "operation": operation, "jobId": job["jobId"], "status": status,
        }  # fmt: skip
        more = {name: value for name, value in more.items() if name != "reasonCode"}
        self._publish(f"$aws/events/job/{job['jobId']}/{operation}", {**event, **shown, **more})

    def _execution_event(self, execution: Document, operation: str) -> None:
        if not self._events_on("JOB_EXECUTION"):
            return
        event = {
            "eventType": "JOB_EXECUTION", "eventId": self._ground.new_id(), "timestamp": int(self._ground.clock()),
            "operation": operation, "jobId": execution["jobId"],
            "thingArn": self._ground.arns.iot(f"thing/{execution['thing']}"), "status": execution["status"],
            "statusDetails": execution["statusDetails"],
        }  # fmt: skip
        self._publish(f"$aws/events/jobExecution/{execution['jobId']}/{operation}", event)
