"""A scenario: which devices there are and what each replays. Pure.

name: demo
topic: devices/{device}/readings
rate: 400                     # readings a second over the whole fleet
devices:
  flow-1:
    quantity: flow
    unit: l/s
    source: {package: river, file: river/datasets/water-flow.csv, time: Time, value: "Water flow [l/s]"}
  room-1-co2:
    quantity: co2
    unit: ppm
    source: {package: river, file: river/drift/datasets/occupancy.csv, time: time, value: V4}
    labels: {package: river, file: river/drift/datasets/occupancy.py, literal: annotations}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from foreshore.errors import UserError


@dataclass(slots=True, frozen=True)
class Source:
    """A file inside an installed package (`package` set) or on disk, and its columns."""

    file: str
    package: str = ""
    time: str = "time"
    value: str = "value"


@dataclass(slots=True, frozen=True)
class Labels:
    """Where the change points are that people marked: a literal of this name in a file of a package."""

    file: str
    package: str
    literal: str


@dataclass(slots=True, frozen=True)
class Device:
    """One simulated device; `limit` bounds how many readings it replays (0: all)."""

    name: str
    quantity: str
    unit: str
    source: Source
    labels: Labels | None = None
    limit: int = 0


@dataclass(slots=True, frozen=True)
class Scenario:
    """A fleet. `rate` is readings a second over the whole fleet; 0 means as fast as the broker takes them."""

    name: str
    devices: tuple[Device, ...]
    topic: str = "devices/{device}/readings"
    rate: float = 0.0


def parse(text: str, where: str) -> Scenario:
    """Read a scenario. Raises UserError naming the file and the key."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"not a readable scenario: {error}", code="scenario", where=where) from error
    if not isinstance(document, dict) or not isinstance(document.get("devices"), dict):
        raise UserError("a scenario needs a `devices` mapping", code="scenario", where=where)
    unknown = set(document) - {"name", "topic", "rate", "devices"}
    if unknown:
        raise UserError(f"unknown keys: {', '.join(sorted(unknown))}", code="scenario", where=where)
    devices = tuple(_device(str(name), fields, where) for name, fields in document["devices"].items())
    rate = document.get("rate", 0)
    if not isinstance(rate, (int, float)) or rate < 0:
        raise UserError("`rate` is a number of readings a second", code="scenario", where=where)
    topic = str(document.get("topic", "devices/{device}/readings"))
    return Scenario(str(document.get("name", "scenario")), devices, topic, float(rate))


def _device(name: str, fields: Any, where: str) -> Device:
    try:
        labels = Labels(**fields["labels"]) if "labels" in fields else None
        kept = {key: fields[key] for key in ("quantity", "unit", "limit") if key in fields}
        unknown = set(fields) - {"quantity", "unit", "limit", "source", "labels"}
        if unknown:
            raise TypeError(f"unknown keys {', '.join(sorted(unknown))}")
        return Device(name, source=Source(**fields["source"]), labels=labels, **kept)
    except (TypeError, KeyError) as error:
        raise UserError(f"device {name}: {error}", code="scenario", where=where) from error
