"""How devices prove who they are, with the AWS IoT device SDK and paho over real TLS."""

import asyncio
import base64
import json
import queue
import ssl
import urllib.error
import urllib.request
from urllib.parse import quote

import paho.mqtt.client as paho
import pytest
from awscrt import auth, mqtt, mqtt5
from awsiot import mqtt5_client_builder, mqtt_connection_builder
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreshore.http import Request
from foreshore.seams import Publication
from tests.iot.signing import sign

ANYTHING = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}})


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()


def listen(edge, filter):
    """A queue of the messages on a filter."""
    heard = queue.Queue()

    async def add():
        edge.iot.broker.add_listener(filter, heard.put)

    edge.run(add())
    return heard


class Device:
    """A paho client over TLS; `connect` gives the CONNACK reason or None when the connection was closed without."""

    def __init__(self, edge, client_id, *, certificate=None, username=None, password=None, alpn=None, port=0):
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
        context = ssl.create_default_context(cafile=str(edge.iot.authority.ca_path))
        if certificate:
            context.load_cert_chain(*map(str, certificate))
        if alpn:
            context.set_alpn_protocols([alpn])
        self.client.tls_set_context(context)
        if username is not None:
            self.client.username_pw_set(username, password)
        self.port = port or edge.iot.mqtts_port
        self.answers = queue.Queue()
        self.client.on_connect = lambda client, data, flags, reason, properties: self.answers.put(reason.getName())
        self.client.on_disconnect = lambda client, data, flags, reason, properties: self.answers.put(None)

    def connect(self):
        self.client.connect("localhost", self.port)
        self.client.loop_start()
        return self.answers.get(timeout=10)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def files(folder, certificate, key):
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_text(certificate)
    private.write_text(key)
    return cert, private


def test_just_in_time_registration(edge, tmp_path):
    iot = edge.client()
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = sign("Fleet CA", ca_key, "Fleet CA", ca_key, ca=True)
    registered = iot.register_ca_certificate(
        caCertificate=ca, certificateMode="SNI_ONLY", setAsActive=True, allowAutoRegistration=True
    )
    events = listen(edge, "$aws/events/certificates/registered/#")
    key = ec.generate_private_key(ec.SECP256R1())
    pair = files(tmp_path, sign("dev", key, "Fleet CA", ca_key) + ca, key_pem(key))
    first = Device(edge, "dev", certificate=pair)
    assert first.connect() == "Not authorized"
    first.close()
    event = events.get(timeout=10)
    assert event.topic.endswith(registered["certificateId"])
    body = json.loads(event.payload)
    assert body["certificateStatus"] == "PENDING_ACTIVATION"
    iot.update_certificate(certificateId=body["certificateId"], newStatus="ACTIVE")
    iot.create_policy(policyName="any", policyDocument=ANYTHING)
    arn = f"arn:aws:iot:us-east-1:000000000000:cert/{body['certificateId']}"
    iot.attach_policy(policyName="any", target=arn)
    second = Device(edge, "dev", certificate=pair)
    assert second.connect() == "Success"
    second.close()


def test_a_certificate_registered_without_its_ca(edge, tmp_path):
    iot = edge.client()
    key, ca_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = sign("dev", key, "Elsewhere", ca_key)
    made = iot.register_certificate_without_ca(certificatePem=pem, status="ACTIVE")
    iot.create_policy(policyName="any", policyDocument=ANYTHING)
    iot.attach_policy(policyName="any", target=made["certificateArn"])
    device = Device(edge, "dev", certificate=files(tmp_path, pem, key_pem(key)))
    assert device.connect() == "Success"
    # Revoked, it is disconnected.
    gone = listen(edge, "$aws/events/presence/disconnected/dev")
    iot.update_certificate(certificateId=made["certificateId"], newStatus="REVOKED")
    event = json.loads(gone.get(timeout=10).payload)
    assert event["principalIdentifier"] == made["certificateId"]
    assert event["disconnectReason"] == "SERVER_INITIATED_DISCONNECT"
    device.close()


def test_mqtt_on_the_https_port_by_alpn(edge, tmp_path):
    found = {}

    async def make():
        policies = {"any": json.loads(ANYTHING)}
        found["files"] = edge.iot.ensure_thing("d", policy_documents=policies, certs_folder=tmp_path / "d")

    edge.run(make())
    pair = (found["files"].cert, found["files"].key)
    device = Device(edge, "d", certificate=pair, alpn="x-amzn-mqtt-ca", port=edge.iot.https_port)
    heard = listen(edge, "a")
    assert device.connect() == "Success"
    device.client.publish("a", b"1", qos=1)
    assert heard.get(timeout=10).payload == b"1"
    device.close()


def test_a_domains_authorizer_by_sni(edge):
    iot = edge.client()
    seen = []

    def authorize(payload):
        seen.append(json.loads(payload))
        answer = {"isAuthenticated": True, "principalId": "someone", "policyDocuments": [ANYTHING]}
        return json.dumps(answer).encode()

    edge.functions["auth"] = authorize
    function = "arn:aws:lambda:us-east-1:000000000000:function:auth"
    iot.create_authorizer(authorizerName="a", authorizerFunctionArn=function, signingDisabled=True, status="ACTIVE")
    iot.create_domain_configuration(
        domainConfigurationName="d",
        domainName="localhost",
        authorizerConfig={"defaultAuthorizerName": "a", "allowAuthorizerOverride": False},
    )
    device = Device(edge, "c", username="u", password="p")
    assert device.connect() == "Success"
    assert seen[0]["protocolData"]["tls"] == {"serverName": "localhost"}
    device.close()


@pytest.mark.parametrize("prevented", [False, True])
def test_an_ended_connections_will(edge, tmp_path, prevented):
    found = {}
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["iot:Connect", "iot:Publish"], "Resource": "*"},
            {"Effect": "Allow", "Action": "iot:Receive", "Resource": "arn:aws:iot:*:*:topic/direct"},
        ],
    }

    async def make():
        found["files"] = edge.iot.ensure_thing("d", policy_documents={"p": policy}, certs_folder=tmp_path / "d")

    edge.run(make())
    device = Device(edge, "d", certificate=(found["files"].cert, found["files"].key))
    device.client.will_set("gone", b"will", qos=1)
    received = queue.Queue()
    device.client.on_message = lambda client, data, message: received.put((message.topic, message.payload))
    heard = listen(edge, "gone")
    events = listen(edge, "$aws/events/presence/disconnected/d")
    assert device.connect() == "Success"
    data = edge.client("iot-data")
    assert data.send_direct_message(clientId="d", topic="direct", payload=b"hello")["message"] == "OK"
    assert received.get(timeout=10) == ("direct", b"hello")
    with pytest.raises(data.exceptions.ForbiddenException):
        data.send_direct_message(clientId="d", topic="other", payload=b"hello")
    with pytest.raises(data.exceptions.ResourceNotFoundException):
        data.send_direct_message(clientId="nobody", topic="direct", payload=b"hello")
    device.client.on_disconnect = lambda client, *rest: client.loop_stop()
    data.delete_connection(clientId="d", preventWillMessage=prevented)
    events.get(timeout=10)
    edge.run(asyncio.sleep(0))
    assert heard.qsize() == (0 if prevented else 1)
    device.close()


def test_a_direct_message_waits_for_its_confirmation(edge, tmp_path):
    found = {}

    async def make():
        found["files"] = edge.iot.ensure_thing(
            "d", policy_documents={"any": json.loads(ANYTHING)}, certs_folder=tmp_path
        )

    edge.run(make())
    device = Device(edge, "d", certificate=(found["files"].cert, found["files"].key))
    received = queue.Queue()
    device.client.on_message = lambda client, data, message: received.put((message.topic, message.qos, message.payload))
    assert device.connect() == "Success"
    data = edge.client("iot-data")
    message = {"clientId": "d", "topic": "direct", "payload": b"hello", "confirmation": True, "timeout": 1}
    assert data.send_direct_message(**message)["message"] == "OK"
    assert received.get(timeout=10) == ("direct", 1, b"hello")
    device.client.manual_ack_set(True)
    with pytest.raises(data.exceptions.GatewayTimeoutException) as caught:
        data.send_direct_message(**message)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 504
    with pytest.raises(data.exceptions.InvalidRequestException):
        data.send_direct_message(**{**message, "timeout": 16})
    device.close()


def test_presence_events(edge, tmp_path):
    thing = edge.iot.ensure_thing
    found = {}

    async def make():
        found["files"] = thing("d", policy_documents={"any": json.loads(ANYTHING)}, certs_folder=tmp_path / "d")

    edge.run(make())
    certificate = found["files"]
    events = listen(edge, "$aws/events/#")
    device = Device(edge, "d", certificate=(certificate.cert, certificate.key))
    assert device.connect() == "Success"
    device.client.subscribe("a/b")
    device.client.unsubscribe("a/b")
    kinds = {}
    for _ in range(3):
        event = events.get(timeout=10)
        kinds[event.topic] = json.loads(event.payload)
    device.close()
    event = events.get(timeout=10)
    kinds[event.topic] = json.loads(event.payload)
    connected = kinds["$aws/events/presence/connected/d"]
    assert (connected["eventType"], connected["ipAddress"]) == ("connected", "127.0.0.1")
    assert connected["principalIdentifier"] == certificate.certificate_id
    assert kinds["$aws/events/subscriptions/subscribed/d"]["topics"] == ["a/b"]
    assert kinds["$aws/events/subscriptions/unsubscribed/d"]["topics"] == ["a/b"]
    gone = kinds["$aws/events/presence/disconnected/d"]
    assert (gone["clientInitiatedDisconnect"], gone["disconnectReason"]) == (True, "CLIENT_INITIATED_DISCONNECT")
    assert gone["sessionIdentifier"] == connected["sessionIdentifier"]
    assert gone["versionNumber"] == connected["versionNumber"]


def test_registry_events(edge):
    iot = edge.client()
    events = listen(edge, "$aws/events/#")
    iot.create_thing(thingName="silent")
    iot.update_event_configurations(
        eventConfigurations={
            kind: {"Enabled": True} for kind in ("THING", "THING_GROUP", "THING_GROUP_MEMBERSHIP", "THING_TYPE")
        }
    )
    iot.create_thing_type(thingTypeName="k")
    iot.create_thing(thingName="t")
    iot.update_thing(thingName="t", attributePayload={"attributes": {"a": "b"}})
    iot.create_thing_group(thingGroupName="g")
    iot.add_thing_to_thing_group(thingGroupName="g", thingName="t")
    iot.delete_thing(thingName="t")
    topics = [events.get(timeout=10).topic.removeprefix("$aws/events/") for _ in range(6)]
    assert topics == [
        "thingType/k/created",
        "thing/t/created",
        "thing/t/updated",
        "thingGroup/g/created",
        "thingGroupMembership/thingGroup/g/thing/t/added",
        "thing/t/deleted",
    ]


@pytest.mark.parametrize("authenticated", [True, False])
def test_a_custom_authorizer_over_mqtt(edge, authenticated):
    iot = edge.client()
    seen = []
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
            {"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/free/*"},
        ],
    }

    def authorize(payload):
        seen.append(json.loads(payload))
        return json.dumps(
            {"isAuthenticated": authenticated, "principalId": "someone", "policyDocuments": [policy],
             "disconnectAfterInSeconds": 86400, "refreshAfterInSeconds": 300}
        ).encode()  # fmt: skip

    edge.functions["auth"] = authorize
    function = "arn:aws:lambda:us-east-1:000000000000:function:auth"
    iot.create_authorizer(authorizerName="a", authorizerFunctionArn=function, signingDisabled=True, status="ACTIVE")
    username = "me?x-amz-customauthorizer-name=a"
    device = Device(edge, "c", username=username, password="secret", alpn="mqtt")
    heard = listen(edge, "free/#")
    gone = listen(edge, "$aws/events/presence/disconnected/c")
    if not authenticated:
        assert device.connect() == "Not authorized"
        device.close()
        return
    assert device.connect() == "Success"
    mqtt_data = seen[0]["protocolData"]["mqtt"]
    assert mqtt_data == {"clientId": "c", "username": username, "password": "c2VjcmV0"}
    device.client.publish("free/a", b"1", qos=1)
    assert heard.get(timeout=10).principal == "someone"
    device.client.publish("other", b"1", qos=0)
    assert json.loads(gone.get(timeout=10).payload)["principalIdentifier"] == "someone"
    device.close()


def test_nobody_connects_without_any_proof(edge):
    device = Device(edge, "c")
    failed = listen(edge, "$aws/events/presence/connect_failed/c")
    assert device.connect() == "Not authorized"
    assert json.loads(failed.get(timeout=10).payload)["connectFailureReason"] == "AUTHORIZATION_FAILED"
    device.close()


def test_a_signed_websocket(edge):
    connection = mqtt_connection_builder.websockets_with_default_aws_signing(
        region="us-east-1",
        credentials_provider=auth.AwsCredentialsProvider.new_static("AKIDEXAMPLE", "secret"),
        endpoint="localhost",
        port=edge.iot.https_port,
        ca_filepath=str(edge.iot.authority.ca_path),
        client_id="ws",
        clean_session=True,
        keep_alive_secs=60,
    )
    connection.connect().result(10)
    received = queue.Queue()
    future, _ = connection.subscribe("a", mqtt.QoS.AT_LEAST_ONCE, lambda topic, payload, **rest: received.put(payload))
    future.result(10)

    async def publish():
        edge.iot.publish(Publication("a", b"over"))

    edge.run(publish())
    assert received.get(timeout=10) == b"over"
    connection.disconnect().result(10)


def signing_pair():
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signature = base64.b64encode(key.sign(b"tok/en+1", padding.PKCS1v15(), hashes.SHA256())).decode()
    return public.decode(), signature


def token_authorizer(edge):
    """An authorizer with signed tokens; gives a good signature and the events it gets."""
    public, signature = signing_pair()
    seen = []

    def authorize(payload):
        seen.append(json.loads(payload))
        answer = {"isAuthenticated": True, "principalId": "someone", "policyDocuments": [ANYTHING]}
        return json.dumps(answer).encode()

    edge.functions["auth"] = authorize
    edge.client().create_authorizer(
        authorizerName="a",
        authorizerFunctionArn="arn:aws:lambda:us-east-1:000000000000:function:auth",
        tokenKeyName="MyToken",
        tokenSigningPublicKeys={"k": public},
        status="ACTIVE",
    )
    return signature, seen


@pytest.mark.parametrize("websocket", [False, True])
def test_the_sdks_custom_authorizer_builders(edge, websocket):
    signature, seen = token_authorizer(edge)
    heard = listen(edge, "a")
    answers = queue.Queue()
    builders = mqtt5_client_builder
    build = builders.websockets_with_custom_authorizer if websocket else builders.direct_with_custom_authorizer
    client = build(
        endpoint="localhost",
        port=edge.iot.https_port if websocket else edge.iot.mqtts_port,
        ca_filepath=str(edge.iot.authority.ca_path),
        client_id="c",
        auth_authorizer_name="a",
        auth_username="me",
        auth_password=b"secret",
        auth_authorizer_signature=quote(signature, safe=""),
        auth_token_key_name="MyToken",
        auth_token_value="tok%2Fen%2B1",
        on_lifecycle_connection_success=lambda data: answers.put("success"),
        on_lifecycle_connection_failure=lambda data: answers.put(str(data.exception)),
        on_lifecycle_stopped=lambda data: answers.put("stopped"),
    )
    client.start()
    assert answers.get(timeout=10) == "success"
    client.publish(mqtt5.PublishPacket(topic="a", payload=b"1", qos=mqtt5.QoS.AT_LEAST_ONCE)).result(10)
    assert heard.get(timeout=10).principal == "someone"
    assert (seen[0]["token"], seen[0]["signatureVerified"]) == ("tok/en+1", True)
    assert seen[0]["protocols"] == (["tls", "http", "mqtt"] if websocket else ["tls", "mqtt"])
    client.stop()
    assert answers.get(timeout=10) == "stopped"


def test_a_custom_authorizer_over_https(edge):
    signature, seen = token_authorizer(edge)
    heard = listen(edge, "web")

    def post(signature):
        context = ssl.create_default_context(cafile=str(edge.iot.authority.ca_path))
        headers = {
            "x-amz-customauthorizer-name": "a",
            "x-amz-customauthorizer-signature": signature,
            "MyToken": "tok/en+1",
        }
        url = f"https://localhost:{edge.iot.https_port}/topics/web?qos=1"
        request = urllib.request.Request(url, b"1", headers, method="POST")
        try:
            with urllib.request.urlopen(request, context=context, timeout=10) as answer:
                return answer.status, json.loads(answer.read())["message"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())["message"]

    assert post(signature) == (200, "OK")
    assert heard.get(timeout=10).principal == "someone"
    assert seen[0]["token"] == "tok/en+1"
    assert seen[0]["protocolData"]["tls"] == {"serverName": "localhost"}
    assert post("AAAA") == (403, "Forbidden")
    assert len(seen) == 1


PARTS = ["things", "topics", "x", "shadow", "jobs", "%2F", "role-aliases", "credentials", "mqtt", "connections", ""]


@given(
    st.lists(st.sampled_from(PARTS), max_size=5),
    st.sampled_from(["GET", "POST", "DELETE", "PUT"]),
    st.binary(max_size=8),
)
@settings(
    derandomize=True, max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_path_of_the_https_listener_is_answered(edge, parts, method, body):
    request = Request(method, "/" + "/".join(parts), [], body, scheme="https")
    response = edge.run(edge.iot.https.handle(request))
    assert 400 <= response.status <= 501
