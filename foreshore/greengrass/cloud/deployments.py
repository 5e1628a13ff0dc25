"""Deployments of the greengrassv2 API, and how each core's execution of one adds up to its status.

Source: AWS IoT Greengrass V2 API reference, CreateDeployment, GetDeployment, ListEffectiveDeployments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from foreshore.errors import AwsError, NotEmulated, UserError
from foreshore.greengrass.cloud import rollouts
from foreshore.greengrass.cloud.components import Components
from foreshore.greengrass.cloud.jobs import Jobs, details_of, job_of, status_in_job
from foreshore.greengrass.cloud.store import Ground, Item
from foreshore.greengrass.deployments import read_document
from foreshore.greengrass.provided import PROVIDED
from foreshore.greengrass.versions import BadVersion, Version
from foreshore.shapes.service_model import CallContext, OperationHandler, Params, paginate

_TARGET = re.compile(r"^arn:[^:]*:iot:[^:]*:\d*:(?P<kind>thing|thinggroup)/(?P<name>.+)$")
OVER = rollouts.OVER
_TIMED = ("componentUpdatePolicy", "configurationValidationPolicy")
DEFAULT_POLICIES: dict[str, Any] = {
    "failureHandlingPolicy": "ROLLBACK",
    "componentUpdatePolicy": {"timeoutInSeconds": 60, "action": "NOTIFY_COMPONENTS"},
    "configurationValidationPolicy": {"timeoutInSeconds": 30},
}
ThingsOf = Callable[[str, str], list[str]]
"""`("thing" | "thinggroup", name) -> things`. Raises AwsError ResourceNotFoundException."""


def read_target(arn: str) -> tuple[str, str]:
    """The kind (`thing` or `thinggroup`) and name of a target. Raises AwsError ValidationException."""
    match = _TARGET.match(arn)
    if match is None:
        raise AwsError("ValidationException", f"{arn} is no ARN of a thing or a thing group.", 400)
    return match["kind"], match["name"]


def status_of(executions: Iterable[str]) -> str:
    """A deployment's status by its executions': ACTIVE while one is not over or there is none."""
    found = set(executions)
    if not found or not found <= set(OVER):
        return "ACTIVE"
    return "FAILED" if found & set(rollouts.FAILURES) else "COMPLETED"


class Deployments:
    """The deployments of the account. `changed` is called when there may be something to deliver or to cancel."""

    def __init__(
        self, ground: Ground, components: Components, things_of: ThingsOf, jobs: Jobs, changed: Callable[[], None]
    ) -> None:
        self._ground = ground
        self._store = ground.store
        self._components = components
        self._things_of = things_of
        self._jobs = jobs
        self._changed = changed
        deployments = (each for each in self._store.all("deployment") if each["isLatestForTarget"])
        self._latest = {each["targetArn"]: each["deploymentId"] for each in deployments}
        executions = (each for each in self._store.all("execution") if each["coreDeviceExecutionStatus"] not in OVER)
        self._open = {_key(each) for each in executions}

    def operations(self) -> dict[str, OperationHandler]:
        """The operations by name."""
        return {
            "CreateDeployment": self.create,
            "GetDeployment": self.get,
            "ListDeployments": self.list_deployments,
            "CancelDeployment": self.cancel,
            "DeleteDeployment": self.delete,
            "ListEffectiveDeployments": self.list_effective,
        }

    def create(self, params: Params, context: CallContext) -> Params:
        """CreateDeployment: it replaces the target's latest, whose waiting executions are canceled."""
        if params.get("parentTargetArn"):
            raise NotEmulated("CreateDeployment with parentTargetArn (subdeployments)")
        token = params.get("clientToken")
        known = self._store.get("deployment-token", token) if token else None
        if known is not None:
            return known
        kind, name = read_target(params["targetArn"])
        self._things_of(kind, name)
        self._check(params)
        latest = self._latest.get(params["targetArn"])
        former = self._store.get("deployment", latest) if latest else None
        identifier = self._ground.new_id()
        item: Item = {
            "targetArn": params["targetArn"],
            "revisionId": str(int(former["revisionId"]) + 1 if former else 1),
            "deploymentId": identifier,
            "deploymentName": params.get("deploymentName", ""),
            "deploymentStatus": "ACTIVE",
            "components": params.get("components") or {},
            "deploymentPolicies": _with_defaults(params.get("deploymentPolicies") or {}),
            "iotJobConfiguration": params.get("iotJobConfiguration") or {},
            "creationTimestamp": self._ground.clock(),
            "isLatestForTarget": True,
            "tags": params.get("tags") or {},
        }
        made = {"deploymentId": identifier}
        if kind == "thinggroup":
            job = self._ground.new_id()
            made |= {"iotJobId": job, "iotJobArn": self._ground.job_arn(job)}
            item |= {key: made[key] for key in ("iotJobId", "iotJobArn")}
            self._jobs.open(job_of(item))
        with self._store.database.transaction():
            if former is not None:
                self._end(former)
                self._end_job(former)
                self._store.put("deployment", former["deploymentId"], {**former, "isLatestForTarget": False})
            self._store.put("deployment", identifier, item)
            if token:
                self._store.put("deployment-token", token, made)
        self._latest[item["targetArn"]] = identifier
        self._match(item)
        self._changed()
        return made

    def _check(self, params: Params) -> None:
        """Refuse components that are not there or a document that can't be read. Raises AwsError."""
        for name, wish in (params.get("components") or {}).items():
            version = wish.get("componentVersion")
            if version is None:
                raise AwsError("ValidationException", f"{name} has no componentVersion.", 400)
            _check_version(name, version)
            if name not in PROVIDED:
                state = self._components.find(name, version)["status"]["componentState"]
                if state != "DEPLOYABLE":
                    raise AwsError("ValidationException", f"Component [{name} : {version}] is {state}.", 400)
        try:
            read_document(document_text(params), "CreateDeployment")
        except UserError as error:
            raise AwsError("ValidationException", error.what, 400) from None

    def _end(self, item: Item) -> None:
        """Make a deployment CANCELED unless it is over, and the executions that no core has begun with it."""
        if item["deploymentStatus"] != "ACTIVE":
            return
        for execution in self.executions_of(item["deploymentId"]):
            if execution["coreDeviceExecutionStatus"] not in OVER and "begun" not in execution:
                self.set_execution(execution, "CANCELED", settle=False)
        item["deploymentStatus"] = "CANCELED"
        self._store.put("deployment", item["deploymentId"], item)
        self._end_job(item)

    def _end_job(self, item: Item) -> None:
        if "iotJobId" in item:
            self._jobs.cancel(item["iotJobId"])

    def find(self, identifier: str) -> Item:
        """One deployment. Raises AwsError ResourceNotFoundException."""
        found = self._store.get("deployment", identifier)
        if found is None:
            extra = {"resourceId": identifier, "resourceType": "Deployment"}
            raise AwsError("ResourceNotFoundException", f"Deployment {identifier} does not exist.", 404, extra)
        return found

    def get(self, params: Params, context: CallContext) -> Params:
        """GetDeployment."""
        return self.find(params["deploymentId"])

    def list_deployments(self, params: Params, context: CallContext) -> Params:
        """ListDeployments, newest first; by default the latest of each target."""
        items = sorted(self._store.all("deployment"), key=_age, reverse=True)
        if params.get("targetArn"):
            items = [each for each in items if each["targetArn"] == params["targetArn"]]
        if params.get("parentTargetArn"):
            items = []
        if params.get("historyFilter", "LATEST_ONLY") == "LATEST_ONLY":
            items = [each for each in items if each["isLatestForTarget"]]
        page, token = paginate(
            items, params.get("nextToken"), params.get("maxResults"), key=_age, code="ValidationException", reverse=True
        )
        keys = ("targetArn", "revisionId", "deploymentId", "deploymentName", "creationTimestamp", "deploymentStatus",
                "isLatestForTarget")  # fmt: skip
        return {"deployments": [{key: each[key] for key in keys} for each in page], "nextToken": token}

    def cancel(self, params: Params, context: CallContext) -> Params:
        """CancelDeployment. One that is over is a ConflictException."""
        item = self.find(params["deploymentId"])
        if item["deploymentStatus"] != "ACTIVE":
            extra = {"resourceId": item["deploymentId"], "resourceType": "Deployment"}
            what = f"The deployment is {item['deploymentStatus']} and can't be canceled."
            raise AwsError("ConflictException", what, 409, extra)
        with self._store.database.transaction():
            self._end(item)
        self._changed()
        return {"message": "SUCCESS"}

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteDeployment. An active one is a ConflictException; cores keep what it brought."""
        item = self.find(params["deploymentId"])
        if item["deploymentStatus"] == "ACTIVE":
            extra = {"resourceId": item["deploymentId"], "resourceType": "Deployment"}
            raise AwsError("ConflictException", "An active deployment can't be deleted: cancel it first.", 409, extra)
        with self._store.database.transaction():
            self._store.delete("deployment", item["deploymentId"])
            for execution in self.executions_of(item["deploymentId"]):
                self._remove(execution)
            if self._latest.get(item["targetArn"]) == item["deploymentId"]:
                del self._latest[item["targetArn"]]

    # Executions

    def executions_of(self, identifier: str) -> list[Item]:
        """A deployment's executions, by thing."""
        return self._store.all("execution", f"{identifier}/")

    def waiting(self, thing: str) -> list[Item]:
        """The executions that a core has to carry out, those of the oldest deployment first."""
        found = []
        for execution in self._unfinished():
            item = self._store.get("deployment", execution["deploymentId"])
            if execution["thing"] == thing and item is not None and self._may_tell(item, execution):
                found.append((_age(item), execution))
        return [execution for _, execution in sorted(found, key=lambda each: each[0])]

    def _may_tell(self, item: Item, execution: Item) -> bool:
        """Whether the rollout's rate lets this core begin. One that has begun goes on."""
        if "begun" in execution:
            return True
        if not item["isLatestForTarget"] or item["deploymentStatus"] == "CANCELED":
            return False
        others = self.executions_of(item["deploymentId"])
        told = [each["begun"] for each in others if "begun" in each]
        done = sum(each["coreDeviceExecutionStatus"] in rollouts.SUCCESSES for each in others)
        return rollouts.may_tell(item["iotJobConfiguration"], told, done, self._ground.clock())

    def begin(self, execution: Item) -> None:
        """A core has been told: its time runs."""
        execution.setdefault("begun", self._ground.clock())
        self.set_execution(execution, "IN_PROGRESS")

    def succeed(self, execution: Item, reason: str) -> None:
        """A core is done: COMPLETED for a deployment to a thing, SUCCEEDED for one to a group, as AWS says it."""
        target, thing = execution["targetArn"], execution["thing"]
        if read_target(target)[0] == "thing":
            self.set_execution(execution, "COMPLETED", reason)
            return
        with self._store.database.transaction():
            self._store.put("group-core", f"{target} {thing}", {"thing": thing})
            self.set_execution(execution, "SUCCEEDED", reason)

    def review(self) -> list[Item]:
        """Queue the latest deployments for cores that joined their targets, forget what waits for those that left, and
        make executions TIMED_OUT whose time is over; give these."""
        for identifier in list(self._latest.values()):
            item = self._store.get("deployment", identifier)
            if item is None or item["deploymentStatus"] == "CANCELED":
                continue
            if item["deploymentStatus"] == "ACTIVE" and "iotJobId" in item and self._jobs.is_canceled(item["iotJobId"]):
                with self._store.database.transaction():
                    self._end(item)
                continue
            self._match(item)
        now, late = self._ground.clock(), []
        for execution in self._unfinished():
            if "begun" not in execution:
                continue
            deployment = self._store.get("deployment", execution["deploymentId"]) or {}
            deadline = rollouts.deadline_of(deployment.get("iotJobConfiguration", {}), execution["begun"])
            if deadline is not None and now >= deadline:
                self.set_execution(execution, "TIMED_OUT", "The deployment did not end in time.")
                late.append(execution)
        return late

    def _match(self, item: Item) -> None:
        """Make a deployment's executions those of its target's things, and of those that have begun."""
        identifier = item["deploymentId"]
        there = {each["thing"]: each for each in self.executions_of(identifier)}
        things = self._things(item)
        joined = [thing for thing in things if thing not in there]
        left = [
            thing
            for thing in there.keys() - set(things)
            if "begun" not in there[thing] and there[thing]["coreDeviceExecutionStatus"] not in OVER
        ]
        if not joined and not left:
            return
        with self._store.database.transaction():
            for thing in joined:
                self._enter(item, thing)
            for thing in left:
                self._remove(there[thing])
            self._settle(identifier)

    def _unfinished(self) -> list[Item]:
        found = (self._store.get("execution", key) for key in sorted(self._open))
        return [each for each in found if each is not None]

    def _remove(self, execution: Item) -> None:
        self._store.delete("execution", _key(execution))
        self._open.discard(_key(execution))

    def _things(self, item: Item) -> list[str]:
        try:
            return self._things_of(*read_target(item["targetArn"]))
        except AwsError:
            return []

    def _enter(self, item: Item, thing: str) -> None:
        now = self._ground.clock()
        execution = {
            "deploymentId": item["deploymentId"],
            "deploymentName": item["deploymentName"],
            "targetArn": item["targetArn"],
            **_job(item),
            "thing": thing,
            "coreDeviceExecutionStatus": "QUEUED",
            "reason": "",
            "creationTimestamp": now,
            "modifiedTimestamp": now,
        }
        self.set_execution(execution, "QUEUED", settle=False)

    def set_execution(
        self, execution: Item, status: str, reason: str = "", details: Item | None = None, *, settle: bool = True
    ) -> None:
        """Write where a core's execution stands; with `settle` the deployment's status follows."""
        execution |= {
            "coreDeviceExecutionStatus": status,
            "reason": reason,
            "modifiedTimestamp": self._ground.clock(),
        }
        if details is not None:
            execution["statusDetails"] = details
        identifier = execution["deploymentId"]
        with self._store.database.transaction():
            self._store.put("execution", _key(execution), execution)
            (self._open.discard if status in OVER else self._open.add)(_key(execution))
            if settle:
                self._settle(identifier)
        if "iotJobId" in execution and status != "QUEUED":
            said = details_of(reason, details)
            self._jobs.report(execution["iotJobId"], execution["thing"], status_in_job(status), said)

    def _settle(self, identifier: str) -> None:
        """Write a deployment's status by its executions'."""
        item = self._store.get("deployment", identifier)
        if item is None or item["deploymentStatus"] == "CANCELED":
            return
        states = [each["coreDeviceExecutionStatus"] for each in self.executions_of(identifier)]
        item["deploymentStatus"] = status_of(states)
        self._store.put("deployment", identifier, item)
        if rollouts.is_to_abort(item["iotJobConfiguration"], states):
            self._end(item)

    def is_over(self, execution: Item) -> bool:
        """Whether an execution was canceled, or timed out, since it was read."""
        found = self._store.get("execution", _key(execution))
        return found is None or found["coreDeviceExecutionStatus"] in OVER

    def list_effective(self, params: Params, context: CallContext) -> Params:
        """ListEffectiveDeployments: a core's executions, newest first."""
        thing = params["coreDeviceThingName"]
        if self._store.get("core", thing) is None:
            raise no_core(thing)
        items = [each for each in self._store.all("execution") if each["thing"] == thing]
        items.sort(key=_age, reverse=True)
        page, token = paginate(
            items, params.get("nextToken"), params.get("maxResults"), key=_age, code="ValidationException", reverse=True
        )
        return {
            "effectiveDeployments": [
                {
                    key: value
                    for key, value in each.items()
                    if key not in ("thing", "begun") and (key != "reason" or value)
                }
                for each in page
            ],
            "nextToken": token,
        }


def _with_defaults(policies: Item) -> Item:
    """The policies with what the caller left out."""
    return {
        "failureHandlingPolicy": policies.get("failureHandlingPolicy") or DEFAULT_POLICIES["failureHandlingPolicy"],
        **{name: {**DEFAULT_POLICIES[name], **(policies.get(name) or {})} for name in _TIMED},
    }


def _check_version(name: str, text: str) -> None:
    try:
        Version.parse(text)
    except BadVersion as error:
        raise AwsError("ValidationException", f"{name}: {error}", 400) from None


def _key(execution: Item) -> str:
    return f"{execution['deploymentId']}/{execution['thing']}"


def _job(item: Item) -> Item:
    return {key: item[key] for key in ("iotJobId", "iotJobArn") if key in item}


def no_core(thing: str) -> AwsError:
    """The answer for a core device that never connected."""
    extra = {"resourceId": thing, "resourceType": "CoreDevice"}
    return AwsError("ResourceNotFoundException", f"The core device {thing} does not exist.", 404, extra)


def document_text(item: Item) -> str:
    """A deployment as the document that a core takes."""
    keys = ("targetArn", "deploymentName", "components", "deploymentPolicies")
    return json.dumps({key: item[key] for key in keys if item.get(key)})


def _age(item: Any) -> str:
    return f"{item['creationTimestamp']:020.6f}{item['deploymentId']}"
