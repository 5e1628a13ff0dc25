"""The configuration of aws.greengrass.ShadowManager: what is synchronized, which way, when, and the limits. Pure.

Source: Greengrass developer guide, "Shadow manager" (configuration); shadow manager 2.3 for what a wrong value does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from foreshore.greengrass.shadows import DEFAULT_SIZE_LIMIT, MAX_SIZE_LIMIT

NAME = "aws.greengrass.ShadowManager"
DEFAULT_DELAY_S = 300.0
MAX_THING, MAX_SHADOW = 128, 64
_NAME = re.compile(r"[a-zA-Z0-9:_-]+")


class Shadow(NamedTuple):
    """Which shadow: `name` is "" for the classic one."""

    thing: str
    name: str

    @property
    def prefix(self) -> str:
        """The topics' beginning."""
        return f"$aws/things/{self.thing}/shadow" + (f"/name/{self.name}" if self.name else "")


class Direction(Enum):
    """Which way changes go."""

    BOTH = "betweenDeviceAndCloud"
    TO_CLOUD = "deviceToCloud"
    TO_DEVICE = "cloudToDevice"


class Settings(NamedTuple):
    """`delay_s` None: in real time. Rates are requests a second; the size limit is in bytes."""

    shadows: frozenset[Shadow] = frozenset()
    direction: Direction = Direction.BOTH
    delay_s: float | None = None
    size_limit: int = DEFAULT_SIZE_LIMIT
    outbound_rate: float = 100.0
    total_rate: float = 200.0
    thing_rate: float = 20.0

    @property
    def to_cloud(self) -> bool:
        """Whether the device's changes go to the cloud."""
        return self.direction is not Direction.TO_DEVICE

    @property
    def to_device(self) -> bool:
        """Whether the cloud's changes come to the device."""
        return self.direction is not Direction.TO_CLOUD


class _Wrong(Exception):
    """A value that makes no sense."""


def read_settings(configuration: Mapping[str, Any], core_thing: str) -> tuple[Settings, list[str]]:
    """Settings, and what is wrong: a wrong part keeps its default, a wrong `synchronize` synchronizes nothing."""
    settings, findings = Settings(), []
    readers = (_read_synchronize, _read_strategy, _read_limits)
    for read in readers:
        try:
            settings = settings._replace(**read(configuration, core_thing))
        except _Wrong as error:
            findings.append(str(error))
    return settings, findings


def _read_synchronize(configuration: Mapping[str, Any], core_thing: str) -> dict[str, Any]:
    synchronize = _map(configuration, "synchronize")
    found: set[Shadow] = set()
    if "coreThing" in synchronize:
        found |= _shadows(core_thing, synchronize["coreThing"], "coreThing")
    for thing, item in _map(synchronize, "shadowDocumentsMap").items():
        found |= _shadows(thing, item, "shadowDocumentsMap")
    documents = synchronize.get("shadowDocuments") or []
    if not isinstance(documents, list):
        raise _Wrong("Unexpected type in shadowDocuments: it must be a list")
    for item in documents:
        named = item.get("thingName") if isinstance(item, Mapping) else None
        found |= _shadows(str(named or ""), item, "shadowDocuments")
    try:
        direction = Direction(synchronize.get("direction", Direction.BOTH.value))
    except ValueError:
        raise _Wrong(f"Unexpected value in direction: {synchronize['direction']}") from None
    return {"shadows": frozenset(found), "direction": direction}


def _map(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = fields.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _Wrong(f"Unexpected type in {key}: it must be a map")
    return value


def _shadows(thing: str, item: object, where: str) -> set[Shadow]:
    """The shadows of one entry. `classic` is true unless it says otherwise."""
    if not isinstance(item, Mapping):
        raise _Wrong(f"Unexpected type in {where}: it must be a map")
    names = item.get("namedShadows") or []
    if not isinstance(names, list):
        raise _Wrong("Unexpected type in namedShadows: it must be a list")
    classic = [""] if str(item.get("classic", True)).lower() == "true" else []
    for what, name, limit in [("thingName", thing, MAX_THING), *(("shadow", str(each), MAX_SHADOW) for each in names)]:
        if not _NAME.fullmatch(name) or len(name) > limit:
            raise _Wrong(f"Unexpected value in {where}: {name!r} is no {what} name")
    return {Shadow(thing, name) for name in [*classic, *map(str, names)]}


def _read_strategy(configuration: Mapping[str, Any], _core_thing: str) -> dict[str, Any]:
    strategy = _map(configuration, "strategy")
    kind = strategy.get("type", "realTime")
    if kind == "realTime":
        return {"delay_s": None}
    if kind != "periodic":
        raise _Wrong(f"Unexpected value in strategy: {kind}")
    return {"delay_s": _positive("delay", strategy.get("delay", DEFAULT_DELAY_S))}


def _read_limits(configuration: Mapping[str, Any], _core_thing: str) -> dict[str, Any]:
    limits = _map(configuration, "rateLimits")
    size = _positive(
        "shadowDocumentSizeLimitBytes", configuration.get("shadowDocumentSizeLimitBytes", DEFAULT_SIZE_LIMIT)
    )
    if size > MAX_SIZE_LIMIT:
        raise _Wrong(f"shadowDocumentSizeLimitBytes must be at most {MAX_SIZE_LIMIT}")
    rates = {
        "outbound_rate": ("maxOutboundSyncUpdatesPerSecond", 100),
        "total_rate": ("maxTotalLocalRequestsRate", 200),
        "thing_rate": ("maxLocalRequestsPerSecondPerThing", 20),
    }
    found = {field: _positive(key, limits.get(key, default)) for field, (key, default) in rates.items()}
    return {"size_limit": int(size), **found}


def _positive(key: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if number <= 0:
        raise _Wrong(f"{key} provided {value} is invalid. It should be greater than 0.")
    return number


class Bucket:
    """A rate: as many at once as it allows in a second, then at that pace. Times are seconds of any clock."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._tokens = rate
        self._then = float("-inf")

    def take(self, now_s: float) -> bool:
        """Take one, if there is one."""
        self._fill(now_s)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def reserve(self, now_s: float) -> float:
        """Take one in any case; give how many seconds to wait for it."""
        self._fill(now_s)
        self._tokens -= 1
        return max(0.0, -self._tokens / self.rate)

    def _fill(self, now_s: float) -> None:
        if now_s > self._then:
            if self._then != float("-inf"):
                self._tokens = min(self.rate, self._tokens + (now_s - self._then) * self.rate)
            self._then = now_s


class Rates:
    """Local requests over IPC: a rate for all and one for each thing."""

    MOST_THINGS = 1000

    def __init__(self) -> None:
        self._total = Bucket(Settings().total_rate)
        self._thing_rate = Settings().thing_rate
        self._things: dict[str, Bucket] = {}

    def configure(self, settings: Settings) -> None:
        """Take new rates."""
        self._total.rate = settings.total_rate
        self._thing_rate = settings.thing_rate
        self._things.clear()

    def take(self, thing: str, now_s: float) -> bool:
        """Whether a request for a thing's shadow may go on."""
        bucket = self._things.pop(thing, None) or Bucket(self._thing_rate)
        self._things[thing] = bucket
        if len(self._things) > self.MOST_THINGS:
            del self._things[next(iter(self._things))]
        return self._total.take(now_s) and bucket.take(now_s)
