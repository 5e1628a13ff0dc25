"""What each sample of AWS's device SDK does, done with the same clients: V2 service clients, custom authorizers,
WebSockets signed with credentials of the credential provider, shared subscriptions."""

import asyncio
import base64
import contextlib
import http.client
import json
import queue
import ssl
from concurrent.futures import Future

import awsiot
import pytest
from awscrt import auth, mqtt, mqtt5, mqtt_request_response
from awsiot import iotidentity, iotjobs, iotshadow, mqtt5_client_builder, mqtt_connection_builder
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from foreshore.app import App, Options
from foreshore.errors import UserError
from foreshore.iot.service import IotCore

POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:auth"


@pytest.fixture
def device(edge, tmp_path):
    async def make():
        return edge.iot.ensure_thing("samples", policy_documents={"all": POLICY}, certs_folder=tmp_path / "device")

    return edge.run(make())


@contextlib.contextmanager
def running(build, edge, **options):
    """A started MQTT 5 client of a builder; what it receives comes through the queue."""
    connected, stopped, received = Future(), Future(), queue.Queue()
    client = build(
        endpoint="localhost", ca_filepath=str(edge.iot.authority.ca_path),
        on_publish_received=lambda data: received.put(data.publish_packet),
        on_lifecycle_connection_success=connected.set_result, on_lifecycle_stopped=stopped.set_result,
        on_lifecycle_connection_failure=lambda data: connected.set_exception(data.exception), **options,
    )  # fmt: skip
    client.start()
    try:
        connected.result(20)
        yield client, received
    finally:
        client.stop()
        stopped.result(20)


def with_certificate(edge, device, **options):
    build = mqtt5_client_builder.mtls_from_path
    files = {"cert_filepath": str(device.cert), "pri_key_filepath": str(device.key)}
    return running(build, edge, port=edge.iot.mqtts_port, **files, **options)


def exchange(client, received, topic="test/topic"):
    """Subscribe, publish, receive, unsubscribe, as the connection samples do."""
    qos = mqtt5.QoS.AT_LEAST_ONCE
    client.subscribe(mqtt5.SubscribePacket([mqtt5.Subscription(topic, qos)])).result(20)
    done = client.publish(mqtt5.PublishPacket(topic=topic, payload="Hello", qos=qos)).result(20)
    assert done.puback.reason_code == mqtt5.PubackReasonCode.SUCCESS
    assert received.get(timeout=20).payload == b"Hello"
    unsuback = client.unsubscribe(mqtt5.UnsubscribePacket([topic])).result(20)
    assert unsuback.reason_codes == [mqtt5.UnsubackReasonCode.SUCCESS]


def service_client(kind, client, streams=2):
    return kind(client, mqtt_request_response.ClientOptions(2, streams, 20))


def test_shared_subscriptions(edge, device):
    qos = mqtt5.QoS.AT_LEAST_ONCE
    with (
        with_certificate(edge, device, client_id="one") as (one, first),
        with_certificate(edge, device, client_id="two") as (two, second),
        with_certificate(edge, device, client_id="from") as (publisher, _),
    ):
        for each in (one, two):
            suback = each.subscribe(mqtt5.SubscribePacket([mqtt5.Subscription("$share/group/t", qos)])).result(20)
            assert suback.reason_codes == [mqtt5.SubackReasonCode.GRANTED_QOS_1]
        for number in range(4):
            publisher.publish(mqtt5.PublishPacket(topic="t", payload=str(number), qos=qos)).result(20)
        for each in (one, two):
            each.unsubscribe(mqtt5.UnsubscribePacket(["$share/group/t"])).result(20)
        payloads = [packet.payload for which in (first, second) for packet in which.queue]
        assert sorted(payloads) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("websockets", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_custom_authorizers(edge, signed, websockets):
    key = rsa.generate_private_key(65537, 2048)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    seen = []

    def authorizer(payload):
        seen.append(json.loads(payload))
        answer = {"isAuthenticated": True, "principalId": "samples", "policyDocuments": [json.dumps(POLICY)]}
        return json.dumps(answer | {"disconnectAfterInSeconds": 3600, "refreshAfterInSeconds": 3600}).encode()

    edge.functions["auth"] = authorizer
    verified = {"tokenKeyName": "key", "tokenSigningPublicKeys": {"first": pem.decode()}}
    edge.client().create_authorizer(
        authorizerName="a", authorizerFunctionArn=FUNCTION, status="ACTIVE",
        **(verified if signed else {"signingDisabled": True}),
    )  # fmt: skip
    options = {"auth_authorizer_name": "a", "auth_username": "u", "auth_password": "pw"}
    if signed:
        signature = base64.b64encode(key.sign(b"token", padding.PKCS1v15(), hashes.SHA256())).decode()
        options |= {"auth_authorizer_signature": signature, "auth_token_key_name": "key", "auth_token_value": "token"}
    build = getattr(mqtt5_client_builder, f"{'websockets' if websockets else 'direct'}_with_custom_authorizer")
    # The builder for WebSockets takes its port from **kwargs as the other one does.
    with running(build, edge, port=edge.iot.https_port, client_id="c", **options) as (client, received):
        exchange(client, received)
    event = seen[0]
    assert event["signatureVerified"] is signed
    assert event.get("token") == ("token" if signed else None)
    assert event["protocolData"]["mqtt"]["clientId"] == "c"
    assert base64.b64decode(event["protocolData"]["mqtt"]["password"]) == b"pw"


def test_a_websocket_signed_with_credentials_of_the_provider(edge, device):
    edge.client().create_role_alias(roleAlias="alias", roleArn="arn:aws:iam::000000000000:role/r")
    trusting = ssl.create_default_context(cafile=edge.iot.authority.ca_path)
    trusting.load_cert_chain(device.cert, device.key)
    provider = http.client.HTTPSConnection("localhost", edge.iot.https_port, context=trusting)
    provider.request("GET", "/role-aliases/alias/credentials", headers={"x-amzn-iot-thingname": "samples"})
    got = json.loads(provider.getresponse().read())["credentials"]
    provider.close()
    static = auth.AwsCredentialsProvider.new_static(got["accessKeyId"], got["secretAccessKey"], got["sessionToken"])
    connection = mqtt_connection_builder.websockets_with_default_aws_signing(
        endpoint="localhost", port=edge.iot.https_port, region="us-east-1", credentials_provider=static,
        ca_filepath=str(edge.iot.authority.ca_path), client_id="ws", clean_session=True,
    )  # fmt: skip
    connection.connect().result(20)
    received = queue.Queue()
    connection.subscribe("ws/t", mqtt.QoS.AT_LEAST_ONCE, lambda topic, payload, **_: received.put(payload))[0].result(
        20
    )
    connection.publish("ws/t", "hello", mqtt.QoS.AT_LEAST_ONCE)[0].result(20)
    assert received.get(timeout=20) == b"hello"
    connection.disconnect().result(20)


def test_the_shadow_sandbox(edge, device):
    with with_certificate(edge, device) as (client, _):
        shadow = service_client(iotshadow.IotShadowClientV2, client)
        updates, deltas = queue.Queue(), queue.Queue()
        streams = [
            shadow.create_shadow_updated_stream(
                iotshadow.ShadowUpdatedSubscriptionRequest(thing_name="samples"),
                awsiot.ServiceStreamOptions(incoming_event_listener=updates.put),
            ),
            shadow.create_shadow_delta_updated_stream(
                iotshadow.ShadowDeltaUpdatedSubscriptionRequest(thing_name="samples"),
                awsiot.ServiceStreamOptions(incoming_event_listener=deltas.put),
            ),
        ]
        for stream in streams:
            stream.open()
        with pytest.raises(awsiot.V2ServiceException) as none:
            shadow.get_shadow(iotshadow.GetShadowRequest(thing_name="samples")).result(20)
        assert none.value.modeled_error.code == 404
        for section in ("desired", "reported"):
            state = iotshadow.ShadowState(**{section: {"color": section}})
            request = iotshadow.UpdateShadowRequest(thing_name="samples", state=state)
            answer = shadow.update_shadow(request).result(20)
            assert getattr(answer.state, section) == {"color": section}
        got = shadow.get_shadow(iotshadow.GetShadowRequest(thing_name="samples")).result(20)
        assert (got.version, got.state.delta) == (2, {"color": "desired"})
        assert updates.get(timeout=20).current.state.desired == {"color": "desired"}
        assert deltas.get(timeout=20).state == {"color": "desired"}
        assert shadow.delete_shadow(iotshadow.DeleteShadowRequest(thing_name="samples")).result(20).version == 2


def test_the_jobs_sandbox(edge, device):
    iot = edge.client()
    with with_certificate(edge, device) as (client, _):
        jobs = service_client(iotjobs.IotJobsClientV2, client)
        changed, following = queue.Queue(), queue.Queue()
        subscribed, streams = queue.Queue(), []
        for make, request, into in (
            (jobs.create_job_executions_changed_stream, iotjobs.JobExecutionsChangedSubscriptionRequest, changed),
            (jobs.create_next_job_execution_changed_stream, iotjobs.NextJobExecutionChangedSubscriptionRequest,
             following),
        ):  # fmt: skip
            options = awsiot.ServiceStreamOptions(
                incoming_event_listener=into.put, subscription_status_listener=subscribed.put
            )
            stream = make(request(thing_name="samples"), options)
            stream.open()
            streams.append(stream)
            subscribed.get(timeout=20)
        arn = iot.describe_thing(thingName="samples")["thingArn"]
        iot.create_job(jobId="j", document='{"do":"reboot"}', targets=[arn], targetSelection="SNAPSHOT")
        assert [each.job_id for each in changed.get(timeout=20).jobs["QUEUED"]] == ["j"]
        assert following.get(timeout=20).execution.job_document == {"do": "reboot"}
        thing = {"thing_name": "samples"}
        pending = jobs.get_pending_job_executions(iotjobs.GetPendingJobExecutionsRequest(**thing)).result(20)
        assert [each.job_id for each in pending.queued_jobs] == ["j"]
        request = iotjobs.StartNextPendingJobExecutionRequest(**thing)
        assert jobs.start_next_pending_job_execution(request).result(20).execution.job_id == "j"
        request = iotjobs.DescribeJobExecutionRequest(job_id="j", **thing)
        assert jobs.describe_job_execution(request).result(20).execution.status == "IN_PROGRESS"
        request = iotjobs.UpdateJobExecutionRequest(job_id="j", status="CANCELED", **thing)
        with pytest.raises(awsiot.V2ServiceException) as refused:
            jobs.update_job_execution(request).result(20)
        assert refused.value.modeled_error.code == "InvalidRequest"
        request = iotjobs.UpdateJobExecutionRequest(job_id="j", status="SUCCEEDED", **thing)
        jobs.update_job_execution(request).result(20)
        assert following.get(timeout=20).execution is None
    iot.delete_job(jobId="j", force=True)


@pytest.mark.parametrize("by_csr", [False, True])
def test_provisioning_with_the_identity_client(edge, device, by_csr):
    iot = edge.client()
    name = {"Fn::Join": ["", ["fleet_", {"Ref": "Serial"}]]}
    template = {
        "Parameters": {"Serial": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
        "Resources": {
            "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": name}},
            "certificate": {
                "Type": "AWS::IoT::Certificate",
                "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"},
            },
        },
    }
    iot.create_provisioning_template(
        templateName="fleet", templateBody=json.dumps(template), enabled=True,
        provisioningRoleArn="arn:aws:iam::000000000000:role/r",
    )  # fmt: skip
    with with_certificate(edge, device) as (client, _):
        identity = service_client(iotidentity.IotIdentityClientV2, client, streams=0)
        if by_csr:
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "d")])
            signed = x509.CertificateSigningRequestBuilder().subject_name(subject)
            signed = signed.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
            pem = signed.public_bytes(serialization.Encoding.PEM).decode()
            request = iotidentity.CreateCertificateFromCsrRequest(certificate_signing_request=pem)
            made = identity.create_certificate_from_csr(request).result(20)
        else:
            made = identity.create_keys_and_certificate(iotidentity.CreateKeysAndCertificateRequest()).result(20)
            assert made.private_key
        request = iotidentity.RegisterThingRequest(
            template_name="fleet", certificate_ownership_token=made.certificate_ownership_token,
            parameters={"Serial": "7"},
        )  # fmt: skip
        assert identity.register_thing(request).result(20).thing_name == "fleet_7"
        with pytest.raises(awsiot.V2ServiceException):
            identity.register_thing(request).result(20)
    assert iot.list_thing_principals(thingName="fleet_7")["principals"][0].endswith(made.certificate_id)


def test_a_second_https_port_is_the_endpoint(edge, tmp_path):
    """What `--port-443` opens, on another port."""

    async def check():
        core = IotCore(
            state=tmp_path / "other", certs=tmp_path / "other-certs", region="us-east-1", account="000000000000",
            span=lambda span: None, log=lambda line: None, invoke=None, backend_url=lambda: "http://127.0.0.1:9",
        )  # fmt: skip
        await core.start("127.0.0.1", mqtt_port=0, mqtts_port=0, https_port=0, also_https_port=0)
        ports = (core.https_port, core.also_https_port)
        described = core.settings.describe_endpoint({}, None)["endpointAddress"]
        core.also_https_port = 443
        bare = core.endpoint("iot:Data-ATS")
        await core.stop()
        return ports, described, bare

    ports, described, bare = edge.run(check())
    assert 0 not in ports
    assert ports[0] != ports[1]
    assert described == f"localhost:{ports[1]}"
    assert bare == "localhost"


def test_port_443_asks_for_leave(tmp_path, monkeypatch):
    async def refused(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(IotCore, "start", refused)
    options = Options(tmp_path, home=tmp_path / "home", port_base=0, only=("iot",))
    with pytest.raises(UserError, match="only by root"):
        asyncio.run(App(options).start())
