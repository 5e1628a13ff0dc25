"""What an IoT rule delivers, as DynamoDB items. Pure.

The partition is the kind (`window` or `alert`), the sort key `<time>#<device>#<what makes it unique>`: a query gives the
newest of a kind, and a message that comes twice is the same item. `series` (`window#<device>`) is the index's key for
one device.
"""

from decimal import Decimal

KINDS = ("window", "alert")


def item(event):
    """The item for one window or alert. Raises ValueError for anything else."""
    kind = event.get("kind")
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, not window or alert")
    moment = event.get("window_start" if kind == "window" else "ts")
    if type(moment) is not int or not isinstance(event.get("device"), str):
        raise ValueError("a device and a time in milliseconds are needed")
    unique = event["quantity"] if kind == "window" else f"{event['id']}#{event['state']}"
    return {
        **{name: number(value) for name, value in event.items()},
        "pk": kind,
        "sk": f"{moment:015d}#{event['device']}#{unique}",
        "series": f"{kind}#{event['device']}",
    }


def number(value):
    """DynamoDB takes decimals, not floats; their shortest text is what was measured."""
    return Decimal(repr(value)) if isinstance(value, float) else value
