"""Mappings against a real backend: queues and streams, poison records, halving, partial failures, checkpoints."""

import json

import pytest
from botocore.exceptions import ClientError

SOURCE = """
import base64, json, os

def handler(event, context):
    bodies, failures = [], []
    for record in event["Records"]:
        if "body" in record:
            body, identifier = record["body"], record["messageId"]
        elif "kinesis" in record:
            body, identifier = base64.b64decode(record["kinesis"]["data"]).decode(), record["kinesis"]["sequenceNumber"]
        else:
            body, identifier = record["dynamodb"]["Keys"]["id"]["S"], record["dynamodb"]["SequenceNumber"]
        bodies.append(body)
        if body == "poison":
            failures.append({"itemIdentifier": identifier})
    with open(os.environ["OUT"], "a") as file:
        file.write(json.dumps(bodies) + "\\n")
    if failures and not os.environ.get("REPORT"):
        raise ValueError("poison")
    return {"batchItemFailures": failures}
"""


@pytest.fixture
def world(make_edge, package, tmp_path, backend_port):
    edge = make_edge(backend_port=backend_port, time_scale=0.01)
    edge.out = tmp_path / "out"

    def create(**variables):
        edge.boto3("lambda").create_function(
            FunctionName="fn", Role="arn:aws:iam::000000000000:role/r", Runtime="python3.12", Handler="app.handler",
            Timeout=10, Code={"ZipFile": package({"app.py": SOURCE})},
            Environment={"Variables": {"OUT": str(edge.out), **variables}},
        )  # fmt: skip

    edge.create = create
    edge.seen = lambda: [json.loads(line) for line in edge.out.read_text().splitlines()] if edge.out.exists() else []
    edge.name = tmp_path.name
    return edge


def bodies(edge):
    return [body for batch in edge.seen() for body in batch]


def queue(edge, name, **attributes):
    url = edge.boto3("sqs").create_queue(QueueName=f"{name}-{edge.name}", Attributes=attributes)["QueueUrl"]
    return url, f"arn:aws:sqs:us-east-1:000000000000:{name}-{edge.name}"


def left(edge, url):
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = edge.boto3("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(value) for value in attributes.values())


def stream(edge):
    kinesis = edge.boto3("kinesis")
    kinesis.create_stream(StreamName=edge.name, ShardCount=1)
    edge.wait_for(
        lambda: kinesis.describe_stream(StreamName=edge.name)["StreamDescription"]["StreamStatus"] == "ACTIVE"
    )
    return kinesis, kinesis.describe_stream(StreamName=edge.name)["StreamDescription"]["StreamARN"]


def put(kinesis, edge, *bodies):
    records = [{"Data": body.encode(), "PartitionKey": "k"} for body in bodies]
    kinesis.put_records(StreamName=edge.name, Records=records)


def test_a_queue_is_emptied(world):
    url, arn = queue(world, "q")
    world.create()
    made = world.boto3("lambda").create_event_source_mapping(EventSourceArn=arn, FunctionName="fn")
    assert made["State"] == "Creating"
    world.boto3("sqs").send_message(QueueUrl=url, MessageBody="one")
    world.wait_for(lambda: ["one"] in world.seen())
    world.wait_for(lambda: left(world, url) == 0)


def test_a_queues_failures_stay_in_it(world):
    url, arn = queue(world, "q", VisibilityTimeout="30")
    world.create(REPORT="1")
    world.boto3("sqs").send_message_batch(
        QueueUrl=url, Entries=[{"Id": each, "MessageBody": each} for each in ("a", "poison", "b")]
    )
    world.boto3("lambda").create_event_source_mapping(
        EventSourceArn=arn, FunctionName="fn", FunctionResponseTypes=["ReportBatchItemFailures"]
    )
    world.wait_for(lambda: sorted(bodies(world)) == ["a", "b", "poison"])
    world.wait_for(lambda: left(world, url) == 1)


def test_a_queues_filter_deletes_what_does_not_fit(world):
    url, arn = queue(world, "q")
    world.create()
    world.boto3("lambda").create_event_source_mapping(
        EventSourceArn=arn, FunctionName="fn", FilterCriteria={"Filters": [{"Pattern": '{"body": {"n": [1]}}'}]}
    )
    for body in ('{"n": 2}', '{"n": 1}', "text"):
        world.boto3("sqs").send_message(QueueUrl=url, MessageBody=body)
    world.wait_for(lambda: left(world, url) == 0)
    world.wait_for(lambda: world.seen() == [['{"n": 1}']])


def test_a_poison_record_is_found_by_halving_and_given_up(world):
    kinesis, arn = stream(world)
    failures, failures_arn = queue(world, "failures")
    world.create()
    put(kinesis, world, "a", "b", "poison", "c")
    made = world.boto3("lambda").create_event_source_mapping(
        EventSourceArn=arn, FunctionName="fn", StartingPosition="TRIM_HORIZON", BisectBatchOnFunctionError=True,
        MaximumRetryAttempts=1, DestinationConfig={"OnFailure": {"Destination": failures_arn}},
    )  # fmt: skip
    world.wait_for(lambda: world.seen()[-1:] == [["c"]])
    assert world.seen() == [["a", "b", "poison", "c"], ["a", "b"], ["poison", "c"], ["poison"], ["poison"], ["c"]]

    def received():
        return world.boto3("sqs").receive_message(QueueUrl=failures).get("Messages")

    (message,) = world.wait_for(received)
    record = json.loads(message["Body"])
    assert list(record) == ["requestContext", "responseContext", "version", "timestamp", "KinesisBatchInfo"]
    assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 2
    assert record["KinesisBatchInfo"]["batchSize"] == 1
    assert record["KinesisBatchInfo"]["streamArn"] == arn
    put(kinesis, world, "d")
    world.wait_for(lambda: world.seen()[-1] == ["d"])
    assert world.boto3("lambda").get_event_source_mapping(UUID=made["UUID"])["State"] == "Enabled"


def test_a_stream_goes_on_from_the_first_reported_failure(world):
    kinesis, arn = stream(world)
    world.create(REPORT="1")
    put(kinesis, world, "a", "poison", "b")
    world.boto3("lambda").create_event_source_mapping(
        EventSourceArn=arn, FunctionName="fn", StartingPosition="TRIM_HORIZON", MaximumRetryAttempts=2,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )  # fmt: skip
    put(kinesis, world, "c")
    world.wait_for(lambda: any("c" in batch for batch in world.seen()))
    assert world.seen()[:3] == [["a", "poison", "b"], ["poison", "b"], ["poison", "b"]] or world.seen()[0][-1] == "c"


def test_a_checkpoint_outlives_the_mapping_of_a_template(world):
    kinesis, arn = stream(world)
    world.create()
    properties = {"EventSourceArn": arn, "FunctionName": "fn", "StartingPosition": "TRIM_HORIZON"}
    put(kinesis, world, "a")
    first = world.run(world.functions.create_event_source_mapping(properties))
    world.wait_for(lambda: world.seen() == [["a"]])

    async def checkpoint():
        return world.functions.store.checkpoint(first, "shardId-000000000000")

    world.wait_for(lambda: world.run(checkpoint()))
    assert world.run(world.functions.create_event_source_mapping(properties)) == first
    put(kinesis, world, "b")
    world.wait_for(lambda: len(world.seen()) > 1)
    assert world.seen() == [["a"], ["b"]]


WINDOWED = """
import base64, json, os

def handler(event, context):
    state = event["state"]
    for record in event["Records"]:
        state["count"] = state.get("count", 0) + 1
    if event["isFinalInvokeForWindow"]:
        with open(os.environ["OUT"], "a") as file:
            file.write(json.dumps([state.get("count"), sorted(event["window"]), event["shardId"]]) + "\\n")
    return {"state": state}
"""


def test_a_tumbling_window_keeps_its_state(world, package):
    kinesis, arn = stream(world)
    world.create()
    world.boto3("lambda").update_function_code(FunctionName="fn", ZipFile=package({"app.py": WINDOWED}))
    # 100 s at a hundredth of AWS's pace.
    world.boto3("lambda").create_event_source_mapping(
        EventSourceArn=arn, FunctionName="fn", StartingPosition="TRIM_HORIZON", TumblingWindowInSeconds=100, BatchSize=2
    )
    put(kinesis, world, *"abcde")
    world.wait_for(lambda: sum(count for count, _, _ in world.seen()) == 5)
    assert {(tuple(keys), shard) for _, keys, shard in world.seen()} == {(("end", "start"), "shardId-000000000000")}
    assert len(world.seen()) <= 2


def test_a_tables_changes(world):
    dynamodb = world.boto3("dynamodb")
    table = dynamodb.create_table(
        TableName=world.name, BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )["TableDescription"]  # fmt: skip
    world.create()
    world.boto3("lambda").create_event_source_mapping(
        EventSourceArn=table["LatestStreamArn"], FunctionName="fn", StartingPosition="TRIM_HORIZON",
        FilterCriteria={"Filters": [{"Pattern": '{"eventName": ["INSERT"]}'}]},
    )  # fmt: skip
    dynamodb.put_item(TableName=world.name, Item={"id": {"S": "x"}})
    dynamodb.delete_item(TableName=world.name, Key={"id": {"S": "x"}})
    dynamodb.put_item(TableName=world.name, Item={"id": {"S": "y"}})
    world.wait_for(lambda: bodies(world) == ["x", "y"])


def test_the_api_of_mappings(world):
    _, arn = queue(world, "q")
    world.create()
    client = world.boto3("lambda")
    made = client.create_event_source_mapping(EventSourceArn=arn, FunctionName="fn", BatchSize=5)
    with pytest.raises(ClientError, match="already exists"):
        client.create_event_source_mapping(EventSourceArn=arn, FunctionName="fn")
    with pytest.raises(ClientError, match="NotEmulated"):
        client.update_event_source_mapping(UUID=made["UUID"], MetricsConfig={"Metrics": ["EventCount"]})
    updated = client.update_event_source_mapping(UUID=made["UUID"], Enabled=False, BatchSize=3)
    assert updated["BatchSize"] == 3
    assert client.get_event_source_mapping(UUID=made["UUID"])["State"] == "Disabled"
    assert [each["UUID"] for each in client.list_event_source_mappings(FunctionName="fn")["EventSourceMappings"]] == [
        made["UUID"]
    ]
    assert client.list_event_source_mappings(FunctionName="other")["EventSourceMappings"] == []
    client.delete_event_source_mapping(UUID=made["UUID"])
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        client.get_event_source_mapping(UUID=made["UUID"])
