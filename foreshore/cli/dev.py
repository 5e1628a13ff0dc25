"""`foreshore dev`: start the local AWS edge, say where everything is, show the live flow until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from foreshore.app import ROOMS, App, Options
from foreshore.errors import UserError
from foreshore.seams import LogLine, Span
from foreshore.tuning import settle_memory


def edge_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `dev`, `exec` and `demo` share."""
    option = click.option
    decorators = [
        option("--port-base", type=click.IntRange(0, 65000), metavar="N",
               help="Move all ports to N and up; 0: free ones."),
        option("--only", metavar="ROOMS", help=f"Start only these: {', '.join(ROOMS)}."),
        option("--backend", metavar="URL", default="", help="Use this AWS-compatible backend, not a MiniStack child."),
        option("--home", metavar="DIR", help="Keep state, certificates and endpoints.json here, not in .foreshore."),
        option("--ephemeral", is_flag=True, help="Begin with no state."),
        option("--template", "templates", metavar="PATH", multiple=True, help="A SAM or CloudFormation template."),
        option("--recipes", metavar="DIR", help="The folder of Greengrass recipes."),
        option("--mqtt", "mqtt_profile", type=click.Choice(["aws", "standard"]), default="aws", show_default=True,
               help="AWS's MQTT rules, or the standard's."),
        option("--plain-policy", metavar="FILE", help="An IoT policy for clients of the plain MQTT listener."),
        option("--no-rate-limits", is_flag=True, help="Lift AWS's limits on message and connection rates."),
        option("--check-roles", is_flag=True, help="Ask roles and resource policies before a rule acts."),
        option("--strict-live", is_flag=True, help="Refuse rule SQL that the live service was seen to refuse."),
        option("--runtime-client", type=click.Choice(["thin", "awslambdaric"]), default="thin", show_default=True,
               help="What speaks the Lambda Runtime API in a worker."),
        option("--core-profile", type=click.Choice(["classic", "lite"]), default="classic", show_default=True,
               help="Behave as this Greengrass nucleus."),
        option("--core", "cores", metavar="THING", multiple=True,
               help="Run a core device of this thing name; several times for several."),
        option("--port-443", is_flag=True,
               help="Take HTTPS, WebSocket and MQTT by ALPN on port 443 too, as AWS does."),
        option("--host", default="127.0.0.1", show_default=True, help="The address to listen on."),
    ]  # fmt: skip
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def options_of(folder: str, values: dict[str, Any]) -> Options:
    """Click's values as Options. Raises UserError for an unknown room."""
    only = tuple(name.strip() for name in (values.get("only") or ",".join(ROOMS)).split(",") if name.strip())
    unknown = set(only) - set(ROOMS)
    if unknown:
        raise UserError(
            f"no such room: {', '.join(sorted(unknown))}", code="only", mend=f"known are {', '.join(ROOMS)}"
        )
    return Options(
        folder=Path(folder), home=Path(values["home"]).resolve() if values["home"] else None, host=values["host"],
        port_base=values["port_base"], only=only, backend=values["backend"],
        ephemeral=values["ephemeral"], templates=tuple(map(Path, values["templates"])),
        recipes=Path(values["recipes"]) if values["recipes"] else None, mqtt_profile=values["mqtt_profile"],
        plain_policy=Path(values["plain_policy"]) if values["plain_policy"] else None,
        rate_limits=not values["no_rate_limits"], check_roles=values["check_roles"], strict_live=values["strict_live"],
        runtime_client=values["runtime_client"],
        core_profile=values["core_profile"], cores=values["cores"], port_443=values["port_443"],
    )  # fmt: skip


def run_edge(options: Options, body: Callable[[App, asyncio.Event], Awaitable[int]]) -> int:
    """Run `body` against a started edge; SIGINT and SIGTERM set the event it gets. Always stops what was started."""

    async def main() -> int:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        from foreshore.console.server import Console

        app = App(options, Console)
        starting = asyncio.ensure_future(app.start())
        interrupted = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({starting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return 130
        interrupted.cancel()
        await starting
        settle_memory()
        try:
            return await body(app, stopping)
        finally:
            await app.stop()

    if sys.platform == "win32":
        return asyncio.run(main())
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


@click.command(help="Start the local AWS edge and show its live flow. Ctrl-C stops everything it started.")
@click.option("--json", "as_json", is_flag=True, help="Print one ready line of JSON, then nothing but errors.")
@click.option("--quiet", is_flag=True, help="Do not show the live flow.")
@edge_options
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, quiet: bool, **values: Any) -> None:
    """Start the edge and wait."""

    async def body(app: App, stopping: asyncio.Event) -> int:
        if as_json:
            import orjson

            sys.stdout.write(orjson.dumps(app.endpoints).decode() + "\n")
            sys.stdout.flush()
        else:
            show_endpoints(app)
            if not quiet:
                app.recorder.listeners.append(show_record)
        await stopping.wait()
        return 0

    ctx.exit(run_edge(options_of(ctx.obj["project"], values), body))


def show_endpoints(app: App) -> None:
    """One line per service, then the console's address."""
    ends = app.endpoints
    rows = [("AWS endpoint", ends["aws"])]
    rows += [(f"MQTT {name}", ends[name]) for name in ("mqtt", "mqtts", "wss") if name in ends]
    rows += [(f"core {name}", core["ipc_socket"]) for name, core in ends.get("cores", {}).items()]
    rows += [(f"api {name}", url) for name, url in ends.get("apis", {}).items()]
    rows += [(f"distribution {name}", url) for name, url in ends.get("distributions", {}).items()]
    for name, where in rows:
        click.echo(f"{name:<28} {where}")
    for note in app.notes:
        click.echo(f"note: {note}")
    click.echo(f"{'console':<28} {ends['console']}")
    click.echo(f"ready in {app.timings['ready']:.2f} s; Ctrl-C stops it")


def show_record(record: Span | LogLine) -> None:
    """One line of the live flow."""
    if isinstance(record, Span):
        mark = " " if record.ok else "!"
        clock = time.strftime("%H:%M:%S", time.localtime(record.start_ns / 1e9))
        took = f"{record.duration_ns / 1e6:8.2f} ms"
        line = f"{clock} {mark} {record.service:<10} {record.name:<58.58} {took} {record.trace_id[:8]}"
    else:
        clock = time.strftime("%H:%M:%S", time.localtime(record.time_ns / 1e9))
        line = f"{clock}   {record.source:<10} {record.level:<5} {record.text}"
    with contextlib.suppress(BrokenPipeError):
        click.echo(line)
