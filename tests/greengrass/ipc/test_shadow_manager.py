"""The core's own shadows: over IPC, on local topics, and in step with a cloud that answers as IoT Core does."""

import asyncio
import base64
import json
from typing import Any

from foreshore.greengrass.pubsub import LocalMessage
from foreshore.greengrass.shadows import Document, read_request, update, view
from foreshore.seams import Publication

ACCESS = {
    "aws.greengrass.ShadowManager": {"p": {"operations": ["*"], "resources": ["*"]}},
    "aws.greengrass.ipc.pubsub": {"p": {"operations": ["*"], "resources": ["*"]}},
}
CLASSIC = "$aws/things/lab-core/shadow"
SYNCHRONIZE = {"synchronize": {"coreThing": {"classic": True, "namedShadows": ["n"]}}}


class Cloud:
    """IoT Core's shadow service behind a link: answers get, update and delete on the reserved topics."""

    def __init__(self, link: Any) -> None:
        self.link = link
        self.documents: dict[str, Document] = {}
        self.versions: dict[str, int] = {}
        link.publish = self.publish

    async def publish(self, publication: Publication) -> int:
        await asyncio.sleep(0)
        if not self.link.connected:
            raise ConnectionError("no link")
        prefix, _, action = publication.topic.rpartition("/")
        request = json.loads(publication.payload)
        if action == "update":
            self.update(prefix, request)
        elif action == "get":
            document = self.documents.get(prefix)
            token = {"clientToken": request["clientToken"]}
            if document is None:
                self.say(f"{prefix}/get/rejected", {"code": 404, "message": "none", **token})
            else:
                self.say(f"{prefix}/get/accepted", {**view(document, 1), **token})
        elif action == "delete":
            self.documents.pop(prefix, None)
            self.say(f"{prefix}/delete/accepted", {"version": 1, "clientToken": request.get("clientToken", "")})
        return 0

    def update(self, prefix: str, request: dict[str, Any]) -> None:
        done = update(self.documents.get(prefix), 0, read_request(json.dumps(request).encode(), 8192), 1)
        self.documents[prefix] = done.document
        self.say(f"{prefix}/update/accepted", done.accepted)

    def say(self, topic: str, body: dict[str, Any]) -> None:
        if self.link.connected and topic in self.link.subscribed:
            self.link.subscribed[topic][1](Publication(topic, json.dumps(body).encode()))


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def state_of(running: Any, name: str = "") -> Any:
    document, _ = running.core._shadow_manager._store.read("lab-core", name)
    return document.state if document else None


def test_shadows_over_ipc_without_a_cloud(rig, run) -> None:
    async def scenario() -> None:
        async with rig(connected=False) as running:
            running.component("c", ACCESS)
            client = await running.raw("c")
            heard: list[LocalMessage] = []
            running.core.subscribe_local(CLASSIC + "/#", heard.append)
            body = {"thingName": "lab-core", "payload": base64.b64encode(b'{"state":{"desired":{"a":1}}}').decode()}
            shape, answer = await client.ask(1, "UpdateThingShadow", body)
            assert shape == "UpdateThingShadowResponse"
            assert json.loads(base64.b64decode(answer["payload"]))["version"] == 1
            assert [message.topic.removeprefix(CLASSIC) for message in heard] == [
                "/update/accepted",
                "/update/delta",
                "/update/documents",
            ]
            _, answer = await client.ask(2, "GetThingShadow", {"thingName": "lab-core"})
            assert json.loads(base64.b64decode(answer["payload"]))["state"] == {"desired": {"a": 1}, "delta": {"a": 1}}
            shape, error = await client.ask(3, "UpdateThingShadow", {**body, "payload": "e30="})
            assert (shape, error["message"]) == ("InvalidArgumentsError", "Missing required node: state")
            for name in ("x", "y", "z"):
                await client.ask(4 + ord(name), "UpdateThingShadow", {**body, "shadowName": name})
            request = {"thingName": "lab-core", "pageSize": 2}
            _, page = await client.ask(200, "ListNamedShadowsForThing", request)
            assert page["results"] == ["x", "y"]
            _, page = await client.ask(201, "ListNamedShadowsForThing", {**request, "nextToken": page["nextToken"]})
            assert page["results"] == ["z"] and "nextToken" not in page
            shape, _ = await client.ask(202, "DeleteThingShadow", {"thingName": "lab-core"})
            assert shape == "DeleteThingShadowResponse"
            shape, _ = await client.ask(203, "DeleteThingShadow", {"thingName": "lab-core"})
            assert shape == "ResourceNotFoundError"
            _, answer = await client.ask(204, "UpdateThingShadow", body)
            assert json.loads(base64.b64decode(answer["payload"]))["version"] == 2

    run(scenario())


def test_shadows_on_local_topics(rig, run) -> None:
    async def scenario() -> None:
        async with rig(connected=False) as running:
            heard: list[LocalMessage] = []
            running.core.subscribe_local(CLASSIC + "/name/n/#", heard.append)

            def say(action: str, payload: bytes) -> list[tuple[str, Any]]:
                heard.clear()
                running.core.publish_local(f"{CLASSIC}/name/n/{action}", payload, source="c")
                answers = [message for message in heard if message.source != "c"]
                return [(m.topic.removeprefix(CLASSIC + "/name/n/"), json.loads(m.payload)) for m in answers]

            ((topic, body),) = say("get", b'{"clientToken":"t"}')
            assert topic == "get/rejected" and body["code"] == 404 and body["clientToken"] == "t"
            answers = say("update", b'{"state":{"reported":{"a":1}},"clientToken":"u"}')
            assert [answer[0] for answer in answers] == ["update/accepted", "update/documents"]
            ((topic, body),) = say("get", b"")
            assert topic == "get/accepted" and body["state"] == {"reported": {"a": 1}}
            ((topic, body),) = say("update", b"{")
            assert topic == "update/rejected" and body["code"] == 400
            ((topic, body),) = say("update", b'{"state":{},"version":7}')
            assert body["code"] == 409
            ((topic, body),) = say("delete", b"")
            assert topic == "delete/accepted" and body["version"] == 1

    run(scenario())


def test_in_step_with_the_cloud(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            cloud = Cloud(running.link)
            core = running.core
            cloud.documents[CLASSIC] = Document({"desired": {"mode": "eco"}}, {}, 5)
            core.publish_local(CLASSIC + "/update", b'{"state":{"reported":{"on":true}}}', source="c")
            core.configuration.merge("aws.greengrass.ShadowManager", [], SYNCHRONIZE, 1)
            both = {"desired": {"mode": "eco"}, "reported": {"on": True}}
            await until(lambda: cloud.documents[CLASSIC].state == both and state_of(running) == both)

            core.publish_local(CLASSIC + "/update", b'{"state":{"reported":{"t":1}}}', source="c")
            await until(lambda: cloud.documents[CLASSIC].state["reported"] == {"on": True, "t": 1})
            cloud.update(CLASSIC, {"state": {"desired": {"mode": "full"}}})
            assert state_of(running)["desired"] == {"mode": "full"}

            running.link.up(False)
            cloud.update(CLASSIC, {"state": {"desired": {"mode": "off", "new": 1}}})
            mine = b'{"state":{"desired":{"mode":"mine"},"reported":{"t":2}}}'
            core.publish_local(CLASSIC + "/update", mine, source="c")
            running.link.up(True)
            agreed = {"desired": {"mode": "off", "new": 1}, "reported": {"on": True, "t": 2}}
            await until(lambda: cloud.documents[CLASSIC].state == agreed and state_of(running) == agreed)

            await core.shadows.delete("lab-core", None)
            await until(lambda: CLASSIC not in cloud.documents)
            assert state_of(running) is None

    run(scenario())


def test_what_the_cloud_deleted_meanwhile_goes_and_what_it_never_had_comes(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            cloud = Cloud(running.link)
            core = running.core
            named = CLASSIC + "/name/n"
            core.publish_local(named + "/update", b'{"state":{"reported":{"a":1}}}', source="c")
            core.configuration.merge("aws.greengrass.ShadowManager", [], SYNCHRONIZE, 1)
            await until(lambda: named in cloud.documents)
            await until(lambda: core._shadow_manager._store.base("lab-core", "n") == {"reported": {"a": 1}})
            running.link.up(False)
            del cloud.documents[named]
            running.link.up(True)
            await until(lambda: state_of(running, "n") is None)
            core.configuration.apply("aws.greengrass.ShadowManager", defaults={}, reset=[""], timestamp=2)
            await until(lambda: not running.link.subscribed)

    run(scenario())


def test_one_way_only(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            cloud = Cloud(running.link)
            core = running.core
            cloud.documents[CLASSIC] = Document({"desired": {"cloud": 1}}, {}, 1)
            core.publish_local(CLASSIC + "/update", b'{"state":{"reported":{"device":1}}}', source="c")
            synchronize = {"synchronize": {**SYNCHRONIZE["synchronize"], "direction": "deviceToCloud"}}
            core.configuration.merge("aws.greengrass.ShadowManager", [], synchronize, 1)
            await until(lambda: "reported" in cloud.documents[CLASSIC].state)
            cloud.update(CLASSIC, {"state": {"desired": {"cloud": 2}}})
            assert state_of(running) == {"reported": {"device": 1}}

    run(scenario())
