"""Job templates of the account and those that AWS manages.

Source: AWS IoT developer guide, "Job templates"; API reference, CreateJobTemplate, DescribeManagedJobTemplate.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot import job_schedules as schedules
from foreshore.iot.job_documents import bad, check, s3_object
from foreshore.iot.job_files import Files
from foreshore.iot.listing import tokens
from foreshore.iot.managed_job_templates import TEMPLATES, VERSION
from foreshore.iot.store import Document, Ground, Tags
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
CONFIGS = ("presignedUrlConfig", "jobExecutionsRolloutConfig", "abortConfig", "timeoutConfig", "jobExecutionsRetryConfig")  # fmt: skip  # noqa: E501
"""What jobs and templates have alike."""

MAX_MINUTES = 10_080


MAX_RATE = 1000
"""Things a minute that a job is rolled out to (AWS IoT Device Management quotas)."""


def check_configs(params: Params) -> None:
    """Check what the shapes don't say. Raises AwsError InvalidRequestException or NotEmulated."""
    if params.get("destinationPackageVersions"):
        raise NotEmulated("software packages (destinationPackageVersions)")
    minutes = (params.get("timeoutConfig") or {}).get("inProgressTimeoutInMinutes")
    if minutes is not None and not 1 <= minutes <= MAX_MINUTES:
        raise bad(f"inProgressTimeoutInMinutes is 1 to {MAX_MINUTES}")
    rate = (params.get("jobExecutionsRolloutConfig") or {}).get("maximumPerMinute")
    if rate is not None and rate > MAX_RATE:
        raise bad(f"maximumPerMinute is 1 to {MAX_RATE}")
    growth = (params.get("jobExecutionsRolloutConfig") or {}).get("exponentialRate")
    if growth and all(value is None for value in growth["rateIncreaseCriteria"].values()):
        raise bad("rateIncreaseCriteria has no criterion")


class JobTemplates:
    """Templates; `jobs` are those a template may be made of."""

    def __init__(self, ground: Ground, tags: Tags, files: Files) -> None:
        self._ground = ground
        self._tags = tags
        self._files = files
        self.kind = ground.kind("job-template")
        self._jobs = ground.kind("job")

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateJobTemplate": self.create, "DescribeJobTemplate": self.describe, "ListJobTemplates": self.list_all,
            "DeleteJobTemplate": self.delete, "DescribeManagedJobTemplate": self.describe_managed,
            "ListManagedJobTemplates": self.list_managed,
        }  # fmt: skip

    def _arn(self, name: str) -> str:
        return self._ground.arns.iot(f"jobtemplate/{name}")

    def _find(self, name: str) -> Document:
        found = self.kind.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Job template {name} cannot be found.", 404)
        return found

    def by_arn(self, arn: str) -> Document:
        """A template of the account, or one that AWS manages (it has `templateName`). Raises AwsError."""
        name = arn.rpartition("/")[2]
        if "::jobtemplate/" in arn:
            name, _, version = name.partition(":")
            return self._managed(name, version or None)
        return self._find(name)

    def create(self, params: Params, context: CallContext) -> Document | Awaitable[Document]:
        """CreateJobTemplate, of a document, an object of S3 or a job."""
        if params["jobTemplateId"] in self.kind:
            name = params["jobTemplateId"]
            raise AwsError("ConflictException", f"Job template {name} already exists.", 409, {"resourceId": name})
        check_configs(params)
        schedules.check_windows(params.get("maintenanceWindows"))
        source: Document = {}
        if params.get("jobArn"):
            job = params["jobArn"].rpartition("/")[2]
            found = self._jobs.get(job)
            if found is None:
                raise AwsError("ResourceNotFoundException", f"Job {job} cannot be found.", 404)
            source = found
        text = params.get("document") or (None if params.get("documentSource") else source.get("document"))
        if text is None and params.get("documentSource"):
            return self._create_from_s3(params, source)
        return self._create(params, source, text)

    async def _create_from_s3(self, params: Params, source: Document) -> Document:
        document = await self._files.read(s3_object(params["documentSource"]))
        return self._create(params, source, document.decode("utf-8", "replace"))

    def _create(self, params: Params, source: Document, text: str | None) -> Document:
        if not text:
            raise bad("One of document, documentSource and jobArn is required")
        name = params["jobTemplateId"]
        kept = {each: params.get(each, source.get(each)) for each in CONFIGS}
        check(text, kept["presignedUrlConfig"])
        windows = params.get("maintenanceWindows") or (source.get("schedulingConfig") or {}).get("maintenanceWindows")
        made = {
            **kept, "jobTemplateId": name, "description": params["description"], "document": text,
            "documentSource": params.get("documentSource", source.get("documentSource")),
            "maintenanceWindows": windows, "createdAt": self._ground.clock(),
        }  # fmt: skip
        self.kind.put(name, {each: value for each, value in made.items() if value is not None})
        self._tags.set(self._arn(name), params.get("tags"))
        return {"jobTemplateArn": self._arn(name), "jobTemplateId": name}

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeJobTemplate."""
        found = self._find(params["jobTemplateId"])
        return {**found, "jobTemplateArn": self._arn(found["jobTemplateId"])}

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListJobTemplates."""
        names = ("jobTemplateId", "description", "createdAt")
        found = [
            {**{name: each[name] for name in names if name in each}, "jobTemplateArn": self._arn(each["jobTemplateId"])}
            for each in self.kind.values()
        ]
        return tokens(found, params, "jobTemplates", key=lambda each: str(each["jobTemplateId"]))

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteJobTemplate."""
        self._find(params["jobTemplateId"])
        self.kind.delete(params["jobTemplateId"])
        self._tags.drop(self._arn(params["jobTemplateId"]))

    # AWS's own

    def _managed(self, name: str, version: str | None) -> Document:
        found = TEMPLATES.get(name)
        if found is None or version not in (None, VERSION):
            raise AwsError("ResourceNotFoundException", f"Managed job template {name} cannot be found.", 404)
        arn = f"arn:aws:iot:{self._ground.arns.region}::jobtemplate/{name}:{VERSION}"
        return {**found, "templateArn": arn}

    def describe_managed(self, params: Params, context: CallContext) -> Document:
        """DescribeManagedJobTemplate."""
        return self._managed(params["templateName"], params.get("templateVersion"))

    def list_managed(self, params: Params, context: CallContext) -> Document:
        """ListManagedJobTemplates."""
        hidden = ("document", "documentParameters")
        found = [
            {key: value for key, value in self._managed(name, None).items() if key not in hidden}
            for name in sorted(TEMPLATES)
            if params.get("templateName") in (None, name)
        ]
        return tokens(found, params, "managedJobTemplates", key=lambda each: str(each["templateName"]))
