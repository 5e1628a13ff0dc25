"""The engine: rules found by topic, actions queued, failures kept to their own rule."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from foreshore.errors import AwsError, NotEmulated
from foreshore.http import Request, Response, Server
from foreshore.iot.rules.engine import Engine
from foreshore.seams import InvokeResult, LogLine, Publication, Span

ROLE = "arn:aws:iam::000000000000:role/rules"
PARENT = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


class Harness:
    """An engine with everything it touches recorded. Republished messages come back to the engine."""

    def __init__(self, backend: str = "http://127.0.0.1:1", **more: Any) -> None:
        self.published: list[Publication] = []
        self.invoked: list[tuple[str, bytes, str, str | None]] = []
        self.spans: list[Span] = []
        self.logs: list[LogLine] = []
        self.fail_invoke: AwsError | None = None
        more.setdefault("invoke", self.invoke)
        self.engine = Engine(
            region="us-east-1", account="000000000000", publish=self.publish, backend_url=lambda: backend,
            span=self.spans.append, log=self.logs.append, **more,
        )  # fmt: skip

    def publish(self, publication: Publication) -> None:
        self.published.append(publication)
        self.engine.on_message(publication)

    async def invoke(self, function: str, payload: bytes, **more: Any) -> InvokeResult:
        if self.fail_invoke is not None:
            raise self.fail_invoke
        self.invoked.append((function, payload, more.get("invocation_type", ""), more.get("traceparent")))
        return InvokeResult(b'{"ok": true}')

    def send(self, topic: str, payload: Any, **more: Any) -> None:
        body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        self.engine.on_message(Publication(topic, body, client_id="d1", traceparent=PARENT, **more))

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line.text) for line in self.logs]


def drive(work: Callable[[Harness], Awaitable[None]], **more: Any) -> Harness:
    async def main() -> Harness:
        harness = Harness(**more)
        await harness.engine.start()
        try:
            await work(harness)
            await harness.engine.idle()
        finally:
            await harness.engine.stop()
        return harness

    return asyncio.run(main())


def rule(sql: str, *actions: dict[str, Any], error: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"sql": sql, "awsIotSqlVersion": "2016-03-23", "actions": list(actions), "errorAction": error, **more}


def to_lambda(name: str = "f") -> dict[str, Any]:
    return {"lambda": {"functionArn": f"arn:aws:lambda:us-east-1:000000000000:function:{name}"}}


def to_topic(topic: str, **more: Any) -> dict[str, Any]:
    return {"republish": {"roleArn": ROLE, "topic": topic, **more}}


def test_a_matching_rule_invokes_a_function_asynchronously_with_its_trace() -> None:
    async def work(harness: Harness) -> None:
        harness.engine.set_rule("hot", rule("SELECT v, topic(2) AS device FROM 'd/+/r' WHERE v > 30", to_lambda()))
        harness.send("d/d1/r", b'{"v": 31.50}')
        harness.send("d/d1/r", {"v": 3})
        harness.send("e/d1/r", {"v": 31})

    harness = drive(work)
    (function, payload, kind, traceparent) = harness.invoked[0]
    assert (function.endswith(":f"), payload, kind) == (True, b'{"v":31.50,"device":"d1"}', "Event")
    assert len(harness.invoked) == 1
    assert traceparent is not None and traceparent[3:35] == "ab" * 16
    evaluations = [span for span in harness.spans if span.name == "rule hot"]
    assert [span.attributes["fired"] for span in evaluations if span.attributes] == [True, False]
    assert {span.parent_id for span in evaluations} == {"cd" * 8}
    action = next(span for span in harness.spans if span.name == "action lambda")
    assert (action.parent_id, action.span_id) == (evaluations[0].span_id, traceparent[36:52])


def test_republish_renders_topic_and_headers_and_drops_the_escape() -> None:
    headers = {
        "contentType": "application/json", "payloadFormatIndicator": "UTF8_DATA", "messageExpiry": "${30 + 30}",
        "responseTopic": "${topic()}/reply", "correlationData": "aGk=",
        "userProperties": [{"key": "k", "value": "${v}"}],
    }  # fmt: skip

    async def work(harness: Harness) -> None:
        harness.engine.set_rule(
            "r", rule("SELECT * FROM 'a/+'", to_topic("$$aws/things/${topic(2)}/x", qos=1, headers=headers))
        )
        harness.send("a/b", {"v": "w"})

    sent = drive(work).published[0]
    assert (sent.topic, sent.payload, sent.qos) == ("$aws/things/b/x", b'{"v":"w"}', 1)
    assert (sent.content_type, sent.payload_format, sent.message_expiry_s) == ("application/json", 1, 60)
    assert (sent.response_topic, sent.correlation_data, sent.user_properties) == ("a/b/reply", b"hi", [("k", "w")])


def test_a_loop_of_rules_ends() -> None:
    async def work(harness: Harness) -> None:
        harness.engine.set_rule("ping", rule("SELECT * FROM 'ping'", to_topic("pong")))
        harness.engine.set_rule("pong", rule("SELECT * FROM 'pong'", to_topic("ping")))
        harness.send("ping", {})

    harness = drive(work)
    assert len(harness.published) == 16
    assert any("loop" in event.get("details", "") for event in harness.events())


def test_basic_ingest_reaches_one_rule_and_says_when_there_is_none() -> None:
    async def work(harness: Harness) -> None:
        harness.engine.set_rule("mine", rule("SELECT topic() AS t, topic(1) AS one", to_lambda()))
        harness.engine.set_rule("off", rule("SELECT *", to_lambda("g"), ruleDisabled=True))
        harness.send("$aws/rules/mine/a/b", {})
        harness.send("$aws/rules/off/a/b", {})
        harness.send("$aws/rules/none/a/b", {})

    harness = drive(work)
    assert [payload for _, payload, _, _ in harness.invoked] == [b'{"t":"a/b","one":"a"}']
    found = [(event["ruleName"], event["status"]) for event in harness.events() if event["eventType"] == "RuleNotFound"]
    assert found == [("off", "Failure"), ("none", "Failure")]


def test_disable_enable_replace_and_remove() -> None:
    async def work(harness: Harness) -> None:
        engine = harness.engine
        engine.set_rule("r", rule("SELECT 1 AS n FROM 'a'", to_lambda()))
        harness.send("a", {})
        engine.disable("r")
        assert engine.rules()["r"]["ruleDisabled"] is True and engine.filters() == []
        harness.send("a", {})
        engine.enable("r")
        harness.send("a", {})
        engine.set_rule("r", rule("SELECT 2 AS n FROM 'b'", to_lambda()))
        harness.send("a", {})
        harness.send("b", {})
        engine.remove_rule("r")
        harness.send("b", {})
        with pytest.raises(AwsError, match="not found"):
            engine.enable("r")

    assert [payload for _, payload, _, _ in drive(work).invoked] == [b'{"n":1}', b'{"n":1}', b'{"n":2}']


def test_a_failed_action_becomes_aws_s_document_for_the_error_action() -> None:
    async def work(harness: Harness) -> None:
        harness.fail_invoke = AwsError("ResourceNotFoundException", "Function not found: f", 404)
        error = to_topic("errors/${topic()}")
        harness.engine.set_rule("r", rule("SELECT * FROM 'a'", to_lambda(), to_topic("out"), error=error))
        harness.send("a", {"v": 1}, source_ip="10.0.0.1")

    harness = drive(work)
    out, failed = harness.published
    assert (out.topic, failed.topic) == ("out", "errors/a")
    document = json.loads(failed.payload)
    trace = document.pop("cloudwatchTraceId")
    assert trace.replace("-", "") == "ab" * 16
    (failure,) = document.pop("failures")
    assert failure["failedAction"] == "LambdaAction" and failure["failedResource"].endswith(":f")
    assert "ResourceNotFoundException" in failure["errorMessage"]
    assert document == {
        "ruleName": "r", "topic": "a", "clientId": "d1", "sourceIp": "10.0.0.1",
        "base64OriginalPayload": "eyJ2IjoxfQ==",
    }  # fmt: skip


def test_a_sql_failure_runs_no_action_and_no_error_action() -> None:
    async def work(harness: Harness) -> None:
        sql = "SELECT get_dynamodb('t', 'k', v, 'role') AS x FROM 'a'"
        harness.engine.set_rule("r", rule(sql, to_lambda(), error=to_topic("errors")))
        harness.send("a", {"v": "x"})

    harness = drive(work)
    assert harness.invoked == [] and harness.published == []
    assert [span.ok for span in harness.spans if span.name == "rule r"] == [False]
    assert "dynamodb" in harness.engine.last("r")[0]["error"]


def test_a_transient_failure_is_tried_again_and_a_dead_target_blocks_no_other_rule() -> None:
    async def work(harness: Harness) -> None:
        table = {"dynamoDBv2": {"roleArn": ROLE, "putItem": {"tableName": "t"}}}
        harness.engine.set_rule("dead", rule("SELECT * FROM 'a'", table, error=to_topic("errors")))
        harness.engine.set_rule("live", rule("SELECT * FROM 'a'", to_lambda()))
        for n in range(50):
            harness.send("a", {"n": n})

    harness = drive(work)
    assert len(harness.invoked) == 50
    assert len([message for message in harness.published if message.topic == "errors"]) == 50
    attempts = [action["attempts"] for record in harness.engine.last("dead") for action in record["actions"]]
    assert 1 in attempts and harness.engine._rules["dead"].dropped == 0


async def backend(answers: list[int]) -> tuple[Server, list[Request]]:
    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        status = answers.pop(0) if answers else 200
        return Response(status, [], b"{}" if status == 200 else b'{"__type":"x#InternalServerError","message":"no"}')

    server = Server(handler)
    await server.start("127.0.0.1", 0)
    return server, seen


def test_dynamodb_v2_writes_a_column_for_each_key_and_keeps_every_digit() -> None:
    async def main() -> None:
        server, seen = await backend([500, 500, 200])
        harness = Harness(f"http://127.0.0.1:{server.port}")
        await harness.engine.start()
        table = {"dynamoDBv2": {"roleArn": ROLE, "putItem": {"tableName": "${topic(1)}"}}}
        harness.engine.set_rule("r", rule("SELECT * FROM 'a'", table))
        harness.send("a", b'{"n": 0.1234567890123456789012345678901234, "l": [1, null], "m": {"t": true}}')
        await harness.engine.idle()
        await harness.engine.stop()
        await server.stop()
        assert len(seen) == 3
        assert seen[-1].header("X-Amz-Target") == "DynamoDB_20120810.PutItem"
        assert "/us-east-1/dynamodb/aws4_request" in seen[-1].header("Authorization")
        item = {
            "n": {"N": "0.1234567890123456789012345678901234"}, "l": {"L": [{"N": "1"}, {"NULL": True}]},
            "m": {"M": {"t": {"BOOL": True}}},
        }  # fmt: skip
        assert json.loads(seen[-1].body) == {"TableName": "a", "Item": item}
        (action,) = harness.engine.last("r")[0]["actions"]
        assert (action["outcome"], action["attempts"]) == ("ok", 3)

    asyncio.run(main())


def test_external_functions_run_beside_the_loop() -> None:
    async def work(harness: Harness) -> None:
        sql = "SELECT aws_lambda('arn:f', *).ok AS ok, traceid() AS t FROM 'a'"
        harness.engine.set_rule("r", rule(sql, to_topic("out")))
        harness.send("a", {"v": 1})

    harness = drive(work)
    assert json.loads(harness.published[0].payload)["ok"] is True
    assert harness.invoked[0][1] == b'{"v":1}'


def test_one_message_is_decoded_once_for_all_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    from foreshore.iot.rules import message

    reads: list[bytes] = []
    read_json = message.read_json
    monkeypatch.setattr(message, "read_json", lambda text, old=False: reads.append(text) or read_json(text, old))

    async def work(harness: Harness) -> None:
        for n in range(5):
            harness.engine.set_rule(f"r{n}", rule(f"SELECT v FROM 'a' WHERE v > {n}", to_lambda()))
        harness.send("a", {"v": 3})

    assert len(drive(work).invoked) == 3
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("payload", "code", "text"),
    [
        (rule("SELEC * FROM 'a'"), "SqlParseException", "SELEC"),
        (rule("SELECT * FROM 'a' WHERE x != 1"), "SqlParseException", "Unexpected character '!'"),
        (rule("SELECT nope(1) FROM 'a'"), "SqlParseException", "nope"),
        (rule("SELECT * FROM 'a'", to_topic("x/${")), "SqlParseException", "end"),
        (rule("SELECT * FROM 'a'", to_topic("a")), "InvalidRequestException", "topic pattern 'a'"),
        (rule("SELECT * FROM 'a'", to_topic("$aws/x")), "InvalidRequestException", "$$"),
        (rule("SELECT * FROM 'a'", {"lambda": {}}), "InvalidRequestException", "functionArn"),
        (rule("SELECT * FROM 'a'", {"lambdas": {"x": 1}}), "InvalidRequestException", "lambdas"),
        (rule("SELECT * FROM 'a'", *[to_lambda()] * 11), "InvalidRequestException", "10"),
    ],
)
def test_a_bad_rule_is_refused_when_it_is_made(payload: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(AwsError) as caught:
        Harness().engine.set_rule("r", payload)
    assert caught.value.code == code and text in caught.value.message


@pytest.mark.parametrize("key", ["iotAnalytics", "iotEvents"])
def test_an_action_whose_service_is_gone_says_so(key: str) -> None:
    with pytest.raises(NotEmulated, match=key):
        Harness().engine.set_rule("r", rule("SELECT * FROM 'a'", {key: {"roleArn": ROLE}}))


def test_admin_tells_why_a_rule_did_not_fire() -> None:
    async def work(harness: Harness) -> None:
        harness.engine.set_rule("r", rule("SELECT * FROM 'a' WHERE v > 30", to_lambda()))
        harness.send("a", {"v": 3})
        listing = json.loads(harness.engine.admin(Request("GET", "/_foreshore/rules", [])).body)  # type: ignore[arg-type]
        assert [(r["name"], r["matched"], r["fired"]) for r in listing["rules"]] == [("r", 1, 0)]
        found = json.loads(harness.engine.admin(Request("GET", "/_foreshore/rules/r", [])).body)  # type: ignore[arg-type]
        text = found["last"][0]["text"]
        assert "^ 3" in text and "WHERE  false" in text and "does not fire" in text
        assert harness.engine.admin(Request("GET", "/_foreshore/rules/none", [])).status == 404

    drive(work)


def test_listeners_are_attached_for_each_filter_and_taken_back() -> None:
    class Bus:
        def __init__(self) -> None:
            self.listeners: list[tuple[str, Callable[[Publication], None]]] = []

        def add_listener(self, filter: str, callback: Callable[[Publication], None]) -> Any:
            self.listeners.append((filter, callback))
            return self.listeners[-1]

        def remove_listener(self, handle: Any) -> None:
            self.listeners.remove(handle)

    async def work(harness: Harness) -> None:
        bus = Bus()
        harness.engine.set_rule("one", rule("SELECT * FROM 'a/+'", to_lambda()))
        harness.engine.attach(bus)
        harness.engine.set_rule("two", rule("SELECT * FROM 'b'", to_lambda()))
        assert sorted(filter for filter, _ in bus.listeners) == ["$aws/rules/#", "a/+", "b"]
        next(callback for filter, callback in bus.listeners if filter == "b")(Publication("b", b"{}"))
        harness.engine.remove_rule("one")
        assert sorted(filter for filter, _ in bus.listeners) == ["$aws/rules/#", "b"]
        await harness.engine.stop()
        assert bus.listeners == []

    assert len(drive(work).invoked) == 1


def test_a_result_too_deep_to_write_is_a_failure_of_that_rule_alone() -> None:
    async def work(harness: Harness) -> None:
        harness.engine.set_rule("r", rule("SELECT * FROM 'a'", to_lambda()))
        harness.engine.set_rule("n", rule("SELECT 1 AS n FROM 'a'", to_lambda()))
        harness.send("a", b'{"a":' * 260 + b"1" + b"}" * 260)

    harness = drive(work)
    assert [payload for _, payload, _, _ in harness.invoked] == [b'{"n":1}']
    assert "JSON" in harness.engine.last("r")[0]["error"]


def test_a_bug_in_one_rule_reaches_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(harness: Harness) -> None:
        seen: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
        harness.engine.set_rule("broken", rule("SELECT * FROM 'a'", to_lambda("broken")))
        harness.engine.set_rule("good", rule("SELECT * FROM 'a'", to_lambda("good")))
        monkeypatch.setattr(harness.engine._rules["broken"].definition.rule, "apply", lambda message: 1 / 0)
        harness.send("a", {})
        assert len(seen) == 1

    harness = drive(work)
    assert [function.rpartition(":")[2] for function, _, _, _ in harness.invoked] == ["good"]


def test_a_full_queue_tells_the_error_action(monkeypatch: pytest.MonkeyPatch) -> None:
    from foreshore.iot.rules import running

    monkeypatch.setattr(running, "MAX_PENDING", 5)

    async def work(harness: Harness) -> None:
        harness.engine.set_rule("r", rule("SELECT * FROM 'a'", to_lambda(), error=to_topic("errors")))
        for n in range(12):
            harness.send("a", {"n": n})

    harness = drive(work)
    assert len(harness.invoked) == 5 and len(harness.published) == 5
    assert "queue" in json.loads(harness.published[0].payload)["failures"][0]["errorMessage"]
    assert len([event for event in harness.events() if event["eventType"] == "RuleMessageThrottled"]) == 7


def test_with_a_real_broker() -> None:
    from foreshore.iot.mqtt.server import Broker

    async def main() -> None:
        broker = Broker(rate_limits=False)
        seen: list[Publication] = []
        broker.add_listener("out/#", seen.append)
        engine = Engine(
            region="us-east-1", account="000000000000", publish=broker.publish, invoke=None,
            backend_url=lambda: "http://127.0.0.1:1", span=lambda span: None, log=lambda line: None,
        )  # fmt: skip
        await engine.start()
        engine.attach(broker)
        shadow = "$aws/things/+/shadow/update/accepted"
        engine.set_rule("direct", rule("SELECT v FROM 'in/+' WHERE v > 1", to_topic("out/${topic(2)}")))
        engine.set_rule("shadow", rule(f"SELECT state.reported AS r FROM '{shadow}'", to_topic("out/${topic(3)}")))
        engine.set_rule("basic", rule("SELECT *", to_topic("out/basic")))
        broker.publish(Publication("in/a", b'{"v":2}', qos=1, traceparent=PARENT))
        broker.publish(Publication("in/a", b'{"v":1}'))
        broker.publish(Publication("$aws/things/T/shadow/update/accepted", b'{"state":{"reported":{"x":1}}}'))
        broker.publish(Publication("$aws/rules/basic/x", b"raw"))
        await engine.idle()
        found = sorted((message.topic, message.payload) for message in seen)
        assert found == [("out/T", b'{"r":{"x":1}}'), ("out/a", b'{"v":2}'), ("out/basic", b"raw")]
        traces = {(message.traceparent or "")[3:35] for message in seen if message.topic == "out/a"}
        assert traces == {"ab" * 16}
        await engine.stop()
        await broker.stop()

    asyncio.run(main())


class Things:
    """IoT Core's own knowledge, as the engine asks for it."""

    def shadow(self, thing: str, name: str | None) -> bytes:
        if thing != "T":
            raise AwsError("ResourceNotFoundException", f"No shadow exists with name: '{thing}'", 404)
        return orjson.dumps({"state": {"reported": {"name": name, "level": 1.5}}})

    def registry(self, operation: str, thing: str) -> dict[str, Any]:
        return {"thingName": thing, "operation": operation}


def test_shadow_and_registry_functions() -> None:
    async def work(harness: Harness) -> None:
        sql = (
            f"SELECT get_thing_shadow('T', '{ROLE}').state.reported AS a,"
            f" get_thing_shadow('T', 'n', '{ROLE}').state.reported.name AS b,"
            f" get_registry_data('DescribeThing', thing, '{ROLE}').operation AS c,"
            f" get_or_default(get_thing_shadow('none', '{ROLE}'), 0) AS d FROM 'a'"
        )
        harness.engine.set_rule("r", rule(sql, to_topic("out")))
        harness.engine.set_rule("f", rule(f"SELECT get_thing_shadow('none', '{ROLE}') AS x FROM 'a'", to_topic("out")))
        harness.send("a", {"thing": "T"})

    harness = drive(work, things=Things())
    (sent,) = harness.published
    assert sent.payload == b'{"a":{"name":null,"level":1.5},"b":"n","c":"DescribeThing","d":0}'
    assert "No shadow" in harness.engine.last("f")[0]["error"]


def test_a_function_that_fails_or_hangs_ends_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    from foreshore.iot.rules import lookups

    monkeypatch.setattr(lookups, "LAMBDA_TIMEOUT_S", 0.02)

    async def hang(function: str, payload: bytes, **more: Any) -> InvokeResult:
        if function == "arn:hangs":
            await asyncio.Event().wait()
        return InvokeResult(b'{"errorMessage":"no"}', function_error="Unhandled")

    async def work(harness: Harness) -> None:
        for name in ("hangs", "fails"):
            sql = f"SELECT aws_lambda('arn:{name}', *) AS x FROM 'a'"
            harness.engine.set_rule(name, rule(sql, to_topic("out"), error=to_topic("errors")))
        harness.send("a", {})

    harness = drive(work, invoke=hang)
    assert harness.published == []
    assert "no answer" in harness.engine.last("hangs")[0]["error"]
    assert "Unhandled" in harness.engine.last("fails")[0]["error"]


def test_a_replaced_rule_serves_its_queue_and_a_stop_says_what_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from foreshore.iot.rules import engine as engine_module

    monkeypatch.setattr(engine_module, "STOP_GRACE_S", 0.05)
    gate: list[asyncio.Event] = []
    invoked: list[bytes] = []

    async def slow(function: str, payload: bytes, **more: Any) -> InvokeResult:
        if function.endswith(":stuck"):
            await gate[0].wait()
        invoked.append(payload)
        return InvokeResult(b"")

    async def work(harness: Harness) -> None:
        gate.append(asyncio.Event())
        engine = harness.engine
        engine.set_rule("r", rule("SELECT 1 AS n FROM 'a'", to_lambda()))
        harness.send("a", {})
        engine.set_rule("r", rule("SELECT 2 AS n FROM 'a'", to_lambda()))
        assert engine.last("r") == []
        harness.send("a", {})
        engine.remove_rule("r")
        await engine.idle()
        assert sorted(invoked) == [b'{"n":1}', b'{"n":2}']
        engine.set_rule("s", rule("SELECT 3 AS n FROM 'a'", to_lambda("stuck")))
        for _ in range(20):
            harness.send("a", {})
        await engine.stop()

    harness = drive(work, invoke=slow)
    assert [line.text for line in harness.logs if line.level == "WARN"] == [
        "12 queued messages were not served before the stop"
    ]
