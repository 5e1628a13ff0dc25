"""What a handler asks of Greengrass through greengrasssdk, mapped to plain IPC.

| greengrasssdk | system function | here |
|---|---|---|
| iot-data publish | GGRouter | PublishToTopic or PublishToIoTCore, by the configured routes |
| iot-data shadow calls | GGShadowService | Get, Update, DeleteThingShadow, where the nucleus has them |
| secretsmanager | GGSecretManager | GetSecretValue, where the nucleus has it |
| lambda invoke | any other function | the component of that name, over local pub/sub (`calls`) |

A publish is sent without waiting for its confirmation; the outbox bounds how many are unconfirmed. With
`queueFullPolicy="AllOrException"` it waits and raises what the nucleus answered.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .calls import NoAnswer
from .parameters import Route, find_routes
from .wire import Disconnected, Refused

_SHADOW = re.compile(r"^\$aws/things/(?P<thing>[^/]+)/shadow(/name/(?P<name>[^/]+))?/(?P<verb>get|update|delete)$")
_VERBS = {"get": "GetThingShadow", "update": "UpdateThingShadow", "delete": "DeleteThingShadow"}
_HTTP_STATUS = {
    "ResourceNotFoundError": 404,
    "UnauthorizedError": 403,
    "InvalidArgumentsError": 400,
    "ConflictError": 409,
}
ABSENT = {
    "shadow": "shadows need the aws.greengrass.ShadowManager component, which nucleus lite does not have",
    "secret": "secrets need the aws.greengrass.SecretManager component, which nucleus lite does not have",
}

Call = Callable[[str, dict[str, Any]], dict[str, Any]]
InvokeFunction = Callable[[str, bytes, Mapping[str, Any], str], "tuple[bytes, str]"]


class Outbox(Protocol):
    """Sends by a route. With `wait`, returns when the nucleus confirmed; raises Refused, Disconnected, TimeoutError."""

    def publish(self, route: Route, topic: str, payload: bytes, wait: bool) -> None: ...


class CallFailed(Exception):
    """What greengrasssdk gets to see; its text is the whole explanation."""


class Services:
    """The backend of `greengrass_ipc_python_sdk.ipc_client`. `invoke_function` is `calls.Calls.invoke`."""

    def __init__(
        self,
        routes: tuple[Route, ...],
        outbox: Outbox,
        call: Call,
        failure: type[Exception],
        invoke_function: InvokeFunction,
    ) -> None:
        self._invoke_function = invoke_function
        self._routes = routes
        self._outbox = outbox
        self._call = call
        self._failure = failure
        self._found: dict[str, list[Route]] = {}

    def invoke(
        self, function_arn: str, payload: bytes, context: Mapping[str, Any], invocation_type: str
    ) -> tuple[bytes, str]:
        """Do what an invocation of a system function means. Raises the shim's IPCException."""
        name = function_arn.split(":")[6:7]
        custom = context.get("custom") or {}
        try:
            match name:
                case ["GGRouter"]:
                    self._publish(str(custom.get("subject", "")), payload, str(custom.get("queueFullPolicy", "")))
                    return b"", ""
                case ["GGShadowService"]:
                    return self._shadow(str(custom.get("subject", "")), payload), ""
                case ["GGSecretManager"]:
                    return self._secret(json.loads(payload)), ""
                case [other] if other:
                    return self._invoke_function(other, payload, context, invocation_type)
            raise CallFailed(f"not a function's ARN: {function_arn}")
        except (CallFailed, NoAnswer, Refused, Disconnected, TimeoutError) as error:
            raise self._failure(str(error)) from error

    def _publish(self, topic: str, payload: bytes, policy: str) -> None:
        found = self._found.get(topic)
        if found is None:
            found = find_routes(self._routes, topic)
            if len(self._found) < 10_000:
                self._found[topic] = found
        if not found:
            raise CallFailed(
                f"no route takes a publish to {topic!r}: add one to the component's configuration, under `routes`"
            )
        for route in found:
            self._outbox.publish(route, topic, payload, policy == "AllOrError")

    def _shadow(self, subject: str, payload: bytes) -> bytes:
        match = _SHADOW.match(subject)
        if match is None:
            raise CallFailed(f"not a shadow operation: {subject}")
        request: dict[str, Any] = {"thingName": match["thing"], "shadowName": match["name"] or ""}
        if match["verb"] == "update":
            request["payload"] = base64.b64encode(payload).decode()
        try:
            answer = self._call(_VERBS[match["verb"]], request)
        except (Refused, Disconnected) as error:
            return json.dumps(_shadow_error(error)).encode()
        return base64.b64decode(answer.get("payload") or "")

    def _secret(self, request: Mapping[str, Any]) -> bytes:
        wanted = {"secretId": request["SecretId"]}
        if request.get("VersionStage"):
            wanted["versionStage"] = request["VersionStage"]
        try:
            answer = self._call("GetSecretValue", wanted)
        except (Refused, Disconnected) as error:
            status, message = _status_and_text(error, "secret")
            return json.dumps({"Status": status, "Message": message}).encode()
        return json.dumps(_secret_of(answer)).encode()


def _shadow_error(error: Exception) -> dict[str, Any]:
    code, message = _status_and_text(error, "shadow")
    return {"code": code, "message": message}


def _status_and_text(error: Exception, what: str) -> tuple[int, str]:
    """Lite answers unknown operations with ServiceError without text; classic closes the stream or names itself."""
    if isinstance(error, Refused) and error.code in _HTTP_STATUS:
        return _HTTP_STATUS[error.code], error.message or error.code
    text = error.message if isinstance(error, Refused) else ""
    return 501 if not text or "not supported" in text else 500, f"{text or 'the nucleus refused'} ({ABSENT[what]})"


def _secret_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """GetSecretValueResponse as the Greengrass V1 secret manager spelled it. It has no creation date: 0."""
    value = answer.get("secretValue") or {}
    found: dict[str, Any] = {
        "ARN": answer.get("secretId"),
        "Name": _secret_name(str(answer.get("secretId") or "")),
        "VersionId": answer.get("versionId"),
        "VersionStages": answer.get("versionStage") or [],
        "CreatedDate": 0,
    }
    if value.get("secretString") is not None:
        found["SecretString"] = value["secretString"]
    if value.get("secretBinary") is not None:
        found["SecretBinary"] = value["secretBinary"]
    return found


def _secret_name(secret_id: str) -> str:
    """The name inside an ARN, without the six random characters that Secrets Manager appends."""
    if not secret_id.startswith("arn:"):
        return secret_id
    return re.sub(r"-[A-Za-z0-9]{6}$", "", secret_id.rpartition(":")[2])
