"""A rule as the API describes it (`TopicRulePayload`): checked, its SQL and templates compiled. Pure.

Sources: botocore's model of CreateTopicRule; developer guide, "Creating an AWS IoT rule" and each action's page.
"""

from __future__ import annotations

import json
import re
from typing import Any

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.mqtt.topics import matches
from foreshore.iot.rules.actions.registry import ACTIONS, Action
from foreshore.iot.rules.actions.templates import Parameters, unescape_topic
from foreshore.iot.rules.problems import SqlParseError
from foreshore.iot.rules.rule import Rule, compile

MAX_ACTIONS = 10
MAX_PAYLOAD = 128 * 1024
_NAME = re.compile(r"[a-zA-Z0-9_]{1,128}")
# Developer guide, "Republish": these job topics are refused.
_RESERVED_JOBS = re.compile(
    r"\$aws/things/[^/]+/jobs/(notify|notify-next|(\$next|[^/]+)/(get|update)/(accepted|rejected))"
)
MAX_PAIRS = 100


def invalid(message: str) -> AwsError:
    """The error of CreateTopicRule and ReplaceTopicRule for anything but the SQL."""
    return AwsError("InvalidRequestException", message, 400)


class PlannedAction:
    """One action of a rule, with its parameters compiled."""

    def __init__(self, rule: Rule, spec: dict[str, Any], *, is_error: bool = False) -> None:
        keys = [key for key in spec if spec[key] is not None] if isinstance(spec, dict) else []
        if len(keys) != 1:
            raise invalid("An action must name exactly one action type.")
        kind = ACTIONS.get(keys[0])
        if kind is None:
            raise invalid(f"Unknown action type {keys[0]}.")
        values = spec[keys[0]]
        if kind.gone:
            raise NotEmulated(f"the rule action {kind.key}", kind.gone + ".")
        if not isinstance(values, dict):
            raise invalid(f"The parameters of {kind.key} are missing.")
        for name in kind.required:
            if values.get(name) in (None, "", [], {}):
                raise invalid(f"{kind.key} action: {name} is required.")
        self.kind: Action = kind
        self.is_error = is_error
        try:
            self.parameters = Parameters(rule, values)
        except SqlParseError as error:
            raise AwsError("SqlParseException", f"{kind.key} action: {error.message}", 400) from error
        _CHECKS.get(kind.key, _no_check)(rule, values)


def _no_check(rule: Rule, values: dict[str, Any]) -> None:
    """Most actions need no more than their required parameters."""


def _check_republish(rule: Rule, values: dict[str, Any]) -> None:
    topic = values["topic"]
    if values.get("qos", 0) not in (0, 1):
        raise invalid("republish action: qos must be 0 or 1.")
    target = unescape_topic(topic)
    if topic.startswith("$") and not topic.startswith(("$$", "${")):
        raise invalid("republish action: a topic that begins with $ is written with $$.")
    if "${" in target:
        return
    if "+" in target or "#" in target:
        raise invalid("republish action: the topic must not hold wildcards.")
    if _RESERVED_JOBS.fullmatch(target):
        raise invalid(f"republish action: {target} is a reserved topic.")
    if rule.topic_filter is not None and matches(rule.topic_filter, target, hash_matches_parent=False):
        # Measured wording of the live service.
        raise invalid(f"Republish topic cannot be within topic space of rule's topic pattern '{rule.topic_filter}'")
    headers = values.get("headers") or {}
    if len(headers.get("userProperties") or []) > MAX_PAIRS:
        raise invalid(f"republish action: at most {MAX_PAIRS} user properties.")


def _check_sqs(rule: Rule, values: dict[str, Any]) -> None:
    if values["queueUrl"].endswith(".fifo"):
        raise invalid("sqs action: FIFO queues are not supported.")


def _check_dynamodb(rule: Rule, values: dict[str, Any]) -> None:
    if values.get("operation", "INSERT") not in ("INSERT", "UPDATE", "DELETE") and "${" not in values["operation"]:
        raise invalid("dynamoDB action: operation must be INSERT, UPDATE or DELETE.")
    for name in ("hashKeyType", "rangeKeyType"):
        if values.get(name, "STRING") not in ("STRING", "NUMBER"):
            raise invalid(f"dynamoDB action: {name} must be STRING or NUMBER.")


def _check_dynamodb_v2(rule: Rule, values: dict[str, Any]) -> None:
    if not values["putItem"].get("tableName"):
        raise invalid("dynamoDBv2 action: putItem.tableName is required.")


def _check_firehose(rule: Rule, values: dict[str, Any]) -> None:
    if values.get("separator", "\n") not in ("\n", "\t", "\r\n", ","):
        raise invalid("firehose action: separator must be a newline, a tab, \\r\\n or a comma.")


def _check_http(rule: Rule, values: dict[str, Any]) -> None:
    if not str(values["url"]).startswith(("https://", "http://", "${")):
        raise invalid("http action: the URL must begin with https://.")
    confirmation = values.get("confirmationUrl")
    if confirmation and not values["url"].startswith(confirmation):
        raise invalid("http action: confirmationUrl must be a prefix of url.")
    if len(values.get("headers") or []) > MAX_PAIRS:
        raise invalid(f"http action: at most {MAX_PAIRS} headers.")
    batch = values.get("batchConfig") or {}
    limits = {"maxBatchSize": (2, 10), "maxBatchOpenMs": (5, 200), "maxBatchSizeBytes": (100, 131072)}
    for name, (low, high) in limits.items():
        if name in batch and not low <= batch[name] <= high:
            raise invalid(f"http action: {name} must be {low} to {high}.")


def _check_timestream(rule: Rule, values: dict[str, Any]) -> None:
    if len(values["dimensions"]) > 128:
        raise invalid("timestream action: 1 to 128 dimensions.")


_CHECKS = {
    "republish": _check_republish,
    "sqs": _check_sqs,
    "dynamoDB": _check_dynamodb,
    "dynamoDBv2": _check_dynamodb_v2,
    "firehose": _check_firehose,
    "http": _check_http,
    "timestream": _check_timestream,
}


class Definition:
    """A rule: its compiled SQL, actions and error action. Raises AwsError (SqlParseException,
    InvalidRequestException) or NotEmulated."""

    def __init__(self, name: str, payload: dict[str, Any], *, strict_live: bool = False) -> None:
        if _NAME.fullmatch(name) is None:
            raise invalid("A rule's name is 1 to 128 of a-z A-Z 0-9 _.")
        if len(json.dumps(payload, default=str)) > MAX_PAYLOAD:
            raise invalid(f"The rule is larger than {MAX_PAYLOAD} bytes.")
        self.name = name
        self.payload = payload
        self.disabled = bool(payload.get("ruleDisabled"))
        version = payload.get("awsIotSqlVersion") or "2015-10-08"
        try:
            self.rule = compile(str(payload.get("sql") or ""), version, strict_live=strict_live)
        except SqlParseError as error:
            place = f" (line {error.line}, column {error.column})"
            raise AwsError("SqlParseException", error.message + place, 400) from error
        actions = payload.get("actions") or []
        if len(actions) > MAX_ACTIONS:
            raise invalid(f"A rule has at most {MAX_ACTIONS} actions.")
        self.actions = [PlannedAction(self.rule, action) for action in actions]
        error_action = payload.get("errorAction")
        self.error_action = PlannedAction(self.rule, error_action, is_error=True) if error_action else None
        self.has_external = self.rule.has_external or any(a.parameters.has_external for a in self.actions)
