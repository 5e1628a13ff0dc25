"""Which service a request is for."""

import pytest

from foreshore.cloud.routing import Target, route
from foreshore.http import Request


def scope(service):
    return (
        f"AWS4-HMAC-SHA256 Credential=AKID/20260101/eu-west-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )


@pytest.mark.parametrize(
    ("target", "headers", "service", "resource"),
    [
        ("/things", {"Authorization": scope("iot")}, "iot", ""),
        ("/x", {"authorization": scope("dynamodb")}, "dynamodb", ""),
        ("/b/k?X-Amz-Credential=AKID%2F20260101%2Feu-west-1%2Fs3%2Faws4_request", {}, "s3", ""),
        ("/2015-03-31/functions/f/invocations", {}, "lambda", ""),
        ("/things/t/shadow?name=x", {}, "iotdata", ""),
        ("/topics/a%2Fb?qos=1", {}, "iotdata", ""),
        ("/things/t/jobs/$next", {}, "iot-jobs-data", ""),
        ("/greengrass/v2/components", {}, "greengrass", ""),
        ("/windows", {"Host": "abc123.execute-api.us-east-1.amazonaws.com:4566"}, "execute-api", "abc123"),
        ("/_aws/execute-api/abc123/prod/windows?x=1", {}, "execute-api", "abc123"),
        ("/", {"Host": "xyz.lambda-url.us-east-1.on.aws"}, "lambda-url", "xyz"),
        ("/_foreshore/status", {}, "admin", "status"),
        ("/", {}, "", ""),
    ],
)
def test_route(target, headers, service, resource):
    request = Request("GET", target, [(k.encode(), v.encode()) for k, v in headers.items()])
    found = route(request)
    assert (found.service, found.resource) == (service, resource)


def test_an_execute_api_path_gives_stage_and_path():
    found = route(Request("GET", "/_aws/execute-api/abc/prod/a%20b/c?d=e", []))
    assert found == Target("execute-api", "abc", "prod", "/a%20b/c")


def test_the_region_of_the_scope_is_kept():
    assert route(Request("GET", "/", [(b"Authorization", scope("iot").encode())])).region == "eu-west-1"
