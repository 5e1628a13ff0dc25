"""`foreshore logs`: log lines of services, functions and components, from the trace store."""

from __future__ import annotations

import json
import time
from contextlib import closing

import click

from foreshore.cli.running import state_file
from foreshore.traces.store import TraceReader

POLL_SECONDS = 0.2


@click.command(help="Show the last log lines; -f follows them.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("-n", "--lines", default=100, show_default=True, help="How many of the last lines.")
@click.option("--source", default="", metavar="GLOB", help="Only lines of this component, function or service.")
@click.option("--trace", "trace_id", default="", metavar="ID", help="Only lines of this trace.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def command(ctx: click.Context, follow: bool, lines: int, source: str, trace_id: str, as_json: bool) -> None:
    """Show log lines."""
    with closing(TraceReader(state_file(ctx.obj["project"], "traces.db"))) as reader:
        rows = list(reader.logs(source=source, trace_id=trace_id, limit=1_000_000))[-lines:] if lines else []
        last = rows[-1][0] if rows else reader.last_log_row()
        while True:
            for row, line in rows:
                last = row
                if as_json:
                    click.echo(json.dumps(line._asdict()))
                else:
                    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.time_ns / 1e9))
                    click.echo(f"{clock} {line.source:<24} {line.level:<5} {line.text}")
            if not follow:
                return
            time.sleep(POLL_SECONDS)
            rows = list(reader.logs(after_row=last, source=source, trace_id=trace_id))
