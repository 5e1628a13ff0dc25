"""`foreshore job`: IoT jobs of the running edge."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from foreshore.cli.aws import ask, json_argument, segment, show

OVER = ("COMPLETED", "CANCELED", "DELETION_IN_PROGRESS")
WATCH_S = 0.5
COUNTS = ("Queued", "InProgress", "Succeeded", "Failed", "Rejected", "TimedOut", "Removed", "Canceled")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Create, follow, cancel and delete IoT jobs."""


def _iot(ctx: click.Context, method: str, path: str, body: Any = None, **query: object) -> Any:
    return ask(ctx.obj["project"], "iot", method, path, body, **query)


def _pages(ctx: click.Context, path: str, key: str, **query: object) -> Iterator[dict[str, Any]]:
    token = None
    while True:
        page = _iot(ctx, "GET", path, nextToken=token, **query)
        yield from page[key]
        token = page.get("nextToken")
        if not token:
            return


@command.command()
@click.argument("job")
@click.argument("document", required=False)
@click.option("--thing", "things", metavar="THING", multiple=True, help="A target; may be repeated.")
@click.option("--group", "groups", metavar="GROUP", multiple=True, help="A thing group as target; may be repeated.")
@click.option("--template", metavar="TEMPLATE", help="A job template in place of DOCUMENT.")
@click.option("--continuous", is_flag=True, help="Also for things that join a group later.")
@click.option("--description", help="A text for people.")
@click.pass_context
def create(
    ctx: click.Context, job: str, document: str | None, things: tuple[str, ...], groups: tuple[str, ...],
    template: str | None, continuous: bool, description: str | None,
) -> None:  # fmt: skip
    """Create JOB for things or groups. DOCUMENT is JSON, or a file of it."""
    if (document is None) == (template is None):
        raise click.UsageError("give DOCUMENT or --template")
    if not things and not groups:
        raise click.UsageError("give --thing or --group")
    arns = [_iot(ctx, "GET", f"/things/{segment(thing)}")["thingArn"] for thing in things]
    arns += [_iot(ctx, "GET", f"/thing-groups/{segment(group)}")["thingGroupArn"] for group in groups]
    wish: dict[str, Any] = {"targets": arns, "targetSelection": "CONTINUOUS" if continuous else "SNAPSHOT"}
    if document is not None:
        wish["document"] = json.dumps(json_argument(document, "DOCUMENT"))
    if template is not None:
        wish["jobTemplateArn"] = _iot(ctx, "GET", f"/job-templates/{segment(template)}")["jobTemplateArn"]
    if description:
        wish["description"] = description
    click.echo(_iot(ctx, "PUT", f"/jobs/{segment(job)}", wish)["jobArn"])


@command.command(name="list")
@click.option("--status", type=click.Choice(["IN_PROGRESS", "CANCELED", "COMPLETED", "SCHEDULED"]))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a job.")
@click.pass_context
def list_(ctx: click.Context, status: str | None, as_json: bool) -> None:
    """List jobs, newest first."""
    for each in _pages(ctx, "/jobs", "jobs", status=status):
        click.echo(json.dumps(each) if as_json else f"{each['jobId']:<36} {each['status']}")


@command.command()
@click.argument("job")
@click.option("--document", is_flag=True, help="Print the job's document alone.")
@click.pass_context
def details(ctx: click.Context, job: str, document: bool) -> None:
    """Show one job with the counts of its executions."""
    if document:
        show(json.loads(_iot(ctx, "GET", f"/jobs/{segment(job)}/job-document")["document"]))
    else:
        show(_iot(ctx, "GET", f"/jobs/{segment(job)}")["job"])


@command.command()
@click.argument("job", required=False)
@click.option("--thing", metavar="THING", help="The executions of one thing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an execution.")
@click.pass_context
def executions(ctx: click.Context, job: str | None, thing: str | None, as_json: bool) -> None:
    """List the executions of JOB, or of a thing."""
    if (job is None) == (thing is None):
        raise click.UsageError("give JOB or --thing")
    path = f"/jobs/{segment(job)}/things" if job else f"/things/{segment(thing or '')}/jobs"
    for each in _pages(ctx, path, "executionSummaries"):
        if as_json:
            click.echo(json.dumps(each))
            continue
        who = each.get("jobId") or each["thingArn"].rpartition("/")[2]
        click.echo(f"{who:<36} {each['jobExecutionSummary']['status']}")


@command.command()
@click.argument("job")
@click.pass_context
def watch(ctx: click.Context, job: str) -> None:
    """Print the job's counts whenever they change, until it is over; exit 1 unless every execution succeeded."""
    before = ""
    while True:
        found = _iot(ctx, "GET", f"/jobs/{segment(job)}")["job"]
        details = found.get("jobProcessDetails", {})
        numbers = {name: details.get(f"numberOf{name}Things", 0) for name in COUNTS}
        text = f"{found['status']} " + " ".join(f"{name}={count}" for name, count in numbers.items() if count)
        if text != before:
            click.echo(text)
            before = text
        if found["status"] in OVER:
            good = found["status"] == "COMPLETED" and not any(numbers[name] for name in COUNTS if name != "Succeeded")
            ctx.exit(0 if good else 1)
        time.sleep(WATCH_S)


@command.command()
@click.argument("job")
@click.option("--thing", metavar="THING", help="Only this thing's execution.")
@click.option("--force", is_flag=True, help="Also what is IN_PROGRESS.")
@click.pass_context
def cancel(ctx: click.Context, job: str, thing: str | None, force: bool) -> None:
    """Cancel the job, or one thing's execution of it."""
    flag = "true" if force else None
    if thing:
        _iot(ctx, "PUT", f"/things/{segment(thing)}/jobs/{segment(job)}/cancel", {}, force=flag)
    else:
        _iot(ctx, "PUT", f"/jobs/{segment(job)}/cancel", {}, force=flag)
    click.echo(f"{job}: canceled")


@command.command()
@click.argument("job")
@click.option("--force", is_flag=True, help="Also when it is in progress.")
@click.pass_context
def delete(ctx: click.Context, job: str, force: bool) -> None:
    """Delete the job and its executions."""
    _iot(ctx, "DELETE", f"/jobs/{segment(job)}", force="true" if force else None)
    click.echo(f"{job}: deleted")
