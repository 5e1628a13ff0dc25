"""The project's core devices and the cloud side they are connected to: greengrassv2, discovery, administration.

`CoreFleet.serve` mounts the greengrassv2 API; `start` brings every core up at once, from certificate to RUNNING.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from foreshore.cloud.endpoint import Endpoint
from foreshore.cloud.routing import Target
from foreshore.core_cloud import Objects
from foreshore.core_device import CoreDevice
from foreshore.core_discovery import PREFIX, CoreEntry, Discovery
from foreshore.core_jobs import DeploymentJobs
from foreshore.errors import UserError
from foreshore.greengrass.cloud.lambda_source import LambdaCodeOf
from foreshore.greengrass.cloud.service import GreengrassCloud
from foreshore.greengrass.host_artifact import prepare_project
from foreshore.http import Request, Response
from foreshore.iot.service import IotCore
from foreshore.ports import Ports, taken
from foreshore.project import CoreProfile, CoreSettings, Project
from foreshore.traces.recorder import Recorder


@dataclass(slots=True)
class Surroundings:
    """What the fleet stands on. `environment` gives the variables that point AWS SDKs at this edge."""

    project: Project
    home: Path
    state: Path
    run_folder: Path
    iot: IotCore
    recorder: Recorder
    endpoint: Endpoint
    ports: Ports
    host: str
    profile: CoreProfile
    environment: Callable[[], dict[str, str]]
    lambda_code: LambdaCodeOf | None


class CoreFleet:
    """The cores by thing name, and the API that deploys to them."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._project = around.project
        self.cores: dict[str, CoreDevice] = {}
        self._objects = Objects(self._endpoint_url, self._project.region)
        self.cloud = GreengrassCloud(
            state=around.state, region=self._project.region, account=self._project.account,
            things_of=self._things_of, groups_of=around.iot.groups.all_of, jobs=DeploymentJobs(around.iot),
            fetch=self._objects.fetch, lambda_code=around.lambda_code, endpoint=self._endpoint_url,
            say=lambda level, text: around.recorder.say("foreshore", text, level=level),
        )  # fmt: skip

    def _endpoint_url(self) -> str:
        return self._around.environment()["AWS_ENDPOINT_URL"]

    def _things_of(self, kind: str, name: str) -> list[str]:
        iot = self._around.iot
        if kind == "thinggroup":
            return iot.groups.things_in(name, recursive=True)
        return [iot.registry.find(name)["thingName"]]

    def serve(self) -> None:
        """Answer greengrassv2 on the AWS endpoint."""
        give = self.cloud.give_artifact
        self._around.endpoint.mount("greengrass", self.cloud.handle)
        self._around.endpoint.mount_admin("greengrass-artifacts", lambda request, target: give(target.path.strip("/")))

    async def start(self) -> None:
        """Start and deploy the project's cores. Raises UserError; `stop` then takes down what had started."""
        around = self._around
        around.iot.https.mount(PREFIX, Discovery(around.iot.access, self.cloud.directory, self._entries).handle)
        self.cloud.directory.on_connectivity(self._connectivity_changed)
        if self._project.recipes is not None:
            await asyncio.to_thread(prepare_project, self._project.folder)
        ports = [(around.ports.take("core_mqtts"), around.ports.take("stream_manager")) for _ in self._project.cores]
        starts = [self._start_core(*each) for each in zip(self._project.cores, ports, strict=True)]
        for result in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        around.endpoint.mount_admin("greengrass", self._admin)

    async def _start_core(self, settings: CoreSettings, ports: tuple[int, int]) -> None:
        around, (mqtts, streams) = self._around, ports
        core = CoreDevice(
            project=self._project, settings=settings, home=around.home, iot=around.iot, recorder=around.recorder,
            environment=around.environment, run_folder=around.run_folder, profile=around.profile,
            stream_manager_port=streams, directory=self.cloud.directory,
        )  # fmt: skip
        self.cores[settings.thing] = core
        try:
            await core.start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise taken(streams, f"the stream manager of {settings.thing}", error) from error
        await core.deploy()
        try:
            await core.listen(around.host, mqtts)
        except OSError as error:
            raise taken(mqtts, f"the local MQTT of {settings.thing}", error) from error
        self.cloud.register(core.cloud_handle())

    async def stop(self) -> None:
        """Stop deliveries, then every core, then the API's store. Raises the first failure once all were tried."""
        for thing in list(self.cores):
            await self.cloud.unregister(thing)
        results = await asyncio.gather(*(core.stop() for core in self.cores.values()), return_exceptions=True)
        await self.cloud.stop()
        await self._objects.close()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def describe(self) -> dict[str, dict[str, str]]:
        """`cores` of the ready line."""
        return {settings.thing: self.cores[settings.thing].describe() for settings in self._project.cores}

    def stats(self) -> dict[str, Any]:
        """What each core counted."""
        return {thing: core.stats() for thing, core in self.cores.items()}

    def _entries(self) -> dict[str, CoreEntry]:
        """The cores that client devices may discover."""
        arns = self._around.iot.arns
        return {
            thing: CoreEntry(arns.iot(f"thing/{thing}"), core.field.connectivity(), core.field.ca)
            for thing, core in self.cores.items() if core.field.is_discoverable
        }  # fmt: skip

    def _connectivity_changed(self, thing: str) -> None:
        if thing in self.cores:
            self.cores[thing].field.connectivity_changed()

    def _admin(self, request: Request, target: Target) -> Response | Awaitable[Response]:
        """`/_foreshore/greengrass/<thing>/…`"""
        thing = unquote(target.path.strip("/").partition("/")[0])
        if thing not in self.cores:
            known = ", ".join(self.cores)
            raise UserError(f"there is no core {thing!r} here", code="core-unknown", mend=f"use one of: {known}")
        return self.cores[thing].admin(request, target)
