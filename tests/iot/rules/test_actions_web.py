"""Actions that end at an endpoint of the user's own: HTTP, OpenSearch, Kafka, InfluxDB, and AWS APIs by shape."""

import asyncio
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest

from foreshore.errors import AwsError
from foreshore.http import Request, Response, Server
from foreshore.iot.rules.actions import kafka
from foreshore.iot.rules.engine import Engine
from foreshore.seams import Publication

ROLE = "arn:aws:iam::000000000000:role/rules"
STAMP = 1_497_028_786_123


class Endpoint:
    """An HTTP server that records what it is sent; `answer` may be replaced."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Response] = lambda request: Response(200, [], b"{}")
        self.server = Server(self._handle)

    def _handle(self, request: Request) -> Response:
        self.requests.append(request)
        return self.answer(request)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


def make_engine(url: str, **more: Any) -> Engine:
    return Engine(
        region="us-east-1", account="000000000000", publish=lambda publication: None, invoke=None,
        backend_url=lambda: url, span=lambda span: None, log=lambda line: None, endpoint_url=lambda: url, **more,
    )  # fmt: skip


async def send(
    engine: Engine, actions: list[dict[str, Any]], *payloads: bytes, sql: str = "SELECT * FROM 'a/+'"
) -> Any:
    """Send messages through one rule; give each message's outcomes, oldest first."""
    engine.set_rule("r", {"sql": sql, "awsIotSqlVersion": "2016-03-23", "actions": actions})
    for payload in payloads:
        engine.on_message(Publication("a/b", payload, client_id="d1", timestamp_ms=STAMP))
    await engine.idle()
    records = reversed(engine.last("r")[: len(payloads)])
    return [[(action["outcome"], action["error"]) for action in record["actions"]] for record in records]


def drive(work: Callable[[Endpoint, Engine], Any]) -> None:
    async def main() -> None:
        endpoint = Endpoint()
        await endpoint.server.start("127.0.0.1", 0)
        engine = make_engine(endpoint.url)
        await engine.start()
        try:
            await work(endpoint, engine)
        finally:
            await engine.stop()
            await endpoint.server.stop()

    asyncio.run(main())


async def confirmed(endpoint: Endpoint, engine: Engine, path: str = "/in") -> Any:
    made = engine.create_destination({"httpUrlConfiguration": {"confirmationUrl": endpoint.url + path}})
    assert made.status == "IN_PROGRESS"
    while not endpoint.requests:
        await asyncio.sleep(0)
    request = endpoint.requests.pop()
    body = json.loads(request.body)
    assert request.header("x-amz-rules-engine-message-type") == "DestinationConfirmation"
    assert body["arn"] == made.arn and body["enableUrl"].endswith("/confirmdestination/" + body["confirmationToken"])
    return engine.confirm_destination(body["confirmationToken"])


def test_http_needs_a_confirmed_destination() -> None:
    async def work(endpoint: Endpoint, engine: Engine) -> None:
        action = {"http": {"url": endpoint.url + "/in/x", "confirmationUrl": endpoint.url + "/in"}}
        (((outcome, error),),) = await send(engine, [action], b"{}")
        assert outcome == "failed" and "ENABLED" in error and endpoint.requests == []
        destination = await confirmed(endpoint, engine)
        assert destination.status == "ENABLED"
        with pytest.raises(AwsError, match="invalid"):
            engine.confirm_destination("nonsense")
        headers = [{"key": "X-Device", "value": "${topic(2)}"}]
        action["http"].update(url=endpoint.url + "/in/${topic(2)}?q=1", headers=headers)  # type: ignore[call-overload]
        assert await send(engine, [action], b'{"v":1}') == [[("ok", "")]]
        (request,) = endpoint.requests
        assert (request.target, request.body, request.header("X-Device")) == ("/in/b?q=1", b'{"v":1}', "b")
        engine.update_destination(destination.arn, "DISABLED")
        ((outcome, _),) = (await send(engine, [action], b"{}"))[0]
        assert outcome == "failed"
        assert engine.destinations.get(destination.arn).describe()["status"] == "DISABLED"
        restored = make_engine(endpoint.url).destinations
        restored.restore(engine.destinations.export())
        assert restored.get(destination.arn).status == "DISABLED"
        engine.destinations.delete(destination.arn)
        with pytest.raises(AwsError, match="was denied"):
            engine.destinations.get(destination.arn)

    drive(work)


def test_http_signs_and_retries_and_says_what_failed() -> None:
    async def work(endpoint: Endpoint, engine: Engine) -> None:
        await confirmed(endpoint, engine, "/")
        sigv4 = {"roleArn": ROLE, "serviceName": "execute-api", "signingRegion": "eu-west-1"}
        action = {"http": {"url": endpoint.url + "/x", "confirmationUrl": endpoint.url + "/", "auth": {"sigv4": sigv4}}}
        statuses = [503, 200, 400]
        endpoint.answer = lambda request: Response(statuses.pop(0), [], b"{}")
        first, second = await send(engine, [action], b"{}"), await send(engine, [action], b"{}")
        assert first == [[("ok", "")]]
        assert second[0][0][0] == "failed" and "400" in second[0][0][1]
        assert "/eu-west-1/execute-api/aws4_request" in endpoint.requests[0].header("Authorization")

    drive(work)


def test_http_batches() -> None:
    async def work(endpoint: Endpoint, engine: Engine) -> None:
        await confirmed(endpoint, engine, "/")
        config = {"maxBatchSize": 3, "maxBatchOpenMs": 200}
        action = {
            "http": {
                "url": endpoint.url + "/x", "confirmationUrl": endpoint.url + "/", "enableBatching": True,
                "batchConfig": config,
            }
        }  # fmt: skip
        outcomes = await send(engine, [action], *(b'{"n":%d}' % n for n in range(7)))
        assert outcomes == [[("ok", "")]] * 7
        assert [json.loads(request.body) for request in endpoint.requests] == [
            [{"n": 0}, {"n": 1}, {"n": 2}], [{"n": 3}, {"n": 4}, {"n": 5}], [{"n": 6}],
        ]  # fmt: skip
        endpoint.answer = lambda request: Response(400, [], b"")
        outcomes = await send(engine, [action], b"{}", b"{}", b"{}")
        assert [outcome for ((outcome, _),) in outcomes] == ["failed"] * 3

    drive(work)


def test_open_search_and_salesforce() -> None:
    async def work(endpoint: Endpoint, engine: Engine) -> None:
        search = {"roleArn": ROLE, "endpoint": endpoint.url, "index": "i", "type": "t", "id": "${topic(2)} 1"}
        sales = {"token": "secret", "url": endpoint.url + "/stream"}
        actions = [{"openSearch": search}, {"elasticsearch": search}, {"salesforce": sales}]
        assert await send(engine, actions, b'{"v":1}') == [[("ok", "")] * 3]
        seen = sorted((r.method, r.target) for r in endpoint.requests)
        assert seen == [("POST", "/stream"), ("PUT", "/i/t/b%201"), ("PUT", "/i/t/b%201")]
        assert [r.header("Authorization") for r in endpoint.requests if r.method == "POST"] == ["Bearer secret"]

    drive(work)


def test_timestream_location_and_sitewise_send_aws_s_shapes() -> None:
    async def work(endpoint: Endpoint, engine: Engine) -> None:
        dimensions = [{"name": "device", "value": "${topic(2)}"}]
        stream = {"roleArn": ROLE, "databaseName": "d", "tableName": "t", "dimensions": dimensions}
        place = {
            "roleArn": ROLE, "trackerName": "tr", "deviceId": "${topic(2)}", "latitude": "${lat}",
            "longitude": "${long}", "timestamp": {"value": "${timestamp()}", "unit": "MILLISECONDS"},
        }  # fmt: skip
        point = {
            "value": {"doubleValue": "${lat}"},
            "timestamp": {
                "timeInSeconds": "${floor(timestamp() / 1E3)}", "offsetInNanos": "${(timestamp() % 1E3) * 1E6}",
            },
        }  # fmt: skip
        site = {"roleArn": ROLE, "putAssetPropertyValueEntries": [{"propertyAlias": "/x", "propertyValues": [point]}]}
        actions = [{"timestream": stream}, {"location": place}, {"iotSiteWise": site}]
        assert await send(engine, actions, b'{"lat":47.5,"long":-122.25,"n":null}') == [[("ok", "")] * 3]
        bodies = {request.target: json.loads(request.body) for request in endpoint.requests}
        records = bodies["/"]["Records"]
        assert [(r["MeasureName"], r["MeasureValue"], r["MeasureValueType"]) for r in records] == [
            ("lat", "47.5", "DOUBLE"), ("long", "-122.25", "DOUBLE"),
        ]  # fmt: skip
        assert bodies["/"]["CommonAttributes"]["Dimensions"] == [{"Name": "device", "Value": "b"}]
        (update,) = bodies["/tracking/v0/trackers/tr/positions"]["Updates"]
        assert (update["Position"], update["SampleTime"]) == ([-122.25, 47.5], "2017-06-09T17:19:46.123Z")
        (value,) = bodies["/properties"]["entries"][0]["propertyValues"]
        assert value == {
            "value": {"doubleValue": 47.5}, "timestamp": {"timeInSeconds": 1497028786, "offsetInNanos": 123000000},
        }  # fmt: skip
        endpoint.answer = lambda request: Response(200, [], b'{"Errors":[{"Error":{"Code":"ValidationError"}}]}')
        (((outcome, error),),) = await send(engine, [{"location": place}], b'{"lat":1,"long":2}')
        assert outcome == "failed" and "ValidationError" in error
        (((outcome, error),),) = await send(engine, [{"location": place}], b'{"lat":91,"long":2}')
        assert outcome == "failed" and "latitude" in error

    drive(work)


def test_influxdb_writes_line_protocol_with_the_secret_s_token() -> None:
    async def work(endpoint: Endpoint, engine: Engine) -> None:
        endpoint.answer = lambda request: Response(
            200, [], b'{"SecretString":"{\\"token\\":\\"t0k\\"}"}' if request.target == "/" else b""
        )
        configuration = {"endpoint": endpoint.url, "influxDBVersion": "2", "secretId": "s", "secretKey": "token"}
        arn = engine.create_destination({"influxDBConfiguration": configuration}).arn
        action = {
            "influxDB": {
                "roleArn": ROLE, "destinationArn": arn, "databaseName": "db", "tableName": "my table",
                "organization": "o", "tags": {"device": "${topic(2)}"}, "timestampUnit": "SECONDS",
            }
        }  # fmt: skip
        assert await send(engine, [action], b'{"v":1.5,"n":2,"s":"a\\"b","t":true,"x":null}') == [[("ok", "")]]
        write = endpoint.requests[-1]
        assert write.target == "/api/v2/write?bucket=db&org=o&precision=s"
        assert write.header("Authorization") == "Token t0k"
        assert write.body == b'my\\ table,device=b v=1.5,n=2i,s="a\\"b",t=true 1497028786'

    drive(work)


@pytest.mark.parametrize(
    ("service", "status", "expected"),
    [("iot.amazonaws.com", 200, ""), ("s3.amazonaws.com", 200, "resource policy"), ("", 404, "resource policy")],
)
def test_a_function_needs_a_resource_policy_when_roles_are_checked(service: str, status: int, expected: str) -> None:
    async def work(endpoint: Endpoint, _: Engine) -> None:
        statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "lambda:InvokeFunction"}
        policy = {"Policy": json.dumps({"Statement": [statement]})}
        missing = [(b"x-amzn-ErrorType", b"ResourceNotFoundException")]

        def answer(request: Request) -> Response:
            if not request.target.endswith("/policy"):
                return Response(202)
            return Response(200, [], json.dumps(policy).encode()) if status == 200 else Response(404, missing, b"{}")

        endpoint.answer = answer
        engine = make_engine(endpoint.url, check_roles=True)
        await engine.start()
        arn = "arn:aws:lambda:us-east-1:000000000000:function:f"
        (((_, error),),) = await send(engine, [{"lambda": {"functionArn": arn}}], b"{}")
        assert expected in error and bool(error) is bool(expected)
        await engine.stop()

    drive(work)


def test_crc_and_murmur_are_those_of_the_specifications() -> None:
    assert kafka.crc32c(b"123456789") == 0xE3069283
    # org.apache.kafka.common.utils.UtilsTest
    assert [kafka.murmur2(text) for text in (b"21", b"foobar", b"abc")] == [
        value & 0x7FFFFFFF for value in (-973932308, -790332482, 479470107)
    ]


def test_kafka_produces_to_the_leader() -> None:
    produced: list[tuple[int, bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        while size := await reader.read(4):
            body = await reader.readexactly(struct.unpack(">i", size)[0])
            api, _, number = struct.unpack_from(">hhi", body)
            rest = body[10 + struct.unpack_from(">h", body, 8)[0] :]
            if api == 3:
                host = b"127.0.0.1"
                answer = struct.pack(">iih", 1, 7, len(host)) + host + struct.pack(">ihi", port, -1, 7)
                answer += struct.pack(">ihh", 1, 0, 1) + b"t" + struct.pack(">bi", 0, 1)
                answer += struct.pack(">hiiiiii", 0, 0, 7, 1, 7, 1, 7)
            else:
                produced.append((struct.unpack_from(">h", rest, 2)[0], rest))
                answer = struct.pack(">ih", 1, 1) + b"t" + struct.pack(">iihqqi", 1, 0, 0, 5, -1, 0)
            writer.write(struct.pack(">ii", len(answer) + 4, number) + answer)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        engine = make_engine("http://127.0.0.1:1")
        await engine.start()
        action = {
            "destinationArn": "arn:x", "topic": "t", "key": "${topic(2)}", "headers": [{"key": "h", "value": "${v}"}],
            "clientProperties": {"bootstrap.servers": f"127.0.0.1:{port}", "acks": "all"},
        }  # fmt: skip
        assert await send(engine, [{"kafka": action}], b'{"v":1}') == [[("ok", "")]]
        await engine.stop()
        server.close()
        await server.wait_closed()

    asyncio.run(main())
    ((acks, rest),) = produced
    assert acks == -1 and b'{"v":1}' in rest
    batch = rest[rest.index(b"\x00\x00\x00\x00\x00\x00\x00\x00", 10) :]
    assert batch[16] == 2 and struct.unpack_from(">I", batch, 17)[0] == kafka.crc32c(batch[21:])


def test_a_target_that_never_answers_is_not_asked_by_every_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from foreshore.iot.rules import running
    from foreshore.iot.rules.actions import web

    monkeypatch.setattr(web, "TIMEOUT_S", 0.02)
    monkeypatch.setattr(running, "SLOW_S", 0.01)

    async def main() -> None:
        swallowing: set[asyncio.Task[Any]] = set()

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            swallowing.add(task)
            try:
                while await reader.read(65536):
                    pass
            except ConnectionError:
                pass
            finally:
                writer.close()

        hole = await asyncio.start_server(swallow, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{hole.sockets[0].getsockname()[1]}/"
        engine = make_engine("http://127.0.0.1:1")
        await engine.start()
        outcomes = await send(engine, [{"salesforce": {"token": "t", "url": url}}], *[b"{}"] * 20)
        errors = [error for ((_, error),) in outcomes]
        assert all(errors) and any("not tried" in error for error in errors)
        await engine.stop()
        hole.close()
        await asyncio.gather(*swallowing)
        await hole.wait_closed()

    asyncio.run(main())
