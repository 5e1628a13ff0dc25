"""Actions that end in an AWS-compatible backend, read back through boto3."""

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import boto3
import pytest
from botocore.config import Config

from foreshore.iot.rules.engine import Engine
from foreshore.seams import Publication

ROLE = "arn:aws:iam::000000000000:role/rules"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    port = free_port()
    environment = {
        **os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0",
        "PERSIST_STATE": "0", "LOG_LEVEL": "ERROR", "DOCKER_HOST": "unix:///nonexistent.sock",
        "MINISTACK_DOCKER_TIMEOUT": "0.1",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "ministack"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                with urlopen(f"{url}/_ministack/health", timeout=1) as answer:
                    answer.read()
                break
            except OSError:
                if process.poll() is not None:
                    pytest.fail("the backend ended before it was ready")
                process_wait(process)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def process_wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(0.1)
    except subprocess.TimeoutExpired:
        return


def client(service: str, url: str) -> Any:
    return boto3.client(
        service, endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test",
        config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
    )  # fmt: skip


def run(url: str, payload: bytes, *actions: dict[str, Any], sql: str = "SELECT * FROM 'a/+'", **more: Any) -> list[Any]:
    """Send one message through one rule; give each action's (outcome, error)."""

    async def main() -> list[Any]:
        engine = Engine(
            region="us-east-1", account="000000000000", publish=lambda publication: None, invoke=None,
            backend_url=lambda: url, span=lambda span: None, log=lambda line: None, **more,
        )  # fmt: skip
        await engine.start()
        engine.set_rule("r", {"sql": sql, "awsIotSqlVersion": "2016-03-23", "actions": list(actions)})
        engine.on_message(Publication("a/b", payload, client_id="d1"))
        await engine.idle()
        await engine.stop()
        return [(action["outcome"], action["error"]) for action in engine.last("r")[0]["actions"]]

    return asyncio.run(main())


OK = ("ok", "")


def test_dynamodb(backend: str) -> None:
    db = client("dynamodb", backend)
    db.create_table(
        TableName="readings", BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": t} for n, t in (("device", "S"), ("seq", "N"))],
        KeySchema=[{"AttributeName": "device", "KeyType": "HASH"}, {"AttributeName": "seq", "KeyType": "RANGE"}],
    )  # fmt: skip
    one = {"dynamoDBv2": {"roleArn": ROLE, "putItem": {"tableName": "readings"}}}
    key = {
        "roleArn": ROLE, "tableName": "readings", "hashKeyField": "device", "hashKeyValue": "${topic(2)}",
        "rangeKeyField": "seq", "rangeKeyType": "NUMBER", "rangeKeyValue": "${seq + 1}",
    }  # fmt: skip
    payload = b'{"device":"d1","seq":7,"v":0.12345678901234567890123456789}'
    assert run(backend, payload, one, {"dynamoDB": key}) == [OK, OK]
    item = db.get_item(TableName="readings", Key={"device": {"S": "d1"}, "seq": {"N": "7"}})["Item"]
    assert item["v"] == {"N": "0.12345678901234567890123456789"}
    other = {"device": {"S": "b"}, "seq": {"N": "8"}}
    assert db.get_item(TableName="readings", Key=other)["Item"]["payload"]["M"]["device"] == {"S": "d1"}
    update = {"dynamoDB": {**key, "operation": "UPDATE", "payloadField": "more"}}
    assert run(backend, payload, update) == [OK]
    assert "more" in db.get_item(TableName="readings", Key=other)["Item"]
    assert run(backend, payload, {"dynamoDB": {**key, "operation": "DELETE"}}) == [OK]
    assert "Item" not in db.get_item(TableName="readings", Key=other)
    raw = {"dynamoDB": {**key, "hashKeyValue": "raw", "rangeKeyValue": "1"}}
    assert run(backend, b"\x00\xff", raw) == [OK]
    found = db.get_item(TableName="readings", Key={"device": {"S": "raw"}, "seq": {"N": "1"}})["Item"]
    assert found["payload"]["B"] == b"\x00\xff"
    missing = {"dynamoDBv2": {"roleArn": ROLE, "putItem": {"tableName": "none"}}}
    ((outcome, error),) = run(backend, payload, missing)
    assert outcome == "failed" and "ResourceNotFoundException" in error


def test_get_dynamodb_and_get_secret(backend: str) -> None:
    db = client("dynamodb", backend)
    db.create_table(
        TableName="configuration", BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "device", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "device", "KeyType": "HASH"}],
    )  # fmt: skip
    db.put_item(TableName="configuration", Item={"device": {"S": "b"}, "limit": {"N": "5"}})
    client("secretsmanager", backend).create_secret(Name="s", SecretString='{"key": "value"}')
    client("s3", backend).create_bucket(Bucket="looked-up")
    sql = (
        f"SELECT get_dynamodb('configuration', 'device', topic(2), '{ROLE}').limit AS l,"
        f" get_secret('s', 'SecretString', 'key', '{ROLE}') AS s,"
        f" get_or_default(get_secret('none', 'SecretString', '{ROLE}'), 'd') AS d FROM 'a/+'"
    )
    action = {"s3": {"roleArn": ROLE, "bucketName": "looked-up", "key": "k"}}
    assert run(backend, b"{}", action, sql=sql) == [OK]
    body = client("s3", backend).get_object(Bucket="looked-up", Key="k")["Body"].read()
    assert json.loads(body) == {"l": 5, "s": "value", "d": "d"}


def test_s3_takes_binary(backend: str) -> None:
    s3 = client("s3", backend)
    s3.create_bucket(Bucket="bucket")
    action = {"s3": {"roleArn": ROLE, "bucketName": "bucket", "key": "${topic()}/ü ${1 + 1}.bin"}}
    assert run(backend, b"\x00\x01\xff", action) == [OK]
    assert s3.get_object(Bucket="bucket", Key="a/b/ü 2.bin")["Body"].read() == b"\x00\x01\xff"


def test_sqs_and_sns(backend: str) -> None:
    sqs, sns = client("sqs", backend), client("sns", backend)
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    topic = sns.create_topic(Name="t")["TopicArn"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    plain, encoded = (
        {"sqs": {"roleArn": ROLE, "queueUrl": url}},
        {"sqs": {"roleArn": ROLE, "queueUrl": url, "useBase64": True}},
    )
    published = {"sns": {"roleArn": ROLE, "targetArn": topic, "messageFormat": "RAW"}}
    assert run(backend, b'{"v":1}', plain, encoded, published) == [OK, OK, OK]
    bodies = [m["Body"] for m in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]]
    assert sorted(bodies) == sorted(['{"v":1}', '{"v":1}', base64.b64encode(b'{"v":1}').decode()])


def test_kinesis_and_firehose(backend: str) -> None:
    kinesis, firehose, s3 = client("kinesis", backend), client("firehose", backend), client("s3", backend)
    kinesis.create_stream(StreamName="s", ShardCount=1)
    s3.create_bucket(Bucket="delivered")
    firehose.create_delivery_stream(
        DeliveryStreamName="f",
        ExtendedS3DestinationConfiguration={"RoleARN": ROLE, "BucketARN": "arn:aws:s3:::delivered"},
    )
    to_kinesis = {"kinesis": {"roleArn": ROLE, "streamName": "s", "partitionKey": "${topic(2)}"}}
    to_firehose = {"firehose": {"roleArn": ROLE, "deliveryStreamName": "f", "separator": "\n"}}
    assert run(backend, b'{"v":1}', to_kinesis, to_firehose) == [OK, OK]
    batch = {"firehose": {"roleArn": ROLE, "deliveryStreamName": "f", "separator": "\n", "batchMode": True}}
    assert run(backend, b'[{"v":2},"text"]', batch, sql="SELECT VALUE * FROM 'a/+'") == [OK]
    ((outcome, error),) = run(backend, b'{"v":1}', batch)
    assert outcome == "failed" and "array" in error
    shard = kinesis.get_shard_iterator(StreamName="s", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON")
    (record,) = kinesis.get_records(ShardIterator=shard["ShardIterator"])["Records"]
    assert (record["Data"], record["PartitionKey"]) == (b'{"v":1}', "b")


def test_cloudwatch(backend: str) -> None:
    watch, logs = client("cloudwatch", backend), client("logs", backend)
    watch.put_metric_alarm(
        AlarmName="al", MetricName="m", Namespace="n", Statistic="Sum", Period=60, EvaluationPeriods=1, Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    logs.create_log_group(logGroupName="g")
    metric = {
        "roleArn": ROLE, "metricNamespace": "n", "metricName": "m", "metricValue": "${v}", "metricUnit": "Count",
        "metricTimestamp": "${floor(timestamp() / 1000)}",
    }  # fmt: skip
    alarm = {"roleArn": ROLE, "alarmName": "al", "stateReason": "because ${v}", "stateValue": "ALARM"}
    actions = [
        {"cloudwatchMetric": metric},
        {"cloudwatchAlarm": alarm},
        {"cloudwatchLogs": {"roleArn": ROLE, "logGroupName": "g"}},
    ]
    assert run(backend, b'{"v":3}', *actions) == [OK, OK, OK]
    assert [m["MetricName"] for m in watch.list_metrics(Namespace="n")["Metrics"]] == ["m"]
    assert watch.describe_alarms(AlarmNames=["al"])["MetricAlarms"][0]["StateValue"] == "ALARM"
    events = logs.get_log_events(logGroupName="g", logStreamName="r")["events"]
    assert [event["message"] for event in events] == ['{"v":3}']
    batch = {"cloudwatchLogs": {"roleArn": ROLE, "logGroupName": "g", "batchMode": True}}
    stamp = events[0]["timestamp"]
    payload = json.dumps([{"timestamp": stamp + 1, "message": "two"}, {"timestamp": stamp, "message": "one"}]).encode()
    assert run(backend, payload, batch, sql="SELECT VALUE * FROM 'a/+'") == [OK]
    assert len(logs.get_log_events(logGroupName="g", logStreamName="r")["events"]) == 3


def test_step_functions(backend: str) -> None:
    states = client("stepfunctions", backend)
    definition = '{"StartAt":"P","States":{"P":{"Type":"Pass","End":true}}}'
    machine = states.create_state_machine(name="machine", definition=definition, roleArn=ROLE)["stateMachineArn"]
    action = {"stepFunctions": {"roleArn": ROLE, "stateMachineName": "machine", "executionNamePrefix": "p-"}}
    assert run(backend, b'{"v":1}', action) == [OK]
    (execution,) = states.list_executions(stateMachineArn=machine)["executions"]
    assert execution["name"].startswith("p-")


def test_roles_are_checked_when_asked_for(backend: str) -> None:
    iam, s3 = client("iam", backend), client("s3", backend)
    s3.create_bucket(Bucket="guarded")

    def trust(service: str) -> str:
        statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
        return json.dumps({"Version": "2012-10-17", "Statement": [statement]})

    def outcome(role: str) -> str:
        action = {"s3": {"roleArn": f"arn:aws:iam::000000000000:role/{role}", "bucketName": "guarded", "key": "k"}}
        ((_, error),) = run(backend, b"{}", action, check_roles=True)
        return str(error)

    assert "NoSuchEntity" in outcome("nobody")
    iam.create_role(RoleName="stranger", AssumeRolePolicyDocument=trust("ec2.amazonaws.com"))
    assert "does not trust iot.amazonaws.com" in outcome("stranger")
    iam.create_role(RoleName="poor", AssumeRolePolicyDocument=trust("iot.amazonaws.com"))
    assert "does not allow s3:PutObject" in outcome("poor")
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:Put*", "Resource": "*"}]}
    iam.put_role_policy(RoleName="poor", PolicyName="p", PolicyDocument=json.dumps(allowed))
    assert outcome("poor") == ""
