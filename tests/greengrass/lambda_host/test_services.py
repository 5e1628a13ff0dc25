"""greengrasssdk's calls in process: unmodified SDK, our shims, recorded IPC requests."""

from __future__ import annotations

import base64
import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from foreshore.greengrass.lambda_host.calls import NoAnswer
from foreshore.greengrass.lambda_host.parameters import IOT_CORE, PUB_SUB, Route
from foreshore.greengrass.lambda_host.services import Services
from foreshore.greengrass.lambda_host.wire import Disconnected, Refused

SECRET = "arn:aws:secretsmanager:us-east-1:000000000000:secret:password-AbCdEf"


class Recorder:
    """An outbox and a `call` that answer what they are told."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str, bytes, bool]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answer: dict[str, Any] | Exception = {}

    def publish(self, route: Route, topic: str, payload: bytes, wait: bool) -> None:
        if isinstance(self.answer, Exception):
            raise self.answer
        self.published.append((route.type, topic, payload, wait))

    def call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((operation, request))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def invoke(self, function: str, payload: bytes, context: Any, kind: str) -> tuple[bytes, str]:
        self.calls.append((function, {"payload": payload, "context": context, "kind": kind}))
        if isinstance(self.answer, Exception):
            raise self.answer
        return b'"result"', str(self.answer.get("error", ""))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def sdk(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """greengrasssdk imported as inside a host."""
    monkeypatch.setenv("MY_FUNCTION_ARN", "arn:aws:lambda:us-east-1:000000000000:function:me:1")
    loaded = [name for name in sys.modules if name.partition(".")[0] in ("greengrasssdk", "greengrass_common")]
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    shim = importlib.import_module("greengrass_ipc_python_sdk.ipc_client")
    routes = (Route("local/#", PUB_SUB), Route("cloud/#", IOT_CORE), Route("both", PUB_SUB), Route("both", IOT_CORE))
    services = Services(routes, recorder, recorder.call, shim.IPCException, recorder.invoke)
    shim.install(services.invoke)
    yield importlib.import_module("greengrasssdk")
    shim.install(None)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("greengrasssdk", "greengrass_common")]:
        del sys.modules[name]


@pytest.mark.parametrize("payload", [b"x", "x"])
def test_publish_by_route(sdk: Any, recorder: Recorder, payload: bytes | str) -> None:
    client = sdk.client("iot-data")
    client.publish(topic="local/a", payload=payload)
    client.publish(topic="cloud/a", payload=payload, queueFullPolicy="BestEffort")
    client.publish(topic="both", payload=payload, queueFullPolicy="AllOrException")
    assert recorder.published == [
        (PUB_SUB, "local/a", b"x", False),
        (IOT_CORE, "cloud/a", b"x", False),
        (PUB_SUB, "both", b"x", True),
        (IOT_CORE, "both", b"x", True),
    ]


@pytest.mark.parametrize(
    ("topic", "answer", "text"),
    [
        ("nowhere", {}, "no route takes a publish to 'nowhere'"),
        ("local/a", Refused("UnauthorizedError", "no"), "UnauthorizedError: no"),
        ("local/a", Disconnected("gone"), "gone"),
        ("local/a", TimeoutError("too long"), "too long"),
    ],
)
def test_failed_publishes_say_why(sdk: Any, recorder: Recorder, topic: str, answer: Any, text: str) -> None:
    recorder.answer = answer
    with pytest.raises(sdk.Lambda.InvocationException, match=text):
        sdk.client("iot-data").publish(topic=topic, payload=b"")


def test_shadow_calls(sdk: Any, recorder: Recorder) -> None:
    client = sdk.client("iot-data")
    recorder.answer = {"payload": base64.b64encode(b'{"state": {}}').decode()}
    assert client.get_thing_shadow(thingName="t") == {"payload": b'{"state": {}}'}
    client.update_thing_shadow(thingName="t", payload=b'{"state": 1}')
    client.delete_thing_shadow(thingName="t")
    assert recorder.calls == [
        ("GetThingShadow", {"thingName": "t", "shadowName": ""}),
        ("UpdateThingShadow", {"thingName": "t", "shadowName": "", "payload": "eyJzdGF0ZSI6IDF9"}),
        ("DeleteThingShadow", {"thingName": "t", "shadowName": ""}),
    ]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Refused("ResourceNotFoundError", "No shadow found"), 'error code 404 with message "No shadow found"'),
        (Refused("ConflictError", "Version conflict"), "error code 409"),
        (Refused("ServiceError", ""), "error code 501 .*nucleus lite does not have"),
        (Disconnected("closed"), "error code 501 .*aws.greengrass.ShadowManager"),
        (Refused("ServiceError", "disk full"), "error code 500 .*disk full"),
    ],
)
def test_shadow_errors(sdk: Any, recorder: Recorder, answer: Exception, text: str) -> None:
    recorder.answer = answer
    client = sdk.client("iot-data")
    with pytest.raises(sdk.IoTDataPlane.ShadowError, match=text):
        client.get_thing_shadow(thingName="t")


def test_secrets(sdk: Any, recorder: Recorder) -> None:
    client = sdk.client("secretsmanager")
    recorder.answer = {
        "secretId": SECRET,
        "versionId": "v1",
        "versionStage": ["AWSCURRENT"],
        "secretValue": {"secretString": "open sesame"},
    }
    found = client.get_secret_value(SecretId="password", VersionStage="AWSCURRENT")
    assert recorder.calls == [("GetSecretValue", {"secretId": "password", "versionStage": "AWSCURRENT"})]
    assert (found["SecretString"], found["ARN"], found["Name"]) == ("open sesame", SECRET, "password")
    recorder.answer = Refused("ServiceError", "")
    with pytest.raises(sdk.SecretsManager.SecretsManagerError, match="nucleus lite does not have"):
        client.get_secret_value(SecretId="password")


def test_functions_are_invoked_by_name(sdk: Any, recorder: Recorder) -> None:
    client = sdk.client("lambda")
    answer = client.invoke(FunctionName="arn:aws:lambda:us-east-1:1:function:other:2", Payload=b"{}")
    assert (answer["Payload"].read(), answer["FunctionError"]) == (b'"result"', "")
    recorder.answer = {"error": "Handled"}
    answer = client.invoke(FunctionName="arn:aws:lambda:us-east-1:1:function:other", InvocationType="RequestResponse")
    assert (answer["Payload"], answer["FunctionError"]) == (b'"result"', "Handled")
    recorder.answer = NoAnswer("nobody there")
    with pytest.raises(sdk.Lambda.InvocationException, match="nobody there"):
        client.invoke(FunctionName="arn:aws:lambda:us-east-1:1:function:other")
    assert recorder.calls[0] == ("other", {"payload": b"{}", "context": {}, "kind": "RequestResponse"})


def test_without_a_host_calls_fail_clearly() -> None:
    shim = importlib.import_module("greengrass_ipc_python_sdk.ipc_client")
    client = shim.IPCClient()
    with pytest.raises(shim.IPCException, match="no Lambda host is running"):
        client.post_work("arn:aws:lambda:::function:x", b"", b"")
    with pytest.raises(shim.IPCException, match="no result for invocation"):
        client.get_work_result("arn:aws:lambda:::function:x", "1")
    for call in (client.get_work, lambda arn: client.post_work_result(arn, None)):
        with pytest.raises(shim.IPCException, match="Greengrass V1"):
            call("arn")


def test_a_bad_client_context_is_refused(sdk: Any) -> None:
    shim = importlib.import_module("greengrass_ipc_python_sdk.ipc_client")
    with pytest.raises(shim.IPCException, match="not base64 of JSON"):
        shim.IPCClient().post_work("arn:aws:lambda:::function:x", b"", base64.b64encode(b"{"))


@pytest.mark.parametrize(
    ("arn", "fields"),
    [
        ("arn:aws:lambda:us-east-1:123:function:f:3", ("us-east-1", "123", "f", "3")),
        ("arn:aws:lambda:::function:GGRouter", ("", "", "GGRouter", "")),
        ("arn:aws-cn:lambda:cn-north-1:1:function:f", ("cn-north-1", "1", "f", "")),
    ],
)
def test_function_arns(arn: str, fields: tuple[str, ...]) -> None:
    shim = importlib.import_module("greengrass_common.function_arn_fields")
    found = shim.FunctionArnFields(arn)
    assert (found.region, found.account_id, found.name, found.qualifier) == fields
    assert found.to_arn_string() == arn
    assert found.build_function_arn(found.unqualified_arn, found.qualifier) == arn


@pytest.mark.parametrize("arn", ["", "f", "arn:aws:lambda:us-east-1:1:layer:f", "arn:aws:s3:::bucket"])
def test_other_arns_are_refused(arn: str) -> None:
    shim = importlib.import_module("greengrass_common.function_arn_fields")
    with pytest.raises(ValueError, match="Cannot parse"):
        shim.FunctionArnFields(arn)


def test_payload_json(sdk: Any, recorder: Recorder) -> None:
    import io

    sdk.client("iot-data").publish(topic="local/a", payload=io.BytesIO(json.dumps({"a": 1}).encode()))
    assert recorder.published[0][2] == b'{"a": 1}'
