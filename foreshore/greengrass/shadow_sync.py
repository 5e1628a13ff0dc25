"""Keeps shadows of the core and IoT Core's in step. Shell.

The cloud is spoken to on the shadow's own topics over MQTT. `base` is the state on which both sides last agreed; what
either changed since goes to the other. Where both changed the same, the cloud's `desired` and the device's `reported`
win (shadow manager 2.3). In real time each change goes at once; with the periodic strategy both sides are compared
every so often. While the link is down changes gather, and are compared when it is back.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import orjson

from foreshore.greengrass.shadow_settings import NAME, Bucket, Settings, Shadow
from foreshore.greengrass.shadow_store import ShadowStore
from foreshore.greengrass.shadows import State, merge, overwrite, patch_between, reconcile, same, without_own
from foreshore.seams import Publication

_ANSWERS = ("get/accepted", "get/rejected", "update/accepted", "update/rejected", "delete/accepted")


class Surroundings(Protocol):
    """What synchronization needs of its core."""

    thing: str

    async def subscribe_to_cloud(
        self, filter: str, qos: int, deliver: Callable[[Publication], None], /
    ) -> Callable[[], None]: ...

    async def publish_now(self, topic: str, payload: bytes, /) -> bool:
        """Publish at QoS 1 past the spooler; False when the link is down or breaks."""
        ...

    def on_cloud_state(self, callback: Callable[[bool], None], /) -> tuple[bool, Callable[[], None]]: ...

    def say(self, component: str, level: str, text: str, /) -> None: ...


class ShadowSync:
    """The synchronization of one core. `apply(shadow, patch)` and `remove(shadow)` change the local shadow."""

    def __init__(
        self,
        core: Surroundings,
        store: ShadowStore,
        apply: Callable[[Shadow, State], None],
        remove: Callable[[Shadow], None],
    ) -> None:
        self._core = core
        self._store = store
        self._apply = apply
        self._remove = remove
        self._settings = Settings()
        self._outbound = Bucket(self._settings.outbound_rate)
        self._following: dict[Shadow, list[Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Task[None] | None = None
        self._stop_listening: Callable[[], None] | None = None
        # Tells this core's own requests from those of every other client, also of other cores.
        self._mark = secrets.token_hex(8)
        self._pushes = 0
        # Compared with the cloud since the link came up: before that a push might undo the cloud's changes.
        self._in_step: set[Shadow] = set()
        # An update is on its way to the cloud; changed again meanwhile.
        self._pushing: set[Shadow] = set()
        self._dirty: set[Shadow] = set()

    def start(self) -> None:
        """Follow the link."""
        self._stop_listening = self._core.on_cloud_state(self._on_link)[1]

    async def stop(self) -> None:
        """Stop following."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
        for shadow in list(self._following):
            self._unfollow(shadow)
        tasks = [*self._tasks, *([self._timer] if self._timer else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def configure(self, settings: Settings) -> None:
        """Take new settings."""
        was, self._settings = self._settings, settings
        self._outbound.rate = settings.outbound_rate
        for shadow in set(self._following) - settings.shadows:
            self._unfollow(shadow)
        for shadow in settings.shadows - set(self._following):
            self._following[shadow] = []
            self._spawn(self._follow(shadow))
        if (was.delay_s, was.direction) != (settings.delay_s, settings.direction):
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if settings.delay_s is not None:
                self._timer = asyncio.ensure_future(self._every(settings.delay_s))
            self._compare_all()

    def changed(self, shadow: Shadow) -> None:
        """The local shadow was changed or deleted by a client."""
        if shadow in self._following and self._settings.to_cloud and self._settings.delay_s is None:
            self._spawn(self._push(shadow))

    # following

    async def _every(self, delay_s: float) -> None:
        while True:
            await asyncio.sleep(delay_s)
            self._compare_all()

    def _compare_all(self) -> None:
        for shadow, stops in self._following.items():
            if len(stops) == len(_ANSWERS):
                self._spawn(self._ask(shadow))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._core.say(NAME, "ERROR", f"synchronization failed: {error}")

    async def _follow(self, shadow: Shadow) -> None:
        for what in _ANSWERS:

            def deliver(publication: Publication, what: str = what) -> None:
                self._on_cloud(shadow, what, publication.payload)

            stop = await self._core.subscribe_to_cloud(f"{shadow.prefix}/{what}", 1, deliver)
            if shadow not in self._following:
                stop()
                return
            self._following[shadow].append(stop)
        await self._ask(shadow)

    def _unfollow(self, shadow: Shadow) -> None:
        for kept in (self._in_step, self._pushing, self._dirty):
            kept.discard(shadow)
        for stop in self._following.pop(shadow, ()):
            stop()

    def _on_link(self, connected: bool) -> None:
        if connected:
            self._compare_all()
        else:
            for kept in (self._in_step, self._pushing, self._dirty):
                kept.clear()

    # to the cloud

    def _token(self) -> str:
        self._pushes += 1
        return f"{self._mark}-{self._pushes}"

    async def _publish(self, shadow: Shadow, action: str, body: dict[str, Any]) -> bool:
        """One request, at the outbound rate."""
        wait_s = self._outbound.reserve(time.monotonic()) if action != "get" else 0.0
        if wait_s:
            await asyncio.sleep(wait_s)
        payload = orjson.dumps({**body, "clientToken": self._token()})
        return await self._core.publish_now(f"{shadow.prefix}/{action}", payload)

    async def _ask(self, shadow: Shadow) -> None:
        await self._publish(shadow, "get", {})

    async def _push(self, shadow: Shadow) -> None:
        """Send what the cloud does not have. What can't go now goes when both are compared again."""
        if shadow not in self._in_step:
            return
        if shadow in self._pushing:
            self._dirty.add(shadow)
            return
        document, base = self._store.read(*shadow)[0], self._store.base(*shadow)
        if document is not None:
            await self._send(shadow, patch_between(base or {}, document.state))
        elif base is not None:
            await self._send_deletion(shadow)

    async def _send(self, shadow: Shadow, patch: State) -> None:
        if patch:
            self._pushing.add(shadow)
            if not await self._publish(shadow, "update", {"state": patch}):
                self._pushing.discard(shadow)

    async def _send_deletion(self, shadow: Shadow) -> None:
        if await self._publish(shadow, "delete", {}):
            self._store.set_base(*shadow, None)

    def _landed(self, shadow: Shadow) -> None:
        """The cloud answered an update of ours: send what was changed meanwhile."""
        self._pushing.discard(shadow)
        if shadow in self._dirty:
            self._dirty.discard(shadow)
            self._spawn(self._push(shadow))

    # from the cloud

    def _on_cloud(self, shadow: Shadow, what: str, payload: bytes) -> None:
        try:
            message = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return
        if not isinstance(message, dict):
            return
        is_own = str(message.get("clientToken", "")).startswith(self._mark + "-")
        if what == "update/accepted":
            self._on_update(shadow, message.get("state") or {}, is_own)
        elif what == "update/rejected" and is_own:
            text = f"{message.get('code')} {message.get('message')}"
            self._core.say(NAME, "WARN", f"IoT Core rejected an update of {shadow.prefix}: {text}")
            self._landed(shadow)
        elif what == "delete/accepted" and not is_own:
            self._on_deletion(shadow)
        elif what == "get/accepted" and is_own:
            state = {name: part for name, part in (message.get("state") or {}).items() if name != "delta"}
            self._compare(shadow, state)
        elif what == "get/rejected" and is_own and message.get("code") == 404:
            self._compare(shadow, None)

    def _on_update(self, shadow: Shadow, patch: State, is_own: bool) -> None:
        if self._settings.delay_s is not None and not is_own:
            return
        base = self._store.base(*shadow) or {}
        document = self._store.read(*shadow)[0]
        self._store.set_base(*shadow, merge(base, patch))
        if is_own:
            self._landed(shadow)
        elif self._settings.to_device:
            wanted = without_own(base, document.state if document else {}, patch)
            if wanted:
                self._apply(shadow, wanted)

    def _on_deletion(self, shadow: Shadow) -> None:
        if self._settings.delay_s is None:
            self._store.set_base(*shadow, None)
            if self._settings.to_device:
                self._remove(shadow)

    def _compare(self, shadow: Shadow, cloud: State | None) -> None:
        """Bring both sides together after a get; `cloud` None: there is none."""
        self._in_step.add(shadow)
        self._pushing.discard(shadow)
        document, base = self._store.read(*shadow)[0], self._store.base(*shadow)
        device = document.state if document else None
        if cloud is None:
            self._compare_without_cloud(shadow, device, base)
        elif device is None and base is not None:
            self._compare_deleted(shadow, base, cloud)
        else:
            self._exchange(shadow, base or {}, device or {}, cloud)

    def _compare_without_cloud(self, shadow: Shadow, device: State | None, base: State | None) -> None:
        """The cloud has none: it was deleted there, unless the device changed its own since, or never had one."""
        self._store.set_base(*shadow, None)
        if device is None:
            return
        if self._settings.to_cloud and (base is None or not same(base, device)):
            self._spawn(self._send(shadow, device))
        elif self._settings.to_device and base is not None:
            self._remove(shadow)

    def _compare_deleted(self, shadow: Shadow, base: State, cloud: State) -> None:
        """The device deleted its own: so must the cloud, unless that was changed since."""
        is_changed = not same(base, cloud)
        if self._settings.to_cloud and not (is_changed and self._settings.to_device):
            self._spawn(self._send_deletion(shadow))
        elif is_changed and self._settings.to_device:
            self._store.set_base(*shadow, cloud)
            self._apply(shadow, cloud)

    def _exchange(self, shadow: Shadow, base: State, device: State, cloud: State) -> None:
        if self._settings.to_cloud and self._settings.to_device:
            outcome = reconcile(base, device, cloud)
        elif self._settings.to_cloud:
            outcome = overwrite(base, device, cloud)
        else:
            outcome = overwrite(base, cloud, device).turned()
        self._store.set_base(*shadow, cloud)
        if outcome.to_device:
            self._apply(shadow, outcome.to_device)
        if outcome.to_cloud:
            self._spawn(self._send(shadow, outcome.to_cloud))
