"""IoT Core end to end: boto3 for the APIs, the AWS IoT device SDK for MQTT over mutual TLS."""

import asyncio
import json
import ssl
import urllib.request
from contextlib import asynccontextmanager

import boto3
import pytest
from awscrt import mqtt
from awsiot import mqtt_connection_builder
from botocore.config import Config
from botocore.exceptions import ClientError

from foreshore.errors import UserError
from foreshore.http import Request, Server
from foreshore.iot.service import IotCore
from foreshore.seams import InvokeResult

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "iot:Connect",
            "Resource": "arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}",
        },
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive"],
            "Resource": "arn:aws:iot:*:*:topic/devices/${iot:ClientId}/*",
        },
        {
            "Effect": "Allow",
            "Action": "iot:Subscribe",
            "Resource": "arn:aws:iot:*:*:topicfilter/devices/${iot:ClientId}/*",
        },
    ],
}


class Invocations:
    """A Lambda seam that keeps what it got."""

    def __init__(self):
        self.calls = asyncio.Queue()
        self.answer = b"{}"

    async def __call__(self, function, payload, **options):
        await self.calls.put((function, payload))
        return InvokeResult(self.answer)


def core(folder, invoke=None):
    return IotCore(
        state=folder / "state",
        certs=folder / "certs",
        region="us-east-1",
        account="000000000000",
        span=lambda span: None,
        log=lambda line: None,
        invoke=invoke,
        backend_url=lambda: "http://127.0.0.1:9",
        rate_limits=False,
    )


@asynccontextmanager
async def running(folder, invoke=None):
    iot = core(folder, invoke)
    await iot.start("127.0.0.1", mqtt_port=0, mqtts_port=0, https_port=0)
    table = {"iot": iot.handle_iot, "iotdata": iot.handle_iot_data}

    async def handle(request: Request):
        service = request.header("authorization").split("/")[3]
        return await table[service](request)

    server = Server(handle)
    port = await server.start("127.0.0.1", 0)

    def client(name):
        return boto3.client(
            name,
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="secret",
            config=Config(retries={"max_attempts": 0, "mode": "standard"}),
        )

    iot.client = client
    try:
        yield iot
    finally:
        await server.stop()
        await iot.stop()


async def thread(function, *arguments):
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def connect(iot, files, client_id, *, endpoint="localhost"):
    """An SDK connection; the future of its CONNACK raises when it is refused."""
    connection = mqtt_connection_builder.mtls_from_path(
        endpoint=endpoint,
        port=iot.mqtts_port,
        cert_filepath=str(files.cert),
        pri_key_filepath=str(files.key),
        ca_filepath=str(files.ca),
        client_id=client_id,
        clean_session=True,
        keep_alive_secs=60,
    )
    connection.connect().result(10)
    return connection


def test_a_device_meets_its_policy(tmp_path):
    async def main():
        async with running(tmp_path) as iot:
            files = iot.ensure_thing("d1", policy_documents={"p": POLICY}, certs_folder=tmp_path / "d1")
            assert iot.ensure_thing("d1", policy_documents={"p": POLICY}, certs_folder=tmp_path / "d1") == files
            assert files.key.stat().st_mode & 0o777 == 0o600
            heard = asyncio.Queue()
            loop = asyncio.get_running_loop()
            iot.broker.add_listener("devices/#", heard.put_nowait)
            connection = await thread(connect, iot, files, "d1")
            received = asyncio.Queue()

            def on_message(topic, payload, **rest):
                loop.call_soon_threadsafe(received.put_nowait, (topic, payload))

            future, _ = connection.subscribe("devices/d1/in", mqtt.QoS.AT_LEAST_ONCE, on_message)
            granted = await asyncio.wrap_future(future)
            assert granted["qos"] == mqtt.QoS.AT_LEAST_ONCE
            future, _ = connection.publish("devices/d1/out", b"hello", mqtt.QoS.AT_LEAST_ONCE)
            await asyncio.wrap_future(future)
            publication = await heard.get()
            assert (publication.topic, publication.payload, publication.principal, publication.client_id) == (
                "devices/d1/out",
                b"hello",
                files.certificate_id,
                "d1",
            )
            await thread(lambda: iot.client("iot-data").publish(topic="devices/d1/in", qos=1, payload=b"do"))
            assert await received.get() == ("devices/d1/in", b"do")
            await asyncio.wrap_future(connection.disconnect())
            # Another client id is not the thing's name.
            with pytest.raises(Exception):  # noqa: B017
                await thread(connect, iot, files, "other")

    asyncio.run(main())


def test_an_sdk_made_device_and_its_rule(tmp_path):
    """Everything made with boto3, as AWS's own tutorials do; a rule hands the message to a Lambda function."""

    def prepare(iot):
        client = iot.client("iot")
        client.create_thing(thingName="sensor", attributePayload={"attributes": {"floor": "2"}})
        made = client.create_keys_and_certificate(setAsActive=True)
        client.create_policy(policyName="all", policyDocument=json.dumps(POLICY))
        client.attach_policy(policyName="all", target=made["certificateArn"])
        client.attach_thing_principal(thingName="sensor", principal=made["certificateArn"])
        client.create_topic_rule(
            ruleName="hot",
            topicRulePayload={
                "sql": "SELECT value, topic(2) AS device FROM 'devices/+/t' WHERE value > 30",
                "awsIotSqlVersion": "2016-03-23",
                "actions": [{"lambda": {"functionArn": "arn:aws:lambda:us-east-1:000000000000:function:f"}}],
            },
        )
        with pytest.raises(client.exceptions.SqlParseException):
            client.create_topic_rule(ruleName="bad", topicRulePayload={"sql": "SELEC x", "actions": []})
        rule = client.get_topic_rule(ruleName="hot")
        assert rule["rule"]["ruleDisabled"] is False
        assert [each["topicPattern"] for each in client.list_topic_rules()["rules"]] == ["devices/+/t"]
        cert, key = tmp_path / "c.pem", tmp_path / "k.pem"
        cert.write_text(made["certificatePem"])
        key.write_text(made["keyPair"]["PrivateKey"])
        return type("Files", (), {"cert": cert, "key": key, "ca": iot.authority.ca_path})

    async def main():
        invocations = Invocations()
        async with running(tmp_path, invocations) as iot:
            files = await thread(prepare, iot)
            connection = await thread(connect, iot, files, "sensor")
            for value in (10, 40):
                future, _ = connection.publish(
                    "devices/sensor/t", json.dumps({"value": value}).encode(), mqtt.QoS.AT_LEAST_ONCE
                )
                await asyncio.wrap_future(future)
            function, payload = await invocations.calls.get()
            assert function.endswith("f")
            assert json.loads(payload) == {"value": 40, "device": "sensor"}
            await asyncio.wrap_future(connection.disconnect())
        async with running(tmp_path, invocations) as iot:
            # Rules, certificates and policies are kept.
            connection = await thread(connect, iot, files, "sensor")
            future, _ = connection.publish("devices/sensor/t", b'{"value": 50}', mqtt.QoS.AT_LEAST_ONCE)
            await asyncio.wrap_future(future)
            _, payload = await invocations.calls.get()
            assert json.loads(payload)["value"] == 50
            await asyncio.wrap_future(connection.disconnect())

    asyncio.run(main())


def test_a_changed_policy_is_in_force_at_once(tmp_path):
    async def main():
        async with running(tmp_path) as iot:
            files = iot.ensure_thing("d1", policy_documents={"p": POLICY}, certs_folder=tmp_path / "d1")
            connection = await thread(connect, iot, files, "d1")
            heard = asyncio.Queue()
            iot.broker.add_listener("devices/#", heard.put_nowait)
            future, _ = connection.publish("devices/d1/a", b"1", mqtt.QoS.AT_LEAST_ONCE)
            await asyncio.wrap_future(future)
            gone = asyncio.Queue()
            iot.broker.add_listener("$aws/events/presence/disconnected/#", gone.put_nowait)

            def deny():
                client = iot.client("iot")
                document = json.loads(json.dumps(POLICY))
                document["Statement"].append({"Effect": "Deny", "Action": "iot:Publish", "Resource": "*"})
                client.create_policy_version(policyName="p", policyDocument=json.dumps(document), setAsDefault=True)

            await thread(deny)
            connection.publish("devices/d1/a", b"2", mqtt.QoS.AT_LEAST_ONCE)
            event = json.loads((await gone.get()).payload)
            assert event["disconnectReason"] == "AUTH_ERROR"
            assert [(await heard.get()).payload] == [b"1"]
            assert heard.empty()
            connection.disconnect()

    asyncio.run(main())


def https(iot, files, method, target, body=None, headers=None):
    context = ssl.create_default_context(cafile=str(files.ca))
    if getattr(files, "cert", None):
        context.load_cert_chain(files.cert, files.key)
    url = f"https://localhost:{iot.https_port}{target}"
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_https_publish_and_credentials(tmp_path):
    policy = json.loads(json.dumps(POLICY))
    policy["Statement"] += [
        {"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/web/*"},
        {"Effect": "Allow", "Action": "iot:AssumeRoleWithCertificate", "Resource": "arn:aws:iot:*:*:rolealias/good"},
    ]

    async def main():
        async with running(tmp_path) as iot:
            files = iot.ensure_thing("d1", policy_documents={"p": policy}, certs_folder=tmp_path / "d1")
            heard = asyncio.Queue()
            iot.broker.add_listener("web/#", heard.put_nowait)
            assert (await thread(https, iot, files, "POST", "/topics/web%2Fa?qos=1", b"1"))[0] == 200
            assert (await thread(https, iot, files, "POST", "/topics/web/b?qos=1", b"2"))[0] == 200
            assert [(await heard.get()).topic, (await heard.get()).topic] == ["web/a", "web/b"]
            assert (await thread(https, iot, files, "POST", "/topics/other?qos=1", b"1"))[0] == 403
            nobody = type("Files", (), {"ca": files.ca})
            assert (await thread(https, iot, nobody, "POST", "/topics/web%2Fa", b"1"))[0] == 403
            client = iot.client("iot")
            for alias in ("good", "bad"):
                await thread(
                    lambda name=alias: client.create_role_alias(roleAlias=name, roleArn="arn:aws:iam::1:role/r-r-r")
                )
            name = {"x-amzn-iot-thingname": "d1"}
            status, body = await thread(https, iot, files, "GET", "/role-aliases/good/credentials", None, name)
            assert status == 200
            assert set(json.loads(body)["credentials"]) == {
                "accessKeyId",
                "secretAccessKey",
                "sessionToken",
                "expiration",
            }
            wrong = {"x-amzn-iot-thingname": "d2"}
            assert (await thread(https, iot, files, "GET", "/role-aliases/good/credentials", None, wrong))[0] == 403
            assert (await thread(https, iot, files, "GET", "/role-aliases/bad/credentials", None, name))[0] == 403

    asyncio.run(main())


def test_a_registered_certificate_without_files_is_the_users_to_mend(tmp_path):
    async def main():
        iot = core(tmp_path)
        files = iot.ensure_thing("d1", policy_documents={}, certs_folder=tmp_path / "d1")
        files.key.unlink()
        with pytest.raises(UserError) as caught:
            iot.ensure_thing("d1", policy_documents={}, certs_folder=tmp_path / "d1")
        assert caught.value.code == "certificate-missing"
        await iot.stop()
        await iot.stop()

    asyncio.run(main())


def test_retained_messages_and_connections_over_the_api(tmp_path):
    async def main():
        async with running(tmp_path) as iot:
            data, control = iot.client("iot-data"), iot.client("iot")

            def use():
                data.publish(topic="r/a", payload=b"kept", retain=True, qos=1)
                data.publish(topic="r/b", payload=b"kept2", retain=True)
                found = data.get_retained_message(topic="r/a")
                assert (found["payload"], found["qos"]) == (b"kept", 1)
                first = data.list_retained_messages(maxResults=1)
                second = data.list_retained_messages(maxResults=1, nextToken=first["nextToken"])
                topics = [each["topic"] for page in (first, second) for each in page["retainedTopics"]]
                assert topics == ["r/a", "r/b"]
                for call in (
                    lambda: data.get_retained_message(topic="none"),
                    lambda: data.get_connection(clientId="none"),
                    lambda: data.delete_connection(clientId="none"),
                ):
                    with pytest.raises(data.exceptions.ResourceNotFoundException):
                        call()
                with pytest.raises(ClientError) as caught:
                    data.publish(topic="$reserved", payload=b"")
                assert caught.value.response["Error"]["Code"] == "InvalidRequestException"

            await thread(use)
            files = iot.ensure_thing("d1", policy_documents={"p": POLICY}, certs_folder=tmp_path / "d1")
            connection = await thread(connect, iot, files, "d1")
            future, _ = connection.subscribe("devices/d1/in", mqtt.QoS.AT_LEAST_ONCE, lambda **rest: None)
            await asyncio.wrap_future(future)

            def look():
                found = data.get_connection(clientId="d1", includeSocketInformation=True)
                assert found["connected"] is True and found["sourceIp"] == "127.0.0.1" and found["sourcePort"] > 0
                things = {"thingIndexingMode": "REGISTRY", "thingConnectivityIndexingMode": "STATUS"}
                control.update_indexing_configuration(thingIndexingConfiguration=things)
                same = ("cleanSession", "keepAliveDuration", "sessionExpiry", "sourceIp", "sourcePort", "clientId")
                asked = control.get_thing_connectivity_data(thingName="d1", includeSocketInformation=True)
                assert {name: asked[name] for name in same} == {name: found[name] for name in same}
                assert "sourceIp" not in control.get_thing_connectivity_data(thingName="d1")
                subscriptions = data.list_subscriptions(clientId="d1")["subscriptions"]
                assert subscriptions == [{"topicFilter": "devices/d1/in", "qos": 1}]

            await thread(look)
            gone = asyncio.Queue()
            iot.broker.add_listener("$aws/events/presence/disconnected/#", gone.put_nowait)
            await thread(lambda: data.delete_connection(clientId="d1"))
            event = json.loads((await gone.get()).payload)
            assert event["disconnectReason"] == "API_INITIATED_DISCONNECT"
            connection.disconnect()

    asyncio.run(main())
