"""A changed component: from the deployment to RUNNING, of our own time, against spawning the same process alone.

    python benchmarks/bench_deploy.py [--rounds 10] [--components 20] [--json]

A core of `--components` components whose Run is `exec sleep 600`. Each round changes one recipe and deploys it.

- `running`: from the call to the component's RUNNING, medians of the rounds.
- `over`: to the end of the deployment, which waits until nothing has moved for a while (see `deployer.SETTLE_S`).
- `reload`: from the saved file to RUNNING through the watcher, which polls (`watcher.INTERVAL_S`).
- `spawn`: starting `sh -c "exec sleep 600"` through children.py alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from foreshore.children import spawn
from foreshore.greengrass.components import Tokens
from foreshore.greengrass.configuration import Configuration
from foreshore.greengrass.deployer import SETTLE_S
from foreshore.greengrass.lifecycle import State
from foreshore.greengrass.supervisor import Supervisor
from foreshore.greengrass.watcher import INTERVAL_S, Watcher

RECIPE = """\
RecipeFormatVersion: '2020-01-25'
ComponentName: com.example.C{number}
ComponentVersion: 1.0.0
ComponentConfiguration:
  DefaultConfiguration:
    accessControl:
      aws.greengrass.ipc.pubsub:
        'com.example.C{number}:1': {{operations: ['*'], resources: ['*']}}
Manifests:
  - Platform: {{os: linux}}
    Lifecycle:
      Setenv: {{ROUND: '{round}'}}
      Run: exec sleep 600
"""


def write(folder: Path, number: int, round_: int) -> None:
    """Write one component's recipe."""
    (folder / f"c{number}.yaml").write_text(RECIPE.format(number=number, round=round_))


async def running_again(supervisor: Supervisor, name: str, pid: int) -> None:
    """Wait until a component is RUNNING with another process."""
    while True:
        runner = supervisor.processes.runners[name]
        if runner.machine.state is State.RUNNING and runner.children and runner.children[0].pid != pid:
            return
        await asyncio.sleep(0.0005)


async def measure(folder: Path, rounds: int, components: int) -> dict[str, float]:
    """The medians, ms."""
    project = folder / "project"
    recipes = project / "recipes"
    recipes.mkdir(parents=True)
    for number in range(components):
        write(recipes, number, 0)
    supervisor = Supervisor(
        root=folder / "root", thing="bench", region="us-east-1", configuration=Configuration(),
        environment=lambda: {"PATH": os.environ["PATH"]}, ipc_socket=folder / "ipc.socket",
        tokens=Tokens(lambda count: [random.randrange(26) for _ in range(count)]),
        log=lambda line: None, span=lambda span: None, run_folder=folder / "run", project=project,
    )  # fmt: skip
    await supervisor.start()
    began = time.perf_counter()
    await supervisor.wait(await supervisor.deploy_project(project))
    found: dict[str, list[float]] = {"first": [1000 * (time.perf_counter() - began)]}
    name = "com.example.C0"
    for round_ in range(1, rounds + 1):
        write(recipes, 0, round_)
        pid = supervisor.processes.runners[name].children[0].pid
        began = time.perf_counter()
        deployment = await supervisor.deploy_project(project)
        await running_again(supervisor, name, pid)
        found.setdefault("running", []).append(1000 * (time.perf_counter() - began))
        await supervisor.wait(deployment)
        found.setdefault("over", []).append(1000 * (time.perf_counter() - began))
    watcher = Watcher(supervisor, project, lambda level, text: None)
    await watcher.start()
    for round_ in range(rounds):
        await asyncio.sleep(SETTLE_S + 3 * INTERVAL_S)
        pid = supervisor.processes.runners[name].children[0].pid
        write(recipes, 0, 1000 + round_)
        began = time.perf_counter()
        await running_again(supervisor, name, pid)
        found.setdefault("reload", []).append(1000 * (time.perf_counter() - began))
    await watcher.stop()
    await supervisor.stop()
    for _ in range(rounds):
        began = time.perf_counter()
        child = await spawn(
            ["sh", "-c", "exec sleep 600"], on_line=lambda stream, text: None, run_folder=folder / "run"
        )
        found.setdefault("spawn", []).append(1000 * (time.perf_counter() - began))
        await child.stop()
    return {key: statistics.median(values) for key, values in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--components", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), arguments.rounds, arguments.components))
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"deployments, {arguments.components} components, medians of {arguments.rounds} rounds, ms")
    print(f"  first deployment of all, to its end      {found['first']:8.1f}")
    print(f"  changed component, to RUNNING            {found['running']:8.1f}")
    print(f"  changed component, to the end            {found['over']:8.1f}   (settling {1000 * SETTLE_S:.0f})")
    print(f"  saved file, to RUNNING                   {found['reload']:8.1f}   (polling each {1000 * INTERVAL_S:.0f})")
    print(f"  spawning the process alone               {found['spawn']:8.1f}")


if __name__ == "__main__":
    main()
