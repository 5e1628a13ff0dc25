"""aws.greengrass.ShadowManager: shadows on the core, for IPC and local publish/subscribe, in step with IoT Core's.

Local topics: `$aws/things/<thing>/shadow[/name/<name>]/{get,update,delete}`, answered on `/accepted` or `/rejected`,
with `/update/delta` and `/update/documents`. `shadow_sync` keeps those that `synchronize` names in step with the
cloud. Source: Greengrass developer guide, "Shadow manager".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from foreshore.errors import AwsError, UserError
from foreshore.greengrass.pubsub import LocalMessage
from foreshore.greengrass.shadow_settings import NAME, Rates, Settings, Shadow, read_settings
from foreshore.greengrass.shadow_store import ShadowStore
from foreshore.greengrass.shadow_sync import ShadowSync
from foreshore.greengrass.shadow_sync import Surroundings as SyncSurroundings
from foreshore.greengrass.shadows import State, read_request, update, view

_TOPIC = re.compile(r"\$aws/things/([^/]+)/shadow(?:/name/([^/]+))?/(get|update|delete)")
_FILTERS = [
    f"$aws/things/+/shadow{name}/{action}" for name in ("", "/name/+") for action in ("get", "update", "delete")
]


class Surroundings(SyncSurroundings, Protocol):
    """What the manager needs of its core."""

    def now_ms(self) -> int: ...

    def publish_local(self, topic: str, payload: bytes, *, source: str, traceparent: str | None = None) -> None: ...

    def subscribe_local(
        self, filter: str, callback: Callable[[LocalMessage], None], *, source: str = "", others_only: bool = False
    ) -> Callable[[], None]: ...


class ShadowManager:
    """The `Shadows` of one core."""

    def __init__(self, core: Surroundings, store: ShadowStore) -> None:
        self._core = core
        self._store = store
        self._settings = Settings()
        self._rates = Rates()
        self._sync = ShadowSync(core, store, self._take, self._drop)
        self._stops: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Answer on the local topics and follow the link."""
        for filter in _FILTERS:
            self._stops.append(self._core.subscribe_local(filter, self._on_local, source=NAME, others_only=True))
        self._sync.start()

    async def stop(self) -> None:
        """Stop following; the documents stay."""
        for stop in self._stops:
            stop()
        self._stops.clear()
        await self._sync.stop()
        self._store.close()

    async def configure(self, configuration: Mapping[str, Any] | None) -> None:
        """Take the component's configuration, now and whenever it changes. Raises UserError for what is wrong in it."""
        self._settings, findings = read_settings(configuration or {}, self._core.thing)
        self._rates.configure(self._settings)
        self._sync.configure(self._settings)
        if findings:
            raise UserError("; ".join(findings), code="bad-configuration", where=NAME)

    # the IPC's side

    async def get(self, thing: str, name: str | None) -> bytes:
        """The document, with its delta. Raises AwsError 404 or 429."""
        self._throttle(thing)
        return self._get(Shadow(thing, name or ""), "")

    async def update(self, thing: str, name: str | None, payload: bytes) -> bytes:
        """Apply an update and give the accepted message. Raises AwsError 400, 409, 413 or 429."""
        self._throttle(thing)
        return self._update(Shadow(thing, name or ""), payload)

    async def delete(self, thing: str, name: str | None) -> bytes:
        """Delete the document. Raises AwsError 404 or 429."""
        self._throttle(thing)
        return self._delete(Shadow(thing, name or ""), "")

    async def list_named(
        self, thing: str, next_token: str | None, page_size: int
    ) -> tuple[list[str], str | None, float]:
        """Named shadows, a page at a time; a token is the last name of the page before. Raises AwsError 400."""
        names = [name for name in self._store.names(thing) if not next_token or name > next_token]
        page = names[:page_size]
        more = page[-1] if len(names) > page_size else None
        return page, more, self._core.now_ms() / 1000

    def _throttle(self, thing: str) -> None:
        if not self._rates.take(thing, time.monotonic()):
            raise AwsError("ThrottlingException", "Too Many Requests", 429)

    def _get(self, shadow: Shadow, token: str) -> bytes:
        document, _ = self._store.read(*shadow)
        if document is None:
            raise _none(shadow)
        answer = view(document, self._now())
        return orjson.dumps({**answer, "clientToken": token} if token else answer)

    def _update(self, shadow: Shadow, payload: bytes) -> bytes:
        request = read_request(payload, self._settings.size_limit)
        accepted = self._apply(shadow, request)
        self._sync.changed(shadow)
        return accepted

    def _apply(self, shadow: Shadow, request: dict[str, Any]) -> bytes:
        current, last = self._store.read(*shadow)
        done = update(current, last, request, self._now())
        if len(orjson.dumps(done.document.state)) > self._settings.size_limit:
            raise AwsError("RequestEntityTooLargeException", "The payload exceeds the maximum size allowed", 413)
        self._store.write(*shadow, done.document)
        accepted = orjson.dumps(done.accepted)
        self._say(shadow, "update/accepted", accepted)
        if done.delta is not None:
            self._say(shadow, "update/delta", orjson.dumps(done.delta))
        self._say(shadow, "update/documents", orjson.dumps(done.documents))
        return accepted

    def _delete(self, shadow: Shadow, token: str) -> bytes:
        document, version = self._store.read(*shadow)
        if document is None:
            raise _none(shadow)
        self._store.delete(*shadow, version)
        answer: dict[str, Any] = {"version": version, "timestamp": self._now()}
        payload = orjson.dumps({**answer, "clientToken": token} if token else answer)
        self._say(shadow, "delete/accepted", payload)
        self._sync.changed(shadow)
        return payload

    # local publish/subscribe

    def _on_local(self, message: LocalMessage) -> None:
        match = _TOPIC.fullmatch(message.topic)
        if match is None:
            return
        shadow, action = Shadow(match[1], match[2] or ""), match[3]
        token = ""
        try:
            if action == "update":
                token = _token(message.payload)
                self._update(shadow, message.payload)
                return
            token = _token(message.payload)
            if action == "get":
                self._say(shadow, "get/accepted", self._get(shadow, token))
            else:
                self._delete(shadow, token)
        except AwsError as error:
            body: dict[str, Any] = {"code": error.status, "message": error.message, "timestamp": self._now()}
            self._say(shadow, f"{action}/rejected", orjson.dumps({**body, "clientToken": token} if token else body))

    def _say(self, shadow: Shadow, what: str, payload: bytes) -> None:
        self._core.publish_local(f"{shadow.prefix}/{what}", payload, source=NAME)

    # what the cloud changed

    def _take(self, shadow: Shadow, patch: State) -> None:
        try:
            self._apply(shadow, {"state": patch})
        except AwsError as error:
            self._core.say(NAME, "ERROR", f"the cloud's update of {shadow.prefix} can't be taken: {error.message}")

    def _drop(self, shadow: Shadow) -> None:
        document, version = self._store.read(*shadow)
        if document is not None:
            self._store.delete(*shadow, version)
            self._say(shadow, "delete/accepted", orjson.dumps({"version": version, "timestamp": self._now()}))

    def _now(self) -> int:
        return self._core.now_ms() // 1000


def _none(shadow: Shadow) -> AwsError:
    text = f"No shadow exists with name: {shadow.name or 'Unnamed Shadow'}"
    return AwsError("ResourceNotFoundException", text, 404)


def _token(payload: bytes) -> str:
    """A request's clientToken; "" when it has none or is no JSON."""
    if not payload:
        return ""
    try:
        request = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return ""
    token = request.get("clientToken") if isinstance(request, dict) else None
    return token if isinstance(token, str) else ""
