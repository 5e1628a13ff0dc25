"""Deployments of the cloud side of Greengrass as jobs of IoT Core."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from foreshore.errors import AwsError
from foreshore.iot.service import IotCore


class DeploymentJobs:
    """`greengrass.cloud.jobs.Jobs` over the rooms' jobs."""

    def __init__(self, iot: IotCore) -> None:
        self._iot = iot

    def open(self, params: dict[str, Any], /) -> None:
        """CreateJob. Raises AwsError."""
        try:
            made = self._iot.jobs.open(params)
        except AwsError as error:
            if error.code == "InvalidRequestException":
                raise AwsError("ValidationException", error.message, 400) from error
            raise
        assert not isinstance(made, Awaitable), "a job with its document given is made at once"

    def report(self, job: str, thing: str, status: str, details: dict[str, str], /) -> None:
        """Where a thing's execution stands."""
        self._iot.rollouts.report(job, thing, status, details)

    def is_canceled(self, job: str, /) -> bool:
        """Whether the job was canceled."""
        found = self._iot.rollouts.jobs.get(job)
        return found is not None and found["status"] == "CANCELED"

    def cancel(self, job: str, /) -> None:
        """Cancel a job that is not over."""
        found = self._iot.rollouts.jobs.get(job)
        if found is not None and found["status"] in ("IN_PROGRESS", "SCHEDULED"):
            self._iot.rollouts.cancel(found, {}, force=False)
