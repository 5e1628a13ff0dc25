"""The backend child, forwarding with real clients, stacks, and what a crash of it does."""

import asyncio
import os
import signal
import ssl
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from foreshore.app import Options
from foreshore.cloud.backend import Backend
from foreshore.cloud.endpoint import Endpoint
from foreshore.cloud.known_properties import ACTED_ON
from foreshore.cloud.sam import expand
from foreshore.cloud.stack import Stack
from foreshore.errors import NotEmulated, UserError
from foreshore.http import Request, Server, text_response
from foreshore.iot.authority import Authority
from foreshore.provision import TYPES, Provisioner, Rooms

TEMPLATE = {
    "Resources": {
        "Table": {
            "Type": "AWS::DynamoDB::Table",
            "Properties": {
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
            },
        },
        "Bucket": {"Type": "AWS::S3::Bucket"},
        "Policy": {
            "Type": "AWS::CloudFront::CachePolicy",
            "Properties": {"CachePolicyConfig": {"Name": {"Fn::Sub": "${Table}-policy"}}},
        },
    },
    "Outputs": {"TableArn": {"Value": {"Fn::GetAtt": ["Table", "Arn"]}}, "Table": {"Value": {"Ref": "Table"}}},
}


def client(service, port):
    return boto3.client(
        service, endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
        aws_access_key_id="x", aws_secret_access_key="x",
    )  # fmt: skip


def with_edge(tmp_path: Path, body):
    async def main():
        lines = []
        backend = Backend(
            state=tmp_path / "state", run_folder=tmp_path / "run", region="us-east-1", account="000000000000",
            ephemeral=False, log=lines.append,
        )  # fmt: skip
        endpoint = Endpoint(backend, lines.append)
        await backend.start()
        try:
            port = await endpoint.start("127.0.0.1", 0)
            await body(backend, endpoint, port, lines)
        finally:
            await endpoint.stop()
            await backend.stop()

    asyncio.run(main())


def test_a_stack_is_split_between_the_backend_and_the_rooms(tmp_path):
    async def body(backend, endpoint, port, lines):
        rooms = Rooms(None, None)
        stack = Stack("app", tmp_path / "template.yaml", TEMPLATE, "us-east-1", "000000000000")
        await stack.deploy({}, Provisioner(rooms), backend)
        table = stack.outputs["Table"]
        assert table == stack.physical_name("Table")
        assert stack.outputs["TableArn"].endswith(f":table/{table}")
        assert next(iter(rooms.edge_policies.values())) == {"Name": f"{table}-policy"}
        tables = await asyncio.to_thread(client("dynamodb", port).list_tables)
        assert tables["TableNames"] == [table]

        os.kill(backend.child.pid, signal.SIGKILL)
        await backend.child.exited.wait()
        backend.on_restart = lambda: stack.deploy_backend_again(backend)
        while not (backend.restarts and backend.up.is_set()):
            await asyncio.sleep(0.01)
        await backend._restart
        tables = await asyncio.to_thread(client("dynamodb", port).list_tables)
        assert tables["TableNames"] == [table]
        assert any("ended with code -9" in line.text for line in lines)

    with_edge(tmp_path, body)


@pytest.mark.parametrize("url", ["localhost:4566", "notaurl", "http://", "ftp://a", "http://a:b", "http://a/path"])
def test_an_address_that_is_none_of_a_backend(tmp_path, url):
    with pytest.raises(UserError, match="no address of a backend"):
        Backend(url=url, state=tmp_path, run_folder=tmp_path, region="r", account="a", ephemeral=True, log=print)


def test_a_backend_behind_tls(tmp_path):
    async def main():
        certificates = Authority(tmp_path, region="us-east-1", now=datetime.now(UTC), in_thread=asyncio.to_thread)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server_certificate, certificates.server_key)

        async def answer(request):
            return text_response(200, f"{request.method} {request.target}")

        server = Server(answer)
        port = await server.start("127.0.0.1", 0, ssl=context)
        options = {"state": tmp_path, "run_folder": tmp_path, "region": "r", "account": "a", "ephemeral": True}
        backend = Backend(url=f"https://localhost:{port}", log=print, **options)
        try:
            with pytest.raises(UserError, match="certificate is not trusted"):
                await backend.start()
            backend._tls.load_verify_locations(certificates.ca_path)
            await backend.start()
            assert (await backend.forward(Request("GET", "/x", []))).body == b"GET /x"
        finally:
            await backend.stop()
            await server.stop()

    asyncio.run(main())


def test_what_is_asked_of_a_room_that_is_left_out_is_said(tmp_path):
    asked = Options(folder=tmp_path, only=("lambda",), cores=("a",), port_443=True, runtime_client="awslambdaric")
    assert [text.partition(" has no effect")[0] for text in asked.unused()] == ["--core", "--port-443"]
    assert Options(folder=tmp_path).unused() == []


def test_objects_of_any_kind_pass_byte_for_byte(tmp_path):
    async def body(backend, endpoint, port, lines):
        s3 = client("s3", port)
        data = bytes(range(256)) * 5000

        def work():
            s3.create_bucket(Bucket="things")
            s3.put_object(Bucket="things", Key="a b/ü.bin", Body=data, ContentType="x/y")
            found = s3.get_object(Bucket="things", Key="a b/ü.bin")
            assert found["Body"].read() == data
            assert found["ContentType"] == "x/y"
            assert s3.head_object(Bucket="things", Key="a b/ü.bin")["ContentLength"] == len(data)

        await asyncio.to_thread(work)

    with_edge(tmp_path, body)


def test_a_refused_service_says_so_in_aws_shape(tmp_path):
    async def body(backend, endpoint, port, lines):
        endpoint.refuse("apigateway", "the API Gateway control plane")
        apis = client("apigatewayv2", port)
        with pytest.raises(apis.exceptions.ClientError) as caught:
            await asyncio.to_thread(apis.get_apis)
        assert caught.value.response["Error"]["Code"] == "NotEmulated"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501

    with_edge(tmp_path, body)


@pytest.mark.parametrize(
    ("kind", "properties", "is_refused"),
    [
        ("AWS::SNS::Subscription", {"Protocol": "lambda"}, True),
        ("AWS::SNS::Subscription", {"Protocol": "sqs"}, False),
        ("AWS::SNS::Topic", {"Subscription": [{"Protocol": "lambda", "Endpoint": {"Fn::GetAtt": ["F", "Arn"]}}]}, True),
        ("AWS::SNS::Topic", {"TopicName": "lambda"}, False),
        ("AWS::S3::Bucket", {"NotificationConfiguration": {"LambdaConfigurations": [{}]}}, True),
        ("AWS::S3::Bucket", {"NotificationConfiguration": {"QueueConfigurations": [{}]}}, False),
        ("AWS::Cognito::UserPool", {"LambdaConfig": {"PreSignUp": "arn"}}, True),
        ("AWS::SecretsManager::RotationSchedule", {"RotationLambdaARN": "arn"}, True),
        (
            "AWS::KinesisFirehose::DeliveryStream",
            {"ExtendedS3DestinationConfiguration": {"ProcessingConfiguration": {"Processors": [{"Type": "Lambda"}]}}},
            True,
        ),
    ],
)
def test_types_of_the_backend_that_would_call_a_function(kind, properties, is_refused):
    why = Provisioner(Rooms(None, None)).refusal(kind, properties)
    assert why.endswith("do not reach local functions") if is_refused else why == ""


def test_what_would_reach_no_function_is_refused(tmp_path):
    function = "arn:aws:lambda:us-east-1:000000000000:function:f"
    queue = "arn:aws:sqs:us-east-1:000000000000:q"

    async def body(backend, endpoint, port, lines):
        def refused(call, **arguments):
            with pytest.raises(ClientError) as caught:
                call(**arguments)
            assert caught.value.response["Error"]["Code"] == "NotEmulated", arguments

        def work():
            sns, s3, events = client("sns", port), client("s3", port), client("events", port)
            topic = sns.create_topic(Name="t")["TopicArn"]
            refused(sns.subscribe, TopicArn=topic, Protocol="lambda", Endpoint=function)
            sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue)
            s3.create_bucket(Bucket="bucket")
            to_function = [{"LambdaFunctionArn": function, "Events": ["s3:ObjectCreated:*"]}]
            settings = {"LambdaFunctionConfigurations": to_function}
            refused(s3.put_bucket_notification_configuration, Bucket="bucket", NotificationConfiguration=settings)
            s3.put_object(Bucket="bucket", Key="notification", Body=function.encode())
            events.put_rule(Name="r", ScheduleExpression="rate(1 minute)")
            refused(events.put_targets, Rule="r", Targets=[{"Id": "1", "Arn": function}])
            events.put_targets(Rule="r", Targets=[{"Id": "1", "Arn": queue}])

        await asyncio.to_thread(work)

    with_edge(tmp_path, body)


def test_a_type_that_nobody_makes_is_an_error(tmp_path):
    template = {"Resources": {"Rest": {"Type": "AWS::ApiGateway::RestApi", "Properties": {}}}}
    stack = Stack("app", tmp_path / "template.yaml", template, "us-east-1", "000000000000")
    with pytest.raises(UserError, match="resource Rest"):
        asyncio.run(stack.deploy({}, Provisioner(Rooms(None, None)), None))


@pytest.mark.parametrize(
    ("kind", "properties", "words"),
    [
        ("AWS::ApiGatewayV2::Stage", {"StageName": "s", "StageVariables": {"a": "b"}}, "stage variables"),
        ("AWS::Lambda::Url", {"TargetFunctionArn": "arn:f", "InvokeMode": "RESPONSE_STREAM"}, "streaming"),
        ("AWS::ApiGatewayV2::Api", {"Name": "chat", "ProtocolType": "WEBSOCKET"}, "WEBSOCKET APIs are not"),
        ("AWS::ApiGatewayV2::Api", {"Name": "a", "Target": "arn:f"}, "Target alone are not"),
        ("AWS::Lambda::Function", {"FileSystemConfigs": [{"Arn": "a", "LocalMountPath": "/mnt/x"}]}, "file systems"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path, kind, properties, words):
    template = {"Resources": {"R": {"Type": kind, "Properties": properties}}}
    stack = Stack("app", tmp_path / "template.yaml", template, "us-east-1", "000000000000")
    with pytest.raises(UserError, match=words):
        asyncio.run(stack.deploy({}, Provisioner(Rooms(None, None)), None))


EXPORTER = {
    "Resources": {"P": {"Type": "AWS::CloudFront::CachePolicy", "Properties": {"CachePolicyConfig": {"Name": "p"}}}},
    "Outputs": {"Name": {"Value": "shared-table", "Export": {"Name": {"Fn::Sub": "${AWS::StackName}-Table"}}}},
}


def test_a_later_stack_imports_what_an_earlier_one_exports(tmp_path):
    importer = {"Resources": {}, "Outputs": {"Got": {"Value": {"Fn::ImportValue": "first-Table"}}}}
    stacks = [
        Stack(name, tmp_path / f"{name}.yaml", template, "us-east-1", "000000000000")
        for name, template in (("first", EXPORTER), ("second", importer))
    ]
    exports = {}
    for stack in stacks:
        asyncio.run(stack.deploy({}, Provisioner(Rooms(None, None)), None, exports))
        exports |= stack.exports
    assert exports == {"first-Table": "shared-table"}
    assert stacks[1].outputs == {"Got": "shared-table"}


def test_an_exports_name_is_taken_once(tmp_path):
    stack = Stack("first", tmp_path / "first.yaml", EXPORTER, "us-east-1", "000000000000")
    with pytest.raises(UserError, match="an export first-Table exists already"):
        asyncio.run(stack.deploy({}, Provisioner(Rooms(None, None)), None, {"first-Table": "x"}))


def test_properties_without_effect_are_named(tmp_path):
    function = {"Runtime": "python3.12", "VpcConfig": {"SubnetIds": ["s"]}, "SnapStart": {}, "Tags": [], "Timeout": 3}
    stage = {"ApiId": "a", "StageName": "$default", "AccessLogSettings": {"DestinationArn": "d"}}
    template = {
        "Resources": {
            "F": {"Type": "AWS::Lambda::Function", "Properties": function},
            "S": {"Type": "AWS::ApiGatewayV2::Stage", "Properties": stage},
            "P": {"Type": "AWS::Lambda::Permission", "Properties": {"Action": "lambda:InvokeFunction"}},
        }
    }
    notes = []
    stack = Stack("app", tmp_path / "template.yaml", template, "us-east-1", "000000000000")
    asyncio.run(stack.deploy({}, Provisioner(Rooms(None, None), notes.append), None))
    assert notes == [
        "app: F: VpcConfig of AWS::Lambda::Function has no effect here",
        "app: S: AccessLogSettings of AWS::ApiGatewayV2::Stage has no effect here",
    ]


def test_every_type_says_which_properties_it_acts_on():
    assert set(ACTED_ON) <= set(TYPES)
    rest = {name.split("::")[-1] for name in set(TYPES) - set(ACTED_ON)}
    policies = {"CachePolicy", "OriginRequestPolicy", "ResponseHeadersPolicy"}
    assert rest == {"Permission", "CloudFrontOriginAccessIdentity", "OriginAccessControl"} | policies


def test_circles_are_refused(tmp_path):
    policy = {"Type": "AWS::CloudFront::CachePolicy"}
    template = {"Resources": {"A": {**policy, "DependsOn": "B"}, "B": {**policy, "DependsOn": ["A"]}}}
    stack = Stack("app", tmp_path / "template.yaml", template, "us-east-1", "000000000000")
    with pytest.raises(UserError, match="circle: A, B"):
        asyncio.run(stack.deploy({}, Provisioner(Rooms(None, None)), None))


SAM = """
Transform: AWS::Serverless-2016-10-31
Resources:
  Fn:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: fn/
      Handler: app.handler
      Runtime: python3.11
      Events:
        Readings: {Type: IoTRule, Properties: {Sql: "SELECT * FROM 'a/b'"}}
        Api: {Type: HttpApi, Properties: {Path: /x, Method: get}}
"""


def test_sam_is_expanded_once_and_kept(tmp_path):
    path = tmp_path / "template.yaml"
    path.write_text(SAM)
    first = asyncio.run(expand(path, {}, "us-east-1", tmp_path / "cache"))
    kinds = {resource["Type"] for resource in first["Resources"].values()}
    assert {"AWS::Lambda::Function", "AWS::IoT::TopicRule", "AWS::ApiGatewayV2::Api"} <= kinds
    assert first["Resources"]["Fn"]["Properties"]["Code"] == "fn/"
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text('{"Resources": {"from": "cache"}}')
    assert asyncio.run(expand(path, {}, "us-east-1", tmp_path / "cache"))["Resources"] == {"from": "cache"}


def test_a_sam_mistake_names_the_resource(tmp_path):
    path = tmp_path / "template.yaml"
    path.write_text(SAM.replace("Handler: app.handler", "Handlr: app.handler"))
    with pytest.raises(UserError, match="Fn"):
        asyncio.run(expand(path, {}, "us-east-1", tmp_path / "cache"))


def test_not_emulated_is_an_aws_error():
    error = NotEmulated("this")
    assert (error.code, error.status) == ("NotEmulated", 501)
