"""`foreshore parity`: what is emulated, and what is not."""

from __future__ import annotations

import json

import click

from foreshore.parity import STATES, markdown, rows


@click.command(help="Show what is emulated, and what is not.")
@click.argument("words", nargs=-1)
@click.option("--state", type=click.Choice(STATES), help="Only rows of this state.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print docs/parity.md.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(words: tuple[str, ...], state: str | None, as_markdown: bool, as_json: bool) -> None:
    """Show the table; WORDS filter it."""
    if as_markdown:
        click.echo(markdown(), nl=False)
        return
    for row in rows():
        text = " ".join(row).lower()
        if (state and row.state != state) or not all(word.lower() in text for word in words):
            continue
        click.echo(json.dumps(row._asdict()) if as_json else f"{row.state:<7} {row.room}: {row.feature}. {row.note}")
