"""Device shadow documents: merge, delta, metadata, limits and the error texts AWS gives. Pure; times are whole seconds.

A stored shadow is `{"state": {"desired", "reported"}, "metadata": {…}, "version": n, "timestamp": s}`; a deleted one
keeps its version only, because deleting does not reset it.

Sources: AWS IoT developer guide, "Device Shadow service documents", "Device Shadow error messages", "Using shadows in
devices"; quotas of AWS IoT Device Shadow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

Json = Any

MAX_DOCUMENT = 8 * 1024
MAX_DEPTH = 8
MAX_TOKEN = 64
SECTIONS = ("desired", "reported")
CODES = {
    400: "InvalidRequestException",
    401: "UnauthorizedException",
    403: "ForbiddenException",
    404: "ResourceNotFoundException",
    409: "ConflictException",
    413: "RequestEntityTooLargeException",
    415: "UnsupportedDocumentEncodingException",
    429: "ThrottlingException",
}


class ShadowError(Exception):
    """A refusal: `code` as the error topics carry it, and AWS's text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(slots=True, frozen=True)
class Update:
    """What one accepted update gives: the new document and the three messages (delta None when there is none)."""

    document: dict[str, Json]
    accepted: dict[str, Json]
    delta: dict[str, Json] | None
    documents: dict[str, Json]


def parse(payload: bytes) -> dict[str, Json]:
    """Read a request. Raises ShadowError."""
    if len(payload) > MAX_DOCUMENT:
        raise ShadowError(413, "The payload exceeds the maximum size allowed")
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ShadowError(415, "Unsupported documented encoding; supported encoding is UTF-8") from error
    try:
        request = orjson.loads(payload.rstrip(b"\0"))  # The shadow demo of AWS's SDK for C sends the string's end too.
    except orjson.JSONDecodeError as error:
        raise ShadowError(400, "Invalid JSON") from error
    if not isinstance(request, dict):
        raise ShadowError(400, "Invalid JSON")
    return request


def token_of(request: Mapping[str, Json]) -> str | None:
    """The client token. Raises ShadowError."""
    token = request.get("clientToken")
    if token is not None and (not isinstance(token, str) or len(token.encode()) > MAX_TOKEN):
        raise ShadowError(400, "Invalid clientToken")
    return token


def update(current: Mapping[str, Json] | None, request: Mapping[str, Json], now: int) -> Update:
    """Apply an update request to a shadow (None: there was never one). Raises ShadowError."""
    token = token_of(request)
    sent = _sent_state(request)
    before = current or {}
    version = int(before.get("version", 0))
    _check_version(request, version)
    old_state, old_metadata = before.get("state") or {}, before.get("metadata") or {}
    state, metadata = dict(old_state), dict(old_metadata)
    for section in SECTIONS:
        if section not in sent:
            continue
        if sent[section] is None:
            state.pop(section, None)
            metadata.pop(section, None)
            continue
        old: dict[str, Json] = old_state.get(section) or {}
        old_stamps: dict[str, Json] = old_metadata.get(section) or {}
        state[section], metadata[section] = _merged(old, old_stamps, sent[section], now)
        if not state[section]:
            del state[section], metadata[section]
    if len(orjson.dumps(state)) > MAX_DOCUMENT:
        raise ShadowError(413, "The payload exceeds the maximum size allowed")
    document = {
        "state": _in_order(state), "metadata": _in_order(metadata), "version": version + 1, "timestamp": now,
    }  # fmt: skip
    tail: dict[str, Json] = {"version": version + 1, "timestamp": now, **({"clientToken": token} if token else {})}
    stamps = {section: _stamps(value, now) for section, value in sent.items() if value is not None}
    accepted = {"state": dict(sent), "metadata": stamps, **tail}
    if request["state"] is None:
        # As the live service answers it: the state null, and a bare timestamp as metadata.
        accepted |= {"state": None, "metadata": {"timestamp": now}}
    return Update(document, accepted, _delta_message(document, tail), _documents_message(before, document, tail))


def _in_order(sections: Mapping[str, Json]) -> dict[str, Json]:
    """Desired before reported, as AWS prints them."""
    return {section: sections[section] for section in SECTIONS if section in sections}


def _sent_state(request: Mapping[str, Json]) -> dict[str, Json]:
    if "state" not in request:
        raise ShadowError(400, "Missing required node: state")
    state = request["state"]
    if state is None:
        return dict.fromkeys(SECTIONS)
    if not isinstance(state, dict):
        raise ShadowError(400, "State node must be an object")
    unknown = [name for name in state if name not in SECTIONS]
    if unknown:
        raise ShadowError(400, f"State contains an invalid node: '{unknown[0]}'")
    for section in SECTIONS:
        value = state.get(section)
        if value is not None and not isinstance(value, dict):
            raise ShadowError(400, f"{section.capitalize()} node must be an object")
        _check_node(value, 1, section)
    return state


def _check_node(value: Json, depth: int, name: str) -> None:
    """Depth, and no null inside an array (a null property means removal, a null item would mean nothing)."""
    if depth > MAX_DEPTH + 1:
        raise ShadowError(400, f"JSON contains too many levels of nesting; maximum is {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_node(item, depth + 1, key)
    elif isinstance(value, list):
        for item in value:
            if item is None:
                raise ShadowError(400, f"State contains an invalid node: '{name}'")
            _check_node(item, depth + 1, name)


def _check_version(request: Mapping[str, Json], version: int) -> None:
    asked = request.get("version")
    if asked is None:
        return
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 0:
        raise ShadowError(400, "Invalid version")
    if asked != version:
        raise ShadowError(409, "Version conflict")


def _merged(
    old: Mapping[str, Json], old_stamps: Mapping[str, Json], new: Mapping[str, Json], now: int
) -> tuple[dict[str, Json], dict[str, Json]]:
    """Deep-merge objects, replace everything else, remove what is null; with the metadata beside it."""
    state, stamps = dict(old), dict(old_stamps)
    for key, value in new.items():
        if value is None:
            state.pop(key, None)
            stamps.pop(key, None)
        elif isinstance(value, dict):
            under, under_stamps = old.get(key), old_stamps.get(key)
            if not isinstance(under, dict) or not isinstance(under_stamps, dict):
                under, under_stamps = {}, {}
            state[key], stamps[key] = _merged(under, under_stamps, value, now)
        else:
            state[key], stamps[key] = value, _stamps(value, now)
    return state, stamps


def _stamps(value: Json, now: int) -> Json:
    """Metadata of the shape of a value: a timestamp at each leaf, nothing for what was null."""
    if isinstance(value, dict):
        return {key: _stamps(item, now) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_stamps(item, now) for item in value]
    return {"timestamp": now}


def delta(desired: Mapping[str, Json], reported: Mapping[str, Json]) -> dict[str, Json]:
    """What is desired and not reported so: objects member by member, arrays whole."""
    found: dict[str, Json] = {}
    for key, value in desired.items():
        there = reported.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            under = delta(value, there)
            if under:
                found[key] = under
        elif key not in reported or there != value or type(there) is not type(value):
            found[key] = value
    return found


def _delta_of(document: Mapping[str, Json]) -> dict[str, Json]:
    state = document.get("state") or {}
    return delta(state.get("desired") or {}, state.get("reported") or {})


def _delta_message(document: Mapping[str, Json], tail: Mapping[str, Json]) -> dict[str, Json] | None:
    found = _delta_of(document)
    if not found:
        return None
    stamps = (document.get("metadata") or {}).get("desired") or {}
    message = {"version": tail["version"], "timestamp": tail["timestamp"], "state": found}
    return {**message, "metadata": _select(stamps, found), **tail}


def _select(stamps: Json, chosen: Json) -> Json:
    """The part of the metadata that belongs to a part of the state."""
    if isinstance(chosen, dict) and isinstance(stamps, dict):
        return {key: _select(stamps[key], item) for key, item in chosen.items() if key in stamps}
    return stamps


def _documents_message(
    before: Mapping[str, Json], after: Mapping[str, Json], tail: Mapping[str, Json]
) -> dict[str, Json]:
    """What changed; nothing came before a shadow that is new, or new again after its deletion."""

    def shown(document: Mapping[str, Json]) -> dict[str, Json] | None:
        if "state" not in document:
            return None
        return {name: document[name] for name in ("state", "metadata", "version")}

    message = {"previous": shown(before), "current": shown(after)}
    return {**message, **{name: value for name, value in tail.items() if name != "version"}}


def shown(document: Mapping[str, Json], now: int, token: str | None = None) -> dict[str, Json]:
    """What a get answers with: the state with its delta, the metadata, version and time."""
    state = dict(document["state"])
    difference = _delta_of(document)
    if difference:
        state["delta"] = difference
    tail = {"clientToken": token} if token else {}
    return {"state": state, "metadata": document["metadata"], "version": document["version"], "timestamp": now, **tail}
