"""The folders of a core device (`/greengrass/v2`). Pure: only paths.

Source: Greengrass developer guide, "Set up AWS IoT Greengrass core devices" (root folder).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

FOLDERS = (
    "bin",
    "cli_ipc_info",
    "config",
    "deployments",
    "logs",
    "packages/artifacts",
    "packages/artifacts-unarchived",
    "packages/recipes",
    "work",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are below a core's root."""

    root: PurePath

    def recipe(self, component: str, version: str) -> PurePath:
        """The stored recipe of one version."""
        return self.root / "packages/recipes" / f"{component}-{version}.yaml"

    def artifacts(self, component: str, version: str) -> PurePath:
        """`{artifacts:path}`."""
        return self.root / "packages/artifacts" / component / version

    def unarchived(self, component: str, version: str) -> PurePath:
        """`{artifacts:decompressedPath}`."""
        return self.root / "packages/artifacts-unarchived" / component / version

    def work(self, component: str) -> PurePath:
        """`{work:path}`, the working directory of every step."""
        return self.root / "work" / component

    def log(self, component: str) -> PurePath:
        """The component's log file."""
        return self.root / "logs" / f"{component}.log"

    def system(self, component: str, version: str, thing: str, namespace: str, key: str) -> str | None:
        """The text of a recipe variable that is no configuration, or None when there is no such variable."""
        if (namespace, key) == ("artifacts", "path"):
            return str(self.artifacts(component, version))
        if (namespace, key) == ("artifacts", "decompressedPath"):
            return str(self.unarchived(component, version))
        if (namespace, key) == ("work", "path"):
            return str(self.work(component))
        if (namespace, key) == ("kernel", "rootPath"):
            return str(self.root)
        if (namespace, key) == ("iot", "thingName"):
            return thing
        return None
