"""`foreshore rules`: try a statement, run a file of examples, explain why a rule did or did not fire."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from foreshore.errors import UserError


@click.group()
def command() -> None:
    """Test IoT SQL and explain why a rule did or did not fire."""


@command.command("test")
@click.argument("sql", required=False)
@click.option("--topic", "-t", default="", help="The topic of the message (default: one that FROM matches).")
@click.option("--payload", "-p", default="{}", help="The payload: text, @FILE, or - for standard input.")
@click.option("--sql-version", default="2016-03-23", show_default=True, help="awsIotSqlVersion.")
@click.option("--client-id", default=None, help="The client id of the publisher.")
@click.option("--strict-live", is_flag=True, help="Refuse what the live service refuses although it is documented.")
@click.option("--vectors", type=click.Path(path_type=Path), default=None, help="Run a file of examples instead.")
def test(
    sql: str | None,
    topic: str,
    payload: str,
    sql_version: str,
    client_id: str | None,
    strict_live: bool,
    vectors: Path | None,
) -> None:
    """Evaluate SQL for one message and show every expression's value; exit 1 when the rule does not fire."""
    if vectors is not None:
        _run_vectors(vectors)
    elif sql is None:
        raise click.UsageError("give the SQL, or --vectors FILE")
    else:
        _test(sql, topic, payload, sql_version, client_id, strict_live)


def _run_vectors(path: Path) -> None:
    from foreshore.iot.rules.vectors import run

    counts = {True: [0, 0], False: [0, 0]}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"can't read the vectors: {error.strerror}", where=str(path), mend="name a file") from None
    for outcome in run(lines):
        counts[outcome.documented][not outcome.passed] += 1
        if not outcome.passed:
            click.echo(f"{outcome.id}\n  expected {outcome.expected}\n  got      {outcome.got}")
    for name, documented in (("documented", True), ("inferred", False)):
        passed, failed = counts[documented]
        click.echo(f"{name}: {passed} passed, {failed} failed")
    if counts[True][1] or counts[False][1]:
        sys.exit(1)


def _read_payload(payload: str) -> bytes:
    if payload == "-":
        return sys.stdin.buffer.read()
    if payload.startswith("@"):
        try:
            return Path(payload[1:]).read_bytes()
        except OSError as error:
            raise UserError(
                f"can't read the payload: {error.strerror}", where=payload[1:], mend="name a file"
            ) from None
    return payload.encode()


def _test(sql: str, topic: str, payload: str, version: str, client_id: str | None, strict_live: bool) -> None:
    from foreshore.iot.rules.explain import explain as tell
    from foreshore.iot.rules.message import Message

    def message_for(wanted: str) -> Message:
        return Message(topic or wanted, _read_payload(payload), client_id)

    record = tell(sql, version, message_for, strict_live)
    click.echo(record.text)
    if not record.result.fired:
        sys.exit(1)


@command.command("explain")
@click.argument("name", required=False)
@click.option("--last", "count", type=int, is_flag=False, flag_value=1, default=1, help="How many messages.")
@click.option("--endpoint", default="", help="The running edge (default: the project's, else http://127.0.0.1:4566).")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@click.pass_context
def explain(ctx: click.Context, name: str | None, count: int, endpoint: str, as_json: bool) -> None:
    """Tell what a rule of the running edge did with its last messages, and why; without NAME, list the rules."""
    base = endpoint or _endpoint(Path((ctx.obj or {}).get("project", ".")))
    if name is None:
        _list(_fetch(base, "/_foreshore/rules"), as_json)
        return
    found = _fetch(base, f"/_foreshore/rules/{quote(name, safe='')}")
    records = found["last"][:count]
    if as_json:
        click.echo(json.dumps(records, indent=2))
        return
    state = "enabled" if found["enabled"] else "disabled"
    click.echo(f"rule {name} ({state}): matched {found['matched']}, fired {found['fired']}, failed {found['failed']}")
    if not records:
        click.echo(f"No message has reached it yet; it reads FROM '{found['filter']}'.")
    for record in records:
        click.echo(f"\n{_stamp(record['time'])}  {record['topic']}  trace {record['traceId']}\n  {record['payload']}")
        click.echo(record.get("text", record["error"]))


def _list(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found["rules"], indent=2))
        return
    for rule in found["rules"]:
        state = "" if rule["enabled"] else "  (disabled)"
        counts = f"matched {rule['matched']}, fired {rule['fired']}, failed {rule['failed']}"
        click.echo(f"{rule['name']}{state}  {counts}\n    {rule['sql']}")


def _stamp(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).isoformat(sep=" ", timespec="milliseconds")


def _endpoint(project: Path) -> str:
    try:
        return str(json.loads((project / ".foreshore" / "endpoints.json").read_text("utf-8"))["aws"])
    except (OSError, ValueError, KeyError):
        return "http://127.0.0.1:4566"


def _fetch(base: str, path: str) -> dict[str, Any]:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(base + path, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
    except HTTPError as error:
        with error:
            message = json.load(error).get("message", str(error))
        raise UserError(message, code="no-rule", mend="`foreshore rules explain` lists the rules") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"no edge answers at {base}: {error}", code="no-edge", mend="start `foreshore dev`, or name --endpoint"
        ) from None
    return found
