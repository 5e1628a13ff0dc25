"""The IoT job that stands for a deployment to a thing group: its document, and what is said of each core's part.

Pure. Sources: developer guide, "Check deployment status"; nucleus, deployment/model/Configuration (the document) and
DeploymentService (the keys of the status details).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

NAMESPACE = "aws-gg-deployment"
CONFIGURATIONS = ("jobExecutionsRolloutConfig", "abortConfig", "timeoutConfig")
_MAX_DETAIL = 1024
_STATUSES = {"COMPLETED": "SUCCEEDED"}


class Jobs(Protocol):
    """The jobs of IoT Core."""

    def open(self, params: dict[str, Any], /) -> None:
        """CreateJob. Raises AwsError."""
        ...

    def report(self, job: str, thing: str, status: str, details: dict[str, str], /) -> None:
        """Where a thing's execution stands; of a job that is gone, nothing."""
        ...

    def is_canceled(self, job: str, /) -> bool:
        """Whether somebody canceled the job, or its abort criteria did."""
        ...

    def cancel(self, job: str, /) -> None:
        """Cancel a job that is not over."""
        ...


def job_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """CreateJob's parameters for a deployment."""
    configuration = item["iotJobConfiguration"]
    return {
        "jobId": item["iotJobId"],
        "targets": [item["targetArn"]],
        "targetSelection": "CONTINUOUS",
        "namespaceId": NAMESPACE,
        "description": item["deploymentName"] or None,
        "document": json.dumps(document_of(item)),
        **{name: configuration[name] for name in CONFIGURATIONS if configuration.get(name)},
    }


def document_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """The deployment as a core reads it of a job."""
    policies = item["deploymentPolicies"]
    update, validation = policies["componentUpdatePolicy"], policies["configurationValidationPolicy"]
    action = update.get("action") or "NOTIFY_COMPONENTS"
    return {
        "deploymentId": item["deploymentId"],
        "deploymentName": item["deploymentName"],
        "configurationArn": _configuration_arn(item),
        "components": {name: _component(wish) for name, wish in item["components"].items()},
        "creationTimestamp": int(item["creationTimestamp"] * 1000),
        "failureHandlingPolicy": policies["failureHandlingPolicy"],
        "componentUpdatePolicy": {"timeout": update.get("timeoutInSeconds", 60), "action": action},
        "configurationValidationPolicy": {"timeout": validation.get("timeoutInSeconds", 30)},
    }


def _configuration_arn(item: Mapping[str, Any]) -> str:
    parts = item["targetArn"].split(":")
    return ":".join([parts[0], parts[1], "greengrass", *parts[3:5], "configuration", parts[5], item["revisionId"]])


def _component(wish: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"version": wish["componentVersion"]}
    update = wish.get("configurationUpdate") or {}
    change: dict[str, Any] = {}
    if update.get("merge"):
        change["MERGE"] = json.loads(update["merge"])
    if update.get("reset"):
        change["RESET"] = update["reset"]
    if change:
        found["configurationUpdate"] = change
    if wish.get("runWith"):
        found["runWith"] = wish["runWith"]
    return found


def status_in_job(status: str) -> str:
    """An execution's status as jobs call it."""
    return _STATUSES.get(status, status)


def details_of(reason: str, details: Mapping[str, Any] | None) -> dict[str, str]:
    """The status details that a core gives with the end of a deployment."""
    if not reason:
        return {}
    detailed, _, cause = reason.partition(": ")
    found = {"detailed-deployment-status": detailed}
    if cause:
        found["deployment-failure-cause"] = cause[:_MAX_DETAIL]
    for name, key in (("errorStack", "deployment-error-stack"), ("errorTypes", "deployment-error-types")):
        if details and details.get(name):
            found[key] = f"[{', '.join(details[name])}]"[:_MAX_DETAIL]
    return found
