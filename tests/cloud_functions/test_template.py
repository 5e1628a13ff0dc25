"""The template, translated and run: rule events in, HTTP answers out, DynamoDB between them."""

import asyncio
import importlib.util
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from foreshore.cloud.sam import expand
from foreshore.functions.spec import FunctionSpec

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "cloud_functions" / "template.yaml"
_spec = importlib.util.spec_from_file_location("lambda_edges", ROOT / "tests" / "functions" / "conftest.py")
edges = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = edges
_spec.loader.exec_module(edges)
backend_port = edges.backend_port


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    template = asyncio.run(expand(TEMPLATE, {}, "us-east-1", tmp_path_factory.mktemp("cache")))
    return template["Resources"]


@pytest.fixture
def running(tmp_path, backend_port, resources):
    with edges.Edge(tmp_path, backend_port=backend_port) as edge:
        table = tmp_path.name
        edge.boto3("dynamodb").create_table(TableName=table, **resources["ReadingsTable"]["Properties"])

        async def create():
            for name in ("IngestFunction", "ApiFunction"):
                properties = dict(resources[name]["Properties"], Role="arn:aws:iam::000000000000:role/r")
                properties["Environment"] = {"Variables": {"READINGS_TABLE": table}}
                arn = edge.functions.create(FunctionSpec.from_cloudformation(name, properties, TEMPLATE.parent))
            paths = resources["ServerlessHttpApi"]["Properties"]["Body"]["paths"]
            routes = [(method.upper(), path, arn, "2.0") for path, methods in paths.items() for method in methods]
            edge.functions.add_http_api("ServerlessHttpApi", "api", routes)

        edge.run(create())
        yield edge


def ingest(edge, **event):
    return edge.run(edge.functions.invoke("IngestFunction", json.dumps(event).encode()))


def window(device, start, **more):
    return {"device": device, "quantity": "t", "unit": "C", "window_start": start, "window_end": start + 10, "count": 2,
            "mean": 1.5, "min": 1.0, "max": 2.0, "p95": 2.0, "kind": "window", "received_at": 5, **more}  # fmt: skip


def get(edge, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{edge.port}/_aws/execute-api/api/$default{path}") as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_what_the_template_makes(resources):
    rules = [
        each["Properties"]["TopicRulePayload"]["Sql"]
        for each in resources.values()
        if each["Type"] == "AWS::IoT::TopicRule"
    ]
    assert sorted(rule.rpartition("FROM ")[2] for rule in rules) == ["'foreshore/alerts/+'", "'foreshore/windows/+'"]
    assert set(resources["ServerlessHttpApi"]["Properties"]["Body"]["paths"]) == {
        "/windows",
        "/windows/{device}",
        "/alerts",
    }


def test_windows_go_in_and_come_out_newest_first(running):
    for device in ("d1", "d2"):
        for start in (1000, 3000, 2000):
            result = ingest(running, **window(device, start))
            assert (result.function_error, json.loads(result.payload)) == (None, {"stored": 1})
    ingest(running, **window("d1", 1000))
    status, answer = get(running, "/windows/d1")
    assert status == 200
    assert [item["window_start"] for item in answer["items"]] == [3000, 2000, 1000]
    assert answer["items"][0] == window("d1", 3000)
    assert set(answer) == {"items"}
    assert len(get(running, "/windows")[1]["items"]) == 6


def test_pages(running):
    for start in range(5):
        ingest(running, **window("d1", start))
    for path in ("/windows", "/windows/d1"):
        seen, token = [], ""
        while True:
            _, answer = get(running, f"{path}?limit=2{token}")
            seen += [item["window_start"] for item in answer["items"]]
            if "token" not in answer:
                break
            token = f"&token={answer['token']}"
        assert seen == [4, 3, 2, 1, 0]


def test_alerts(running):
    alert = {
        "device": "d1",
        "quantity": "t",
        "id": "a",
        "rule": "r",
        "state": "raised",
        "ts": 7,
        "value": 9.5,
        "kind": "alert",
    }
    ingest(running, **alert)
    assert get(running, "/alerts") == (200, {"items": [alert]})
    assert get(running, "/alerts?device=d1") == (200, {"items": [alert]})
    assert get(running, "/alerts?device=d2") == (200, {"items": []})


def test_bad_requests(running):
    assert get(running, "/windows?limit=0") == (
        400,
        {"statusCode": 400, "message": "limit must be a number from 1 to 500"},
    )
    assert get(running, "/windows?token=x")[0] == 400
    assert get(running, "/nothing") == (404, {"message": "Not Found"})


def test_a_malformed_event_is_dropped_and_logged(running):
    result = ingest(running, kind="window", device="d1")
    assert json.loads(result.payload)["stored"] == 0
    assert any("dropped: window lacks" in line for line in running.lines())
