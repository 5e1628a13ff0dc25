"""Lambda handler: readings in from `edge/readings/+`, windows out to `foreshore/windows/<device>` on IoT Core.

Settings are environment variables: WINDOW_SECONDS, LATENESS_SECONDS, MAX_AHEAD_SECONDS, CLOCK (event or wall),
MAX_KEYS, OUTPUT_PREFIX, STATS_TOPIC. A message {"command": "count" | "flush" | "reset", "run": …} is answered with the
counts; a flush first emits every open window.
"""

import json
import logging
import os
import time

import greengrasssdk
from logic import Windows

log = logging.getLogger(__name__)
client = greengrasssdk.client("iot-data")

OUTPUT_PREFIX = os.environ.get("OUTPUT_PREFIX", "foreshore/windows/")
STATS_TOPIC = os.environ.get("STATS_TOPIC", "foreshore/stats/aggregate")


def milliseconds(name, default):
    """A setting in seconds, as milliseconds."""
    return int(float(os.environ.get(name, default)) * 1000)


windows = Windows(
    milliseconds("WINDOW_SECONDS", 60),
    milliseconds("LATENESS_SECONDS", 0),
    milliseconds("MAX_AHEAD_SECONDS", 86_400),
    os.environ.get("CLOCK", "wall"),
    int(os.environ.get("MAX_KEYS", 10_000)),
)


def handler(event, context):
    """One reading, or one command. Gives what was published: a list of {"topic", "payload"}."""
    if isinstance(event, dict) and "command" in event:
        return answer(event)
    return [publish_window(window) for window in windows.accept(event, int(time.time() * 1000))]


def answer(command):
    """Flush when asked to, then publish the counts, confirmed; `reset` starts them anew afterwards."""
    flushed = windows.flush() if command["command"] == "flush" else []
    published = [publish_window(window) for window in flushed]
    log.info("command %s, run %s: %s", command["command"], command.get("run"), windows.stats())
    message = {"component": "aggregate", "command": command["command"], "run": command.get("run"), **windows.stats()}
    if command["command"] == "reset":
        windows.reset()
    return [*published, publish(STATS_TOPIC, message, queueFullPolicy="AllOrException")]


def publish_window(window):
    """Publish one window under its device's topic."""
    return publish(OUTPUT_PREFIX + window["device"], window)


def publish(topic, message, **policy):
    """Publish as compact JSON."""
    client.publish(topic=topic, payload=json.dumps(message, separators=(",", ":")), **policy)
    return {"topic": topic, "payload": message}
