"""What IoT Core writes to CloudWatch Logs, and at which level: the account's logging options as one value. Pure.

Sources: AWS IoT developer guide, "Monitor AWS IoT using CloudWatch Logs" and "CloudWatch Logs AWS IoT log entries"; API
reference, SetV2LoggingOptions, SetV2LoggingLevel, SetLoggingOptions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from foreshore.iot.rules.executions import log_time

GROUP = "AWSIotLogsV2"
OLD_GROUP = "AWSIotLogs"
RANKS = {"DEBUG": 0, "INFO": 1, "WARN": 2, "ERROR": 3, "DISABLED": 4}
BROKER_EVENTS = ("Connect", "Disconnect", "Subscribe", "Unsubscribe", "Publish-In")
SHADOW_EVENTS = {"get": "GetThingShadow", "update": "UpdateThingShadow", "delete": "DeleteThingShadow"}
EVENTS = (
    *BROKER_EVENTS,
    *SHADOW_EVENTS.values(),
    "FunctionExecution",
    "RuleExecution",
    "RuleMessageThrottled",
    "RuleNotFound",
)
"""The event types that are written here."""

DENIED = {"reason": "AUTHORIZATION_FAILURE", "details": "Authorization Failure"}


class Subject(NamedTuple):
    """Whom an entry is about; `groups` gives the thing groups, and is asked only when a level hangs on one."""

    client_id: str = ""
    principal: str = ""
    source_ip: str = ""
    source_port: int = 0
    groups: Callable[[], Iterable[str]] = tuple


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The options in force. `events` holds (level or "", log group or "") by event type, `targets` levels by type and
    name of what SetV2LoggingLevel names; of several that fit, the one that tells most counts."""

    level: str = "DISABLED"
    group: str = GROUP
    events: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    targets: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def is_on(self) -> bool:
        """Whether anything may be written."""
        return any(level != "DISABLED" for level in self._levels())

    def _levels(self) -> list[str]:
        return [self.level, *self.targets.values(), *(level for level, _ in self.events.values() if level)]

    def may_tell(self, event: str, level: str) -> bool:
        """Whether an entry of this event and level is written for some subject."""
        own = self.events.get(event, ("", ""))[0]
        return any(RANKS[each] <= RANKS[level] for each in ([own] if own else [self.level, *self.targets.values()]))

    def group_for(self, event: str, level: str, subject: Subject) -> str:
        """The log group that an entry goes to; "" when it is not written."""
        own, group = self.events.get(event, ("", ""))
        wanted = own or self._level_of(subject)
        return (group or self.group) if RANKS[wanted] <= RANKS[level] else ""

    def _level_of(self, subject: Subject) -> str:
        targets = self.targets
        if not targets:
            return self.level
        names = (
            ("CLIENT_ID", subject.client_id),
            ("SOURCE_IP", subject.source_ip),
            ("PRINCIPAL_ID", subject.principal),
        )
        found = [targets[name] for name in names if name in targets]
        if any(kind == "THING_GROUP" for kind, _ in targets):
            found += [targets["THING_GROUP", name] for name in subject.groups() if ("THING_GROUP", name) in targets]
        return min(found, key=RANKS.__getitem__) if found else self.level


def read_options(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, levels: Iterable[Mapping[str, Any]]
) -> LogOptions:
    """The options of SetLoggingOptions, of SetV2LoggingOptions, which replace those, and of SetV2LoggingLevel."""
    if new is None:
        return LogOptions(str((old or {}).get("logLevel") or "DISABLED"), OLD_GROUP)
    if new.get("disableAllLogs"):
        return LogOptions()
    default = str(new.get("defaultLogLevel") or "DISABLED")
    targets = {}
    for each in levels:
        kind, name = each["logTarget"]["targetType"], each["logTarget"].get("targetName", "")
        if kind == "DEFAULT":
            default = each["logLevel"]
        else:
            targets[kind, name] = each["logLevel"]
    events = {
        each["eventType"]: (each.get("logLevel") or "", each.get("logDestination") or "")
        for each in new.get("eventConfigurations") or ()
    }
    return LogOptions(default, GROUP, events, targets)


def entry(event: str, level: str, *, now_ns: int, account: str, trace: str, **more: Any) -> dict[str, Any]:
    """One entry. `trace` is a UUID; `more` is what entries of this event have beside what all have."""
    return {
        "timestamp": log_time(now_ns),
        "logLevel": level,
        "traceId": trace,
        "accountId": account,
        "status": "Failure" if level == "ERROR" else "Success",
        "eventType": event,
        **more,
    }


def client_fields(subject: Subject) -> dict[str, Any]:
    """What the broker's entries tell of a client, or of whoever published over HTTP."""
    return {
        "protocol": "MQTT" if subject.client_id else "HTTP",
        "clientId": subject.client_id,
        "principalId": subject.principal,
        "sourceIp": subject.source_ip,
        "sourcePort": subject.source_port,
    }


_SHADOW = re.compile(r"(\$aws/things/([^/]+)/shadow(?:/name/([^/]+))?/(get|update|delete))/(accepted|rejected)")


class ShadowAnswer(NamedTuple):
    """What a shadow's answer was to: the event type, the thing, the shadow's name as entries have it, the topic."""

    event: str
    thing: str
    shadow: str
    topic: str
    is_accepted: bool


def shadow_answer(topic: str) -> ShadowAnswer | None:
    """Read the topic of a shadow's answer; None for any other topic."""
    match = _SHADOW.fullmatch(topic)
    if match is None:
        return None
    return ShadowAnswer(SHADOW_EVENTS[match[4]], match[2], match[3] or match[2], match[1], match[5] == "accepted")
