"""The folders of a core device (`/greengrass/v2`) and the lines of its log files. Pure: only paths and text.

Source: Greengrass developer guide, "Set up AWS IoT Greengrass core devices" (root folder) and "Monitor AWS IoT
Greengrass logs"; the rotation limits are the nucleus's defaults (`fileSizeKB` 1024, `totalLogsSizeKB` 10240).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath

LOG_FILE_BYTES = 1024 * 1024
LOG_TOTAL_BYTES = 10 * 1024 * 1024
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


def log_time(time_ns: int) -> str:
    """A log line's time: UTC with milliseconds."""
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns // 1_000_000 % 1000:03d}Z"


def log_line(
    time_ns: int, level: str, thread: str, logger: str, event: str, message: str, contexts: Mapping[str, object]
) -> str:
    """One line as the nucleus writes it: `time [LEVEL] (thread) logger: event. message. {key=value, …}`."""
    text = ". ".join(part for part in (event, message) if part)
    pairs = ", ".join(f"{key}={value}" for key, value in contexts.items())
    return f"{log_time(time_ns)} [{level}] ({thread}) {logger}: {text}. {{{pairs}}}\n"
