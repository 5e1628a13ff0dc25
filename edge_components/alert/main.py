"""Lambda handler: readings in from `edge/readings/+`, alerts out to `foreshore/alerts/<device>` on IoT Core.

Settings are environment variables: RULES (JSON, see logic), MAX_KEYS, OUTPUT_PREFIX, STATS_TOPIC.
A message {"command": "count" | "flush" | "reset", "run": …} is answered with the counts.
"""

import json
import logging
import os

import greengrasssdk
from logic import Alerts

log = logging.getLogger(__name__)
client = greengrasssdk.client("iot-data")

OUTPUT_PREFIX = os.environ.get("OUTPUT_PREFIX", "foreshore/alerts/")
STATS_TOPIC = os.environ.get("STATS_TOPIC", "foreshore/stats/alert")
alerts = Alerts(json.loads(os.environ.get("RULES", "[]")), int(os.environ.get("MAX_KEYS", 10_000)))


def handler(event, context):
    """One reading, or one command. Gives what was published: a list of {"topic", "payload"}."""
    if isinstance(event, dict) and "command" in event:
        return answer(event)
    return [publish(OUTPUT_PREFIX + alert["device"], alert) for alert in alerts.accept(event)]


def answer(command):
    """Publish the counts, confirmed; `reset` starts them anew afterwards."""
    log.info("command %s, run %s: %s", command["command"], command.get("run"), alerts.stats())
    message = {"component": "alert", "command": command["command"], "run": command.get("run"), **alerts.stats()}
    if command["command"] == "reset":
        alerts.reset()
    return [publish(STATS_TOPIC, message, queueFullPolicy="AllOrException")]


def publish(topic, message, **policy):
    """Publish as compact JSON."""
    client.publish(topic=topic, payload=json.dumps(message, separators=(",", ":")), **policy)
    return {"topic": topic, "payload": message}
