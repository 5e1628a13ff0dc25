"""alert: thresholds, robust z, states and ids; the recorded flow's anomalies."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from example import Published, flow, load, recipe_environment

logic = load("alert", "logic")


def reading(ts: int, value: float, device: str = "d", quantity: str = "flow") -> dict[str, Any]:
    return {"device": device, "seq": 1, "ts": ts, "quantity": quantity, "value": value, "unit": "l/s"}


def changes(rule: dict[str, Any], values: list[float]) -> list[tuple[int, str]]:
    """(second, state) of what the values, one a second, changed."""
    alerts = logic.Alerts([{"name": "r", "quantity": "flow", **rule}])
    found = [alert for second, value in enumerate(values) for alert in alerts.accept(reading(second * 1000, value))]
    return [(alert["ts"] // 1000, alert["state"]) for alert in found]


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        ({"above": 10}, [10, 11, 12, 10, 11], [(1, "ACTIVE"), (3, "NORMAL"), (4, "ACTIVE")]),
        ({"below": 10}, [10, 9, 10], [(1, "ACTIVE"), (2, "NORMAL")]),
        ({"above": 10, "clear": 8}, [11, 9, 8.5, 8, 9], [(0, "ACTIVE"), (3, "NORMAL")]),
        ({"below": 10, "clear": 12}, [9, 11, 12, 11], [(0, "ACTIVE"), (2, "NORMAL")]),
        ({"above": 10, "for_seconds": 2}, [11, 11, 9, 11, 11, 11, 9], [(5, "ACTIVE"), (6, "NORMAL")]),
        ({"above": 10, "for_seconds": 0}, [9, 9], []),
        ({"above": 10, "keep_seconds": 2}, [11, 9, 11, 9, 9, 9, 9], [(0, "ACTIVE"), (5, "NORMAL")]),
        ({"above": 10, "keep_seconds": 1, "for_seconds": 1}, [11, 11, 9, 9, 11], [(1, "ACTIVE"), (3, "NORMAL")]),
    ],
)
def test_threshold(rule: dict[str, Any], values: list[float], expected: list[tuple[int, str]]) -> None:
    assert changes(rule, values) == expected


def test_robust_z_finds_a_spike_and_learns_a_new_level() -> None:
    rule = {"type": "robust-z", "window": 8, "threshold": 6, "floor": 1}
    steady = [100.0, 101.0] * 8
    assert changes(rule, [*steady, 200.0, 100.0]) == [(16, "ACTIVE"), (17, "NORMAL")]
    assert changes(rule, [*steady, *[200.0] * 12]) == [(16, "ACTIVE"), (23, "NORMAL")]


@pytest.mark.parametrize(
    "rule",
    [
        {"above": 1, "below": 2},
        {},
        {"above": 10, "clear": 11},
        {"type": "guess"},
        {"type": "robust-z", "window": 2},
        {"type": "robust-z", "threshold": 3, "clear": 4},
    ],
)
def test_impossible_rules_fail_at_once(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rule r"):
        logic.Alerts([{"name": "r", "quantity": "flow", **rule}])


def test_ids_are_of_the_beginning_and_repeat() -> None:
    def ids() -> list[str]:
        alerts = logic.Alerts([{"name": "r", "quantity": "flow", "above": 10, "for_seconds": 1}])
        stream = [11, 11, 11, 9, 9, 11, 11, 9]
        return [a["id"] for second, value in enumerate(stream) for a in alerts.accept(reading(second * 1000, value))]

    first = ids()
    assert first == ids()
    assert first[0] == first[1] == logic.alert_id("r", "d", 0)
    assert first[2] == first[3] == logic.alert_id("r", "d", 5000)


def test_devices_and_order() -> None:
    alerts = logic.Alerts([{"name": "r", "quantity": "flow", "above": 10}], max_keys=2)
    assert alerts.accept(reading(1000, 11)) != []
    assert alerts.accept(reading(1000, 9)) == []
    assert alerts.accept(reading(500, 9)) == []
    assert alerts.accept(reading(500, 11, "e")) != []
    assert alerts.accept(reading(500, 11, "f")) == []
    assert alerts.accept({"device": "d"}) == []
    assert alerts.stats() == {
        "received": 6,
        "published": 2,
        "active": 2,
        "rejected": {"out-of-order": 2, "too-many-keys": 1, "schema": 1},
    }


def test_handler_over_the_recorded_flow(load_handler: Callable[..., Any], published: Published) -> None:
    """river describes the series' anomalies: three low-value moments, and a small peak after the first two."""
    handler = load_handler("alert", **recipe_environment("alert"))
    for ts, value in flow():
        handler(reading(ts, value, "flow-1"), None)
    sent = [message for topic, message, _ in published.messages if topic == "foreshore/alerts/flow-1"]
    begun = [
        (message["rule"], datetime.fromtimestamp(message["ts"] / 1000, UTC).date().isoformat())
        for message in sent
        if message["state"] == "ACTIVE"
    ]
    assert begun == [
        ("flow-unusual", "2022-03-24"),
        ("flow-low", "2022-03-24"),
        ("flow-unusual", "2022-03-29"),
        ("flow-low", "2022-03-29"),
        ("flow-unusual", "2022-04-03"),
        ("flow-unusual", "2022-04-27"),
        ("flow-low", "2022-04-27"),
    ]
    assert {message["id"] for message in sent if message["state"] == "NORMAL"} == {
        message["id"] for message in sent if message["state"] == "ACTIVE"
    }
    [answer] = handler({"command": "flush", "run": 7}, None)
    assert answer["payload"]["published"] == len(sent) == 14
    assert json.dumps(answer)
