"""From a rule's event to a table item. Pure.

One item a window and one a state of an alert; writing the same event twice gives the same item, because IoT rules and
asynchronous invocations deliver at least once.

    pk                sk                                      kind
    window#<device>   <window_start, 13 digits>#<quantity>    window
    alert#<device>    <ts, 13 digits>#<id>#<state>            alert

The index ByKind (kind, sk) lists the items of all devices in the order of time.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

REQUIRED = {
    "window": ("device", "quantity", "window_start", "window_end", "count", "mean", "min", "max"),
    "alert": ("device", "quantity", "id", "rule", "state", "ts", "value"),
}


class BadEvent(ValueError):
    """The event is not what the rule promises; storing it again would not help."""


def to_item(event: dict[str, Any]) -> dict[str, Any]:
    """The item for one event. Raises BadEvent."""
    kind = event.get("kind")
    if not isinstance(kind, str) or kind not in REQUIRED:
        raise BadEvent(f"kind is {kind!r}, not one of {sorted(REQUIRED)}")
    missing = [name for name in REQUIRED[kind] if event.get(name) is None]
    if missing:
        raise BadEvent(f"{kind} lacks {', '.join(missing)}")
    body = with_decimals(event)
    return {**body, "pk": f"{kind}#{body['device']}", "sk": sort_key_of(kind, body)}


def sort_key_of(kind: str, body: dict[str, Any]) -> str:
    """The sort key, ordered by time (epoch milliseconds)."""
    if kind == "window":
        return f"{int(body['window_start']):013d}#{body['quantity']}"
    return f"{int(body['ts']):013d}#{body['id']}#{body['state']}"


def with_decimals(value: dict[str, Any]) -> dict[str, Any]:
    """The same JSON with Decimal for float, which DynamoDB does not take."""
    result: dict[str, Any] = json.loads(json.dumps(value), parse_float=Decimal)
    return result
