"""One function invokes another through greengrasssdk's Lambda client, each in a host of its own, on a real core."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from on_core import Cloud

from foreshore.greengrass.from_lambda import Code, convert
from foreshore.greengrass.host_artifact import build_host
from foreshore.greengrass.service import Core

CALLER = """
import base64, json
import greengrasssdk
from greengrasssdk.Lambda import InvocationException

client, data = greengrasssdk.client("lambda"), greengrasssdk.client("iot-data")
CALLEE = "arn:aws:lambda:us-east-1:123456789012:function:Callee"

def handler(event, context):
    context = base64.b64encode(json.dumps({"custom": {"from": "caller"}}).encode())
    try:
        answer = client.invoke(FunctionName=CALLEE, Qualifier="1", ClientContext=context, **event)
        payload = answer["Payload"]
        payload = payload.read() if hasattr(payload, "read") else payload
        found = [payload.decode(), answer["FunctionError"]]
    except InvocationException as error:
        found = ["raised", str(error)]
    data.publish(topic="out", payload=json.dumps(found))
"""
CALLEE = """
import os

def handler(event, context):
    if event == "boom":
        raise ValueError("as told")
    if event == "die":
        os._exit(1)
    return {"got": event, "custom": context.client_context.custom, "name": context.function_name}
"""


class Hosts:
    """A core without lifecycle, and hosts as its components' processes."""

    def __init__(self, folder: Path, profile: Literal["classic", "lite"] = "classic", client: str = "slim") -> None:
        self.client = client
        self.folder = folder
        self.archive = build_host(folder)
        self.core = Core(
            root=folder / "core", thing="t", region="us-east-1", account="123456789012", cloud=Cloud(),
            span=lambda _: None, log=lambda _: None, profile=profile,
        )  # fmt: skip
        self.processes: list[asyncio.subprocess.Process] = []

    async def run(self, name: str, code: str, settings: dict[str, Any], invokes: tuple[str, ...] = ()) -> None:
        definition = {
            "lambdaArn": f"arn:aws:lambda:us-east-1:123456789012:function:{name}:1",
            "componentLambdaParameters": settings,
        }
        routes = [{"topic": "out", "type": "PUB_SUB"}]
        recipe = convert(definition, Code("main.handler", ("main.py",)), routes, invokes=invokes).recipe
        self.core.configuration.merge(name, (), recipe["ComponentConfiguration"]["DefaultConfiguration"], 1)
        folder = self.folder / name
        folder.mkdir()
        (folder / "main.py").write_text(code)
        environment = {
            **os.environ,
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.core.ipc_socket),
            "SVCUID": self.core.tokens.issue(name),
        }
        argv = [sys.executable, "-u", str(self.archive), "--handler", "main.handler", "--code", str(folder)]
        process = await asyncio.create_subprocess_exec(
            *argv, "--client", self.client, env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        self.processes.append(process)
        while b"event sources" not in await asyncio.wait_for(process.stdout.readline(), 20):
            assert process.returncode is None

    async def stop(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.terminate()
            await process.communicate()
        await self.core.stop()


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "on demand"])
def test_invocations(tmp_path: Path, pinned: bool) -> None:
    asyncio.run(invocations(Hosts(tmp_path), pinned))


async def invocations(hosts: Hosts, pinned: bool) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def ask(**event: Any) -> Any:
        hosts.core.publish_local("in", json.dumps(event).encode(), source="test")
        return await asyncio.wait_for(heard.get(), 20)

    await hosts.core.start()
    try:
        hosts.core.subscribe_local("out", lambda message: heard.put_nowait(json.loads(message.payload)))
        await hosts.run("Callee", CALLEE, {"pinned": pinned})
        source = {"eventSources": [{"topic": "in", "type": "PUB_SUB"}], "timeoutInSeconds": 20}
        await hosts.run("Caller", CALLER, source, invokes=("Callee",))
        payload, error = await ask(Payload='{"a": 1}')
        assert json.loads(payload) == {"got": {"a": 1}, "custom": {"from": "caller"}, "name": "Callee"}
        assert error == ""
        assert await ask(Payload='"x"', InvocationType="Event") == ["", ""]
        payload, error = await ask(Payload='"boom"')
        assert json.loads(payload) == {"errorMessage": "as told", "errorType": "ValueError"}
        assert error == "Handled"
        if not pinned:
            payload, error = await ask(Payload='"die"')
            assert (json.loads(payload)["errorMessage"], error) == ("the instance ended", "Unhandled")
            assert json.loads((await ask(Payload='"again"'))[0])["got"] == "again"
    finally:
        await hosts.stop()


def test_invoking_what_no_policy_allows_is_refused(tmp_path: Path) -> None:
    async def main(hosts: Hosts) -> None:
        heard: asyncio.Queue[Any] = asyncio.Queue()
        await hosts.core.start()
        try:
            hosts.core.subscribe_local("out", lambda message: heard.put_nowait(json.loads(message.payload)))
            await hosts.run("Caller", CALLER, {"eventSources": [{"topic": "in", "type": "PUB_SUB"}]})
            hosts.core.publish_local("in", b'{"InvocationType": "Event"}', source="test")
            kind, text = await asyncio.wait_for(heard.get(), 20)
            assert kind == "raised"
            assert "not authorized" in text.lower()
        finally:
            await hosts.stop()

    asyncio.run(main(Hosts(tmp_path)))


ABSENT = """
import json
import greengrasssdk

shadows, secrets = greengrasssdk.client("iot-data"), greengrasssdk.client("secretsmanager")

def handler(event, context):
    found = []
    for call in (
        lambda: shadows.get_thing_shadow(thingName="t"),
        lambda: shadows.update_thing_shadow(thingName="t", payload=b"{}"),
        lambda: secrets.get_secret_value(SecretId="s"),
    ):
        try:
            call()
        except Exception as error:
            found.append([type(error).__name__, str(error)])
    shadows.publish(topic="out", payload=json.dumps(found))
"""


@pytest.mark.parametrize("client", ["awsiotsdk", "slim"])
def test_on_lite_shadows_and_secrets_fail_with_a_clear_message(tmp_path: Path, client: str) -> None:
    async def main(hosts: Hosts) -> None:
        heard: asyncio.Queue[Any] = asyncio.Queue()
        await hosts.core.start()
        try:
            hosts.core.subscribe_local("out", lambda message: heard.put_nowait(json.loads(message.payload)))
            await hosts.run("Absent", ABSENT, {"eventSources": [{"topic": "in", "type": "PUB_SUB"}]})
            hosts.core.publish_local("in", b"{}", source="test")
            kinds, texts = zip(*await asyncio.wait_for(heard.get(), 20), strict=True)
            assert kinds == ("ShadowError", "ShadowError", "SecretsManagerError")
            assert all("error code 501" in text and "which nucleus lite does not have" in text for text in texts)
        finally:
            await hosts.stop()

    asyncio.run(main(Hosts(tmp_path, "lite", client)))


SHADOWS = """
import json
import greengrasssdk

client = greengrasssdk.client("iot-data")

def handler(event, context):
    document = json.dumps({"state": {"reported": {"a": 1}}})
    answers = [client.update_thing_shadow(thingName="t", payload=document), client.get_thing_shadow(thingName="t")]
    answers.append(client.delete_thing_shadow(thingName="t"))
    found = [json.loads(answer["payload"]) for answer in answers]
    try:
        client.get_thing_shadow(thingName="t")
    except Exception as error:
        found.append(str(error))
    client.publish(topic="out", payload=json.dumps(found))
"""


def test_shadows_of_the_core(tmp_path: Path) -> None:
    async def main(hosts: Hosts) -> None:
        heard: asyncio.Queue[Any] = asyncio.Queue()
        await hosts.core.start()
        try:
            hosts.core.subscribe_local("out", lambda message: heard.put_nowait(json.loads(message.payload)))
            await hosts.run("Shadows", SHADOWS, {"eventSources": [{"topic": "in", "type": "PUB_SUB"}]})
            policy = {"all": {"operations": ["*"], "resources": ["*"]}}
            hosts.core.configuration.merge("Shadows", ("accessControl", "aws.greengrass.ShadowManager"), policy, 2)
            hosts.core.publish_local("in", b"{}", source="test")
            updated, read, deleted, gone = await asyncio.wait_for(heard.get(), 20)
            assert updated["state"] == read["state"] == {"reported": {"a": 1}}
            assert deleted["version"] == read["version"] == updated["version"]
            assert "error code 404" in gone
        finally:
            await hosts.stop()

    asyncio.run(main(Hosts(tmp_path)))
