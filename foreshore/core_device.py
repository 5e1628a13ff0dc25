"""One Greengrass core device joined to IoT Core: its certificate, its link, its local MQTT listener and the bridge.

The link is a real MQTT 5 connection over mutual TLS, as a core on a device has. Client devices connect to the core's
own broker; `mqttTopicMapping` of `aws.greengrass.clientdevices.mqtt.Bridge` (in deployment.yaml) says what goes on to
local publish/subscribe or to IoT Core.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from foreshore.cloud.routing import Target
from foreshore.core_bridge import Bridge
from foreshore.core_cloud import CloudCore
from foreshore.core_field import EMQX, IP_DETECTOR, MOQUETTE, Field, Unused
from foreshore.core_link import CoreLink
from foreshore.core_services import CoreSecrets, credentials
from foreshore.errors import UserError
from foreshore.greengrass.aws_calls import AwsCalls
from foreshore.greengrass.bridge import NAME as BRIDGE
from foreshore.greengrass.deployments import read_document
from foreshore.greengrass.log_events import NAME as LOG_MANAGER
from foreshore.greengrass.log_manager import LogManager
from foreshore.greengrass.recipe_store import deployment_file
from foreshore.greengrass.service import Core
from foreshore.greengrass.stream_manager.service import StreamManager
from foreshore.greengrass.stream_manager.settings import NAME as STREAM_MANAGER
from foreshore.greengrass.supervisor import factory
from foreshore.greengrass.watcher import Watcher
from foreshore.http import Request, Response
from foreshore.iot.service import IotCore
from foreshore.project import CoreProfile, CoreSettings, Project
from foreshore.seams import CoreDirectory, LogLine
from foreshore.traces.recorder import Recorder

# What a core needs on IoT Core (Greengrass developer guide, "Minimal IoT policy for core devices"), on every topic.
CORE_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["iot:Connect", "iot:Publish", "iot:Subscribe", "iot:Receive"], "Resource": "*"},
        {"Effect": "Allow", "Action": ["greengrass:*"], "Resource": "*"},
    ],
}
DEPLOY_SECONDS = 120.0
REPLACED = (MOQUETTE, EMQX, IP_DETECTOR)


class CoreDevice:
    """One core of a project, from certificate to RUNNING components."""

    def __init__(
        self,
        *,
        project: Project,
        settings: CoreSettings,
        home: Path,
        iot: IotCore,
        recorder: Recorder,
        environment: Callable[[], dict[str, str]],
        run_folder: Path,
        directory: CoreDirectory,
        profile: CoreProfile = "classic",
        stream_manager_port: int = 0,
    ) -> None:
        self.project = project
        self.settings = settings
        self.thing = settings.thing
        self.iot = iot
        self.recorder = recorder
        self.root = home / "cores" / self.thing
        self.certs = home / "certs" / "cores" / self.thing
        self.environment = environment
        self.run_folder = run_folder / self.thing
        self.profile = settings.profile or profile
        self.core: Core
        self.link: CoreLink
        self.field: Field
        self.bridge: Bridge
        self.directory = directory
        self._stops: list[Callable[[], Awaitable[None]]] = []
        self.streams = StreamManager(
            state=self.root / "work/aws.greengrass.StreamManager/streams.db", region=project.region,
            authenticate=lambda token: token is not None and self.core.tokens.component_of(token) is not None,
            environment=environment, say=lambda level, text: self.say(text, level), port=stream_manager_port,
        )  # fmt: skip

    async def start(self) -> None:
        """Connect, serve the IPC and deploy the project's recipes. Raises UserError for a recipe that can't be."""
        files = self.iot.ensure_thing(
            self.thing, policy_documents={f"{self.thing}-core": CORE_POLICY}, certs_folder=self.certs,
            groups=self.settings.groups,
        )  # fmt: skip
        self.link = CoreLink("127.0.0.1", self.iot.mqtts_port, self.thing, files.ca, files.cert, files.key)
        self._stops.append(self.link.stop)
        await self.link.connect()
        self._make_field()
        secrets = CoreSecrets(lambda: self.environment()["AWS_ENDPOINT_URL"], self.project.region)
        self._stops.append(secrets.close)
        self.core = Core(
            root=self.root, thing=self.thing, region=self.project.region, account=self.project.account,
            cloud=self.link, fetch_secret=secrets.fetch, credentials=credentials,
            key_material=Path(files.key).read_bytes(),
            span=self.recorder.span, log=self.recorder.log, profile=self.profile,
            client_devices=self.field.auth,
            services={
                **{name: Unused(name, lambda level, text: self.say(text, level)) for name in REPLACED},
                BRIDGE: self.bridge, STREAM_MANAGER: self.streams, LOG_MANAGER: self._log_manager(),
            },
            components=factory(
                environment=self.component_environment, run_folder=self.run_folder, project=self.project.folder
            ),
        )  # fmt: skip
        self._stops += [self.core.stop, self.field.stop]
        await self.core.start()

    def _log_manager(self) -> LogManager:
        work = self.root / "work" / LOG_MANAGER
        return LogManager(
            thing=self.thing, region=self.project.region, logs=self.root / "logs", work=work,
            aws=AwsCalls(self.project.region, self.environment), say=lambda level, text: self.say(text, level),
        )  # fmt: skip

    def _make_field(self) -> None:
        self.field = Field(
            root=self.root, iot=self.iot, link=self.link, manual=lambda: self.directory.connectivity(self.thing),
            associated=lambda: self.directory.clients_of(self.thing),
            is_deployed=lambda name: name in self.core.configuration, span=self.recorder.span,
            say=lambda level, text: self.say(text, level),
        )  # fmt: skip
        self.bridge = Bridge(
            lambda: self.core, self.field.broker, lambda level, text: self.say(f"bridge: {text}", level),
            self.field.bridge_id,
        )  # fmt: skip

    async def deploy(self) -> None:
        """Deploy the project's recipes, wait until its components run or one can't, and redeploy what changes."""
        recipes = self.settings.recipes
        if recipes is None or not self._is_meant(recipes):
            return
        lifecycle: Any = self.core.lifecycle
        deployment = await lifecycle.deploy_project(self.project.folder, recipes)
        try:
            status = await asyncio.wait_for(lifecycle.wait(deployment), DEPLOY_SECONDS)
        except TimeoutError as error:
            raise UserError("the deployment does not end", code="deployment", where=self.thing) from error
        if status.status != "SUCCEEDED":
            raise UserError(
                f"the deployment ended {status.status}: {status.failure_cause}", code="deployment",
                where=str(recipes), mend="see `foreshore logs` and `foreshore check`",
            )  # fmt: skip
        watcher = Watcher(lifecycle, self.project.folder, lambda level, text: self.say(text, level), recipes=recipes)
        self._stops.append(watcher.stop)
        await watcher.start()

    def _is_meant(self, recipes: Path) -> bool:
        """Whether the folder's deployment document is for this core: where several run, its targetArn chooses."""
        file = deployment_file(recipes)
        if file is None or len(self.project.cores) == 1:
            return True
        kind, _, name = read_document(file.read_text(errors="replace"), str(file)).group.partition("/")
        if kind == "thing":
            return name == self.thing
        return kind != "thinggroup" or name in self.iot.groups.all_of(self.thing)

    async def listen(self, host: str, port: int) -> int:
        """Serve client devices over mutual TLS. Raises OSError when the port is taken."""
        return await self.field.listen(host, port)

    def cloud_handle(self) -> CloudCore:
        """This core as deployments of the greengrassv2 API reach it."""
        lifecycle: Any = self.core.lifecycle
        return CloudCore(self.thing, lifecycle, self.root / "cloud")

    async def stop(self) -> None:
        """Stop components, listener and link."""
        while self._stops:
            await self._stops.pop()()

    def component_environment(self) -> dict[str, str]:
        """What components see besides the nucleus' own variables: this edge, traces, and this Python first on PATH."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "/usr/bin:/bin")])
        own = {"PATH": path, "FORESHORE_TRACE": "1", "STREAM_MANAGER_SERVER_PORT": str(self.streams.port)}
        return {**self.environment(), **own}

    def describe(self) -> dict[str, str]:
        """The core's part of the ready line."""
        return {
            "root": str(self.root),
            "ipc_socket": str(self.core.ipc_socket),
            "stream_manager": self.streams.address,
            "mqtts": f"127.0.0.1:{self.field.port}",
            "ca": str(self.field.ca_file),
        }

    def stats(self) -> dict[str, Any]:
        """What the core itself counted."""
        return {
            "bridged": self.bridge.from_devices,
            "connected": self.link.connected,
            "client_devices": len(self.field.broker.clients()),
            "components": {status.name: status.state for status in self.core.components()},
        }

    def admin(self, request: Request, target: Target) -> Response | Awaitable[Response]:
        """`/_foreshore/greengrass/<thing>/…`, with the thing looked up."""
        _, _, rest = target.path.strip("/").partition("/")
        request.target = "/" + rest + ("?" + request.query_string if request.query_string else "")
        return self.core.admin(request)

    def say(self, text: str, level: str = "INFO") -> None:
        """A log line of the core's."""
        self.recorder.log(LogLine(time.time_ns(), "greengrass", self.thing, level, "", text))
