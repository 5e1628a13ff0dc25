"""What can be told of a SigV4-signed `/mqtt` request without its secret: form, scope and age. Pure: time is given.

The signature itself is not verified, since local IAM knows no secrets. Source: AWS General Reference, "Signing AWS API
requests" (query string parameters); IoT developer guide, "MQTT over the WebSocket Secure protocol".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

SERVICES = ("iotdevicegateway", "iotdata")
MAX_AGE_S = 900
"""IoT Core was seen to refuse URLs ten minutes to a quarter of an hour after their date, whatever `X-Amz-Expires`."""
MAX_EXPIRES_S = 604_800

_SCOPE = re.compile(r"[^/]+/(\d{8})/[a-z0-9-]+/([a-z0-9-]+)/aws4_request")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


def presigned_problem(query: Mapping[str, str], now: float) -> str:
    """Why a query that has `X-Amz-Credential` is refused at `now` (epoch seconds), "" when it is not."""
    scope = _SCOPE.fullmatch(query.get("X-Amz-Credential", ""))
    if query.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256":
        return "X-Amz-Algorithm must be AWS4-HMAC-SHA256"
    if scope is None:
        return "X-Amz-Credential must be KEY/DATE/REGION/SERVICE/aws4_request"
    if scope[2] not in SERVICES:
        return f"Credential should be scoped to correct service: '{SERVICES[0]}'"
    if "host" not in query.get("X-Amz-SignedHeaders", "").split(";"):
        return "'Host' must be a 'SignedHeader' in the AWS Authorization"
    if not _SIGNATURE.fullmatch(query.get("X-Amz-Signature", "")):
        return "X-Amz-Signature must be 64 hexadecimal digits"
    return _time_problem(query, scope[1], now)


def _time_problem(query: Mapping[str, str], day: str, now: float) -> str:
    stamp, expires = query.get("X-Amz-Date", ""), query.get("X-Amz-Expires", str(MAX_AGE_S))
    try:
        signed = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return f"X-Amz-Date is not a time: {stamp!r}"
    if not stamp.startswith(day):
        return f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: {day}"
    if not expires.isdecimal() or not 0 < int(expires) <= MAX_EXPIRES_S:
        return f"X-Amz-Expires must be between 1 and {MAX_EXPIRES_S} seconds"
    if now - signed > min(int(expires), MAX_AGE_S):
        return f"Signature expired: {stamp}"
    if signed - now > MAX_AGE_S:
        return f"Signature not yet current: {stamp}"
    return ""
