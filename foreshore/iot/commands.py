"""AWS IoT Device Management commands: the commands of the `iot` API, their executions, and the device's MQTT topics.

StartCommandExecution publishes `$aws/commands/{things|clients}/<id>/executions/<execution>/request[/json|cbor]` with
the content type, and what is left of the time as the message's expiry; a device reports on
`…/response[/json|cbor]`, answered on `…/response/{accepted|rejected}[/json|cbor]`. `tick` is to be called about once
a second: it times out and clears away. Knows neither roles nor AWS IoT FleetWise.

Sources: AWS IoT developer guide, "AWS IoT Device Management commands"; API references of iot and iot-jobs-data.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any, Protocol

import cbor2
import orjson

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot import command_executions as executions
from foreshore.iot.command_payloads import check_definition, form_of, invalid, kept, payload_of, resolve, restored
from foreshore.iot.listing import tokens
from foreshore.iot.store import Document, Ground, Tags
from foreshore.seams import Publication
from foreshore.shapes.service_model import CallContext, OperationHandler

Json = Any
Params = dict[str, Any]
LINGER_S = 12 * 3600
"""How long a deleted command, unless long deprecated, is pending deletion: the greatest time out of an execution."""

FILTERS = ("$aws/commands/+/+/executions/+/response", "$aws/commands/+/+/executions/+/response/+")
_RESPONSE = re.compile(r"\$aws/commands/(things|clients)/([^/]+)/executions/([^/]+)/response(/json|/cbor)?$")
_TARGET = re.compile(r"(thing|client)/(.+)$")
_NAMESPACE = "AWS-IoT"


class Bus(Protocol):
    """What of the broker commands use."""

    def publish(self, publication: Publication, /) -> None: ...

    def add_listener(self, filter: str, callback: Callable[[Publication], None], /) -> object: ...


class Commands:
    """All commands and executions of an account. `permit(context, action, resource)` asks a device's policies."""

    def __init__(self, ground: Ground, tags: Tags, bus: Bus, permit: Callable[[CallContext, str, str], object]) -> None:
        self._ground = ground
        self._tags = tags
        self._bus = bus
        self._permit = permit
        self.kind = ground.kind("command")
        self._executions = ground.kind("command-execution")
        self._tokens = ground.kind("command-client-token")
        self._deadlines: dict[str, float] = {}
        for execution in self._executions.values():
            self._watch(execution)
        for filter in FILTERS:
            bus.add_listener(filter, self._on_response)

    def operations(self) -> dict[str, OperationHandler]:
        """The control plane's operations."""
        return {
            "CreateCommand": self.create, "GetCommand": self.get, "ListCommands": self.list_all,
            "UpdateCommand": self.change, "DeleteCommand": self.delete, "GetCommandExecution": self.get_execution,
            "ListCommandExecutions": self.list_executions, "DeleteCommandExecution": self.delete_execution,
        }  # fmt: skip

    # Commands

    def _arn(self, name: str) -> str:
        return self._ground.arns.iot(f"command/{name}")

    def _find(self, name: str) -> Document:
        found = self.kind.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Command {name} does not exist.", 404)
        return found

    def create(self, params: Params, context: CallContext) -> Document:
        """CreateCommand."""
        name = params["commandId"]
        if params.get("namespace", _NAMESPACE) != _NAMESPACE:
            raise NotEmulated("commands of AWS IoT FleetWise", "Use the namespace AWS-IoT.")
        if name in self.kind:
            raise AwsError("ConflictException", f"Command {name} already exists.", 409, {"resourceId": name})
        check_definition(params)
        now = self._ground.clock()
        made = {key: value for key, value in params.items() if key != "tags" and value is not None}
        if "payload" in made:
            content = {"content": base64.b64encode(params["payload"]["content"]).decode()}
            made["payload"] = {"contentType": "application/octet-stream", **params["payload"], **content}
        made |= {"namespace": _NAMESPACE, "commandArn": self._arn(name), "createdAt": now, "lastUpdatedAt": now}
        self.kind.put(name, kept({**made, "deprecated": False, "pendingDeletion": False}))
        self._tags.set(self._arn(name), params.get("tags"))
        return {"commandId": name, "commandArn": self._arn(name)}

    def get(self, params: Params, context: CallContext) -> Document:
        """GetCommand."""
        found = restored(self._find(params["commandId"]))
        shown = {name: value for name, value in found.items() if name not in ("deprecatedAt", "deletedAt")}
        if "payload" in shown:
            shown["payload"] = {**shown["payload"], "content": base64.b64decode(shown["payload"]["content"])}
        return shown

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListCommands: those pending deletion too, until they are gone."""
        wanted = params.get("commandParameterName")
        names = (
            "commandArn",
            "commandId",
            "displayName",
            "deprecated",
            "createdAt",
            "lastUpdatedAt",
            "pendingDeletion",
        )
        found = [
            {name: each[name] for name in names if name in each}
            for each in self.kind.values()
            if params.get("namespace") in (None, each["namespace"])
            and wanted in (None, *(parameter["name"] for parameter in each.get("mandatoryParameters", ())))
        ]
        return _page(found, params, "commands", "createdAt", "commandId", 25)

    def change(self, params: Params, context: CallContext) -> Document:
        """UpdateCommand: a deprecated command has to be restored before it can be edited."""
        name = params["commandId"]
        found = self._find(name)
        conflict = {"resourceId": name}
        if found["pendingDeletion"]:
            raise AwsError("ConflictException", f"Command {name} is pending deletion.", 409, conflict)
        deprecated = params.get("deprecated", found["deprecated"])
        given = {key: params[key] for key in ("displayName", "description") if params.get(key) is not None}
        if given and found["deprecated"] and deprecated:
            raise AwsError("ConflictException", f"Command {name} is deprecated.", 409, conflict)
        now = self._ground.clock()
        changed = {**found, **given, "deprecated": deprecated, "lastUpdatedAt": now}
        if deprecated and not found["deprecated"]:
            changed["deprecatedAt"] = now
        self.kind.put(name, changed)
        names = ("commandId", "displayName", "description", "deprecated", "lastUpdatedAt")
        return {key: changed[key] for key in names if key in changed}

    def delete(self, params: Params, context: CallContext) -> Document:
        """DeleteCommand: at once (204) when it has been deprecated for 12 hours, else it is pending (202)."""
        name = params["commandId"]
        found = self.kind.get(name)
        if found is None:
            return {"statusCode": 204}
        now = self._ground.clock()
        if found["deprecated"] and now - found["deprecatedAt"] > LINGER_S:
            self._forget(name)
            return {"statusCode": 204}
        if not found["pendingDeletion"]:
            self.kind.put(name, {**found, "pendingDeletion": True, "deletedAt": now, "lastUpdatedAt": now})
        return {"statusCode": 202}

    def _forget(self, name: str) -> None:
        self.kind.delete(name)
        self._tags.drop(self._arn(name))

    # Executions

    def start(self, params: Params, context: CallContext) -> Document:
        """StartCommandExecution of `iot-jobs-data`."""
        name = _command_id(params["commandArn"])
        found = self._find(name)
        if found["commandArn"] != params["commandArn"]:
            raise invalid(f"{params['commandArn']} is no command of this account and region.")
        devices, device = self._target(params["targetArn"])
        self._permit(context, "iot:StartCommandExecution", f"command/{name}")
        self._permit(context, "iot:StartCommandExecution", f"{devices[:-1]}/{device}")
        timeout = params.get("executionTimeoutSeconds") or executions.DEFAULT_TIMEOUT_S
        if timeout > executions.MAX_TIMEOUT_S:
            raise invalid(f"executionTimeoutSeconds is at most {executions.MAX_TIMEOUT_S}.")
        known = self._known(params)
        if known is not None:
            return {"executionId": known}
        if found["deprecated"] or found["pendingDeletion"]:
            raise invalid(f"Command {name} is {'deprecated' if found['deprecated'] else 'pending deletion'}.")
        command = restored(found)
        values = resolve(command.get("mandatoryParameters") or [], params.get("parameters") or {})
        payload, content_type = payload_of(command, values, timeout)
        now, made = self._ground.clock(), self._ground.new_id()
        execution = executions.created(made, self._arn(name), params["targetArn"], timeout, dict(values) or None, now)
        self._save({**execution, "clientToken": params.get("clientToken")})
        if params.get("clientToken"):
            self._tokens.put(params["clientToken"], {"executionId": made, "request": _fingerprint(params)})
        topic = f"$aws/commands/{devices}/{device}/executions/{made}/request{form_of(content_type)}"
        self._bus.publish(
            Publication(
                topic, payload, qos=1, content_type=content_type, message_expiry_s=timeout,
                traceparent=context.request.header("traceparent") or None,
            )
        )  # fmt: skip
        return {"executionId": made}

    def _known(self, params: Params) -> str | None:
        """The execution that a client token has made already. Raises AwsError ConflictException."""
        found = self._tokens.get(params.get("clientToken") or "")
        if found is None:
            return None
        if found["request"] != _fingerprint(params):
            raise AwsError("ConflictException", "The client token was used with other parameters.", 409)
        return str(found["executionId"])

    def _target(self, arn: str) -> tuple[str, str]:
        """`things` or `clients` and the device's name. Raises AwsError."""
        prefix = self._ground.arns.iot("")
        match = _TARGET.match(arn[len(prefix) :]) if arn.startswith(prefix) else None
        if match is None:
            raise invalid(f"{arn} is no thing and no client of this account and region.")
        if match[1] == "thing" and match[2] not in self._ground.kind("thing"):
            raise AwsError("ResourceNotFoundException", f"Thing {match[2]} does not exist.", 404)
        return f"{match[1]}s", match[2]

    def _save(self, execution: Document) -> None:
        """Keep an execution in a new status, watch its time, tell of it."""
        self._executions.put(execution["executionId"], kept(execution))
        self._watch(execution)
        told = executions.event(execution, int(self._ground.clock() * 1000))
        topic = f"$aws/events/commandExecution/{_command_id(execution['commandArn'])}/{execution['status']}"
        self._bus.publish(Publication(topic, orjson.dumps(told)))

    def _watch(self, execution: Document) -> None:
        due = executions.deadline(execution)
        self._deadlines[execution["executionId"]] = execution["timeToLive"] if due is None else due

    def _execution(self, name: str, target: str) -> Document:
        found = self._executions.get(name)
        if found is None or found["targetArn"] != target:
            raise AwsError("ResourceNotFoundException", f"Command execution {name} does not exist.", 404)
        execution: Document = restored(found)
        return execution

    def get_execution(self, params: Params, context: CallContext) -> Document:
        """GetCommandExecution."""
        found = self._execution(params["executionId"], params["targetArn"])
        return executions.shown(found, with_result=bool(params.get("includeResult")))

    def list_executions(self, params: Params, context: CallContext) -> Document:
        """ListCommandExecutions of one command or one device."""
        command, target = params.get("commandArn"), params.get("targetArn")
        if (command is None) == (target is None):
            raise invalid("Exactly one of commandArn and targetArn is required.")
        started, completed = params.get("startedTimeFilter"), params.get("completedTimeFilter")
        if started is not None and completed is not None:
            raise invalid("Only one of startedTimeFilter and completedTimeFilter is allowed.")
        found = [
            executions.summary(each)
            for each in self._executions.values()
            if command in (None, each["commandArn"])
            and target in (None, each["targetArn"])
            and params.get("status") in (None, each["status"])
            and params.get("namespace") in (None, _NAMESPACE)
            and executions.is_within(each["startedAt"], started)
            and executions.is_within(each.get("completedAt"), completed)
        ]
        by = "startedAt" if completed is None else "completedAt"
        return _page(found, params, "commandExecutions", by, "executionId", 100)

    def delete_execution(self, params: Params, context: CallContext) -> Document:
        """DeleteCommandExecution: it has to be in a terminal status; none is fine."""
        name = params["executionId"]
        found = self._executions.get(name)
        if found is not None and found["targetArn"] == params["targetArn"]:
            if not found["isTerminal"]:
                text = f"Command execution {name} is not in a terminal status."
                raise AwsError("ConflictException", text, 409, {"resourceId": name})
            self._drop(name)
        return {}

    def _drop(self, name: str) -> None:
        token = (self._executions.get(name) or {}).get("clientToken")
        if token:
            self._tokens.delete(token)
        self._executions.delete(name)
        self._deadlines.pop(name, None)

    def tick(self) -> None:
        """Time out executions, and remove those and commands whose time is over."""
        now = self._ground.clock()
        for name in [name for name, due in self._deadlines.items() if due <= now]:
            execution = self._executions.get(name)
            if execution is None or execution["timeToLive"] <= now:
                self._drop(name)
            else:
                self._save(executions.timed_out(restored(execution), now))
        for command in self.kind.values():
            if command["pendingDeletion"] and now - command["deletedAt"] > LINGER_S:
                self._forget(command["commandId"])

    # The device

    def _on_response(self, publication: Publication) -> None:
        """UpdateCommandExecution."""
        match = _RESPONSE.match(publication.topic)
        if match is None:
            return
        devices, device, name, form = match[1], match[2], match[3], match[4] or ""
        target = self._ground.arns.iot(f"{devices[:-1]}/{device}")
        answer: Document = {"executionId": name}
        outcome = "accepted"
        try:
            execution = self._execution(name, target)
            self._save(executions.update(execution, _parsed(publication.payload, form), self._ground.clock()))
        except AwsError as error:
            outcome = "rejected"
            answer = {"error": error.code.removesuffix("Exception"), "errorMessage": error.message, **answer}
        payload = cbor2.dumps(answer) if form == "/cbor" else orjson.dumps(answer)
        topic = f"{publication.topic.removesuffix(form)}/{outcome}{form}"
        self._bus.publish(Publication(topic, payload, qos=1, traceparent=publication.traceparent))


class CommandsData:
    """What of `iot-jobs-data` is of commands."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {"StartCommandExecution": self._commands.start}


def _command_id(arn: str) -> str:
    return arn.rpartition("/")[2]


def _fingerprint(params: Params) -> Json:
    return kept({key: value for key, value in params.items() if key != "clientToken"})


def _page(found: list[Document], params: Params, name: str, by: str, unique: str, default: int) -> Document:
    """A page of documents by a time, the newest first unless asked otherwise."""
    down = params.get("sortOrder", "DESCENDING") == "DESCENDING"

    def key(each: Document) -> str:
        return f"{each.get(by) or 0:020.6f}/{each[unique]}"

    ordered = sorted(found, key=key, reverse=down)
    return tokens(ordered, params, name, key=key, default=default, reverse=down, code="ValidationException")


def _parsed(payload: bytes, form: str) -> Document:
    """A device's report. Raises AwsError InvalidJson or InvalidRequestException."""
    try:
        request = cbor2.loads(payload) if form == "/cbor" else orjson.loads(payload)
    except (cbor2.CBORError, ValueError, EOFError, TypeError, RecursionError) as error:
        raise AwsError("InvalidJson", "The contents of the request could not be read.", 400) from error
    if not isinstance(request, dict):
        raise AwsError("InvalidRequestException", "The request is not an object.", 400)
    return request
