"""The whole core: credentials for components, its readable configuration, and kill -9."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import AwsError, UserError
from foreshore.greengrass.components import CoreContext
from foreshore.greengrass.eventstream import INT32, STRING, Header, encode
from foreshore.greengrass.static_components import StaticComponents
from foreshore.http import Client, Request
from tests.greengrass.test_client_devices import World

KEYS = {"AccessKeyId": "A", "SecretAccessKey": "S", "Token": "T", "Expiration": "2030-01-01T00:00:00Z"}


def test_the_token_exchange(rig, run) -> None:
    contexts: list[CoreContext] = []

    def factory(context: CoreContext) -> StaticComponents:
        contexts.append(context)
        return StaticComponents(context)

    failures: list[AwsError] = []

    async def credentials() -> dict[str, str]:
        if failures:
            raise failures[0]
        return KEYS

    async def scenario() -> None:
        async with rig(credentials=credentials, components=factory) as running:
            url = contexts[0].environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
            assert url.startswith("http://localhost:") and url.endswith("/2016-11-01/credentialprovider/")
            port = int(url.split(":")[2].partition("/")[0])
            client = Client()

            async def get(path: str, token: str = "", method: str = "GET") -> tuple[int, bytes]:
                headers = [(b"Authorization", token.encode())] if token else []
                response = await client.fetch(method, "127.0.0.1", port, path, headers)
                return response.status, response.body

            token, path = running.core.tokens.issue("c"), "/2016-11-01/credentialprovider/"
            status, body = await get(path, token)
            assert status == 200 and json.loads(body) == KEYS
            assert (await get(path))[0] == 400
            assert (await get(path, "A" * 16))[0] == 403
            assert (await get("/other", token))[0] == 404
            assert (await get(path, token, "PUT"))[0] == 405
            failures.append(AwsError("AccessDenied", "no role", 403))
            assert await get(path, token) == (403, b"Failed to get credentials: no role")
            await client.close()

    run(scenario())


def test_the_effective_configuration_is_there_to_read(rig, run, tmp_path) -> None:
    async def scenario() -> None:
        async with rig(root=tmp_path) as running:
            running.component("c", k="é")

    run(scenario())
    document = yaml.safe_load((tmp_path / "config" / "effectiveConfig.yaml").read_text("utf-8"))
    assert document["services"]["c"]["configuration"]["k"] == "é"
    assert document["system"] == {"rootpath": str(tmp_path), "thingName": "lab-core"}


@pytest.mark.parametrize(
    ("profile", "nucleus", "allowed"),
    [("classic", {}, False), ("classic", {"interpolateComponentConfiguration": True}, True), ("lite", {}, True)],
)
def test_the_things_name_in_policies(rig, run, profile, nucleus, allowed) -> None:
    async def scenario() -> None:
        async with rig(profile=profile) as running:
            running.core.configuration.merge("aws.greengrass.Nucleus", [], nucleus, 1)
            policy = {"operations": ["*"], "resources": ["things/{iot:thingName}/*"]}
            running.component("c", {"aws.greengrass.ipc.pubsub": {"p": policy}})
            client = await running.raw("c")
            body = {"topic": "things/lab-core/x", "publishMessage": {"binaryMessage": {"message": ""}}}
            shape, _ = await client.ask(1, "PublishToTopic", body)
            assert (shape == "PublishToTopicResponse") is allowed

    run(scenario())


def test_the_nucleus_is_configured_live(rig, run) -> None:
    async def scenario() -> None:
        async with rig(connected=False) as running:
            policy = {"operations": ["*"], "resources": ["{iot:thingName}/*"]}
            access = {"aws.greengrass.ipc.mqttproxy": {"p": policy}}
            running.component("c", access)
            client = await running.raw("c")
            body = {"topicName": "lab-core/x", "qos": "0", "payload": "AA=="}
            assert (await client.ask(1, "PublishToIoTCore", body))[0] == "UnauthorizedError"
            nucleus = {"interpolateComponentConfiguration": True}
            running.core.configuration.merge("aws.greengrass.Nucleus", [], nucleus, 1)
            assert (await client.ask(2, "PublishToIoTCore", body))[1]["message"].endswith("Dropping QoS 0 message.")
            spooler = {"keepQos0WhenOffline": True, "maxSizeInBytes": 1}
            running.core.configuration.merge("aws.greengrass.Nucleus", ["mqtt", "spooler"], spooler, 2)
            assert (await client.ask(3, "PublishToIoTCore", body))[0] == "PublishToIoTCoreResponse"
            _, error = await client.ask(4, "PublishToIoTCore", {**body, "qos": "1", "payload": "AAAA"})
            assert "larger than the size of message spool" in error["message"]

    run(scenario())


def test_a_core_that_can_not_start_leaves_nothing_open(rig, run, tmp_path) -> None:
    async def scenario() -> None:
        async with rig(root=tmp_path) as running:
            other = type(running.core)(
                root=tmp_path,
                thing="other",
                region="us-east-1",
                account="123456789012",
                cloud=running.link,
                span=lambda span: None,
                log=lambda line: None,
            )
            with pytest.raises(UserError, match="another core"):
                await other.start()
            assert not other._stops and not other._closers
            client = await running.raw("c")
            assert (await client.ask(1, "GetConfiguration", {"componentName": "nope"}))[0] == "ResourceNotFoundError"

    run(scenario())


def test_the_administration(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c", {}, k=1)
            admin = running.core.admin
            assert json.loads(admin(Request("GET", "/components", [])).body) == [
                {"name": "c", "version": "0.0.0", "state": "RUNNING"}
            ]
            assert json.loads(admin(Request("GET", "/configuration/c", [])).body)["k"] == 1
            assert admin(Request("GET", "/nope", [])).status == 404
            with pytest.raises(UserError):
                admin(Request("GET", "/configuration/nope", []))
            assert [status.name for status in running.core.components()] == ["c"]

    run(scenario())


KEYS_OF_AWS = st.sampled_from(
    ["accessControl", "aws.greengrass.ipc.pubsub", "p", "operations", "resources", "mqtt", "spooler", "maxSizeInBytes",
     "storageType", "synchronize", "coreThing", "namedShadows", "shadowDocuments", "shadowDocumentsMap", "thingName",
     "deviceGroups", "definitions", "policies", "g", "selectionRule", "policyName", "cloudSecrets", "arn"]
)  # fmt: skip
DOCUMENT = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats() | st.text(max_size=5) | st.just("thingName: *"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS_OF_AWS, inner, max_size=4),
    max_leaves=12,
)


def test_any_configuration_of_awss_components_is_survived(rig, run, tmp_path) -> None:
    documents: list[dict[str, Any]] = []

    @settings(max_examples=150, derandomize=True, deadline=None)
    @given(st.dictionaries(KEYS_OF_AWS, DOCUMENT, max_size=4))
    def collect(document: dict[str, Any]) -> None:
        documents.append(document)

    collect()
    components = ("c", "aws.greengrass.Nucleus", "aws.greengrass.ShadowManager", "aws.greengrass.clientdevices.Auth")

    async def scenario() -> None:
        async with rig(root=tmp_path, client_devices=World(tmp_path / "auth").auth) as running:
            for number, document in enumerate(documents):
                for component in components:
                    running.core.configuration.apply(
                        component, defaults={}, reset=[""], merge=document, timestamp=number
                    )
            client = await running.raw("c")
            assert (await client.ask(1, "GetConfiguration", {"componentName": "nope"}))[0] == "ResourceNotFoundError"
        async with rig(root=tmp_path, client_devices=World(tmp_path / "auth").auth) as running:
            assert running.core.configuration.components()

    run(scenario())


CORE = """
import asyncio, sys
from pathlib import Path
from foreshore.greengrass.service import Core
class Link:
    connected = False
    def on_state(self, callback): pass
    async def publish(self, publication): raise ConnectionError
    async def subscribe(self, filter, qos, callback): raise ConnectionError
    async def unsubscribe(self, filter): pass
async def main():
    core = Core(root=Path(sys.argv[1]), thing="t", region="us-east-1", account="0", cloud=Link(),
                span=lambda span: None, log=lambda line: None)
    await core.start()
    access = {"aws.greengrass.ipc.mqttproxy": {"p": {"operations": ["*"], "resources": ["*"]}}}
    if "c" not in core.configuration:
        core.configuration.apply("c", defaults={"accessControl": access}, timestamp=1)
    print(core.tokens.issue("c"), core.cloud.spooled, core.configuration.document("c").get("n"), flush=True)
    await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""


def test_what_clients_were_answered_survives_kill_9(tmp_path: Path) -> None:
    def frame(stream: int, kind: int, body: object, operation: str = "") -> bytes:
        headers = [Header(":message-type", INT32, kind), Header(":message-flags", INT32, 0)]
        headers.append(Header(":stream-id", INT32, stream))
        more = Header("operation", STRING, operation) if operation else Header(":version", STRING, "0.1.0")
        return encode([*headers, more], json.dumps(body).encode())

    def start() -> tuple[subprocess.Popen[str], str, int, int]:
        process = subprocess.Popen([sys.executable, "-c", CORE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        token, spooled, n = process.stdout.readline().split()
        return process, token, int(spooled), 0 if n == "None" else int(n)

    def kill(process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    async def write(token: str, first: int, count: int) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "ipc.socket"))
        writer.write(frame(0, 4, {"authToken": token}))
        publish = {"topicName": "x", "qos": "1", "payload": "AA=="}
        stream = 0
        for number in range(first, first + count):
            update = {"timestamp": number / 1000 + 1e9, "valueToMerge": {"n": number}}
            writer.write(frame(stream + 1, 0, update, "aws.greengrass#UpdateConfiguration"))
            writer.write(frame(stream + 2, 0, publish, "aws.greengrass#PublishToIoTCore"))
            stream += 2
        answered = b""
        while answered.count(b"UpdateConfigurationResponse") + answered.count(b"PublishToIoTCoreResponse") < count * 2:
            data = await asyncio.wait_for(reader.read(65536), 20)
            assert data
            answered += data
        writer.close()
        await writer.wait_closed()

    process, token, spooled, n = start()
    try:
        assert (spooled, n) == (0, 0)
        asyncio.run(write(token, 1, 40))
        kill(process)
        process, token, spooled, n = start()
        assert (spooled, n) == (40, 40)
        asyncio.run(write(token, 41, 20))
        kill(process)
        process, token, spooled, n = start()
        assert (spooled, n) == (60, 60)
    finally:
        kill(process)
