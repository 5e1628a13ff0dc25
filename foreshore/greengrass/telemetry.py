"""The nucleus's health telemetry: samples, their aggregation, and their messages. Pure: times are epoch ms.

Sources: developer guide, "Gather system health telemetry data" and "Nucleus telemetry emitter"; nucleus 2.18
(MetricsAggregator, TelemetryConfiguration) for the shape of the aggregated message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

SYSTEM, COMPONENTS = "SystemMetrics", "GreengrassComponents"
SCHEMA = "2022-06-30"
STATES = ("STARTING", "INSTALLED", "STATELESS", "STOPPING", "BROKEN", "RUNNING", "ERRORED", "NEW", "FINISHED")
# A nucleus setting below these has no effect.
AGGREGATE_S, PUBLISH_S = 3_600, 86_400
# Units as PutComponentMetric takes them, and as telemetry spells them.
UNITS = {
    "BYTES": "Bytes", "BYTES_PER_SECOND": "BytesPerSecond", "COUNT": "Count", "COUNT_PER_SECOND": "CountPerSecond",
    "MEGABYTES": "Megabytes", "SECONDS": "Seconds",
}  # fmt: skip


class Metric(NamedTuple):
    """One sample. `aggregation` is Average, Sum, Count, Maximum or Minimum."""

    namespace: str
    name: str
    unit: str
    aggregation: str
    value: float
    time_ms: int

    def sample(self) -> dict[str, Any]:
        """The JSON that the telemetry emitter publishes."""
        return {
            "NS": self.namespace, "N": self.name, "U": self.unit, "A": self.aggregation, "V": self.value,
            "TS": self.time_ms,
        }  # fmt: skip


class System(NamedTuple):
    """What the machine says: `cpu` in percent since the last look, memory in megabytes."""

    cpu: float
    descriptors: int
    memory: int


def system_metrics(system: System, now_ms: int, *, aggregation: str = "Count") -> list[Metric]:
    """The machine's metrics; the emitter counts where the nucleus averages."""
    return [
        Metric(SYSTEM, "CpuUsage", "Percent", "Average", system.cpu, now_ms),
        Metric(SYSTEM, "TotalNumberOfFDs", "Count", aggregation, system.descriptors, now_ms),
        Metric(SYSTEM, "SystemMemUsage", "Megabytes", aggregation, system.memory, now_ms),
    ]


def component_metrics(states: Iterable[str], now_ms: int, *, aggregation: str = "Count") -> list[Metric]:
    """How many components are in each state."""
    found = list(states)
    return [
        Metric(COMPONENTS, f"NumberOfComponents{state.capitalize()}", "Count", aggregation, found.count(state), now_ms)
        for state in STATES
    ]


def aggregate(metrics: Iterable[Metric], now_ms: int) -> list[dict[str, Any]]:
    """One data point a namespace: every metric of it, aggregated its own way."""
    spaces: dict[str, dict[str, list[Metric]]] = {}
    for metric in metrics:
        spaces.setdefault(metric.namespace, {}).setdefault(metric.name, []).append(metric)
    return [
        {
            "TS": now_ms,
            "NS": namespace,
            "M": [
                {"N": name, each[0].aggregation: _fold(each[0].aggregation, [m.value for m in each]), "U": each[0].unit}
                for name, each in named.items()
            ],
        }
        for namespace, named in spaces.items()
    ]


def _fold(aggregation: str, values: list[float]) -> float:
    if aggregation == "Average":
        return sum(values) / len(values)
    if aggregation in ("Maximum", "Minimum"):
        return max(values) if aggregation == "Maximum" else min(values)
    return sum(values)


def payload(points: list[dict[str, Any]], kernel: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    """The message on `$aws/things/<thing>/greengrass/health/json`: every value under the name Sum, as the cloud wants.

    The components' points come once more, aggregated over all of them.
    """
    over_all: dict[str, list[Metric]] = {}
    for point in points:
        for metric in point["M"] if point["NS"] == COMPONENTS else ():
            aggregation, value = _value(metric)
            made = Metric(COMPONENTS, metric["N"], metric["U"], aggregation, value, now_ms)
            over_all.setdefault(metric["N"], []).append(made)
    whole = [*points, *aggregate([each for named in over_all.values() for each in named], now_ms)]
    data = [
        {**point, "M": [{"N": metric["N"], "Sum": _value(metric)[1], "U": metric["U"]} for metric in point["M"]]}
        for point in whole
    ]
    if data:
        machine = [{"N": name, "Sum": 1.0, "U": value} for name, value in kernel.items()]
        data.append({"TS": now_ms, "NS": SYSTEM, "M": machine})
    return {"Schema": SCHEMA, "ADP": data}


def _value(metric: Mapping[str, Any]) -> tuple[str, float]:
    """An aggregated metric's aggregation and value."""
    [(aggregation, value)] = [(key, value) for key, value in metric.items() if key not in ("N", "U")]
    return aggregation, float(value)


class AgentSettings(NamedTuple):
    """The nucleus's `telemetry`: seconds."""

    enabled: bool = True
    aggregate_s: int = AGGREGATE_S
    publish_s: int = PUBLISH_S


def read_agent_settings(nucleus: Mapping[str, Any]) -> AgentSettings:
    """Read `telemetry` of the nucleus's configuration; intervals below the defaults have no effect, as there."""
    found = nucleus.get("telemetry")
    found = found if isinstance(found, Mapping) else {}
    return AgentSettings(
        str(found.get("enabled", True)).lower() != "false",
        max(AGGREGATE_S, _whole(found.get("periodicAggregateMetricsIntervalSec"))),
        max(PUBLISH_S, _whole(found.get("periodicPublishMetricsIntervalSec"))),
    )


def _whole(value: object) -> int:
    try:
        return int(float(str(value)))
    except ValueError:
        return 0


EMITTER = "aws.greengrass.telemetry.NucleusEmitter"
DEFAULT_TOPIC = "$local/greengrass/telemetry"
DEFAULT_INTERVAL_MS, LEAST_INTERVAL_MS = 60_000, 500


class EmitterSettings(NamedTuple):
    """The emitter's configuration; topics "" for none."""

    local_topic: str = DEFAULT_TOPIC
    mqtt_topic: str = ""
    interval_ms: int = DEFAULT_INTERVAL_MS


def read_emitter_settings(configuration: Mapping[str, Any]) -> tuple[EmitterSettings, str]:
    """Settings, and what is wrong. A wrong option makes the whole configuration void, as there."""
    known = {"pubSubPublish", "pubSubTopic", "mqttTopic", "telemetryPublishIntervalMs"}
    strange = sorted(set(configuration) - known - {"accessControl"})
    if strange:
        return EmitterSettings(), f"{strange[0]} is no option"
    wish = str(configuration.get("pubSubPublish", "true")).lower()
    if wish not in ("true", "false", "yes", "no", "on", "off"):
        return EmitterSettings(), f"pubSubPublish must be true or false, not {wish!r}"
    interval_ms = _whole(configuration.get("telemetryPublishIntervalMs", DEFAULT_INTERVAL_MS))
    if interval_ms == 0:
        return EmitterSettings(), "telemetryPublishIntervalMs must be a number other than 0"
    local = str(configuration.get("pubSubTopic") or DEFAULT_TOPIC) if wish in ("true", "yes", "on") else ""
    settings = EmitterSettings(local, str(configuration.get("mqttTopic") or ""), max(interval_ms, LEAST_INTERVAL_MS))
    return settings, "" if interval_ms >= LEAST_INTERVAL_MS else f"the interval is {LEAST_INTERVAL_MS} ms, the least"
