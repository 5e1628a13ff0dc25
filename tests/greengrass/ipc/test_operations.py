"""Every other operation, by the SDK's V2 client or frame by frame: answers, errors, events."""

import asyncio
import json
import time

import pytest

from foreshore.errors import AwsError, UserError
from foreshore.greengrass.components import (
    ComponentNotFound,
    ComponentStatus,
    DeploymentNotFound,
    DeploymentStatus,
    LocalDeploymentRequest,
)
from foreshore.greengrass.ipc import OPERATIONS
from foreshore.seams import split_traceparent

ALL = {"p": {"operations": ["*"], "resources": ["*"]}}


class Lifecycle:
    """Components that remember what they were asked."""

    def __init__(self, context: object) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.known = {
            "c": ComponentStatus("c", "1.0.0", "RUNNING", {"k": 1}),
            "b": ComponentStatus("b", "2.0.0", "BROKEN"),
        }
        self.failure: str | None = None

    async def start(self) -> None:
        self.asked.append(("start",))

    async def stop(self) -> None:
        self.asked.append(("stop",))

    def statuses(self) -> list[ComponentStatus]:
        return list(self.known.values())

    def details(self, name: str) -> ComponentStatus:
        if name not in self.known:
            raise ComponentNotFound(name)
        return self.known[name]

    def report_state(self, name: str, state: str) -> None:
        self.details(name).state = state

    async def restart_component(self, name: str) -> str | None:
        self.details(name)
        self.asked.append(("restart", name))
        return self.failure

    async def stop_component(self, name: str) -> str | None:
        self.details(name)
        self.asked.append(("stop", name))
        return self.failure

    async def pause_component(self, name: str) -> None:
        if self.details(name).state != "RUNNING":
            raise UserError(f"Component {name} is not running")
        self.asked.append(("pause", name))

    async def resume_component(self, name: str) -> None:
        self.details(name)
        self.asked.append(("resume", name))

    async def create_local_deployment(self, request: LocalDeploymentRequest) -> str:
        if request.recipe_directory == "/nope":
            raise UserError("no such folder", code="recipe-directory")
        self.asked.append(("deploy", request))
        return "00000000-0000-4000-8000-000000000001"

    def deployment_status(self, deployment_id: str) -> DeploymentStatus:
        if deployment_id != "00000000-0000-4000-8000-000000000001":
            raise DeploymentNotFound(deployment_id)
        return DeploymentStatus(
            deployment_id,
            "FAILED",
            0,
            "FAILED_ROLLBACK_COMPLETE",
            ["DEPLOYMENT_FAILURE"],
            ["COMPONENT_ERROR"],
            "it broke",
        )

    def deployments(self) -> list[DeploymentStatus]:
        return [
            self.deployment_status("00000000-0000-4000-8000-000000000001"),
            DeploymentStatus("d0", "SUCCEEDED", 1_700_000_000_000),
        ]

    async def cancel_deployment(self, deployment_id: str) -> str:
        self.deployment_status(deployment_id)
        return "cancelled"


def test_the_table_is_the_models() -> None:
    """All 35 operations that awsiotsdk knows, with the shapes of their events."""
    import inspect

    import awsiot.eventstreamrpc as eventstreamrpc
    import awsiot.greengrasscoreipc.model as model

    expected = {}
    for item in vars(model).values():
        if inspect.isclass(item) and issubclass(item, eventstreamrpc.ClientOperation):
            if item is eventstreamrpc.ClientOperation:
                continue
            event = item._response_stream_type()
            expected[item._model_name().partition("#")[2]] = event._model_name().partition("#")[2] if event else ""
    assert {name: operation.event for name, operation in OPERATIONS.items()} == expected
    assert len(expected) == 35


def test_lite_has_its_own_operations() -> None:
    assert sorted(name for name, operation in OPERATIONS.items() if operation.lite) == [
        "CreateLocalDeployment",
        "GetConfiguration",
        "PublishToIoTCore",
        "PublishToTopic",
        "RestartComponent",
        "SubscribeToConfigurationUpdate",
        "SubscribeToIoTCore",
        "SubscribeToTopic",
        "UpdateConfiguration",
        "UpdateState",
        "ValidateAuthorizationToken",
    ]


CLI_TOUR = """
client = GreengrassCoreIPCClientV2()
show(client.list_components())
show(client.get_component_details(component_name="c"))
show(error_of(client.get_component_details, component_name="nope"))
show(client.restart_component(component_name="c"))
show(client.stop_component(component_name="c"))
show(error_of(client.stop_component, component_name="nope"))
show(client.pause_component(component_name="c"))
show(error_of(client.pause_component, component_name="b"))
show(client.resume_component(component_name="c"))
run_with = RunWithInfo(posix_user="u", system_resource_limits=SystemResourceLimits(memory=1))
show(client.create_local_deployment(root_component_versions_to_add={"c": "1.0.0"},
    component_to_configuration={"c": {"MERGE": {"k": None}}}, failure_handling_policy="DO_NOTHING",
    component_to_run_with_info={"c": run_with}))
show(error_of(client.create_local_deployment, recipe_directory_path="/nope"))
show(client.get_local_deployment_status(deployment_id="00000000-0000-4000-8000-000000000001"))
show(error_of(client.get_local_deployment_status, deployment_id="00000000-0000-4000-8000-000000000002"))
show(client.list_local_deployments())
show(client.cancel_local_deployment(deployment_id="00000000-0000-4000-8000-000000000001"))
password = client.create_debug_password()
show([password.username, len(password.password) > 20, password.password_expiration.timestamp() > time.time() + 3600])
"""


def test_the_clis_operations(rig, run) -> None:
    async def scenario() -> None:
        async with rig(components=Lifecycle) as running:
            access = {"aws.greengrass.Cli": ALL, "aws.greengrass.ipc.lifecycle": ALL}
            running.component("c", access)
            shown = iter(await running.sdk("c", CLI_TOUR))
            assert [item["componentName"] for item in next(shown)["components"]] == ["b", "c"]
            assert next(shown)["componentDetails"] == {
                "componentName": "c",
                "version": "1.0.0",
                "state": "RUNNING",
                "configuration": {"k": 1},
            }
            assert next(shown) == ["ResourceNotFoundError", "Component with name nope not found in Greengrass"]
            assert next(shown) == {"restartStatus": "SUCCEEDED"}
            assert next(shown) == {"stopStatus": "SUCCEEDED"}
            assert next(shown) == ["ResourceNotFoundError", "Component with name nope not found in Greengrass"]
            assert next(shown) == {}
            assert next(shown) == ["InvalidArgumentsError", "Component b is not running"]
            assert next(shown) == {}
            assert next(shown) == {"deploymentId": "00000000-0000-4000-8000-000000000001"}
            assert next(shown) == ["InvalidRecipeDirectoryPathError", "no such folder"]
            deployment = next(shown)["deployment"]
            assert deployment["createdOn"] == "01-01-1970 00:00:00 UTC"
            assert deployment["deploymentStatusDetails"]["deploymentFailureCause"] == "it broke"
            assert next(shown)[0] == "ResourceNotFoundError"
            assert len(next(shown)["localDeployments"]) == 2
            assert next(shown) == {"message": "cancelled"}
            assert next(shown) == ["debug", True, True]
            (request,) = [item[1] for item in running.core.lifecycle.asked if item[0] == "deploy"]
            assert request.component_configuration == {"c": {"MERGE": {"k": None}}}
            assert request.failure_policy == "DO_NOTHING"
            assert request.component_run_with["c"]["systemResourceLimits"]["memory"] == 1

    run(scenario())


def test_a_component_needs_a_policy_where_the_cli_needs_none(rig, run) -> None:
    async def scenario() -> None:
        async with rig(components=Lifecycle) as running:
            client, cli = await running.raw("c"), await running.raw("aws.greengrass.Cli")
            for number, name in enumerate(n for n, o in OPERATIONS.items() if o.plugin == "aws.greengrass.Cli"):
                body = {"componentName": "c", "deploymentId": "00000000-0000-4000-8000-000000000001"}
                shape, error = await client.ask(number + 1, name, body)
                assert shape == "UnauthorizedError" and f"aws.greengrass.Cli:aws.greengrass#{name}" in error["message"]
                shape, _ = await cli.ask(number + 1, name, body)
                assert shape == f"{name}Response"

    run(scenario())


class Shadows:
    def __init__(self) -> None:
        self.documents: dict[tuple[str, str | None], bytes] = {}

    async def get(self, thing: str, name: str | None) -> bytes:
        try:
            return self.documents[thing, name]
        except KeyError:
            raise AwsError("ResourceNotFoundException", "No shadow exists", 404) from None

    async def update(self, thing: str, name: str | None, payload: bytes) -> bytes:
        if json.loads(payload).get("version") == 9:
            raise AwsError("VersionConflictException", "Version conflict", 409)
        self.documents[thing, name] = payload
        return payload

    async def delete(self, thing: str, name: str | None) -> bytes:
        return self.documents.pop((thing, name))

    async def list_named(self, thing: str, token: str | None, size: int) -> tuple[list[str], str | None, float]:
        names = sorted(name for owner, name in self.documents if owner == thing and name)
        start = int(token or 0)
        return names[start : start + size], str(start + size) if start + size < len(names) else None, 1.5


SHADOW_TOUR = """
client = GreengrassCoreIPCClientV2()
show(error_of(client.get_thing_shadow, thing_name="t", shadow_name=""))
show(client.update_thing_shadow(thing_name="t", shadow_name="n", payload=b'{"state":{}}'))
show(client.update_thing_shadow(thing_name="t", shadow_name="m", payload=b'{"state":{}}'))
show(client.get_thing_shadow(thing_name="t", shadow_name="n"))
show(error_of(client.update_thing_shadow, thing_name="t", payload=b'{"version":9}'))
show(error_of(client.get_thing_shadow, thing_name="other"))
show(error_of(client.get_thing_shadow, thing_name="bad name"))
page = client.list_named_shadows_for_thing(thing_name="t", page_size=1)
show([page.results, page.next_token, page.timestamp.timestamp()])
page = client.list_named_shadows_for_thing(thing_name="t", page_size=1, next_token=page.next_token)
show([page.results, page.next_token])
show(error_of(client.list_named_shadows_for_thing, thing_name="t", page_size=101))
show(client.delete_thing_shadow(thing_name="t", shadow_name="n"))
"""


def test_shadows(rig, run) -> None:
    async def scenario() -> None:
        async with rig(shadows=Shadows()) as running:
            policy = {"operations": ["*"], "resources": ["$aws/things/t/shadow*", "t"]}
            running.component("c", {"aws.greengrass.ShadowManager": {"p": policy}})
            shown = iter(await running.sdk("c", SHADOW_TOUR))
            assert next(shown) == ["ResourceNotFoundError", "No shadow found"]
            next(shown), next(shown)
            assert next(shown)["payload"] == "eyJzdGF0ZSI6e319"
            assert next(shown) == ["ConflictError", "Version conflict"]
            assert next(shown)[1].endswith("on resource $aws/things/other/shadow")
            assert next(shown)[0] == "InvalidArgumentsError"
            assert next(shown) == [["m"], "1", 1.5]
            assert next(shown) == [["n"], None]
            assert next(shown)[0] == "InvalidArgumentsError"
            assert next(shown)["payload"]

    run(scenario())


SECRET_ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:s-AbCdEf"
SECRET_TOUR = """
client = GreengrassCoreIPCClientV2()
show(client.get_secret_value(secret_id="s", version_stage="AWSCURRENT"))
show(client.get_secret_value(secret_id="binary"))
show(error_of(client.get_secret_value, secret_id="nope"))
show(error_of(client.get_secret_value, secret_id="s", version_id="v", version_stage="w"))
show(error_of(client.get_secret_value, secret_id="forbidden"))
"""


def test_secrets(rig, run) -> None:
    async def fetch(secret_id: str, version: str | None, stage: str | None) -> dict[str, object]:
        if secret_id == "nope":
            raise AwsError("ResourceNotFoundException", "none", 400)
        arn = SECRET_ARN if secret_id == "s" else SECRET_ARN.replace(":s-", f":{secret_id}-")
        value: dict[str, object] = {"SecretBinary": b"\x00"} if secret_id == "binary" else {"SecretString": "hush"}
        return {"ARN": arn, "Name": secret_id, "VersionId": "v", "VersionStages": [stage or "AWSCURRENT"], **value}

    async def scenario() -> None:
        async with rig(fetch_secret=fetch) as running:
            policy = {"operations": ["*"], "resources": [SECRET_ARN, "binary", "nope"]}
            running.component("c", {"aws.greengrass.SecretManager": {"p": policy}})
            shown = await running.sdk("c", SECRET_TOUR)
            assert shown[0] == {
                "secretId": SECRET_ARN,
                "versionId": "v",
                "versionStage": ["AWSCURRENT"],
                "secretValue": {"secretString": "hush"},
            }
            assert shown[1]["secretValue"] == {"secretBinary": "AA=="}
            assert [error[0] for error in shown[2:]] == [
                "ResourceNotFoundError",
                "InvalidArgumentsError",
                "UnauthorizedError",
            ]

    run(scenario())


@pytest.mark.parametrize(
    ("listed", "stage", "found"),
    [
        ([{"arn": SECRET_ARN}], None, True),
        ([{"arn": SECRET_ARN[:-7]}], None, True),
        ([{"arn": SECRET_ARN, "labels": ["blue"]}], "blue", True),
        ([{"arn": SECRET_ARN}], "blue", False),
        ([{"arn": SECRET_ARN + "x"}], None, False),
        ([], None, False),
        ([5], None, False),
    ],
)
def test_a_secret_must_be_among_the_cloud_secrets(rig, run, listed, stage, found) -> None:
    async def fetch(secret_id: str, version: str | None, stage: str | None) -> dict[str, object]:
        return {"ARN": SECRET_ARN, "Name": "s", "VersionId": "v", "SecretString": "hush"}

    async def scenario() -> None:
        async with rig(fetch_secret=fetch) as running:
            running.component("c", {"aws.greengrass.SecretManager": ALL})
            running.core.configuration.merge("aws.greengrass.SecretManager", [], {"cloudSecrets": listed}, 1)
            client = await running.raw("c")
            shape, _ = await client.ask(1, "GetSecretValue", {"secretId": "s", "versionStage": stage})
            assert (shape == "GetSecretValueResponse") is found

    run(scenario())


def test_what_the_core_was_not_given_says_so(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            services = ("SecretManager", "clientdevices.Auth")
            running.component("c", {f"aws.greengrass.{name}": ALL for name in services})
            client = await running.raw("c")
            requests = {
                "GetSecretValue": {"secretId": "s"},
                "VerifyClientDeviceIdentity": {"credential": {"clientDeviceCertificate": "x"}},
            }
            for number, (name, body) in enumerate(requests.items()):
                shape, error = await client.ask(number + 1, name, body)
                assert shape == "ServiceError" and error["message"].startswith("Foreshore does not emulate")

    run(scenario())


def test_component_updates_are_asked_and_answered(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            client = await running.raw("c")
            shape, error = await client.ask(1, "DeferComponentUpdate", {"deploymentId": "d", "recheckAfterMs": 5})
            assert shape == "InvalidArgumentsError" and "not subscribed" in error["message"]
            assert (await client.ask(2, "SubscribeToComponentUpdates", {}))[0] == "SubscribeToComponentUpdatesResponse"
            answers: list[tuple[str, int]] = []
            updates = running.core.updates
            assert updates.announce_pre("d", lambda name, ms: answers.append((name, ms))) == ["c"]
            event = await client.answer()
            assert event == (
                "ComponentUpdatePolicyEvents",
                {"preUpdateEvent": {"deploymentId": "d", "isGgcRestarting": False}},
            )
            shape, _ = await client.ask(3, "DeferComponentUpdate", {"deploymentId": "d", "recheckAfterMs": 5})
            assert shape == "DeferComponentUpdateResponse" and answers == [("c", 5)]
            updates.announce_post("d")
            assert (await client.answer())[1] == {"postUpdateEvent": {"deploymentId": "d"}}
            shape, error = await client.ask(4, "DeferComponentUpdate", {"deploymentId": "d"})
            assert shape == "ServiceError" and "Time limit" in error["message"]
            assert (await client.ask(5, "DeferComponentUpdate", {}))[0] == "InvalidArgumentsError"

    run(scenario())


def test_configuration_validation(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            client = await running.raw("c")
            validations = running.core.validations
            verdicts: list[tuple[str, str]] = []

            def report(status: str, text: str) -> None:
                verdicts.append((status, text))

            assert not validations.ask("c", "d", {"k": 1}, report)
            await client.ask(1, "SubscribeToValidateConfigurationUpdates", {})
            assert validations.ask("c", "d", {"k": None}, report)
            shape, event = await client.answer()
            assert shape == "ValidateConfigurationUpdateEvents"
            assert event["validateConfigurationUpdateEvent"] == {"configuration": {"k": None}, "deploymentId": "d"}
            answer = {"configurationValidityReport": {"status": "REJECTED", "deploymentId": "d", "message": "no"}}
            shape, _ = await client.ask(2, "SendConfigurationValidityReport", answer)
            assert shape == "SendConfigurationValidityReportResponse" and verdicts == [("REJECTED", "no")]
            shape, error = await client.ask(3, "SendConfigurationValidityReport", answer)
            assert shape == "InvalidArgumentsError" and "timed out or was never made" in error["message"]
            client.send(0, 2, 1)
            await client.ask(4, "GetConfiguration", {})
            assert not validations.ask("c", "d", {}, report)

    run(scenario())


METRIC = {"name": "m", "unit": "COUNT", "value": 1}


@pytest.mark.parametrize(
    ("component", "metrics", "shape"),
    [
        ("aws.c", [METRIC], "PutComponentMetricResponse"),
        ("c", [METRIC], "UnauthorizedError"),
        ("aws.c", [], "InvalidArgumentsError"),
        ("aws.c", [{**METRIC, "name": "n" * 33}], "InvalidArgumentsError"),
        ("aws.c", [{**METRIC, "value": -1}], "InvalidArgumentsError"),
        ("aws.c", [{**METRIC, "unit": "PARSECS"}], "InvalidArgumentsError"),
        ("aws.c", [METRIC, {**METRIC, "name": "other"}], "UnauthorizedError"),
    ],
)
def test_metrics(rig, run, component, metrics, shape) -> None:
    async def scenario() -> None:
        async with rig() as running:
            access = {"aws.greengrass.ipc.componentmetric": {"p": {"operations": ["*"], "resources": ["m", "n*"]}}}
            running.component(component, access)
            client = await running.raw(component)
            assert (await client.ask(1, "PutComponentMetric", {"metrics": metrics}))[0] == shape
            written = [line for line in running.logs if line.text.startswith("metric")]
            assert len(written) == (shape == "PutComponentMetricResponse")

    run(scenario())


def test_token_validation(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            other, manager = await running.raw("c"), await running.raw("aws.greengrass.StreamManager")
            good = running.core.tokens.issue("c")
            assert len(good) == 16 and good.isupper() and good.isalpha()
            assert (await other.ask(1, "ValidateAuthorizationToken", {"token": good}))[0] == "UnauthorizedError"
            assert (await manager.ask(1, "ValidateAuthorizationToken", {"token": good}))[1] == {"isValid": True}
            shape, error = await manager.ask(2, "ValidateAuthorizationToken", {"token": "A" * 16})
            assert (shape, error["message"]) == ("InvalidTokenError", "Authentication token not found")

    run(scenario())


def test_policies_are_reloaded_live(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            client = await running.raw("c")
            body = {"topic": "new", "publishMessage": {"binaryMessage": {"message": ""}}}
            assert (await client.ask(1, "PublishToTopic", body))[0] == "UnauthorizedError"
            path = ["accessControl", "aws.greengrass.ipc.pubsub", "p", "resources"]
            running.core.configuration.merge("c", path, ["new"], int(time.time() * 1000))
            assert (await client.ask(2, "PublishToTopic", body))[0] == "PublishToTopicResponse"
            running.core.configuration.merge("c", path, ["bad?"], int(time.time() * 1000) + 1)
            assert (await client.ask(3, "PublishToTopic", body))[0] == "UnauthorizedError"
            assert any("isn't supported as a wildcard" in line.text for line in running.logs)
            running.core.configuration.remove("c")
            assert (await client.ask(4, "PublishToTopic", body))[0] == "UnauthorizedError"

    run(scenario())


TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def test_a_trace_crosses_only_to_those_who_asked(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            plain, traced = await running.raw("c"), await running.raw("c", trace=True)
            for client in (plain, traced):
                await client.ask(1, "SubscribeToTopic", {"topic": "b"})
            publisher = await running.raw("c")
            body = {"topic": "b", "publishMessage": {"binaryMessage": {"message": ""}}}
            await publisher.ask(1, "PublishToTopic", body, traceparent=TRACE)
            headers, _ = await traced.receive()
            assert split_traceparent(headers["traceparent"])[0] == "a" * 32
            headers, _ = await plain.receive()
            assert "traceparent" not in headers
            (span,) = running.spans
            assert (span.trace_id, span.parent_id, span.service) == ("a" * 32, "b" * 16, "greengrass")
            assert span.name == "PublishToTopic b" and span.attributes["subscribers"] == 2
            await publisher.ask(2, "PublishToTopic", body, traceparent="rubbish")
            assert running.spans[1].trace_id != "a" * 32 and not running.spans[1].parent_id

    run(scenario())


@pytest.mark.parametrize(
    ("message", "shape"),
    [
        ({"binaryMessage": {"message": "AA=="}}, "PublishToTopicResponse"),
        ({"jsonMessage": {"message": {}}}, "PublishToTopicResponse"),
        ({}, "InvalidArgumentsError"),
        ({"binaryMessage": {"message": "AA=="}, "jsonMessage": {"message": {}}}, "InvalidArgumentsError"),
        ({"binaryMessage": {"message": "!!"}}, "InvalidArgumentsError"),
        ({"binaryMessage": {}}, "InvalidArgumentsError"),
        ({"jsonMessage": {}}, "InvalidArgumentsError"),
        ("text", "InvalidArgumentsError"),
        (None, "InvalidArgumentsError"),
    ],
)
def test_publish_messages(rig, run, message, shape) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            client = await running.raw("c")
            assert (await client.ask(1, "PublishToTopic", {"topic": "b", "publishMessage": message}))[0] == shape

    run(scenario())


@pytest.mark.parametrize("topic", ["a/+", "a/#", "a/*"])
def test_no_publish_to_a_wildcard(rig, run, topic) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            client = await running.raw("c")
            body = {"topic": topic, "publishMessage": {"binaryMessage": {"message": ""}}}
            shape, error = await client.ask(1, "PublishToTopic", body)
            assert (shape, error["message"]) == (
                "InvalidArgumentsError",
                "Publish topic must not contain a wildcard.",
            )
            assert error["_service"] == "aws.greengrass#GreengrassCoreIPC" and error["_message"] == error["message"]
            assert error["_errorCode"] == shape

    run(scenario())


@pytest.mark.parametrize(
    ("topic", "mode", "own"),
    [
        ("a/x", None, True),
        ("a/+", None, False),
        ("a/#", None, False),
        ("a/+", "RECEIVE_ALL_MESSAGES", True),
        ("a/x", "RECEIVE_MESSAGES_FROM_OTHERS", False),
    ],
)
def test_receive_modes(rig, run, topic, mode, own) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            client = await running.raw("c")
            await client.ask(1, "SubscribeToTopic", {"topic": topic, "receiveMode": mode})
            running.core.publish_local("a/x", b"own", source="c")
            running.core.publish_local("a/x", b"other", source="d")
            _, event = await client.answer()
            assert event["binaryMessage"]["message"] == ("b3du" if own else "b3RoZXI=")

    run(scenario())


def test_the_bridges_side_of_pubsub(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            got: list[object] = []

            def fail(message: object) -> None:
                raise RuntimeError("a bridge's bug")

            running.core.subscribe_local("a/#", fail)
            stop = running.core.subscribe_local("a/#", got.append, source="bridge", others_only=True)
            client = await running.raw("c")
            json_message = {"topic": "a/x", "publishMessage": {"jsonMessage": {"message": {"n": 1}}}}
            assert (await client.ask(1, "PublishToTopic", json_message))[0] == "PublishToTopicResponse"
            running.core.publish_local("a/x", b"mine", source="bridge")
            assert [(m.topic, m.payload, m.source) for m in got] == [("a/x", b'{"n":1}', "c")]
            assert any("a bridge's bug" in line.text for line in running.logs)
            stop()
            await client.ask(2, "PublishToTopic", json_message)
            assert len(got) == 1

    run(scenario())


def test_iot_core_while_the_link_is_away(rig, run) -> None:
    async def scenario() -> None:
        async with rig(connected=False) as running:
            running.component("c")
            client = await running.raw("c")
            for number in range(1, 4):
                body = {"topicName": "cloud/x", "qos": "1", "payload": "AA=="}
                assert (await client.ask(number, "PublishToIoTCore", body))[0] == "PublishToIoTCoreResponse"
            body["qos"] = "0"
            shape, error = await client.ask(4, "PublishToIoTCore", body)
            assert shape == "ServiceError" and "Device is offline. Dropping QoS 0 message." in error["message"]
            client.request(5, "SubscribeToIoTCore", {"topicName": "cloud/x", "qos": "1"})
            shape, _ = await client.ask(6, "GetConfiguration", {})
            assert shape == "GetConfigurationResponse" and running.core.cloud.spooled == 3
            running.link.up(True)
            assert (await client.answer())[0] == "SubscribeToIoTCoreResponse"
            while running.core.cloud.spooled:
                await asyncio.sleep(0)
            assert len(running.link.published) == 3
            running.link.denied.add("cloud/denied")
            shape, error = await client.ask(7, "SubscribeToIoTCore", {"topicName": "cloud/denied", "qos": "1"})
            assert shape == "ServiceError" and error["message"].endswith("NOT_AUTHORIZED")

    run(scenario())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"qos": "1", "payload": "AA=="}, "Topic is required"),
        ({"topicName": "cloud/x", "qos": "1"}, "Payload is required"),
        ({"topicName": "cloud/x", "payload": "AA=="}, "QoS is required"),
        ({"topicName": "cloud/x", "payload": "AA==", "qos": "3"}, "Invalid QoS value: 3"),
        ({"topicName": "cloud/x", "payload": "!", "qos": "1"}, "payload must be base64 text"),
        ({"topicName": "cloud/x", "payload": "AAAA" * 50_000, "qos": "1"}, "maximum message size"),
    ],
)
def test_bad_publishes_to_iot_core(rig, run, body, message) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c")
            client = await running.raw("c")
            shape, error = await client.ask(1, "PublishToIoTCore", body)
            assert shape in ("InvalidArgumentsError", "ServiceError") and message in error["message"]

    run(scenario())


def test_operations_outside_the_model(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            client = await running.raw("c")
            client.request(1, "Nope", {})
            headers, payload = await client.receive()
            assert headers[":message-type"] == 1 and headers[":message-flags"] == 2
            assert "service-model-type" not in headers and json.loads(payload)["operation"] == "aws.greengrass#Nope"
            client.request(2, "GetConfiguration", b"{nope")
            headers, payload = await client.receive()
            assert headers[":content-type"] == "text/plain" and payload == b"InternalServerError"

    run(scenario())


@pytest.mark.parametrize(
    ("request_body", "shape", "message"),
    [
        ({"valueToMerge": {}}, "InvalidArgumentsError", "Timestamp is required"),
        ({"timestamp": 1.0}, "InvalidArgumentsError", "ValueToMerge is required"),
        ({"timestamp": 1.0, "valueToMerge": 5}, "InvalidArgumentsError", "must be a map"),
        ({"timestamp": 1.0, "valueToMerge": {"AccessControl": {}}}, "InvalidArgumentsError", "accessControl"),
        ({"timestamp": 1.0, "valueToMerge": {}, "keyPath": ["accesscontrol", "x"]}, "InvalidArgumentsError", "access"),
        ({"timestamp": 0.0015, "valueToMerge": {"k": 5}}, "FailedUpdateConditionCheckError", "older"),
        ({"timestamp": 99.0, "valueToMerge": {"k": 5}}, "UpdateConfigurationResponse", ""),
        ({"timestamp": 99.0, "valueToMerge": 5, "keyPath": ["k"]}, "UpdateConfigurationResponse", ""),
        ({"timestamp": 0.0, "valueToMerge": 5, "keyPath": ["new", "deep"]}, "UpdateConfigurationResponse", ""),
    ],
)
def test_update_configuration(rig, run, request_body, shape, message) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.core.configuration.merge("c", [], {"k": 1}, 10_000)
            client = await running.raw("c")
            found, answer = await client.ask(1, "UpdateConfiguration", request_body)
            assert found == shape and message in answer.get("message", "")

    run(scenario())


def test_configuration_events(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.core.configuration.merge("c", [], {"m": {"x": 1, "y": [1]}, "_hidden": 1}, 1)
            client, other = await running.raw("c"), await running.raw("d")
            shape, _ = await other.ask(
                1, "SubscribeToConfigurationUpdate", {"componentName": "c", "keyPath": ["m", "x"]}
            )
            assert shape == "SubscribeToConfigurationUpdateResponse"
            shape, _ = await other.ask(2, "SubscribeToConfigurationUpdate", {"componentName": "nope"})
            assert shape == "ResourceNotFoundError"
            merge = {"timestamp": time.time(), "valueToMerge": {"m": {"x": 2, "y": [1]}}}
            await client.ask(1, "UpdateConfiguration", merge)
            assert (await other.answer())[1] == {
                "configurationUpdateEvent": {"componentName": "c", "keyPath": ["m", "x"]}
            }
            assert (await client.ask(2, "GetConfiguration", {}))[1]["value"] == {"m": {"x": 2, "y": [1]}}
            assert (await other.ask(3, "GetConfiguration", {"componentName": "c"}))[1]["componentName"] == "c"

    run(scenario())


def test_update_state(rig, run) -> None:
    async def scenario() -> None:
        async with rig(components=Lifecycle) as running:
            client, stranger = await running.raw("c"), await running.raw("stranger")
            assert (await client.ask(1, "UpdateState", {"state": "ERRORED"}))[0] == "UpdateStateResponse"
            assert running.core.lifecycle.known["c"].state == "ERRORED"
            assert (await client.ask(2, "UpdateState", {"state": "BROKEN"}))[0] == "InvalidArgumentsError"
            shape, error = await stranger.ask(1, "UpdateState", {"state": "RUNNING"})
            assert shape == "ResourceNotFoundError"
            assert (error["resourceType"], error["resourceName"]) == ("Component", "stranger")

    run(scenario())
