"""Shadow documents: AWS's documented flows, its error texts, and properties of merge and delta."""

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.database import MEMORY
from foreshore.iot.shadow_documents import ShadowError, delta, parse, shown, token_of, update
from foreshore.iot.shadows import Shadows
from foreshore.iot.store import Kind, open_database
from foreshore.seams import Publication

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS.filter(lambda v: v is not None),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=6,
)
STATES = st.dictionaries(st.text("abc", min_size=1, max_size=2), VALUES, max_size=4)


def test_a_first_update_makes_version_one_with_a_delta():
    result = update(None, {"state": {"desired": {"on": True, "led": {"r": 1}}}, "clientToken": "t"}, 10)
    stamps = {"on": {"timestamp": 10}, "led": {"r": {"timestamp": 10}}}
    assert result.document == {
        "state": {"desired": {"on": True, "led": {"r": 1}}}, "metadata": {"desired": stamps}, "version": 1,
        "timestamp": 10,
    }  # fmt: skip
    assert result.accepted == {
        "state": {"desired": {"on": True, "led": {"r": 1}}}, "metadata": {"desired": stamps}, "version": 1,
        "timestamp": 10, "clientToken": "t",
    }  # fmt: skip
    assert result.delta == {
        "state": {"on": True, "led": {"r": 1}},
        "metadata": stamps,
        "version": 1,
        "timestamp": 10,
        "clientToken": "t",
    }
    assert result.documents["previous"] is None
    assert result.documents["current"]["version"] == 1


def test_accepted_has_only_what_was_sent_and_old_metadata_stays():
    first = update(None, {"state": {"desired": {"a": 1, "b": 2}, "reported": {"a": 1}}}, 10).document
    result = update(first, {"state": {"reported": {"b": 2}}}, 20)
    assert result.accepted["state"] == {"reported": {"b": 2}}
    assert result.accepted["metadata"] == {"reported": {"b": {"timestamp": 20}}}
    assert result.document["metadata"]["reported"] == {"a": {"timestamp": 10}, "b": {"timestamp": 20}}
    assert result.delta is None
    assert result.documents["previous"]["version"] == 1


def test_null_removes_and_arrays_are_replaced_whole():
    first = update(None, {"state": {"desired": {"a": [1, 2], "b": {"c": 1, "d": 2}}}}, 10).document
    second = update(first, {"state": {"desired": {"a": [3], "b": {"c": None}}}}, 20).document
    assert second["state"] == {"desired": {"a": [3], "b": {"d": 2}}}
    assert second["metadata"]["desired"]["a"] == [{"timestamp": 20}]
    third = update(second, {"state": {"desired": None}}, 30)
    assert third.document["state"] == {}
    assert third.accepted["state"] == {"desired": None}


def test_a_null_state_empties_the_shadow_and_is_echoed():
    first = update(None, {"state": {"desired": {"a": 1}}}, 10).document
    result = update(first, {"state": None}, 20)
    assert (result.document["state"], result.document["metadata"], result.document["version"]) == ({}, {}, 2)
    assert result.accepted == {"state": None, "metadata": {"timestamp": 20}, "version": 2, "timestamp": 20}


def test_a_deleted_shadow_goes_on_with_its_version():
    assert update({"version": 7}, {"state": {"reported": {"a": 1}}}, 10).document["version"] == 8


def test_the_version_is_checked():
    first = update(None, {"state": {"reported": {"a": 1}}}, 10).document
    assert update(first, {"state": {"reported": {"a": 2}}, "version": 1}, 10).document["version"] == 2
    with pytest.raises(ShadowError, match="Version conflict") as caught:
        update(first, {"state": {"reported": {"a": 2}}, "version": 3}, 10)
    assert caught.value.code == 409


@pytest.mark.parametrize(
    ("payload", "code", "text"),
    [
        (b"{", 400, "Invalid JSON"),
        (b"[1]", 400, "Invalid JSON"),
        (b"{}", 400, "Missing required node: state"),
        (b'{"state": 3}', 400, "State node must be an object"),
        (b'{"state": {"desired": 3}}', 400, "Desired node must be an object"),
        (b'{"state": {"reported": []}}', 400, "Reported node must be an object"),
        (b'{"state": {"other": {}}}', 400, "State contains an invalid node: 'other'"),
        (b'{"state": {"desired": {"a": [1, null]}}}', 400, "State contains an invalid node: 'a'"),
        (b'{"state": {}, "version": "1"}', 400, "Invalid version"),
        (b'{"state": {}, "clientToken": 1}', 400, "Invalid clientToken"),
        (b'{"state": {}, "clientToken": "' + b"x" * 65 + b'"}', 400, "Invalid clientToken"),
        (b'{"state": {"desired": ' + b'{"a":' * 9 + b"1" + b"}" * 9 + b"}}", 400, "too many levels of nesting"),
        (b'{"state": {"desired": {"a": "' + b"x" * 8200 + b'"}}}', 413, "exceeds the maximum size"),
        (b'{"state": "\xff"}', 415, "UTF-8"),
    ],
)
def test_refusals(payload, code, text):
    with pytest.raises(ShadowError, match=text) as caught:
        update(None, parse(payload), 1)
    assert caught.value.code == code


def test_a_document_that_grows_too_large_is_refused():
    first = update(None, parse(b'{"state": {"desired": {"a": "' + b"x" * 5000 + b'"}}}'), 1).document
    with pytest.raises(ShadowError, match="maximum size"):
        update(first, parse(b'{"state": {"desired": {"b": "' + b"x" * 5000 + b'"}}}'), 1)


def test_a_get_shows_the_delta():
    document = update(None, {"state": {"desired": {"a": 1}, "reported": {"a": 2}}}, 10).document
    assert shown(document, 20, "t")["state"] == {"desired": {"a": 1}, "reported": {"a": 2}, "delta": {"a": 1}}
    assert shown(document, 20, "t")["clientToken"] == "t"


@settings(max_examples=60, derandomize=True)
@given(STATES, STATES)
def test_reporting_the_delta_settles_it(desired, reported):
    document = update(None, {"state": {"desired": desired, "reported": reported}}, 1).document
    missing = delta(document["state"].get("desired", {}), document["state"].get("reported", {}))
    settled = update(document, {"state": {"reported": missing}}, 2)
    left = settled.delta["state"] if settled.delta else {}
    # A value can't be replaced by an object member by member when it was none: then it takes its place whole.
    assert left == {} or all(isinstance(desired.get(key), dict) for key in left)


@settings(max_examples=100, derandomize=True)
@given(
    st.binary(max_size=60)
    | st.recursive(
        SCALARS,
        lambda i: (
            st.lists(i, max_size=3)
            | st.dictionaries(st.sampled_from(["state", "desired", "reported", "version", "x"]), i, max_size=3)
        ),
        max_leaves=8,
    ).map(orjson.dumps)
)
def test_anything_else_is_a_refusal(payload):
    try:
        request = parse(payload)
        token_of(request)
        update(None, request, 1)
    except ShadowError as error:
        assert 400 <= error.code < 500


def test_desired_comes_before_reported_and_a_delta_begins_with_its_version():
    first = update(None, {"state": {"reported": {"a": 1}}}, 10).document
    result = update(first, {"state": {"desired": {"a": 2}}}, 20)
    assert [list(result.document[part]) for part in ("state", "metadata")] == [["desired", "reported"]] * 2
    assert list(result.delta) == ["version", "timestamp", "state", "metadata"]


def test_nothing_came_before_a_shadow_that_is_made_again():
    assert update({"version": 7}, {"state": {"reported": {"a": 1}}}, 10).documents["previous"] is None


def test_the_end_of_a_c_string_does_not_spoil_the_document():
    assert parse(b'{"state": {"desired": {"powerOn": 1}}}\0') == {"state": {"desired": {"powerOn": 1}}}
    with pytest.raises(ShadowError, match="Invalid JSON"):
        parse(b'{"state": \0{}}')


class Bench:
    """Shadows over a memory store with a clock of the test's; what is published is kept."""

    def __init__(self):
        self.now, self.sent = 1_000_000, []
        store = Kind(open_database(MEMORY), "shadow")
        self.shadows = Shadows(self, store, lambda: self.now)

    def publish(self, publication):
        self.sent.append((publication.topic, json.loads(publication.payload)))

    def add_listener(self, filter, callback):
        return None

    def update(self):
        return json.loads(self.shadows.update("t", "", b'{"state":{"reported":{"a":1}}}'))["version"]


@pytest.mark.parametrize(("hours", "version"), [(0, 3), (48, 3), (49, 1)])
def test_a_deleted_shadows_version_goes_on_for_two_days(hours, version):
    bench = Bench()
    assert [bench.update(), bench.update()] == [1, 2]
    assert json.loads(bench.shadows.delete("t", "")) == {"version": 2, "timestamp": bench.now}
    bench.now += hours * 3600
    assert bench.update() == version


def test_what_a_delete_request_holds_is_ignored():
    bench = Bench()
    for payload, token in ((b"rubbish", None), (b"", None), (b'{"clientToken":"c"}', "c")):
        bench.update()
        bench.shadows._on_request(Publication("$aws/things/t/shadow/delete", payload))
        topic, answer = bench.sent[-1]
        assert (topic, answer.get("clientToken")) == ("$aws/things/t/shadow/delete/accepted", token)
