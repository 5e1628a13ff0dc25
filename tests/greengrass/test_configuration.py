"""Component configuration: timestamps, merge, reset, defaults, rollback, watchers, the journal."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from foreshore.errors import UserError
from foreshore.greengrass.configuration import (
    Branch,
    Change,
    Configuration,
    from_record,
    lite_scalars,
    split_pointer,
    to_record,
)
from foreshore.greengrass.configuration_journal import ConfigurationJournal


def test_a_leaf_keeps_the_newer_of_two_writes() -> None:
    configuration = Configuration()
    assert configuration.merge("c", ["a"], 1, 100) == [Change("c", ("a",), False, 1)]
    assert configuration.merge("c", ["a"], 2, 99) == []
    assert configuration.merge("c", ["a"], 2, 100) == [Change("c", ("a",), False, 2)]
    assert configuration.get("c", ["a"]) == 2 and configuration.timestamp("c", ["a"]) == 100


def test_an_equal_value_moves_the_timestamp_and_is_no_change() -> None:
    configuration = Configuration()
    configuration.merge("c", ["a"], 1, 100)
    assert configuration.merge("c", ["a"], 1, 200) == []
    assert configuration.timestamp("c", ["a"]) == 200
    assert configuration.merge("c", ["a"], True, 200) == [Change("c", ("a",), False, True)]


def test_maps_merge_deeply_and_lists_are_replaced() -> None:
    configuration = Configuration()
    configuration.merge("c", [], {"m": {"x": 1, "y": {"z": 2}}, "l": [1, 2]}, 1)
    configuration.merge("c", [], {"m": {"y": {"w": 3}}, "l": [3]}, 2)
    assert configuration.document("c") == {"m": {"x": 1, "y": {"z": 2, "w": 3}}, "l": [3]}
    assert configuration.timestamp("c", ["m", "y"]) == 2 and configuration.timestamp("c", ["m", "x"]) == 1


def test_a_leaf_becomes_a_map_and_back_only_when_newer() -> None:
    configuration = Configuration()
    configuration.merge("c", ["a"], 1, 100)
    assert configuration.merge("c", ["a"], {"b": 1}, 99) == []
    changes = configuration.merge("c", ["a"], {"b": 1}, 101)
    assert changes == [Change("c", ("a",), True, None), Change("c", ("a", "b"), False, 1)]
    assert configuration.merge("c", ["a"], 5, 100) == []
    assert configuration.merge("c", ["a"], 5, 102)[-1] == Change("c", ("a",), False, 5)


@pytest.mark.parametrize(("sensitive", "count"), [(False, 1), (True, 2)])
def test_names_compare_by_profile(sensitive: bool, count: int) -> None:
    configuration = Configuration(case_sensitive=sensitive)
    configuration.merge("c", [], {"Key": 1}, 1)
    configuration.merge("c", [], {"kEY": 2}, 2)
    assert len(configuration.document("c")) == count
    assert configuration.document("c")["Key"] == (1 if sensitive else 2)


def test_a_changed_default_does_not_override() -> None:
    configuration = Configuration()
    configuration.apply("c", defaults={"a": 1, "m": {"x": 1}}, timestamp=10)
    assert configuration.timestamp("c", ["a"]) == 1
    configuration.apply("c", defaults={"a": 2, "m": {"x": 2, "y": 2}}, timestamp=20)
    assert configuration.document("c") == {"a": 1, "m": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("reset", "merge", "result"),
    [
        ([], None, {"a": 9, "m": {"x": 9, "k": 9}, "own": 9}),
        (["/a"], None, {"a": 1, "m": {"x": 9, "k": 9}, "own": 9}),
        (["/m/x"], None, {"a": 9, "m": {"x": 1, "k": 9}, "own": 9}),
        (["/own"], None, {"a": 9, "m": {"x": 9, "k": 9}}),
        (["/nope", "/m/nope"], None, {"a": 9, "m": {"x": 9, "k": 9}, "own": 9}),
        ([""], None, {"a": 1, "m": {"x": 1}}),
        ([""], {"m": {"y": 3}}, {"a": 1, "m": {"x": 1, "y": 3}}),
        (["/a"], {"a": 4}, {"a": 4, "m": {"x": 9, "k": 9}, "own": 9}),
    ],
)
def test_reset_then_defaults_then_merge(reset: list[str], merge: dict[str, Any] | None, result: object) -> None:
    configuration = Configuration()
    configuration.merge("c", [], {"a": 9, "m": {"x": 9, "k": 9}, "own": 9}, 50)
    arguments: dict[str, Any] = {
        "defaults": {"a": 1, "m": {"x": 1}},
        "reset": reset,
        "merge": merge,
        "timestamp": 100,
    }
    assert configuration.preview("c", **arguments) == result
    assert configuration.document("c")["a"] == 9
    configuration.apply("c", **arguments)
    assert configuration.document("c") == result


@pytest.mark.parametrize("pointer", ["a", "a/b"])
def test_a_reset_that_is_no_pointer(pointer: str) -> None:
    with pytest.raises(UserError):
        Configuration().apply("c", defaults={}, reset=[pointer], timestamp=1)


def test_a_reset_into_a_list() -> None:
    configuration = Configuration()
    configuration.merge("c", ["l"], [1, 2], 1)
    with pytest.raises(UserError, match="not a map"):
        configuration.apply("c", defaults={}, reset=["/l/0"], timestamp=2)


def test_pointers() -> None:
    assert split_pointer("") == () and split_pointer("/a~1b/m~0n//") == ("a/b", "m~n", "", "")


def test_restore_gives_everything_back_and_says_what_changed() -> None:
    configuration = Configuration()
    configuration.merge("c", [], {"a": 1, "b": {"x": 1}}, 1)
    before = configuration.snapshot()
    configuration.merge("c", [], {"a": 2, "n": 1}, 2)
    configuration.merge("d", ["k"], 1, 2)
    changes = configuration.restore(before)
    assert configuration.document("c") == {"a": 1, "b": {"x": 1}} and configuration.components() == ["c"]
    assert Change("c", ("a",), False, 1) in changes and Change("c", ("n",), True, None) in changes
    assert Change("d", ("k",), True, None) in changes


def test_watchers_hear_at_and_below_their_path() -> None:
    configuration = Configuration()
    configuration.merge("c", [], {"a": {"x": 1, "y": 1}, "b": 1}, 1)
    heard: list[Change] = []
    stop = configuration.watch("c", ["A"], heard.append)
    configuration.merge("c", [], {"a": {"x": 2}, "b": 2}, 2)
    assert heard == [Change("c", ("a", "x"), False, 2)]
    configuration.remove("c")
    assert heard[1:] == [Change("c", (), True, None)]
    stop()
    configuration.merge("c", ["a", "x"], 3, 3)
    assert len(heard) == 2


class Failing:
    def save(self, trees: Mapping[str, Branch | None]) -> None:
        raise UserError("disk full", code="state-unusable")


def test_what_the_journal_refuses_did_not_happen() -> None:
    heard: list[Change] = []
    configuration = Configuration(journal=Failing())
    configuration.watch_all(heard.append)
    with pytest.raises(UserError):
        configuration.merge("c", ["a"], 1, 1)
    assert configuration.components() == [] and heard == []


def test_lite_scalars_are_text() -> None:
    assert lite_scalars({"a": 1, "b": [True, 1.5, "t", None]}) == {"a": "1", "b": ["true", "1.5", "t", None]}


keys = st.sampled_from(["a", "A", "b", "c/d", "~", ""])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(st.dictionaries(keys, values, max_size=4), st.booleans())
def test_records_read_back(document: dict[str, object], sensitive: bool) -> None:
    tree = Configuration(case_sensitive=sensitive).tree(document, 7)
    record = orjson.loads(orjson.dumps(to_record(tree)))
    assert from_record(record, case_sensitive=sensitive) == tree


@settings(max_examples=60, derandomize=True, deadline=None)
@given(values)
def test_any_record_is_read_or_refused(record: Any) -> None:
    try:
        from_record(record)
    except ValueError:
        return


class Machine(RuleBasedStateMachine):
    """A configuration with a real journal against a plain model of leaves; reopened now and then."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(dir=self.folder)) / "config.db"
        self.clock = 10
        self.changes: list[Change] = []
        self.reopen()
        self.model: dict[tuple[str, ...], object] = {}

    @rule()
    def reopen(self) -> None:
        before = self.configuration.document("c") if hasattr(self, "configuration") else {}
        if hasattr(self, "journal"):
            self.journal.close()
        self.journal = ConfigurationJournal(self.path, case_sensitive=True)
        self.configuration = Configuration(case_sensitive=True, journal=self.journal, trees=self.journal.load())
        assert self.configuration.document("c") == before

    @rule(path=st.lists(st.sampled_from("ab"), min_size=1, max_size=3), value=st.integers(0, 3), age=st.integers(-5, 5))
    def write(self, path: list[str], value: int, age: int) -> None:
        self.clock += 1
        self.configuration.merge("c", path, value, self.clock + age)

    @rule(
        pointer=st.sampled_from(["", "/a", "/a/b", "/b/a/a"]),
        merge=st.dictionaries(st.sampled_from("ab"), st.integers(0, 3)),
    )
    def deploy(self, pointer: str, merge: dict[str, object]) -> None:
        self.clock += 10
        arguments: dict[str, Any] = {"defaults": {"d": 1}, "merge": merge, "timestamp": self.clock}
        try:
            expected = self.configuration.preview("c", reset=[pointer], **arguments)
        except UserError:
            return
        self.configuration.apply("c", reset=[pointer], **arguments)
        assert self.configuration.document("c") == expected
        assert expected.items() >= merge.items()

    @rule()
    def roll_back(self) -> None:
        before, document = self.configuration.snapshot(), self.configuration.document("c")
        self.configuration.merge("c", ["a", "b"], "other", self.clock + 100)
        self.configuration.restore(before)
        assert self.configuration.document("c") == document

    @invariant()
    def a_map_is_as_new_as_its_newest_leaf(self) -> None:
        def check(node: Any) -> int:
            if isinstance(node, Branch) and node.children:
                newest = max(check(child) for _, child in node.children.values())
                assert node.timestamp == newest
            return int(node.timestamp)

        if "c" in self.configuration:
            check(self.configuration.find("c"))

    def teardown(self) -> None:
        self.journal.close()


def test_the_machine(tmp_path: Path) -> None:
    Machine.folder = tmp_path
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=20, stateful_step_count=12, derandomize=True, deadline=None)
    )


WRITER = """
import sys
from pathlib import Path
from foreshore.greengrass.configuration import Configuration
from foreshore.greengrass.configuration_journal import ConfigurationJournal
configuration = Configuration(journal=ConfigurationJournal(Path(sys.argv[1]), case_sensitive=False))
for number in range(1, 1_000_000):
    configuration.merge("c", ["n"], number, number)
    configuration.apply("d", defaults={"a": number}, reset=[""], merge={"b": number}, timestamp=number)
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    for stop_at in (3, 150):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                acknowledged = int(line)
                if acknowledged >= stop_at:
                    process.send_signal(signal.SIGKILL)
                    break
            acknowledged = max([acknowledged, *(int(line) for line in process.stdout.read().split())])
        process.wait()
        journal = ConfigurationJournal(path, case_sensitive=False)
        configuration = Configuration(trees=journal.load())
        journal.close()
        assert configuration.document("c")["n"] in (acknowledged, acknowledged + 1)
        document = configuration.document("d")
        assert document["a"] == document["b"] and document["a"] in (acknowledged, acknowledged + 1)
