"""Suite definitions: AWS's `rootGroup` JSON to a list of tests, and the suite that is run when none is given. Pure.

Source: AWS IoT developer guide, "Device Advisor workflow" and "Device Advisor test cases"; API reference,
SuiteDefinitionConfiguration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import orjson

from foreshore.errors import AwsError, NotEmulated

DEFAULT_TIMEOUT_S = 300.0
"""EXECUTION_TIMEOUT of most test cases: five minutes."""

DEFAULT_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "TLS",
        (
            "TLS_Connect",
            "TLS_Support_AWS_IoT_Cipher_Suites",
            "TLS_Large_Size_Server_Cert",
            "TLS_Unsecure_Server_Cert",
            "TLS_Incorrect_Subject_Name_Server_Cert",
            "TLS_Expired_Server_Cert",
        ),
    ),
    (
        "MQTT",
        (
            "MQTT_Connect",
            "MQTT_Connect_Exponential_Backoff_Retries",
            "MQTT_Reconnect_Backoff_Retries_On_Server_Disconnect",
            "MQTT_Publish",
            "MQTT_Subscribe",
            "MQTT_No_Ack_PingResp",
        ),
    ),
    ("Permissions", ("Security_Device_Policies",)),
)


class Test(NamedTuple):
    """One test of a suite: `test_id` names it within the suite, `case` is AWS's test case id."""

    test_id: str
    name: str
    case: str
    configuration: dict[str, Any]
    timeout_s: float


class Group(NamedTuple):
    """Tests that belong together."""

    group_id: str
    name: str
    tests: list[Test]


def _invalid(why: str) -> AwsError:
    return AwsError("ValidationException", why, 400)


def default_root_group() -> str:
    """The suite that asks nothing of the device but to connect, publish and subscribe, as a `rootGroup`."""
    groups = [
        {
            "name": name,
            "configuration": {},
            "tests": [{"name": case, "configuration": {}, "test": {"id": case, "version": "0.0.0"}} for case in cases],
        }
        for name, cases in DEFAULT_GROUPS
    ]
    return orjson.dumps({"configuration": {}, "tests": groups}).decode()


def with_ids(root_group: str, new_id: Callable[[], str]) -> str:
    """A `rootGroup` whose groups and tests all have an `id`, as AWS keeps it. Raises AwsError ValidationException."""
    root = _root(root_group)
    for group in root["tests"]:
        group.setdefault("id", new_id())
        for test in group["tests"]:
            test.setdefault("id", new_id())
    return orjson.dumps(root).decode()


def _root(text: str) -> dict[str, Any]:
    try:
        root = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"rootGroup is not JSON: {error}") from None
    groups = root.get("tests") if isinstance(root, dict) else None
    if not isinstance(groups, list) or not groups:
        raise _invalid("rootGroup must have a list of test groups, `tests`")
    for group in groups:
        tests = group.get("tests") if isinstance(group, dict) else None
        if not isinstance(tests, list) or not tests:
            raise _invalid("every test group must have a list of `tests`")
        for test in tests:
            if not isinstance(test, dict) or not isinstance(test.get("test"), dict) or "id" not in test["test"]:
                raise _invalid('every test must name its test case: {"test": {"id": …, "version": …}}')
    found: dict[str, Any] = root
    return found


def read(root_group: str, known: Collection[str]) -> list[Group]:
    """The groups of a `rootGroup`. A group's configuration holds for its tests, the root's for all.

    Raises AwsError ValidationException for a malformed suite, NotEmulated for a test case that is not in `known`.
    """
    root = _root(root_group)
    groups = []
    for number, group in enumerate(root["tests"], 1):
        common = {**_configuration(root), **_configuration(group)}
        tests = []
        for place, one in enumerate(group["tests"], 1):
            case = str(one["test"]["id"])
            if case.lower() not in {name.lower() for name in known}:
                raise NotEmulated(f"the Device Advisor test case {case}")
            case = next(name for name in known if name.lower() == case.lower())
            configuration = {**common, **_configuration(one)}
            test_id = str(one.get("id", f"{number}.{place}"))
            name = str(one.get("name", case))
            tests.append(Test(test_id, name, case, configuration, _timeout(configuration, case)))
        groups.append(Group(str(group.get("id", number)), str(group.get("name", f"Group {number}")), tests))
    return groups


def _configuration(part: dict[str, Any]) -> dict[str, Any]:
    found = part.get("configuration") or {}
    if not isinstance(found, dict):
        raise _invalid("configuration must be an object")
    return found


def _timeout(configuration: dict[str, Any], case: str) -> float:
    """EXECUTION_TIMEOUT in seconds; text or number, as AWS's own examples have both."""
    given = configuration.get("EXECUTION_TIMEOUT", 60 if case == "Security_Device_Policies" else DEFAULT_TIMEOUT_S)
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        raise _invalid(f"EXECUTION_TIMEOUT must be a number of seconds, not {given!r}") from None
    if not 0 < seconds <= 86_400:
        raise _invalid("EXECUTION_TIMEOUT must lie between 1 and 86400 seconds")
    return seconds
