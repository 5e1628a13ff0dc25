"""Replay what the fuzzer kept, and a few thousand deterministic mutations of it, against every target."""

import importlib
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import run  # noqa: E402
from mqtt_targets import TARGETS  # noqa: E402

MUTATIONS = {"decoder": 40, "frames": 20, "broker": 3}


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_and_its_neighbourhood(target):
    chance = random.Random(target)
    inputs = [path.read_bytes() for path in sorted((HERE / "corpus" / target).iterdir())]
    assert inputs
    for data in inputs:
        TARGETS[target](data)
        for _ in range(MUTATIONS[target]):
            TARGETS[target](mutate(data, chance, inputs))


def mutate(data, chance, inputs):
    """Flip, cut, repeat or join."""
    made = bytearray(data or b"\0")
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(made))
        match chance.randrange(4):
            case 0:
                made[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 1:
                del made[place : place + chance.randrange(1, 9)]
            case 2:
                made[place:place] = made[place : place + chance.randrange(1, 20)]
            case _:
                made += chance.choice(inputs)[1:200]
        made = made or bytearray(1)
    return bytes(made)


def test_every_target_has_its_runner_its_corpus_and_its_place_in_the_makefile():
    assert {name: tuple(importlib.import_module(name).TARGETS) for name in run.MODULES} == run.MODULES
    (loop,) = [line for line in (HERE.parents[1] / "Makefile").read_text().splitlines() if "for target in" in line]
    assert loop.partition(" in ")[2].partition(";")[0].split() == list(run.MODULE_OF)
    assert sorted(folder.name for folder in (HERE / "corpus").iterdir()) == sorted(run.MODULE_OF)


@pytest.mark.parametrize("target", run.MODULE_OF)
def test_without_atheris_the_long_run_says_why_it_is_skipped(tmp_path, target):
    (tmp_path / "atheris.py").write_text("raise ImportError('no wheel')")
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), target], capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, done.stderr)
    assert "skipped" in done.stderr and "no wheel" in done.stderr
