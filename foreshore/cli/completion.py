"""`foreshore completion SHELL`: print the script that a shell sources for completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(help='Print the completion script of a shell: eval "$(foreshore completion bash)".')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script."""
    from foreshore.cli import foreshore

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(foreshore, {}, "foreshore", "_FORESHORE_COMPLETE").source())
