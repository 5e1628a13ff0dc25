"""Asynchronous invocations: acceptance, retries, destinations, dead letters, a restart in the middle."""

import json

SOURCE = """
import os
def handler(event, context):
    with open(event["file"], "a") as file:
        file.write(context.aws_request_id + "\\n")
    if event.get("fail"):
        raise ValueError("no luck")
    return {"done": event.get("n")}
"""
ROLE = "arn:aws:iam::000000000000:role/r"


def create(edge, package, name="fn", **settings):
    client = edge.boto3("lambda")
    client.create_function(FunctionName=name, Role=ROLE, Runtime="python3.12", Handler="app.handler", Timeout=10,
                           Code={"ZipFile": package({"app.py": SOURCE})}, **settings)  # fmt: skip
    return client


def queue(edge, name):
    sqs = edge.boto3("sqs")
    return sqs.create_queue(QueueName=name)["QueueUrl"], f"arn:aws:sqs:us-east-1:000000000000:{name}"


def receive(edge, url):
    def once():
        messages = edge.boto3("sqs").receive_message(QueueUrl=url, MessageAttributeNames=["All"], WaitTimeSeconds=0)
        return messages.get("Messages")

    (message,) = edge.wait_for(once)
    return message


def test_an_event_is_accepted_and_runs(edge, package, tmp_path):
    client = create(edge, package)
    file = tmp_path / "out"
    answer = client.invoke(FunctionName="fn", InvocationType="Event", Payload=json.dumps({"file": str(file)}))
    assert answer["StatusCode"] == 202
    assert answer["Payload"].read() == b""
    edge.wait_for(lambda: file.exists() and file.read_text())
    assert file.read_text().strip() == answer["ResponseMetadata"]["RequestId"]
    edge.wait_for(lambda: edge.functions.stats()["fn"]["pending"] == 0)


def test_invoke_async_is_accepted(edge, package, tmp_path):
    client = create(edge, package)
    file = tmp_path / "out"
    assert client.invoke_async(FunctionName="fn", InvokeArgs=json.dumps({"file": str(file)}))["Status"] == 202
    edge.wait_for(lambda: file.exists() and file.read_text())


def test_two_retries_then_the_failure_record_and_the_dead_letter(make_edge, package, tmp_path, backend_port):
    edge = make_edge(backend_port=backend_port, time_scale=0.0005)
    failures, failures_arn = queue(edge, f"failures-{tmp_path.name}")
    dead, dead_arn = queue(edge, f"dead-{tmp_path.name}")
    client = create(edge, package, DeadLetterConfig={"TargetArn": dead_arn})
    client.put_function_event_invoke_config(
        FunctionName="fn", DestinationConfig={"OnFailure": {"Destination": failures_arn}}
    )
    event = {"file": str(tmp_path / "out"), "fail": True}
    answer = client.invoke(FunctionName="fn", InvocationType="Event", Payload=json.dumps(event))
    request_id = answer["ResponseMetadata"]["RequestId"]
    record = json.loads(receive(edge, failures)["Body"])
    assert (tmp_path / "out").read_text().split() == [request_id] * 3
    assert list(record) == [
        "version",
        "timestamp",
        "requestContext",
        "requestPayload",
        "responseContext",
        "responsePayload",
    ]
    assert record["requestContext"] == {
        "requestId": request_id,
        "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:fn:$LATEST",
        "condition": "RetriesExhausted",
        "approximateInvokeCount": 3,
    }
    assert record["requestPayload"] == event
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    assert record["responsePayload"]["errorMessage"] == "no luck"
    letter = receive(edge, dead)
    assert json.loads(letter["Body"]) == event
    attributes = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
    assert attributes == {"RequestID": request_id, "ErrorCode": "200", "ErrorMessage": "no luck"}


def test_no_retries_and_a_success_record(make_edge, package, tmp_path, backend_port):
    edge = make_edge(backend_port=backend_port, time_scale=0.0005)
    url, arn = queue(edge, f"success-{tmp_path.name}")
    client = create(edge, package)
    client.put_function_event_invoke_config(
        FunctionName="fn", MaximumRetryAttempts=0, DestinationConfig={"OnSuccess": {"Destination": arn}}
    )
    config = client.get_function_event_invoke_config(FunctionName="fn")
    assert config["MaximumRetryAttempts"] == 0
    client.invoke(FunctionName="fn", InvocationType="Event", Payload=json.dumps({"file": str(tmp_path / "o"), "n": 4}))
    record = json.loads(receive(edge, url)["Body"])
    assert record["requestContext"]["condition"] == "Success"
    assert record["responsePayload"] == {"done": 4}
    client.invoke(
        FunctionName="fn", InvocationType="Event", Payload=json.dumps({"file": str(tmp_path / "o"), "fail": 1})
    )
    edge.wait_for(lambda: edge.functions.stats()["fn"]["pending"] == 0)
    assert len((tmp_path / "o").read_text().split()) == 2


def test_a_function_is_a_destination(edge, package, tmp_path):
    client = create(edge, package)
    create(edge, package, "after")
    client.put_function_event_invoke_config(
        FunctionName="fn",
        DestinationConfig={"OnSuccess": {"Destination": "arn:aws:lambda:us-east-1:000000000000:function:after"}},
    )
    client.invoke(FunctionName="fn", InvocationType="Event", Payload=json.dumps({"file": str(tmp_path / "o")}))
    edge.wait_for(lambda: edge.functions.stats()["after"]["invocations"] == 1)


def test_a_throttled_event_waits(make_edge, package, tmp_path):
    edge = make_edge(time_scale=0.01)
    client = create(edge, package)
    client.put_function_concurrency(FunctionName="fn", ReservedConcurrentExecutions=0)
    client.invoke(FunctionName="fn", InvocationType="Event", Payload=json.dumps({"file": str(tmp_path / "o")}))
    edge.wait_for(lambda: edge.functions.stats()["fn"]["throttles"] >= 2)
    client.delete_function_concurrency(FunctionName="fn")
    edge.wait_for(lambda: (tmp_path / "o").exists())


def test_an_accepted_event_and_its_function_outlive_the_process(make_edge, package, tmp_path):
    first = make_edge("same", time_scale=1.0)
    client = create(first, package)
    client.put_function_concurrency(FunctionName="fn", ReservedConcurrentExecutions=0)
    client.invoke(FunctionName="fn", InvocationType="Event", Payload=json.dumps({"file": str(tmp_path / "o")}))
    first.wait_for(lambda: first.functions.stats()["fn"]["throttles"] == 1)
    client.delete_function_concurrency(FunctionName="fn")
    # The first still waits out its first second: the second one reads the same files, as after a kill.
    second = make_edge("same", time_scale=0.001)
    assert [each["FunctionName"] for each in second.boto3("lambda").list_functions()["Functions"]] == ["fn"]
    second.wait_for(lambda: (tmp_path / "o").exists())
    assert second.functions.stats()["fn"]["invocations"] == 1
