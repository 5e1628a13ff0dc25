"""Shadow documents: merge, delta, metadata, limits, and the three-way merge with the cloud."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import AwsError
from foreshore.greengrass.shadows import (
    Document,
    delta_of,
    merge,
    overwrite,
    patch_between,
    read_request,
    reconcile,
    same,
    stamp,
    update,
    view,
    without,
    without_own,
)

NOW = 1_700_000_000


def do(current: Document | None, state: dict[str, Any], **more: Any) -> Any:
    return update(current, current.version if current else 0, {"state": state, **more}, NOW)


def test_a_first_update() -> None:
    done = do(None, {"desired": {"a": 1, "b": {"c": [1]}}}, clientToken="t")
    assert done.document == Document(
        {"desired": {"a": 1, "b": {"c": [1]}}},
        {"desired": {"a": {"timestamp": NOW}, "b": {"c": [{"timestamp": NOW}]}}},
        1,
    )
    assert done.accepted == {
        "state": {"desired": {"a": 1, "b": {"c": [1]}}},
        "metadata": done.document.metadata,
        "version": 1,
        "timestamp": NOW,
        "clientToken": "t",
    }
    assert done.delta["state"] == {"a": 1, "b": {"c": [1]}} and done.delta["clientToken"] == "t"
    assert "previous" not in done.documents and done.documents["current"]["version"] == 1


def test_reporting_ends_the_delta() -> None:
    first = do(None, {"desired": {"a": 1, "b": 2}}).document
    second = do(first, {"reported": {"a": 1}})
    assert second.delta["state"] == {"b": 2} and second.delta["metadata"] == {"b": {"timestamp": NOW}}
    third = do(second.document, {"reported": {"b": 2}})
    assert third.delta is None and third.document.version == 3
    assert third.documents["previous"]["version"] == 2
    assert "delta" not in view(third.document, NOW)["state"]
    assert view(second.document, NOW)["state"]["delta"] == {"b": 2}


def test_null_removes() -> None:
    first = do(None, {"desired": {"a": 1, "b": {"c": 1}}, "reported": {"a": 1}}).document
    second = do(first, {"desired": {"b": {"c": None}}}).document
    assert second.state["desired"] == {"a": 1, "b": {}}
    third = do(second, {"desired": None}).document
    assert "desired" not in third.state and "desired" not in third.metadata


def test_versions() -> None:
    first = do(None, {"desired": {"a": 1}}).document
    assert do(first, {"desired": {"a": 2}}, version=1).document.version == 2
    with pytest.raises(AwsError) as caught:
        do(first, {"desired": {"a": 2}}, version=5)
    assert caught.value.status == 409
    assert update(None, 7, {"state": {}}, NOW).document.version == 8


def test_six_levels_are_allowed() -> None:
    read_request(b'{"state":{"desired":{"a":{"b":{"c":{"d":{"e":{"f":{}}}}}}}}}', 8192)


@pytest.mark.parametrize(
    ("payload", "status", "message"),
    [
        (b"{", 400, "Invalid JSON"),
        (b"[]", 400, "Invalid JSON"),
        (b"{}", 400, "Missing required node: state"),
        (b'{"state": null}', 400, "State node must be an object"),
        (b'{"state": {"desired": 5}}', 400, "Desired node must be an object"),
        (b'{"state": {"reported": []}}', 400, "Reported node must be an object"),
        (b'{"state": {"delta": {}}}', 400, "invalid node: 'delta'"),
        (b'{"state": {}, "version": "1"}', 400, "Invalid version"),
        (b'{"state": {}, "clientToken": 5}', 400, "Invalid clientToken"),
        (b'{"state":{"desired":{"a":{"b":{"c":{"d":{"e":{"f":{"g":1}}}}}}}}}', 400, "nesting"),
        (b" " * 8193, 413, "exceeds the maximum size"),
    ],
)
def test_bad_requests(payload: bytes, status: int, message: str) -> None:
    with pytest.raises(AwsError, match=message) as caught:
        read_request(payload, 8192)
    assert caught.value.status == status


def test_a_leaf_named_timestamp_keeps_its_mark() -> None:
    marks = stamp({}, {"timestamp": {"timestamp": 5}}, 1)
    assert marks == {"timestamp": {"timestamp": {"timestamp": 1}}}
    assert stamp(stamp({}, {"a": 1}, 1), {"a": {"b": 2}}, 2) == {"a": {"b": {"timestamp": 2}}}


def test_true_is_not_one() -> None:
    assert delta_of({"a": True, "l": [1]}, {"a": 1, "l": [True]}) == {"a": True, "l": [1]}


def test_the_cloud_wins_where_both_changed() -> None:
    base = {"desired": {"a": 1, "b": 1, "c": 1}}
    device = {"desired": {"a": 2, "b": 2, "c": 1}}
    cloud = {"desired": {"a": 3, "b": 1}}
    outcome = reconcile(base, device, cloud)
    assert outcome.to_cloud == {"desired": {"b": 2}}
    assert outcome.to_device == {"desired": {"a": 3, "c": None}}
    assert outcome.base == {"desired": {"a": 3, "b": 2}}


leaves = st.integers(0, 2) | st.booleans() | st.lists(st.integers(0, 1), max_size=2)
states = st.recursive(
    st.dictionaries(st.sampled_from("abc"), leaves, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | leaves, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(states, states)
def test_a_patch_between_two_states_makes_the_second(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert same(merge(old, patch_between(old, new)), new)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(states, states, states)
def test_both_sides_end_alike(base: dict[str, Any], device: dict[str, Any], cloud: dict[str, Any]) -> None:
    for section, winner, loser in (("desired", cloud, "to_cloud"), ("reported", device, "to_device")):
        sides = [{section: each} if each else {} for each in (base, device, cloud)]
        outcome = reconcile(*sides)
        agreed = outcome.base.get(section, {})
        assert same(merge(device, outcome.to_device.get(section, {})), agreed)
        assert same(merge(cloud, outcome.to_cloud.get(section, {})), agreed)
        lost = getattr(outcome, loser).get(section, {})
        assert without(lost, patch_between(base, winner)) == lost


@settings(max_examples=100, derandomize=True, deadline=None)
@given(states, states, states)
def test_one_way_ends_as_the_changed_side_is(
    base: dict[str, Any], device: dict[str, Any], cloud: dict[str, Any]
) -> None:
    outcome = overwrite(*({"desired": each} for each in (base, device, cloud)))
    if same(base, device):
        assert (outcome.to_cloud, outcome.to_device) == ({}, {})
    else:
        assert same(merge(cloud, outcome.to_cloud.get("desired", {})), device) and not outcome.to_device


def test_what_the_device_reported_and_did_not_send_stays() -> None:
    base, device = {"reported": {"a": 1, "b": 1}}, {"reported": {"a": 2, "b": 1}}
    patch = {"desired": {"x": 1}, "reported": {"a": 9, "b": 9}}
    assert without_own(base, device, patch) == {"desired": {"x": 1}, "reported": {"b": 9}}
    assert without_own(base, base, patch) == patch
    assert without_own(base, device, {"reported": {"a": 9}}) == {}


@settings(max_examples=100, derandomize=True, deadline=None)
@given(states, states)
def test_an_update_reported_as_wished_leaves_no_delta(before: dict[str, Any], wish: dict[str, Any]) -> None:
    first = do(None, {"desired": before, "reported": before}).document
    second = do(first, {"desired": wish}).document
    difference = delta_of(second.state.get("desired", {}), second.state.get("reported", {}))
    third = do(second, {"reported": difference}).document
    assert delta_of(third.state.get("desired", {}), third.state.get("reported", {})) == {}
