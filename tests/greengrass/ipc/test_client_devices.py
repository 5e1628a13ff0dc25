"""The four client-device operations by the SDK's clients."""

import json
from pathlib import Path

import pytest

from foreshore.greengrass.device_certificates import pem_of
from tests.greengrass.test_client_devices import World

NAME = "aws.greengrass.clientdevices.Auth"
EVERYTHING = {NAME: {"p": {"operations": ["*"], "resources": ["*"]}}}
TOUR = """
client = GreengrassCoreIPCClientV2()
PEM = open("certificate.pem").read()
credential = CredentialDocument(mqtt_credential=MQTTCredential(client_id="lamp1", certificate_pem=PEM))
token = client.get_client_device_auth_token(credential=credential).client_device_auth_token
def may(operation, resource):
    return client.authorize_client_device_action(client_device_auth_token=token, operation=operation, resource=resource)
show(may("mqtt:publish", "mqtt:topic:a"))
show(may("mqtt:publish", "mqtt:topic:b"))
show(error_of(may, "mqtt:publish", "http:topic:a"))
show(error_of(may, "", "mqtt:topic:a"))
show(error_of(client.authorize_client_device_action, client_device_auth_token="x", operation="o", resource="r"))
wrong = CredentialDocument(mqtt_credential=MQTTCredential(client_id="lamp2", certificate_pem=PEM))
show(error_of(client.get_client_device_auth_token, credential=wrong))
for pem in (PEM, "QUJD"):
    show(client.verify_client_device_identity(credential=ClientDeviceCredential(client_device_certificate=pem)))
events, arrived = [], threading.Event()
def on_event(event):
    events.append(event)
    arrived.set()
_, stream = client.subscribe_to_certificate_updates(
    certificate_options=CertificateOptions(certificate_type="SERVER"), on_stream_event=on_event)
assert arrived.wait(10)
show(events)
stream.close().result(10)
"""
V1_TOUR = """
client = ipc.connect()
got, arrived = [], threading.Event()
class Handler(v1.SubscribeToCertificateUpdatesStreamHandler):
    def on_stream_event(self, event):
        got.append(event)
        if len(got) == 2:
            arrived.set()
    def on_stream_error(self, error):
        return True
    def on_stream_closed(self):
        pass
operation = client.new_subscribe_to_certificate_updates(Handler())
operation.activate(SubscribeToCertificateUpdatesRequest(
    certificate_options=CertificateOptions(certificate_type="SERVER"))).result(10)
operation.get_response().result(10)
publish = client.new_publish_to_topic()
publish.activate(PublishToTopicRequest(topic="b", publish_message=PublishMessage(
    binary_message=BinaryMessage(message=b"subscribed")))).result(10)
publish.get_response().result(10)
assert arrived.wait(10)
show(got)
verify = client.new_verify_client_device_identity()
verify.activate(VerifyClientDeviceIdentityRequest(
    credential=ClientDeviceCredential(client_device_certificate=open("certificate.pem").read()))).result(10)
show(verify.get_response().result(10))
"""


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "auth")


def deploy(running, world, tmp_path):
    (tmp_path / "certificate.pem").write_text(pem_of(world.device()))
    policies = {"aws.greengrass.ipc.pubsub": {"p": {"operations": ["*"], "resources": ["*"]}}, **EVERYTHING}
    running.component("c", policies)
    statements = {"t": {"operations": ["mqtt:publish"], "resources": ["mqtt:topic:a"]}}
    definitions = {"g": {"selectionRule": "thingName: lamp*", "policyName": "p"}}
    configuration = {"deviceGroups": {"definitions": definitions, "policies": {"p": statements}}}
    running.core.configuration.merge(NAME, [], configuration, 1)


def test_client_devices(rig, run, world, tmp_path, monkeypatch) -> None:
    async def scenario() -> None:
        async with rig(client_devices=world.auth) as running:
            deploy(running, world, tmp_path)
            monkeypatch.chdir(tmp_path)
            shown = await running.sdk("c", TOUR)
            assert shown[:2] == [{"isAuthorized": True}, {"isAuthorized": False}]
            assert [error[0] for error in shown[2:6]] == [
                "ServiceError", "InvalidArgumentsError", "InvalidClientDeviceAuthTokenError", "InvalidCredentialError",
            ]  # fmt: skip
            assert shown[6:8] == [{"isValidClientDevice": True}, {"isValidClientDevice": False}]
            update = shown[8][0]["certificateUpdate"]
            assert update["caCertificates"] == [Path(tmp_path / "auth/ca.pem").read_text()]
            assert "BEGIN PRIVATE KEY" in update["privateKey"] and "BEGIN PUBLIC KEY" in update["publicKey"]
            running.core.configuration.merge(NAME, ["deviceGroups", "definitions", "g", "policyName"], "none", 2)
            await running.core.services.settle()
            assert any("Policy definition none" in line.text for line in running.logs)

    run(scenario())


def test_rotation_reaches_the_older_client(rig, run, world, tmp_path, monkeypatch) -> None:
    async def scenario() -> None:
        async with rig(client_devices=world.auth) as running:
            deploy(running, world, tmp_path)
            monkeypatch.chdir(tmp_path)
            running.core.subscribe_local("b", lambda message: world.certificates.rotate("a test"))
            updates, verified = await running.sdk("c", V1_TOUR)
            first, second = (each["certificateUpdate"] for each in updates)
            assert first["certificate"] != second["certificate"] and first["privateKey"] == second["privateKey"]
            assert verified == {"isValidClientDevice": True}

    run(scenario())


def test_lite_has_none_of_them(rig, run, world) -> None:
    async def scenario() -> None:
        async with rig(client_devices=world.auth, profile="lite") as running:
            running.component("c", EVERYTHING)
            client = await running.raw("c")
            for operation in ("VerifyClientDeviceIdentity", "GetClientDeviceAuthToken", "AuthorizeClientDeviceAction"):
                shape, body = await client.ask(1, operation, {})
                assert (shape, body["_errorCode"]) == ("ServiceError", "ServiceError"), json.dumps(body)

    run(scenario())


def test_what_a_device_would_refuse_is_said_once(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("c", {"aws.greengrass.ShadowManager": {"p": {"operations": ["*"], "resources": ["*"]}}})
            client = await running.raw("c")
            for number in (1, 2):
                await client.ask(number, "GetThingShadow", {"thingName": "t"})
            told = [line for line in running.logs if "aws.greengrass.ShadowManager in the deployment" in line.text]
            assert len(told) == 1 and told[0].source == "c"

    run(scenario())
