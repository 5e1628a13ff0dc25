"""Statements beyond AWS's printed examples: versions, scopes, number exactness, names, errors with a place."""

from decimal import Decimal
from typing import Any

import orjson
import pytest

from foreshore.iot.rules import UNDEFINED, ExternalFailed, Message, SqlParseError, compile
from foreshore.iot.rules.values import NotJson, is_equal, read_json, write_json

NEW, OLD = "2016-03-23", "2015-10-08"


def value_of(expression: str, payload: Any = None, version: str = NEW) -> Any:
    body = payload if isinstance(payload, bytes) else orjson.dumps(payload if payload is not None else {})
    result = compile(f"SELECT {expression} AS r FROM 't'", version).evaluate(Message("t", body, "c", timestamp_ms=0))
    assert result.error == ""
    return result.value.get("r", UNDEFINED)


@pytest.mark.parametrize(
    ("text", "old", "written"),
    [
        (b'{"a":10.0}', False, b'{"a":10}'),
        (b'{"a":10.0}', True, b'{"a":10.0}'),
        (b'{"a":0.1234567890123456789012345678901234}', False, b'{"a":0.1234567890123456789012345678901234}'),
        (b'{"a":9999999999999999999999999999999999}', False, b'{"a":9999999999999999999999999999999999}'),
        (b'{"a":18446744073709551616}', False, b'{"a":18446744073709551616}'),
        (b'{"a":12345678901234567890123456789012345678}', False, b'{"a":1.234567890123456789012345678901235E+37}'),
        (b'{"a":1e3}', False, b'{"a":1000}'),
        (b'{"a":1E-7}', False, b'{"a":1E-7}'),
        (b'{"a":-0.0}', False, b'{"a":0}'),
        (b"[1.5, [2.50]]", False, b"[1.5,[2.50]]"),
        (b" 1.5 ", False, b"1.5"),
    ],
)
def test_numbers_keep_their_digits(text: bytes, old: bool, written: bytes) -> None:
    assert write_json(read_json(text, old), old) == written


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"a":NaN}',
        b'{"a":1.5} x',
        b'{"a":1e99999}',
        b'{"a":"\\ud800","b":1.5}',
        b"\xff1.5",
        b"1." + b"1" * 5000,
    ],
)
def test_what_is_no_json_is_refused_by_both_readers(text: bytes) -> None:
    with pytest.raises(NotJson):
        read_json(text)


def test_equality_knows_types() -> None:
    assert is_equal([1, {"a": True}], [Decimal("1.0"), {"a": True}])
    assert not is_equal([1], [True]) and not is_equal(0, False) and not is_equal("1", 1) and not is_equal(None, False)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a.b", UNDEFINED),
        ("1 / 0", UNDEFINED),
        ("1 % 0", UNDEFINED),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("0.1 + 0.2", Decimal("0.3")),
        ("10 / 4.0", Decimal("2.5")),
        ("1 / 3.0", Decimal("0.3333333333333333333333333333333333")),
        ("9999999999999999999999999999999999 + 1", Decimal("1.000000000000000000000000000000000E+34")),
        ("9E999 * 10", UNDEFINED),
        ("true AND missing", UNDEFINED),
        ("false AND missing", UNDEFINED),
        ("'TRUE' AND 'true'", True),
        ("1 IN [1.0, 2]", True),
        ("missing IN [1]", UNDEFINED),
        ("1 IN 'abc'", UNDEFINED),
        ("get({'a': {'b': 1}}, 'a').b", 1),
        ("[1, 2][1]", 2),
        ("concat(missing, 'a')", UNDEFINED),
        ("upper('a', 'b')", UNDEFINED),
        ("cast(-1.5 AS Int)", -2),
        ("cast('1E2' AS Integer)", 100),
        ("cast(missing AS String)", UNDEFINED),
        ("length('')", 0),
        ("chr(55296)", UNDEFINED),
        ("regexp_matches('a', '(')", UNDEFINED),
        ("regexp_replace('a.b', '\\Q.\\E', '\\$')", "a$b"),
        ("regexp_replace('ab', '(?<x>a)', '[${x}]')", "[a]b"),
        ("regexp_matches('aé', '\\w\\w')", False),
        ("trunc('1E-40', 50)", 0),
        ("lpad('a', 5000)", " " * 1000 + "a"),
        ("transform('enrichArray', {'k': 1}, [1])", UNDEFINED),
        ("md2('')", "8350e5a3e24c153df2275c9f80692773"),
        ("encode('é', 'base64')", "w6k="),
        ("decode('eyJhIjoxLjV9', 'base64').a", Decimal("1.5")),
        ("decode('/w==', 'base64')", None),
        ("substring('abc', 1, NULL)", UNDEFINED),
        ("sql_version()", NEW),
        ("traceid()", UNDEFINED),
        ("sourceip()", UNDEFINED),
    ],
)
def test_values(expression: str, expected: Any) -> None:
    got = value_of(expression)
    assert got is expected if expected is UNDEFINED else is_equal(got, expected), got


def test_nested_queries_read_the_row_first_and_from_looks_outward() -> None:
    payload = {"limit": 2, "e": [{"n": 1, "f": [5]}, {"n": 3}], "f": [7], "o": {"a": 1, "b": 2}}
    assert value_of("(SELECT VALUE n FROM e WHERE n > 2)", payload) == [3]
    assert value_of("(SELECT VALUE limit FROM e)", payload) == []
    assert value_of("(SELECT VALUE (SELECT VALUE x FROM f AS x) FROM e)", payload) == [[5], [7]]
    assert value_of("(SELECT VALUE (SELECT VALUE r.n FROM f) FROM e AS r)", payload) == [[1], [3]]
    assert value_of("(SELECT a FROM o)", payload) == [{"a": 1}]
    assert value_of("get((SELECT *, topic() AS t FROM *), 0).t", payload) == "t"
    assert value_of("(SELECT * FROM missing)", payload) is UNDEFINED
    assert value_of("EXISTS (SELECT * FROM missing)", payload) is False


def test_aliases_merge_and_keep_their_order_without_changing_the_payload() -> None:
    payload = b'{"b":{"c":1},"x":2}'
    rule = compile("SELECT *, x AS b.d, missing AS b.e, x AS q.r.s, 1 AS q.a FROM 't'", NEW)
    message = Message("t", payload)
    assert rule.evaluate(message).payload == b'{"b":{"c":1,"d":2},"x":2,"q":{"r":{"s":2},"a":1}}'
    assert write_json(message.value(False)) == payload


def test_names_that_are_also_words() -> None:
    payload = {"value": 1, "set": 2, "end": 3, "in": 4, "when": {"from": 5}, "timestamp": 6, "case": {"x": 7}}
    sql = "SELECT value, set, end, in AS in, when.from, timestamp AS value2, case.x FROM 't' WHERE value = 1"
    result = compile(sql, NEW).evaluate(Message("t", orjson.dumps(payload)))
    assert result.value == {"value": 1, "set": 2, "end": 3, "in": 4, "from": 5, "value2": 6, "x": 7}
    assert compile("SELECT VALUE value FROM 't'").evaluate(Message("t", b'{"value":1}')).value == 1
    assert compile("select value - 1 as x from 't'").evaluate(Message("t", b'{"value":1}')).value == {"x": 0}
    assert compile("SELECT VALUE -1 FROM 't'").evaluate(Message("t")).value == -1


def test_raw_payloads() -> None:
    raw = Message("t", b"\x00\xff")
    assert compile("SELECT * FROM 't'").evaluate(raw).payload == b"\x00\xff"
    assert compile("SELECT *, 1 AS n FROM 't'").evaluate(raw).payload == b'{"n":1}'
    assert compile("SELECT a FROM 't'").evaluate(raw).payload == b"{}"
    assert not compile("SELECT * FROM 't' WHERE a = 1").evaluate(raw).fired
    assert compile("SELECT VALUE encode(*, 'base64') FROM 't'", NEW).evaluate(raw).payload == b'"AP8="'
    assert compile("SELECT VALUE numbytes(*) FROM 't'", NEW).evaluate(raw).payload == b"2"
    assert compile("SELECT VALUE missing FROM 't'").evaluate(Message("t", b"{}")).payload == b""


def test_version_2015() -> None:
    assert value_of("5.0 + 5", version=OLD) == Decimal("10.0")
    assert compile("SELECT a FROM 't'", OLD).evaluate(Message("t", b'{"a":10.0}')).payload == b'{"a":10.0}'
    assert compile("SELECT a + '' AS a FROM 't'", OLD).evaluate(Message("t", b'{"a":10.0}')).payload == b'{"a":"10.0"}'
    assert compile("SELECT VALUE a FROM 't'", OLD).evaluate(Message("t", b'{"a":[1]}')).payload == b""
    for expression in (
        "[1]",
        "{'a': 1}",
        "(SELECT a FROM b)",
        "encode(a, 'base64')",
        "cast(a AS Decimal)",
        "sourceip()",
    ):
        with pytest.raises(SqlParseError, match="2016-03-23"):
            compile(f"SELECT {expression} AS x FROM 't'", OLD)
    with pytest.raises(SqlParseError, match="version"):
        compile("SELECT * FROM 't'", "2020-01-01")


@pytest.mark.parametrize(
    ("sql", "line", "column", "message", "suggestion"),
    [
        ("SELECT *\nFORM 'a'", 2, 1, "'FORM'", "FROM"),
        ("SELECT * FROM a/b", 1, 15, "'a'", "single quotes"),
        ('SELECT * FROM "a/b"', 1, 15, "a/b", "single quotes"),
        ("SELECT a == 1 FROM 't'", 1, 10, "'EQ'", "="),
        ("SELECT a\n  WHERE b != 2", 2, 11, "'!'", "<>"),
        ("SELECT a || b FROM 't'", 1, 10, "'|'", "concat"),
        ("SELECT uper(a) FROM 't'", 1, 8, "uper", "upper"),
        ("SELECT a.1b FROM 't'", 1, 11, "'b'", "get("),
        ("SELECT 'a FROM t", 1, 8, "does not end", "'"),
        ("SELECT a FROM 'x/#/y'", 1, 15, "#", "devices"),
        ("SELECT a FROM 'x+'", 1, 15, "+", "devices"),
        ("SELECT cast(a AS Intt) FROM 't'", 1, 8, "intt", "int"),
        ("SELECT CASE a WHEN 1 THEN 2 FROM 't'", 1, 29, "'FROM'", "END"),
        ("SELECT @a FROM 't'", 1, 8, "@a", "SET"),
        ("SET @abc = 1 SELECT @abd FROM 't'", 1, 21, "@abd", "@abc"),
        ("SELECT a FROM 't' WHERE SELECT b FROM c", 1, 25, "'SELECT'", "brackets"),
        ("SELECT a FROM 't' WHERE a IN (1, 2)", 1, 32, "','", "[1, 2]"),
        ("SELECT a FROM 't' WHERE a NOT IN [1]", 1, 27, "'NOT'", "NOT a IN"),
        ("SELECT a = NOT b AS x FROM 't'", 1, 12, "'NOT'", "brackets"),
        ("SELECT a b FROM 't'", 1, 10, "'b'", "comma"),
        ("SELECT", 1, 7, "end", "expression"),
        ("", 1, 1, "end", "SELECT"),
        ("SELECT a FROM 't' -- all", 1, 19, "'-'", ""),
        ("SELECT a FROM 't';", 1, 18, "';'", "one statement"),
        ("SELECT machinelearnin_predict(a) FROM 't'", 1, 8, "machinelearnin_predict", "machinelearning_predict"),
        ("SELECT get_or_default(a, get_secret('s', 'SecretString', 'r')) FROM 't'", 1, 26, "external", ""),
        ("SELECT get_dynamodb('t','k','v','r'), get_dynamodb('t','k','v','r') FROM 't'", 1, 39, "once", ""),
    ],
)
def test_errors_say_where_and_how_to_mend(sql: str, line: int, column: int, message: str, suggestion: str) -> None:
    with pytest.raises(SqlParseError) as caught:
        compile(sql, NEW)
    error = caught.value
    assert message in error.message and suggestion in error.suggestion
    assert (error.line, error.column) == (line, column), str(error)
    assert error.caret.split("\n")[1] == " " * (column - 1) + "^"


def test_strict_live_refuses_a_nested_query_in_where_alone() -> None:
    sql = "SELECT (SELECT a FROM b) AS x FROM 't' WHERE EXISTS (SELECT a FROM b)"
    compile(sql, NEW)
    with pytest.raises(SqlParseError, match="'SELECT'"):
        compile(sql, NEW, strict_live=True)
    compile("SELECT (SELECT a FROM b) AS x FROM 't'", NEW, strict_live=True)


def test_get_or_default_catches_failures_and_nothing_else_does() -> None:
    secret = "get_secret('s', 'SecretString', 'role')"
    assert value_of(f"get_or_default({secret}, 'none')") == "none"
    result = compile(f"SELECT {secret} AS s FROM 't'", NEW).evaluate(Message("t", b"{}"))
    assert not result.fired and "external" in result.error
    with pytest.raises(ExternalFailed):
        compile("SELECT a FROM 't'", NEW).template("${" + secret + "}").render(Message("t", b"{}"), {})


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("${a}-${b.c}-${missing}-${n}", '1-{"d":[true]}--null'),
        ("${get({'}': 'x'}, '}')}", "x"),
        ("plain $5 {x}", "plain $5 {x}"),
        ("${'${' + \"}\"}", "${}"),
        ("${a + 1.50}${10.0}", "2.5010"),
    ],
)
def test_templates(template: str, expected: str) -> None:
    message = Message("t", b'{"a":1,"b":{"c":{"d":[true]}},"n":null}')
    assert compile("SELECT * FROM 't'", NEW).template(template).render(message, {}) == expected


@pytest.mark.parametrize(
    "template", ["${", "${a", "${}", "${a b}", "${@x}", "${nope()}", "${decode(*,'proto','b','k','f','m')}"]
)
def test_bad_templates_are_refused(template: str) -> None:
    with pytest.raises(SqlParseError):
        compile("SELECT * FROM 't'", NEW).template(template)


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ("2020-02-30", "yyyy-MM-dd", "2020-02-29"),
        ("2019-060", "yyyy-DDD", "2019-03-01"),
        ("03/04/21 07:08:09 PM", "MM/dd/yy hh:mm:ss a", "2021-03-04T19:08:09"),
        ("2021-03-04 24:00", "yyyy-MM-dd HH:mm", "2021-03-05"),
        ("Thu, 4 Mar 2021 00:00:00 +0100", "EEE, d MMM yyyy HH:mm:ss Z", "2021-03-03T23:00:00"),
        ("2021-03-04T01:02:03.123456789-05", "yyyy-MM-dd'T'HH:mm:ss.SSSSSSSSSX", "2021-03-04T06:02:03.123"),
        ("2021-03-04", "yyyy-MM-dd[ HH:mm]", "2021-03-04"),
        ("2021-03-04 01:02", "yyyy-MM-dd[ HH:mm]", "2021-03-04T01:02:00"),
        ("Fri 2021-03-04", "EEE yyyy-MM-dd", None),
        ("2021-13-04", "yyyy-MM-dd", None),
        ("2021-03-04 X", "yyyy-MM-dd z", None),
        ("2021-03-04", "yyyy-bb-dd", None),
        ("2021-03", "yyyy-MM", None),
    ],
)
def test_java_time_patterns(text: str, pattern: str, expected: str | None) -> None:
    from datetime import UTC, datetime

    got = value_of(f'time_to_epoch("{text}", "{pattern}")')
    if expected is None:
        assert got is UNDEFINED
    else:
        wanted = datetime.fromisoformat(expected).replace(tzinfo=UTC)
        assert got == round(wanted.timestamp() * 1000)


@pytest.mark.parametrize(
    ("pattern", "zone", "expected"),
    [
        ("yyyy-MM-dd'T'HH:mm:ss.SSSZZ", "Asia/Kolkata", "1970-01-01T05:30:00.000+05:30"),
        ("yy M d D e E EEEE w x", "UTC", "70 1 1 1 4 Thu Thursday 1 1970"),
        ("h K H k a C", "UTC", "12 0 0 24 AM 19"),
        ("SSSSSS 'o''clock' z", "America/New_York", "000000 o'clock EST"),
        ("yyyy", "+02:30", "1970"),
        ("yyyy", "Nowhere/Land", None),
        ("yyyy q", "UTC", None),
        ("yyyy 'open", "UTC", None),
    ],
)
def test_joda_patterns(pattern: str, zone: str, expected: str | None) -> None:
    got = value_of(f'parse_time("{pattern}", 0, "{zone}")')
    assert got is UNDEFINED if expected is None else got == expected


def test_strings_double_their_quotes() -> None:
    assert value_of("'it''s' + \"a\"\"b\"") == "it'sa\"b"
