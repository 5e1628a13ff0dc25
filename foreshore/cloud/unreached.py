"""Requests that ask a service of the backend to call a Lambda function, which no backend can: functions are ours. Pure.

The backend would take such a request and call nobody, so the endpoint refuses it.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from foreshore.http import Request

_FUNCTION = re.compile(rb"arn:aws[a-z-]*:lambda:", re.IGNORECASE)
_WITH_TARGET = {
    "AWSEvents.PutTargets": "EventBridge targets that are functions",
    "Logs_20140328.PutSubscriptionFilter": "log subscriptions of functions",
    "secretsmanager.RotateSecret": "rotation of secrets by a function",
}
"""Operations of JSON protocols, by X-Amz-Target."""


SERVICES = frozenset({"events", "logs", "s3", "scheduler", "secretsmanager", "sns"})


def unreached(service: str, request: Request) -> str:
    """What a request asks for that would reach no function here; "" for any other request."""
    if request.method not in ("POST", "PUT"):
        return ""
    if service == "sns":
        return "subscriptions of functions to topics" if _subscribes_function(request.body) else ""
    if service == "s3":
        is_about = request.method == "PUT" and "notification" in parse_qs(request.query_string, keep_blank_values=True)
        what = "notifications of buckets to functions"
    elif service == "scheduler":
        is_about, what = "/schedules/" in request.raw_path, "schedules of functions"
    else:
        what = _WITH_TARGET.get(request.header("x-amz-target"), "")
        is_about = bool(what)
    return what if is_about and _FUNCTION.search(request.body) else ""


def _subscribes_function(body: bytes) -> bool:
    if b"Action=Subscribe" not in body:
        return False
    return parse_qs(body.decode("latin-1")).get("Protocol") == ["lambda"]
