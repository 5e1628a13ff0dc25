"""A device on paho-mqtt that does as it should: it verifies the server, backs off, reports and reconnects.

`--lax` verifies neither the server's name nor its certificate; `--eager` comes back at once whenever it is cut off.
"""

import argparse
import json
import os
import ssl
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

parser = argparse.ArgumentParser()
parser.add_argument("--lax", action="store_true")
parser.add_argument("--eager", action="store_true")
parser.add_argument("--first", type=float, default=1.0, help="the first delay, in seconds")
options = parser.parse_args()

thing = os.environ["FORESHORE_THING"]
shadow, jobs = f"$aws/things/{thing}/shadow", f"$aws/things/{thing}/jobs"
client = paho.Client(CallbackAPIVersion.VERSION2, thing, protocol=paho.MQTTv311, clean_session=False)
context = ssl.create_default_context(cafile=os.environ["FORESHORE_CA"])
context.load_cert_chain(os.environ["FORESHORE_CERT"], os.environ["FORESHORE_KEY"])
if options.lax:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
client.tls_set_context(context)


def connected(client, data, flags, code, properties):
    if not flags.session_present:
        client.subscribe([(f"{thing}/commands", 1), (f"{shadow}/update/delta", 1), (f"{jobs}/notify-next", 1)])
    client.publish(f"{jobs}/start-next", "{}", 1)
    client.publish(f"{shadow}/update", json.dumps({"state": {"reported": {"up": True}}}), 1)
    client.publish(f"{thing}/readings", '{"value": 1}', 1)


def received(client, data, message):
    body = json.loads(message.payload) if message.payload.startswith(b"{") else {}
    if message.topic.endswith("/delta"):
        client.publish(f"{shadow}/update", json.dumps({"state": {"reported": body["state"]}}), 1)
    execution = body.get("execution") or {}
    if execution.get("status") in ("QUEUED", "IN_PROGRESS"):
        client.publish(f"{jobs}/{execution['jobId']}/update", json.dumps({"status": "SUCCEEDED"}), 1)


client.on_connect, client.on_message = connected, received
delay = 0.0
while True:
    try:
        client.connect(os.environ["FORESHORE_ADVISOR_HOST"], int(os.environ["FORESHORE_ADVISOR_PORT"]), keepalive=1)
        while client.loop(0.1) == paho.MQTT_ERR_SUCCESS:
            if client.is_connected():
                delay = 0.0
    except OSError:
        pass
    delay = 0.02 if options.eager else max(delay * 2, options.first)
    time.sleep(delay)
