"""Decides which readings go on. Pure: no clock, no network, no environment.

A reading is {"device", "seq", "ts", "quantity", "value", "unit"}; `ts` is epoch milliseconds. What does not go on is
counted under one reason:

    not-json, not-an-object   the payload is no JSON object
    schema                    a member is missing or of another type
    not-a-number              the value is null, NaN or infinite
    quantity                  no such quantity is configured
    unit                      the unit is neither the quantity's nor convertible to it
    range                     the value is outside the quantity's range
    duplicate                 this device sent this seq with this ts before (QoS 1 may deliver twice)
    deadband                  the value is within the quantity's deadband of the last one that went on
"""

import json
import math
from collections import Counter, OrderedDict, deque

TEXT_MEMBERS = ("device", "quantity", "unit")
MAX_NAME = 128


class Filter:
    """Holds what was seen per device; at most `max_devices` of them, the longest silent forgotten first.

    `quantities` maps a quantity to {"unit", "min", "max", "deadband", "convert": {unit: {"scale", "offset"}}}; all but
    "unit" may be absent. `ring` is how many readings of a device are remembered for finding duplicates.
    """

    def __init__(self, quantities, ring=2048, max_devices=10_000):
        self.quantities = {name: Quantity(settings) for name, settings in quantities.items()}
        self.ring = int(ring)
        self.max_devices = int(max_devices)
        self.reset()

    def reset(self):
        """Forget every device and start all counts at zero."""
        self.received = 0
        self.published = 0
        self.rejected = Counter()
        self.devices = OrderedDict()

    def accept(self, event):
        """The reading to publish, in the quantity's own unit, or None; every call is counted."""
        self.received += 1
        try:
            reading = self.check(event)
        except Rejected as reason:
            self.rejected[str(reason)] += 1
            return None
        self.published += 1
        return reading

    def check(self, event):
        """The reading to publish. Raises Rejected."""
        reading = parse(event)
        quantity = self.quantities.get(reading["quantity"])
        if quantity is None:
            raise Rejected("quantity")
        value = quantity.convert(reading["value"], reading["unit"])
        if not quantity.least <= value <= quantity.most:
            raise Rejected("range")
        seen = self.device(reading["device"])
        if not seen.is_new(reading["seq"], reading["ts"], self.ring):
            raise Rejected("duplicate")
        if not seen.has_changed(reading["quantity"], value, quantity.deadband):
            raise Rejected("deadband")
        return {**reading, "value": value, "unit": quantity.unit}

    def device(self, name):
        """What was seen of a device."""
        seen = self.devices.get(name)
        if seen is None:
            seen = self.devices[name] = Seen()
            if len(self.devices) > self.max_devices:
                self.devices.popitem(last=False)
        else:
            self.devices.move_to_end(name)
        return seen

    def stats(self):
        """Counts since the last reset."""
        return {"received": self.received, "published": self.published, "rejected": dict(self.rejected)}


class Rejected(Exception):
    """The reading does not go on; the text is the reason."""


class Quantity:
    """What is allowed for one quantity."""

    def __init__(self, settings):
        self.unit = settings["unit"]
        self.least = float(settings.get("min", -math.inf))
        self.most = float(settings.get("max", math.inf))
        self.deadband = float(settings.get("deadband", 0))
        self.conversions = {
            unit: (float(line.get("scale", 1)), float(line.get("offset", 0)))
            for unit, line in settings.get("convert", {}).items()
        }
        if self.least > self.most or self.deadband < 0:
            raise ValueError(f"impossible limits: {settings}")

    def convert(self, value, unit):
        """The value in this quantity's unit. Raises Rejected."""
        if unit == self.unit:
            return value
        if unit not in self.conversions:
            raise Rejected("unit")
        scale, offset = self.conversions[unit]
        return value * scale + offset


class Seen:
    """The last readings of one device."""

    def __init__(self):
        self.order = deque()
        self.known = set()
        self.last_values = {}

    def is_new(self, seq, ts, ring):
        """Remember (seq, ts); False when it is remembered already."""
        mark = (seq, ts)
        if mark in self.known:
            return False
        self.known.add(mark)
        self.order.append(mark)
        if len(self.order) > ring:
            self.known.discard(self.order.popleft())
        return True

    def has_changed(self, quantity, value, deadband):
        """Whether the value left the deadband around the last one that went on; without deadband always."""
        last = self.last_values.get(quantity)
        if deadband and last is not None and abs(value - last) <= deadband:
            return False
        self.last_values[quantity] = value
        return True


def parse(event):
    """A well-formed reading from bytes, text or a decoded object. Raises Rejected."""
    if isinstance(event, (bytes, bytearray, str)):
        try:
            event = json.loads(event)
        except ValueError:
            raise Rejected("not-json") from None
    if not isinstance(event, dict):
        raise Rejected("not-an-object")
    for name in TEXT_MEMBERS:
        text = event.get(name)
        if not isinstance(text, str) or not 0 < len(text) <= MAX_NAME:
            raise Rejected("schema")
    if any(sign in event["device"] for sign in "/+#"):
        raise Rejected("schema")
    for name in ("seq", "ts"):
        if type(event.get(name)) is not int or event[name] < 0:
            raise Rejected("schema")
    if "value" not in event:
        raise Rejected("schema")
    value = event["value"]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise Rejected("not-a-number")
    if type(value) not in (int, float):
        raise Rejected("schema")
    return {name: event[name] for name in ("device", "seq", "ts", "quantity", "value", "unit")}
