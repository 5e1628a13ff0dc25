"""What a CONNECT may say, and what its CONNACK tells. Pure: the limits and the packet alone decide."""

from __future__ import annotations

from foreshore.iot.mqtt import codec, reason
from foreshore.iot.mqtt import properties as p
from foreshore.iot.mqtt.connection import Connection
from foreshore.iot.mqtt.limits import Limits, is_answer, properties_too_big, topic_problem
from foreshore.iot.mqtt.properties import Properties
from foreshore.iot.mqtt.topics import is_topic


def connect_problem(limits: Limits, packet: codec.Connect) -> int:
    """The reason to refuse a CONNECT by what it says, 0 for none."""
    will = packet.will
    if not packet.client_id and packet.version == 4 and not packet.clean:
        return reason.CLIENT_ID_NOT_VALID  # 3.1.1 [MQTT-3.1.3-8]
    if 0 < limits.max_client_id < len(packet.client_id) * 4 and (len(packet.client_id.encode()) > limits.max_client_id):
        return reason.CLIENT_ID_NOT_VALID
    if p.AUTH_METHOD in packet.properties:
        return reason.BAD_AUTHENTICATION_METHOD  # [MQTT-4.12.0-1]
    if will is None:
        return 0
    if will.qos > limits.max_qos:
        return reason.QOS_NOT_SUPPORTED  # [MQTT-3.2.2-12]
    if not is_topic(will.topic) or topic_problem(limits, will.topic, ("$aws/rules/", "$aws/things/")):
        return reason.TOPIC_NAME_INVALID
    if is_answer(will.topic) and limits.aws:
        return reason.TOPIC_NAME_INVALID
    if properties_too_big(limits, will.properties):
        return reason.QUOTA_EXCEEDED
    return 0


def session_expiry(limits: Limits, packet: codec.Connect) -> int:
    """Seconds that the session outlives its connection."""
    if packet.version == 5:
        asked = int(packet.properties.get(p.SESSION_EXPIRY, 0))
        return min(asked, limits.session_expiry_max)
    return 0 if packet.clean else limits.session_expiry_311


def connack_properties(limits: Limits, connection: Connection, packet: codec.Connect) -> Properties:
    """What MQTT 5 clients are told (AWS IoT developer guide, "MQTT 5 supported features")."""
    asked = packet.properties
    session = connection.session
    assert session is not None
    told: Properties = {}
    if limits.aws or session.expiry_s != asked.get(p.SESSION_EXPIRY, 0):
        told[p.SESSION_EXPIRY] = session.expiry_s
    told[p.RECEIVE_MAXIMUM] = limits.receive_maximum
    if limits.max_qos < 2:
        told[p.MAXIMUM_QOS] = limits.max_qos
    if limits.aws:
        told[p.RETAIN_AVAILABLE] = 1
    told[p.MAXIMUM_PACKET] = limits.max_packet
    if p.ASSIGNED_CLIENT_ID in asked:
        told[p.ASSIGNED_CLIENT_ID] = asked[p.ASSIGNED_CLIENT_ID]
    told[p.TOPIC_ALIAS_MAXIMUM] = limits.topic_alias_maximum
    if limits.aws:
        told |= {p.WILDCARD_AVAILABLE: 1, p.SUBSCRIPTION_ID_AVAILABLE: 0, p.SHARED_AVAILABLE: 1}
    if limits.aws or connection.keep_alive != packet.keep_alive:
        told[p.SERVER_KEEP_ALIVE] = connection.keep_alive  # [MQTT-3.1.2-21]
    return told
