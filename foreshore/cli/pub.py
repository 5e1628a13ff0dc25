"""`foreshore pub` and `foreshore sub`: MQTT from the command line, over the edge's plain listener."""

from __future__ import annotations

import sys
import threading
from typing import Any

import click

from foreshore.cli.running import endpoints
from foreshore.errors import UserError

SECONDS = 10.0


def connect(folder: str, url: str, client_id: str, on_connect: Any = None) -> Any:
    """A connected paho client (MQTT 5) against `url` (host:port) or the edge that runs in the folder."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    where = url or endpoints(folder).get("mqtt", "")
    host, _, port = where.rpartition(":")
    if not port.isdigit():
        raise UserError(f"{where!r} is not host:port", code="address")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
    client.on_connect = on_connect
    try:
        client.connect(host, int(port))
    except OSError as error:
        raise UserError(
            f"can't connect: {error}", code="not-running", where=where, mend="is `foreshore dev` running?"
        ) from error
    return client


@click.command(help="Publish MESSAGE (- reads standard input, one message a line with --lines) to TOPIC.")
@click.argument("topic")
@click.argument("message")
@click.option("-q", "--qos", type=click.IntRange(0, 1), default=1, show_default=True)
@click.option("-r", "--retain", is_flag=True, help="Keep it as the topic's retained message.")
@click.option("--lines", is_flag=True, help="Each line of the input is a message of its own.")
@click.option("--id", "client_id", default="", help="The client id.")
@click.option("--url", default="", metavar="HOST:PORT", help="Another broker than the edge's plain listener.")
@click.pass_context
def command(
    ctx: click.Context, topic: str, message: str, qos: int, retain: bool, lines: bool, client_id: str, url: str
) -> None:
    """Publish and wait for the acknowledgements."""
    data = sys.stdin.buffer.read() if message == "-" else message.encode()
    payloads = [line for line in data.splitlines() if line] if lines else [data]
    client = connect(ctx.obj["project"], url, client_id)
    left = len(payloads)
    done = threading.Event()
    refusals: list[str] = []

    def on_publish(_client: object, _userdata: object, _mid: int, reason: Any, _properties: object) -> None:
        nonlocal left
        left -= 1
        if reason is not None and reason.is_failure:
            refusals.append(str(reason))
        if left == 0:
            done.set()

    def on_disconnect(_client: object, _userdata: object, _flags: object, reason: Any, _properties: object) -> None:
        if not done.is_set():
            refusals.append(f"disconnected: {reason}")
            done.set()

    client.on_publish = on_publish
    client.on_disconnect = on_disconnect
    client.loop_start()
    for payload in payloads:
        client.publish(topic, payload, qos=qos, retain=retain)
    answered = not payloads or done.wait(SECONDS)
    client.disconnect()
    client.loop_stop()
    if refusals or not answered:
        raise UserError(refusals[0] if refusals else "the broker did not acknowledge", code="publish", where=topic)
