"""`foreshore doctor`: what this machine offers, and what is in the way."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import shutil
import sys
from pathlib import Path

import click

from foreshore.ports import DEFAULTS, holder_of

LIBRARIES = (
    "ministack", "orjson", "httptools", "uvloop", "cryptography", "aws-sam-translator", "awsiotsdk", "greengrasssdk",
    "awslambdaric", "paho-mqtt",
)  # fmt: skip


@click.command(help="Tell what this machine offers and what is in the way of `foreshore dev`.")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Print one line a finding; exit 1 when something is in the way."""
    bad = 0
    for state, text in findings(Path(ctx.obj["project"])):
        bad += state == "bad"
        click.echo(f"{state:<5} {text}")
    ctx.exit(1 if bad else 0)


def findings(folder: Path) -> list[tuple[str, str]]:
    """(ok | note | bad, text) for each thing looked at."""
    found = [("ok", f"Python {platform.python_version()} on {sys.platform} {platform.machine()}")]
    for name in LIBRARIES:
        try:
            found.append(("ok", f"{name} {importlib.metadata.version(name)}"))
        except importlib.metadata.PackageNotFoundError:
            needed = name in ("ministack", "orjson", "httptools", "cryptography", "aws-sam-translator")
            found.append(("bad" if needed else "note", f"{name} is not installed"))
    for name, port in DEFAULTS.items():
        holder = holder_of(port)
        if holder:
            found.append(("bad", f"port {port} ({name}) is held by {holder}: stop it, or use --port-base"))
    free = shutil.disk_usage(folder).free
    found.append(("ok" if free > 200e6 else "bad", f"{free / 1e9:.1f} GB free in {folder.resolve()}"))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found.append(("ok" if soft >= 4096 else "note", f"{soft} open files allowed: one is used by each MQTT connection"))
    return found
