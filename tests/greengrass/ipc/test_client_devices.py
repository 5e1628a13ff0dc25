"""The four client-device operations by the SDK's client."""

from foreshore.greengrass.client_devices import Certificate, ClientDeviceAuth

NAME = "aws.greengrass.clientdevices.Auth"
TOUR = """
client = GreengrassCoreIPCClientV2()
credential = CredentialDocument(mqtt_credential=MQTTCredential(client_id="lamp1", certificate_pem="PEM"))
token = client.get_client_device_auth_token(credential=credential).client_device_auth_token
show(client.authorize_client_device_action(client_device_auth_token=token, operation="mqtt:publish",
                                           resource="mqtt:topic:a"))
show(client.authorize_client_device_action(client_device_auth_token=token, operation="mqtt:publish",
                                           resource="mqtt:topic:b"))
show(error_of(client.authorize_client_device_action, client_device_auth_token="x", operation="o", resource="r"))
wrong = CredentialDocument(mqtt_credential=MQTTCredential(client_id="lamp1", certificate_pem="other"))
show(error_of(client.get_client_device_auth_token, credential=wrong))
for pem in ("PEM", "other"):
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


def test_client_devices(rig, run) -> None:
    async def identify(pem: str) -> str | None:
        return "lamp1" if pem == "PEM" else None

    auth = ClientDeviceAuth(identify, lambda: Certificate("key", "public", "certificate", ["ca"]), lambda: "token")

    async def scenario() -> None:
        async with rig(client_devices=auth) as running:
            running.component("c", {NAME: {"p": {"operations": ["*"], "resources": ["*"]}}})
            statements = {
                "s": {"operations": ["mqtt:connect"], "resources": ["*"]},
                "t": {"operations": ["mqtt:publish"], "resources": ["mqtt:topic:a"]},
            }
            definitions = {"g": {"selectionRule": "thingName: lamp*", "policyName": "p"}}
            configuration = {"deviceGroups": {"definitions": definitions, "policies": {"p": statements}}}
            running.core.configuration.merge(NAME, [], configuration, 1)
            shown = await running.sdk("c", TOUR)
            assert shown[:2] == [{"isAuthorized": True}, {"isAuthorized": False}]
            assert [error[0] for error in shown[2:4]] == ["InvalidClientDeviceAuthTokenError", "InvalidCredentialError"]
            assert shown[4:6] == [{"isValidClientDevice": True}, {"isValidClientDevice": False}]
            assert shown[6][0]["certificateUpdate"]["caCertificates"] == ["ca"]
            running.core.configuration.merge(NAME, ["deviceGroups", "definitions", "g", "policyName"], "none", 2)
            assert any("no policy 'none'" in line.text for line in running.logs)

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
