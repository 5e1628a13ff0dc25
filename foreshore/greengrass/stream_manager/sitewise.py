"""Messages of a stream as entries of BatchPutAssetPropertyValue, and what its answer says. Pure.

A message is one PutAssetPropertyValueEntry in JSON. Entry ids must differ within a batch, and two entries with the
same property and timestamp conflict, so a batch ends before such a message (stream manager component, changes of
2.1.4). Source: IoT SiteWise API reference, BatchPutAssetPropertyValue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from foreshore.greengrass.stream_manager.outcomes import Outcome, TryAgain
from foreshore.greengrass.stream_manager.streams import Message

MAX_VALUES = 10
# What another try can mend; everything else is refused for good (stream manager component, changes of 2.1.8).
_PASSING = {
    "InternalFailureException",
    "ServiceUnavailableException",
    "ThrottlingException",
    "LimitExceededException",
    "ConflictingOperationException",
    "NotEmulated",
}


@dataclass(slots=True)
class Plan:
    """The entries of the first `count` messages; `places` has each entry's message, `error` tells of skipped ones."""

    count: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    error: str | None = None


def is_final(code: str) -> bool:
    """Whether an error stays, however often the batch is sent."""
    return code.endswith("Exception") and code not in _PASSING


def plan(batch: Sequence[Message]) -> Plan:
    """As many messages as one call can take."""
    made = Plan()
    taken: set[tuple[str, int, int]] = set()
    for place, message in enumerate(batch):
        try:
            entry, points = _read(message.payload)
        except (ValueError, KeyError, TypeError) as error:
            made.error = f"message {message.sequence} is no PutAssetPropertyValueEntry: {error}"
            made.count += 1
            continue
        if entry["entryId"] in made.places or taken & points:
            return made
        taken |= points
        made.entries.append(entry)
        made.places[entry["entryId"]] = place
        made.count += 1
    return made


def _read(payload: bytes) -> tuple[dict[str, Any], set[tuple[str, int, int]]]:
    """An entry and its (property, second, nanosecond)s. Raises ValueError, KeyError, TypeError."""
    entry = orjson.loads(payload)
    if not isinstance(entry, dict) or not isinstance(entry["entryId"], str):
        raise ValueError("entryId is required")
    values = entry["propertyValues"]
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_VALUES:
        raise ValueError(f"propertyValues must have 1 to {MAX_VALUES} items")
    named = entry.get("propertyAlias") or f"{entry['assetId']}/{entry['propertyId']}"
    stamps = [value["timestamp"] for value in values]
    points = {(named, int(stamp["timeInSeconds"]), int(stamp.get("offsetInNanos") or 0)) for stamp in stamps}
    if len(points) != len(values):
        raise ValueError("two values have the same timestamp")
    return entry, points


def read_answer(plan: Plan, answer: Mapping[str, Any]) -> Outcome:
    """How far the call came: to the first entry that another try can mend. Raises TryAgain when it came nowhere."""
    done, text = plan.count, plan.error
    for entry in answer.get("errorEntries") or ():
        place = plan.places.get(entry["entryId"], 0)
        for error in entry["errors"]:
            text = f"IotSitewise: {error['errorCode']}: {error.get('errorMessage', '')}"
            if not is_final(error["errorCode"]):
                done = min(done, place)
    if done == 0:
        raise TryAgain(text or "IotSitewise: refused")
    return Outcome(done, text)
