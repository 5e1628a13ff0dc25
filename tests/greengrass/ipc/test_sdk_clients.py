"""Both of awsiotsdk's IPC clients, unmodified, as processes, against both profiles."""

import asyncio

import pytest

V2_TOUR = """
client = GreengrassCoreIPCClientV2()
events, arrived = [], threading.Event()
def on_event(event):
    events.append(event)
    if len(events) == 2:
        arrived.set()
answer, stream = client.subscribe_to_topic(topic="a/+", on_stream_event=on_event,
                                           receive_mode="RECEIVE_ALL_MESSAGES")
json_message = PublishMessage(json_message=JsonMessage(message={"n": 1, "none": None, "list": [1, {}]}))
client.publish_to_topic(topic="a/json", publish_message=json_message)
binary_message = PublishMessage(binary_message=BinaryMessage(message=b"\\x00\\xff"))
client.publish_to_topic(topic="a/binary", publish_message=binary_message)
assert arrived.wait(10)
show(events)
show(error_of(client.publish_to_topic, topic="denied", publish_message=binary_message))
show(client.get_configuration(key_path=["greeting"]))
show(client.get_configuration(key_path=["nested"]))
show(error_of(client.get_configuration, key_path=["nope"]))
changes, changed = [], threading.Event()
def on_change(event):
    changes.append(event)
    changed.set()
_, watch = client.subscribe_to_configuration_update(key_path=["nested"], on_stream_event=on_change)
now = datetime.datetime.now()
client.update_configuration(key_path=["nested"], timestamp=now, value_to_merge={"a": 7})
assert changed.wait(10)
show(changes)
old = datetime.datetime.fromtimestamp(1)
show(error_of(client.update_configuration, key_path=["nested"], timestamp=old, value_to_merge={"a": 8}))
show(error_of(client.update_configuration, key_path=["accessControl"], timestamp=now, value_to_merge={"a": 8}))
show(client.get_configuration(key_path=["nested"]))
client.update_state(state="RUNNING")
show(error_of(client.list_components))
for operation in (stream, watch):
    operation.close().result(10)
client.close().result(10) if hasattr(client.close, "result") else client.close()
"""


def test_the_v2_client_on_classic(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("com.example.A", greeting="hello", nested={"a": 1, "z": None})
            subscriptions = running.core.pubsub.count
            shown = iter(await running.sdk("com.example.A", V2_TOUR))
            events = next(shown)
            assert events[0]["jsonMessage"]["message"] == {"n": 1, "none": None, "list": [1, {}]}
            assert events[0]["jsonMessage"]["context"] == {"topic": "a/json"}
            assert events[1]["binaryMessage"]["message"] == "AP8="
            denied = (
                "Principal com.example.A is not authorized to perform "
                "aws.greengrass.ipc.pubsub:aws.greengrass#PublishToTopic on resource denied"
            )
            assert next(shown) == ["UnauthorizedError", denied]
            assert next(shown) == {"componentName": "com.example.A", "value": {"greeting": "hello"}}
            assert next(shown)["value"] == {"a": 1, "z": None}
            assert next(shown) == ["ResourceNotFoundError", "Key not found"]
            (change,) = next(shown)
            assert change["configurationUpdateEvent"] == {"componentName": "com.example.A", "keyPath": ["nested", "a"]}
            assert next(shown)[0] == "FailedUpdateConditionCheckError"
            assert next(shown) == [
                "InvalidArgumentsError",
                "Config update is not allowed for following fields [accessControl]",
            ]
            assert next(shown)["value"] == {"a": 7, "z": None}
            assert next(shown)[0] == "UnauthorizedError"
            publishes = [span for span in running.spans if span.name.startswith("PublishToTopic")]
            assert [span.name for span in publishes] == ["PublishToTopic a/json", "PublishToTopic a/binary"]
            assert running.core.pubsub.count == subscriptions

    run(scenario())


def test_the_v2_client_on_lite(rig, run) -> None:
    async def scenario() -> None:
        async with rig(profile="lite") as running:
            running.component("com.example.A", greeting="hello", nested={"a": "1"})
            shown = iter(await running.sdk("com.example.A", V2_TOUR))
            assert len(next(shown)) == 2
            assert next(shown) == ["UnauthorizedError", None]
            assert next(shown)["value"] == {"greeting": "hello"}
            next(shown)
            assert next(shown) == ["ResourceNotFoundError", None]
            next(shown)
            assert next(shown) is None  # an older timestamp is silently ignored
            assert next(shown) == ["InvalidArgumentsError", None]
            assert next(shown)["value"] == {"a": 7}
            assert next(shown) == ["ServiceError", None]

    run(scenario())


V1_TOUR = """
from awsiot.eventstreamrpc import Connection, LifecycleHandler
connection = ipc.connect()
received, arrived = [], threading.Event()
class Handler(v1.SubscribeToTopicStreamHandler):
    def on_stream_event(self, event):
        received.append(event)
        arrived.set()
    def on_stream_error(self, error):
        return True
    def on_stream_closed(self):
        pass
operation = connection.new_subscribe_to_topic(Handler())
operation.activate(SubscribeToTopicRequest(topic="a/v1"))
show(operation.get_response().result(10))
publish = connection.new_publish_to_topic()
publish.activate(PublishToTopicRequest(topic="a/v1", publish_message=PublishMessage(
    json_message=JsonMessage(message={"v": 1}))))
show(publish.get_response().result(10))
assert arrived.wait(10)
show(received)
class Pong:
    pass
operation.close().result(10)
connection.close().result(10)
"""


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_the_v1_client(rig, run, profile) -> None:
    async def scenario() -> None:
        async with rig(profile=profile) as running:
            running.component("com.example.A")
            shown = await running.sdk("com.example.A", V1_TOUR)
            assert shown[:2] == [{}, {}]
            assert shown[2][0]["jsonMessage"]["message"] == {"v": 1}

    run(scenario())


REFUSED = """
import os
os.environ["SVCUID"] = "AAAAAAAAAAAAAAAA"
show(error_of(GreengrassCoreIPCClientV2))
"""


def test_a_wrong_token_is_refused_in_words_the_client_knows(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            assert await running.sdk("com.example.A", REFUSED) == [["AccessDeniedError", None]]

    run(scenario())


INSIDE_HANDLER = """
client = GreengrassCoreIPCClientV2()
done = threading.Event()
answers = []
def on_event(event):
    binary = PublishMessage(binary_message=BinaryMessage(message=b"pong"))
    answers.append(client.publish_to_topic(topic="a/pong", publish_message=binary))
    done.set()
_, stream = client.subscribe_to_topic(topic="a/ping", on_stream_event=on_event)
ping = PublishMessage(binary_message=BinaryMessage(message=b"ping"))
client.publish_to_topic(topic="a/ping", publish_message=ping)
show(done.wait(10))
show(answers)
stream.close().result(10)
"""


def test_a_call_inside_a_stream_handler_is_answered(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            running.component("com.example.A")
            assert await running.sdk("com.example.A", INSIDE_HANDLER) == [True, [{}]]

    run(scenario())


IOT_CORE = """
client = GreengrassCoreIPCClientV2()
received, arrived = [], threading.Event()
def on_event(event):
    received.append(event)
    arrived.set()
_, stream = client.subscribe_to_iot_core(topic_name="cloud/+", qos="1", on_stream_event=on_event)
client.publish_to_iot_core(topic_name="cloud/up", qos="1", payload=b"up", content_type="text/plain",
                           user_properties=[UserProperty(key="k", value="v")], correlation_data=b"c")
show("published")
assert arrived.wait(10)
show(received)
show(error_of(client.publish_to_iot_core, topic_name="other", qos="1", payload=b""))
show(error_of(client.publish_to_iot_core, topic_name="cloud/up", qos="2", payload=b""))
states, known = [], threading.Event()
def on_state(event):
    states.append(event)
    known.set()
_, status = client.subscribe_to_iot_core_connection_status(on_stream_event=on_state)
assert known.wait(10)
show(states)
"""


def test_iot_core_through_the_link(rig, run) -> None:
    async def scenario() -> None:
        from foreshore.seams import Publication

        async with rig() as running:
            running.component("com.example.A")

            async def cloud() -> None:
                while not running.link.published:
                    await asyncio.sleep(0.01)
                _, deliver = running.link.subscribed["cloud/+"]
                deliver(Publication("cloud/down", b"\x00", qos=1, response_topic="r", user_properties=[("a", "b")]))

            down = asyncio.ensure_future(cloud())
            shown = await running.sdk("com.example.A", IOT_CORE)
            await down
            (sent,) = running.link.published
            assert (sent.topic, sent.payload, sent.qos, sent.content_type) == ("cloud/up", b"up", 1, "text/plain")
            assert sent.user_properties == [("k", "v")] and sent.correlation_data == b"c" and sent.traceparent
            message = shown[1][0]["message"]
            assert message["topicName"] == "cloud/down" and message["payload"] == "AA=="
            assert message["userProperties"] == [{"key": "a", "value": "b"}] and message["responseTopic"] == "r"
            assert shown[2] == ["UnauthorizedError", "Not Authorized"]
            assert shown[3] == ["InvalidArgumentsError", "Invalid QoS value: 2"]
            assert shown[4] == [{"connectionStatusEvent": {"status": "CONNECTED"}}]

    run(scenario())
