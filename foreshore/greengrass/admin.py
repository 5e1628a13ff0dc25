"""Shell: what `foreshore component` and the console ask of a core's components, over HTTP.

Paths below `/_foreshore/greengrass/<thing>/`:

    GET  components                             every component
    GET  components/<name>                      one, with its configuration, and the last lines of one in trouble
    GET  configuration/<name>                   its configuration alone
    POST components/<name>/{restart,stop,pause,resume}
    POST components/<name>/configuration        {"MERGE": {…}, "RESET": […]}: a local deployment of that alone
    GET  components/<name>/logs?lines=&offset=  the end of its log, or what came after an offset (bytes)
    GET  deployments, deployments/<id>          status; `?wait=1` answers when it is over
    POST deployments                            {"recipeDir", "artifactDir", "add", "remove", "config", "project", …}
    POST deployments/<id>/cancel

Answers are JSON; errors are {"error": {"code", "message", "where", "mend"}}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import orjson

from foreshore.errors import AwsError, UserError
from foreshore.greengrass.components import ComponentNotFound, ComponentStatus, DeploymentNotFound, DeploymentStatus
from foreshore.greengrass.lifecycle import State
from foreshore.greengrass.supervisor import Supervisor
from foreshore.http import Request, Response

DEFAULT_LINES = 100
_ACTIONS = ("restart", "stop", "pause", "resume")


async def answer(supervisor: Supervisor, request: Request) -> Response:
    """Answer one request; its path is what follows the thing's name, or the whole."""
    path = request.path.strip("/").split("/")
    if path[:2] == ["_foreshore", "greengrass"]:
        path = path[3:]
    if request.method != "GET" and not request.header("content-type").startswith("application/json"):
        # A web page elsewhere can POST here without asking, but not with this type (Fetch standard, CORS).
        return _error(415, "content-type", "send Content-Type: application/json")
    try:
        return await _route(supervisor, request.method, path, dict(request.query), request.body)
    except ComponentNotFound as error:
        return _error(404, "component-not-found", f"there is no component {error} on {supervisor.thing}")
    except DeploymentNotFound as error:
        return _error(404, "deployment-not-found", f"there is no deployment {error} on {supervisor.thing}")
    except UserError as error:
        return _error(400, error.code, error.what, error.where, error.mend)
    except AwsError as error:
        return _error(error.status, error.code, error.message)


async def _route(
    supervisor: Supervisor, method: str, path: list[str], query: Mapping[str, str], body: bytes
) -> Response:
    match method, path:
        case "GET", ["components"]:
            return _json([_summary(supervisor, each) for each in supervisor.statuses()])
        case "GET", ["components", name]:
            details = supervisor.details(name)
            return _json(
                {**_summary(supervisor, details), "configuration": details.configuration, **_why(supervisor, name)}
            )
        case "GET", ["configuration", name]:
            return _json(supervisor.details(name).configuration)
        case "POST", ["components", name, action] if action in _ACTIONS:
            return await _act(supervisor, name, action)
        case "POST", ["components", name, "configuration"]:
            supervisor.details(name)
            identifier = await supervisor.deploy_local(None, None, {}, [], {name: _mapping(body)})
            return _json(_status(await supervisor.wait(identifier)))
        case "GET", ["components", name, "logs"]:
            return _logs(supervisor, name, query)
        case "GET", ["deployments"]:
            return _json([_status(each) for each in supervisor.deployments()])
        case "GET", ["deployments", identifier]:
            if query.get("wait"):
                await supervisor.wait(identifier)
            return _json(_status(supervisor.deployment_status(identifier)))
        case "POST", ["deployments"]:
            return await _deploy(supervisor, _mapping(body), bool(query.get("wait")))
        case "POST", ["deployments", identifier, "cancel"]:
            return _json({"message": await supervisor.cancel_deployment(identifier)})
    return _error(404, "no-such-path", f"{method} /{'/'.join(path)} is no path of a core's administration")


async def _act(supervisor: Supervisor, name: str, action: str) -> Response:
    refused: str | None = None
    if action == "restart":
        refused = await supervisor.restart_component(name)
    elif action == "stop":
        refused = await supervisor.stop_component(name)
    elif action == "pause":
        await supervisor.pause_component(name)
    else:
        await supervisor.resume_component(name)
    if refused:
        return _error(409, "refused", refused)
    return _json(_summary(supervisor, supervisor.details(name)))


async def _deploy(supervisor: Supervisor, wish: Mapping[str, object], wait: bool) -> Response:
    project = wish.get("project")
    if isinstance(project, str):
        identifier = await supervisor.deploy_project(Path(project))
    else:
        identifier = await supervisor.deploy_local(
            _path(wish.get("recipeDir")),
            _path(wish.get("artifactDir")),
            {str(name): str(version) for name, version in _part(wish, "add").items()},
            _names(wish.get("remove")),
            {name: _is_map(name, value) for name, value in _part(wish, "config").items()},
            str(wish.get("failurePolicy") or "ROLLBACK"),
        )
    if wait:
        await supervisor.wait(identifier)
    return _json(_status(supervisor.deployment_status(identifier)))


def _logs(supervisor: Supervisor, name: str, query: Mapping[str, str]) -> Response:
    if name != "greengrass":
        supervisor.details(name)
    file = supervisor.root / "logs" / f"{name}.log"
    text = file.read_bytes() if file.exists() else b""
    size = len(text)
    if "offset" in query:
        offset = _number(query["offset"])
        text = text[offset:] if offset <= size else text
    else:
        lines = _number(query.get("lines", str(DEFAULT_LINES)))
        text = b"".join(text.splitlines(keepends=True)[-lines:]) if lines else b""
    headers = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"X-Log-Offset", str(size).encode())]
    return Response(200, headers, text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{text!r} is no number", code="bad-request", mend="write a whole number")
    return int(text)


def _mapping(body: bytes) -> Mapping[str, object]:
    try:
        value = orjson.loads(body or b"{}")
    except ValueError as error:
        raise UserError(f"the body is not JSON: {error}", code="bad-request") from None
    return _is_map("the body", value)


def _is_map(what: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise UserError(f"{what} must be a JSON object", code="bad-request", mend="write {…}")
    return value


def _part(wish: Mapping[str, object], key: str) -> Mapping[str, object]:
    return _is_map(key, wish.get(key) or {})


def _names(value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise UserError("remove must be a list of component names", code="bad-request")
    return [str(name) for name in value]


def _path(value: object) -> Path | None:
    return Path(value) if isinstance(value, str) and value else None


def _summary(supervisor: Supervisor, status: ComponentStatus) -> dict[str, object]:
    runner = supervisor.processes.runners.get(status.name)
    pids = [child.pid for child in runner.children] if runner else []
    return {"name": status.name, "version": status.version, "state": status.state, "pids": pids}


def _why(supervisor: Supervisor, name: str) -> dict[str, object]:
    """Why a component is in its state, and for one in trouble the last lines that it wrote."""
    runner = supervisor.processes.runners.get(name)
    if runner is None:
        return {"reason": "", "lastLines": []}
    trouble = runner.machine.state in (State.ERRORED, State.BROKEN)
    return {"reason": runner.machine.status_reason, "lastLines": list(runner.log.tail) if trouble else []}


def _status(status: DeploymentStatus) -> dict[str, object]:
    return asdict(status)


def _json(value: object, status: int = 200) -> Response:
    return Response(status, [(b"Content-Type", b"application/json")], orjson.dumps(value))


def _error(status: int, code: str, message: str, where: str = "", mend: str = "") -> Response:
    return _json({"error": {"code": code, "message": message, "where": where, "mend": mend}}, status)
