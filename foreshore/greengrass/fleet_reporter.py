"""Publishes the core's fleet status: at launch, after deployments, on changes of state, on reconnection, daily. Shell.

Changes gather for ten seconds after a message, as in the nucleus; while the link is down only what a cloud deployment
ended with is kept for later.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from foreshore.database import Database
from foreshore.errors import AwsError
from foreshore.greengrass import fleet_status
from foreshore.greengrass.components import DeploymentStatus
from foreshore.greengrass.fleet_status import Component, Trigger
from foreshore.greengrass.provided import GGC_VERSION
from foreshore.seams import Publication

NAME = "FleetStatusService"
_SCHEMA = "CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
_ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "arm64": "aarch64"}


class Surroundings(Protocol):
    """What the reporter needs of its core."""

    thing: str

    def fleet(self) -> list[Component]:
        """Every component."""
        ...

    def is_deploying(self) -> bool:
        """Whether a deployment is in progress: until its end changes of state wait for its message."""
        ...

    def now_ms(self) -> int: ...

    def publish_to_cloud(self, publication: Publication, source: str, /) -> None: ...

    def on_cloud_state(self, callback: Callable[[bool], None], /) -> tuple[bool, Callable[[], None]]: ...

    def say(self, component: str, level: str, text: str, /) -> None: ...


class FleetReporter:
    """The fleet status of one core."""

    def __init__(self, core: Surroundings, path: Path) -> None:
        self._core = core
        self._database = Database(path, _SCHEMA)
        machine = platform.machine()
        architecture = _ARCHITECTURES.get(machine, machine)
        self._facts = fleet_status.Core(core.thing, GGC_VERSION, platform.system().lower(), architecture)
        self._cadence_s = fleet_status.CADENCE_S
        self._connected = False
        self._stop_listening: Callable[[], None] | None = None
        self._changed: set[str] = set()
        self._is_launched = False
        self._last_s = float("-inf")
        self._reconnected_s = float("-inf")
        self._soon: asyncio.TimerHandle | None = None
        self._daily: asyncio.TimerHandle | None = None

    @property
    def topic(self) -> str:
        """Where the messages go."""
        return f"$aws/things/{self._core.thing}/greengrassv2/health/json"

    def configure(self, nucleus: Mapping[str, Any]) -> None:
        """Take the nucleus's configuration."""
        self._cadence_s = fleet_status.cadence_s(nucleus)
        if self._is_launched:
            self._plan_cadence()

    def launched(self) -> None:
        """The components are being started: a complete message, then one on every occasion."""
        self._is_launched = True
        self._connected, self._stop_listening = self._core.on_cloud_state(self._on_link)
        self._publish("NUCLEUS_LAUNCH", None)
        self._plan_cadence()

    def stop(self) -> None:
        """Publish nothing more."""
        self._is_launched = False
        for timer in (self._soon, self._daily):
            if timer is not None:
                timer.cancel()
        if self._stop_listening is not None:
            self._stop_listening()
        self._database.close()

    def on_state(self, name: str, state: str) -> None:
        """A component's state changed."""
        self._changed.add(name)
        if not self._is_launched:
            return
        states = [each.state for each in self._core.fleet()]
        is_over = all(each in fleet_status.TERMINAL for each in states)
        if state == "ERRORED" or (not self._core.is_deploying() and (state == "BROKEN" or is_over)):
            self._publish_changes()

    def on_deployment_end(self, group: str, status: DeploymentStatus) -> None:
        """A deployment is over."""
        information = fleet_status.deployment_information(
            status.id, status.status, status.detailed, status.failure_cause, status.error_stack, status.error_types
        )
        self._publish(fleet_status.trigger_of(group), self._take_changed(), information)

    def _on_link(self, connected: bool) -> None:
        was, self._connected = self._connected, connected
        if not connected or was:
            return
        now_s = asyncio.get_running_loop().time()
        # A flaky link must not cause a flood of empty messages.
        if self._changed or now_s - self._reconnected_s > fleet_status.RECONNECT_GAP_S:
            self._reconnected_s = now_s
            self._publish("RECONNECT", self._take_changed())

    # publishing

    def _take_changed(self) -> set[str]:
        changed, self._changed = self._changed, set()
        return changed

    def _publish_changes(self) -> None:
        """Now, or as soon as ten seconds have passed since the last message."""
        loop = asyncio.get_running_loop()
        wait_s = self._last_s + fleet_status.MIN_GAP_S - loop.time()
        if self._soon is None:
            self._soon = loop.call_later(max(0.0, wait_s), self._send_changes)

    def _send_changes(self) -> None:
        self._soon = None
        if self._changed:
            self._publish("COMPONENT_STATUS_CHANGE", self._take_changed())

    def _publish(self, trigger: Trigger, names: set[str] | None, deployment: dict[str, Any] | None = None) -> None:
        """One message about the named components, or about all."""
        if not self._is_launched:
            return
        if not self._connected and trigger not in ("THING_DEPLOYMENT", "THING_GROUP_DEPLOYMENT"):
            return
        if names is None:
            self._changed.clear()
        fleet = self._core.fleet()
        told = [each for each in fleet if names is None or each.name in names]
        bodies = fleet_status.messages(
            self._facts, trigger, told, healthy=fleet_status.is_healthy(fleet), sequence=self._next_number(),
            now_ms=self._core.now_ms(), deployment=deployment,
        )  # fmt: skip
        self._last_s = asyncio.get_running_loop().time()
        for body in bodies:
            try:
                self._core.publish_to_cloud(
                    Publication(self.topic, body, qos=1, timestamp_ms=self._core.now_ms()), NAME
                )
            except AwsError as error:
                self._core.say(NAME, "WARN", f"a status update is lost: {error.message}")

    def _next_number(self) -> int:
        number = self._kept("sequence", 0)
        self._keep("sequence", number + 1)
        return number

    def _plan_cadence(self) -> None:
        """The daily message, over restarts."""
        if self._daily is not None:
            self._daily.cancel()
        last_ms = self._kept("cadence", self._core.now_ms())
        self._keep("cadence", last_ms)
        wait_s = max(0.0, last_ms / 1000 + self._cadence_s - self._core.now_ms() / 1000)
        self._daily = asyncio.get_running_loop().call_later(wait_s, self._send_cadence)

    def _send_cadence(self) -> None:
        self._keep("cadence", self._core.now_ms())
        if not self._core.is_deploying():
            self._publish("CADENCE", None)
        self._plan_cadence()

    def _kept(self, name: str, default: int) -> int:
        row = self._database.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
        return default if row is None else int(row[0])

    def _keep(self, name: str, value: int) -> None:
        self._database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (name, value))
