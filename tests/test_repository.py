"""The repository's own promises: dependencies named once, locks with hashes, documents up to date, every verb real."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from foreshore.cli import VERBS, foreshore
from foreshore.parity import STATES, markdown, rows

ROOT = Path(__file__).parents[1]


def requirement_lines(name):
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [line.replace('"', "'") for line in lines if line and not line.startswith(("#", "-r"))]


def test_the_package_and_the_lock_name_the_same_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(project["dependencies"]) == sorted(requirement_lines("runtime.in"))


@pytest.mark.parametrize("name", ["dev.lock", "runtime.lock", "data.lock"])
def test_every_locked_package_has_hashes_and_no_host(name):
    text = (ROOT / "requirements" / name).read_text()
    pins = re.findall(r"^([a-z0-9._-]+==\S+).*?(?=^\S|\Z)", text, re.M | re.S | re.I)
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)
    assert pins
    assert all("--hash=sha256:" in block for block in blocks if "==" in block)
    assert "http://" not in text
    assert "https://" not in text


def test_the_command_reference_is_up_to_date():
    # In a process of its own: click keeps a command's help option as the first caller in a process named it.
    subprocess.run([sys.executable, "-m", "foreshore.cli.reference", "--check"], check=True)


def test_the_parity_table_is_up_to_date_and_well_formed():
    assert (ROOT / "docs" / "parity.md").read_text("utf-8") == markdown(), "run make docs"
    assert {row.state for row in rows()} <= set(STATES)
    assert all(row.feature and (row.note or row.state == "yes") for row in rows())


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help(verb):
    command = foreshore.get_command(click.Context(foreshore), verb)
    assert isinstance(command, click.Command)
    assert command.help


SHOW_MODULES = """
import sys
from foreshore.cli import main
try:
    main(["--help"])
except SystemExit:
    print(sorted(name for name in sys.modules if name.startswith("foreshore.")), file=sys.stderr)
"""


def test_help_imports_no_verb():
    done = subprocess.run([sys.executable, "-c", SHOW_MODULES], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "['foreshore.cli', 'foreshore.errors']"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["dev", "--only", "nope"], 2, "no such room: nope"),
        (["-C", "/nonexistent-folder", "dev"], 2, "no such folder"),
        (["nope"], 2, "No such command"),
        (["pub", "a", "b", "--url", "127.0.0.1:1"], 2, "can't connect"),
    ],
)
def test_a_mistake_is_one_clear_message(arguments, code, words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "foreshore", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    done = subprocess.run(
        [sys.executable, "-m", "foreshore", "completion", shell], capture_output=True, text=True, check=True
    )
    assert "_FORESHORE_COMPLETE" in done.stdout
