"""The Device Shadow service: the same documents over MQTT, HTTP and for a core's components.

Requests on `$aws/things/<thing>/shadow[/name/<shadow>]/{get,update,delete}` are answered on `/accepted` or
`/rejected`; an accepted update also publishes `/update/delta` and `/update/documents`. Updates and deletions are
published whichever way they came.

Sources: AWS IoT developer guide, "Device Shadow MQTT topics", "Device Shadow REST API".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import orjson

from foreshore.errors import AwsError
from foreshore.iot.shadow_documents import CODES, ShadowError, parse, shown, token_of, update
from foreshore.iot.store import Kind
from foreshore.seams import Publication

Json = Any
ACTIONS = ("get", "update", "delete")
FILTERS = tuple(f"$aws/things/+/shadow/{each}{action}" for each in ("", "name/+/") for action in ACTIONS)


VERSION_KEPT_S = 48 * 3600
"""How long a deleted shadow's version goes on in one that is made anew."""


class Bus(Protocol):
    """What of the broker the shadow service uses."""

    def publish(self, publication: Publication, /) -> None: ...

    def add_listener(self, filter: str, callback: Callable[[Publication], None], /) -> object: ...


class Shadows:
    """All shadows. `store` keeps a document a shadow under `<thing>/<name>`; `clock` gives seconds since the epoch."""

    def __init__(self, bus: Bus, store: Kind, clock: Callable[[], float]) -> None:
        self._bus = bus
        self._store = store
        self._clock = clock
        self._names: dict[str, set[str]] = {}
        for key in store.names():
            thing, _, name = key.partition("/")
            if "state" in (store.get(key) or {}):
                self._names.setdefault(thing, set()).add(name)
        for filter in FILTERS:
            bus.add_listener(filter, self._on_request)

    # HTTP, and a core's components

    def get(self, thing: str, name: str, /) -> bytes:
        """The document. Raises AwsError."""
        return self._over_http(lambda: self._get(thing, name, None))

    def update(self, thing: str, name: str, payload: bytes, /) -> bytes:
        """Apply an update; the notifications go out as for MQTT. Raises AwsError."""
        return self._over_http(lambda: self._update(thing, name, payload, None))

    def delete(self, thing: str, name: str, /) -> bytes:
        """Delete a shadow; its version goes on. Raises AwsError."""
        return self._over_http(lambda: self._delete(thing, name, None))

    def names(self, thing: str, /) -> list[str]:
        """The names of a thing's shadows, sorted; "" is the classic one."""
        return sorted(self._names.get(thing, ()))

    def documents(self, thing: str) -> dict[str, Json]:
        """A thing's documents by name, for the fleet index."""
        return {name: self._store.get(f"{thing}/{name}") for name in self.names(thing)}

    @staticmethod
    def _over_http(act: Callable[[], dict[str, Json]]) -> bytes:
        try:
            return orjson.dumps(act())
        except ShadowError as error:
            code = CODES.get(error.code, "InternalFailureException")
            raise AwsError(code, error.message, error.code, {"code": error.code}) from error

    # MQTT

    def _on_request(self, publication: Publication) -> None:
        levels = publication.topic.split("/")
        thing, action = levels[2], levels[-1]
        name = levels[5] if len(levels) == 7 else ""
        topic = _topic(thing, name, action)
        try:
            if action == "update":
                answer = self._update(thing, name, publication.payload, publication.traceparent)
            else:
                answer = self._ask(thing, name, action, publication.payload)
        except ShadowError as error:
            token = _token_anyway(publication.payload)
            answer = {"code": error.code, "message": error.message}  # The live service sends no timestamp here.
            if token:
                answer["clientToken"] = token
            self._tell(f"{topic}/rejected", answer, publication.traceparent)
            return
        if action == "get":
            self._tell(f"{topic}/accepted", answer, publication.traceparent)

    def _ask(self, thing: str, name: str, action: str, payload: bytes) -> dict[str, Json]:
        """Get or delete; what a delete request holds is ignored, but for a client token."""
        if action == "delete":
            return self._delete(thing, name, _token_anyway(payload))
        return self._get(thing, name, token_of(parse(payload)) if payload else None)

    def _tell(self, topic: str, message: dict[str, Json], traceparent: str | None) -> None:
        payload = orjson.dumps(message)
        self._bus.publish(Publication(topic, payload, qos=1, traceparent=traceparent))

    # The three actions

    def _existing(self, thing: str, name: str) -> dict[str, Json]:
        document = self._store.get(f"{thing}/{name}")
        if document is None or "state" not in document:
            raise ShadowError(404, f"No shadow exists with name: '{name or thing}'")
        return document

    def _get(self, thing: str, name: str, token: str | None) -> dict[str, Json]:
        return shown(self._existing(thing, name), int(self._clock()), token)

    def _kept(self, key: str) -> dict[str, Json] | None:
        """The document, or the version that a deleted one had within the last 48 hours ("Interacting with shadows")."""
        kept = self._store.get(key)
        if kept is None or "state" in kept:
            return kept
        if self._clock() - kept.get("deletedAt", self._clock()) > VERSION_KEPT_S:
            return None
        return {"version": kept["version"]}

    def _update(self, thing: str, name: str, payload: bytes, traceparent: str | None) -> dict[str, Json]:
        key = f"{thing}/{name}"
        result = update(self._kept(key), parse(payload), int(self._clock()))
        self._store.put(key, result.document)
        self._names.setdefault(thing, set()).add(name)
        topic = _topic(thing, name, "update")
        self._tell(f"{topic}/accepted", result.accepted, traceparent)
        if result.delta is not None:
            self._tell(f"{topic}/delta", result.delta, traceparent)
        self._tell(f"{topic}/documents", result.documents, traceparent)
        return result.accepted

    def _delete(self, thing: str, name: str, token: str | None) -> dict[str, Json]:
        version = self._existing(thing, name)["version"]
        self._store.put(f"{thing}/{name}", {"version": version, "deletedAt": int(self._clock())})
        self._names.get(thing, set()).discard(name)
        answer = {"version": version, "timestamp": int(self._clock())}
        if token:
            answer["clientToken"] = token
        self._tell(f"{_topic(thing, name, 'delete')}/accepted", answer, None)
        return answer


def _topic(thing: str, name: str, action: str) -> str:
    return f"$aws/things/{thing}/shadow" + (f"/name/{name}" if name else "") + f"/{action}"


def _token_anyway(payload: bytes) -> str | None:
    """The client token of a request that is wrong otherwise, so that its sender knows the answer."""
    try:
        return token_of(parse(payload))
    except ShadowError:
        return None
