"""Run a scenario with paho-mqtt: one client, one certificate and one thread a device. Shell.

Readings go out at QoS 1; what counts as sent is what the broker acknowledged.
"""

from __future__ import annotations

import importlib.metadata
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from foreshore.errors import UserError
from foreshore.simulate.identities import Identity
from foreshore.simulate.scenario import Device, Scenario
from foreshore.simulate.series import change_points, readings

CONNECT_SECONDS = 15.0
ACK_SECONDS = 60.0


@dataclass(slots=True)
class Report:
    """What one device did: readings published, acknowledged, and the seconds it took."""

    device: str
    published: int = 0
    acknowledged: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(slots=True)
class Fleet:
    """The devices of a scenario against one MQTT listener."""

    scenario: Scenario
    host: str
    port: int
    ca: Path
    identities: dict[str, Identity]
    reports: dict[str, Report] = field(default_factory=dict)

    def run(self, on_progress: Callable[[int], None] | None = None) -> list[Report]:
        """Replay everything; gives a report a device. Blocks until all is acknowledged or an error ends a device."""
        series = {
            device.name: list(readings(device, read_source(device.source.package, device.source.file)))
            for device in self.scenario.devices
        }
        total = sum(map(len, series.values()))
        threads = []
        for device in self.scenario.devices:
            report = self.reports[device.name] = Report(device.name)
            own = series[device.name]
            pace = self.scenario.rate * len(own) / total if self.scenario.rate else 0.0
            thread = threading.Thread(
                target=self._drive, args=(device, own, pace, report), name=device.name, daemon=True
            )
            threads.append(thread)
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.1)
            if on_progress is not None:
                on_progress(sum(report.acknowledged for report in self.reports.values()))
        return list(self.reports.values())

    def _drive(self, device: Device, series: list[dict[str, Any]], pace: float, report: Report) -> None:
        try:
            self._replay(device, series, pace, report)
        except (OSError, ValueError, RuntimeError, TimeoutError) as error:
            report.error = f"{type(error).__name__}: {error}"

    def _replay(self, device: Device, series: list[dict[str, Any]], pace: float, report: Report) -> None:
        client = self._connect(device.name)
        all_acked = threading.Event()

        def on_publish(_client: object, _userdata: object, _mid: int, reason: Any, _properties: object) -> None:
            if not reason.is_failure:
                report.acknowledged += 1
            if report.acknowledged == len(series):
                all_acked.set()

        client.on_publish = on_publish
        topic = self.scenario.topic.format(device=device.name)
        started = time.monotonic()
        for index, reading in enumerate(series):
            if pace:
                ahead = started + index / pace - time.monotonic()
                if ahead > 0:
                    time.sleep(ahead)
            info = client.publish(topic, orjson.dumps(reading), qos=1)
            if info.rc not in (mqtt.MQTT_ERR_SUCCESS, mqtt.MQTT_ERR_NO_CONN):
                raise OSError(mqtt.error_string(info.rc))
            report.published += 1
        if series and not all_acked.wait(ACK_SECONDS):
            report.error = f"{report.published - report.acknowledged} readings were never acknowledged"
        report.seconds = time.monotonic() - started
        client.disconnect()
        client.loop_stop()

    def _connect(self, device: str) -> mqtt.Client:
        identity = self.identities[device]
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=mqtt.MQTTv5)
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(identity.certificate, identity.key)
        client.tls_set_context(context)
        client.max_inflight_messages_set(100)
        connected = threading.Event()
        refusal: list[str] = []

        def on_connect(_client: object, _userdata: object, _flags: object, reason: Any, _properties: object) -> None:
            if reason.is_failure:
                refusal.append(str(reason))
            connected.set()

        client.on_connect = on_connect
        client.connect(self.host, self.port, keepalive=60)
        client.loop_start()
        if not connected.wait(CONNECT_SECONDS) or refusal:
            client.loop_stop()
            raise OSError(f"{device} could not connect: {refusal[0] if refusal else 'no answer'}")
        return client


def read_source(package: str, file: str) -> str:
    """The text of a file on disk, or of one that an installed package ships (the package is not imported)."""
    if not package:
        try:
            return Path(file).read_text("utf-8")
        except OSError as error:
            raise UserError(f"can't be read: {error.strerror}", code="series", where=file) from error
    try:
        found = importlib.metadata.distribution(package).locate_file(file)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"the package {package}, which ships this series, is not installed", code="series", where=file,
            mend=f"pip install --no-deps {package}",
        ) from error  # fmt: skip
    try:
        return Path(str(found)).read_text("utf-8")
    except OSError as error:
        raise UserError(f"the package {package} has no such file", code="series", where=file) from error


def labels_of(device: Device) -> list[int] | None:
    """The change points that people marked in a device's series, as row indexes; None when it has no labels."""
    if device.labels is None:
        return None
    return change_points(read_source(device.labels.package, device.labels.file), device.labels.literal)
