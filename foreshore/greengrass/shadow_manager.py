"""aws.greengrass.ShadowManager: shadows on the core, for IPC and local publish/subscribe, in step with IoT Core's.

Local topics: `$aws/things/<thing>/shadow[/name/<name>]/{get,update,delete}`, answered on `/accepted` or `/rejected`,
with `/update/delta` and `/update/documents`. `synchronize` in the component's configuration says which shadows follow
the cloud, and which way. The cloud is spoken to on the same topics over MQTT; it wins where both sides changed the
same key. Source: Greengrass developer guide, "Shadow manager".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import orjson

from foreshore.errors import AwsError
from foreshore.greengrass.pubsub import LocalMessage
from foreshore.greengrass.shadow_store import ShadowStore
from foreshore.greengrass.shadows import (
    DEFAULT_SIZE_LIMIT,
    MAX_SIZE_LIMIT,
    Document,
    merge,
    patch_between,
    read_request,
    reconcile,
    update,
    view,
)
from foreshore.greengrass.spooler import size_of
from foreshore.seams import Publication

NAME = "aws.greengrass.ShadowManager"
TOKEN_PREFIX = "foreshore-core-"
_TOPIC = re.compile(r"\$aws/things/([^/]+)/shadow(?:/name/([^/]+))?/(get|update|delete)")
_FILTERS = [
    f"$aws/things/+/shadow{name}/{action}" for name in ("", "/name/+") for action in ("get", "update", "delete")
]


class Shadow(NamedTuple):
    """Which shadow: `name` is "" for the classic one."""

    thing: str
    name: str

    @property
    def prefix(self) -> str:
        """The topics' beginning."""
        return f"$aws/things/{self.thing}/shadow" + (f"/name/{self.name}" if self.name else "")


class Surroundings(Protocol):
    """What the manager needs of its core."""

    thing: str

    def now_ms(self) -> int: ...

    def publish_local(self, topic: str, payload: bytes, *, source: str, traceparent: str | None = None) -> None: ...

    def subscribe_local(
        self, filter: str, callback: Callable[[LocalMessage], None], *, source: str = "", others_only: bool = False
    ) -> Callable[[], None]: ...

    async def subscribe_to_cloud(
        self, filter: str, qos: int, deliver: Callable[[Publication], None], /
    ) -> Callable[[], None]: ...

    async def publish_now(self, topic: str, payload: bytes, /) -> bool:
        """Publish at QoS 1 past the spooler; False when the link is down or breaks."""
        ...

    def on_cloud_state(self, callback: Callable[[bool], None], /) -> tuple[bool, Callable[[], None]]: ...

    def say(self, component: str, level: str, text: str, /) -> None: ...


class Settings(NamedTuple):
    """The component's configuration: shadows to keep in step, the ways, and the size limit in bytes."""

    shadows: frozenset[Shadow]
    to_cloud: bool
    to_device: bool
    size_limit: int


def read_settings(configuration: Mapping[str, Any], core_thing: str) -> Settings:
    """Read `synchronize` and `shadowDocumentSizeLimitBytes`; what is absent or makes no sense is not synchronized."""
    synchronize = _map(configuration.get("synchronize"))
    direction = synchronize.get("direction")
    found = _shadows(core_thing, synchronize.get("coreThing"))
    for item in _list(synchronize.get("shadowDocuments")):
        found |= _shadows(str(_map(item).get("thingName") or ""), item)
    for thing, item in _map(synchronize.get("shadowDocumentsMap")).items():
        found |= _shadows(str(thing), item)
    limit = size_of(configuration.get("shadowDocumentSizeLimitBytes"), DEFAULT_SIZE_LIMIT)
    return Settings(
        frozenset(found), direction != "cloudToDevice", direction != "deviceToCloud", min(limit, MAX_SIZE_LIMIT)
    )


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _shadows(thing: str, item: object) -> set[Shadow]:
    """The shadows of one entry. `classic` is true unless it says otherwise."""
    if not thing or not isinstance(item, Mapping):
        return set()
    classic = [""] if str(item.get("classic", True)).lower() == "true" else []
    names = [str(name) for name in _list(item.get("namedShadows")) if name]
    return {Shadow(thing, name) for name in classic + names}


class ShadowManager:
    """The `Shadows` of one core."""

    def __init__(self, core: Surroundings, store: ShadowStore) -> None:
        self._core = core
        self._store = store
        self._settings = read_settings({}, core.thing)
        self._stops: list[Callable[[], None]] = []
        self._following: dict[Shadow, list[Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pushes = 0
        # Shadows that were compared with the cloud since the link came up: before that a push might undo its changes.
        self._in_step: set[Shadow] = set()

    async def start(self) -> None:
        """Answer on the local topics and follow the link."""
        for filter in _FILTERS:
            self._stops.append(self._core.subscribe_local(filter, self._on_local, source=NAME, others_only=True))
        self._stops.append(self._core.on_cloud_state(self._on_link)[1])

    async def stop(self) -> None:
        """Stop following; the documents stay."""
        for stop in self._stops:
            stop()
        self._stops.clear()
        for shadow in list(self._following):
            self._unfollow(shadow)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._store.close()

    async def configure(self, configuration: Mapping[str, Any] | None) -> None:
        """Take the component's configuration, now and whenever it changes."""
        self._settings = read_settings(configuration or {}, self._core.thing)
        for shadow in set(self._following) - self._settings.shadows:
            self._unfollow(shadow)
        for shadow in self._settings.shadows - set(self._following):
            self._following[shadow] = []
            self._spawn(self._follow(shadow))

    # the IPC's side

    async def get(self, thing: str, name: str | None) -> bytes:
        """The document, with its delta. Raises AwsError 404."""
        return self._get(Shadow(thing, name or ""), "")

    async def update(self, thing: str, name: str | None, payload: bytes) -> bytes:
        """Apply an update and give the accepted message. Raises AwsError 400, 409 or 413."""
        return self._update(Shadow(thing, name or ""), payload)

    async def delete(self, thing: str, name: str | None) -> bytes:
        """Delete the document. Raises AwsError 404."""
        return self._delete(Shadow(thing, name or ""), "")

    async def list_named(
        self, thing: str, next_token: str | None, page_size: int
    ) -> tuple[list[str], str | None, float]:
        """Named shadows, a page at a time; a token is the last name of the page before. Raises AwsError 400."""
        names = [name for name in self._store.names(thing) if not next_token or name > next_token]
        page = names[:page_size]
        more = page[-1] if len(names) > page_size else None
        return page, more, self._core.now_ms() / 1000

    def _get(self, shadow: Shadow, token: str) -> bytes:
        document, _ = self._store.read(*shadow)
        if document is None:
            raise _none(shadow)
        answer = view(document, self._now())
        return orjson.dumps({**answer, "clientToken": token} if token else answer)

    def _update(self, shadow: Shadow, payload: bytes) -> bytes:
        request = read_request(payload, self._settings.size_limit)
        accepted = self._apply(shadow, request)
        if shadow in self._following and self._settings.to_cloud:
            self._spawn(self._push(shadow))
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
        if shadow in self._following and self._settings.to_cloud:
            self._spawn(self._push_deletion(shadow))
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

    # the cloud

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._core.say(NAME, "ERROR", f"synchronization failed: {error}")

    async def _follow(self, shadow: Shadow) -> None:
        for what in ("get/accepted", "get/rejected", "update/accepted", "delete/accepted"):

            def deliver(publication: Publication, what: str = what) -> None:
                self._on_cloud(shadow, what, publication.payload)

            stop = await self._core.subscribe_to_cloud(f"{shadow.prefix}/{what}", 1, deliver)
            if shadow not in self._following:
                stop()
                return
            self._following[shadow].append(stop)
        await self._ask(shadow)

    def _unfollow(self, shadow: Shadow) -> None:
        self._in_step.discard(shadow)
        for stop in self._following.pop(shadow, ()):
            stop()

    def _on_link(self, connected: bool) -> None:
        if not connected:
            self._in_step.clear()
        for shadow, stops in self._following.items():
            if connected and len(stops) == 4:
                self._spawn(self._ask(shadow))

    def _new_token(self) -> str:
        self._pushes += 1
        return f"{TOKEN_PREFIX}{self._core.thing}-{self._pushes}"[-64:]

    async def _ask(self, shadow: Shadow) -> None:
        await self._core.publish_now(f"{shadow.prefix}/get", orjson.dumps({"clientToken": self._new_token()}))

    async def _push(self, shadow: Shadow) -> None:
        """Send what the cloud does not have. What can't go now goes when both are compared again."""
        document, _ = self._store.read(*shadow)
        if document is not None and shadow in self._in_step:
            await self._send(shadow, patch_between(self._store.base(*shadow) or {}, document.state))

    async def _send(self, shadow: Shadow, patch: dict[str, Any]) -> None:
        if patch:
            body = {"state": patch, "clientToken": self._new_token()}
            await self._core.publish_now(f"{shadow.prefix}/update", orjson.dumps(body))

    async def _push_deletion(self, shadow: Shadow) -> None:
        if await self._core.publish_now(f"{shadow.prefix}/delete", orjson.dumps({"clientToken": self._new_token()})):
            self._store.set_base(*shadow, None)

    def _on_cloud(self, shadow: Shadow, what: str, payload: bytes) -> None:
        try:
            message = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return
        if not isinstance(message, dict):
            return
        own = str(message.get("clientToken", "")).startswith(TOKEN_PREFIX + self._core.thing)
        if what == "update/accepted":
            self._on_cloud_update(shadow, message.get("state") or {}, own)
        elif what == "delete/accepted":
            self._on_cloud_deletion(shadow)
        elif what == "get/accepted" and own:
            state = {name: part for name, part in (message.get("state") or {}).items() if name != "delta"}
            self._reconcile(shadow, state)
        elif what == "get/rejected" and own and message.get("code") == 404:
            self._on_cloud_without(shadow)

    def _on_cloud_update(self, shadow: Shadow, patch: dict[str, Any], own: bool) -> None:
        base = self._store.base(*shadow) or {}
        self._store.set_base(*shadow, merge(base, patch))
        if not own and self._settings.to_device and patch:
            self._apply(shadow, {"state": patch})

    def _on_cloud_deletion(self, shadow: Shadow) -> None:
        self._store.set_base(*shadow, None)
        document, version = self._store.read(*shadow)
        if document is not None and self._settings.to_device:
            self._store.delete(*shadow, version)
            self._say(shadow, "delete/accepted", orjson.dumps({"version": version, "timestamp": self._now()}))

    def _on_cloud_without(self, shadow: Shadow) -> None:
        """The cloud has none: it was deleted there, or is not there yet."""
        self._in_step.add(shadow)
        if self._store.base(*shadow) is not None:
            self._on_cloud_deletion(shadow)
        elif self._settings.to_cloud:
            document, _ = self._store.read(*shadow)
            if document is not None:
                self._spawn(self._send(shadow, document.state))

    def _reconcile(self, shadow: Shadow, cloud: dict[str, Any]) -> None:
        self._in_step.add(shadow)
        document: Document | None = self._store.read(*shadow)[0]
        outcome = reconcile(self._store.base(*shadow) or {}, document.state if document else {}, cloud)
        self._store.set_base(*shadow, cloud)
        if outcome.to_device and self._settings.to_device:
            self._apply(shadow, {"state": outcome.to_device})
        if outcome.to_cloud and self._settings.to_cloud:
            self._spawn(self._send(shadow, outcome.to_cloud))

    def _now(self) -> int:
        return self._core.now_ms() // 1000


def _none(shadow: Shadow) -> AwsError:
    what = f"name: '{shadow.name}'" if shadow.name else f"name: '{shadow.thing}'"
    return AwsError("ResourceNotFoundException", f"No shadow exists with {what}", 404)


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
