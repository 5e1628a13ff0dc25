"""`foreshore exec -- CMD`: the CI form. Boot, run a command with the environment set, stop, exit with its code."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import click

from foreshore.app import App
from foreshore.cli.dev import edge_options, options_of, run_edge
from foreshore.errors import UserError


@click.command(
    help="Start the local AWS edge, run CMD with AWS_ENDPOINT_URL and the rest set, stop, and exit with its code.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@edge_options
@click.argument("argv", nargs=-1, required=True, metavar="-- CMD [ARG]...")
@click.pass_context
def command(ctx: click.Context, /, argv: tuple[str, ...], **values: Any) -> None:
    """Run one command against the edge."""

    async def body(app: App, stopping: asyncio.Event) -> int:
        environment = {**os.environ, **app.client_environment()}
        try:
            process = await asyncio.create_subprocess_exec(*argv, env=environment)
        except OSError as error:
            raise UserError(f"can't run {argv[0]}: {error.strerror}", code="command") from error
        waiting = asyncio.ensure_future(process.wait())
        interrupted = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({waiting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        if not waiting.done():
            process.send_signal(signal.SIGTERM)
        code = await waiting
        return code if code >= 0 else 128 - code

    ctx.exit(run_edge(options_of(ctx.obj["project"], values), body))
