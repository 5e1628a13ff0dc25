"""Event source mappings. Shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foreshore.errors import NotEmulated

if TYPE_CHECKING:
    from foreshore.functions.service import Functions


class EventSources:
    """The mappings of all functions."""

    def __init__(self, functions: Functions, time_scale: float) -> None:
        self._functions = functions

    async def start(self) -> None:
        """Nothing to take up."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def create(self, properties: dict[str, Any]) -> str:
        """Make a mapping. Raises NotEmulated."""
        raise NotEmulated(f"the event source {properties.get('EventSourceArn')}")
