"""The configuration of aws.greengrass.StreamManager. Pure.

Source: developer guide, "Stream manager" (configuration) and "Configure AWS IoT Greengrass stream manager". Numbers
come as text from most deployments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from foreshore.greengrass.stream_manager.definitions import MIN_PART

NAME = "aws.greengrass.StreamManager"
DEFAULT_THREADS = 5
_PREFIX = "STREAM_MANAGER_"
PORT = _PREFIX + "SERVER_PORT"
FOLDER = _PREFIX + "STORE_ROOT_DIR"
AUTHENTICATE = _PREFIX + "AUTHENTICATE_CLIENT"
BANDWIDTH = _PREFIX + "EXPORTER_MAX_BANDWIDTH"
THREADS = _PREFIX + "EXPORTER_THREAD_POOL_SIZE"
PART = _PREFIX + "EXPORTER_S3_DESTINATION_MULTIPART_UPLOAD_MIN_PART_SIZE_BYTES"
_WITHOUT_EFFECT = {
    "JVM_ARGS": "there is no Java virtual machine",
    _PREFIX + "EXPORTER_KINESIS_INTER_CALL_DELAY_MS": "exports to Kinesis do not wait between requests",
}
LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR")


class Settings(NamedTuple):
    """`port` None: as the edge chose; `folder` None: the component's work folder; bandwidth 0: no limit (kbit/s)."""

    port: int | None = None
    folder: str | None = None
    authenticate: bool = True
    kilobits_a_second: float = 0.0
    threads: int = DEFAULT_THREADS
    min_part: int = MIN_PART
    level: str = "INFO"


def without_effect(configuration: Mapping[str, Any]) -> list[str]:
    """What of the configuration does nothing here, each with the reason."""
    return [f"{key} has no effect: {why}" for key, why in _WITHOUT_EFFECT.items() if key in configuration]


def read_settings(configuration: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """Settings, and what of the configuration makes no sense: that keeps its default."""
    findings: list[str] = []

    def number(key: str, default: float | None, least: float) -> float | None:
        text = configuration.get(key)
        if text in (None, ""):
            return default
        try:
            value = float(str(text))
        except ValueError:
            value = least - 1
        if not least <= value < 2**63:
            findings.append(f"{key} must be a number of at least {least:g}, not {text!r}")
            return default
        return value

    folder = configuration.get(FOLDER) or None
    if folder is not None and not str(folder).startswith("/"):
        findings.append(f"{FOLDER} must be an absolute path, not {folder!r}")
        folder = None
    level = str(configuration.get("LOG_LEVEL") or "INFO").upper()
    if level not in LEVELS:
        findings.append(f"LOG_LEVEL must be one of {', '.join(LEVELS)}, not {level!r}")
        level = "INFO"
    port = number(PORT, None, 0)
    settings = Settings(
        port=None if port is None else int(port),
        folder=None if folder is None else str(folder),
        authenticate=str(configuration.get(AUTHENTICATE, True)).lower() != "false",
        kilobits_a_second=number(BANDWIDTH, 0.0, 0) or 0.0,
        threads=int(number(THREADS, DEFAULT_THREADS, 1) or DEFAULT_THREADS),
        min_part=int(number(PART, MIN_PART, MIN_PART) or MIN_PART),
        level=level,
    )
    return settings, findings
