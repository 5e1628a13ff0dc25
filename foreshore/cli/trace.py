"""`foreshore trace`: the path of messages, from the trace store."""

from __future__ import annotations

import json
import time
from contextlib import closing

import click

from foreshore.cli.running import state_file
from foreshore.errors import UserError
from foreshore.seams import LogLine, Span
from foreshore.traces.store import TraceReader


@click.command(help="Show the latest traces, or every step of the one whose id starts with TRACE_ID.")
@click.argument("trace_id", required=False)
@click.option("-n", "--limit", default=20, show_default=True, help="How many of the latest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def command(ctx: click.Context, trace_id: str | None, limit: int, as_json: bool) -> None:
    """Show traces."""
    with closing(TraceReader(state_file(ctx.obj["project"], "traces.db"))) as reader:
        if trace_id is None:
            _list(reader, limit, as_json)
            return
        spans = reader.trace(trace_id.lower())
        if not spans:
            raise UserError(
                f"no trace starts with {trace_id}", code="no-trace", mend="`foreshore trace` lists the latest"
            )
        logs = [line for _, line in reader.logs(trace_id=trace_id.lower())]
        if as_json:
            rows = [span._asdict() for span in spans] + [line._asdict() for line in logs]
            for row in rows:
                click.echo(json.dumps(row))
            return
        for line in waterfall(spans, logs):
            click.echo(line)


def _list(reader: TraceReader, limit: int, as_json: bool) -> None:
    for identifier, start, wall, count, ok, names in reader.latest(limit):
        if as_json:
            row = {"trace_id": identifier, "start_ns": start, "wall_ns": wall, "spans": count, "ok": ok, "names": names}
            click.echo(json.dumps(row))
        else:
            clock = time.strftime("%H:%M:%S", time.localtime(start / 1e9))
            click.echo(
                f"{identifier} {clock} {'ok ' if ok else 'bad'} {count:3} spans {wall / 1e6:9.2f} ms  {names[:90]}"
            )


def waterfall(spans: list[Span], logs: list[LogLine]) -> list[str]:
    """The spans as an indented tree with a bar each, children under their parents, then the log lines."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    begin = min(span.start_ns for span in spans)
    total = max(1, max(span.start_ns + span.duration_ns for span in spans) - begin)
    lines = [f"trace {spans[0].trace_id}: {len(spans)} spans, {total / 1e6:.2f} ms"]

    def draw(parent: str, depth: int, seen: frozenset[str]) -> None:
        for span in children.get(parent, ()):
            if span.span_id in seen:
                continue
            left = int((span.start_ns - begin) / total * 30)
            width = max(1, round(span.duration_ns / total * 30))
            bar = (" " * left + "━" * width)[:30].ljust(30)
            name = f"{'  ' * depth}{span.service} {span.name}"
            lines.append(f"  {name:<62.62} {bar} {span.duration_ns / 1e6:8.2f} ms{'' if span.ok else '  FAILED'}")
            for key, value in (span.attributes or {}).items():
                lines.append(f"  {'  ' * depth}    {key}: {value}")
            draw(span.span_id, depth + 1, seen | {span.span_id})

    draw("", 0, frozenset())
    lines += [f"  log {line.source} {line.level}: {line.text}" for line in logs]
    return lines
