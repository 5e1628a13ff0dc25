"""The generic service layer, judged by boto3 over a real socket and by tables."""

import asyncio
import io
from datetime import UTC, datetime

import boto3
import orjson
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import AwsError, Bug, NotEmulated
from foreshore.http import Request, Response, Server
from foreshore.shapes.service_model import Service, ServiceModel, paginate
from foreshore.shapes.validation import compile_pattern


def call(service_name, operations, use):
    """Serve `operations` on a free port and run `use(client)` in a thread."""

    async def main():
        service = Service(ServiceModel.load(service_name), operations)
        server = Server(service.handle)
        port = await server.start("127.0.0.1", 0)
        client = boto3.client(
            service_name,
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="secret",
            config=Config(retries={"max_attempts": 0, "mode": "standard"}, parameter_validation=False),
        )
        try:
            return await asyncio.get_running_loop().run_in_executor(None, use, client)
        finally:
            client.close()
            await server.stop()

    return asyncio.run(main())


def request(method, target, body=b"", headers=()):
    return Request(method, target, list(headers), body)


def test_path_query_and_body_reach_the_handler():
    seen = {}

    def create_thing(params, context):
        seen.update(params, access_key=context.access_key, operation=context.operation)
        return {"thingName": params["thingName"], "thingArn": "arn:x", "thingId": "1"}

    answer = call(
        "iot",
        {"CreateThing": create_thing},
        lambda client: client.create_thing(thingName="a:b", attributePayload={"attributes": {"k": "v"}}),
    )
    assert answer["thingName"] == "a:b"
    assert seen == {
        "thingName": "a:b",
        "attributePayload": {"attributes": {"k": "v"}},
        "access_key": "AKIDEXAMPLE",
        "operation": "CreateThing",
    }
    assert len(answer["ResponseMetadata"]["RequestId"]) == 36


def test_awaitable_handlers_blob_payloads_and_headers():
    async def publish(params, context):
        assert params == {"topic": "a/b c", "qos": 1, "retain": True, "payload": b"\x00\xff", "contentType": "t/x"}

    def get_retained(params, context):
        return {"topic": params["topic"], "payload": b"\x01\x02", "qos": 1, "lastModifiedTime": 5}

    def use(client):
        client.publish(topic="a/b c", qos=1, retain=True, payload=b"\x00\xff", contentType="t/x")
        return client.get_retained_message(topic="a/b")

    answer = call("iot-data", {"Publish": publish, "GetRetainedMessage": get_retained}, use)
    assert (answer["topic"], answer["payload"], answer["lastModifiedTime"]) == ("a/b", b"\x01\x02", 5)


def test_streaming_payload_header_and_status():
    def invoke(params, context):
        assert params["Payload"] == b'{"n": 1}'
        assert params["FunctionName"] == "arn:aws:lambda:us-east-1:000000000000:function:f"
        return {"StatusCode": 202, "FunctionError": "Unhandled", "Payload": b"{}", "ExecutedVersion": "$LATEST"}

    def use(client):
        answer = client.invoke(
            FunctionName="arn:aws:lambda:us-east-1:000000000000:function:f", Payload=io.BytesIO(b'{"n": 1}')
        )
        return answer["StatusCode"], answer["FunctionError"], answer["Payload"].read(), answer["ExecutedVersion"]

    assert call("lambda", {"Invoke": invoke}, use) == (202, "Unhandled", b"{}", "$LATEST")


def test_timestamps_both_ways():
    moment = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)

    def describe(params, context):
        return {"thingGroupMetadata": {"creationDate": moment}}

    answer = call(
        "iot", {"DescribeThingGroup": describe}, lambda client: client.describe_thing_group(thingGroupName="g")
    )
    assert answer["thingGroupMetadata"]["creationDate"] == moment


def error_of(use_client, operations, use):
    with pytest.raises(ClientError) as caught:
        call(use_client, operations, use)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


def test_an_operation_without_handler_is_not_emulated():
    code, status, text = error_of("iot", {}, lambda client: client.list_things())
    assert (code, status) == ("NotEmulated", 501)
    assert "ListThings" in text


def test_the_models_own_status_wins():
    def fail(params, context):
        raise AwsError("ResourceNotFoundException", "Thing x not found")

    assert error_of("iot", {"DescribeThing": fail}, lambda client: client.describe_thing(thingName="x")) == (
        "ResourceNotFoundException",
        404,
        "Thing x not found",
    )


def test_error_members_beyond_the_message():
    def fail(params, context):
        raise AwsError("ResourceAlreadyExistsException", "dup", extra={"resourceId": "7", "resourceArn": "arn:t"})

    def use(client):
        with pytest.raises(client.exceptions.ResourceAlreadyExistsException) as caught:
            client.create_thing(thingName="x")
        return caught.value.response

    response = call("iot", {"CreateThing": fail}, use)
    assert (response["resourceId"], response["resourceArn"]) == ("7", "arn:t")


def test_lambda_errors_have_a_type_and_headers():
    model = ServiceModel.load("lambda")
    answer = model.render_error(AwsError("TooManyRequestsException", "slow", extra={"retryAfterSeconds": "3"}), "r")
    assert (answer.status, answer.header("retry-after")) == (429, "3")
    assert b'"Type":"User"' in answer.body


@pytest.mark.parametrize(
    ("service", "method", "target", "body", "code", "text"),
    [
        ("iot", "POST", "/things/bad%20name", b"{}", "InvalidRequestException", "regular expression pattern"),
        ("iot", "POST", "/things/" + "x" * 129, b"{}", "InvalidRequestException", "less than or equal to 128"),
        ("iot", "POST", "/things/x", b'{"thingTypeName": 3}', "SerializationException", "NUMBER_VALUE"),
        ("iot", "POST", "/things/x", b"{", "SerializationException", "json"),
        ("iot", "GET", "/things?maxResults=999", b"", "InvalidRequestException", "less than or equal to 250"),
        ("iot", "GET", "/things?maxResults=x", b"", "SerializationException", "Integer"),
        ("iot", "POST", "/policies/p", b"{}", "InvalidRequestException", "Value null at 'policyDocument'"),
        ("greengrassv2", "POST", "/greengrass/v2/deployments", b"{}", "ValidationException", "'targetArn'"),
        ("iot", "POST", "/ca-certificate/x/y/z", b"", "UnknownOperationException", "no operation"),
        ("lambda", "POST", "/2015-03-31/functions", b'{"FunctionName":"f"}', "ValidationException", "'role'"),
        ("iot", "PUT", "/certificates/" + "a" * 64 + "?newStatus=NO", b"", "InvalidRequestException", "enum value set"),
    ],
)
def test_bad_requests(service, method, target, body, code, text):
    with pytest.raises(AwsError) as caught:
        ServiceModel.load(service).parse(request(method, target, body))
    assert caught.value.code == code
    assert text in caught.value.message


def test_literal_paths_win_over_labels():
    model = ServiceModel.load("iot")
    assert model.route(request("GET", "/certificates/" + "a" * 64)).name == "DescribeCertificate"
    assert model.route(request("POST", "/certificates?setAsActive=true")).name == "CreateCertificateFromCsr"
    assert model.route(request("POST", "/indices/search")).name == "SearchIndex"
    assert model.route(request("GET", "/indices/AWS_Things")).name == "DescribeIndex"


@pytest.mark.parametrize("name", ["iot", "iot-data", "iot-jobs-data", "greengrassv2", "lambda"])
def test_every_operation_routes_to_itself(name):
    model = ServiceModel.load(name)
    for operation in model.operations.values():
        path = "/" + "/".join("x" if part.startswith("{") else part for part in operation.labels)
        query = "?" + "&".join(f"{key}=" for key in sorted(operation.query)) if operation.query else ""
        found = model.route(request(operation.method, path + query))
        assert found.name == operation.name or found.labels == operation.labels, (found.name, operation.name)


@pytest.mark.parametrize("name", ["iot", "iot-data", "iot-jobs-data", "greengrassv2", "lambda"])
def test_every_pattern_compiles(name):
    for shape in ServiceModel.load(name).shapes.values():
        if "pattern" in shape:
            compile_pattern(shape["pattern"])


def test_unicode_properties():
    assert compile_pattern(r"[\p{L}\p{Z}\p{N}_.:/=+\-@]*").fullmatch("Größe 1:x")
    assert not compile_pattern(r"[\p{Graph}\x20]*").fullmatch("a\tb")


def test_the_json_protocol():
    def open_tunnel(params, context):
        assert params["timeoutConfig"] == {"maxLifetimeTimeoutMinutes": 5}
        return {"tunnelId": "t", "tunnelArn": "arn"}

    def use(client):
        answer = client.open_tunnel(timeoutConfig={"maxLifetimeTimeoutMinutes": 5})
        with pytest.raises(client.exceptions.ClientError) as caught:
            client.list_tunnels()
        return answer["tunnelId"], caught.value.response["Error"]["Code"]

    assert call("iotsecuretunneling", {"OpenTunnel": open_tunnel}, use) == ("t", "NotEmulated")


def test_protocols_we_do_not_speak_are_refused():
    with pytest.raises(NotEmulated):
        ServiceModel.load("s3")


def test_an_unknown_output_member_is_our_bug():
    model = ServiceModel.load("iot")
    with pytest.raises(Bug):
        model.render(model.operations["CreateThing"], {"nonsense": 1}, "r")


def test_a_handler_may_answer_itself():
    service = Service(ServiceModel.load("iot"), {"ListThings": lambda params, context: Response(299)})
    assert asyncio.run(service.handle(request("GET", "/things"))).status == 299


def test_pages_follow_names_not_positions():
    names = ["a", "b", "c", "d"]
    first, token = paginate(names, None, 2)
    assert first == ["a", "b"]
    names.remove("a")
    second, end = paginate(names, token, 2)
    assert (second, end) == (["c", "d"], None)
    with pytest.raises(AwsError):
        paginate(names, "!", 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = sorted(ServiceModel.load("iot").operations)


@given(st.sampled_from(NAMES), st.data())
@settings(derandomize=True, max_examples=200, deadline=None)
def test_any_body_is_read_or_refused(name, data):
    """Whatever stands in members that exist, the layer reads it or answers an AwsError."""
    model = ServiceModel.load("iot")
    operation = model.operations[name]
    members = model.shapes[operation.input]["members"] if operation.input else {}
    body = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(members, JSON)))
    path = "/" + "/".join("x" if part.startswith("{") else part for part in operation.labels)
    try:
        found, params = model.parse(request(operation.method, path, orjson.dumps(body)))
    except AwsError:
        return
    assert model.operations[found].labels == operation.labels
    assert isinstance(params, dict)
