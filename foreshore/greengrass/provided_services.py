"""The services of the core that AWS ships as components, kept as deployed and configured as those. Shell.

Each stands under AWS's component name in `Core.services`. It is configured with the component's configuration, or with
None while the component is not deployed, and again whenever that changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from foreshore.errors import ForeshoreError
from foreshore.greengrass.provided import without_effect

Say = Callable[[str, str, str], None]


class Provided(Protocol):
    """One service. `configure` comes before `start`."""

    async def configure(self, configuration: Mapping[str, Any] | None, /) -> None:
        """Take the configuration; None: the component is not deployed."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Services:
    """All of one core's. `document(name)` gives a component's configuration, or None when it is not deployed."""

    def __init__(
        self, services: Mapping[str, Provided], document: Callable[[str], Mapping[str, Any] | None], say: Say
    ) -> None:
        self._services = dict(services)
        self._document = document
        self._say = say
        self._taken: dict[str, Mapping[str, Any] | None] = {}
        self._refused: dict[str, str] = {}
        self._lock = asyncio.Lock()
        self._pending: asyncio.Task[None] | None = None
        self._is_started = False

    async def start(self) -> None:
        """Configure and start every service. Raises UserError when one can't be."""
        await self.settle()
        self._is_started = True
        for service in self._services.values():
            await service.start()

    async def stop(self) -> None:
        """Stop them, the last first."""
        self._is_started = False
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)
        for service in reversed(self._services.values()):
            await service.stop()

    def changed(self, component: str) -> None:
        """The component's configuration is another one now."""
        if component in self._services and self._is_started and (self._pending is None or self._pending.done()):
            self._pending = asyncio.ensure_future(self._soon())

    async def _soon(self) -> None:
        # Not at once: an update comes as many changes, one after the other.
        await asyncio.sleep(0)
        await self.settle()

    async def settle(self) -> dict[str, str]:
        """Wait until every service has its present configuration; give those that refuse theirs, and why."""
        async with self._lock:
            for name, service in self._services.items():
                wanted = self._document(name)
                if name in self._taken and self._taken[name] == wanted:
                    continue
                self._taken[name] = wanted
                self._refused.pop(name, None)
                for setting in without_effect(name, wanted or {}):
                    self._say(name, "WARN", f"{setting} has no effect here")
                try:
                    await service.configure(wanted)
                except ForeshoreError as error:
                    self._refused[name] = str(error)
                    self._say(name, "ERROR", f"its configuration can't be taken: {error}")
            return dict(self._refused)
