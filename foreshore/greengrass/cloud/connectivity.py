"""Where core devices are reached, and by which client devices: `seams.CoreDirectory` over the greengrassv2 API's state.

Source: AWS IoT Greengrass developer guide, "Manage core device endpoints".
"""

from __future__ import annotations

from collections.abc import Callable

from foreshore.greengrass.cloud.cores import Cores
from foreshore.seams import Connectivity

DEFAULT_PORT = 8883


class Directory:
    """What discovery and the cores ask."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores

    def clients_of(self, core: str, /) -> set[str]:
        """The client devices that are associated with a core."""
        return set(self._cores.associated(core))

    def cores_of(self, client: str, /) -> set[str]:
        """The cores that a client device is associated with."""
        return set(self._cores.cores_of(client))

    def connectivity(self, core: str, /) -> list[Connectivity]:
        """A core's addresses; those without a host are left out, as nobody can connect to them."""
        return [
            Connectivity(
                str(each.get("id") or each["hostAddress"]), str(each["hostAddress"]),
                int(each.get("portNumber") or DEFAULT_PORT), str(each.get("metadata") or ""),
            )
            for each in self._cores.connectivity(core) if each.get("hostAddress")
        ]  # fmt: skip

    def on_connectivity(self, callback: Callable[[str], None], /) -> None:
        """Hear of updates."""
        self._cores.connectivity_listeners.append(callback)
