"""The job templates that AWS manages: their parameters and documents, as data. Pure.

Source: AWS IoT developer guide, "AWS managed templates" (remote actions and job documents).
"""

from __future__ import annotations

from typing import Any

import orjson

Document = dict[str, Any]
VERSION = "1.0"


def _parameter(key: str, description: str, example: str, regex: str = "(.*?)", *, optional: bool = False) -> Document:
    return {"key": key, "description": description, "regex": regex, "example": example, "optional": optional}


_USER = _parameter(
    "runAsUser", "The user to run the handler as. Without it, that of the device client.", "user1", "(.){0,256}",
    optional=True,
)  # fmt: skip
_PATH = _parameter(
    "pathToHandler", "The handler's folder on the device. Without it, the device client's working folder.",
    "/path/to/handler/script", "(.){0,4096}", optional=True,
)  # fmt: skip
_PACKAGES = _parameter("packages", "The applications, separated by spaces.", "application1 application2")
_SERVICES = _parameter("services", "The services, separated by spaces.", "service1 service2")
_ACTIONS: list[tuple[str, str, str, list[Document]]] = [
    ("Download-File", "downloading a file", "download-file.sh", [
        _parameter("downloadUrl", "The URL of the file.", "http://www.example.com/index.html"),
        _parameter("filePath", "The path on the device to write the file to.", "/path/to/file"),
    ]),
    ("Install-Application", "installing one or more applications", "install-packages.sh", [_PACKAGES]),
    ("Reboot", "rebooting the device", "reboot.sh", []),
    ("Remove-Application", "uninstalling one or more applications", "remove-packages.sh", [_PACKAGES]),
    ("Restart-Application", "restarting one or more system services", "restart-services.sh", [_SERVICES]),
    ("Start-Application", "starting one or more system services", "start-services.sh", [_SERVICES]),
    ("Stop-Application", "stopping one or more system services", "stop-services.sh", [_SERVICES]),
]  # fmt: skip


def _value_of(name: str) -> str:
    return "${aws:iot:parameter:" + name + "}"


def _template(name: str, doing: str, action: Document, parameters: list[Document]) -> Document:
    step = {"action": {"name": name, **action, "runAsUser": _value_of("runAsUser")}}
    return {
        "templateName": f"AWS-{name}",
        "description": f"A managed job template for {doing}.",
        "templateVersion": VERSION,
        "environments": ["LINUX"],
        "documentParameters": parameters,
        "document": orjson.dumps({"version": "1.0", "steps": [step]}).decode(),
    }


def _handler(name: str, doing: str, handler: str, parameters: list[Document]) -> Document:
    arguments = {"args": [_value_of(each["key"]) for each in parameters]} if parameters else {}
    given = {"handler": handler, **arguments, "path": _value_of("pathToHandler")}
    return _template(name, doing, {"type": "runHandler", "input": given}, [*parameters, _USER, _PATH])


def _command() -> Document:
    command = _parameter("command", "The command, its parts separated by commas.", "echo,hello world")
    action = {"type": "runCommand", "input": {"command": _value_of("command")}}
    return _template("Run-Command", "running a shell command", action, [command, _USER])


TEMPLATES: dict[str, Document] = {
    each["templateName"]: each for each in [*(_handler(*action) for action in _ACTIONS), _command()]
}
