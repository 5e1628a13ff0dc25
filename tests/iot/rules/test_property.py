"""The compiled form against a plain tree walker, on generated statements and payloads; and made-up rubbish."""

import importlib.util
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreshore.iot.rules import UNDEFINED, Message, SqlParseError, compile
from foreshore.iot.rules.values import is_equal, write_json

_spec = importlib.util.spec_from_file_location("tree_walker", Path(__file__).with_name("tree_walker.py"))
assert _spec is not None and _spec.loader is not None
tree_walker: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tree_walker)

LEAVES = st.sampled_from(
    ["a", "b.c", "n", "s", "t", "arr", "o", "missing", "o.k", "*", "1", "-2", "0", "2.5", "10.0", "1E3", "'x'", '"7"',
     "''", "'true'", "TRUE", "false", "NULL", "999999999999999999999999", "'1.50'"]
)  # fmt: skip
FUNCTIONS = ["isNull", "isUndefined", "abs", "floor", "round", "upper", "length", "get_or_default"]


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(inner, inner)
    operators = st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "AND", "OR", "IN"])
    return st.one_of(
        st.tuples(inner, operators, inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        inner.map(lambda text: f"(NOT {text})"),
        inner.map(lambda text: f"-({text})"),
        st.tuples(st.sampled_from(FUNCTIONS), inner).map(lambda parts: f"{parts[0]}({parts[1]})"),
        pair.map(lambda parts: f"nanvl({parts[0]}, {parts[1]})"),
        pair.map(lambda parts: f"[{parts[0]}, {parts[1]}]"),
        pair.map(lambda parts: f"{{'p': {parts[0]}, q: {parts[1]}}}"),
        st.tuples(inner, inner, inner).map(lambda p: f"CASE {p[0]} WHEN {p[1]} THEN {p[2]} ELSE 'none' END"),
        pair.map(lambda parts: f"(SELECT VALUE {parts[0]} FROM arr AS t WHERE {parts[1]})"),
        pair.map(lambda parts: f"(SELECT {parts[0]} AS x, n FROM o WHERE {parts[1]})"),
        inner.map(lambda text: f"EXISTS (SELECT * FROM arr AS a WHERE {text})"),
    )


EXPRESSIONS = st.recursive(LEAVES, _grow, max_leaves=8)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.sampled_from(["x", "", "7", "true", "False", "-1.5"]),
    st.sampled_from([0.5, -2.25, 3.0, 1e10]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["k", "c", "n"]), inner, max_size=2)
    ),
    max_leaves=6,
)
PAYLOADS = st.dictionaries(st.sampled_from(["a", "b", "n", "s", "t", "arr", "o"]), VALUES, max_size=6)


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(EXPRESSIONS, EXPRESSIONS, PAYLOADS)
def test_the_compiled_form_agrees_with_a_tree_walker(shown: str, where: str, payload: dict[str, Any]) -> None:
    for sql in (f"SELECT VALUE ({shown}) FROM 't'", f"SELECT {shown} AS x.y, n AS x.z, * FROM 't' WHERE {where}"):
        rule = compile(sql, "2016-03-23")
        message = Message("t", orjson.dumps(payload))
        result = rule.evaluate(message)
        assert result.error == ""
        passed, value = tree_walker.walk(rule.statement, message.value(False))
        assert result.fired is (passed is True), sql
        if not result.fired:
            continue
        if value is tree_walker.NOTHING:
            assert result.value is UNDEFINED, sql
        else:
            assert is_equal(result.value, value), (sql, result.value, value)
            assert list(write_json(result.value)) == list(write_json(value)), sql


WORDS = [
    "SELECT", "VALUE", "FROM", "WHERE", "AS", "AND", "OR", "NOT", "IN", "EXISTS", "CASE", "WHEN", "THEN", "ELSE",
    "END", "SET", "@a", "@b", "a", "b.c", "*", "(", ")", "[", "]", "{", "}", ",", ".", ":", "+", "-", "/", "%", "=",
    "<>", "<", ">=", "'t'", "'#'", '"x"', "1", "2.5", "1E9", "1E999", "NULL", "true", "get(", "topic(",
    "regexp_matches(", "replace(", "lpad(", "concat(", "decode(", "encode(", "transform(", "time_to_epoch(",
    "parse_time(", "power(", "cast(", "trunc(", "substring(", "chr(", "newuuid()", "'(a+)+$'",
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!'", "'base64'", "99999999999", "\xe9", "\x00", "'", "!", ";", "$",
]  # fmt: skip


def test_made_up_statements_never_crash() -> None:
    source = random.Random(4)
    compiled = 0
    for _ in range(6000):
        middle = " ".join(source.choices(WORDS, k=source.randint(1, 14)))
        sql = f"SELECT {middle} FROM 't'" if source.random() < 0.7 else middle
        try:
            rule = compile(sql, source.choice(["2016-03-23", "2015-10-08"]))
        except SqlParseError as error:
            assert error.line > 0 and error.column > 0 and "^" in error.caret
            continue
        compiled += 1
        result = rule.apply(Message("t", b'{"a": [1, {"c": "x"}], "b": {"c": 2.5}}'))
        assert result.fired in (True, False) and isinstance(result.payload, bytes)
    assert compiled > 100


def test_made_up_payloads_never_crash() -> None:
    source = random.Random(5)
    rule = compile(
        "SELECT *, a + 1 AS x, (SELECT * FROM a) AS y, encode(*, 'base64') AS z FROM 't' WHERE a <> 1 OR true",
        "2016-03-23",
    )
    seeds = [
        b'{"a": 1.5e10, "b": [null, true, {"c": "\\ud83d\\ude00"}]}', b"[1, 2", b"\xff\xfe", b'{"a": NaN}',
        b'{"a": 1e99999}', b"",
        b'{"a": "\\ud800"}', b'{"a": "\\ud800", "b": 0.5}', b"[" * 5000,
        b'{"a":' * 3000 + b"1.5" + b"}" * 3000, b"9" * 5000, b"1." + b"9" * 5000,
        b'{"a": -0.0}', b'{"a": 1E-5000}', b"1.5 2", b" 1.5 ", b'\xef\xbb\xbf{"a": 1.5}',
    ]  # fmt: skip
    for seed in seeds:
        for _ in range(40):
            data = bytearray(seed)
            for _ in range(source.randint(0, 3)):
                if data:
                    data[source.randrange(len(data))] = source.randrange(256)
            result = rule.apply(Message("t", bytes(data)))
            assert result.error != "" or isinstance(result.payload, bytes)


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 5000 + "1" + ")" * 5000,
        "-" * 5000 + "1",
        "NOT " * 5000 + "true",
        "a" + ".b" * 20000,
        "a" + "[0]" * 20000,
        "1" + " + 1" * 20000,
        "[" * 5000 + "]" * 5000,
        "upper(" * 5000 + "a" + ")" * 5000,
        "(SELECT VALUE x FROM " * 3000 + "a" + ")" * 3000,
        "CASE a WHEN " * 3000,
        "'" * 20001,
        "1" * 20000,
        "x" * 200_000,
    ],
)
def test_depth_and_size_are_bounded(expression: str) -> None:
    with pytest.raises(SqlParseError):
        compile(f"SELECT {expression} AS x FROM 't'", "2016-03-23")


def test_a_long_chain_of_conditions_is_no_depth() -> None:
    where = " OR ".join(f"n = {number}" for number in range(5000))
    assert compile(f"SELECT 1 AS x FROM 't' WHERE {where}").evaluate(Message("t", b'{"n": 4999}')).fired


@pytest.mark.parametrize(
    ("sql", "payload"),
    [
        ("SELECT regexp_matches(s, '(a|aa)+$') AS x FROM 't'", {"s": "a" * 60 + "!"}),
        ("SELECT regexp_replace(s, '(a|aa)+$', '$1') AS x FROM 't'", {"s": "a" * 60 + "!"}),
        ("SELECT regexp_substr(s, '(a|aa)+$') AS x FROM 't'", {"s": "a" * 60 + "!"}),
        ("SELECT regexp_matches(s, '((((a{100}){100}){100}){2,100})') AS x FROM 't'", {"s": "a"}),
        ("SELECT regexp_matches(s, '(?:(?:[a{]\\\\{{9}){9999}){99999999999}') AS x FROM 't'", {"s": "a"}),
        ("SELECT regexp_matches(s, s) AS x FROM 't'", {"s": "a" * 5000}),
        ("SELECT replace(s, '', s) AS x FROM 't'", {"s": "a" * 100_000}),
        ("SELECT regexp_replace(s, 'a', s) AS x FROM 't'", {"s": "a" * 100_000}),
        (
            "SELECT (SELECT (SELECT (SELECT * FROM e AS x) AS a FROM e AS y) AS b FROM e AS z) AS x FROM 't'",
            {"e": list(range(20_000))},
        ),
        ("SET @s = s SELECT (SELECT @s AS s FROM e) AS x FROM 't'", {"e": [{}] * 20_000, "s": "a" * 50_000}),
        ("SET @a = s + s SELECT @a AS x FROM 't'", {"s": "a" * 100_000}),
        ("SELECT " + ", ".join(f"s AS k{n}" for n in range(3000)) + " FROM 't'", {"s": "a" * 100_000}),
    ],
)
def test_work_and_growth_are_bounded(sql: str, payload: dict[str, Any]) -> None:
    result = compile(sql, "2016-03-23").evaluate(Message("t", orjson.dumps(payload)))
    assert not result.fired and result.error != ""
