"""`foreshore rules`: try a statement, run a file of examples, explain why a rule did or did not fire."""

from __future__ import annotations

import sys
from pathlib import Path

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
    from foreshore.iot.rules.explain import explain
    from foreshore.iot.rules.message import Message

    record = explain(
        sql, version, lambda wanted: Message(topic or wanted, _read_payload(payload), client_id), strict_live
    )
    click.echo(record.text)
    if not record.result.fired:
        sys.exit(1)
