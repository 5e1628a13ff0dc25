"""The core's own shadows: over IPC, on local topics, and in step with a cloud that answers as IoT Core does."""

import asyncio
import base64
import json
from typing import Any

import pytest

from foreshore.greengrass.pubsub import LocalMessage
from foreshore.greengrass.shadow_settings import Bucket, Direction, Settings, Shadow, read_settings
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


def strategy(delay: str, **more: Any) -> dict[str, Any]:
    return {**SYNCHRONIZE, "strategy": {"type": "periodic", "delay": delay}, **more}


def test_periodic_changes_wait_for_their_turn(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            cloud = Cloud(running.link)
            core = running.core
            cloud.documents[CLASSIC] = Document({"desired": {"a": 1}}, {}, 1)
            core.configuration.merge("aws.greengrass.ShadowManager", [], strategy("3600"), 1)
            await until(lambda: state_of(running) == {"desired": {"a": 1}})
            core.publish_local(CLASSIC + "/update", b'{"state":{"reported":{"a":1}}}', source="c")
            cloud.update(CLASSIC, {"state": {"desired": {"a": 2}}})
            for _ in range(100):
                await asyncio.sleep(0)
            assert cloud.documents[CLASSIC].state == {"desired": {"a": 2}}
            assert state_of(running) == {"desired": {"a": 1}, "reported": {"a": 1}}
            core.configuration.merge("aws.greengrass.ShadowManager", [], strategy("0.01"), 2)
            both = {"desired": {"a": 2}, "reported": {"a": 1}}
            await until(lambda: cloud.documents[CLASSIC].state == both and state_of(running) == both)
            await core.shadows.delete("lab-core", None)
            await until(lambda: CLASSIC not in cloud.documents)

    run(scenario())


def test_deletions_meet_changes_of_the_other_side(rig, run) -> None:
    """Deleted here while offline: deleted there too, unless it was changed there; and the other way about."""

    async def scenario() -> None:
        async with rig() as running:
            cloud = Cloud(running.link)
            core, named = running.core, CLASSIC + "/name/n"

            def agree() -> None:
                for prefix in (CLASSIC, named):
                    body = b'{"state":{"reported":{"a":1},"desired":{"d":1}}}'
                    core.publish_local(prefix + "/update", body, source="c")

            def base(name: str) -> Any:
                return core._shadow_manager._store.base("lab-core", name)

            agree()
            core.configuration.merge("aws.greengrass.ShadowManager", [], SYNCHRONIZE, 1)
            await until(lambda: base("") and base("n"))
            running.link.up(False)
            for name in (None, "n"):
                await core.shadows.delete("lab-core", name)
            cloud.update(named, {"state": {"desired": {"d": 2}}})
            running.link.up(True)
            await until(lambda: CLASSIC not in cloud.documents)
            await until(lambda: state_of(running, "n") == {"desired": {"d": 2}, "reported": {"a": 1}})
            assert state_of(running) is None

            agree()
            await until(lambda: base("") and base("n") == {"desired": {"d": 1}, "reported": {"a": 1}})
            running.link.up(False)
            cloud.documents.clear()
            core.publish_local(named + "/update", b'{"state":{"reported":{"a":2}}}', source="c")
            running.link.up(True)
            await until(lambda: named in cloud.documents and state_of(running) is None)
            assert cloud.documents[named].state == state_of(running, "n") == {"desired": {"d": 1}, "reported": {"a": 2}}
            assert CLASSIC not in cloud.documents

    run(scenario())


def test_cloud_to_device_only(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            cloud = Cloud(running.link)
            core = running.core
            cloud.documents[CLASSIC] = Document({"desired": {"x": 1}}, {}, 1)
            core.publish_local(CLASSIC + "/update", b'{"state":{"reported":{"own":1}}}', source="c")
            synchronize = {"synchronize": {**SYNCHRONIZE["synchronize"], "direction": "cloudToDevice"}}
            core.configuration.merge("aws.greengrass.ShadowManager", [], synchronize, 1)
            await until(lambda: state_of(running) == {"desired": {"x": 1}})
            core.publish_local(CLASSIC + "/update", b'{"state":{"reported":{"own":2}}}', source="c")
            cloud.update(CLASSIC, {"state": {"desired": {"x": 2}}})
            await until(lambda: state_of(running) == {"desired": {"x": 2}, "reported": {"own": 2}})
            assert cloud.documents[CLASSIC].state == {"desired": {"x": 2}}

    run(scenario())


def test_updates_that_the_cloud_rejects_are_said_and_hold_nothing_up(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            cloud = Cloud(running.link)
            core = running.core
            core.configuration.merge("aws.greengrass.ShadowManager", [], SYNCHRONIZE, 1)
            core.publish_local(CLASSIC + "/update", b'{"state":{"reported":{"a":1}}}', source="c")
            await until(lambda: CLASSIC in cloud.documents)
            accept = cloud.update

            def refuse(prefix: str, request: dict[str, Any]) -> None:
                cloud.update = accept
                body = {"code": 413, "message": "too large", "clientToken": request["clientToken"]}
                cloud.say(f"{prefix}/update/rejected", body)

            cloud.update = refuse
            core.publish_local(CLASSIC + "/update", b'{"state":{"reported":{"a":2}}}', source="c")
            await until(lambda: [line for line in running.logs if "413 too large" in line.text])
            core.publish_local(CLASSIC + "/update", b'{"state":{"reported":{"b":3}}}', source="c")
            await until(lambda: cloud.documents[CLASSIC].state == {"reported": {"a": 2, "b": 3}})

    run(scenario())


def test_local_requests_have_a_rate(rig, run) -> None:
    async def scenario() -> None:
        async with rig(connected=False) as running:
            limits = {"rateLimits": {"maxLocalRequestsPerSecondPerThing": 2, "maxTotalLocalRequestsRate": 100}}
            running.core.configuration.merge("aws.greengrass.ShadowManager", [], limits, 1)
            await running.core.services.settle()
            running.component("c", ACCESS)
            client = await running.raw("c")
            body = {"thingName": "lab-core", "payload": base64.b64encode(b'{"state":{}}').decode()}
            answers = [await client.ask(number, "UpdateThingShadow", body) for number in range(1, 8)]
            assert answers[0][0] == "UpdateThingShadowResponse"
            refused = [answer for shape, answer in answers if shape == "ServiceError"]
            assert refused and refused[0]["message"] == "Too Many Requests"
            shape, _ = await client.ask(20, "UpdateThingShadow", {**body, "thingName": "other"})
            assert shape == "UpdateThingShadowResponse"

    run(scenario())


@pytest.mark.parametrize(
    ("configuration", "changed", "said"),
    [
        ({}, {}, ""),
        ({"synchronize": {"coreThing": {}}}, {"shadows": frozenset({Shadow("t", "")})}, ""),
        (
            {"synchronize": {"shadowDocumentsMap": {"a": {"classic": "false", "namedShadows": ["n"]}},
                             "shadowDocuments": [{"thingName": "b"}], "direction": "deviceToCloud"}},
            {"shadows": frozenset({Shadow("a", "n"), Shadow("b", "")}), "direction": Direction.TO_CLOUD},
            "",
        ),
        ({"synchronize": {"shadowDocuments": [{}]}}, {}, "no thingName name"),
        ({"synchronize": {"coreThing": {"namedShadows": ["a b"]}}}, {}, "no shadow name"),
        ({"synchronize": {"coreThing": []}}, {}, "must be a map"),
        ({"synchronize": {"coreThing": {}, "direction": "up"}}, {}, "direction: up"),
        ({"strategy": {"type": "periodic"}}, {"delay_s": 300.0}, ""),
        ({"strategy": {"type": "periodic", "delay": "60"}}, {"delay_s": 60.0}, ""),
        ({"strategy": {"type": "seldom"}}, {}, "strategy: seldom"),
        ({"shadowDocumentSizeLimitBytes": "30720"}, {"size_limit": 30720}, ""),
        ({"shadowDocumentSizeLimitBytes": 40000}, {}, "at most 30720"),
        ({"rateLimits": {"maxOutboundSyncUpdatesPerSecond": 0}}, {}, "greater than 0"),
        ({"rateLimits": {"maxOutboundSyncUpdatesPerSecond": "5"}}, {"outbound_rate": 5.0}, ""),
    ],
)  # fmt: skip
def test_the_configuration(configuration: dict[str, Any], changed: dict[str, Any], said: str) -> None:
    settings, findings = read_settings(configuration, "t")
    assert settings == Settings()._replace(**changed)
    assert said in " ".join(findings) and bool(findings) == bool(said)


def test_a_bucket_gives_its_rate() -> None:
    bucket = Bucket(2)
    assert [bucket.take(0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(0.5), bucket.take(0.5), bucket.take(10), bucket.take(10), bucket.take(10)] == [
        True, False, True, True, False,
    ]  # fmt: skip
    assert [bucket.reserve(20) for _ in range(4)] == [0, 0, 0.5, 1.0]
