"""Log entries as AWS IoT writes them to CloudWatch Logs (developer guide, "Viewing CloudWatch Logs", rules). Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from foreshore.iot.rules.message import Message
from foreshore.seams import LogLine


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
    stamp = datetime.fromtimestamp(now_ns / 1e9, UTC)
    fields = {
        "timestamp": stamp.strftime("%Y-%m-%d %H:%M:%S.") + f"{stamp.microsecond // 1000:03}",
        "logLevel": level,
        "traceId": message.trace_id or "",
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
