"""Alert rules over readings: NORMAL to ACTIVE and back. Pure: time is what the readings say.

Rules, one object each, apply to every device that reports the rule's quantity:

    {"name", "quantity", "type": "threshold", "above": x | "below": x, "clear": y}
    {"name", "quantity", "type": "robust-z", "window": n, "threshold": z, "clear": z, "floor": d}

Each may have "for_seconds", how long its condition must hold before it is ACTIVE, and "keep_seconds", how long the
condition must be over before it is NORMAL again; both are 0 otherwise, and time is event time.

A threshold rule's condition begins when the value is beyond the limit, and ends when it is back at `clear`
(hysteresis; default: the limit itself). A robust-z rule compares each value with the median and the
median absolute deviation (MAD) of the last `window` ordinary values, so that an anomaly does not widen its yardstick
(Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993: z = 0.6745 (x - median) / MAD). `floor` is the least
MAD believed, in the quantity's unit. After `window` anomalous values in a row the level itself has changed: the rule
learns the new one.

An alert's id is a hash of rule, device and the time its condition began: the same stream gives the same ids.
"""

import hashlib
import math
from bisect import bisect_left, insort
from collections import Counter, deque

NORMAL = "NORMAL"
ACTIVE = "ACTIVE"
NORMAL_SCORE = 0.6745


class Alerts:
    """Every rule's state per device; at most `max_keys` of them."""

    def __init__(self, rules, max_keys=10_000):
        self.rules = {}
        for settings in rules:
            self.rules.setdefault(settings["quantity"], []).append(Rule(settings))
        self.max_keys = max_keys
        self.reset()

    def reset(self):
        """Forget every state and start all counts at zero."""
        self.received = 0
        self.published = 0
        self.rejected = Counter()
        self.newest = {}
        self.states = {}

    def accept(self, reading):
        """Take one reading; give the alerts whose state it changed."""
        self.received += 1
        if not is_reading(reading):
            return self.reject("schema")
        stream = (reading["device"], reading["quantity"])
        newest = self.newest.get(stream)
        if newest is None and len(self.newest) >= self.max_keys:
            return self.reject("too-many-keys")
        if newest is not None and reading["ts"] <= newest:
            return self.reject("out-of-order")
        self.newest[stream] = reading["ts"]
        changes = [self.apply(rule, reading) for rule in self.rules.get(reading["quantity"], ())]
        found = [change for change in changes if change is not None]
        self.published += len(found)
        return found

    def reject(self, reason):
        """Count a reading that no rule saw."""
        self.rejected[reason] += 1
        return []

    def apply(self, rule, reading):
        """One rule and one reading: the alert when its state changed, or None."""
        key = (rule.name, reading["device"])
        state = self.states.get(key)
        if state is None:
            state = self.states[key] = State(rule.detector())
        if not state.step(rule, reading["ts"], float(reading["value"])):
            return None
        return {
            "id": alert_id(rule.name, reading["device"], state.began),
            "device": reading["device"],
            "quantity": reading["quantity"],
            "rule": rule.name,
            "state": state.name,
            "ts": reading["ts"],
            "value": reading["value"],
            "threshold": state.limit,
        }

    def stats(self):
        """Counts since the last reset; `active` alerts have not ended."""
        return {
            "received": self.received,
            "published": self.published,
            "active": sum(state.name == ACTIVE for state in self.states.values()),
            "rejected": dict(self.rejected),
        }


class Rule:
    """One rule, checked when it is read. Raises ValueError."""

    def __init__(self, settings):
        self.name = settings["name"]
        self.settings = settings
        self.for_ms = int(float(settings.get("for_seconds", 0)) * 1000)
        self.keep_ms = int(float(settings.get("keep_seconds", 0)) * 1000)
        kind = settings.get("type", "threshold")
        if kind not in DETECTORS:
            raise ValueError(f"rule {self.name}: type {kind!r} is none of {', '.join(DETECTORS)}")
        self.kind = DETECTORS[kind]
        self.detector()

    def detector(self):
        """A fresh detector of this rule."""
        return self.kind(self.settings)


class State:
    """One rule on one device. `began` is when the last alert's condition began, `limit` what was crossed; `since` is
    when the values began that will change the state if they last."""

    __slots__ = ("began", "detector", "limit", "name", "since")

    def __init__(self, detector):
        self.detector = detector
        self.name = NORMAL
        self.since = None
        self.began = None
        self.limit = None

    def step(self, rule, ts, value):
        """Take one value; whether the state changed."""
        crossed = self.detector.crossed(value, self.name == ACTIVE)
        changing = (crossed is None) == (self.name == ACTIVE)
        if not changing:
            self.since = None
            return False
        if self.since is None:
            self.since = ts
        if ts - self.since < (rule.keep_ms if self.name == ACTIVE else rule.for_ms):
            return False
        if self.name == ACTIVE:
            self.name = NORMAL
        else:
            self.name = ACTIVE
            self.began = self.since
            self.limit = crossed
        self.since = None
        return True


class Threshold:
    """Beyond a fixed limit, with hysteresis."""

    def __init__(self, settings):
        if ("above" in settings) == ("below" in settings):
            raise ValueError(f"rule {settings['name']}: give either above or below")
        self.sign = 1 if "above" in settings else -1
        self.limit = float(settings["above"] if self.sign == 1 else settings["below"])
        self.clear = float(settings.get("clear", self.limit))
        if (self.limit - self.clear) * self.sign < 0:
            raise ValueError(f"rule {settings['name']}: clear is beyond the limit")

    def crossed(self, value, active):
        """The limit that the value is beyond, or None."""
        beyond = (value - (self.clear if active else self.limit)) * self.sign > 0
        return self.limit if beyond else None


class RobustZ:
    """Far from the median of recent ordinary values, measured in median absolute deviations."""

    def __init__(self, settings):
        self.window = int(settings.get("window", 48))
        self.threshold = float(settings.get("threshold", 6))
        self.clear = float(settings.get("clear", self.threshold / 2))
        self.floor = float(settings.get("floor", 1e-9))
        if self.window < 8 or not 0 < self.clear <= self.threshold or self.floor <= 0:
            raise ValueError(f"rule {settings['name']}: window >= 8, 0 < clear <= threshold, floor > 0")
        self.recent = deque()
        self.ordered = []
        self.odd = []

    def crossed(self, value, active):
        """The nearest ordinary value on its side, or None while the value is ordinary or too little is known."""
        if len(self.ordered) < self.window // 2:
            self.learn(value)
            return None
        centre = median(self.ordered)
        spread = max(median(sorted(abs(each - centre) for each in self.ordered)), self.floor) / NORMAL_SCORE
        score = (value - centre) / spread
        if abs(score) < (self.clear if active else self.threshold):
            self.odd.clear()
            self.learn(value)
            return None
        self.odd.append(value)
        if len(self.odd) >= self.window:
            self.relearn()
            return None
        return round(centre + math.copysign(self.threshold * spread, score), 6)

    def learn(self, value):
        """Take an ordinary value into the window."""
        self.recent.append(value)
        insort(self.ordered, value)
        if len(self.recent) > self.window:
            oldest = self.recent.popleft()
            del self.ordered[bisect_left(self.ordered, oldest)]

    def relearn(self):
        """The level has changed for good: what was odd is ordinary now."""
        self.recent = deque(self.odd)
        self.ordered = sorted(self.odd)
        self.odd = []


DETECTORS = {"threshold": Threshold, "robust-z": RobustZ}


def median(ordered):
    """The median of a sorted, not empty list."""
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def alert_id(rule, device, since_ms):
    """16 hex digits: the same rule, device and beginning give the same id."""
    return hashlib.sha256(f"{rule}\n{device}\n{since_ms}".encode()).hexdigest()[:16]


def is_reading(reading):
    """Whether this is a reading as the filter publishes it."""
    return (
        isinstance(reading, dict)
        and all(isinstance(reading.get(name), str) for name in ("device", "quantity"))
        and type(reading.get("ts")) is int
        and type(reading.get("value")) in (int, float)
        and math.isfinite(reading["value"])
    )
