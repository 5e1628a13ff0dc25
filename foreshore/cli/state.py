"""`foreshore state`: what the edge keeps on disk, and a way to begin anew."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import click

from foreshore.errors import UserError

KEPT = ("state", "cores", "certs/cores", "devices", "cache", "build", "run")


@click.group(help="Show or reset what the edge keeps in .foreshore.")
def command() -> None:
    """State commands."""


@command.command(help="Show what is kept, and how large it is.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def show(ctx: click.Context, as_json: bool) -> None:
    """List the folders and files of the home."""
    home = Path(ctx.obj["project"]) / ".foreshore"
    sizes = {entry.name: _size(entry) for entry in sorted(home.iterdir())} if home.is_dir() else {}
    if as_json:
        click.echo(json.dumps(sizes))
        return
    for name, size in sizes.items():
        click.echo(f"{name:<24} {size / 1e6:10.2f} MB")


@command.command(
    help="Forget registry, shadows, stores, traces and deployed components. Certificates stay unless --certs."
)
@click.option("--certs", is_flag=True, help="Forget the CA too.")
@click.pass_context
def reset(ctx: click.Context, certs: bool) -> None:
    """Delete the state of an edge that does not run."""
    home = Path(ctx.obj["project"]) / ".foreshore"
    if not home.is_dir():
        return
    with (home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError("the edge runs", code="folder-in-use", where=str(home), mend="stop it first") from error
        for name in (*KEPT, *(("certs",) if certs else ())):
            shutil.rmtree(home / name, ignore_errors=True)


def _size(entry: Path) -> int:
    if entry.is_file():
        return entry.stat().st_size
    return sum(path.lstat().st_size for path in entry.rglob("*") if path.is_file())
