"""The test cases of AWS IoT Core Device Advisor, one generator each, and the table of their ids. Pure.

Each follows the page "Device Advisor test cases" of the AWS IoT developer guide. Delays are measured from the end of a
connection to the device's next attempt, so a device's own time-out for CONNACK does not count as backoff.
"""

from __future__ import annotations

from typing import Any

import orjson

from foreshore.iot.advisor import backoff
from foreshore.iot.advisor.hello import RECOMMENDED, SUPPORTED
from foreshore.iot.advisor.script import Awaited, Case, Event, Failed, PacketName, Scene, Steps
from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt import properties as p

MAX_FRAGMENT = 16_384
"""Bytes of the greatest TLS record (RFC 8446, section 5.1)."""

SHADOW_TOKEN = "DeviceAdvisorShadowTestCaseSetup"
"""The client token by which a device knows Device Advisor's shadow updates."""


# What several cases wait for


def _tls(scene: Scene) -> Awaited:
    event = yield from scene.wait("open a TLS connection", lambda event: event.kind in ("tls", "tls-failed"))
    return event


def _connect(scene: Scene) -> Awaited:
    event = yield from scene.wait("send CONNECT", lambda event: isinstance(event.packet, codec.Connect))
    return event


def _connected(scene: Scene) -> Awaited:
    """CONNECT and a CONNACK of success; gives the CONNECT."""
    asked = yield from _connect(scene)
    answer = yield from scene.wait(
        "stay for the CONNACK",
        lambda event: isinstance(event.packet, codec.Connack) or (event.kind == "closed" and event.link == asked.link),
    )
    if not isinstance(answer.packet, codec.Connack):
        raise Failed("CONNECT was refused: the certificate's policies do not allow iot:Connect for this client id.")
    if answer.packet.reason:
        raise Failed(f"CONNECT was refused with reason 0x{answer.packet.reason:02x}.")
    return asked


def _closed(scene: Scene, what: str) -> Awaited:
    event = yield from scene.wait(what, lambda event: event.kind == "closed")
    return event


def _topics(event: Event) -> list[str]:
    return [one.filter for one in event.packet.requests] if isinstance(event.packet, codec.Subscribe) else []


def _subscribed(scene: Scene, trigger: str) -> Awaited:
    """A SUBSCRIBE at QoS 1 for the trigger topic (any topic when there is none) and its SUBACK; gives the SUBSCRIBE."""

    def is_it(event: Event) -> bool:
        if event.kind != "packet" or not isinstance(event.packet, codec.Subscribe):
            return False
        return any(one.qos == 1 and trigger in ("", one.filter) for one in event.packet.requests)

    asked = yield from scene.wait(f"subscribe to {trigger or 'a topic'} with QoS 1", is_it)
    yield from scene.wait(
        "wait for the SUBACK", lambda event: event.kind == "sent" and isinstance(event.packet, codec.Suback)
    )
    return asked


# TLS


def tls_connect(scene: Scene) -> Steps:
    """TLS Connect, and TLS large size server certificate."""
    event = yield from _tls(scene)
    if event.kind == "tls-failed":
        raise Failed(f"The TLS handshake failed: {event.detail}.")


def tls_refused(scene: Scene) -> Steps:
    """Unsecure server certificate, incorrect subject name: the device must not complete the handshake."""
    event = yield from _tls(scene)
    if event.kind == "tls":
        raise Failed("The device completed the TLS handshake with a server certificate it must not trust.")


def tls_expired(scene: Scene) -> Steps:
    """Expired server certificate: the device should say so by a TLS alert."""
    event = yield from _tls(scene)
    if event.kind == "tls":
        raise Failed("The device completed the TLS handshake with an expired server certificate.")
    if "alert" not in event.detail:
        scene.warnings.append("The device closed the connection without a TLS alert.")


def tls_cipher_suites(scene: Scene) -> Steps:
    """Which cipher suites the ClientHello offers."""
    event = yield from scene.wait("send a TLS ClientHello", lambda event: event.kind == "hello")
    served = [suite for suite in event.suites if suite in SUPPORTED]
    if not served:
        raise Failed("The device offers no cipher suite that AWS IoT Core supports.")
    if not RECOMMENDED.intersection(served):
        scene.warnings.append("The device offers none of the recommended cipher suites.")
    others = [f"0x{suite:04x}" for suite in event.suites if suite not in SUPPORTED]
    if others:
        scene.warnings.append(
            f"The device offers cipher suites that AWS IoT Core does not support: {', '.join(others)}."
        )


def tls_fragments(scene: Scene) -> Steps:
    """A payload that fills TLS records of the greatest size comes to a subscribed topic."""
    trigger = scene.option("TRIGGER_TOPIC")
    asked = yield from _subscribed(scene, trigger)
    text = scene.option("PAYLOAD_FORMAT", "${payload}").replace("${payload}", "x" * 2 * MAX_FRAGMENT)
    yield from _acknowledged(scene, trigger or _concrete(_topics(asked)[0]), text.encode())


# CONNECT and coming back


def mqtt_connect(scene: Scene) -> Steps:
    """The device sends CONNECT (happy case)."""
    yield from _connected(scene)


def _attempts(scene: Scene, count: int, *, drop: bool, into: list[float]) -> Steps:
    """See `count` CONNECTs that get no CONNACK; put the delays between the connections into `into`."""
    scene.withheld.add("CONNECT")
    for number in range(count):
        yield from _connect(scene)
        if drop:
            scene.orders.drop()
        ended = yield from _closed(scene, "give up a connection without CONNACK and try again")
        if number == count - 1:
            scene.withheld.discard("CONNECT")
        opened = yield from scene.wait(
            f"try again after attempt {number + 1} of {count}", lambda event: event.kind == "open"
        )
        into.append(opened.at - ended.at)


def _settled(scene: Scene, into: list[float] | None = None) -> Steps:
    """One connection that succeeds and is cut: whatever backoff the device was in begins anew. With `into` the device
    is awaited, and its delay put there."""
    yield from _connected(scene)
    scene.orders.drop()
    ended = yield from _closed(scene, "notice that it was disconnected")
    if into is not None:
        opened = yield from scene.wait("reconnect", lambda event: event.kind == "open")
        into.append(opened.at - ended.at)


def _judge(scene: Scene, delays: list[float], *, jitter: bool) -> None:
    kind = backoff.classify(delays)
    shown = ", ".join(f"{delay:.2f}" for delay in delays)
    if kind in ("none", "constant", "linear"):
        word = {"none": "no", "constant": "a constant", "linear": "a linear"}[kind]
        raise Failed(f"The device uses {word} backoff between its attempts: {shown} seconds.")
    if jitter and kind == "exponential":
        scene.warnings.append(f"The device uses exponential backoff without jitter: {shown} seconds.")


def exponential_backoff(scene: Scene) -> Steps:
    """No CONNACK: five attempts or more, ever further apart."""
    delays: list[float] = []
    yield from _settled(scene)
    yield from _attempts(scene, 5, drop=False, into=delays)
    _judge(scene, delays, jitter=False)


def jitter_backoff(scene: Scene) -> Steps:
    """No CONNACK for five attempts, the sixth succeeds; and all of it once more."""
    delays: list[float] = []
    yield from _settled(scene)
    for _ in range(2):
        yield from _attempts(scene, 5, drop=False, into=delays)
        yield from _settled(scene)
    first, second = delays[:5], delays[5:]
    _judge(scene, first, jitter=True)
    _judge(scene, second, jitter=True)
    scene.warnings = scene.warnings[:1]


def reconnect_backoff(scene: Scene) -> Steps:
    """The server disconnects the device, and every attempt to come back."""
    count = int(scene.option("RECONNECTION_ATTEMPTS", "5"))
    yield from _settled(scene)
    delays: list[float] = []
    yield from _attempts(scene, count, drop=True, into=delays)
    _judge(scene, delays, jitter=True)


def reconnect_unstable(scene: Scene) -> Steps:
    """Every connection succeeds and is cut: a CONNACK alone must not make the device forget its backoff."""
    delays: list[float] = []
    for _ in range(int(scene.option("RECONNECTION_ATTEMPTS", "5"))):
        yield from _settled(scene, into=delays)
    _judge(scene, delays, jitter=True)


def reconnect_after_success(scene: Scene) -> Steps:
    """Disconnected right after its CONNACK, the device waits a second at least."""
    yield from _connected(scene)
    scene.orders.drop()
    ended = yield from _closed(scene, "notice that it was disconnected")
    opened = yield from scene.wait("reconnect", lambda event: event.kind == "open")
    if opened.at - ended.at < 1.0:
        raise Failed(f"The device reconnected after {opened.at - ended.at:.2f} seconds; it must wait one at least.")


# PUBLISH


def _publish(scene: Scene, what: str = "publish", *, least_qos: int = 0) -> Awaited:
    topic, payload = scene.option("TOPIC_FOR_PUBLISH_VALIDATION"), scene.option("PAYLOAD_FOR_PUBLISH_VALIDATION")

    def is_it(event: Event) -> bool:
        found = event.packet
        if event.kind != "packet" or not isinstance(found, codec.Publish):
            return False
        return found.qos >= least_qos and topic in ("", found.topic) and payload.encode() in (b"", found.payload)

    more = f" to {topic}" if topic else ""
    event = yield from scene.wait(what + more + (" the given payload" if payload else ""), is_it)
    return event


def mqtt_publish(scene: Scene) -> Steps:
    """The device publishes, to the given topic and payload if there are any."""
    yield from _publish(scene)


def publish_retained(scene: Scene) -> Steps:
    """The device publishes a retained message."""
    event = yield from _publish(scene, "publish a retained message")
    while not (isinstance(event.packet, codec.Publish) and event.packet.retain):
        event = yield from _publish(scene, "publish a retained message")


def publish_user_property(scene: Scene) -> Steps:
    """The device publishes with MQTT 5 user properties, those of USER_PROPERTIES if given."""
    wanted = [(one["name"], one["value"]) for one in scene.configuration.get("USER_PROPERTIES", [])]
    while True:
        event = yield from _publish(scene, "publish with user properties")
        found = event.packet.properties.get(p.USER_PROPERTY, []) if isinstance(event.packet, codec.Publish) else []
        if found and all(pair in found for pair in wanted):
            return


def _again(scene: Scene, first: Event, what: str) -> Steps:
    """The same packet once more, on the same connection and with the same packet identifier."""
    assert isinstance(first.packet, codec.Publish | codec.Subscribe)
    sort = type(first.packet)
    while True:
        event = yield from scene.wait(
            what, lambda event: isinstance(event.packet, sort) or (event.kind == "closed" and event.link == first.link)
        )
        if event.kind == "closed":
            raise Failed(f"The device disconnected; it should {what} on the same connection.")
        found = event.packet
        assert isinstance(found, codec.Publish | codec.Subscribe)
        if found.packet_id == first.packet.packet_id:
            return
        if _same(found, first.packet):
            raise Failed(f"The device did {what}, but with another packet identifier.")


def _same(one: codec.Publish | codec.Subscribe, two: codec.Publish | codec.Subscribe) -> bool:
    if isinstance(one, codec.Publish) and isinstance(two, codec.Publish):
        return (one.topic, one.payload) == (two.topic, two.payload)
    if isinstance(one, codec.Subscribe) and isinstance(two, codec.Subscribe):
        return one.requests == two.requests
    return False


def publish_retry(scene: Scene) -> Steps:
    """QoS 1 without PUBACK: the device publishes again."""
    scene.withheld.add("PUBACK")
    first = yield from _publish(scene, "publish with QoS 1", least_qos=1)
    yield from _again(scene, first, "publish again without PUBACK")


# SUBSCRIBE


def mqtt_subscribe(scene: Scene) -> Steps:
    """The device subscribes, to all of the given topics if there are any."""
    yield from _subscribe(scene)


def _subscribe(scene: Scene) -> Awaited:
    missing = list(scene.configuration.get("TOPIC_LIST_FOR_SUBSCRIPTION_VALIDATION_ID", []))
    while True:
        what = f"subscribe to {', '.join(missing)}" if missing else "subscribe"
        event = yield from scene.wait(what, lambda event: isinstance(event.packet, codec.Subscribe))
        missing = [topic for topic in missing if topic not in _topics(event)]
        if not missing:
            return event


def subscribe_retry(scene: Scene) -> Steps:
    """No SUBACK: the device subscribes again."""
    scene.withheld.add("SUBACK")
    first = yield from _subscribe(scene)
    yield from _again(scene, first, "subscribe again without SUBACK")


def _concrete(filter: str) -> str:
    """A topic that a filter matches."""
    return filter.replace("+", "device-advisor").replace("#", "device-advisor")


def _acknowledged(scene: Scene, topic: str, payload: bytes) -> Steps:
    """Publish to the device and wait for its PUBACK."""
    scene.orders.publish(topic, payload)
    sent = yield from scene.wait(
        f"get the message on {topic}",
        lambda event: (
            event.kind == "sent" and isinstance(event.packet, codec.Publish) and event.packet.payload == payload
        ),
    )
    assert isinstance(sent.packet, codec.Publish)
    wanted = sent.packet.packet_id
    event = yield from scene.wait(
        f"acknowledge the message on {topic}",
        lambda event: (
            (isinstance(event.packet, codec.Ack) and event.packet.packet_id == wanted)
            or (event.kind == "closed" and event.link == sent.link)
        ),
    )
    if event.kind == "closed":
        raise Failed(f"The device disconnected instead of acknowledging the message on {topic}.")


def client_puback(scene: Scene) -> Steps:
    """The device acknowledges a QoS 1 message on a topic it subscribes to."""
    trigger = scene.option("TRIGGER_TOPIC")
    asked = yield from _subscribed(scene, trigger)
    size = int(scene.option("PAYLOAD_SIZE", "0")) * 1024
    text = "x" * size if size else scene.option("PAYLOAD_FOR_PUBLISH_VALIDATION", "Hello from Device Advisor")
    yield from _acknowledged(scene, trigger or _concrete(_topics(asked)[0]), text.encode())


# Keep-alive and persistent sessions


def no_ping_response(scene: Scene) -> Steps:
    """Nothing is answered any more: the device disconnects."""
    unanswered: tuple[PacketName, ...] = ("PUBACK", "SUBACK", "PINGRESP")
    scene.withheld.update(unanswered)
    asked = yield from _connected(scene)
    if isinstance(asked.packet, codec.Connect) and not asked.packet.keep_alive:
        raise Failed("The device connects with a keep-alive of 0, so it never finds out that the broker is gone.")
    yield from scene.wait(
        "send PINGREQ", lambda event: isinstance(event.packet, codec.Ping) and event.link == asked.link
    )
    yield from scene.wait(
        "disconnect without PINGRESP", lambda event: event.kind == "closed" and event.link == asked.link
    )


def _is_persistent(packet: object) -> bool:
    if not isinstance(packet, codec.Connect):
        return False
    return bool(packet.properties.get(p.SESSION_EXPIRY)) if packet.version == codec.V5 else not packet.clean


def _persistent_subscription(scene: Scene) -> Awaited:
    """Connect with a persistent session, subscribe to the trigger, be disconnected; gives the SUBSCRIBE."""
    trigger = scene.option("TRIGGER_TOPIC")
    if not trigger:
        raise Failed("The test case needs a TRIGGER_TOPIC in its configuration.")
    asked = yield from _connected(scene)
    if not _is_persistent(asked.packet):
        raise Failed("The device does not ask for a persistent session (clean session 0, or a session expiry).")
    subscribed = yield from _subscribed(scene, trigger)
    scene.orders.drop()
    yield from _closed(scene, "notice that it was disconnected")
    return subscribed


def persistent_session(scene: Scene) -> Steps:
    """After a reconnect the stored message comes and the device does not subscribe again."""
    trigger = scene.option("TRIGGER_TOPIC")
    payload = scene.option("PAYLOAD", "The message that was stored while the device was away").encode()
    yield from _persistent_subscription(scene)
    scene.orders.publish(trigger, payload)
    asked = yield from _connect(scene)
    if isinstance(asked.packet, codec.Connect) and asked.packet.clean:
        raise Failed("The device reconnected with a clean session.")
    got: int | None = None
    while True:
        event = yield from scene.wait(
            "acknowledge the stored message",
            lambda event: (
                event.kind == "closed" or isinstance(event.packet, codec.Subscribe | codec.Publish | codec.Ack)
            ),
        )
        if trigger in _topics(event):
            raise Failed(f"The device subscribed to {trigger} again, though its session was there.")
        if event.kind == "closed":
            raise Failed("The device disconnected before it acknowledged the stored message.")
        found = event.packet
        if event.kind == "sent" and isinstance(found, codec.Publish) and found.payload == payload:
            got = found.packet_id
        elif isinstance(found, codec.Ack) and found.packet_id == got:
            return


def expired_session(scene: Scene) -> Steps:
    """The session is gone after the reconnect: the device subscribes again."""
    trigger = scene.option("TRIGGER_TOPIC")
    yield from _persistent_subscription(scene)
    scene.orders.forget_session()
    yield from _connected(scene)
    yield from _subscribed(scene, trigger)


# Shadow, jobs, permissions


def _shadow_topic(scene: Scene, action: str) -> str:
    name = scene.option("SHADOW_NAME")
    middle = f"shadow/name/{name}" if name else "shadow"
    return f"$aws/things/{scene.orders.thing}/{middle}/{action}"


def _need_thing(scene: Scene) -> None:
    if not scene.orders.thing:
        raise Failed("The test case needs a thing: start the suite run with a thingArn.")


def _reported(event: Event, topic: str) -> dict[str, Any] | None:
    """The reported state in an update that the device publishes."""
    found = event.packet
    if event.kind != "packet" or not isinstance(found, codec.Publish) or found.topic != topic:
        return None
    try:
        state = orjson.loads(found.payload)["state"]["reported"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return state if isinstance(state, dict) else None


def _holds(state: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    return state is not None and all(state.get(key) == value for key, value in wanted.items())


def shadow_publish(scene: Scene) -> Steps:
    """The device reports its state after it connects."""
    _need_thing(scene)
    wanted = scene.configuration.get("REPORTED_STATE", {})
    topic = _shadow_topic(scene, "update")
    yield from scene.wait(
        f"report {orjson.dumps(wanted).decode() if wanted else 'its state'} to its shadow",
        lambda event: _holds(_reported(event, topic), wanted),
    )


def shadow_update(scene: Scene) -> Steps:
    """The device follows the desired state and reports it."""
    _need_thing(scene)
    wanted = scene.configuration.get("DESIRED_STATE", {})
    if not wanted:
        raise Failed("The test case needs a DESIRED_STATE with one attribute at least.")
    topic, shadow = _shadow_topic(scene, "update"), scene.option("SHADOW_NAME")
    scene.orders.desire(wanted, shadow)
    while True:
        event = yield from scene.wait(
            "report the desired state",
            lambda event: isinstance(event.packet, codec.Suback) or _reported(event, topic) is not None,
        )
        if _holds(_reported(event, topic), wanted):
            return
        if isinstance(event.packet, codec.Suback):
            # It listens from now on: tell it (again) what is desired.
            scene.orders.desire(wanted, shadow)


def job_execution(scene: Scene) -> Steps:
    """The device takes a job and publishes that it has succeeded."""
    _need_thing(scene)
    job = scene.option("JOB_JOBID")
    document, source = scene.option("JOB_DOCUMENT"), scene.option("JOB_DOCUMENT_SOURCE")
    if document or source:
        job = scene.orders.create_job(document, source)
    elif not job:
        raise Failed("The test case needs a JOB_DOCUMENT, a JOB_DOCUMENT_SOURCE or a JOB_JOBID.")
    topic = f"$aws/things/{scene.orders.thing}/jobs/{job}/update"
    while True:
        event = yield from scene.wait(
            f"report that it completed job {job}",
            lambda event: isinstance(event.packet, codec.Publish) and event.packet.topic == topic,
        )
        assert isinstance(event.packet, codec.Publish)
        try:
            status = orjson.loads(event.packet.payload).get("status")
        except (orjson.JSONDecodeError, AttributeError):
            raise Failed("The device's job update is not a JSON object.") from None
        if status == "SUCCEEDED":
            return
        if status in ("FAILED", "REJECTED"):
            raise Failed(f"The device reported that the job has {status.lower()}.")


def device_policies(scene: Scene) -> Steps:
    """The policies of the device's certificate grant no more than needed: no bare wildcards."""
    found = scene.orders.policies()
    if not found:
        raise Failed("No policy is attached to the device's certificate.")
    for policy in found:
        for statement in policy.statements:
            if statement.effect != "Allow":
                continue
            wide = [action for action in statement.actions if action in ("*", "iot:*")]
            wide += [each for each in statement.resources if each.rpartition("/")[2] == "*" and "${" not in each]
            wide += [each for each in statement.resources if each == "*"]
            if wide:
                raise Failed(f"{statement.label} allows {', '.join(dict.fromkeys(wide))}.")
    return
    yield


CASES: dict[str, Case] = {
    "TLS_Connect": Case("The device completes a TLS handshake.", tls_connect),
    "TLS_Receive_Maximum_Size_Fragments": Case(
        "The device takes a message that fills TLS records of the greatest size.", tls_fragments
    ),
    "TLS_Support_AWS_IoT_Cipher_Suites": Case(
        "The device offers cipher suites that AWS IoT Core recommends, and no others.", tls_cipher_suites
    ),
    "TLS_Large_Size_Server_Cert": Case(
        "The device completes a handshake with a larger server certificate.", tls_connect, "large"
    ),
    "TLS_Unsecure_Server_Cert": Case(
        "The device refuses a server certificate that its CA did not sign.", tls_refused, "unknown-ca"
    ),
    "TLS_Incorrect_Subject_Name_Server_Cert": Case(
        "The device refuses a server certificate for another name.", tls_refused, "wrong-name"
    ),
    "TLS_Expired_Server_Cert": Case(
        "The device refuses an expired server certificate, with a TLS alert.", tls_expired, "expired"
    ),
    "MQTT_Connect": Case("The device sends CONNECT and is accepted.", mqtt_connect),
    "MQTT_Client_Puback_QoS1": Case("The device acknowledges a QoS 1 message.", client_puback),
    "MQTT_Connect_Jitter_Backoff_Retries": Case(
        "Without CONNACK the device tries again, with backoff and jitter.", jitter_backoff
    ),
    "MQTT_Connect_Exponential_Backoff_Retries": Case(
        "Without CONNACK the device tries again, with exponential backoff.", exponential_backoff
    ),
    "MQTT_ReconnectionAfterSuccessfulConnection": Case(
        "The device waits a second at least before it reconnects.", reconnect_after_success
    ),
    "MQTT_Reconnect_Backoff_Retries_On_Server_Disconnect": Case(
        "Disconnected again and again, the device backs off with jitter.", reconnect_backoff
    ),
    "MQTT_Reconnect_Backoff_Retries_On_Unstable_Connection": Case(
        "Connected and disconnected again and again, the device backs off with jitter.", reconnect_unstable
    ),
    "MQTT_Publish": Case("The device publishes.", mqtt_publish),
    "MQTT_Publish_Retry_No_Puback": Case("Without PUBACK the device publishes again.", publish_retry),
    "MQTT_Publish_Retained_Messages": Case("The device publishes a retained message.", publish_retained),
    "MQTT_Publish_User_Property": Case("The device publishes with user properties (MQTT 5).", publish_user_property),
    "MQTT_Subscribe": Case("The device subscribes.", mqtt_subscribe),
    "MQTT_Subscribe_Retry_No_Suback": Case("Without SUBACK the device subscribes again.", subscribe_retry),
    "MQTT_No_Ack_PingResp": Case("Without PINGRESP the device disconnects.", no_ping_response),
    "MQTT_Persistent_Session_Happy_Case": Case(
        "The device gets a stored message and does not subscribe again.", persistent_session
    ),
    "MQTT_Expired_Persistent_Session": Case("The device subscribes again when its session is gone.", expired_session),
    "Shadow_Publish_Reported_State": Case("The device reports its state to its shadow.", shadow_publish),
    "Shadow_Update_Reported_State": Case("The device follows its shadow's desired state.", shadow_update),
    "Job_Execution": Case("The device completes a job.", job_execution),
    "Security_Device_Policies": Case(
        "The device's policies have no bare wildcards.", device_policies, needs_device=False
    ),
}
