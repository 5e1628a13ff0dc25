"""The distribution over real sockets: cache, origins, errors, functions."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from edge import ARN, DISABLED, Edge, default, text, trigger

from foreshore.cloudfront.behaviors import without_effect
from foreshore.errors import AwsError, NotEmulated, UserError
from foreshore.http import Response
from foreshore.seams import InvokeResult


def run(scenario: Callable[[Edge], Awaitable[None]], config: dict[str, Any] | None = None, **options: Any) -> Edge:
    edge = Edge(config, **options)

    async def go() -> None:
        async with edge:
            await asyncio.wait_for(scenario(edge), 20)

    asyncio.run(go())
    return edge


def test_a_miss_then_hits_with_age_and_cloudfronts_headers() -> None:
    async def scenario(edge: Edge) -> None:
        edge.pages["/a"] = text(b"hello", ("ETag", '"1"'))
        first = await edge.get("/a")
        assert (first.status, first.body, first.header("x-cache")) == (200, b"hello", "Miss from cloudfront")
        assert first.header("age") == ""
        for _ in range(3):
            again = await edge.get("/a")
            assert again.body == b"hello"
            assert again.header("x-cache") == "Hit from cloudfront"
            assert again.header("age").isdigit()
            assert again.header("content-length") == "5"
        assert len(again.header("x-amz-cf-id")) == 56
        assert again.header("x-amz-cf-id") != first.header("x-amz-cf-id")
        assert again.header("via").endswith(".cloudfront.net (CloudFront)")
        assert again.header("x-amz-cf-pop")
        head = await edge.get("/a", "HEAD")
        assert (head.status, head.body, head.header("x-cache")) == (200, b"", "Hit from cloudfront")

    edge = run(scenario)
    assert len(edge.seen) == 1
    stats = edge.distribution.stats()
    assert (stats["requests"], stats["hits"], stats["misses"], stats["origin_requests"]) == (5, 4, 1, 1)
    assert [span.attributes["x-cache"] for span in edge.spans] == ["Miss", "Hit", "Hit", "Hit", "Hit"]


def test_the_origin_gets_cloudfronts_request_and_the_trace() -> None:
    async def scenario(edge: Edge) -> None:
        edge.pages["/a"] = text(b"x")
        trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        await edge.get("/a?q=1", User_Agent="browser", Cookie="c=1", Accept_Language="de", traceparent=trace)

    edge = run(scenario)
    (request,) = edge.seen
    assert request.target == "/a"
    assert request.header("host") == "origin.example"
    assert request.header("user-agent") == "Amazon CloudFront"
    assert request.header("x-forwarded-for") == "127.0.0.1"
    assert request.header("via").startswith("2.0 ")
    assert request.header("cookie") == request.header("accept-language") == ""
    assert request.header("traceparent").startswith("00-" + "a" * 32)
    assert edge.spans[0].trace_id == "a" * 32
    assert edge.spans[0].parent_id == "b" * 16


def test_concurrent_misses_wait_for_one_fetch() -> None:
    async def scenario(edge: Edge) -> None:
        gate = asyncio.Event()

        async def slow(request: Any) -> Response:
            await gate.wait()
            return text(b"once")

        edge.pages["/a"] = slow
        tasks = [asyncio.ensure_future(edge.get("/a")) for _ in range(8)]
        while not edge.seen:
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        gate.set()
        answers = await asyncio.gather(*tasks)
        assert {answer.body for answer in answers} == {b"once"}

    assert len(run(scenario).seen) == 1


def test_an_expired_entry_is_revalidated() -> None:
    def page(request: Any) -> Response:
        if request.header("if-none-match") == '"v"':
            return Response(304, [(b"ETag", b'"v"')])
        return text(b"body", ("ETag", '"v"'), ("Cache-Control", "max-age=0"))

    async def scenario(edge: Edge) -> None:
        edge.pages["/a"] = page
        assert (await edge.get("/a")).header("x-cache") == "Miss from cloudfront"
        again = await edge.get("/a")
        assert (again.status, again.body, again.header("x-cache")) == (200, b"body", "RefreshHit from cloudfront")

    policy = {"p": {"Name": "p", "MinTTL": 0, "DefaultTTL": 0, "MaxTTL": 60}}
    edge = run(scenario, default(CachePolicyId="p"), policies=policy)
    assert edge.distribution.stats()["refresh_hits"] == 1


def test_a_stale_entry_stands_in_for_a_broken_origin() -> None:
    async def scenario(edge: Edge) -> None:
        edge.pages["/a"] = text(b"old", ("ETag", '"v"'), ("Cache-Control", "max-age=0"))
        await edge.get("/a")
        edge.pages["/a"] = text(b"broken", status=500)
        answer = await edge.get("/a")
        assert (answer.status, answer.body) == (200, b"old")

    policy = {"p": {"Name": "p", "MinTTL": 0, "DefaultTTL": 0, "MaxTTL": 60}}
    run(scenario, default(CachePolicyId="p"), policies=policy)


def test_errors_are_cached_and_marked() -> None:
    async def scenario(edge: Edge) -> None:
        for _ in range(2):
            answer = await edge.get("/none")
            assert (answer.status, answer.header("x-cache")) == (404, "Error from cloudfront")
        edge.pages["/no"] = text(b"no", status=403)
        await edge.get("/no")
        await edge.get("/no")

    assert [request.raw_path for request in run(scenario).seen] == ["/none", "/no", "/no"]


def test_a_custom_error_page_replaces_the_status() -> None:
    config = default()
    config["CustomErrorResponses"] = [{"ErrorCode": 404, "ResponseCode": 200, "ResponsePagePath": "/index.html"}]

    async def scenario(edge: Edge) -> None:
        edge.pages["/index.html"] = text(b"app")
        answer = await edge.get("/deep/link")
        assert (answer.status, answer.body) == (200, b"app")

    run(scenario, config)


def test_an_unreachable_origin_is_502_and_failover_mends_it() -> None:
    origins = [
        {"Id": "first", "DomainName": "down.example", "CustomOriginConfig": {"OriginProtocolPolicy": "http-only"}},
        {"Id": "main", "DomainName": "origin.example", "CustomOriginConfig": {"OriginProtocolPolicy": "http-only"}},
    ]

    async def fails(edge: Edge) -> None:
        answer = await edge.get("/a")
        assert (answer.status, answer.header("x-cache")) == (502, "Error from cloudfront")
        assert b"<H1>502 ERROR</H1>" in answer.body

    run(fails, {**default(TargetOriginId="first"), "Origins": origins})

    async def mends(edge: Edge) -> None:
        edge.pages["/a"] = text(b"second")
        assert (await edge.get("/a")).body == b"second"

    group = {"Id": "g", "FailoverCriteria": {"StatusCodes": {"Items": [502]}},
             "Members": {"Items": [{"OriginId": "first"}, {"OriginId": "main"}]}}  # fmt: skip
    run(mends, {**default(TargetOriginId="g"), "Origins": origins, "OriginGroups": {"Items": [group]}})


def test_ranges_and_conditions_are_answered_from_the_cache() -> None:
    async def scenario(edge: Edge) -> None:
        edge.pages["/a"] = text(b"0123456789", ("ETag", '"v"'))
        await edge.get("/a")
        part = await edge.get("/a", Range="bytes=2-4")
        assert (part.status, part.body, part.header("content-range")) == (206, b"234", "bytes 2-4/10")
        assert (await edge.get("/a", Range="bytes=20-")).status == 416
        assert (await edge.get("/a", Range="bytes=5-6,1-2")).status == 200
        two = await edge.get("/a", Range="bytes=0-1,8-9")
        assert two.status == 206
        assert two.body.count(b"Content-Range: bytes ") == 2
        same = await edge.get("/a", If_None_Match='"v"')
        assert (same.status, same.body) == (304, b"")

    assert len(run(scenario).seen) == 1


def test_compression_at_the_edge() -> None:
    body = b"line of text\n" * 200

    async def scenario(edge: Edge) -> None:
        edge.pages["/a"] = text(body, ("ETag", '"v"'))
        plain = await edge.get("/a")
        assert plain.body == body
        packed = await edge.get("/a", Accept_Encoding="gzip, deflate")
        assert packed.header("content-encoding") == "gzip"
        assert packed.header("etag") == 'W/"v"'
        assert gzip.decompress(packed.body) == body
        again = await edge.get("/a", Accept_Encoding="gzip, deflate")
        assert again.header("x-cache") == "Hit from cloudfront"
        assert gzip.decompress(again.body) == body

    run(scenario, default(Compress=True))


def test_protocols_and_methods() -> None:
    async def redirects(edge: Edge) -> None:
        answer = await edge.get("/a?b=1", Host="site.example")
        assert (answer.status, answer.header("location")) == (301, "https://site.example/a?b=1")
        assert answer.header("x-cache") == "Redirect from cloudfront"
        assert (await edge.get("/a", "HEAD")).status == 301

    run(redirects, default(ViewerProtocolPolicy="redirect-to-https"))

    async def refuses(edge: Edge) -> None:
        assert (await edge.get("/a")).status == 403

    run(refuses, default(ViewerProtocolPolicy="https-only"))

    async def methods(edge: Edge) -> None:
        answer = await edge.get("/a", "POST", b"x")
        assert answer.status == 403
        assert b"The distribution supports only cachable requests." in answer.body
        assert (await edge.get("/" + "a" * 9000)).status == 413

    run(methods)


def test_invalidation() -> None:
    async def scenario(edge: Edge) -> None:
        for path in ("/a", "/b/1", "/b/2"):
            edge.pages[path] = text(path.encode())
            await edge.get(path)
            await edge.get(path)
        assert edge.distribution.invalidate(["/b/*"]) == 2
        assert (await edge.get("/a")).header("x-cache") == "Hit from cloudfront"
        assert (await edge.get("/b/1")).header("x-cache") == "Miss from cloudfront"
        edge.distribution.invalidate(["/*"])
        assert (await edge.get("/a")).header("x-cache") == "Miss from cloudfront"

    run(scenario)


# Functions


def viewer(*associations: dict[str, Any], **members: Any) -> dict[str, Any]:
    return default(LambdaFunctionAssociations=list(associations), **members)


def test_viewer_request_and_viewer_response() -> None:
    def rewrite(event: Any, context: Any) -> Any:
        request = event["Records"][0]["cf"]["request"]
        request["uri"] = "/rewritten"
        request["querystring"] = ""
        return request

    def secure(event: Any, context: Any) -> Any:
        response = event["Records"][0]["cf"]["response"]
        response["headers"]["x-frame-options"] = [{"key": "X-Frame-Options", "value": "DENY"}]
        return response

    async def scenario(edge: Edge) -> None:
        edge.functions = {f"{ARN}in:1": rewrite, f"{ARN}out:1": secure}
        edge.pages["/rewritten"] = text(b"page")
        first = await edge.get("/a?x=1")
        second = await edge.get("/b?x=2")
        assert (first.body, second.body) == (b"page", b"page")
        assert second.header("x-cache") == "Hit from cloudfront"
        assert second.header("x-frame-options") == "DENY"
        assert second.header("content-length") == "4"

    edge = run(scenario, viewer(trigger("viewer-request", "in"), trigger("viewer-response", "out")))
    cf = edge.events[0]["Records"][0]["cf"]
    assert cf["config"]["eventType"] == "viewer-request"
    assert cf["config"]["distributionId"] == "E1234567890ABC"
    assert cf["request"]["uri"] == "/a"
    assert cf["request"]["querystring"] == "x=1"
    assert cf["request"]["clientIp"] == "127.0.0.1"
    assert "origin" not in cf["request"]
    last = edge.events[-1]["Records"][0]["cf"]["response"]
    assert last["status"] == "200"
    assert "age" in last["headers"]
    assert edge.distribution.stats()["lambda"][f"{ARN}in:1"]["invocations"] == 2


def test_a_generated_response_skips_viewer_response() -> None:
    def deny(event: Any, context: Any) -> Any:
        return {"status": 401, "body": "no", "headers": {"content-type": [{"value": "text/plain"}]}}

    async def scenario(edge: Edge) -> None:
        edge.functions = {f"{ARN}in:1": deny}
        answer = await edge.get("/a")
        assert (answer.status, answer.body) == (401, b"no")
        assert answer.header("x-cache") == "LambdaGeneratedResponse from cloudfront"

    edge = run(scenario, viewer(trigger("viewer-request", "in"), trigger("viewer-response", "out")))
    assert edge.seen == []


@pytest.mark.parametrize(
    ("given", "status", "x_cache", "words"),
    [
        (InvokeResult(b"null"), 502, "LambdaValidationError", b"The JSON output must be an object type."),
        (InvokeResult(b"{"), 502, "LambdaValidationError", b"The json output is not parsable"),
        (InvokeResult(b'{"status": 999}'), 502, "LambdaValidationError", b"failed validation"),
        (InvokeResult(b"{}", "Unhandled"), 503, "LambdaExecutionError", b"invalid or doesn't have the required"),
        (AwsError("TooManyRequestsException", "Rate", 429), 503, "LambdaLimitExceeded", b"throttled"),
        (AwsError("ResourceNotFoundException", "none", 404), 503, "LambdaExecutionError", b"invalid or doesn't"),
    ],
)
def test_failures_of_functions(given: Any, status: int, x_cache: str, words: bytes) -> None:
    async def scenario(edge: Edge) -> None:
        edge.raw = {f"{ARN}f:1": given}
        answer = await edge.get("/a")
        assert (answer.status, answer.header("x-cache")) == (status, f"{x_cache} from cloudfront")
        assert words in answer.body

    edge = run(scenario, viewer(trigger("viewer-request")))
    assert edge.logs[0].source == "/aws/cloudfront/LambdaEdge/E1234567890ABC"
    assert edge.distribution.stats()["errors"] == 1


def test_a_read_only_header_can_not_be_changed() -> None:
    def change(event: Any, context: Any) -> Any:
        request = event["Records"][0]["cf"]["request"]
        del request["headers"]["host"]
        return request

    async def scenario(edge: Edge) -> None:
        edge.functions = {f"{ARN}f:1": change}
        answer = await edge.get("/a")
        assert answer.status == 502
        assert b"The function tried to add, delete, or change a read-only header." in answer.body

    edge = run(scenario, viewer(trigger("viewer-request")))
    assert "tried to delete read-only header, headerName : Host" in edge.logs[0].text


def test_origin_triggers_run_on_misses_only_and_see_the_origin() -> None:
    def ask(event: Any, context: Any) -> Any:
        request = event["Records"][0]["cf"]["request"]
        request["origin"]["custom"]["customHeaders"] = {"x-stage": [{"key": "X-Stage", "value": "blue"}]}
        return request

    def answer(event: Any, context: Any) -> Any:
        response = event["Records"][0]["cf"]["response"]
        response["headers"]["cache-control"] = [{"key": "Cache-Control", "value": "max-age=100"}]
        response["body"] = "replaced by the function"
        return response

    async def scenario(edge: Edge) -> None:
        edge.functions = {f"{ARN}in:1": ask, f"{ARN}out:1": answer}
        edge.pages["/a"] = text(b"origin's own, of another length")
        for expected in ("Miss", "Hit"):
            got = await edge.get("/a")
            assert got.body == b"replaced by the function"
            assert got.header("x-cache") == f"{expected} from cloudfront"
            assert got.header("cache-control") == "max-age=100"

    edge = run(scenario, viewer(trigger("origin-request", "in"), trigger("origin-response", "out")))
    assert len(edge.events) == 2
    request = edge.events[0]["Records"][0]["cf"]["request"]
    assert request["headers"]["host"][0]["value"] == "origin.example"
    assert request["origin"]["custom"]["domainName"] == "origin.example"
    assert edge.seen[0].header("x-stage") == "blue"


def test_an_origin_request_response_is_cached_without_origin_response() -> None:
    def make(event: Any, context: Any) -> Any:
        return {"status": "200", "body": "made", "headers": {"cache-control": [{"value": "max-age=60"}]}}

    async def scenario(edge: Edge) -> None:
        edge.functions = {f"{ARN}in:1": make}
        first, second = await edge.get("/a"), await edge.get("/a")
        assert first.header("x-cache") == "LambdaGeneratedResponse from cloudfront"
        assert (second.header("x-cache"), second.body) == ("Hit from cloudfront", b"made")

    edge = run(scenario, viewer(trigger("origin-request", "in"), trigger("origin-response", "out")))
    assert len(edge.events) == 1


def test_include_body_gives_and_replaces_the_body() -> None:
    def replace(event: Any, context: Any) -> Any:
        request = event["Records"][0]["cf"]["request"]
        assert request["body"]["data"] == "aGk="
        request["body"] = {"action": "replace", "encoding": "text", "data": "changed"}
        return request

    async def scenario(edge: Edge) -> None:
        edge.functions = {f"{ARN}f:1": replace}
        edge.pages["/a"] = lambda request: text(request.body)
        assert (await edge.get("/a", "POST", b"hi")).body == b"changed"

    methods = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"]
    config = viewer(
        trigger("viewer-request", IncludeBody=True), AllowedMethods=methods, CachePolicyId=DISABLED
    )  # fmt: skip
    run(scenario, config)


def many_functions(count: int) -> dict[str, Any]:
    """A distribution with that many functions, four a behaviour."""
    config = default()
    events = ("viewer-request", "origin-request", "origin-response", "viewer-response")
    config["CacheBehaviors"] = [
        {
            **config["DefaultCacheBehavior"], "PathPattern": f"/{first}",
            "LambdaFunctionAssociations": [
                {"EventType": event, "LambdaFunctionARN": f"{ARN}f:{first + number + 1}"}
                for number, event in enumerate(events[: count - first])
            ],
        }
        for first in range(0, count, 4)
    ]  # fmt: skip
    return config


def test_a_hundred_functions_are_taken() -> None:
    run(lambda edge: asyncio.sleep(0), many_functions(100))


def test_settings_without_effect_are_named() -> None:
    assert without_effect(default()) == []
    config = default(SmoothStreaming=True, GrpcConfig={"Enabled": "true"})
    config |= {"Logging": {"Bucket": "b"}, "Restrictions": {"GeoRestriction": {"RestrictionType": "whitelist"}}}
    config["Origins"] = [{"Id": "o", "DomainName": "example.com", "ResponseCompletionTimeout": 30}]
    named = ["Logging", "GeoRestriction", "SmoothStreaming", "GrpcConfig", "ResponseCompletionTimeout"]
    assert without_effect(config) == named


def test_configs_that_are_refused() -> None:
    for config, error in (
        (default(TargetOriginId="nobody"), UserError),
        (viewer({"EventType": "viewer-request", "LambdaFunctionARN": ARN + "f:$LATEST"}), UserError),
        (default(CachePolicyId="unknown"), NotEmulated),
        (default(FunctionAssociations=[{"EventType": "viewer-request", "FunctionARN": "x"}]), NotEmulated),
        (many_functions(101), UserError),
    ):
        with pytest.raises(error):
            run(lambda edge: asyncio.sleep(0), config)


def test_admin_pages() -> None:
    from foreshore.http import Request

    async def scenario(edge: Edge) -> None:
        edge.pages["/a"] = text(b"x")
        answer = await edge.get("/a")
        base = "/_foreshore/cloudfront/Site"
        found = edge.distribution.admin(Request("GET", f"{base}/explain/{answer.header('x-amz-cf-id')}", []))
        explained = json.loads(found.body)
        assert (explained["x_cache"], explained["behavior"], explained["origin"]) == ("Miss", "*", "origin.example")
        gone = edge.distribution.admin(Request("POST", f"{base}/invalidate", [], b'{"paths": ["/*"]}'))
        assert json.loads(gone.body) == {"invalidated": 1}
        assert edge.distribution.admin(Request("POST", f"{base}/invalidate", [], b"[]")).status == 400
        assert json.loads(edge.distribution.admin(Request("GET", f"{base}/stats", [])).body)["requests"] == 1

    run(scenario)
