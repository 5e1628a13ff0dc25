"""Membership events of dynamic thing groups: who came and who left since the groups were last looked at. Pure.

A dynamic group's members are what its query finds, so that nobody is told of a change when it happens. While membership
events are on, the groups are looked at in turns; what took long to look at is then left alone for a while.

Source: AWS IoT developer guide, "Registry events", "Dynamic thing groups".
"""

from __future__ import annotations

from collections.abc import Callable

from foreshore.iot.groups import ThingGroups
from foreshore.iot.registry import Registry
from foreshore.iot.store import Document

REST = 20
"""Groups that took a while to look at are left alone for so many times as long."""


class DynamicMembers:
    """The members that the dynamic groups had. `is_on` tells whether anybody wants to know; `clock` gives seconds.

    Of a group that it meets for the first time while a service starts it says nothing, for its members are no news.
    """

    def __init__(
        self, groups: ThingGroups, registry: Registry, is_on: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        self._groups = groups
        self._registry = registry
        self._is_on = is_on
        self._clock = clock
        self._known: dict[str, set[str]] | None = None
        self._rest = 0.0

    def tick(self) -> None:
        """Look at the groups and publish what has changed; to be called about once a second."""
        begun = self._clock()
        if not self._is_on():
            self._known = None
        elif begun >= self._rest:
            self._look()
            ended = self._clock()
            self._rest = ended + REST * (ended - begun)

    def _look(self) -> None:
        groups = {each["thingGroupName"]: each for each in self._groups.kind.values() if "queryString" in each}
        found = {name: set(self._groups.things_in(name)) for name in groups}
        before, self._known = self._known, found
        if before is None:
            return
        for name, things in found.items():
            had = before.get(name, set())
            for operation, changed in (("REMOVED", had - things), ("ADDED", things - had)):
                self._tell(operation, groups[name], changed)

    def _tell(self, operation: str, group: Document, things: set[str]) -> None:
        for name in sorted(things):
            thing = self._registry.things.get(name)
            if thing is not None and self._registry.events is not None:
                self._registry.events.membership(operation, group, thing)
