"""Lambda handler: readings in from `devices/+/readings`, good ones out to `edge/readings/<device>`.

Settings are environment variables: QUANTITIES (JSON, see logic.Filter), DEDUPE_RING, OUTPUT_PREFIX, STATS_TOPIC.
A message {"command": "count" | "flush" | "reset", "run": …} is answered with the counts.
"""

import json
import logging
import os

import greengrasssdk
from logic import Filter

log = logging.getLogger(__name__)
client = greengrasssdk.client("iot-data")

OUTPUT_PREFIX = os.environ.get("OUTPUT_PREFIX", "edge/readings/")
STATS_TOPIC = os.environ.get("STATS_TOPIC", "foreshore/stats/filter")
readings = Filter(json.loads(os.environ.get("QUANTITIES", "{}")), os.environ.get("DEDUPE_RING", 2048))


def handler(event, context):
    """One reading, or one command. Gives what was published: a list of {"topic", "payload"}."""
    command = command_of(event)
    if command is not None:
        return answer(command)
    reading = readings.accept(event)
    return [] if reading is None else [publish(OUTPUT_PREFIX + reading["device"], reading)]


def command_of(event):
    """A command as an object, or None for anything else."""
    if isinstance(event, (bytes, bytearray)):
        if b'"command"' not in event:
            return None
        try:
            event = json.loads(event)
        except ValueError:
            return None
    return event if isinstance(event, dict) and "command" in event else None


def answer(command):
    """Publish the counts, confirmed; `reset` starts them anew afterwards."""
    log.info("command %s, run %s: %s", command["command"], command.get("run"), readings.stats())
    message = {"component": "filter", "command": command["command"], "run": command.get("run"), **readings.stats()}
    if command["command"] == "reset":
        readings.reset()
    return [publish(STATS_TOPIC, message, queueFullPolicy="AllOrException")]


def publish(topic, message, **policy):
    """Publish as compact JSON."""
    client.publish(topic=topic, payload=json.dumps(message, separators=(",", ":")), **policy)
    return {"topic": topic, "payload": message}
