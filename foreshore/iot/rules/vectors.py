"""Runs a file of documented examples against the compiler: one JSON object a line.

`id, kind, sql_version, sql, topic, payload | payload_raw | payload_raw_base64, expected, inferred` are read, and the
optional `context, fires, compare, expected_raw, alt_expected, corrected, skip, template, filter, action, rule_name`.
`inferred: false` marks an example printed in AWS's documentation. JSON is compared exactly: types, numbers (1 and 1.0
are the same number unless `expected_raw` gives the text), and nothing missing or more.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from foreshore.errors import ForeshoreError
from foreshore.iot.rules.functions import flatten_record
from foreshore.iot.rules.message import ExternalFailed, Message, Result
from foreshore.iot.rules.problems import SqlParseError
from foreshore.iot.rules.rule import compile
from foreshore.iot.rules.values import UNDEFINED, Value, is_equal, read_json, write_json

ANY = "__ANY__"


class Outcome(NamedTuple):
    """One vector's result. `expected` and `got` are texts for a reader."""

    id: str
    documented: bool
    passed: bool
    expected: str
    got: str


class _Stubs:
    """The services of a vector's `context`: they answer what it says and fail otherwise."""

    def __init__(self, context: dict[str, Any]) -> None:
        self.context = context

    def _answer(self, *names: str) -> Value:
        name = names[0]
        stub = next((self.context[key] for key in names if key in self.context), None)
        if stub is None or stub == "fails":
            raise ExternalFailed(f"{name} fails")
        if isinstance(stub, dict):
            for key in ("response", "result", "doc", "item", "value"):
                if key in stub:
                    return stub[key]
        return stub

    def aws_lambda(self, arn: str, argument: Value) -> Value:
        stub = self.context.get("aws_lambda")
        if isinstance(stub, dict) and "request" in stub and not is_equal(stub["request"], argument):
            raise ExternalFailed("aws_lambda was called with another argument")
        return self._answer("aws_lambda")

    def get_dynamodb(self, table: str, keys: list[tuple[str, Value]], role: str) -> Value:
        return self._answer("get_dynamodb", "dynamodb")

    def get_secret(self, secret: str, kind: str, key: str | None, role: str) -> Value:
        found = self._answer("get_secret", "secret")
        if key is not None and isinstance(found, str):
            found = read_json(found.encode())
        return found[key] if key is not None and isinstance(found, dict) else found

    def get_thing_shadow(self, thing: str, name: str | None, role: str) -> Value:
        stub = self.context.get("shadow", self.context.get("get_thing_shadow"))
        if not isinstance(stub, dict) or stub.get("thing", thing) != thing or stub.get("name") != name:
            raise ExternalFailed("no such shadow")
        return stub.get("doc", stub.get("response"))

    def get_registry_data(self, operation: str, thing: str, role: str) -> Value:
        return self._answer("get_registry_data", "registry")

    def proto_descriptor(self, bucket: str, key: str) -> bytes:
        return base64.b64decode(str(self._answer("proto_descriptor")))


def _principal(value: object) -> str | None:
    if isinstance(value, dict):
        return ":".join(str(_principal(part)) for part in value.values()) if value else None
    return value if isinstance(value, str) else None


def _payload(vector: dict[str, Any]) -> bytes:
    if vector.get("payload_raw_base64") is not None:
        return base64.b64decode(vector["payload_raw_base64"])
    if vector.get("payload_raw") is not None:
        return str(vector["payload_raw"]).encode()
    payload = vector.get("payload")
    return b"" if payload is None else write_json(payload)


def message_of(vector: dict[str, Any]) -> Message:
    """The message that a vector describes."""
    context = vector.get("context") or {}
    properties = context.get("mqtt5") or {}
    correlation = properties.get("correlation_data_b64")
    by_mqtt = context.get("transport", "mqtt") != "http"
    return Message(
        vector.get("topic") or "test/topic",
        _payload(vector),
        client_id=context.get("clientid", "device" if by_mqtt else None),
        principal=_principal(context.get("principal")),
        source_ip=context.get("sourceip", context.get("source_ip")),
        timestamp_ms=context.get("timestamp", 1_500_000_000_000),
        trace_id=context.get("traceid"),
        account=context.get("accountid", "123456789012"),
        content_type=properties.get("content_type"),
        format_indicator=properties.get("format_indicator"),
        response_topic=properties.get("response_topic"),
        correlation_data=base64.b64decode(correlation) if correlation else None,
        user_properties=[(name, value) for name, value in properties.get("user_properties", [])],
        services=_Stubs(context),
    )


def _agrees(vector: dict[str, Any], expected: Value, got: Value) -> bool:
    mode = str(vector.get("compare", ""))
    if mode == "pattern":
        text = got if isinstance(got, str) else write_json(got).decode() if got is not UNDEFINED else ""
        wanted = _leaf(got) if not isinstance(got, str) else text
        return re.search(vector["pattern"], wanted if isinstance(wanted, str) else str(wanted)) is not None
    if mode.startswith("range"):
        low, high = vector.get("range") or [Decimal(part) for part in mode.partition(":")[2].split(",")]
        number = _leaf(got)
        return isinstance(number, int | Decimal) and low <= number < high
    if mode.startswith(("approx", "numeric")):
        tolerance = Decimal(mode.partition(":")[2] or ("1E-9" if mode.startswith("approx") else "1E-12"))
        return _near(expected, got, tolerance)
    if got is UNDEFINED:
        # Undefined alone serializes to an empty string.
        return expected is None or expected == ""
    return is_equal(expected, got)


def _leaf(value: Value) -> Value:
    return next(iter(value.values())) if type(value) is dict and len(value) == 1 else value


def _near(expected: Value, got: Value, tolerance: Decimal) -> bool:
    if type(expected) is dict and type(got) is dict:
        return expected.keys() == got.keys() and all(_near(expected[key], got[key], tolerance) for key in expected)
    if type(expected) is list and type(got) is list:
        return len(expected) == len(got) and all(map(lambda a, b: _near(a, b, tolerance), expected, got))
    if type(expected) in (int, Decimal) and type(got) in (int, Decimal):
        return abs(Decimal(expected) - Decimal(got)) <= tolerance * max(Decimal(1), abs(Decimal(expected)))
    return is_equal(expected, got)


def _show(value: Value) -> str:
    if value is UNDEFINED:
        return "Undefined"
    return write_json(value).decode() if type(value) is not bytes else repr(value)


Verdict = tuple[bool, str, str]


def _check_value(vector: dict[str, Any], got: Value) -> Verdict:
    expected = vector.get("expected")
    passed = _agrees(vector, expected, got)
    if not passed and "alt_expected" in vector:
        # The documentation contradicts itself here, and the file says which other reading it prints.
        passed = _agrees(vector, vector["alt_expected"], got)
    return passed, _show(expected), _show(got)


def _run_rule(vector: dict[str, Any]) -> Verdict:
    rule = compile(vector["sql"], vector.get("sql_version") or "2015-10-08")
    message = message_of(vector)
    result = rule.evaluate(message)
    if vector.get("fires") is False:
        return not result.fired, "does not fire", "does not fire" if not result.fired else _show(result.value)
    if not result.fired:
        return False, _show(vector.get("expected")), f"does not fire ({result.error or _show(result.where)})"
    if "expected_raw" in vector:
        got = result.payload.decode("utf-8", "replace")
        return got == vector["expected_raw"], vector["expected_raw"], got
    verdict = _check_value(vector, _output(result))
    if verdict[0] and vector.get("compare") == "exact_key_order":
        wanted = write_json(vector["expected"])
        verdict = (wanted == result.payload, wanted.decode(), result.payload.decode())
    if verdict[0] and "expected_action" in vector:
        return _check_action(vector, rule.template, message, result)
    return verdict


def _check_action(vector: dict[str, Any], template: Callable[[str], Any], message: Message, result: Result) -> Verdict:
    def rendered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rendered(item) for key, item in value.items()}
        return template(value).render(message, result.variables) if isinstance(value, str) else value

    got = rendered(vector["action"])
    return got == vector["expected_action"], _show(vector["expected_action"]), _show(got)


def _output(result: Result) -> Value:
    """What a reader of the message gets: the result after it was written and read again."""
    value = result.value
    if value is UNDEFINED:
        return UNDEFINED
    if type(value) is bytes:
        try:
            return read_json(value)
        except ValueError:
            return value.decode("utf-8", "replace")
    return read_json(result.payload, result.old)


def _run_parse_error(vector: dict[str, Any]) -> Verdict:
    try:
        compile(vector["sql"], vector.get("sql_version") or "2015-10-08", strict_live=bool(vector.get("measured")))
    except SqlParseError as error:
        return True, "SqlParseException", error.message
    return False, "SqlParseException", "it compiles"


def _run_topic_match(vector: dict[str, Any]) -> Verdict:
    rule = compile(f"SELECT * FROM '{vector['filter']}'", "2016-03-23")
    got = rule.matches(vector["topic"])
    return got is vector["expected"], _show(vector["expected"]), _show(got)


def _run_template(vector: dict[str, Any]) -> Verdict:
    from foreshore.iot.rules.actions.templates import unescape_topic

    rule = compile(vector["sql"], vector.get("sql_version") or "2015-10-08")
    message = message_of(vector)
    result = rule.evaluate(message)
    got = rule.template(vector["template"]).render(message, result.variables)
    if str(vector.get("field", "")) == "republish.topic":
        got = unescape_topic(got)
    if vector.get("compare") == "numeric":
        return Decimal(got) == Decimal(vector["expected"]), str(vector["expected"]), got
    if vector.get("compare") == "pattern":
        return re.search(vector["pattern"], got) is not None, vector["pattern"], got
    passed = got == vector["expected"] or ("alt_expected" in vector and got == vector["alt_expected"])
    return passed, str(vector["expected"]), got


def _run_timestream(vector: dict[str, Any]) -> Verdict:
    from foreshore.iot.rules.actions.timestream import typed_value

    result = compile(vector["sql"], vector.get("sql_version") or "2015-10-08").evaluate(message_of(vector))
    got = {name: list(typed_value(value, result.old)) for name, value in result.value.items()}
    wanted = vector["expected"]
    passed = all(
        got.get(name, [])[:1] == pair[:1] and _same_text(pair[1], got[name][1]) for name, pair in wanted.items()
    )
    return passed, _show(wanted), _show(got)


def _same_text(wanted: str, got: str) -> bool:
    # The page prints the console's TRUE for a boolean that the API carries as true.
    return wanted == got or (wanted in ("TRUE", "FALSE") and wanted.lower() == got)


def _run_error_document(vector: dict[str, Any]) -> Verdict:
    from foreshore.iot.rules.actions.failures import Failure, error_document

    wanted = vector["expected"]
    message = Message(
        vector["topic"], _payload(vector), client_id=wanted.get("clientId"), trace_id=wanted.get("cloudwatchTraceId")
    )
    failures = [Failure(f["failedAction"], f["failedResource"], "text") for f in wanted["failures"]]
    got = error_document(vector["rule_name"], message, failures)
    passed = all(_same_member(value, got.get(key)) for key, value in wanted.items())
    return passed, _show(wanted), _show(got)


def _same_member(wanted: Value, got: Value) -> bool:
    if wanted == ANY:
        return got is not None
    if type(wanted) is list and type(got) is list:
        return len(wanted) == len(got) and all(map(_same_member, wanted, got))
    if type(wanted) is dict and type(got) is dict:
        return all(_same_member(value, got.get(key)) for key, value in wanted.items())
    return bool(wanted == got)


def _run_create_error(vector: dict[str, Any]) -> Verdict:
    from foreshore.iot.rules.definition import Definition

    payload = {
        "sql": vector["sql"],
        "awsIotSqlVersion": vector.get("sql_version") or "2015-10-08",
        "actions": [{name: {"roleArn": "arn:aws:iam::1:role/r", **body} for name, body in vector["action"].items()}],
    }
    try:
        Definition("rule", payload)
    except ForeshoreError as error:
        got = getattr(error, "message", str(error))
        return got == vector["expected"], vector["expected"], got
    return False, vector["expected"], "it is created"


def _run_flatten(vector: dict[str, Any]) -> Verdict:
    got = flatten_record(vector["payload"])
    return is_equal(got, vector["expected"]), _show(vector["expected"]), _show(got)


_KINDS: dict[str, Callable[[dict[str, Any]], Verdict]] = {
    "expr": _run_rule,
    "rule": _run_rule,
    "parse_error": _run_parse_error,
    "topic_match": _run_topic_match,
    "template": _run_template,
    "action_timestream": _run_timestream,
    "error_action_document": _run_error_document,
    "create_rule_error": _run_create_error,
    "ml_record_flatten": _run_flatten,
}


def run(lines: Iterable[bytes]) -> Iterator[Outcome]:
    """Run every vector of a file but those marked `skip`."""
    for line in lines:
        if not line.strip():
            continue
        vector = read_json(line)
        if vector.get("skip"):
            continue
        runner = _KINDS.get(vector["kind"])
        try:
            verdict = runner(vector) if runner else (False, "", f"unknown kind {vector['kind']}")
        except Exception as error:
            verdict = (False, _show(vector.get("expected")), f"{type(error).__name__}: {error}")
        yield Outcome(vector["id"], not vector.get("inferred"), *verdict)
