"""AWS's own clients, unmodified, against the running edge."""

import concurrent.futures
import json
import os
import queue
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from foreshore.iot.authority import Authority

pytestmark = pytest.mark.e2e

POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}],
}


@pytest.fixture(scope="session")
def device(edge, tmp_path_factory):
    """A thing with a certificate, made as a user would with boto3."""
    iot = edge.boto3("iot")
    folder = tmp_path_factory.mktemp("device")
    made = iot.create_keys_and_certificate(setAsActive=True)
    iot.create_policy(policyName="e2e", policyDocument=json.dumps(POLICY))
    iot.attach_policy(policyName="e2e", target=made["certificateArn"])
    iot.create_thing(thingName="e2e-device")
    iot.attach_thing_principal(thingName="e2e-device", principal=made["certificateArn"])
    (folder / "cert.pem").write_text(made["certificatePem"])
    (folder / "key.pem").write_text(made["keyPair"]["PrivateKey"])
    return {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}


def test_awsiotsdk_mqtt5_publishes_and_subscribes_over_mutual_tls(edge, device):
    from awscrt import mqtt5
    from awsiot import mqtt5_client_builder

    host, port = edge.host_port("mqtts")
    connected, stopped, received = concurrent.futures.Future(), concurrent.futures.Future(), queue.Queue()
    client = mqtt5_client_builder.mtls_from_path(
        endpoint=host, port=port, cert_filepath=device["cert"], pri_key_filepath=device["key"], ca_filepath=edge.ca,
        client_id="e2e-mqtt5", on_publish_received=lambda data: received.put(data.publish_packet),
        on_lifecycle_connection_success=connected.set_result, on_lifecycle_stopped=stopped.set_result,
    )  # fmt: skip
    client.start()
    success = connected.result(20)
    assert success.connack_packet.maximum_qos == mqtt5.QoS.AT_LEAST_ONCE
    topic = f"e2e/{uuid.uuid4()}"
    client.subscribe(mqtt5.SubscribePacket([mqtt5.Subscription(topic, mqtt5.QoS.AT_LEAST_ONCE)])).result(20)
    properties = [mqtt5.UserProperty("a", "b")]
    packet = mqtt5.PublishPacket(topic=topic, payload=b"hello", qos=mqtt5.QoS.AT_LEAST_ONCE, user_properties=properties)
    assert client.publish(packet).result(20).puback.reason_code == mqtt5.PubackReasonCode.SUCCESS
    got = received.get(timeout=20)
    assert (got.topic, got.payload) == (topic, b"hello")
    assert [(p.name, p.value) for p in got.user_properties] == [("a", "b")]
    client.stop()
    stopped.result(20)


def test_awsiotsdk_mqtt311_publishes_and_subscribes_over_mutual_tls(edge, device):
    from awscrt import mqtt
    from awsiot import mqtt_connection_builder

    host, port = edge.host_port("mqtts")
    connection = mqtt_connection_builder.mtls_from_path(
        endpoint=host, port=port, cert_filepath=device["cert"], pri_key_filepath=device["key"], ca_filepath=edge.ca,
        client_id="e2e-mqtt311", clean_session=True,
    )  # fmt: skip
    connection.connect().result(20)
    received = queue.Queue()
    topic = f"e2e/{uuid.uuid4()}"
    subscribed, _ = connection.subscribe(
        topic, mqtt.QoS.AT_LEAST_ONCE, lambda topic, payload, **_: received.put(payload)
    )
    subscribed.result(20)
    published, _ = connection.publish(topic, b"hello", mqtt.QoS.AT_LEAST_ONCE)
    published.result(20)
    assert received.get(timeout=20) == b"hello"
    connection.disconnect().result(20)


def test_a_stranger_is_not_let_in(edge, tmp_path):
    """A certificate that the registry does not know ends the connection attempt."""
    from awscrt.exceptions import AwsCrtError
    from awsiot import mqtt_connection_builder

    now = datetime.now(UTC)
    stranger = Authority(tmp_path / "ca", region="us-east-1", now=now).issue(now)
    (tmp_path / "cert.pem").write_text(stranger.certificate)
    (tmp_path / "key.pem").write_text(stranger.private_key)
    host, port = edge.host_port("mqtts")
    connection = mqtt_connection_builder.mtls_from_path(
        endpoint=host, port=port, cert_filepath=str(tmp_path / "cert.pem"), pri_key_filepath=str(tmp_path / "key.pem"),
        ca_filepath=edge.ca, client_id="stranger",
    )  # fmt: skip
    with pytest.raises(AwsCrtError):
        connection.connect().result(20)


def test_boto3_invokes_a_function(edge):
    functions = edge.boto3("lambda")
    name = next(f["FunctionName"] for f in functions.list_functions()["Functions"] if "Api" in f["FunctionName"])
    context = {"http": {"method": "GET", "path": "/windows"}, "stage": "$default"}
    event = {
        "version": "2.0", "routeKey": "GET /windows", "rawPath": "/windows", "rawQueryString": "", "headers": {},
        "requestContext": context, "isBase64Encoded": False,
    }  # fmt: skip
    answer = functions.invoke(FunctionName=name, Payload=json.dumps(event))
    payload = json.load(answer["Payload"])
    assert "FunctionError" not in answer, payload
    assert payload["statusCode"] == 200
    assert "items" in json.loads(payload["body"])


def test_the_aws_cli_lists_things(edge):
    aws = Path(sys.executable).parent / "aws"
    environment = {
        **os.environ, "AWS_ENDPOINT_URL": edge.ends["aws"], "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": edge.ends["region"],
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, aws, "iot", "list-things"], capture_output=True, text=True, env=environment, check=True
    )
    assert "core-1" in [thing["thingName"] for thing in json.loads(done.stdout)["things"]]
