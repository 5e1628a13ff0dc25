"""Gathers the core's health telemetry: the nucleus's own agent, and the telemetry emitter component. Shell.

The agent samples and aggregates every hour and publishes once a day on `$aws/things/<thing>/greengrass/health/json`;
the emitter publishes plain samples on local publish/subscribe, and on IoT Core when it is given a topic.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson

from foreshore.background import Background
from foreshore.database import Database
from foreshore.errors import AwsError
from foreshore.greengrass.telemetry import (
    EMITTER,
    AgentSettings,
    EmitterSettings,
    Metric,
    System,
    aggregate,
    component_metrics,
    payload,
    read_agent_settings,
    read_emitter_settings,
    system_metrics,
)
from foreshore.seams import Publication

AGENT = "TelemetryAgent"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS metric (
  namespace TEXT NOT NULL, name TEXT NOT NULL, unit TEXT NOT NULL, aggregation TEXT NOT NULL, value REAL NOT NULL,
  time_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS point (time_ms INTEGER NOT NULL, document BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS done (what TEXT PRIMARY KEY, time_ms INTEGER NOT NULL) WITHOUT ROWID;
"""


class Surroundings(Protocol):
    """What telemetry needs of its core."""

    thing: str

    def states(self) -> list[str]:
        """Every component's state."""
        ...

    def now_ms(self) -> int: ...

    def publish_local(self, topic: str, payload: bytes, *, source: str, traceparent: str | None = None) -> None: ...

    def publish_to_cloud(self, publication: Publication, source: str, /) -> None: ...

    def say(self, component: str, level: str, text: str, /) -> None: ...


class Machine:
    """Looks at this machine; what it does not tell is 0."""

    def __init__(self) -> None:
        self._before = (0, 0)

    def look(self) -> System:
        """The present state; `cpu` is the load since the last look."""
        return System(self._cpu(), self._descriptors(), self._memory())

    def _cpu(self) -> float:
        text = _first_line("/proc/stat")
        ticks = [int(each) for each in text.split()[1:9]]
        if len(ticks) < 5:
            return 0.0
        total, idle = sum(ticks), ticks[3] + ticks[4]
        passed, rested = total - self._before[0], idle - self._before[1]
        self._before = (total, idle)
        return 100.0 * (passed - rested) / passed if passed > 0 else 0.0

    def _descriptors(self) -> int:
        found = _first_line("/proc/sys/fs/file-nr").split()
        return int(found[0]) if found else 0

    def _memory(self) -> int:
        try:
            free = os.sysconf("SC_AVPHYS_PAGES")
            return (os.sysconf("SC_PHYS_PAGES") - free) * os.sysconf("SC_PAGE_SIZE") // 1024**2
        except (ValueError, OSError):
            return 0


def _first_line(path: str) -> str:
    try:
        with Path(path).open() as stream:
            return stream.readline()
    except OSError:
        return ""


class Emitter:
    """aws.greengrass.telemetry.NucleusEmitter."""

    def __init__(self, core: Surroundings) -> None:
        self._core = core
        self._machine = Machine()
        self._settings: EmitterSettings | None = None
        self._worker: asyncio.Task[None] | None = None
        self._is_started = False

    async def configure(self, configuration: Mapping[str, Any] | None) -> None:
        """Take the component's configuration; a wrong one leaves the one before in force."""
        if configuration is None:
            self._settings = None
        else:
            settings, finding = read_emitter_settings(configuration)
            if finding:
                self._core.say(EMITTER, "ERROR", f"{finding}; see the component's configuration")
            if settings != EmitterSettings() or not finding:
                self._settings = settings
        self._schedule()

    async def start(self) -> None:
        """Begin to publish."""
        self._is_started = True
        self._schedule()

    async def stop(self) -> None:
        """Stop publishing."""
        self._is_started = False
        self._schedule()

    def _schedule(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None
        if self._settings is not None and self._is_started:
            self._worker = asyncio.ensure_future(self._publish(self._settings))

    async def _publish(self, settings: EmitterSettings) -> None:
        while True:
            now_ms = self._core.now_ms()
            metrics = [*system_metrics(self._machine.look(), now_ms), *component_metrics(self._core.states(), now_ms)]
            body = orjson.dumps([metric.sample() for metric in metrics])
            if settings.local_topic:
                self._core.publish_local(settings.local_topic, body, source=EMITTER)
            if settings.mqtt_topic:
                _send(self._core, EMITTER, settings.mqtt_topic, body)
            await asyncio.sleep(settings.interval_ms / 1000)


def _send(core: Surroundings, source: str, topic: str, body: bytes) -> None:
    try:
        core.publish_to_cloud(Publication(topic, body, qos=1, timestamp_ms=core.now_ms()), source)
    except AwsError as error:
        core.say(source, "WARN", f"telemetry is lost: {error.message}")


class Agent:
    """The nucleus's own telemetry: what PutComponentMetric gave, the machine, the components."""

    def __init__(self, core: Surroundings, path: Path) -> None:
        self._core = core
        self._machine = Machine()
        self._settings = AgentSettings()
        self._database = Database(path, _SCHEMA)
        self._worker = Background()
        self._changed = asyncio.Event()

    @property
    def topic(self) -> str:
        """Where the aggregated data go."""
        return f"$aws/things/{self._core.thing}/greengrass/health/json"

    async def configure(self, configuration: Mapping[str, Any] | None) -> None:
        """Take the nucleus's configuration."""
        self._settings = read_agent_settings(configuration or {})
        self._changed.set()

    async def start(self) -> None:
        """Begin to sample."""
        self._worker.start(self._work)

    async def stop(self) -> None:
        """Stop; what was gathered stays."""
        await self._worker.stop()
        self._database.close()

    def put(self, metric: Metric) -> None:
        """Keep one sample."""
        if self._settings.enabled:
            self._database.execute("INSERT INTO metric VALUES (?, ?, ?, ?, ?, ?)", metric)

    async def _work(self) -> None:
        while True:
            self._changed.clear()
            if self._settings.enabled:
                self.sample(self._core.now_ms())
                due_ms = self.catch_up(self._core.now_ms())
                pause_s: float | None = max(1.0, (due_ms - self._core.now_ms()) / 1000)
            else:
                pause_s = None
            try:
                await asyncio.wait_for(self._changed.wait(), pause_s)
            except TimeoutError:
                continue

    def sample(self, now_ms: int) -> None:
        """Look at the machine and the components."""
        for metric in system_metrics(self._machine.look(), now_ms, aggregation="Average"):
            self.put(metric)
        for metric in component_metrics(self._core.states(), now_ms, aggregation="Average"):
            self.put(metric)

    def catch_up(self, now_ms: int) -> int:
        """Aggregate and publish what is due; when to come again, epoch ms."""
        aggregated_ms, published_ms = self._done("aggregate", now_ms), self._done("publish", now_ms)
        if now_ms - aggregated_ms >= self._settings.aggregate_s * 1000:
            self._aggregate(now_ms)
            aggregated_ms = now_ms
        if now_ms - published_ms >= self._settings.publish_s * 1000:
            self._publish(now_ms)
            published_ms = now_ms
        return min(aggregated_ms + self._settings.aggregate_s * 1000, published_ms + self._settings.publish_s * 1000)

    def _done(self, what: str, now_ms: int) -> int:
        """When a thing was last done; never counts as now."""
        self._database.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", (what, now_ms))
        return int(self._database.execute("SELECT time_ms FROM done WHERE what = ?", (what,)).fetchone()[0])

    def _aggregate(self, now_ms: int) -> None:
        rows = self._database.execute("SELECT * FROM metric WHERE time_ms < ? ORDER BY rowid", (now_ms,)).fetchall()
        with self._database.transaction():
            for point in aggregate((Metric(*row) for row in rows), now_ms):
                self._database.execute("INSERT INTO point VALUES (?, ?)", (now_ms, orjson.dumps(point)))
            self._database.execute("DELETE FROM metric WHERE time_ms < ?", (now_ms,))
            self._database.execute("INSERT OR REPLACE INTO done VALUES ('aggregate', ?)", (now_ms,))

    def _publish(self, now_ms: int) -> None:
        rows = self._database.execute("SELECT document FROM point ORDER BY rowid").fetchall()
        points = [orjson.loads(row[0]) for row in rows]
        if points:
            machine = {"OperatingSystem": platform.system(), "Kernel": platform.release()}
            _send(self._core, AGENT, self.topic, orjson.dumps(payload(points, machine, now_ms)))
        with self._database.transaction():
            self._database.execute("DELETE FROM point")
            self._database.execute("INSERT OR REPLACE INTO done VALUES ('publish', ?)", (now_ms,))
