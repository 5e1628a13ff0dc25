"""A child that is killed is seen, reported, and recovered from or failed clearly."""

import contextlib
import json
import os
import signal
import time
import urllib.request

import pytest

from foreshore.traces.store import TraceReader
from tests.e2e.conftest import ROOT, start, stop

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def own_edge(tmp_path_factory):
    running = start(ROOT, tmp_path_factory.mktemp("kill"))
    yield running
    stop(running)


def until(look, seconds=30.0):
    """Look until it is true; the time is a bound, not a measure."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("never became true")


def status(edge):
    with urllib.request.urlopen(edge.ends["aws"] + "/_foreshore/status") as answer:
        return json.load(answer)


def logged(edge, words):
    with contextlib.closing(TraceReader(edge.home / "state" / "traces.db")) as reader:
        return [line.text for _, line in reader.logs(limit=1_000_000) if words in line.text]


def kill(edge, words):
    pids = [pid for pid, line in edge.children().items() if words in line]
    assert pids, edge.children()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def test_the_backend_comes_back_with_the_templates_resources(own_edge):
    table = status(own_edge)["stacks"]["cloud-functions"]["TableName"]
    kill(own_edge, "ministack")
    until(lambda: status(own_edge)["backend"]["restarts"] == 1 and status(own_edge)["backend"]["up"])
    until(lambda: logged(own_edge, "the backend is up again"))
    assert own_edge.boto3("dynamodb").describe_table(TableName=table)["Table"]["TableStatus"] == "ACTIVE"
    assert logged(own_edge, "the backend ended with code -9")
    (base,) = own_edge.ends["distributions"].values()
    with urllib.request.urlopen(base + "/") as page:
        assert b"<html" in page.read()


def test_a_component_is_started_again(own_edge):
    until(lambda: status(own_edge)["cores"]["core-1"]["components"].get("foreshore.filter") == "RUNNING")
    before = set(kill(own_edge, "lambda_host.pyz"))
    until(lambda: {pid for pid, line in own_edge.children().items() if "lambda_host.pyz" in line} - before)
    # The nucleus itself is FINISHED, as on a device.
    until(lambda: set(status(own_edge)["cores"]["core-1"]["components"].values()) <= {"RUNNING", "FINISHED"})
    assert logged(own_edge, "-9") or logged(own_edge, "137")


def test_a_lambda_worker_is_replaced(own_edge):
    functions = own_edge.boto3("lambda")
    name = next(f["FunctionName"] for f in functions.list_functions()["Functions"] if "Api" in f["FunctionName"])
    context = {"http": {"method": "GET", "path": "/windows"}, "stage": "$default"}
    event = json.dumps(
        {"version": "2.0", "rawPath": "/windows", "headers": {}, "rawQueryString": "", "routeKey": "GET /windows",
         "requestContext": context}
    )  # fmt: skip
    assert "FunctionError" not in functions.invoke(FunctionName=name, Payload=event)
    workers = status(own_edge)["functions"][name]["workers"]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not set(workers) & set(status(own_edge)["functions"][name]["workers"]))
    assert "FunctionError" not in functions.invoke(FunctionName=name, Payload=event)
