"""A device shadow's document: update, delta, metadata, limits, and the three-way merge with the cloud's. Pure.

Sources: IoT Core developer guide, "Device Shadow service documents" and "Device Shadow error messages"; Greengrass
developer guide, "Shadow manager". Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from foreshore.errors import AwsError

DEFAULT_SIZE_LIMIT = 8 * 1024
MAX_SIZE_LIMIT = 30 * 1024
MAX_DEPTH = 6
SECTIONS = ("desired", "reported")

State = dict[str, Any]


class Document(NamedTuple):
    """A shadow. `state` and `metadata` have `desired` and `reported`, each only when it has content."""

    state: State
    metadata: State
    version: int


class Updated(NamedTuple):
    """What an update made of a shadow: the new document, and the three messages about it (`delta` only if there is)."""

    document: Document
    accepted: State
    delta: State | None
    documents: State


def read_request(payload: bytes, size_limit: int) -> State:
    """An update request's JSON. Raises AwsError 400 or 413 with IoT Core's words."""
    if len(payload) > size_limit:
        raise AwsError("RequestEntityTooLargeException", "The payload exceeds the maximum size allowed", 413)
    try:
        request = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise _bad("Invalid JSON") from error
    if not isinstance(request, dict):
        raise _bad("Invalid JSON")
    state = request.get("state")
    if "state" not in request:
        raise _bad("Missing required node: state")
    if not isinstance(state, dict):
        raise _bad("State node must be an object")
    for name in SECTIONS:
        section = state.get(name)
        if section is not None and not isinstance(section, dict):
            raise _bad(f"{name.capitalize()} node must be an object")
        if depth_of(section) > MAX_DEPTH:
            raise _bad(f"JSON contains too many levels of nesting; maximum is {MAX_DEPTH}")
    for name in state:
        if name not in SECTIONS:
            raise _bad(f"State contains an invalid node: '{name}'")
    version = request.get("version")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise _bad("Invalid version")
    token = request.get("clientToken")
    if token is not None and (not isinstance(token, str) or len(token.encode()) > 64):
        raise _bad("Invalid clientToken")
    return request


def _bad(message: str) -> AwsError:
    return AwsError("InvalidRequestException", message, 400)


def depth_of(value: object) -> int:
    """Levels of nested keys and list items; a scalar has none, nor has what is empty."""
    if isinstance(value, dict | list) and value:
        return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value))
    return 0


def update(current: Document | None, last_version: int, request: State, now_s: int) -> Updated:
    """Apply a checked request. `last_version` is the newest version the shadow ever had, 0 for none. Raises 409."""
    wanted = request.get("version")
    if wanted is not None and wanted != (current.version if current else last_version):
        raise AwsError("ConflictException", "Version conflict", 409)
    patch: State = request["state"]
    before = current or Document({}, {}, last_version)
    state = {name: merge(before.state.get(name, {}), patch.get(name), name in patch) for name in SECTIONS}
    marks = {name: stamp(before.metadata.get(name, {}), patch.get(name), now_s, name in patch) for name in SECTIONS}
    document = Document(_filled(state), _filled(marks), before.version + 1)
    token = {"clientToken": request["clientToken"]} if request.get("clientToken") else {}
    changed = {name: stamp({}, patch[name], now_s, True) for name in SECTIONS if patch.get(name)}
    accepted = {"state": patch, "metadata": changed, "version": document.version, "timestamp": now_s, **token}
    delta = delta_message(document, now_s) if patch.get("desired") is not None or "reported" in patch else None
    documents: State = {"current": _plain(document), "timestamp": now_s, **token}
    if current is not None:
        documents["previous"] = _plain(current)
    return Updated(document, accepted, {**delta, **token} if delta else None, documents)


def delta_message(document: Document, now_s: int) -> State | None:
    """The delta message of a shadow, or None when desired and reported agree."""
    desired = document.state.get("desired", {})
    difference = delta_of(desired, document.state.get("reported", {}))
    if not difference:
        return None
    marks = _select(document.metadata.get("desired", {}), difference)
    return {"version": document.version, "timestamp": now_s, "state": difference, "metadata": marks}


def view(document: Document, now_s: int) -> State:
    """What a get answers."""
    state = dict(document.state)
    difference = delta_of(state.get("desired", {}), state.get("reported", {}))
    if difference:
        state["delta"] = difference
    return {"state": state, "metadata": document.metadata, "version": document.version, "timestamp": now_s}


def merge(base: State, patch: State | None, present: bool = True) -> State:
    """A section with a patch: null removes, objects merge, all else replaces. A null patch empties the section."""
    if not present:
        return base
    if patch is None:
        return {}
    merged = dict(base)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def stamp(base: State, patch: State | None, now_s: int, present: bool = True) -> State:
    """A section's metadata with a patch: `{"timestamp": …}` at every leaf that was written."""
    if not present:
        return base
    if patch is None:
        return {}
    marks = dict(base)
    for key, value in patch.items():
        if value is None:
            marks.pop(key, None)
        elif isinstance(value, dict):
            below = marks.get(key)
            is_map = isinstance(below, dict) and not _is_mark(below)
            marks[key] = stamp(below if is_map and isinstance(below, dict) else {}, value, now_s)
        else:
            marks[key] = _mark(value, now_s)
    return marks


def _mark(value: object, now_s: int) -> object:
    if isinstance(value, list):
        return [_mark(item, now_s) for item in value]
    if isinstance(value, dict):
        return {key: _mark(item, now_s) for key, item in value.items()}
    return {"timestamp": now_s}


def _is_mark(value: Mapping[str, Any]) -> bool:
    return set(value) == {"timestamp"} and isinstance(value["timestamp"], int)


def delta_of(desired: State, reported: State) -> State:
    """What of `desired` is missing or other in `reported`."""
    difference: State = {}
    for key, value in desired.items():
        other = reported.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            below = delta_of(value, other)
            if below:
                difference[key] = below
        elif key not in reported or not same(value, other):
            difference[key] = value
    return difference


def _select(marks: State, shape: State) -> State:
    """The part of the metadata that a delta's shape covers."""
    return {
        key: _select(marks[key], value) if isinstance(value, dict) and isinstance(marks[key], dict) else marks[key]
        for key, value in shape.items()
        if key in marks
    }


def _filled(sections: State) -> State:
    return {name: section for name, section in sections.items() if section}


def _plain(document: Document) -> State:
    return {"state": document.state, "metadata": document.metadata, "version": document.version}


def same(one: object, other: object) -> bool:
    """Equal as JSON: true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def patch_between(old: State, new: State) -> State:
    """The patch that makes `new` of `old`; null for what went away."""
    patch: State = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            below = patch_between(before, value)
            if below:
                patch[key] = below
        elif key not in old or not same(before, value):
            patch[key] = value
    return patch


def without(patch: State, other: State) -> State:
    """A patch without what another patch also sets: the other wins."""
    left: State = {}
    for key, value in patch.items():
        if key not in other:
            left[key] = value
        elif isinstance(value, dict) and isinstance(other[key], dict):
            below = without(value, other[key])
            if below:
                left[key] = below
    return left


class Reconciled(NamedTuple):
    """Patches that bring both sides together, and what both then have."""

    to_device: State
    to_cloud: State
    base: State

    def turned(self) -> Reconciled:
        """The same with both sides exchanged."""
        return Reconciled(self.to_cloud, self.to_device, self.base)


def reconcile(base: State, device: State, cloud: State) -> Reconciled:
    """Three-way merge of states since they last agreed on `base`.

    Where both changed the same thing, the cloud's `desired` and the device's `reported` win (shadow manager 2.3).
    """
    to_device: State = {}
    to_cloud: State = {}
    agreed: State = {}
    for name in SECTIONS:
        before, mine, theirs = (side.get(name) or {} for side in (base, device, cloud))
        ours, others = patch_between(before, mine), patch_between(before, theirs)
        if name == "desired":
            ours = without(ours, others)
        else:
            others = without(others, ours)
        both = merge(merge(before, others), ours)
        to_device[name], to_cloud[name] = patch_between(mine, both), patch_between(theirs, both)
        agreed[name] = both
    return Reconciled(_filled(to_device), _filled(to_cloud), _filled(agreed))


def overwrite(base: State, device: State, cloud: State) -> Reconciled:
    """One way only: what the cloud gets when the device changed since `base`; the device keeps what it has."""
    if same(_filled(base), _filled(device)):
        return Reconciled({}, {}, cloud)
    patches = {name: patch_between(cloud.get(name) or {}, device.get(name) or {}) for name in SECTIONS}
    return Reconciled({}, _filled(patches), device)


def without_own(base: State, device: State, patch: State) -> State:
    """A cloud's update as the device takes it: what it `reported` itself and has not sent yet stays."""
    own = patch_between(base.get("reported") or {}, device.get("reported") or {})
    reported = patch.get("reported")
    if not own or reported is None:
        return patch
    left = {**patch, "reported": without(reported, own)}
    return {name: section for name, section in left.items() if section != {}}
