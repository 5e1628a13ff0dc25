"""Topic filters: the standard's table, AWS's difference, and the trie against the plain definition."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.iot.mqtt.topics import TopicTrie, is_filter, is_topic, matches, parse_share

LEVEL = st.sampled_from(["a", "b", "", "$s"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTER = st.lists(st.sampled_from(["a", "b", "", "+"]), min_size=1, max_size=4).flatmap(
    lambda levels: st.booleans().map(lambda hash: "/".join([*levels, "#"] if hash else levels))
).filter(bool)  # fmt: skip


@pytest.mark.parametrize(
    ("filter", "topic", "standard", "aws"),
    [
        ("sport/#", "sport", True, False),
        ("sport/#", "sport/a/b", True, True),
        ("#", "a/b", True, True),
        ("#", "$SYS/a", False, False),
        ("+/a", "$SYS/a", False, False),
        ("$SYS/#", "$SYS/a", True, True),
        ("sport/+", "sport", False, False),
        ("sport/+", "sport/", True, True),
        ("+/+", "/finance", True, True),
        ("/+", "/finance", True, True),
        ("+", "/finance", False, False),
        ("a/b", "a/b", True, True),
        ("A/b", "a/b", False, False),
    ],
)
def test_matching(filter, topic, standard, aws):
    assert matches(filter, topic) is standard
    assert matches(filter, topic, hash_matches_parent=False) is aws


@given(st.lists(FILTER, max_size=6), TOPIC, st.booleans())
def test_the_trie_says_what_the_definition_says(filters, topic, standard):
    trie = TopicTrie(hash_matches_parent=standard)
    for index, filter in enumerate(filters):
        trie.add(filter, index)
    expected = [i for i, f in enumerate(filters) if matches(f, topic, hash_matches_parent=standard)]
    assert sorted(trie.match(topic)) == expected
    for index, filter in enumerate(filters):
        assert trie.remove(filter, index)
    assert len(trie) == 0
    assert trie.match(topic) == []


@pytest.mark.parametrize(("text", "valid"), [("a/b", True), ("", False), ("a/+", False), ("a#", False), ("a\0", False)])
def test_topics(text, valid):
    assert is_topic(text) is valid


@pytest.mark.parametrize(
    ("text", "valid"), [("a/+/b", True), ("#", True), ("a/#/b", False), ("a+", False), ("a/b#", False), ("", False)]
)
def test_filters(text, valid):
    assert is_filter(text) is valid


def test_shares():
    share = parse_share("$share/group/a/+")
    assert share is not None
    assert (share[0], share[1]) == ("group", "a/+")
    assert parse_share("a/b") is None


@settings(max_examples=200, derandomize=True)
@given(
    st.lists(st.sampled_from(["#", "+", "a", "a/#", "+/b", "a/+/c", "$aws/#", "$aws/events/+", "$aws/+/x", "b/c"])),
    st.sampled_from(["a", "a/b", "a/b/c", "b/c", "$aws/events/x", "$aws/things/x", "$aws/things/x/y", "z"]),
)
def test_a_quick_look_never_misses_a_match(filters, topic):
    trie = TopicTrie()
    for number, filter in enumerate(filters):
        trie.add(filter, number)
    assert trie.may_match(topic) or not trie.match(topic)
    if "$aws/events/+" not in filters and "$aws/#" not in filters and "$aws/+/x" not in filters:
        assert not trie.may_match("$aws/events/presence/connected/x")
