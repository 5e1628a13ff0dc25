"""The Lambda API by boto3: functions, versions, aliases, permissions, tags, URLs, streaming; what it refuses."""

import json

import pytest
from botocore.exceptions import ClientError

ROLE = "arn:aws:iam::000000000000:role/r"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:fn"


@pytest.fixture
def client(edge):
    return edge.boto3("lambda")


@pytest.fixture
def create(client, package):
    def create(source="def handler(event, context): return 1\n", name="fn", **settings):
        settings = {"Runtime": "python3.12", "Handler": "app.handler", **settings}
        return client.create_function(
            FunctionName=name, Role=ROLE, Code={"ZipFile": package({"app.py": source})}, **settings
        )

    return create


def refused(call, code, **arguments):
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    assert raised.value.response["Error"]["Code"] == code
    return raised.value.response


def value(client, name="fn", **more):
    return json.loads(client.invoke(FunctionName=name, **more)["Payload"].read())


def test_a_new_function(client, create):
    made = create(Description="d", Timeout=7, MemorySize=256, Environment={"Variables": {"AB": "b"}}, Tags={"t": "u"})
    wanted = {
        "FunctionName": "fn", "FunctionArn": ARN, "Runtime": "python3.12", "Role": ROLE, "Handler": "app.handler",
        "Description": "d", "Timeout": 7, "MemorySize": 256, "Version": "$LATEST", "State": "Active",
        "PackageType": "Zip",
        "Environment": {"Variables": {"AB": "b"}}, "Architectures": ["x86_64"], "EphemeralStorage": {"Size": 512},
        "LastUpdateStatus": "Successful", "TracingConfig": {"Mode": "PassThrough"},
    }  # fmt: skip
    assert {name: made.get(name) for name in wanted} == wanted
    got = client.get_function(FunctionName="fn")
    assert got["Configuration"]["CodeSha256"] == made["CodeSha256"]
    assert got["Tags"] == {"t": "u"}
    assert client.get_function_configuration(FunctionName=ARN)["Timeout"] == 7
    client.get_waiter("function_active_v2").wait(FunctionName="fn")
    assert [each["FunctionName"] for each in client.list_functions()["Functions"]] == ["fn"]
    refused(client.create_function, "ResourceConflictException", FunctionName="fn", Role=ROLE, Code={"ZipFile": b"x"})


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"Timeout": 901}, "ValidationException"),
        ({"MemorySize": 20000}, "ValidationException"),
        ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, "InvalidParameterValueException"),
        ({"Environment": {"Variables": {"AB": "x" * 4096}}}, "InvalidParameterValueException"),
        ({"Runtime": "nodejs22.x"}, "NotEmulated"),
        ({"Layers": ["arn:aws:lambda:us-east-1:000000000000:layer:l:1"]}, "NotEmulated"),
        ({"VpcConfig": {"SubnetIds": ["subnet-12345678"], "SecurityGroupIds": ["sg-12345678"]}}, "NotEmulated"),
        ({"SnapStart": {"ApplyOn": "PublishedVersions"}}, "NotEmulated"),
        (
            {"CodeSigningConfigArn": "arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-" + "0" * 17},
            "NotEmulated",
        ),
        ({"DurableConfig": {"ExecutionTimeout": 60}}, "NotEmulated"),
        ({"TenancyConfig": {"TenantIsolationMode": "PER_TENANT"}}, "NotEmulated"),
    ],
)
def test_settings_that_are_refused(client, create, settings, code):
    with pytest.raises(ClientError) as raised:
        create(**settings)
    assert raised.value.response["Error"]["Code"] == code
    assert client.list_functions()["Functions"] == []


def test_what_an_invocation_may_not_ask_for(client, create):
    create()
    refused(client.invoke, "NotEmulated", FunctionName="fn", TenantId="t")
    refused(client.invoke, "NotEmulated", FunctionName="fn", DurableExecutionName="d")
    refused(client.invoke_with_response_stream, "NotEmulated", FunctionName="fn", InvocationType="DryRun")


def test_settings_that_are_kept_or_said_to_have_no_effect(edge, client, create):
    key = "arn:aws:kms:us-east-1:000000000000:key/k"
    made = create(
        KMSKeyArn=key, SnapStart={"ApplyOn": "None"}, LoggingConfig={"LogFormat": "JSON", "SystemLogLevel": "WARN"}
    )
    assert made["KMSKeyArn"] == key
    assert any(line.startswith("LoggingConfig.SystemLogLevel has no effect") for line in edge.lines())


def test_a_version_of_an_object(make_edge, package, backend_port):
    edge = make_edge(backend_port=backend_port)
    s3, functions = edge.boto3("s3"), edge.boto3("lambda")
    s3.create_bucket(Bucket="versioned")
    s3.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    versions = [
        s3.put_object(
            Bucket="versioned", Key="code.zip", Body=package({"app.py": f"def handler(e, c): return {number}\n"})
        )["VersionId"]
        for number in (1, 2)
    ]
    code = {"S3Bucket": "versioned", "S3Key": "code.zip"}
    functions.create_function(
        FunctionName="fn", Role=ROLE, Runtime="python3.12", Handler="app.handler",
        Code={**code, "S3ObjectVersion": versions[0]},
    )  # fmt: skip
    assert value(functions) == 1
    functions.update_function_code(FunctionName="fn", **code)
    assert value(functions) == 2


def test_a_templates_alias_of_two_versions(edge, client, create):
    create()
    for _ in range(2):
        edge.functions.publish_version("fn")
        client.update_function_configuration(FunctionName="fn", Environment={"Variables": {"AB": "b"}})
    edge.functions.put_alias("fn", "live", "1", {"2": 0.25})
    weights = client.get_alias(FunctionName="fn", Name="live")["RoutingConfig"]["AdditionalVersionWeights"]
    assert weights == {"2": 0.25}


def test_packages_that_are_refused(client):
    arguments = {"FunctionName": "fn", "Role": ROLE, "Runtime": "python3.12", "Handler": "a.b"}
    answer = refused(client.create_function, "InvalidParameterValueException", Code={"ZipFile": b"no zip"}, **arguments)
    assert answer["Error"]["Message"].startswith("Could not unzip uploaded file.")
    refused(client.create_function, "NotEmulated", Code={"ImageUri": "i"}, PackageType="Image", **arguments)


def test_new_code_and_new_settings(client, create, package):
    made = create()
    assert value(client) == 1
    code = package({"app.py": "import os\ndef handler(event, context): return os.environ.get('AB', 2)\n"})
    updated = client.update_function_code(FunctionName="fn", ZipFile=code)
    assert updated["CodeSha256"] != made["CodeSha256"]
    assert value(client) == 2
    client.update_function_configuration(FunctionName="fn", Environment={"Variables": {"AB": "b"}}, Timeout=9)
    assert value(client) == "b"
    refused(
        client.update_function_configuration,
        "PreconditionFailedException",
        FunctionName="fn",
        RevisionId=made["RevisionId"],
    )


def test_versions_and_aliases(client, create, package):
    create("def handler(event, context): return context.function_version\n")
    first = client.publish_version(FunctionName="fn", Description="one")
    assert (first["Version"], first["FunctionArn"], first["Description"]) == ("1", ARN + ":1", "one")
    assert client.publish_version(FunctionName="fn")["Version"] == "1"
    client.update_function_code(
        FunctionName="fn", ZipFile=package({"app.py": "def handler(event, context): return 'new'\n"})
    )
    assert client.publish_version(FunctionName="fn")["Version"] == "2"
    assert [each["Version"] for each in client.list_versions_by_function(FunctionName="fn")["Versions"]] == [
        "$LATEST",
        "1",
        "2",
    ]
    alias = client.create_alias(FunctionName="fn", Name="live", FunctionVersion="1")
    assert alias["AliasArn"] == ARN + ":live"
    answer = client.invoke(FunctionName="fn", Qualifier="live")
    assert (json.loads(answer["Payload"].read()), answer["ExecutedVersion"]) == ("1", "1")
    assert value(client, "fn:2") == "new"
    client.update_alias(FunctionName="fn", Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 1.0}})
    assert value(client, "fn:live") == "new"
    assert client.get_alias(FunctionName="fn", Name="live")["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 1.0}}
    refused(client.delete_function, "ResourceConflictException", FunctionName="fn", Qualifier="1")
    refused(client.create_alias, "ResourceConflictException", FunctionName="fn", Name="live", FunctionVersion="1")
    refused(client.create_alias, "ResourceNotFoundException", FunctionName="fn", Name="x", FunctionVersion="9")
    client.delete_alias(FunctionName="fn", Name="live")
    refused(client.get_alias, "ResourceNotFoundException", FunctionName="fn", Name="live")
    client.delete_function(FunctionName="fn", Qualifier="1")
    refused(client.invoke, "ResourceNotFoundException", FunctionName="fn:1")


def test_permissions(client, create):
    create()
    client.add_permission(FunctionName="fn", StatementId="s", Action="lambda:InvokeFunction",
                          Principal="iot.amazonaws.com",
                          SourceArn="arn:aws:iot:us-east-1:000000000000:rule/r")  # fmt: skip
    (statement,) = json.loads(client.get_policy(FunctionName="fn")["Policy"])["Statement"]
    assert statement == {
        "Sid": "s", "Effect": "Allow", "Principal": {"Service": "iot.amazonaws.com"}, "Action": "lambda:InvokeFunction",
        "Resource": ARN, "Condition": {"ArnLike": {"AWS:SourceArn": "arn:aws:iot:us-east-1:000000000000:rule/r"}},
    }  # fmt: skip
    client.remove_permission(FunctionName="fn", StatementId="s")
    refused(client.get_policy, "ResourceNotFoundException", FunctionName="fn")
    made = client.add_permission(
        FunctionName="fn", StatementId="t", Action="lambda:InvokeFunction", Principal="*",
        PrincipalOrgID="o-1234567890",
        InvokedViaFunctionUrl=True,
    )  # fmt: skip
    assert json.loads(made["Statement"])["Condition"] == {
        "StringEquals": {"aws:PrincipalOrgID": "o-1234567890"}, "Bool": {"lambda:InvokedViaFunctionUrl": "true"},
    }  # fmt: skip


def test_tags(client, create):
    create()
    client.tag_resource(Resource=ARN, Tags={"a": "1", "b": "2"})
    client.untag_resource(Resource=ARN, TagKeys=["a"])
    assert client.list_tags(Resource=ARN)["Tags"] == {"b": "2"}


def test_concurrency_and_account(client, create):
    create()
    client.put_function_concurrency(FunctionName="fn", ReservedConcurrentExecutions=5)
    assert client.get_function_concurrency(FunctionName="fn")["ReservedConcurrentExecutions"] == 5
    account = client.get_account_settings()
    assert account["AccountLimit"]["UnreservedConcurrentExecutions"] == 995
    assert account["AccountUsage"]["FunctionCount"] == 1


def test_urls(client, create):
    create()
    url = client.create_function_url_config(FunctionName="fn", AuthType="NONE")["FunctionUrl"]
    assert url.endswith(".lambda-url.us-east-1.on.aws/")
    assert client.get_function_url_config(FunctionName="fn")["FunctionUrl"] == url
    refused(client.update_function_url_config, "NotEmulated", FunctionName="fn", InvokeMode="RESPONSE_STREAM")
    client.delete_function_url_config(FunctionName="fn")
    refused(client.get_function_url_config, "ResourceNotFoundException", FunctionName="fn")


def test_a_deleted_function_is_gone(client, create, edge):
    create()
    value(client)
    client.delete_function(FunctionName="fn")
    refused(client.get_function, "ResourceNotFoundException", FunctionName="fn")
    assert edge.functions.stats() == {}
    create("def handler(event, context): return 2\n")
    assert value(client) == 2


def test_what_is_not_emulated_says_so(client):
    answer = refused(client.list_layers, "NotEmulated")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert "docs/parity.md" in answer["Error"]["Message"]


def test_a_buffered_result_as_a_stream(client, create):
    create("def handler(event, context):\n    print('seen')\n    return [1]\n")
    events = list(client.invoke_with_response_stream(FunctionName="fn", LogType="Tail")["EventStream"])
    assert events[0] == {"PayloadChunk": {"Payload": b"[1]"}}
    assert set(events[1]["InvokeComplete"]) == {"LogResult"}


def test_an_error_as_a_stream(client, create):
    create("def handler(event, context):\n    raise ValueError('no')\n")
    (event,) = client.invoke_with_response_stream(FunctionName="fn")["EventStream"]
    assert event["InvokeComplete"]["ErrorCode"] == "ValueError"
    assert json.loads(event["InvokeComplete"]["ErrorDetails"])["errorMessage"] == "no"


BOOTSTRAP = """#!/usr/bin/env python3
import http.client, os
connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
base = "/2018-06-01/runtime/invocation"
while True:
    connection.request("GET", base + "/next")
    answer = connection.getresponse()
    event = answer.read()
    request_id = answer.headers["Lambda-Runtime-Aws-Request-Id"]
    headers = {"Lambda-Runtime-Function-Response-Mode": "streaming", "Transfer-Encoding": "chunked"}
    parts = iter([b"one ", b"two ", event])
    connection.request("POST", f"{base}/{request_id}/response", parts, headers, encode_chunked=True)
    connection.getresponse().read()
"""


def test_a_custom_runtime_without_a_bootstrap(client, package):
    client.create_function(
        FunctionName="fn", Role=ROLE, Runtime="provided.al2023", Handler="x", Code={"ZipFile": package({"a": ""})}
    )
    answer = client.invoke(FunctionName="fn")
    assert answer["FunctionError"] == "Unhandled"
    assert json.loads(answer["Payload"].read())["errorType"] == "Runtime.InvalidEntrypoint"


def test_a_custom_runtime_streams(edge, client, tmp_path):
    from foreshore.functions.spec import FunctionSpec

    code = tmp_path / "code"
    code.mkdir()
    (code / "bootstrap").write_text(BOOTSTRAP)
    (code / "bootstrap").chmod(0o755)

    async def create():
        edge.functions.create(FunctionSpec("fn", code, "unused", runtime="provided.al2023", timeout_s=10))

    edge.run(create())
    assert client.invoke(FunctionName="fn", Payload=b'"x"')["Payload"].read() == b'one two "x"'
    events = list(client.invoke_with_response_stream(FunctionName="fn", Payload=b'"y"')["EventStream"])
    parts = [event["PayloadChunk"]["Payload"] for event in events[:-1]]
    assert b"".join(parts) == b'one two "y"'
    assert events[-1] == {"InvokeComplete": {}}
