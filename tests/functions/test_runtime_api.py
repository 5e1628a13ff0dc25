"""The Runtime API as bytes and events, in pieces of every size."""

import httptools
import pytest

from foreshore.errors import PeerError
from foreshore.functions import runtime_api as api

REQUESTS = [
    (b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n", [api.Next()]),
    (
        b"POST /2018-06-01/runtime/invocation/id-1/response HTTP/1.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: 3\r\n\r\n[1]",
        [api.Result("id-1", b"[1]", "application/json")],
    ),
    (
        b"POST /2018-06-01/runtime/invocation/id-1/error HTTP/1.1\r\nLambda-Runtime-Function-Error-Type: Unhandled\r\n"
        b"lambda-runtime-function-xray-error-cause: {}\r\nContent-Length: 2\r\n\r\n{}",
        [api.Failure("id-1", b"{}", "Unhandled", "{}")],
    ),
    (
        b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nLambda-Runtime-Function-Error-Type: Runtime.X\r\n"
        b"Content-Length: 2\r\n\r\n{}",
        [api.InitFailure(b"{}", "Runtime.X")],
    ),
    (b"GET /2018-06-01/runtime/restore/next HTTP/1.1\r\n\r\n", [api.RestoreNext()]),
    (
        b"GET /2020-01-01/extension/event/next HTTP/1.1\r\n\r\n",
        [api.Unknown("GET", "/2020-01-01/extension/event/next")],
    ),
]
STREAMED = (
    b"POST /2018-06-01/runtime/invocation/id-2/response HTTP/1.1\r\n"
    b"Lambda-Runtime-Function-Response-Mode: streaming\r\n"
    b"Content-Type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n"
    b"Lambda-Runtime-Function-Error-Type: Late\r\nLambda-Runtime-Function-Error-Body: e30=\r\n\r\n"
)


def feed(data, size):
    reader = api.Reader()
    events = []
    for start in range(0, len(data), size):
        events += reader.feed(data[start : start + size])
    return events


@pytest.mark.parametrize("size", [1, 10, 10_000])
@pytest.mark.parametrize(("request_bytes", "events"), REQUESTS)
def test_requests(request_bytes, events, size):
    assert feed(request_bytes, size) == events


@pytest.mark.parametrize("size", [1, 10, 10_000])
def test_pipelined_requests(size):
    data = b"".join(request for request, _ in REQUESTS)
    assert feed(data, size) == [event for _, events in REQUESTS for event in events]


@pytest.mark.parametrize("size", [1, 10, 10_000])
def test_a_streamed_result(size):
    events = feed(STREAMED, size)
    assert events[0] == api.ResultHead("id-2", "text/x")
    assert b"".join(event.data for event in events[1:-1]) == b"abcde"
    assert events[-1] == api.ResultEnd("id-2", "Late", "e30=")


def test_what_is_not_http():
    with pytest.raises(PeerError, match="not a Runtime API request"):
        api.Reader().feed(b"\x16\x03\x01 nonsense\r\n\r\n")


def test_an_invocation_is_http():
    seen = {}

    class Parsed:
        def on_header(self, name, value):
            seen[name.decode()] = value.decode()

        def on_body(self, body):
            seen["body"] = body

    data = api.invocation("id", 5, "arn", "Root=1", b"{}", '{"custom": 1}', "")
    httptools.HttpResponseParser(Parsed()).feed_data(data)
    assert seen == {
        "Content-Type": "application/json", "Lambda-Runtime-Aws-Request-Id": "id", "Lambda-Runtime-Deadline-Ms": "5",
        "Lambda-Runtime-Invoked-Function-Arn": "arn", "Lambda-Runtime-Trace-Id": "Root=1",
        "Lambda-Runtime-Client-Context": '{"custom": 1}', "Content-Length": "2", "body": b"{}",
    }  # fmt: skip
