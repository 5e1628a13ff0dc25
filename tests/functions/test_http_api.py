"""HTTP APIs: the choice of route, both event formats, both response formats, CORS; and one real request each."""

import base64
import json
import urllib.error
import urllib.request

import pytest

from foreshore.functions.http_api import HttpApi
from foreshore.functions.spec import FunctionSpec
from foreshore.http import Request
from foreshore.seams import InvokeResult

FN = "arn:aws:lambda:us-east-1:000000000000:function:fn"


def api(*routes, **options) -> HttpApi:
    rows = [(method, path, FN, "2.0") for method, path in routes]
    return HttpApi("Api", "abc123", rows, region="us-east-1", account="000000000000", **options)


@pytest.mark.parametrize(
    ("method", "path", "route", "parameters"),
    [
        ("GET", "/pets", "GET /pets", {}),
        ("POST", "/pets", "ANY /pets", {}),
        ("GET", "/pets/dog", "GET /pets/dog", {}),
        ("GET", "/pets/cat", "GET /pets/{id}", {"id": "cat"}),
        ("GET", "/pets/a%20b", "GET /pets/{id}", {"id": "a b"}),
        ("GET", "/pets/cat/toys", "ANY /pets/{proxy+}", {"proxy": "cat/toys"}),
        ("PUT", "/pets/cat", "ANY /pets/{proxy+}", {"proxy": "cat"}),
        ("GET", "/other", "$default", {}),
        ("GET", "/pets/", "$default", {}),
    ],
)
def test_the_best_route_wins(method, path, route, parameters):
    found = api(
        ("ANY", "/pets"), ("GET", "/pets"), ("ANY", "/pets/{proxy+}"), ("GET", "/pets/{id}"), ("GET", "/pets/dog"),
        ("ANY", "$default"),
    ).match(method, path)  # fmt: skip
    assert (found.route_key, found.parameters) == (route, parameters)


def test_no_route():
    assert api(("GET", "/a")).match("GET", "/b") is None
    assert api(("GET", "/a")).match("POST", "/a") is None


def request(method="GET", target="/windows/d1?limit=2&tag=a&tag=b", headers=(), body=b""):
    pairs = [(b"Host", b"127.0.0.1:4566"), (b"User-Agent", b"curl"), *headers]
    return Request(method, target, pairs, body, ("127.0.0.1", 1))


def test_format_2():
    made = api(("GET", "/windows/{device}"))
    asked = request(headers=[(b"Cookie", b"a=1; b=2"), (b"X-Two", b"1"), (b"x-two", b"2")])
    match = made.match("GET", "/windows/d1")
    assert made.event(match, asked, "/windows/d1", "$default", 1583348638.39, "id=") == {
        "version": "2.0",
        "routeKey": "GET /windows/{device}",
        "rawPath": "/windows/d1",
        "rawQueryString": "limit=2&tag=a&tag=b",
        "cookies": ["a=1", "b=2"],
        "headers": {"host": "127.0.0.1:4566", "user-agent": "curl", "x-two": "1,2"},
        "queryStringParameters": {"limit": "2", "tag": "a,b"},
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "abc123",
            "domainName": "abc123.execute-api.us-east-1.amazonaws.com",
            "domainPrefix": "abc123",
            "http": {
                "method": "GET", "path": "/windows/d1", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1",
                "userAgent": "curl",
            },
            "requestId": "id=",
            "routeKey": "GET /windows/{device}",
            "stage": "$default",
            "time": "04/Mar/2020:19:03:58 +0000",
            "timeEpoch": 1583348638390,
        },
        "pathParameters": {"device": "d1"},
        "isBase64Encoded": False,
    }  # fmt: skip


def test_format_1():
    made = HttpApi("Api", "abc", [("ANY", "/x", FN, "1.0")], region="us-east-1", account="0" * 12)
    event = made.event(made.match("GET", "/x"), request(target="/x?tag=a&tag=b"), "/x", "dev", 0.0, "id=")
    assert (event["version"], event["resource"], event["path"], event["httpMethod"]) == ("1.0", "/x", "/dev/x", "GET")
    assert event["queryStringParameters"] == {"tag": "b"}
    assert event["multiValueQueryStringParameters"] == {"tag": ["a", "b"]}
    assert event["multiValueHeaders"]["User-Agent"] == ["curl"]
    assert event["pathParameters"] is None
    assert event["body"] is None
    assert event["requestContext"]["identity"]["sourceIp"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("content_type", "body", "is_base64"),
    [
        (b"application/json", b"{}", False),
        (b"text/plain; charset=utf-8", b"hi", False),
        (b"application/problem+json", b"{}", False),
        (b"application/x-www-form-urlencoded", b"a=1", True),
        (b"image/png", b"\x89PNG", True),
        (b"text/plain", b"\xff", True),
    ],
)
def test_bodies_that_are_not_text_come_as_base64(content_type, body, is_base64):
    made = api(("POST", "/x"))
    asked = request("POST", "/x", [(b"Content-Type", content_type)], body)
    event = made.event(made.match("POST", "/x"), asked, "/x", "$default", 0.0, "id=")
    assert event["isBase64Encoded"] is is_base64
    assert event["body"] == (base64.b64encode(body).decode() if is_base64 else body.decode())


@pytest.mark.parametrize(
    ("payload", "status", "body", "headers"),
    [
        ({"statusCode": 201, "body": "hi"}, 201, b"hi", {"content-type": "text/plain; charset=utf-8"}),
        ({"statusCode": "404"}, 404, b"", {}),
        ({"statusCode": 200, "body": "aGk=", "isBase64Encoded": True, "headers": {"A": "b"}}, 200, b"hi", {"a": "b"}),
        ({"statusCode": 200, "headers": {"X-N": 3, "X-T": True}}, 200, b"", {"x-n": "3", "x-t": "true"}),
        ({"statusCode": 200, "multiValueHeaders": {"X": ["a"]}, "headers": {"x": "z"}}, 200, b"", {"x": "a"}),
        ({"statusCode": 200, "cookies": ["a=1"]}, 200, b"", {"set-cookie": "a=1"}),
        ({"any": "object"}, 200, b'{"any": "object"}', {"content-type": "application/json"}),
        ("just text", 200, b"just text", {"content-type": "application/json"}),
        ([1], 200, b"[1]", {"content-type": "application/json"}),
        ({"statusCode": 200, "body": {"no": "text"}}, 500, b'{"message":"Internal Server Error"}', {}),
        ({"statusCode": "abc"}, 500, b'{"message":"Internal Server Error"}', {}),
        ({"statusCode": 200, "body": "%%%", "isBase64Encoded": True}, 500, b'{"message":"Internal Server Error"}', {}),
    ],
)  # fmt: skip
def test_results_become_answers(payload, status, body, headers):
    made = api(("GET", "/x"))
    answer = made.response(made.match("GET", "/x"), InvokeResult(json.dumps(payload).encode()))
    assert (answer.status, answer.body) == (status, body)
    found = {name.decode().lower(): value.decode() for name, value in answer.headers}
    assert {name: found.get(name) for name in headers} == headers


def test_a_function_error_is_a_500_or_a_urls_502():
    failed = InvokeResult(b'{"errorMessage":"x"}', "Unhandled")
    made = api(("GET", "/x"))
    assert made.response(made.match("GET", "/x"), failed).status == 500
    url = api(("ANY", "$default"), kind="url")
    assert url.response(url.match("GET", "/x"), failed).status == 502


CORS = {
    "AllowOrigins": ["https://a.example", "http://*"],
    "AllowMethods": ["GET"],
    "AllowHeaders": ["x-a"],
    "MaxAge": 60,
}


@pytest.mark.parametrize(
    ("origin", "allowed"), [("https://a.example", True), ("http://other", True), ("https://b.example", False)]
)
def test_preflight(origin, allowed):
    made = api(("GET", "/x"), cors=CORS)
    asked = request("OPTIONS", "/x", [(b"Origin", origin.encode()), (b"Access-Control-Request-Method", b"GET")])
    answer = made.answer_early(asked, "/x")
    headers = dict(answer.headers)
    assert answer.status == 204
    assert headers.get(b"access-control-allow-origin") == (origin.encode() if allowed else None)
    assert headers.get(b"access-control-max-age") == (b"60" if allowed else None)


def test_configured_cors_replaces_the_functions_own():
    made = api(("GET", "/x"), cors={"allowOrigins": ["*"]})
    result = InvokeResult(json.dumps({"statusCode": 200, "headers": {"Access-Control-Allow-Origin": "evil"}}).encode())
    asked = request(headers=[(b"Origin", b"http://a")])
    answer = made.finish(asked, made.response(made.match("GET", "/x"), result))
    assert [value for name, value in answer.headers if name.lower() == b"access-control-allow-origin"] == [b"*"]


SOURCE = """
def handler(event, context):
    if event["rawPath"] == "/fail":
        raise ValueError()
    return {"statusCode": 200, "headers": {"Content-Type": "text/x"}, "body": event["routeKey"] + " " + event["body"]}
"""


def test_real_requests(edge, tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "app.py").write_text(SOURCE)

    async def create():
        arn = edge.functions.create(FunctionSpec("fn", code, "app.handler"))
        edge.functions.add_http_api(
            "Api", "abcdefghij", [("POST", "/a/{b}", arn, "2.0"), ("POST", "/fail", arn, "2.0")]
        )
        return edge.functions.make_url("fn", "")

    url = edge.run(create())

    def post(path, host=None):
        asked = urllib.request.Request(f"http://127.0.0.1:{edge.port}{path}", b"hello", {"Content-Type": "text/plain"})
        if host:
            asked.add_header("Host", host)
        try:
            with urllib.request.urlopen(asked) as answer:
                return answer.status, answer.read(), answer.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), error.headers["Content-Type"]

    assert post("/_aws/execute-api/abcdefghij/$default/a/1") == (200, b"POST /a/{b} hello", "text/x")
    assert post("/a/1", "abcdefghij.execute-api.us-east-1.amazonaws.com") == (200, b"POST /a/{b} hello", "text/x")
    assert post("/_aws/execute-api/abcdefghij/$default/b")[:2] == (404, b'{"message":"Not Found"}')
    assert post("/_aws/execute-api/abcdefghij/$default/fail")[:2] == (500, b'{"message":"Internal Server Error"}')
    assert post("/any", url.removeprefix("https://").rstrip("/"))[:2] == (200, b"$default hello")
