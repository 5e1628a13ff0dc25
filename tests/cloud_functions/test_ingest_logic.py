"""From rule events to items."""

import importlib.util
import sys
from decimal import Decimal
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "cloud_functions" / "ingest"


def load(name):
    spec = importlib.util.spec_from_file_location(f"ingest_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


logic = load("logic")
WINDOW = {
    "device": "d1", "quantity": "t", "unit": "C", "window_start": 1700000000000, "window_end": 1700000010000,
    "count": 3, "mean": 1.5, "min": 1, "max": 2.25, "p95": 2.25, "received_at": 1700000010001, "kind": "window",
}  # fmt: skip
ALERT = {
    "device": "d1",
    "quantity": "t",
    "id": "a1",
    "rule": "hot",
    "state": "raised",
    "ts": 5,
    "value": 9.5,
    "kind": "alert",
}


@pytest.mark.parametrize(
    ("event", "pk", "sk"),
    [(WINDOW, "window#d1", "1700000000000#t"), (ALERT, "alert#d1", "0000000000005#a1#raised")],
)
def test_keys(event, pk, sk):
    item = logic.to_item(event)
    assert (item["pk"], item["sk"]) == (pk, sk)
    assert {name: item[name] for name in event} == event


def test_floats_become_decimals():
    item = logic.to_item(WINDOW)
    assert item["mean"] == Decimal("1.5")
    assert isinstance(item["max"], Decimal)
    assert isinstance(item["count"], int)


def test_the_same_event_gives_the_same_item():
    assert logic.to_item(WINDOW) == logic.to_item(dict(WINDOW))


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({**WINDOW, "kind": "other"}, "kind is 'other'"),
        ({}, "kind is None"),
        ({**WINDOW, "device": None}, "window lacks device"),
        ({"kind": "alert", "device": "d"}, "alert lacks quantity, id, rule, state, ts, value"),
    ],
)
def test_bad_events(event, message):
    with pytest.raises(logic.BadEvent, match=message):
        logic.to_item(event)
