"""AWS's unmodified Python SDK in components of a real core: both IPC clients, deployed from recipes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from foreshore.greengrass.components import LocalDeploymentRequest
from foreshore.greengrass.service import Core
from foreshore.greengrass.supervisor import Supervisor, factory
from foreshore.seams import Publication

RECIPE = """\
---
RecipeFormatVersion: '2020-01-25'
ComponentName: {name}
ComponentVersion: '1.0.0'
ComponentDescription: A component that uses the AWS IoT Device SDK.
ComponentPublisher: Example
ComponentConfiguration:
  DefaultConfiguration:
    Message: hello
    accessControl:
      aws.greengrass.ipc.pubsub:
        '{name}:pubsub:1':
          policyDescription: Allows local publish/subscribe.
          operations: ['aws.greengrass#PublishToTopic', 'aws.greengrass#SubscribeToTopic']
          resources: ['topic/*']
      aws.greengrass.Cli:
        '{name}:cli:1':
          operations: ['*']
          resources: ['*']
Manifests:
  - Platform:
      os: all
    Lifecycle:
      {step}: |-
        python3 -u {{artifacts:path}}/{name}.py
    Artifacts:
      - URI: s3://BUCKET/{name}/1.0.0/{name}.py
"""

SUBSCRIBER = """\
import threading
import awsiot.greengrasscoreipc
import awsiot.greengrasscoreipc.client as client
from awsiot.greengrasscoreipc.model import SubscribeToTopicRequest, UpdateStateRequest, PublishToTopicRequest
from awsiot.greengrasscoreipc.model import PublishMessage, BinaryMessage

ipc = awsiot.greengrasscoreipc.connect()
done = threading.Event()


class Handler(client.SubscribeToTopicStreamHandler):
    def on_stream_event(self, event):
        print("heard", event.json_message.message, event.json_message.context.topic)
        # A call inside a stream handler: it must not deadlock on the core's side.
        request = PublishToTopicRequest(
            topic="topic/answer", publish_message=PublishMessage(binary_message=BinaryMessage(message=b"thanks"))
        )
        threading.Thread(target=lambda: ipc.new_publish_to_topic().activate(request).result(10)).start()

    def on_stream_error(self, error):
        return True

    def on_stream_closed(self):
        pass


operation = ipc.new_subscribe_to_topic(Handler())
operation.activate(SubscribeToTopicRequest(topic="topic/question")).result(10)
state = ipc.new_update_state()
state.activate(UpdateStateRequest(state="RUNNING")).result(10)
print("subscribed")
done.wait()
"""

PUBLISHER = """\
import time
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import JsonMessage, PublishMessage, UnauthorizedError

ipc = GreengrassCoreIPCClientV2()
ipc.subscribe_to_topic(
    topic="topic/answer", on_stream_event=lambda event: print("answered", event.binary_message.message)
)
configuration = ipc.get_configuration(key_path=["Message"])
print("configured", configuration.value)
components = ipc.list_components().components
print("states", sorted((each.component_name, each.state) for each in components if "com." in each.component_name))
try:
    ipc.publish_to_topic(topic="other", publish_message=PublishMessage(json_message=JsonMessage(message={})))
except UnauthorizedError as error:
    print("refused", error.message)
message = PublishMessage(json_message=JsonMessage(message={"said": configuration.value["Message"]}))
ipc.publish_to_topic(topic="topic/question", publish_message=message)
time.sleep(600)
"""


class NoCloud:
    """A link to IoT Core that is down."""

    connected = False

    def on_state(self, callback: Callable[[bool], None], /) -> None:
        """Nothing changes."""

    async def publish(self, publication: Publication, /) -> int:
        raise ConnectionError

    async def subscribe(self, filter: str, qos: int, callback: Callable[[Publication], None], /) -> None:
        raise ConnectionError

    async def unsubscribe(self, filter: str, /) -> None:
        """Nothing is there."""


def on_core(folder: Path, work: Callable[[Core, Supervisor], Awaitable[None]]) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    async def main() -> None:
        core = Core(
            root=folder / "core",
            thing="core-1",
            region="us-east-1",
            account="000000000000",
            cloud=NoCloud(),
            span=lambda span: None,
            log=lambda line: None,
            components=factory(environment=lambda: {"PATH": path}, run_folder=folder / "run"),
        )
        await core.start()
        try:
            assert isinstance(core.lifecycle, Supervisor)
            await work(core, core.lifecycle)
        finally:
            await core.stop()

    asyncio.run(main())


def put(folder: Path, name: str, code: str, step: str) -> None:
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes" / f"{name}-1.0.0.yaml").write_text(RECIPE.format(name=name, step=step))
    artifacts = folder / "artifacts" / name / "1.0.0"
    artifacts.mkdir(parents=True)
    (artifacts / f"{name}.py").write_text(code)


def test_both_ipc_clients_run_unmodified(tmp_path: Path) -> None:
    put(tmp_path, "com.example.Subscriber", SUBSCRIBER, "startup")
    put(tmp_path, "com.example.Publisher", PUBLISHER, "run")

    async def work(core: Core, supervisor: Supervisor) -> None:
        async def deploy(name: str) -> None:
            request = LocalDeploymentRequest(
                root_components_to_add={name: "1.0.0"},
                recipe_directory=str(tmp_path / "recipes"),
                artifacts_directory=str(tmp_path / "artifacts"),
            )
            status = await supervisor.wait(await supervisor.create_local_deployment(request))
            assert status.status == "SUCCEEDED", status

        def text(name: str) -> str:
            return (core.root / "logs" / f"{name}.log").read_text()

        # Startup that does not end is RUNNING by the component's own word.
        await deploy("com.example.Subscriber")
        assert supervisor.details("com.example.Subscriber").state == "RUNNING"
        await deploy("com.example.Publisher")
        async with asyncio.timeout(30):
            while "stdout. answered b'thanks'" not in text("com.example.Publisher"):
                await asyncio.sleep(0.01)
        assert "stdout. heard {'said': 'hello'} topic/question" in text("com.example.Subscriber")
        publisher = text("com.example.Publisher")
        assert "configured {'Message': 'hello'}" in publisher
        assert "('com.example.Subscriber', 'RUNNING')" in publisher
        assert "refused Principal com.example.Publisher is not authorized" in publisher

    on_core(tmp_path, work)
