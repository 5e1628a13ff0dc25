"""Scenarios, recorded series, labels, and the ledger's equations."""

import dataclasses

import pytest

from foreshore.errors import UserError
from foreshore.simulate.ledger import Counts, checks, compare, rows
from foreshore.simulate.scenario import Device, Labels, Source, parse
from foreshore.simulate.series import change_points, readings

SCENARIO = """
name: s
rate: 10
devices:
  a: {quantity: flow, unit: l/s, source: {file: x.csv, time: t, value: v}, limit: 2}
  b:
    quantity: co2
    unit: ppm
    source: {package: river, file: x.csv}
    labels: {package: river, file: x.py, literal: annotations}
"""


def test_a_scenario_is_read():
    scenario = parse(SCENARIO, "s.yaml")
    assert (scenario.name, scenario.rate, scenario.topic) == ("s", 10.0, "devices/{device}/readings")
    a, b = scenario.devices
    assert a == Device("a", "flow", "l/s", Source("x.csv", "", "t", "v"), None, 2)
    assert b.labels == Labels("x.py", "river", "annotations")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("devices: [", "not a readable scenario"),
        ("name: x", "needs a `devices`"),
        ("devices: {}\nspeed: 3", "unknown keys: speed"),
        ("devices: {}\nrate: fast", "`rate`"),
        ("devices: {a: {quantity: q}}", "device a"),
        ("devices: {a: {quantity: q, unit: u, source: {file: f}, colour: red}}", "colour"),
    ],
)
def test_a_wrong_scenario_is_named(text, words):
    with pytest.raises(UserError, match=words) as caught:
        parse(text, "s.yaml")
    assert caught.value.where == "s.yaml"


def test_readings_count_and_keep_their_time():
    device = Device("d", "flow", "l/s", Source("f", time="t", value="v"), limit=2)
    found = list(
        readings(device, "t,v\n2022-03-20T11:00:00+01:00,1.5\n2022-03-20 11:00:00,nan\n2022-03-20 12:00:00,3\n")
    )
    assert found == [
        {"device": "d", "seq": 1, "ts": 1647770400000, "quantity": "flow", "value": 1.5, "unit": "l/s"},
        {"device": "d", "seq": 2, "ts": 1647774000000, "quantity": "flow", "value": None, "unit": "l/s"},
    ]


@pytest.mark.parametrize(("text", "words"), [("a,b\n1,2\n", "no column 't'"), ("t,v\nx,y\n", "could not convert")])
def test_an_unreadable_series_is_named(text, words):
    device = Device("d", "flow", "l/s", Source("f", time="t", value="v"))
    with pytest.raises(UserError, match=words):
        list(readings(device, text))


def test_change_points_that_two_people_marked():
    source = "class A:\n    def f(self):\n        super().f(marks={'x': [10, 50], 'y': [12, 90], 'z': [90]})\n"
    assert change_points(source, "marks") == [12, 90]
    with pytest.raises(UserError):
        change_points(source, "other")


def test_the_ledger_notices_a_lost_message():
    good = Counts(sent=5, received_by_core=5, filter_received=5, filter_published=4, rejected={"range": 1},
                  aggregate_received=4, alert_received=4, windows=2, windows_seen=2, window_readings=4, alerts=1,
                  alerts_seen=1, rule_matches=3, invocations=3, cold=1, warm=2, items=3)  # fmt: skip
    assert [check.text for check in checks(good) if not check.holds] == []
    lost = dataclasses.replace(good, items=2, windows_seen=1)
    assert len([check for check in checks(lost) if not check.holds]) == 2
    assert ("filtered out", 1, "component filter: 1 range") in rows(good)


def test_alerts_against_labels():
    times = [index * 1000 for index in range(100)]
    result = compare("d", [10, 50], times, [{"ts": 12_000}, {"ts": 80_000}], margin=5)
    assert (result.labelled, result.found, result.alerts, result.unexplained) == (2, 1, 2, 1)
