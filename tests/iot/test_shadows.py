"""Shadows over MQTT with the SDK's own shadow client, over HTTP with boto3, and after a restart."""

import json
import queue

import pytest
from awscrt import mqtt
from awsiot import iotshadow, mqtt_connection_builder

from tests.e2e.conftest import Edge, start, stop


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shadows")
    running = start(folder, folder / "home", "--only", "iot")
    yield running
    stop(running)


def shadow_client(edge: Edge, folder):
    iot = edge.boto3("iot")
    made = iot.create_keys_and_certificate(setAsActive=True)
    statement = {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}
    iot.create_policy(policyName="all", policyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    iot.attach_policy(policyName="all", target=made["certificateArn"])
    (folder / "c.pem").write_text(made["certificatePem"])
    (folder / "k.pem").write_text(made["keyPair"]["PrivateKey"])
    host, port = edge.host_port("mqtts")
    connection = mqtt_connection_builder.mtls_from_path(
        endpoint=host, port=port, cert_filepath=str(folder / "c.pem"), pri_key_filepath=str(folder / "k.pem"),
        ca_filepath=edge.ca, client_id="shadow-device",
    )  # fmt: skip
    connection.connect().result(20)
    return connection, iotshadow.IotShadowClient(connection)


def test_the_sdks_shadow_client(edge, tmp_path):
    connection, client = shadow_client(edge, tmp_path)
    qos = mqtt.QoS.AT_LEAST_ONCE
    got = {
        name: queue.Queue() for name in ("accepted", "rejected", "delta", "get", "get_rejected", "documents", "deleted")
    }
    thing = {"thing_name": "lamp"}
    for subscribe, request, name in (
        (client.subscribe_to_update_shadow_accepted, iotshadow.UpdateShadowSubscriptionRequest(**thing), "accepted"),
        (client.subscribe_to_update_shadow_rejected, iotshadow.UpdateShadowSubscriptionRequest(**thing), "rejected"),
        (
            client.subscribe_to_shadow_delta_updated_events,
            iotshadow.ShadowDeltaUpdatedSubscriptionRequest(**thing),
            "delta",
        ),
        (client.subscribe_to_shadow_updated_events, iotshadow.ShadowUpdatedSubscriptionRequest(**thing), "documents"),
        (client.subscribe_to_get_shadow_accepted, iotshadow.GetShadowSubscriptionRequest(**thing), "get"),
        (client.subscribe_to_get_shadow_rejected, iotshadow.GetShadowSubscriptionRequest(**thing), "get_rejected"),
        (client.subscribe_to_delete_shadow_accepted, iotshadow.DeleteShadowSubscriptionRequest(**thing), "deleted"),
    ):
        subscribe(request, qos, got[name].put)[0].result(20)

    client.publish_get_shadow(iotshadow.GetShadowRequest(thing_name="lamp", client_token="g1"), qos).result(20)
    refused = got["get_rejected"].get(timeout=20)
    assert (refused.code, refused.message, refused.client_token) == (404, "No shadow exists with name: 'lamp'", "g1")
    assert refused.timestamp is None

    state = iotshadow.ShadowState(desired={"on": True}, reported={"on": False})
    update = iotshadow.UpdateShadowRequest(thing_name="lamp", state=state, client_token="u1")
    client.publish_update_shadow(update, qos).result(20)
    accepted = got["accepted"].get(timeout=20)
    assert (accepted.version, accepted.client_token, accepted.state.desired) == (1, "u1", {"on": True})
    delta = got["delta"].get(timeout=20)
    assert (delta.state, delta.version) == ({"on": True}, 1)
    documents = got["documents"].get(timeout=20)
    assert documents.current.state.reported == {"on": False} and documents.previous is None

    conflict = iotshadow.UpdateShadowRequest(thing_name="lamp", state=state, version=9)
    client.publish_update_shadow(conflict, qos).result(20)
    assert got["rejected"].get(timeout=20).code == 409

    data = edge.boto3("iot-data")
    over_http = data.update_thing_shadow(thingName="lamp", payload=json.dumps({"state": {"reported": {"on": True}}}))
    assert json.load(over_http["payload"])["version"] == 2
    assert got["accepted"].get(timeout=20).version == 2
    assert json.load(data.get_thing_shadow(thingName="lamp")["payload"])["state"] == {
        "desired": {"on": True}, "reported": {"on": True},
    }  # fmt: skip

    client.publish_delete_shadow(iotshadow.DeleteShadowRequest(thing_name="lamp"), qos).result(20)
    assert got["deleted"].get(timeout=20).version == 2
    connection.disconnect().result(20)


def test_named_shadows_over_http(edge):
    data = edge.boto3("iot-data")
    for name in ("b", "a"):
        payload = json.dumps({"state": {"reported": {"n": name}}})
        data.update_thing_shadow(thingName="cup", shadowName=name, payload=payload)
    assert data.list_named_shadows_for_thing(thingName="cup")["results"] == ["a", "b"]
    with pytest.raises(data.exceptions.ResourceNotFoundException, match="No shadow exists with name: 'c'"):
        data.get_thing_shadow(thingName="cup", shadowName="c")
    with pytest.raises(data.exceptions.ConflictException, match="Version conflict"):
        data.update_thing_shadow(thingName="cup", shadowName="a", payload='{"state": {}, "version": 5}')
    with pytest.raises(data.exceptions.InvalidRequestException, match="Invalid JSON"):
        data.update_thing_shadow(thingName="cup", payload="{")
    data.delete_thing_shadow(thingName="cup", shadowName="a")
    assert data.list_named_shadows_for_thing(thingName="cup")["results"] == ["b"]


def test_a_shadow_survives_kill_9(tmp_path):
    first = start(tmp_path, tmp_path / "home", "--only", "iot")
    first.boto3("iot-data").update_thing_shadow(thingName="t", payload='{"state": {"desired": {"a": 1}}}')
    first.process.kill()
    first.process.communicate()
    second = start(tmp_path, tmp_path / "home", "--only", "iot")
    document = json.load(second.boto3("iot-data").get_thing_shadow(thingName="t")["payload"])
    stop(second)
    assert (document["state"]["desired"], document["version"]) == ({"a": 1}, 1)
