"""Write docs/guide/cli.md from the commands themselves; `--check` says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from foreshore.cli import VERBS, foreshore

TARGET = Path(__file__).parents[2] / "docs" / "guide" / "cli.md"


def reference() -> str:
    """Every command's `--help`, as Markdown."""
    parts = ["# Command reference", "", "Generated from the commands' own help by `make docs`.", ""]
    # A context made by hand does not take the group's own settings.
    root = click.Context(foreshore, info_name="foreshore", terminal_width=100, **foreshore.context_settings)
    parts += ["```", foreshore.get_help(root), "```", ""]
    for verb in VERBS:
        found = foreshore.get_command(root, verb)
        assert found is not None
        parts += _describe(found, f"foreshore {verb}", root)
    return "\n".join(parts)


def _describe(found: click.Command, path: str, parent: click.Context) -> list[str]:
    context = click.Context(found, info_name=path.rpartition(" ")[2], parent=parent, terminal_width=100)
    parts = [f"## {path}", "", "```", found.get_help(context), "```", ""]
    if isinstance(found, click.Group):
        for name in found.list_commands(context):
            child = found.get_command(context, name)
            if child is not None:
                parts += _describe(child, f"{path} {name}", context)
    return parts


if __name__ == "__main__":
    text = reference()
    if "--check" in sys.argv:
        if not TARGET.is_file() or TARGET.read_text("utf-8") != text:
            sys.exit("docs/guide/cli.md is out of date: run make docs")
    else:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(text, "utf-8")
