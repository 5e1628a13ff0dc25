"""The query language of fleet indexing, by table."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.search import parse_query, values_at

THING = {
    "thingName": "lamp-1",
    "thingTypeName": "lamp",
    "thingGroupNames": ["hall", "north wing"],
    "attributes": {"floor": "2", "model": "123", "a.b": "dotted"},
    "shadow": {
        "reported": {"temperature": 21.5, "on": True, "tags": ["x", "y"]},
        "name": {"fast": {"reported": {"n": 3}, "hasDelta": False}},
    },
    "connectivity": {"connected": True, "timestamp": 1700000000000},
}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("*", True),
        ("thingName:lamp-1", True),
        ("thingName:lamp*", True),
        ("thingName:lamp-?", True),
        ("thingName:lam", False),
        ('thingName:"lamp-1"', True),
        ('thingName:"lamp*"', False),
        ("thingName:Lamp-1", True),
        ("lamp*", True),
        ("hall", True),
        ('thingGroupNames:"north wing"', True),
        ("thingGroupNames:south", False),
        ("attributes.floor:2", True),
        ("attributes.floor:2.0", True),
        ("attributes.floor>1", True),
        ("attributes.floor > 1", True),
        ("attributes.floor:>1", True),
        ("attributes.floor:>=2", True),
        ("attributes.floor<2", False),
        ("attributes.floor<=2", True),
        ("attributes.floor:[1 TO 2]", True),
        ("attributes.floor:{1 TO 2}", False),
        ("attributes.floor:{1 TO 2]", True),
        ("attributes.floor:[* TO 5]", True),
        ("attributes.a.b:dotted", True),
        ("attributes.none:*", False),
        ("shadow.reported.temperature:[20 TO 22]", True),
        ("shadow.reported.on:true", True),
        ("shadow.reported.on:1", False),
        ("shadow.reported.tags:y", True),
        ("shadow.name.fast.reported.n:3", True),
        ("shadow.name.fast.hasDelta:false", True),
        ("connectivity.connected:true AND thingTypeName:lamp", True),
        ("connectivity.timestamp>1600000000000", True),
        ("thingName:lamp-1 thingTypeName:lamp", True),
        ("thingName:no OR thingTypeName:lamp", True),
        ("NOT thingName:no", True),
        ("-thingName:lamp-1", False),
        ("NOT (thingName:no OR thingName:lamp-1)", False),
        ("thingName:(no lamp-1)", False),
        ("-(thingName:no OR thingName:lamp-1)", False),
        ("-(thingName:no OR thingName:nope)", True),
        ("thingName:(lamp* AND -plasma)", True),
        ("thingName:(lamp* AND -lamp-1)", False),
        ("thingName:(no OR lamp-1)", True),
        ("thingGroupNames:NORTH", True),
        ("thingGroupNames:(south OR (hall AND north))", True),
        ("thingGroupNames:n*", True),
        ("thingName:(no OR nope)", False),
        ("thingName:no AND thingTypeName:lamp OR attributes.floor:2", True),
        (r"thingName:lamp\-1", True),
        # AWS's own examples ("Example thing queries"), on this thing.
        ("21.5", True),
        ("thingName:*1", True),
        ("thingName:*amp*", True),
        ("attributes.model:1*3", True),
        ('attributes.model:["122" TO "124"]', True),
        ('attributes.a.b:["dot" TO "dotz"]', True),
        ('attributes.a.b:["e" TO "f"]', False),
        ("attributes.a.b:dotted AND attributes.floor<5 NOT attributes.model>200", True),
        ("shadow.reported.on:* NOT shadow.desired.stats.battery:*", True),
        ("connectivity.connected:true AND connectivity.timestamp : [1600000000000 TO 1800000000000]", True),
        ("connectivity.connected:true AND connectivity.timestamp > 1557651600000", True),
        ("connectivity.disconnectReason:*", False),
        ("shadow.name.fast.desired.filament:*", False),
    ],
)
def test_queries(query, expected):
    assert parse_query(query)(THING) is expected


@pytest.mark.parametrize(
    "query",
    [
        "",
        "(",
        "a:",
        "a:(b",
        ")",
        "a:[1 2]",
        "a>",
        "a OR",
        "AND a",
        "a AND OR b",
        "NOT AND a",
        "-(a",
        "a:*b c:*d",
        "a:*b AND b:" + "c" * 100,
        '"open',
        " ".join("abcdefghijklm"),
    ],
)
def test_broken_queries(query):
    with pytest.raises(AwsError) as caught:
        parse_query(query)
    assert caught.value.code == "InvalidQueryException"


def test_violations_are_not_emulated():
    with pytest.raises(NotEmulated):
        parse_query("deviceDefender.violationCount:[0 TO 100]")


def test_places_are_not_emulated():
    with pytest.raises(NotEmulated):
        parse_query("shadow.reported.place:geo_distance,47.6,-122.3,10km")


def test_values_under_a_path():
    assert list(values_at(THING, "shadow.reported.tags")) == ["x", "y"]
    assert sorted(map(str, values_at(THING, "attributes"))) == ["123", "2", "dotted"]


@given(st.text(alphabet='ab:()[]{}<>=*?"-\\ .1TOANDR', max_size=24))
@settings(derandomize=True, max_examples=400)
def test_any_text_is_a_query_or_refused(text):
    try:
        query = parse_query(text)
    except (AwsError, NotEmulated):
        return
    assert query(THING) in (True, False)
