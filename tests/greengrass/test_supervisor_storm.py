"""Random orders to a core with real processes: whatever comes, it ends quietly and leaves nobody behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from foreshore.errors import UserError
from foreshore.greengrass import runner
from foreshore.greengrass.components import ComponentNotFound
from foreshore.greengrass.lifecycle import TRANSITIONS, State
from tests.greengrass.supervisor_bench import SLEEP, Bench, run

BODIES = [
    {"run": SLEEP},
    {"startup": "true"},
    {"startup": "sleep 600 & true", "shutdown": "true"},
    {"install": "true", "run": SLEEP, "recover": "true"},
    {"run": "exit 1"},
    {"run": "true"},
    {"install": "exit 1", "run": SLEEP},
    {"run": "trap '' TERM; sleep 600 & wait", "uninstall": "true"},
]
ORDERS = ["deploy", "deploy", "remove", "restart", "stop", "kill", "pause", "resume", "report", "cancel"]
HARD = "ComponentDependencies:\n  c0: {VersionRequirement: '*'}\n"
SOFT = "ComponentDependencies:\n  c1: {VersionRequirement: '*', DependencyType: SOFT}\n"


async def order(bench: Bench, chance: random.Random) -> None:
    """Give one random order; what the core refuses in its own words is fine."""
    supervisor = bench.supervisor
    name = f"c{chance.randrange(4)}"
    what = chance.choice(
        ["deploy", "deploy", "remove", "restart", "stop", "kill", "pause", "resume", "report", "cancel"]
    )
    try:
        if what == "deploy":
            body = {"c2": HARD, "c3": SOFT}.get(name, "")
            for wanted in sorted({name, "c0", "c1"}):
                steps = chance.choice(BODIES[:3] if wanted == "c0" else BODIES)
                bench.recipe(wanted, body=body if wanted == name else "", **steps)
            policy = chance.choice(["ROLLBACK", "DO_NOTHING"])
            await supervisor.deploy_local(bench.recipes, None, {name: "1.0.0"}, [], {}, policy)
        elif what == "remove":
            await supervisor.deploy_local(None, None, {}, [name], {})
        elif what == "restart":
            await supervisor.restart_component(name)
        elif what == "stop":
            await supervisor.stop_component(name)
        elif what == "pause":
            await supervisor.pause_component(name)
        elif what == "resume":
            await supervisor.resume_component(name)
        elif what == "report":
            supervisor.report_state(name, chance.choice(["RUNNING", "ERRORED"]))
        elif what == "kill":
            for child in supervisor.runner(name).children:
                os.kill(child.pid, signal.SIGKILL)
        else:
            await supervisor.cancel_deployment(supervisor.deployments()[0].id)
    except (ComponentNotFound, UserError, IndexError, ProcessLookupError):
        return


@pytest.mark.parametrize("seed", [0, 1, 106, 116])
def test_random_orders(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_S", 0.3)
    chance = random.Random(seed)

    async def work(bench: Bench) -> None:
        for _ in range(30):
            await order(bench, chance)
            await asyncio.sleep(chance.choice([0, 0, 0.01, 0.05]))
        bench.recipe("last", run=SLEEP)
        for name in ("c0", "c1", "c2", "c3"):
            await bench.supervisor.deploy_local(None, None, {}, [name], {})
        for status in bench.supervisor.deployments():
            await bench.supervisor.cancel_deployment(status.id)
        async with asyncio.timeout(30):
            status = await bench.deploy_with({}, {"last": "1.0.0"}, remove=("c0", "c1", "c2", "c3"))
        assert (status.status, bench.state("last")) == ("SUCCEEDED", "RUNNING"), status
        assert set(bench.supervisor.processes.runners) == {"last"}

    run(tmp_path, work)
    for log in (tmp_path / "root/logs").glob("c*.log"):
        for line in log.read_text().splitlines():
            if "service-set-state" in line:
                words = dict(part.split("=", 1) for part in line[line.index("{") + 1 : -1].split(", "))
                assert State(words["newState"]) in TRANSITIONS[State(words["currentState"])]
