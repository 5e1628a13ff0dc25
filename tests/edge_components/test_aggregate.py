"""aggregate: event-time windows, watermarks per key, late and future readings."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest
from example import Published, flow, load, recipe_environment
from hypothesis import given, settings
from hypothesis import strategies as st

logic = load("aggregate", "logic")


def reading(ts: int, value: float = 1.0, device: str = "d", quantity: str = "flow") -> dict[str, Any]:
    return {"device": device, "seq": 1, "ts": ts, "quantity": quantity, "value": value, "unit": "l/s"}


def feed(windows: Any, *timestamps: int, now: int = 0) -> list[tuple[int, int]]:
    """(window start, count) of what the readings completed."""
    done = [window for ts in timestamps for window in windows.accept(reading(ts), now)]
    return [(window["window_start"], window["count"]) for window in done]


def test_a_window_is_emitted_when_its_end_is_reached() -> None:
    windows = logic.Windows(10)
    assert feed(windows, 0, 9) == []
    [window] = windows.accept(reading(10, 7.0), 0)
    assert window == {
        "device": "d", "quantity": "flow", "unit": "l/s", "window_start": 0, "window_end": 10,
        "count": 2, "mean": 1.0, "min": 1.0, "max": 1.0, "p95": 1.0,
    }  # fmt: skip
    assert windows.stats() == {"received": 3, "counted": 3, "published": 1, "open": 1, "rejected": {}}


@pytest.mark.parametrize(
    ("lateness", "timestamps", "emitted", "rejected"),
    [
        (0, [5, 12, 9], [(0, 1)], {"late": 1}),
        (5, [5, 12, 9, 15], [(0, 2)], {}),
        (5, [5, 15, 9], [(0, 1)], {"late": 1}),
        (0, [5, 35, 40], [(0, 1), (30, 1)], {}),
        (0, [35, 5], [(0, 1)], {}),
        (0, [35, 5, 6], [(0, 1)], {"late": 1}),
    ],
)
def test_lateness(
    lateness: int, timestamps: list[int], emitted: list[tuple[int, int]], rejected: dict[str, int]
) -> None:
    windows = logic.Windows(10, lateness)
    assert feed(windows, *timestamps) == emitted
    assert windows.rejected == rejected


@pytest.mark.parametrize("odd", [0, 2**41, 86_400_000 * 2])
def test_one_odd_clock_harms_no_other_device(odd: int) -> None:
    windows = logic.Windows(10, max_ahead_ms=86_400_000)
    feed(windows, 1000)
    windows.accept(reading(odd, device="odd"), 0)
    assert feed(windows, 1005, 1010) == [(1000, 2)]
    assert windows.rejected == {}


def test_a_single_future_timestamp_is_not_believed() -> None:
    windows = logic.Windows(10, max_ahead_ms=100)
    assert feed(windows, 0, 5000, 5, 10) == [(0, 2)]
    assert windows.rejected == {"future": 1}


def test_a_confirmed_jump_is_believed() -> None:
    windows = logic.Windows(10, max_ahead_ms=100)
    assert feed(windows, 0, 5000, 5003, 5010) == [(0, 1), (5000, 1)]
    assert windows.rejected == {"future": 1}


def test_the_wall_clock_bounds_the_future() -> None:
    windows = logic.Windows(10, max_ahead_ms=100, clock="wall")
    assert feed(windows, 1101, now=1000) == []
    assert feed(windows, 1100, 1110, now=1010) == [(1100, 1)]
    assert windows.rejected == {"future": 1}


def test_keys_are_bounded() -> None:
    windows = logic.Windows(10, max_keys=1)
    windows.accept(reading(0), 0)
    windows.accept(reading(0, device="e"), 0)
    assert windows.rejected == {"too-many-keys": 1}


@pytest.mark.parametrize("bad", [None, [], {}, {**reading(1), "value": "1"}, {**reading(1), "ts": 1.5}])
def test_malformed_readings_are_counted(bad: Any) -> None:
    windows = logic.Windows(10)
    assert windows.accept(bad, 0) == []
    assert windows.rejected == {"schema": 1}


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 200), st.floats(-1e6, 1e6)), max_size=60))
def test_every_reading_is_counted_once(sent: list[tuple[str, int, float]]) -> None:
    windows = logic.Windows(10, 15)
    emitted = [w for device, ts, value in sent for w in windows.accept(reading(ts, value, device), 0)]
    emitted += windows.flush()
    assert sum(window["count"] for window in emitted) == windows.counted
    assert windows.counted + sum(windows.rejected.values()) == len(sent) == windows.received
    names = [(window["device"], window["window_start"]) for window in emitted]
    assert len(set(names)) == len(names) == windows.published


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100])
def test_summary(count: int) -> None:
    values = sorted(float(n * 7 % 101) for n in range(count))
    found = logic.summary(values)
    assert found["mean"] == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert sum(value <= found["p95"] for value in values) >= 0.95 * count
    assert (found["count"], found["min"], found["max"]) == (count, values[0], values[-1])


def test_impossible_settings_fail_at_once() -> None:
    with pytest.raises(ValueError, match="windows need"):
        logic.Windows(0)


def test_handler_over_the_recorded_flow(load_handler: Callable[..., Any], published: Published) -> None:
    handler = load_handler("aggregate", **recipe_environment("aggregate"))
    recorded = list(flow())
    for ts, value in recorded:
        handler(reading(ts, value, "flow-1"), None)
    *windows, stats = handler({"command": "flush", "run": 1}, None)
    assert len(windows) == 1
    assert stats["payload"]["counted"] == len(recorded) == 1268
    assert stats["payload"]["rejected"] == {}
    sent = [message for topic, message, _ in published.messages if topic == "foreshore/windows/flow-1"]
    assert sum(window["count"] for window in sent) == len(recorded)
    assert min(window["min"] for window in sent) == min(value for _, value in recorded)
