"""Things in the field, with real clients over mutual TLS: who gets in, discovery, the bridge, shadows."""

import datetime
import http.client
import json
import queue
import socket
import ssl
import threading
import time
import urllib.request
from contextlib import closing

import awsiot
import paho.mqtt.client as paho
import pytest
from awscrt import io, mqtt, mqtt5, mqtt_request_response
from awscrt.exceptions import AwsCrtError
from awsiot import greengrass_discovery, iotshadow, mqtt5_client_builder, mqtt_connection_builder
from cryptography import x509
from paho.mqtt.enums import CallbackAPIVersion

from foreshore.greengrass.device_certificates import make_ca, new_ec_key, pem_of, private_pem
from foreshore.traces.store import TraceReader
from tests.e2e.conftest import start, stop

AUTH = "aws.greengrass.clientdevices.Auth"
EMQX = "aws.greengrass.clientdevices.mqtt.EMQX"
MOQUETTE = "aws.greengrass.clientdevices.mqtt.Moquette"
BRIDGE = "aws.greengrass.clientdevices.mqtt.Bridge"
SHADOWS = "aws.greengrass.ShadowManager"
PATIENCE_S = 30
IOT_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:*", "Resource": "*"},
        {"Effect": "Allow", "Action": "greengrass:Discover", "Resource": "arn:aws:iot:us-east-1:*:thing/lamp*"},
    ],
}
GROUPS = {
    "formatVersion": "2021-03-05",
    "definitions": {
        "lamps": {"selectionRule": "thingName: lamp*", "policyName": "lamps"},
        "keepers": {"selectionRule": "thingName: keeper OR thingName: other", "policyName": "all"},
    },
    "policies": {
        "all": {"all": {"operations": ["*"], "resources": ["*"]}},
        "lamps": {
            "connect": {"operations": ["mqtt:connect"], "resources": ["mqtt:clientId:lamp*"]},
            "publish": {
                "operations": ["mqtt:publish"],
                "resources": [
                    "mqtt:topic:lamps/${iot:Connection.Thing.ThingName}/*", "mqtt:topic:test/*",
                    "mqtt:topic:$aws/things/${iot:Connection.Thing.ThingName}/shadow/*",
                ],
            },
            "subscribe": {
                "operations": ["mqtt:subscribe"],
                "resources": [
                    "mqtt:topicfilter:lamps/+/state", "mqtt:topicfilter:test/*",
                    "mqtt:topicfilter:$aws/things/${iot:Connection.Thing.ThingName}/shadow/*",
                ],
            },
        },
    },
}  # fmt: skip


def row(topic, source, target):
    return {"topic": topic, "source": source, "target": target}


MAPPINGS = {
    "up": row("lamps/+/up", "LocalMqtt", "IotCore"),
    "down": row("lamps/down", "IotCore", "LocalMqtt"),
    "shadowsUp": row("$aws/things/+/shadow/#", "LocalMqtt", "Pubsub"),
    "shadowsDown": row("$aws/things/+/shadow/#", "Pubsub", "LocalMqtt"),
}


def components(**more):
    found = {
        AUTH: {"deviceGroups": GROUPS},
        EMQX: {},
        BRIDGE: {"mqttTopicMapping": MAPPINGS, "mqtt": {"version": "mqtt5"}},
        SHADOWS: {},
        **more,
    }
    return {
        name: {"componentVersion": "2.0.0", "configurationUpdate": {"merge": json.dumps(configuration)}}
        for name, configuration in found.items() if configuration is not None
    }  # fmt: skip


class World:
    """A running edge and the things in its field."""

    def __init__(self, edge, folder):
        self.edge, self.folder = edge, folder
        self.iot, self.greengrass = edge.boto3("iot"), edge.boto3("greengrassv2")
        self.iot.create_policy(policyName="field", policyDocument=json.dumps(IOT_POLICY))

    def thing(self, name, *, core=None, attach=True):
        """A thing with a certificate, associated with a core; gives (certificate file, key file, certificate ARN)."""
        self.iot.create_thing(thingName=name)
        made = self.iot.create_keys_and_certificate(setAsActive=True)
        self.iot.attach_policy(policyName="field", target=made["certificateArn"])
        if attach:
            self.iot.attach_thing_principal(thingName=name, principal=made["certificateArn"])
        if core:
            entries = [{"thingName": name}]
            answer = self.greengrass.batch_associate_client_device_with_core_device(
                coreDeviceThingName=core, entries=entries
            )
            assert answer["errorEntries"] == []
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_text(made["certificatePem"])
        key.write_text(made["keyPair"]["PrivateKey"])
        return cert, key, made["certificateArn"]

    def port(self, core):
        return int(self.edge.ends["cores"][core]["mqtts"].rpartition(":")[2])

    def ca(self, core):
        return self.edge.ends["cores"][core]["ca"]

    def status(self, core):
        with urllib.request.urlopen(self.edge.ends["aws"] + "/_foreshore/status") as answer:
            return json.load(answer)["cores"][core]

    def says(self, core, text):
        """Whether the core's log has a line with the text."""
        with closing(TraceReader(self.edge.home / "state/traces.db")) as reader:
            return any(text in line.text for _, line in reader.logs(source=core, limit=100_000))

    def discover(self, name, files):
        """The discovery client's answer."""
        options = io.TlsContextOptions.create_client_with_mtls_from_path(str(files[0]), str(files[1]))
        options.override_default_trust_store_from_path(None, self.edge.ca)
        client = greengrass_discovery.DiscoveryClient(
            io.ClientBootstrap.get_or_create_static_default(), io.SocketOptions(), io.ClientTlsContext(options),
            "us-east-1", "localhost",
        )  # fmt: skip
        client.port = self.edge.host_port("wss")[1]
        return client.discover(name).result(PATIENCE_S)

    def deploy(self, core, **more):
        """Deploy to one core by the cloud's API, and wait for it."""
        arn = f"arn:aws:iot:us-east-1:000000000000:thing/{core}"
        made = self.greengrass.create_deployment(targetArn=arn, components=components(**more))
        until(lambda: self.greengrass.get_deployment(deploymentId=made["deploymentId"])["deploymentStatus"] != "ACTIVE")
        assert self.greengrass.get_deployment(deploymentId=made["deploymentId"])["deploymentStatus"] == "COMPLETED"


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Paho:
    """A paho client on a core's listener."""

    def __init__(self, world, core, name, files, *, version=paho.MQTTv311, ca=None, clean=None):
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=version, clean_session=clean)
        self.client.tls_set(ca or world.ca(core), str(files[0]), str(files[1]))
        # The callbacks know no client: a cycle would keep its sockets open until the garbage collector comes.
        messages, subacks, pubacks, connected = (queue.Queue() for _ in range(4))
        self.messages, self.subacks, self.pubacks = messages, subacks, pubacks
        self.client.on_connect = lambda c, u, flags, reason, properties: connected.put(reason)
        self.client.on_message = lambda c, u, message: messages.put(message)
        self.client.on_subscribe = lambda c, u, mid, reasons, properties: subacks.put(reasons[0])
        self.client.on_publish = lambda c, u, mid, reason, properties: pubacks.put(reason)
        self.client.connect("localhost", world.port(core))
        self.client.loop_start()
        self.reason = connected.get(timeout=PATIENCE_S)

    def subscribe(self, filter):
        self.client.subscribe(filter, qos=1)
        return self.subacks.get(timeout=PATIENCE_S)

    def publish(self, topic, payload="x"):
        self.client.publish(topic, payload, qos=1)
        return self.pubacks.get(timeout=PATIENCE_S)

    def receive(self):
        return self.messages.get(timeout=PATIENCE_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("field")
    (folder / "foreshore.toml").write_text("[cores.north]\n[cores.south]\n[cores.bare]\nrecipes = ''\n")
    (folder / "recipes").mkdir()
    (folder / "recipes/deployment.json").write_text(json.dumps({"components": components()}))
    edge = start(folder, folder / "home", "--only", "iot,greengrass")
    try:
        yield World(edge, folder)
    finally:
        stop(edge)


@pytest.fixture(scope="module")
def lamp(world):
    return world.thing("lamp1", core="north")


@pytest.fixture(scope="module")
def keeper(world):
    return world.thing("keeper", core="north")


def test_the_groups_policies_decide(world, lamp, keeper):
    with (
        Paho(world, "north", "lamp1", lamp) as device,
        Paho(world, "north", "keeper", keeper, version=paho.MQTTv5) as watcher,
    ):
        assert not device.reason.is_failure and not watcher.reason.is_failure
        assert not watcher.subscribe("#").is_failure
        assert device.subscribe("lamps/lamp1/state").is_failure
        assert not device.subscribe("lamps/+/state").is_failure
        # A broker drops what a 3.1.1 client may not publish; an MQTT 5 client is told.
        device.publish("lamps/lamp2/up", "no")
        device.publish("lamps/lamp1/up", "yes")
        assert watcher.receive().payload == b"yes"
        watcher.publish("lamps/lamp1/state", "on")
        assert device.receive().payload == b"on"


def test_an_mqtt5_client_is_told_what_it_may_not(world):
    files = world.thing("lamp5")
    with Paho(world, "north", "lamp5", files, version=paho.MQTTv5) as device:
        assert device.publish("elsewhere").value == 0x87
        assert device.publish("lamps/lamp5/up").value < 0x80


def test_who_is_refused(world, lamp):
    stranger = world.thing("stranger")
    unattached = world.thing("lamp9", attach=False)
    inactive = world.thing("lamp8")
    world.iot.update_certificate(certificateId=inactive[2].rpartition("/")[2], newStatus="INACTIVE")
    for name, files in (
        ("stranger", stranger),  # in no group
        ("lamp9", unattached),  # its certificate is no thing's
        ("lamp8", inactive),
        ("lamp2", lamp),  # the client id is not the thing's name
    ):
        with Paho(world, "north", name, files) as client:
            assert client.reason.is_failure, name


def test_a_client_takes_its_connection_over(world, lamp):
    with Paho(world, "north", "lamp1", lamp) as first:
        gone = threading.Event()
        first.client.on_disconnect = lambda *_: gone.set()
        with Paho(world, "north", "lamp1", lamp) as second:
            assert not second.reason.is_failure and gone.wait(PATIENCE_S)


def test_discovery_and_the_sdks_client(world, lamp):
    """What the SDK's sample basic_discovery does: discover, connect with the CA that is told, publish, subscribe."""
    [group] = world.discover("lamp1", lamp).gg_groups
    assert group.gg_group_id == "greengrassV2-coreDevice-north"
    [core] = group.cores
    assert core.thing_arn == "arn:aws:iot:us-east-1:000000000000:thing/north"
    [place] = core.connectivity
    assert (place.host_address, place.port, place.metadata) == ("127.0.0.1", world.port("north"), "")
    for build in (mqtt_connection_builder, mqtt5_client_builder):
        assert exchange(build, place, group.certificate_authorities[0], lamp) == b'{"message": "Hello"}'


def exchange(build, place, ca, files):
    """Publish on a topic that is subscribed, with the SDK's MQTT 3.1.1 or 5 client; gives what came back."""
    options = {
        "endpoint": place.host_address, "port": place.port, "cert_filepath": str(files[0]),
        "pri_key_filepath": str(files[1]), "ca_bytes": ca.encode(), "client_id": "lamp1", "clean_session": False,
    }  # fmt: skip
    received = queue.Queue()
    if build is mqtt_connection_builder:
        connection = build.mtls_from_path(**options)
        connection.connect().result(PATIENCE_S)
        connection.subscribe(
            "test/topic", mqtt.QoS.AT_MOST_ONCE, lambda topic, payload, **_: received.put(payload)
        )[0].result(PATIENCE_S)  # fmt: skip
        connection.publish("test/topic", '{"message": "Hello"}', mqtt.QoS.AT_LEAST_ONCE)[0].result(PATIENCE_S)
        try:
            return received.get(timeout=PATIENCE_S)
        finally:
            connection.disconnect().result(PATIENCE_S)
    client, stopped = connected(build, options, received)
    qos = mqtt5.QoS.AT_LEAST_ONCE
    client.subscribe(mqtt5.SubscribePacket([mqtt5.Subscription("test/topic", qos)])).result(PATIENCE_S)
    client.publish(mqtt5.PublishPacket(topic="test/topic", payload='{"message": "Hello"}', qos=qos)).result(PATIENCE_S)
    try:
        return received.get(timeout=PATIENCE_S)
    finally:
        client.stop()
        assert stopped.wait(PATIENCE_S)


def connected(build, options, received):
    """A started MQTT 5 client; what it receives goes to `received`. Gives it and the event of its end."""
    up, stopped = queue.Queue(), threading.Event()
    client = build.mtls_from_path(
        on_publish_received=lambda data: received.put(data.publish_packet.payload),
        on_lifecycle_connection_success=lambda data: up.put(None),
        on_lifecycle_connection_failure=lambda data: up.put(data.exception),
        on_lifecycle_stopped=lambda data: stopped.set(), **options,
    )  # fmt: skip
    client.start()
    assert up.get(timeout=PATIENCE_S) is None
    return client, stopped


def ask(world, path, files=None, method="GET"):
    """One request of the devices' HTTPS port; gives status and JSON."""
    context = ssl.create_default_context(cafile=world.edge.ca)
    if files is not None:
        context.load_cert_chain(*files[:2])
    connection = http.client.HTTPSConnection("localhost", world.edge.host_port("wss")[1], context=context)
    connection.request(method, path)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


def test_discovery_refuses_in_awss_shapes(world, lamp):
    path = "/greengrass/discover/thing/"
    status, body = ask(world, path + "keeper", lamp)
    assert status == 403 and body["message"] is None and body["traceId"]
    lonely = world.thing("lamp7")
    assert ask(world, path + "lamp7", lonely) == (
        404, {"errorMessage": "The thing provided for discovery was not found"},
    )  # fmt: skip
    assert ask(world, path + "lamp1")[0] == 403
    assert ask(world, path + "lamp1/x", lamp)[0] == 404
    inactive = world.thing("lamp4", core="north")
    world.iot.update_certificate(certificateId=inactive[2].rpartition("/")[2], newStatus="INACTIVE")
    with pytest.raises(AwsCrtError, match="AWS_ERROR_HTTP_CONNECTION_CLOSED"):
        world.discover("lamp4", inactive)
    with pytest.raises(greengrass_discovery.DiscoveryException) as refused:
        world.discover("keeper", lamp)
    assert refused.value.http_response_code == 403


def test_discovery_follows_the_connectivity_info(world, lamp):
    """Also in the listener's certificate, made anew with the addresses that were told."""
    entries = [
        {"id": "gate", "hostAddress": "gate.example.com", "portNumber": 8883, "metadata": "outside"},
        {"id": "here", "hostAddress": "localhost", "portNumber": world.port("north")},
    ]
    world.greengrass.update_connectivity_info(thingName="north", connectivityInfo=entries)
    try:
        [group] = world.discover("lamp1", lamp).gg_groups
        found = [(each.id, each.host_address, each.metadata) for each in group.cores[0].connectivity]
        assert found == [("gate", "gate.example.com", "outside"), ("here", "localhost", "")]
        certificate = x509.load_pem_x509_certificate(
            ssl.get_server_certificate(("localhost", world.port("north"))).encode()
        )
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert "gate.example.com" in names.get_values_for_type(x509.DNSName)
        with Paho(world, "north", "lamp1", lamp) as client:
            assert not client.reason.is_failure
        # Who trusts the edge's own CA trusts the core's listener as well.
        with Paho(world, "north", "lamp1", lamp, ca=world.edge.ca) as client:
            assert not client.reason.is_failure
    finally:
        world.greengrass.update_connectivity_info(thingName="north", connectivityInfo=[])


def test_two_cores_each_with_its_own(world, lamp):
    both = world.thing("lamp-both", core="north")
    world.greengrass.batch_associate_client_device_with_core_device(
        coreDeviceThingName="south", entries=[{"thingName": "lamp-both"}]
    )
    groups = world.discover("lamp-both", both).gg_groups
    assert [group.gg_group_id.rpartition("-")[2] for group in groups] == ["north", "south"]
    assert groups[0].certificate_authorities != groups[1].certificate_authorities
    with (
        Paho(world, "north", "lamp1", lamp) as here,
        Paho(world, "south", "lamp-both", both) as there,
    ):
        assert not here.subscribe("test/t").is_failure and not there.subscribe("test/t").is_failure
        there.publish("test/t", "south")
        here.publish("test/t", "north")
        assert (here.receive().payload, there.receive().payload) == (b"north", b"south")
    context = ssl.create_default_context(cafile=world.ca("north"))
    with (
        socket.create_connection(("localhost", world.port("south"))) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_strict_verifiers_trust_the_listener(world):
    """Python 3.13 and later verify so by default."""
    for ca in (world.ca("north"), world.edge.ca):
        context = ssl.create_default_context(cafile=ca)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        with (
            socket.create_connection(("localhost", world.port("north"))) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            assert tls.version()


def test_shadows_through_the_core(world, lamp):
    """The SDK's shadow client on the core's listener; the bridge hands it on to the shadow manager."""
    options = {
        "endpoint": "localhost", "port": world.port("north"), "cert_filepath": str(lamp[0]),
        "pri_key_filepath": str(lamp[1]), "ca_filepath": world.ca("north"), "client_id": "lamp1",
    }  # fmt: skip
    client, stopped = connected(mqtt5_client_builder, options, queue.Queue())
    try:
        shadows = iotshadow.IotShadowClientV2(client, mqtt_request_response.ClientOptions(4, 4, 20))
        deltas = queue.Queue()
        up = threading.Event()
        stream = shadows.create_shadow_delta_updated_stream(
            iotshadow.ShadowDeltaUpdatedSubscriptionRequest(thing_name="lamp1"),
            awsiot.ServiceStreamOptions(
                incoming_event_listener=deltas.put, subscription_status_listener=lambda event: up.set()
            ),
        )
        stream.open()
        assert up.wait(PATIENCE_S)
        state = iotshadow.ShadowState(desired={"on": True}, reported={"on": False})
        updated = shadows.update_shadow(iotshadow.UpdateShadowRequest(thing_name="lamp1", state=state))
        assert updated.result(PATIENCE_S).version == 1
        assert deltas.get(timeout=PATIENCE_S).state == {"on": True}
        got = shadows.get_shadow(iotshadow.GetShadowRequest(thing_name="lamp1")).result(PATIENCE_S)
        assert got.state.reported == {"on": False}
        with pytest.raises(awsiot.V2ServiceException):
            shadows.get_named_shadow(
                iotshadow.GetNamedShadowRequest(thing_name="lamp1", shadow_name="none")
            ).result(PATIENCE_S)  # fmt: skip
    finally:
        client.stop()
        assert stopped.wait(PATIENCE_S)


def test_messages_are_kept_while_the_link_is_away_and_drain_in_order(world, lamp, keeper):
    """The core's certificate is taken out of use: its link is gone; devices that it knows still get in."""
    principals = world.iot.list_thing_principals(thingName="north")["principals"]
    core_certificate = principals[0].rpartition("/")[2]
    unknown = world.thing("lamp6")
    host, port = world.edge.host_port("mqtt")
    received = queue.Queue()
    cloud = paho.Client(CallbackAPIVersion.VERSION2, client_id="cloud")
    subscribed = threading.Event()
    cloud.on_subscribe = lambda *_: subscribed.set()
    cloud.on_message = lambda c, u, message: received.put(int(message.payload))
    cloud.connect(host, port)
    cloud.loop_start()
    cloud.subscribe("lamps/+/up", qos=1)
    assert subscribed.wait(PATIENCE_S)
    try:
        with Paho(world, "north", "lamp1", lamp):
            pass
        world.iot.update_certificate(certificateId=core_certificate, newStatus="INACTIVE")
        until(lambda: not world.status("north")["connected"])
        with Paho(world, "north", "lamp6", unknown) as client:
            assert client.reason.is_failure
        with Paho(world, "north", "lamp1", lamp) as device:
            assert not device.reason.is_failure
            for number in range(40):
                device.publish("lamps/lamp1/up", str(number))
        assert received.empty()
        world.iot.update_certificate(certificateId=core_certificate, newStatus="ACTIVE")
        assert [received.get(timeout=PATIENCE_S) for _ in range(40)] == list(range(40))
        with Paho(world, "north", "lamp1", lamp) as device:
            device.subscribe("lamps/+/state")
    finally:
        cloud.disconnect()
        cloud.loop_stop()


def test_the_cloud_reaches_devices(world, keeper):
    with Paho(world, "north", "keeper", keeper, version=paho.MQTTv5) as device:
        assert not device.subscribe("lamps/down").is_failure
        until(lambda: publish_and_hear(world.edge.boto3("iot-data"), device))


def publish_and_hear(cloud, device):
    """The core subscribes in its own time, so the cloud says it until it is heard."""
    cloud.publish(topic="lamps/down", qos=1, payload=b"off")
    try:
        return device.messages.get(timeout=0.5).payload == b"off"
    except queue.Empty:
        return False


def test_a_deployment_changes_what_devices_may(world):
    other = world.thing("other", core="south")
    with Paho(world, "south", "other", other, version=paho.MQTTv5) as device:
        assert device.publish("anything").value < 0x80
        narrow = json.loads(json.dumps(GROUPS))
        narrow["policies"]["all"]["all"] = {"operations": ["mqtt:connect"], "resources": ["*"]}
        world.deploy("south", **{AUTH: {"deviceGroups": narrow}})
        until(lambda: device.publish("anything").value == 0x87)


def test_a_core_without_client_device_auth_and_then_with_it(world):
    """Without it any active certificate will do, under any name; with Moquette there is no MQTT 5."""
    anybody = world.thing("lamp-bare", core="bare")
    assert ask(world, "/greengrass/discover/thing/lamp-bare", anybody)[0] == 404
    with Paho(world, "bare", "any-name", anybody, version=paho.MQTTv5) as client:
        assert not client.reason.is_failure and client.publish("anything").value < 0x80
        gone = threading.Event()
        client.client.on_disconnect = lambda *_: gone.set()
        world.deploy("bare", **{EMQX: None, MOQUETTE: {"moquette": {"ssl_port": "8883"}}})
        assert gone.wait(PATIENCE_S)
    until(lambda: world.says("bare", f"{MOQUETTE}: moquette has no effect"))
    assert ask(world, "/greengrass/discover/thing/lamp-bare", anybody)[0] == 200
    with Paho(world, "bare", "lamp-bare", anybody, version=paho.MQTTv5) as client:
        assert client.reason == "Unsupported protocol version"
    with Paho(world, "bare", "lamp-bare", anybody) as client:
        assert not client.reason.is_failure
    with Paho(world, "bare", "any-name", anybody) as client:
        assert client.reason.is_failure


def test_a_configuration_that_can_not_be_fails_its_deployment(world, keeper):
    """And is rolled back: who was let in before is let in after."""
    wrong = {"deviceGroups": {**GROUPS, "definitions": {"x": {"selectionRule": "thing is x", "policyName": "all"}}}}
    arn = "arn:aws:iot:us-east-1:000000000000:thing/north"
    made = world.greengrass.create_deployment(targetArn=arn, components=components(**{AUTH: wrong}))
    until(lambda: world.greengrass.get_deployment(deploymentId=made["deploymentId"])["deploymentStatus"] != "ACTIVE")
    [effective] = [
        each
        for each in world.greengrass.list_effective_deployments(coreDeviceThingName="north")["effectiveDeployments"]
        if each["deploymentId"] == made["deploymentId"]
    ]
    assert effective["coreDeviceExecutionStatus"] == "FAILED"
    assert "selection rule 'thing is x'" in effective["reason"]
    with Paho(world, "north", "keeper", keeper) as client:
        assert not client.reason.is_failure


def test_kill_9_and_a_ca_of_ones_own(tmp_path):
    """What a device was promised survives the edge: its session, its messages, who it is; and the user's CA is used."""
    key = new_ec_key()
    ca = make_ca(key, datetime.datetime.now(datetime.UTC))
    (tmp_path / "own.key").write_text(private_pem(key))
    (tmp_path / "own.pem").write_text(pem_of(ca))
    own = {"privateKeyUri": f"file://{tmp_path}/own.key", "certificateUri": f"file://{tmp_path}/own.pem"}
    auth = {AUTH: {"deviceGroups": GROUPS, "certificateAuthority": own}}
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/deployment.json").write_text(json.dumps({"components": components(**auth)}))
    edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
    try:
        world = World(edge, tmp_path)
        lamp, other = world.thing("lamp1", core="core-1"), world.thing("lamp2")
        [group] = world.discover("lamp1", lamp).gg_groups
        assert group.certificate_authorities == [pem_of(ca)]
        trusted = str(tmp_path / "own.pem")
        with Paho(world, "core-1", "lamp1", lamp, ca=trusted, clean=False) as device:
            assert not device.subscribe("test/*").is_failure
        with Paho(world, "core-1", "lamp2", other, ca=trusted) as sender:
            for number in range(10):
                sender.publish("test/*", str(number))
        edge.process.kill()
        edge.process.communicate()
        edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
        world.edge = edge
        with Paho(world, "core-1", "lamp1", lamp, ca=trusted, clean=False) as device:
            assert [int(device.receive().payload) for _ in range(10)] == list(range(10))
        assert world.discover("lamp1", lamp).gg_groups[0].certificate_authorities == [pem_of(ca)]
    finally:
        stop(edge)
