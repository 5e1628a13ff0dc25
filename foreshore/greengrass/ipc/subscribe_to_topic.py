"""SubscribeToTopic: a stream of local messages, with MQTT wildcards."""

from __future__ import annotations

from foreshore.greengrass.authorization import PUBSUB
from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    Member,
    Operation,
    Reply,
    invalid_arguments,
    one_of,
    service_error,
    text,
)
from foreshore.greengrass.pubsub import Subscription, has_wildcard

LITE_MAX_SUBSCRIPTIONS = 99
_OTHERS = "RECEIVE_MESSAGES_FROM_OTHERS"


def handle(call: Call) -> Reply:
    """Authorize and subscribe. Without `receiveMode`, a wildcard subscription skips the component's own messages."""
    request = call.request
    topic: str = request["topic"]
    call.authorize(PUBSUB, "SubscribeToTopic", topic)
    if not topic:
        raise invalid_arguments("Subscribe topic must not be empty")
    pubsub = call.core.pubsub
    lite = call.core.profile == "lite"
    if lite and (pubsub.count >= LITE_MAX_SUBSCRIPTIONS or len(topic.encode()) > 256):
        raise service_error("Failed to bind subscription.")
    mode = request.get("receiveMode")
    others_only = not lite and (mode == _OTHERS or (mode is None and has_wildcard(topic)))
    subscription = Subscription(topic, call.component, call.receiver(), others_only=others_only, follows=call.is_traced)
    pubsub.subscribe(subscription)
    call.on_close(lambda: pubsub.unsubscribe(subscription))
    return EMPTY


OPERATION = Operation(
    "SubscribeToTopic",
    handle,
    {"topic": Member(text, True), "receiveMode": Member(one_of("RECEIVE_ALL_MESSAGES", _OTHERS))},
    event="SubscriptionResponseMessage",
    lite=True,
)
