"""Event-time tumbling windows per device and quantity. Pure: time is what the readings say.

Each key has a watermark of its own, the greatest timestamp seen minus the allowed lateness: one device with a wrong
clock closes no window of another. A window [start, end) is emitted once, when its key's watermark reaches `end`, or at
a flush. What takes no part in a window is counted under one reason:

    schema         a member is missing or of another type
    late           its window was emitted already
    future         it is further ahead of its key's stream (clock "event") or of the present (clock "wall") than allowed
    too-many-keys  the key is new and `max_keys` are held

With clock "event" a jump ahead is believed once a second reading confirms it: a device that was off for months is
heard again, a single wrong timestamp is not.
"""

import math
from collections import Counter


class Windows:
    """Windows of `length_ms`, aligned to the epoch. `clock` is "event" or "wall"; all times are milliseconds."""

    def __init__(self, length_ms, lateness_ms=0, max_ahead_ms=86_400_000, clock="event", max_keys=10_000):
        if length_ms <= 0 or lateness_ms < 0 or max_ahead_ms <= 0 or clock not in ("event", "wall"):
            raise ValueError("windows need a positive length, no negative lateness, and a clock: event or wall")
        self.length_ms = length_ms
        self.lateness_ms = lateness_ms
        self.max_ahead_ms = max_ahead_ms
        self.clock = clock
        self.max_keys = max_keys
        self.reset()

    def reset(self):
        """Forget every key and start all counts at zero."""
        self.received = 0
        self.counted = 0
        self.published = 0
        self.rejected = Counter()
        self.keys = {}

    def accept(self, reading, now_ms):
        """Take one reading; give the windows that are complete now, oldest first. `now_ms` is the wall clock."""
        self.received += 1
        if not is_reading(reading):
            return self.reject("schema")
        name = (reading["device"], reading["quantity"])
        key = self.keys.get(name)
        if key is None:
            if len(self.keys) >= self.max_keys:
                return self.reject("too-many-keys")
            key = self.keys[name] = Key(reading["unit"])
        ts = reading["ts"]
        if self.is_ahead(key, ts, now_ms):
            return self.reject("future")
        start = ts - ts % self.length_ms
        if start < key.emitted_until:
            return self.reject("late")
        self.counted += 1
        key.add(start, ts, float(reading["value"]))
        return self.complete(name, key, key.newest - self.lateness_ms)

    def reject(self, reason):
        """Count a reading that takes no part."""
        self.rejected[reason] += 1
        return []

    def is_ahead(self, key, ts, now_ms):
        """Whether a timestamp is too far ahead to be believed."""
        if self.clock == "wall":
            return ts > now_ms + self.max_ahead_ms
        if key.newest is None or ts <= key.newest + self.max_ahead_ms:
            key.doubted = None
            return False
        confirmed = key.doubted is not None and key.doubted <= ts <= key.doubted + self.max_ahead_ms
        key.doubted = None if confirmed else ts
        return not confirmed

    def complete(self, name, key, watermark):
        """Emit the key's windows that end at or before the watermark."""
        if watermark < key.first_end(self.length_ms):
            return []
        return [self.emit(name, key, start) for start in sorted(key.open) if start + self.length_ms <= watermark]

    def flush(self):
        """Emit every open window, whatever its watermark."""
        return [self.emit(name, key, start) for name, key in self.keys.items() for start in sorted(key.open)]

    def emit(self, name, key, start):
        """Close one window and summarise it."""
        values = sorted(key.open.pop(start))
        key.emitted_until = start + self.length_ms
        self.published += 1
        return {
            "device": name[0],
            "quantity": name[1],
            "unit": key.unit,
            "window_start": start,
            "window_end": start + self.length_ms,
            **summary(values),
        }

    def stats(self):
        """Counts since the last reset. `counted` readings are in windows; `open` windows are not yet emitted."""
        return {
            "received": self.received,
            "counted": self.counted,
            "published": self.published,
            "open": sum(len(key.open) for key in self.keys.values()),
            "rejected": dict(self.rejected),
        }


class Key:
    """One device and quantity: its open windows and how far its stream came."""

    __slots__ = ("doubted", "emitted_until", "newest", "open", "unit")

    def __init__(self, unit):
        self.unit = unit
        self.open = {}
        self.newest = None
        self.doubted = None
        self.emitted_until = -math.inf

    def add(self, start, ts, value):
        """Put a value into its window."""
        self.open.setdefault(start, []).append(value)
        if self.newest is None or ts > self.newest:
            self.newest = ts

    def first_end(self, length_ms):
        """When the oldest open window ends."""
        return min(self.open) + length_ms


def summary(values):
    """Statistics of a sorted, not empty list. p95 is the nearest rank: the least value with 95 % at or below it."""
    count = len(values)
    return {
        "count": count,
        "mean": round(math.fsum(values) / count, 6),
        "min": values[0],
        "max": values[-1],
        "p95": values[math.ceil(0.95 * count) - 1],
    }


def is_reading(reading):
    """Whether this is a reading as the filter publishes it."""
    return (
        isinstance(reading, dict)
        and all(isinstance(reading.get(name), str) for name in ("device", "quantity", "unit"))
        and type(reading.get("ts")) is int
        and type(reading.get("value")) in (int, float)
        and math.isfinite(reading["value"])
    )
