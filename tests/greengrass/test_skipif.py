"""Skipif: what each condition does to an Install step, on a real component."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.greengrass.supervisor_bench import SLEEP, Bench, run

CONDITIONS = [
    ("onpath sh", "skipped"),
    ("onpath no-such-program", "run"),
    ("!onpath sh", "run"),
    ("! onpath no-such-program", "skipped"),
    ("exists /", "skipped"),
    ("exists ~root/work", "skipped"),
    ("exists ~root/none", "run"),
    ("!exists /none", "skipped"),
    ("sometimes", "error"),
    ("exists", "error"),
]


@pytest.mark.parametrize(("condition", "outcome"), CONDITIONS, ids=[each[0] for each in CONDITIONS])
def test_conditions(tmp_path: Path, condition: str, outcome: str) -> None:
    async def work(bench: Bench) -> None:
        (bench.recipes / "app.yaml").write_text(
            "RecipeFormatVersion: '2020-01-25'\nComponentName: app\nComponentVersion: 1.0.0\nManifests:\n"
            f"  - Lifecycle:\n      Run: {SLEEP}\n"
            f"      Install:\n        Script: echo installing\n        Skipif: '{condition}'\n"
        )
        status = await bench.deploy_with({}, {"app": "1.0.0"}, policy="DO_NOTHING")
        text = bench.text("app")
        assert ("stdout. installing" in text) is (outcome == "run")
        if outcome == "error":
            assert bench.supervisor.runner("app").machine.status_code == "INSTALL_CONFIG_NOT_VALID"
        else:
            assert status.status == "SUCCEEDED"

    run(tmp_path, work)
