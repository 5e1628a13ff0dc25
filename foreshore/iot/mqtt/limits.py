"""What a broker allows, as data: AWS IoT Core's quotas and differences, and a standard MQTT broker without them. Pure.

Numbers are from the page "AWS IoT Core endpoints and quotas"; sizes are bytes, times seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from foreshore.iot.mqtt import reason
from foreshore.iot.mqtt.properties import CONTENT_TYPE, CORRELATION_DATA, USER_PROPERTY, Properties

Profile = Literal["aws", "standard"]

NEVER = 0xFFFFFFFF
"""A session expiry that never comes (MQTT 5, section 3.1.2.11.2)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """One profile. A limit of 0 means none; `aws` switches the refusals that differ in kind, not in number.

    `denied_filter` is the SUBACK reason for a filter that access refuses. The standard profile does not tell why (0x80,
    MQTT 5 table 3-8), as clients that know the codes of 3.1.1 alone expect. `stored_replay` is how many messages a
    second a client gets of what was stored while it was away, `shared_replay` of what waited for any member of a group.
    """

    aws: bool
    max_qos: int
    hash_matches_parent: bool
    subscription_ids: bool
    wildcard_retained: bool
    max_packet: int
    max_payload: int
    max_topic: int
    max_slashes: int
    max_client_id: int
    max_filters: int
    max_subscriptions: int
    receive_maximum: int
    send_window: int
    topic_alias_maximum: int
    keep_alive_min: int
    keep_alive_max: int
    server_keep_alive: int
    session_expiry_max: int
    session_expiry_311: int
    message_expiry_max: int
    redelivery_311: int
    redelivery_5: int
    publish_rate: int
    byte_rate: int
    connect_interval: float
    retained_interval: float
    websocket_ttl: float
    denied_filter: int
    max_user_properties: int = 0
    max_correlation: int = 0
    max_content_type: int = 0
    max_share_members: int = 0
    max_share_groups: int = 0
    stored_replay: int = 0
    shared_replay: int = 0
    max_queued: int = 20_000
    max_queued_bytes: int = 16 * 1024 * 1024
    max_unsent_bytes: int = 1024 * 1024


AWS = Limits(
    aws=True,
    max_qos=1,
    hash_matches_parent=False,
    subscription_ids=False,
    wildcard_retained=False,
    max_packet=146 * 1024,
    max_payload=128 * 1024,
    max_topic=256,
    max_slashes=7,
    max_client_id=128,
    max_filters=8,
    max_subscriptions=50,
    receive_maximum=100,
    send_window=100,
    topic_alias_maximum=8,
    keep_alive_min=30,
    keep_alive_max=1200,
    server_keep_alive=0,
    session_expiry_max=3600,
    session_expiry_311=3600,
    message_expiry_max=604_800,
    redelivery_311=3600,
    redelivery_5=16 * 60,
    publish_rate=100,
    byte_rate=512 * 1024,
    connect_interval=1.0,
    retained_interval=1.0,
    websocket_ttl=86_400.0,
    denied_filter=reason.NOT_AUTHORIZED,
    max_user_properties=8 * 1024,
    max_correlation=8 * 1024,
    max_content_type=256,
    max_share_members=100,
    max_share_groups=100,
    stored_replay=10,
    shared_replay=20,
)

STANDARD = Limits(
    aws=False,
    max_qos=2,
    hash_matches_parent=True,
    subscription_ids=True,
    wildcard_retained=True,
    max_packet=1024 * 1024,
    max_payload=0,
    max_topic=0,
    max_slashes=0,
    max_client_id=0,
    max_filters=0,
    max_subscriptions=0,
    receive_maximum=100,
    send_window=65535,
    topic_alias_maximum=64,
    keep_alive_min=0,
    keep_alive_max=0,
    server_keep_alive=60,
    session_expiry_max=NEVER,
    session_expiry_311=NEVER,
    message_expiry_max=NEVER,
    redelivery_311=0,
    redelivery_5=0,
    publish_rate=0,
    byte_rate=0,
    connect_interval=0.0,
    retained_interval=0.0,
    websocket_ttl=0.0,
    denied_filter=reason.UNSPECIFIED_ERROR,
)

PROFILES: dict[str, Limits] = {"aws": AWS, "standard": STANDARD}

RESERVED_PUBLISH = (
    "$aws/things/",
    "$aws/rules/",
    "$aws/certificates/",
    "$aws/provisioning-templates/",
    "$aws/commands/",
    "$aws/device_location/",
    "$aws/greengrass/",
    "$aws/greengrassv2/",
    "$aws/iotwireless/",
    "$aws/sitewise/",
)
RESERVED_SUBSCRIBE = (*RESERVED_PUBLISH[:1], *RESERVED_PUBLISH[2:], "$aws/events/")
"""Reserved topics a client may use (AWS IoT developer guide, "Reserved topics"); any other `$` topic is refused."""


_ANSWER = re.compile(
    r"\$aws/(?:"
    r"things/[^/]+/(?:"
    r"shadow/(?:name/[^/]+/)?(?:(?:get|update|delete)/(?:accepted|rejected)|update/(?:delta|documents))"
    r"|jobs/(?:notify|notify-next|(?:.+/)?(?:accepted|rejected))"
    r"|tunnels/notify"
    r"|defender/metrics/[^/]+/(?:accepted|rejected)"
    r"|streams/[^/]+/(?:data|description|rejected)/[^/]+)"
    r"|certificates/.+/(?:accepted|rejected)"
    r"|provisioning-templates/.+/(?:accepted|rejected)"
    r"|commands/.+/(?:request(?:/[^/]+)?|response/(?:accepted|rejected)(?:/[^/]+)?))"
)
"""Topics whose one "client operation allowed" is Subscribe (AWS IoT developer guide, "Reserved topics")."""


def topic_problem(limits: Limits, topic: str, reserved: tuple[str, ...]) -> bool:
    """Whether a profile refuses a (well-formed) topic name or filter for its length, slashes or reserved prefix.

    The first three levels of a Basic Ingest topic count for nothing; service topics have no slash limit.
    """
    if not limits.aws:
        return False
    if topic.startswith("$"):
        if not topic.startswith(reserved):
            return True
        if not topic.startswith("$aws/rules/"):
            return len(topic.encode()) > 1024
        topic = topic.split("/", 3)[-1]
    return len(topic.encode()) > limits.max_topic or topic.count("/") > limits.max_slashes


def clamp_keep_alive(limits: Limits, asked: int) -> int:
    """The keep-alive in force, in seconds; 0 for none."""
    if limits.aws:
        if asked == 0:
            return limits.keep_alive_max
        return min(max(asked, limits.keep_alive_min), limits.keep_alive_max)
    if limits.server_keep_alive and asked > limits.server_keep_alive:
        return limits.server_keep_alive
    return asked


def share_is_full(limits: Limits, members: Mapping[str, int], filter: str) -> bool:
    """Whether a share group takes no more members, or the account no more groups. `members` counts them by filter."""
    if filter in members:
        return 0 < limits.max_share_members <= members[filter]
    return 0 < limits.max_share_groups <= len(members)


def properties_too_big(limits: Limits, properties: Properties) -> bool:
    """Whether a PUBLISH's or will's user properties, correlation data or content type exceed their quotas, in bytes."""
    if not limits.max_user_properties:
        return False
    pairs = properties.get(USER_PROPERTY, ())
    return (
        sum(len(name.encode()) + len(value.encode()) for name, value in pairs) > limits.max_user_properties
        or len(properties.get(CORRELATION_DATA, b"")) > limits.max_correlation
        or len(properties.get(CONTENT_TYPE, "").encode()) > limits.max_content_type
    )


def is_answer(topic: str) -> bool:
    """Whether a reserved topic is one that the service alone publishes to: clients may only subscribe."""
    return _ANSWER.fullmatch(topic) is not None
