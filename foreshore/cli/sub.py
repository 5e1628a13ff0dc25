"""`foreshore sub`: print the messages of topic filters."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from foreshore.cli.pub import connect
from foreshore.errors import UserError


@click.command(help="Print the messages of FILTERS until Ctrl-C.")
@click.argument("filters", nargs=-1, required=True)
@click.option("-q", "--qos", type=click.IntRange(0, 1), default=1, show_default=True)
@click.option("-n", "--count", type=click.IntRange(1), help="Stop after so many messages.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a message: topic, payload, qos, retain, properties."
)
@click.option("--id", "client_id", default="", help="The client id.")
@click.option("--url", default="", metavar="HOST:PORT", help="Another broker than the edge's plain listener.")
@click.pass_context
def command(
    ctx: click.Context, filters: tuple[str, ...], qos: int, count: int | None, as_json: bool, client_id: str, url: str
) -> None:
    """Subscribe and print."""
    left = count or 0
    refusals: list[str] = []

    def on_connect(client: Any, _userdata: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            refusals.append(str(reason))
            client.disconnect()
        else:
            client.subscribe([(name, qos) for name in filters])

    def on_subscribe(client: Any, _userdata: object, _mid: int, reasons: list[Any], _properties: object) -> None:
        for name, reason in zip(filters, reasons, strict=False):
            if reason.is_failure:
                refusals.append(f"{name}: {reason}")
                client.disconnect()

    def on_message(client: Any, _userdata: object, message: Any) -> None:
        nonlocal left
        _print(message, as_json)
        left -= 1
        if left == 0:
            client.disconnect()

    client = connect(ctx.obj["project"], url, client_id, on_connect)
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.loop_forever()
    if refusals:
        raise UserError(refusals[0], code="subscribe")


def _print(message: Any, as_json: bool) -> None:
    if as_json:
        row = {
            "topic": message.topic, "payload": message.payload.decode("utf-8", "backslashreplace"), "qos": message.qos,
            "retain": message.retain, "properties": message.properties.json() if message.properties else None,
        }  # fmt: skip
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        sys.stdout.write(f"{message.topic} {message.payload.decode('utf-8', 'backslashreplace')}\n")
    sys.stdout.flush()
