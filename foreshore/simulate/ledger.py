"""The demo's ledger: what each stage counted, and the equations that must hold between them. Pure.

Every number comes from the stage itself: devices count acknowledgements, the core its bridge, each component its own
messages, the rules engine its matches, the scheduler its invocations, DynamoDB its items, the distribution its
requests; a subscriber and an HTTP client outside count what reached them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Counts:
    """One run. `rejected` is by reason."""

    sent: int = 0
    received_by_core: int = 0
    filter_received: int = 0
    filter_published: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    aggregate_received: int = 0
    late: int = 0
    windows: int = 0
    window_readings: int = 0
    windows_seen: int = 0
    alert_received: int = 0
    alerts: int = 0
    alerts_seen: int = 0
    rule_matches: int = 0
    invocations: int = 0
    cold: int = 0
    warm: int = 0
    invocation_errors: int = 0
    items: int = 0
    requests_made: int = 0
    requests_served: int = 0
    hits_seen: int = 0
    cache_hits: int = 0


@dataclass(slots=True, frozen=True)
class Check:
    """One equation: both sides and whether they agree."""

    text: str
    left: int
    right: int

    @property
    def holds(self) -> bool:
        """Whether both sides are equal."""
        return self.left == self.right


def rows(counts: Counts) -> list[tuple[str, int, str]]:
    """(stage, number, who counted it)."""
    rejected = ", ".join(f"{number} {reason}" for reason, number in sorted(counts.rejected.items())) or "none"
    return [
        ("readings sent", counts.sent, "devices: acknowledged at QoS 1"),
        ("received by the core", counts.received_by_core, "the core's MQTT bridge"),
        ("passed by the filter", counts.filter_published, "component filter"),
        ("filtered out", sum(counts.rejected.values()), f"component filter: {rejected}"),
        ("windows", counts.windows, "component aggregate"),
        ("alerts", counts.alerts, "component alert"),
        ("rule matches", counts.rule_matches, "rules engine"),
        ("invocations", counts.invocations, f"Lambda scheduler: {counts.cold} cold, {counts.warm} warm"),
        ("items stored", counts.items, "DynamoDB"),
        ("requests served", counts.requests_served, "CloudFront distribution"),
        ("cache hits", counts.cache_hits, "CloudFront distribution"),
    ]


def checks(counts: Counts) -> list[Check]:
    """The equations of a run that lost nothing."""
    return [
        Check("sent = received by the core", counts.sent, counts.received_by_core),
        Check("received by the core = received by the filter", counts.received_by_core, counts.filter_received),
        Check(
            "received by the filter = passed + filtered out",
            counts.filter_received,
            counts.filter_published + sum(counts.rejected.values()),
        ),
        Check("passed = received by aggregate", counts.filter_published, counts.aggregate_received),
        Check("passed = received by alert", counts.filter_published, counts.alert_received),
        Check(
            "received by aggregate = readings in windows + late",
            counts.aggregate_received,
            counts.window_readings + counts.late,
        ),
        Check("windows published = windows on IoT Core", counts.windows, counts.windows_seen),
        Check("alerts published = alerts on IoT Core", counts.alerts, counts.alerts_seen),
        Check("windows + alerts = rule matches", counts.windows + counts.alerts, counts.rule_matches),
        Check("rule matches = invocations", counts.rule_matches, counts.invocations),
        Check("invocations = cold + warm", counts.invocations, counts.cold + counts.warm),
        Check("invocations without error = items stored", counts.invocations - counts.invocation_errors, counts.items),
        Check("requests made = requests served", counts.requests_made, counts.requests_served),
        Check("cache hits seen by the client = counted by the edge", counts.hits_seen, counts.cache_hits),
    ]


@dataclass(slots=True, frozen=True)
class Comparison:
    """Alerts of one device against the change points that people marked (row indexes of the series)."""

    device: str
    labelled: int
    found: int
    alerts: int
    unexplained: int


def compare(
    device: str, labels: Sequence[int], times_ms: Sequence[int], alerts: Sequence[Mapping[str, Any]], margin: int
) -> Comparison:
    """Count labels with a state change within `margin` rows, and changes near no label. `times_ms` are the rows'."""
    near: set[int] = set()
    unexplained = 0
    for alert in alerts:
        row = _row_of(times_ms, int(alert["ts"]))
        close = [label for label in labels if abs(label - row) <= margin]
        near.update(close)
        unexplained += not close
    return Comparison(device, len(labels), len(near), len(alerts), unexplained)


def _row_of(times_ms: Sequence[int], moment: int) -> int:
    return min(range(len(times_ms)), key=lambda index: abs(times_ms[index] - moment)) if times_ms else 0
