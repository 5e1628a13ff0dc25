"""`foreshore policy`: which IoT policy statement allowed or denied, and why the others did not."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from foreshore.cli.running import state_file
from foreshore.errors import UserError

if TYPE_CHECKING:
    from foreshore.iot.explain import Explanation
    from foreshore.iot.policies import Policy


@click.group()
def command() -> None:
    """Explain which IoT policy statement allowed or denied."""


@command.command("explain")
@click.argument("action")
@click.argument("resource")
@click.option("--thing", "-t", default=None, help="The thing whose certificate's policies are asked.")
@click.option("--client-id", default=None, help="The MQTT client id (default: the thing's name).")
@click.option(
    "--document", "-d", "documents", multiple=True, type=click.Path(path_type=Path),
    help="A policy document in a file, instead of a thing's policies; may be repeated.",
)  # fmt: skip
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="A policy variable, with --document.")
@click.pass_context
def explain(
    ctx: click.Context,
    action: str,
    resource: str,
    thing: str | None,
    client_id: str | None,
    documents: tuple[Path, ...],
    variables: tuple[str, ...],
) -> None:
    """Say whether ACTION (Connect, Publish, Subscribe, …) on RESOURCE (a client id, topic or filter) is allowed.

    Exits 1 when it is denied.
    """
    from foreshore.iot.explain import explain_policies, question

    name, rest = question(action, resource)
    if (thing is None) == (not documents):
        raise click.UsageError("give --thing or --document, one of them")
    if documents:
        policies = [_read(path) for path in documents]
        context = {key.lower(): value for key, value in map(_pair, variables)}
        arn = rest if rest.startswith("arn:") else f"arn:aws:iot:us-east-1:000000000000:{rest}"
        found = explain_policies(policies, name, arn, dict(context))
    else:
        assert thing is not None
        found = _ask(ctx.obj["project"], thing, client_id, name, rest)
    for line in found.lines:
        click.echo(f"  {line}")
    decision = found.decision
    by = decision.statement.label if decision.statement else "no statement allows it"
    click.echo(f"{decision.outcome}: {found.action} on {found.resource} ({by})")
    if not decision.allowed:
        sys.exit(1)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--var")
    return name, value


def _read(path: Path) -> Policy:
    from foreshore.iot.policies import parse

    try:
        return parse(path.read_bytes(), path.name)
    except OSError as error:
        raise UserError(f"can't read the policy: {error.strerror}", where=str(path), mend="name a file") from None


def _ask(folder: str, thing: str, client_id: str | None, action: str, resource: str) -> Explanation:
    from foreshore.iot.explain import explain_thing
    from foreshore.iot.store import Arns, Ground, open_database
    from foreshore.project import Project

    project = Project.read(Path(folder))
    with closing(open_database(state_file(folder, "iot.db"))) as database:
        ground = Ground(database, Arns(project.region, project.account), time.time, lambda: "")
        return explain_thing(ground, thing, client_id, action, resource)
