"""kill -9 of a whole core and of a Lambda host under load: what was acknowledged arrives, in its order."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from stream_manager import ReadMessagesOptions, StreamManagerClient

from tests.e2e.conftest import start, stop

HOST = textwrap.dedent("""
    RecipeFormatVersion: '2020-01-25'
    ComponentName: com.example.Count
    ComponentVersion: 1.0.0
    ComponentConfiguration:
      DefaultConfiguration:
        routes: [{topic: 'count/#', type: IOT_CORE}]
        accessControl:
          aws.greengrass.ipc.mqttproxy: {p: {operations: ['*'], resources: ['*']}}
    Manifests:
      - Platform: {os: linux, runtime: '*'}
        Lifecycle:
          run: exec python3 -u {artifacts:path}/lambda_host.pyz --handler main.handler
        Artifacts:
          - URI: s3://BUCKET/com.example.Count/1.0.0/lambda_host.pyz
          - URI: s3://BUCKET/com.example.Count/1.0.0/main.py
""")
# Publishes from a thread of its own, as V1 functions that live long do; what was confirmed is written down.
MAIN = """
import os, pathlib, threading, time
import greengrasssdk

client = greengrasssdk.client("iot-data")
told = pathlib.Path(os.environ["TOLD"])

def count():
    while not pathlib.Path(os.environ["GO"]).exists():
        time.sleep(0.01)
    number = len(told.read_text().split()) if told.exists() else 0
    with told.open("a") as file:
        while not pathlib.Path(os.environ["ENOUGH"]).exists():
            # The number may have been confirmed and not be written down yet when the process was killed.
            client.publish(topic="count/up", payload=str(number), queueFullPolicy="AllOrException")
            print(number, file=file, flush=True)
            number += 1
            # Below the 100 publishes a second that a connection may send.
            time.sleep(0.02)

threading.Thread(target=count, daemon=True).start()

def handler(event, context):
    pass
"""


def write(folder):
    (folder / "recipes").mkdir()
    (folder / "edge_components/count").mkdir(parents=True)
    (folder / "edge_components/count/main.py").write_text(MAIN)
    (folder / "recipes/count.yaml").write_text(HOST)
    update = {"merge": json.dumps({"STREAM_MANAGER_AUTHENTICATE_CLIENT": "false"})}
    components = {
        "com.example.Count": {"componentVersion": "1.0.0"},
        "aws.greengrass.StreamManager": {"componentVersion": "2.2.1", "configurationUpdate": update},
    }
    (folder / "recipes/deployment.json").write_text(json.dumps({"components": components}))


class Subscriber:
    """A session that the broker keeps, and what came to it."""

    def __init__(self):
        self.numbers = []
        self.subscribed = threading.Event()

    def connect(self, edge):
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="counter", protocol=paho.MQTTv5)
        client.on_message = lambda *given: self.numbers.append(int(given[-1].payload))
        client.on_subscribe = lambda *_: self.subscribed.set()
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 3600
        client.connect(*edge.host_port("mqtt"), clean_start=False, properties=kept)
        client.loop_start()
        client.subscribe("count/#", qos=1)
        assert self.subscribed.wait(20)
        return client


def until(condition):
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def told(folder):
    file = folder / "told"
    return [int(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


APPENDER = """
import sys
from stream_manager import MessageStreamDefinition, StrategyOnFull, StreamManagerClient
client = StreamManagerClient(port=int(sys.argv[1]))
if "s" not in client.list_streams():
    client.create_message_stream(MessageStreamDefinition(name="s", strategy_on_full=StrategyOnFull.RejectNewData))
while True:
    print(client.append_message("s", sys.argv[2].encode()), flush=True)
"""


def stream_port(edge):
    [core] = edge.ends["cores"].values()
    return core["stream_manager"].rpartition(":")[2]


def appended_in(folder, kills):
    """The sequence numbers that were acknowledged, whole lines only."""
    return [int(line) for line in (folder / f"appended{kills}").read_text().split("\n")[:-1]]


def test_kill_9_of_core_and_host_loses_nothing_confirmed(tmp_path):
    write(tmp_path)
    environment = {"TOLD": str(tmp_path / "told"), "ENOUGH": str(tmp_path / "enough"), "GO": str(tmp_path / "go")}
    subscriber = Subscriber()
    for kills in range(2):
        edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass", "--no-rate-limits", env=environment)
        client = subscriber.connect(edge)
        (tmp_path / "go").touch()
        appended = (tmp_path / f"appended{kills}").open("wb")
        argv = [sys.executable, "-c", APPENDER, stream_port(edge), str(kills)]
        appender = subprocess.Popen(argv, stdout=appended, stderr=subprocess.DEVNULL)
        before = len(told(tmp_path))
        until(lambda: len(told(tmp_path)) > before + 20 and appended_in(tmp_path, kills))  # noqa: B023
        for pid, line in edge.children().items():
            if "lambda_host.pyz" in line:
                os.kill(pid, signal.SIGKILL)
        before = len(told(tmp_path))
        until(lambda: len(told(tmp_path)) > before + 20)  # noqa: B023
        client.disconnect()
        client.loop_stop()
        before = len(told(tmp_path))
        until(lambda: len(told(tmp_path)) > before + 10)  # noqa: B023
        edge.process.kill()
        edge.process.communicate()
        appender.kill()
        appender.wait()
        appended.close()
    (tmp_path / "enough").touch()
    edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass", "--no-rate-limits", env=environment)
    try:
        client = subscriber.connect(edge)
        confirmed = told(tmp_path)
        until(lambda: set(confirmed) <= set(subscriber.numbers))
        client.disconnect()
        client.loop_stop()
        first_seen = list(dict.fromkeys(subscriber.numbers))
        assert first_seen == sorted(first_seen)
        with StreamManagerClient(port=int(stream_port(edge))) as streams:
            newest = streams.describe_message_stream("s").storage_status.newest_sequence_number
            options = ReadMessagesOptions(min_message_count=newest + 1, max_message_count=newest + 1)
            found = streams.read_messages("s", options)
        assert [message.sequence_number for message in found] == list(range(newest + 1))
        for kills in range(2):
            assert all(found[number].payload == str(kills).encode() for number in appended_in(tmp_path, kills))
    finally:
        stop(edge)
