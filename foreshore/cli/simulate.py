"""`foreshore simulate`: run a scenario's devices against the edge."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foreshore.cli.running import chosen_core, endpoints
from foreshore.errors import UserError

if TYPE_CHECKING:
    from foreshore.simulate.fleet import Fleet, Report
    from foreshore.simulate.identities import Identity


@click.command(help="Run the devices of SCENARIO (YAML) against the edge that runs in this folder.")
@click.argument("scenario", type=click.Path(dir_okay=False))
@click.option("--to", "target", type=click.Choice(["core", "iot"]), default="core", show_default=True,
              help="A core's local MQTT, or IoT Core.")  # fmt: skip
@click.option("--core", "thing", metavar="THING", help="Which core, when several run.")
@click.option("--rate", type=float, help="Readings a second over the whole fleet; 0: as fast as they are taken.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a device.")
@click.pass_context
def command(
    ctx: click.Context, scenario: str, target: str, thing: str | None, rate: float | None, as_json: bool
) -> None:
    """Replay and report."""
    reports = replay(ctx.obj["project"], Path(scenario), target, rate, show_progress=not as_json, thing=thing)
    failed = False
    for report in reports:
        failed |= bool(report.error)
        if as_json:
            row = {name: getattr(report, name) for name in ("device", "published", "acknowledged", "seconds", "error")}
            click.echo(json.dumps(row))
        else:
            speed = report.acknowledged / report.seconds if report.seconds else 0.0
            click.echo(f"{report.device:<24} {report.acknowledged:6} of {report.published:6} acknowledged, "
                       f"{speed:8.1f}/s {report.error}")  # fmt: skip
    ctx.exit(1 if failed else 0)


def replay(
    folder: str,
    path: Path,
    target: str,
    rate: float | None,
    *,
    show_progress: bool,
    ends: dict[str, Any] | None = None,
    home: Path | None = None,
    thing: str | None = None,
) -> list[Report]:
    """Make the identities, connect and replay; gives a report a device. Raises UserError."""
    from foreshore.simulate.fleet import Fleet
    from foreshore.simulate.identities import Registrar
    from foreshore.simulate.scenario import parse

    ends = ends or endpoints(folder)
    try:
        scenario = parse(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}", code="scenario", where=str(path)) from error
    if rate is not None:
        scenario = dataclasses.replace(scenario, rate=rate)
    home = home or Path(folder).resolve() / ".foreshore"

    async def identities() -> dict[str, Identity]:
        registrar = Registrar(ends["aws"], ends["region"], home / "devices")
        try:
            return {device.name: await registrar.ensure(device.name) for device in scenario.devices}
        finally:
            await registrar.close()

    made = asyncio.run(identities())
    host, port, ca = _listener(ends, target, thing)
    fleet = Fleet(scenario, host, port, Path(folder).resolve() / ca, made)
    if not show_progress:
        return fleet.run()
    return _with_progress(fleet)


def _listener(ends: dict[str, Any], target: str, thing: str | None) -> tuple[str, int, str]:
    """Host, port and CA file of the listener that the fleet connects to."""
    cores, ca = ends.get("cores", {}), ends["ca"]
    if target == "iot":
        where = ends.get("mqtts", "")
    elif cores:
        core = cores[chosen_core(list(cores), thing)]
        where, ca = core.get("mqtts", ""), core.get("ca", ca)
    else:
        where = ""
    host, _, port = where.rpartition(":")
    if not port:
        raise UserError(
            f"this edge has no {target} listener", code="not-running", mend="start it with the rooms iot and greengrass"
        )
    return host, int(port), ca


def _with_progress(fleet: Fleet) -> list[Report]:
    import sys

    if not sys.stderr.isatty():
        return fleet.run()
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        task = progress.add_task("readings", total=None)
        return fleet.run(lambda count: progress.update(task, completed=count))
