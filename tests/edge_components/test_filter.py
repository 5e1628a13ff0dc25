"""filter: what goes on, and under which reason the rest is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from example import Published, load, recipe_environment

logic = load("filter", "logic")
QUANTITIES = {
    "temperature": {"unit": "C", "min": -40, "max": 85, "convert": {"F": {"scale": 5 / 9, "offset": -160 / 9}}},
    "flow": {"unit": "l/s", "deadband": 0.5},
}


def reading(**changes: Any) -> dict[str, Any]:
    return {"device": "d", "seq": 1, "ts": 1000, "quantity": "temperature", "value": 20.5, "unit": "C", **changes}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in reading().items() if key != name}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (b"{", "not-json"),
        (b"\xff\xfe\x00", "not-json"),
        (b"[1]", "not-an-object"),
        ("null", "not-an-object"),
        *((without(name), "schema") for name in ("device", "seq", "ts", "quantity", "value", "unit")),
        (reading(device=""), "schema"),
        (reading(device="a/b"), "schema"),
        (reading(device="x" * 129), "schema"),
        (reading(seq=1.5), "schema"),
        (reading(seq=True), "schema"),
        (reading(seq=-1), "schema"),
        (reading(ts="1000"), "schema"),
        (reading(value="20"), "schema"),
        (reading(value=True), "schema"),
        (reading(value=None), "not-a-number"),
        (reading(value=float("nan")), "not-a-number"),
        (json.dumps(reading(value=float("inf"))), "not-a-number"),
        (reading(quantity="pressure"), "quantity"),
        (reading(unit="K"), "unit"),
        (reading(value=85.1), "range"),
        (reading(value=-40.5), "range"),
        (reading(value=200, unit="F"), "range"),
    ],
)
def test_rejections(event: Any, reason: str) -> None:
    tested = logic.Filter(QUANTITIES)
    assert tested.accept(event) is None
    assert tested.stats() == {"received": 1, "published": 0, "rejected": {reason: 1}}


def test_good_readings_pass_unchanged() -> None:
    tested = logic.Filter(QUANTITIES)
    assert tested.accept(json.dumps({**reading(), "more": 1}).encode()) == reading()
    assert tested.accept(reading(seq=2, value=85)) == reading(seq=2, value=85)


def test_units_are_converted() -> None:
    passed = logic.Filter(QUANTITIES).accept(reading(value=212 - 80, unit="F"))
    assert passed["unit"] == "C"
    assert passed["value"] == pytest.approx(55.5556, abs=1e-3)


def test_duplicates_are_per_device_and_remembered_up_to_the_ring() -> None:
    tested = logic.Filter(QUANTITIES, ring=2)
    sent = [("d", 1), ("d", 1), ("e", 1), ("d", 2), ("d", 3), ("d", 1), ("d", 3)]
    passed = [tested.accept(reading(device=device, seq=seq)) is not None for device, seq in sent]
    assert passed == [True, False, True, True, True, True, False]


def test_a_restarted_device_is_not_a_duplicate() -> None:
    tested = logic.Filter(QUANTITIES)
    assert tested.accept(reading(seq=1, ts=1000)) is not None
    assert tested.accept(reading(seq=1, ts=2000)) is not None


def test_deadband() -> None:
    tested = logic.Filter(QUANTITIES)
    values = [100.0, 100.4, 100.6, 100.2, 100.0]
    events = [reading(quantity="flow", unit="l/s", seq=seq, value=value) for seq, value in enumerate(values)]
    assert [tested.accept(event) is not None for event in events] == [True, False, True, False, True]
    assert tested.rejected == {"deadband": 2}


def test_silent_devices_are_forgotten_first() -> None:
    tested = logic.Filter(QUANTITIES, max_devices=2)
    for device in ("a", "b", "a", "c"):
        tested.accept(reading(device=device))
    assert list(tested.devices) == ["a", "c"]


def test_impossible_limits_fail_at_once() -> None:
    with pytest.raises(ValueError, match="impossible limits"):
        logic.Filter({"x": {"unit": "m", "min": 2, "max": 1}})


def test_handler(load_handler: Callable[..., Any], published: Published) -> None:
    handler = load_handler("filter", **recipe_environment("filter"))
    assert handler(json.dumps(reading()).encode(), None) == [{"topic": "edge/readings/d", "payload": reading()}]
    assert handler(b"rubbish", None) == []
    answer = {"component": "filter", "run": "r1", "received": 2, "published": 1, "rejected": {"not-json": 1}}
    assert handler(b'{"command": "flush", "run": "r1"}', None)[0]["payload"] == {**answer, "command": "flush"}
    assert published.messages == [
        ("edge/readings/d", reading(), ""),
        ("foreshore/stats/filter", {**answer, "command": "flush"}, "AllOrException"),
    ]
    handler({"command": "reset"}, None)
    assert handler({"command": "count"}, None)[0]["payload"]["received"] == 0
