"""Invoke, by boto3 over the AWS endpoint: results, errors in AWS's recorded shapes, logs, limits, reload."""

import asyncio
import base64
import json
import os
import re
import signal
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

HANDLER = """
import json, os, sys, time

def handler(event, context):
    do = event.get("do") if isinstance(event, dict) else None
    if do == "raise":
        raise Exception("no luck")
    if do == "exit":
        sys.exit(event["code"])
    if do == "_exit":
        os._exit(127)
    if do == "sleep":
        time.sleep(30)
    if do == "print":
        print("a line")
        print("to stderr", file=sys.stderr)
    if do == "allocate":
        held = bytearray(400 << 20)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(30)
    if do == "big":
        return "x" * event["size"]
    if do == "environment":
        return dict(os.environ)
    if do == "context":
        return {"id": context.aws_request_id, "arn": context.invoked_function_arn, "memory": context.memory_limit_in_mb,
                "client": context.client_context and context.client_context.custom,
                "identity": context.identity is None,
                "left": context.get_remaining_time_in_millis(), "version": context.function_version, "pid": os.getpid()}
    return event
"""
ROLE = "arn:aws:iam::000000000000:role/r"


@pytest.fixture
def create(edge, package):
    client = edge.boto3("lambda")

    def create(source=HANDLER, name="fn", **settings):
        settings = {"Runtime": "python3.12", "Handler": "app.handler", "Timeout": 10, **settings}
        return client.create_function(
            FunctionName=name, Role=ROLE, Code={"ZipFile": package({"app.py": source})}, **settings
        )

    create.client = client
    return create


def call(client, event, **options):
    answer = client.invoke(FunctionName="fn", Payload=json.dumps(event), **options)
    return answer, json.loads(answer["Payload"].read() or b"null")


def test_a_result_comes_back(create):
    create()
    answer, payload = call(create.client, {"a": [1, 2.5, None, "é"]})
    assert payload == {"a": [1, 2.5, None, "é"]}
    assert answer["StatusCode"] == 200
    assert answer["ExecutedVersion"] == "$LATEST"
    assert "FunctionError" not in answer


def test_an_exception_has_awss_shape_and_keeps_the_environment(create):
    create()
    _, before = call(create.client, {"do": "context"})
    answer, payload = call(create.client, {"do": "raise"})
    assert answer["FunctionError"] == "Unhandled"
    assert list(payload) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert payload["errorMessage"] == "no luck"
    assert payload["errorType"] == "Exception"
    assert payload["requestId"] == answer["ResponseMetadata"]["RequestId"]
    (frame,) = payload["stackTrace"]
    assert re.fullmatch(r'  File "/.*/app\.py", line 7, in handler\n    raise Exception\("no luck"\)\n', frame)
    assert call(create.client, {"do": "context"})[1]["pid"] == before["pid"]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"do": "exit", "code": 0}, "Runtime exited without providing a reason"),
        ({"do": "exit", "code": 3}, "Runtime exited with error: exit status 3"),
        ({"do": "_exit"}, "Runtime exited with error: exit status 127"),
        ({"do": "allocate"}, "Runtime exited with error: signal: killed"),
    ],
)
def test_an_exit_has_awss_shape_and_the_next_invocation_works(create, event, message):
    create()
    answer, payload = call(create.client, event)
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert answer["FunctionError"] == "Unhandled"
    assert payload == {"errorType": "Runtime.ExitError", "errorMessage": f"RequestId: {request_id} Error: {message}"}
    assert call(create.client, {"again": 1})[1] == {"again": 1}


def test_a_timeout_ends_the_environment(create):
    create(Timeout=1)
    _, before = call(create.client, {"do": "context"})
    answer, payload = call(create.client, {"do": "sleep"}, LogType="Tail")
    request_id = answer["ResponseMetadata"]["RequestId"]
    message = f"RequestId: {request_id} Error: Task timed out after 1.00 seconds"
    assert payload == {"errorType": "Sandbox.Timedout", "errorMessage": message}
    tail = base64.b64decode(answer["LogResult"]).decode()
    assert f" {request_id} Task timed out after 1.00 seconds\n" in tail
    assert "\tStatus: timeout\t" in tail
    assert call(create.client, {"do": "context"})[1]["pid"] != before["pid"]


def test_a_worker_killed_from_outside_is_seen(create, edge):
    create()
    pid = call(create.client, {"do": "context"})[1]["pid"]
    assert edge.functions.stats()["fn"]["workers"] == [pid]
    os.kill(pid, signal.SIGKILL)
    edge.wait_for(lambda: not edge.functions.stats()["fn"]["workers"])
    assert call(create.client, {"do": "context"})[1]["pid"] != pid


def test_a_worker_killed_in_the_middle_is_reported(create, edge):
    create()
    pid = call(create.client, {"do": "context"})[1]["pid"]

    async def kill_while_busy():
        running = edge.functions.invoke("fn", b'{"do": "sleep"}')
        task = asyncio.ensure_future(running)
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        return await task

    payload = json.loads(edge.run(kill_while_busy()).payload)
    assert payload["errorType"] == "Runtime.ExitError"
    assert payload["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    assert call(create.client, {"again": 1})[1] == {"again": 1}


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("import nothing", "Runtime.ImportModuleError", "Unable to import module 'app': No module named 'nothing'"),
        ("def other(): pass", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'"),
        ("raise RuntimeError('at import')", "RuntimeError", "at import"),
        ("def (:", "Runtime.UserCodeSyntaxError", "Syntax error in module 'app': invalid syntax (app.py, line 1)"),
    ],
)  # fmt: skip
def test_a_failed_import_has_no_request_id(create, edge, source, kind, message):
    create(source)
    answer, payload = call(create.client, {})
    assert answer["FunctionError"] == "Unhandled"
    assert payload["errorType"] == kind
    assert payload["errorMessage"] == message
    assert payload["requestId"] == ""
    # As on AWS, initialization is tried again inside the invocation.
    reports = [line for line in edge.lines() if line.startswith("INIT_REPORT")]
    assert [re.search(r"Phase: (\w+)\tStatus: error", line)[1] for line in reports] == ["init", "invoke"]


def test_an_exit_at_import(create):
    create("import os; os._exit(5)")
    _, payload = call(create.client, {})
    assert payload["errorType"] == "Runtime.ExitError"
    assert payload["errorMessage"].endswith("Runtime exited with error: exit status 5")


def test_the_log_tail_and_the_log(create, edge):
    create()
    answer, _ = call(create.client, {"do": "print"}, LogType="Tail")
    request_id = answer["ResponseMetadata"]["RequestId"]
    tail = base64.b64decode(answer["LogResult"]).decode()
    pattern = (
        rf"START RequestId: {request_id} Version: \$LATEST\na line\nto stderr\nEND RequestId: {request_id}\n"
        rf"REPORT RequestId: {request_id}\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\tMemory Size: 128 MB\t"
        r"Max Memory Used: \d+ MB\tInit Duration: \d+\.\d\d ms\t\n"
    )
    assert re.fullmatch(pattern, tail)
    assert "a line" in edge.lines()
    warm = call(create.client, {}, LogType="Tail")[0]
    assert "Init Duration" not in base64.b64decode(warm["LogResult"]).decode()


def test_the_log_tail_is_the_last_4_kb(create):
    create("def handler(event, context):\n    print('x' * 9000)\n")
    answer, _ = call(create.client, {}, LogType="Tail")
    assert len(base64.b64decode(answer["LogResult"])) == 4096


def test_a_result_over_6_mb(create):
    create()
    assert len(call(create.client, {"do": "big", "size": 6291554})[1]) == 6291554
    answer, payload = call(create.client, {"do": "big", "size": 6291555})
    assert answer["FunctionError"] == "Unhandled"
    assert payload["errorType"] == "Function.ResponseSizeTooLarge"
    assert payload["errorMessage"] == "Response payload size exceeded maximum allowed payload size (6291556 bytes)."


def test_the_environment_is_awss(create, edge):
    create(Environment={"Variables": {"MINE": "1"}})
    _, variables = call(create.client, {"do": "environment"})
    wanted = {
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12", "AWS_LAMBDA_FUNCTION_NAME": "fn", "AWS_REGION": "us-east-1",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128", "TZ": ":UTC", "MINE": "1",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/fn", "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "_HANDLER": "app.handler", "AWS_DEFAULT_REGION": "us-east-1", "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{edge.port}",
    }  # fmt: skip
    assert {name: variables.get(name) for name in wanted} == wanted
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=1", variables["_X_AMZN_TRACE_ID"])
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", variables["AWS_LAMBDA_LOG_STREAM_NAME"])


def test_the_context(create):
    create(MemorySize=256)
    context = base64.b64encode(json.dumps({"custom": {"k": "v"}}).encode()).decode()
    answer, seen = call(create.client, {"do": "context"}, ClientContext=context)
    assert seen["id"] == answer["ResponseMetadata"]["RequestId"]
    assert seen["memory"] == "256"
    assert seen["identity"] is False
    assert seen["client"] == {"k": "v"}
    assert 0 < seen["left"] <= 10_000
    assert seen["arn"] == "arn:aws:lambda:us-east-1:000000000000:function:fn"


def test_the_trace_reaches_the_worker_and_the_spans(create, edge):
    create()
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    result = edge.run(
        edge.functions.invoke("fn", b'{"do": "environment"}', traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
    )
    header = json.loads(result.payload)["_X_AMZN_TRACE_ID"]
    spans = {span.name: span for span in edge.spans}
    assert set(spans) == {"fn", "fn init"}
    assert spans["fn"].trace_id == trace_id
    assert spans["fn"].parent_id == "b7ad6b7169203331"
    assert spans["fn init"].parent_id == spans["fn"].span_id
    assert header == f"Root=1-{trace_id[:8]}-{trace_id[8:]};Parent={spans['fn'].span_id};Sampled=1"


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        ({"FunctionName": "nobody", "Payload": b"{}"}, "ResourceNotFoundException", 404),
        ({"FunctionName": "fn", "Payload": b"{oops"}, "InvalidRequestContentException", 400),
        ({"FunctionName": "fn:9", "Payload": b"{}"}, "ResourceNotFoundException", 404),
        ({"FunctionName": "fn", "Payload": b'"' + b"x" * 6291456 + b'"'}, "RequestTooLargeException", 413),
        ({"FunctionName": "fn", "InvocationType": "Event", "Payload": b"1" * 1048577}, "RequestTooLargeException", 413),
    ],
)  # fmt: skip
def test_what_can_not_be_invoked(create, arguments, code, status):
    create()
    with pytest.raises(ClientError) as raised:
        create.client.invoke(**arguments)
    assert raised.value.response["Error"]["Code"] == code
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.mark.parametrize(
    "name",
    [
        "fn",
        "fn:$LATEST",
        "000000000000:function:fn",
        "arn:aws:lambda:us-east-1:000000000000:function:fn",
        "function:fn",
    ],
)
def test_every_form_of_a_name(edge, create, name):
    create()
    assert edge.run(edge.functions.invoke(name, b"1")).payload == b"1"


def test_a_dry_run(create):
    create()
    assert create.client.invoke(FunctionName="fn", InvocationType="DryRun")["StatusCode"] == 204


def test_reserved_concurrency_throttles(edge, create):
    create()
    create.client.put_function_concurrency(FunctionName="fn", ReservedConcurrentExecutions=0)
    with pytest.raises(ClientError) as raised:
        create.client.invoke(FunctionName="fn")
    answer = raised.value.response
    assert answer["Error"]["Code"] == "TooManyRequestsException"
    assert answer["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert answer["Error"]["Message"] == "Rate Exceeded."
    create.client.delete_function_concurrency(FunctionName="fn")
    create.client.invoke(FunctionName="fn")
    assert edge.functions.stats()["fn"]["throttles"] == 1


def test_saved_code_runs_at_the_next_invocation(edge, tmp_path):
    from foreshore.functions.spec import FunctionSpec

    code = tmp_path / "code"
    code.mkdir()
    file = code / "app.py"
    file.write_text("def handler(event, context): return 1\n")

    async def create():
        edge.functions.create(FunctionSpec("fn", code, "app.handler"))

    edge.run(create())
    for number in (1, 2, 3, 3):
        file.write_text(f"def handler(event, context): return {number}\n")
        assert edge.run(edge.functions.invoke("fn", b"{}")).payload == b"%d" % number
    edge.run(edge.functions.invoke("fn", b"{}"))
    stats = edge.functions.stats()["fn"]
    assert (stats["invocations"], stats["cold"], stats["warm"], stats["reloads"]) == (5, 4, 1, 3)


def test_more_invocations_than_environments_wait(make_edge, package):
    edge = make_edge(max_environments=2)
    client = edge.boto3("lambda")
    source = "import os, time\ndef handler(event, context):\n    time.sleep(0.05)\n    return os.getpid()\n"
    client.create_function(FunctionName="fn", Role=ROLE, Runtime="python3.12", Handler="app.handler", Timeout=10,
                           Code={"ZipFile": package({"app.py": source})})  # fmt: skip

    async def many():
        return await asyncio.gather(*(edge.functions.invoke("fn", b"{}") for _ in range(8)))

    results = edge.run(many())
    assert len({result.payload for result in results}) == 2
    assert edge.functions.stats()["fn"]["invocations"] == 8


def test_an_idle_environment_is_frozen(make_edge, package):
    edge = make_edge(freeze_after_s=0.01)
    client = edge.boto3("lambda")
    client.create_function(FunctionName="fn", Role=ROLE, Runtime="python3.12", Handler="app.handler", Timeout=10,
                           Code={"ZipFile": package({"app.py": HANDLER})})  # fmt: skip
    pid = json.loads(client.invoke(FunctionName="fn", Payload=b'{"do": "context"}')["Payload"].read())["pid"]

    def state():
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    edge.wait_for(lambda: state() == "T")
    assert json.loads(client.invoke(FunctionName="fn", Payload=b"7")["Payload"].read()) == 7
