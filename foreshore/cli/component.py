"""`foreshore component`: the components of a running edge, through its administration paths."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from foreshore.cli.from_lambda import command as from_lambda
from foreshore.cli.running import chosen_core, endpoints
from foreshore.errors import UserError

NOT_RUNNING = "start it in another terminal: foreshore dev"
FOLLOW_S = 0.3


class Edge:
    """A running edge's administration of one core."""

    def __init__(self, project: Path, thing: str | None) -> None:
        found = endpoints(str(project))
        self.thing = chosen_core(list(found.get("cores") or {}), thing)
        self._base = f"{found['aws']}/_foreshore/greengrass/{quote(self.thing, safe='')}"

    def ask(self, method: str, path: str, body: object = None) -> tuple[bytes, Mapping[str, str]]:
        """One exchange; give the body and headers. Raises UserError with what the core said."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._base}/{path}", data=data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return response.read(), response.headers
        except urllib.error.HTTPError as error:
            raise _said(error.code, error.read()) from None
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(
                f"the edge does not answer: {reason}", code="not-running", where=self._base, mend=NOT_RUNNING
            ) from None

    def json(self, method: str, path: str, body: object = None) -> Any:
        """As `ask`, decoded."""
        return json.loads(self.ask(method, path, body)[0])


def _said(status: int, body: bytes) -> UserError:
    try:
        error = json.loads(body)["error"]
        return UserError(error["message"], code=error["code"], where=error["where"], mend=error["mend"])
    except (ValueError, KeyError, TypeError):
        return UserError(f"the edge answered {status}: {body[:200].decode('utf-8', 'replace')}", code="edge-error")


@click.group(name="component", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--core", "thing", metavar="THING", help="Which core, when several run.")
@click.pass_context
def command(ctx: click.Context, thing: str | None) -> None:
    """List, deploy, restart and stop Greengrass components; read their configuration and logs."""
    project = Path((ctx.obj or {}).get("project", "."))
    ctx.obj = {**(ctx.obj or {}), "edge": lambda: Edge(project, thing), "folder": project.absolute()}


def _edge(ctx: click.Context) -> Edge:
    edge: Edge = ctx.obj["edge"]()
    return edge


command.add_command(from_lambda)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@command.command(name="list")
@as_json
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """Show every component with version, state and process ids."""
    found = _edge(ctx).json("GET", "components")
    if as_json:
        click.echo(json.dumps(found))
        return
    width = max((len(each["name"]) for each in found), default=4)
    for each in found:
        pids = ",".join(map(str, each["pids"]))
        click.echo(f"{each['name']:<{width}}  {each['version']:<10} {each['state']:<10} {pids}".rstrip())


@command.command()
@click.argument("name")
@as_json
@click.pass_context
def details(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one component with its configuration, and the last lines of one that is ERRORED or BROKEN."""
    found = _edge(ctx).json("GET", f"components/{quote(name)}")
    if as_json:
        click.echo(json.dumps(found))
        return
    for key in ("name", "version", "state", "reason"):
        if found[key]:
            click.echo(f"{key}: {found[key]}")
    if found["lastLines"]:
        click.echo("it last wrote:")
        for line in found["lastLines"]:
            click.echo(f"    {line}")
    click.echo(json.dumps(found["configuration"], indent=2))


@command.command()
@click.argument("name")
@click.pass_context
def restart(ctx: click.Context, name: str) -> None:
    """Restart a component; a BROKEN one is installed anew."""
    found = _edge(ctx).json("POST", f"components/{quote(name)}/restart")
    click.echo(f"{name}: restart requested, it is {found['state']}")


@command.command()
@click.argument("name")
@click.pass_context
def stop(ctx: click.Context, name: str) -> None:
    """Stop a component until it is restarted."""
    found = _edge(ctx).json("POST", f"components/{quote(name)}/stop")
    click.echo(f"{name}: stop requested, it is {found['state']}")


@command.command()
@click.argument("name")
@click.option("--merge", metavar="JSON", help="A JSON object to merge in.")
@click.option("--reset", metavar="POINTER", multiple=True, help="A JSON pointer to set back to its default.")
@click.pass_context
def config(ctx: click.Context, name: str, merge: str | None, reset: tuple[str, ...]) -> None:
    """Show a component's configuration, or change it by a local deployment."""
    edge = _edge(ctx)
    if merge is not None or reset:
        wish = {"MERGE": _object(merge, "--merge") if merge else {}, "RESET": list(reset)}
        _tell(edge.json("POST", f"components/{quote(name)}/configuration", wish))
    found = edge.json("GET", f"components/{quote(name)}")
    click.echo(json.dumps(found["configuration"], indent=2))


@command.command()
@click.argument("components", nargs=-1, metavar="[NAME=VERSION]...")
@click.option("--recipes", metavar="DIR", help="Recipes to bring in.")
@click.option("--artifacts", metavar="DIR", help="Artifacts to bring in, as NAME/VERSION/FILE.")
@click.option("--remove", metavar="NAME", multiple=True, help="A component to take out.")
@click.option("--update-config", metavar="JSON", help='{"NAME": {"MERGE": {…}, "RESET": […]}}, or a file of it.')
@click.option("--failure-policy", type=click.Choice(["ROLLBACK", "DO_NOTHING"]), default="ROLLBACK")
@as_json
@click.pass_context
def deploy(
    ctx: click.Context,
    components: tuple[str, ...],
    recipes: str | None,
    artifacts: str | None,
    remove: tuple[str, ...],
    update_config: str | None,
    failure_policy: str,
    as_json: bool,
) -> None:
    """Deploy to the core and wait until it is over.

    Without arguments: the project's recipes/deployment.yaml. Else a local deployment, a delta on what runs, as
    greengrass-cli's `deployment create` makes.
    """
    folder: Path = ctx.obj["folder"]
    wish: dict[str, object]
    if not (components or recipes or artifacts or remove or update_config):
        wish = {"project": str(folder)}
    else:
        wish = {
            "recipeDir": str(Path(recipes).absolute()) if recipes else "",
            "artifactDir": str(Path(artifacts).absolute()) if artifacts else "",
            "add": dict(_pair(text) for text in components),
            "remove": list(remove),
            "config": _object(update_config, "--update-config") if update_config else {},
            "failurePolicy": failure_policy,
        }
    status = _edge(ctx).json("POST", "deployments?wait=1", wish)
    if as_json:
        click.echo(json.dumps(status))
        ctx.exit(0 if status["status"] == "SUCCEEDED" else 1)
    _tell(status)
    click.echo(f"deployment {status['id']}: {status['status']}")


@command.command()
@click.argument("name")
@click.option("-n", "--lines", default=50, show_default=True, help="How many lines from the end.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.pass_context
def logs(ctx: click.Context, name: str, lines: int, follow: bool) -> None:
    """Print the end of a component's log file (`greengrass` is the core's own)."""
    edge = _edge(ctx)
    text, headers = edge.ask("GET", f"components/{quote(name)}/logs?lines={lines}")
    click.echo(text.decode("utf-8", "replace"), nl=False)
    while follow:
        time.sleep(FOLLOW_S)
        offset = headers["X-Log-Offset"]
        text, headers = edge.ask("GET", f"components/{quote(name)}/logs?offset={offset}")
        click.echo(text.decode("utf-8", "replace"), nl=False)


def _tell(status: Mapping[str, Any]) -> None:
    """Raise what went wrong with a deployment. Raises UserError."""
    if status["status"] != "SUCCEEDED":
        raise UserError(
            f"the deployment ended {status['status']} ({status['detailed']})\n{status['failure_cause']}",
            code="deployment-failed",
            mend="foreshore component logs NAME shows more",
        )


def _pair(text: str) -> tuple[str, str]:
    name, equals, version = text.partition("=")
    if not equals or not version:
        raise UserError(f"{text!r} is not NAME=VERSION", code="bad-argument", mend="write com.example.App=1.0.0")
    return name, version


def _object(text: str, option: str) -> dict[str, object]:
    if not text.lstrip().startswith("{") and Path(text).is_file():
        text = Path(text).read_text()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{option} is not JSON: {error}", code="bad-argument", mend="quote it for the shell") from None
    if not isinstance(value, dict):
        raise UserError(f"{option} must be a JSON object", code="bad-argument", mend="write {…}")
    return value
