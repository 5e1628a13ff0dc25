"""Log entries as AWS IoT writes them to CloudWatch Logs (developer guide, "Viewing CloudWatch Logs", rules). Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from foreshore.iot.rules.message import Message
from foreshore.seams import LogLine


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    """Entries come in crowds: the text of a second is made once."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def log_time(now_ns: int) -> str:
    """A time as log entries have it, in UTC to the millisecond."""
    return f"{_second(now_ns // 10**9)}.{now_ns // 10**6 % 1000:03}"


def entry(
    event: str,
    *,
    level: str,
    now_ns: int,
    account: str,
    rule: str,
    message: Message,
    trace_id: str = "",
    **more: Any,
) -> LogLine:
    """One entry: `event` is RuleMatch, RuleExecution, RuleNotFound, FunctionExecution or RuleMessageThrottled."""
    fields = {
        "timestamp": log_time(now_ns),
        "logLevel": level,
        "traceId": message.trace_uuid,
        "accountId": account,
        "status": "Failure" if level == "ERROR" else "Success",
        "eventType": event,
        "clientId": "N/A" if message.client_id is None else message.client_id,
        "topicName": message.topic,
        "ruleName": rule,
        "principalId": message.principal or "",
        **more,
    }
    return LogLine(now_ns, "rules", rule, level, trace_id, orjson.dumps(fields, default=str).decode())
