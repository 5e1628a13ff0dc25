"""`foreshore shadow`: the shadows of a thing, over the data plane of the running edge."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from foreshore.cli.aws import ask, json_argument, segment, show
from foreshore.cli.pub import connect
from foreshore.errors import UserError

EVENTS = ("update/accepted", "update/delta", "update/documents", "delete/accepted")

named = click.option("--name", metavar="SHADOW", help="A named shadow; without it, the classic one.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Get, update, delete, list and watch the shadows of a thing."""


def _path(thing: str) -> str:
    return f"/things/{segment(thing)}/shadow"


@command.command()
@click.argument("thing")
@named
@click.pass_context
def get(ctx: click.Context, thing: str, name: str | None) -> None:
    """Print the shadow's document."""
    show(ask(ctx.obj["project"], "iotdata", "GET", _path(thing), name=name))


@command.command()
@click.argument("thing")
@click.argument("document", required=False)
@click.option("--desired", metavar="JSON", help="The desired state to merge in.")
@click.option("--reported", metavar="JSON", help="The reported state to merge in.")
@click.option("--version", type=int, help="Refuse unless the shadow has this version.")
@named
@click.pass_context
def update(
    ctx: click.Context, thing: str, document: str | None, desired: str | None, reported: str | None,
    version: int | None, name: str | None,
) -> None:  # fmt: skip
    """Update the shadow with DOCUMENT (JSON, or a file of it) or with --desired and --reported."""
    if (document is None) == (desired is None and reported is None):
        raise click.UsageError("give DOCUMENT, or --desired and --reported")
    if document is not None:
        wish = json_argument(document, "DOCUMENT")
    else:
        parts = {"desired": desired, "reported": reported}
        wish = {"state": {key: json_argument(text, f"--{key}") for key, text in parts.items() if text is not None}}
    if not isinstance(wish, dict):
        raise UserError("a shadow's document is a JSON object", code="json", mend='write {"state": {…}}')
    if version is not None:
        wish["version"] = version
    show(ask(ctx.obj["project"], "iotdata", "POST", _path(thing), wish, name=name))


@command.command()
@click.argument("thing")
@named
@click.pass_context
def delete(ctx: click.Context, thing: str, name: str | None) -> None:
    """Delete the shadow."""
    show(ask(ctx.obj["project"], "iotdata", "DELETE", _path(thing), name=name))


@command.command(name="list")
@click.argument("thing")
@click.pass_context
def list_(ctx: click.Context, thing: str) -> None:
    """List the thing's named shadows, one a line."""
    token = None
    while True:
        path = f"/api/things/shadow/ListNamedShadowsForThing/{segment(thing)}"
        page = ask(ctx.obj["project"], "iotdata", "GET", path, nextToken=token)
        for name in page["results"]:
            click.echo(name)
        token = page.get("nextToken")
        if not token:
            return


@command.command()
@click.argument("thing")
@named
@click.option("-n", "--count", type=click.IntRange(1), help="Stop after so many messages.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a message: event and document.")
@click.pass_context
def watch(ctx: click.Context, thing: str, name: str | None, count: int | None, as_json: bool) -> None:
    """Print what happens to the shadow until Ctrl-C: updates, deltas, documents, deletion."""
    base = f"$aws/things/{thing}/shadow" + (f"/name/{name}" if name else "")
    left = count or 0

    def on_connect(client: Any, _userdata: object, _flags: object, reason: Any, _properties: object) -> None:
        client.subscribe([(f"{base}/{event}", 1) for event in EVENTS])

    def on_subscribe(*_: object) -> None:
        click.echo(f"watching {base}", err=True)

    def on_message(client: Any, _userdata: object, message: Any) -> None:
        nonlocal left
        event = message.topic.removeprefix(base + "/")
        document = json.loads(message.payload or b"null")
        if as_json:
            sys.stdout.write(json.dumps({"event": event, "document": document}) + "\n")
        else:
            sys.stdout.write(f"{event} {json.dumps(document)}\n")
        sys.stdout.flush()
        left -= 1
        if left == 0:
            client.disconnect()

    client = connect(ctx.obj["project"], "", "", on_connect)
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.loop_forever()
