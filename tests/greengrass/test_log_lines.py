"""Log lines as the nucleus writes them, and the settings of the nucleus that change them."""

from __future__ import annotations

import json

import pytest

from foreshore.greengrass.log_lines import (
    LogLineParts,
    LogSettings,
    command_text,
    context_text,
    format_line,
    read_log_settings,
)

STDOUT = {"serviceName": "a.B", "currentState": "RUNNING", "scriptName": "services.a.B.lifecycle.Run.Script"}


def line(event: str, message: str, contexts: dict[str, object], kind: str = "TEXT", ms: int = 190) -> str:
    time_ns = 1659786453000123456 + ms * 1_000_000
    return format_line(LogLineParts(time_ns, "INFO", "Copier", "a.B", event, message, contexts), kind)


def test_a_line_as_the_developer_guide_shows_it() -> None:
    assert line("stdout", "hello", STDOUT) == (
        "2022-08-06T11:47:33.190Z [INFO] (Copier) a.B: stdout. hello. "
        "{scriptName=services.a.B.lifecycle.Run.Script, serviceName=a.B, currentState=RUNNING}\n"
    )


# (event, message, contexts, what follows the logger's name)
TEXTS = [
    ("service-set-state", "", {"newState": "RUNNING"}, "service-set-state. {newState=RUNNING}"),
    ("", "Run script exited", {"exitCode": 0}, "Run script exited. {exitCode=0}"),
    ("stdout", "", {}, "stdout. {}"),
    ("", "", {}, "{}"),
]


@pytest.mark.parametrize(("event", "message", "contexts", "text"), TEXTS)
def test_what_is_empty_is_left_out(event: str, message: str, contexts: dict[str, object], text: str) -> None:
    assert line(event, message, contexts).partition("a.B: ")[2] == text + "\n"


def test_milliseconds_of_zero_are_left_out_as_java_does() -> None:
    assert line("", "x", {}, ms=0).startswith("2022-08-06T11:47:33Z [INFO]")


# Orders seen in the developer guide's own examples.
ORDERS = [
    (("serviceName", "currentState", "exitCode"), "exitCode serviceName currentState"),
    (("serviceName", "currentState", "scriptName"), "scriptName serviceName currentState"),
    (("command", "serviceName", "scriptName", "currentState"), "scriptName serviceName currentState command"),
]


@pytest.mark.parametrize(("keys", "order"), ORDERS)
def test_contexts_come_in_the_order_of_a_java_hash_map(keys: tuple[str, ...], order: str) -> None:
    text = context_text(dict.fromkeys(keys, 1))
    assert text == "{" + ", ".join(f"{key}=1" for key in order.split()) + "}"


def test_json() -> None:
    text = line("stdout", "hello", STDOUT, "JSON")
    assert json.loads(text) == {
        "thread": "Copier",
        "level": "INFO",
        "eventType": "stdout",
        "message": "hello",
        "contexts": {key: str(value) for key, value in STDOUT.items()},
        "loggerName": "a.B",
        "timestamp": 1659786453190,
        "cause": None,
    }
    assert list(json.loads(text)) == [
        "thread",
        "level",
        "eventType",
        "message",
        "contexts",
        "loggerName",
        "timestamp",
        "cause",
    ]
    assert json.loads(line("", "x", {}, "JSON"))["eventType"] is None


COMMANDS = [
    ("echo hi", '["echo hi"]'),
    ('a "b"\n\tc', '["a \\u0022b\\u0022\\n\\tc"]'),
    ("x" * 81, '["' + "x" * 80 + '..."]'),
]


@pytest.mark.parametrize(("script", "text"), COMMANDS)
def test_commands(script: str, text: str) -> None:
    assert command_text(script) == text


SETTINGS = [
    ({}, LogSettings(), []),
    (None, LogSettings(), []),
    ({"level": "WARN", "format": "json"}, LogSettings("WARN", "JSON"), []),
    ({"Level": "debug", "fileSizeKB": "5", "totalLogsSizeKB": 50}, LogSettings("DEBUG", "TEXT", 5120, 51200), []),
    ({"level": "LOUD"}, LogSettings(), ["logging.level 'LOUD' is not taken; it stays INFO"]),
    ({"fileSizeKB": -1}, LogSettings(), ["logging.fileSizeKB -1 is not taken; it stays 1024"]),
    ({"outputType": "FILE"}, LogSettings(), []),
    ({"outputType": "CONSOLE"}, LogSettings(), ["logging.outputType has no effect here"]),
    ({"outputDirectory": "/x"}, LogSettings(), ["logging.outputDirectory has no effect here"]),
]


@pytest.mark.parametrize(("logging", "settings", "wrong"), SETTINGS)
def test_settings(logging: object, settings: LogSettings, wrong: list[str]) -> None:
    found, told = read_log_settings(logging)
    assert found == settings
    assert len(told) == len(wrong) and all(each.startswith(start) for each, start in zip(told, wrong, strict=True))


def test_levels() -> None:
    assert LogSettings().takes("INFO") and LogSettings().takes("ERROR") and not LogSettings().takes("DEBUG")
