"""kill -9 of a core at any moment: what it acknowledged is there again; components and deployments come back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.greengrass.ipc.conftest import RawClient
from tests.greengrass.supervisor_bench import is_alive

HERE = Path(__file__).parents[2]
RECIPE = """\
RecipeFormatVersion: '2020-01-25'
ComponentName: {name}
ComponentVersion: {version}
Manifests:
  - Lifecycle:
      Run: exec sleep 600
"""


class Process:
    """A core that runs in a process, and the raw client of a component on it."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any], loader: RawClient, cli: RawClient):
        self.process, self.ready, self.loader, self.cli = process, ready, loader, cli
        self._streams = 0

    async def ask(self, client: RawClient, operation: str, body: object) -> tuple[str, Any]:
        self._streams += 1
        return await client.ask(self._streams, operation, body)

    async def deployment(self, identifier: str) -> str:
        """How a deployment ended."""
        while True:
            shape, answer = await self.ask(self.cli, "GetLocalDeploymentStatus", {"deploymentId": identifier})
            assert shape == "GetLocalDeploymentStatusResponse", answer
            if answer["deployment"]["status"] not in ("QUEUED", "IN_PROGRESS"):
                return str(answer["deployment"]["status"])
            await asyncio.sleep(0.02)

    async def running(self, name: str) -> str:
        """The version of a component once it is RUNNING."""
        while True:
            shape, answer = await self.ask(self.cli, "GetComponentDetails", {"componentName": name})
            assert shape == "GetComponentDetailsResponse", answer
            if answer["componentDetails"]["state"] == "RUNNING":
                return str(answer["componentDetails"]["version"])
            await asyncio.sleep(0.02)


async def connect(socket: str, token: str) -> RawClient:
    client = RawClient(*await asyncio.open_unix_connection(socket))
    client.send(4, 0, 0, json.dumps({"authToken": token}).encode(), **{":version": "0.1.0"})
    frame = await client.receive()
    assert frame is not None and frame[0][":message-flags"] == 1
    return client


@asynccontextmanager
async def core(root: Path, mode: str = "offline") -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.greengrass.killed_core", str(root), mode, cwd=HERE, stdout=asyncio.subprocess.PIPE
    )
    clients = []
    try:
        assert process.stdout is not None
        lines = []
        while "socket" not in (lines[-1] if lines else {}):
            lines.append(json.loads(await asyncio.wait_for(process.stdout.readline(), 30)))
        ready = {**lines[-1], "published": [line["published"] for line in lines[:-1]]}
        info = json.loads((root / "cli_ipc_info" / f"user-{os.getuid()}").read_text())
        clients = [await connect(ready["socket"], token) for token in (ready["token"], info["cli_auth_token"])]
        yield Process(process, ready, *clients)
    finally:
        for client in clients:
            client.writer.transport.abort()
        if process.returncode is None:
            process.kill()
        await process.wait()


class Load:
    """What was asked of the core and acknowledged, over all its lives."""

    def __init__(self, recipes: Path, draw: random.Random) -> None:
        self.recipes, self.draw = recipes, draw
        self.number = 0
        self.configured = 0
        self.published: list[str] = []
        self.asked: list[str] = []
        self.deployments: list[tuple[str, str]] = []
        self.versions = 0

    async def one(self, core: Process) -> None:
        """One request; it counts only when its answer came."""
        self.number += 1
        kind = self.draw.choices(("configure", "publish", "deploy"), (6, 6, 1))[0]
        if kind == "configure":
            body: dict[str, object] = {
                "keyPath": ["state"],
                "timestamp": 2_000_000_000 + self.number,
                "valueToMerge": {"number": self.number},
            }
            shape, answer = await core.ask(core.loader, "UpdateConfiguration", body)
            assert shape == "UpdateConfigurationResponse", answer
            self.configured = self.number
        elif kind == "publish":
            body = {"topicName": "cloud/n", "qos": "1", "payload": base64(str(self.number))}
            self.asked.append(str(self.number))
            shape, answer = await core.ask(core.loader, "PublishToIoTCore", body)
            assert shape == "PublishToIoTCoreResponse", answer
            self.published.append(str(self.number))
        else:
            await self._deploy(core)

    async def _deploy(self, core: Process) -> None:
        self.versions += 1
        version = f"1.0.{self.versions}"
        (self.recipes / f"app-{version}.yaml").write_text(RECIPE.format(name="app", version=version))
        body = {"recipeDirectoryPath": str(self.recipes), "rootComponentVersionsToAdd": {"app": version}}
        shape, answer = await core.ask(core.cli, "CreateLocalDeployment", body)
        assert shape == "CreateLocalDeploymentResponse", answer
        self.deployments.append((answer["deploymentId"], version))


def base64(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, seed: int) -> None:
    async def scenario() -> None:
        draw = random.Random(seed)
        recipes = tmp_path / "recipes"
        recipes.mkdir()
        load = Load(recipes, draw)
        root = tmp_path / "core"
        for _ in range(3):
            async with core(root) as running:
                await verify(running, load)
                await under_load(running, load, draw.randrange(5, 60))
        async with core(root) as running:
            await verify(running, load)
            statuses = [await running.deployment(identifier) for identifier, _ in load.deployments]
            assert statuses == ["SUCCEEDED"] * len(load.deployments)
            if load.deployments:
                assert await running.running("app") == load.deployments[-1][1]
                assert len(sleepers(root)) == 1
        async with core(root, "online") as running:
            assert running.process.stdout is not None
            sent = running.ready["published"]
            while not set(load.published) <= set(sent):
                line = json.loads(await asyncio.wait_for(running.process.stdout.readline(), 30))
                sent.append(line["published"])
            # Everything acknowledged, in order; what was asked in a kill's moment may be there too.
            assert sent == sorted(sent, key=int) and set(sent) <= set(load.asked)
            reap(root)

    try:
        asyncio.run(asyncio.wait_for(scenario(), 90))
    finally:
        reap(tmp_path / "core")


async def under_load(running: Process, load: Load, acknowledged: int) -> None:
    """Let so many requests be answered, then kill with one more under way."""
    for _ in range(acknowledged):
        await load.one(running)
    last = asyncio.ensure_future(load.one(running))
    for _ in range(load.draw.randrange(4)):
        await asyncio.sleep(0)
    running.process.send_signal(signal.SIGKILL)
    await running.process.wait()
    await asyncio.gather(last, return_exceptions=True)


async def verify(running: Process, load: Load) -> None:
    """Configuration is at least what was acknowledged, and every acknowledged deployment is known."""
    if load.configured:
        shape, answer = await running.ask(running.loader, "GetConfiguration", {"keyPath": ["state", "number"]})
        assert shape == "GetConfigurationResponse", answer
        assert load.configured <= answer["value"]["number"] <= load.number
    for identifier, _ in load.deployments:
        shape, answer = await running.ask(running.cli, "GetLocalDeploymentStatus", {"deploymentId": identifier})
        assert shape == "GetLocalDeploymentStatusResponse", answer


def sleepers(root: Path) -> list[int]:
    """Processes of the core's components, by their working folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                work = str((entry / "cwd").readlink())
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if work == str(root / "work/app") and b"sleep" in command and is_alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def reap(root: Path) -> None:
    """End what the killed core left behind."""
    for pid in sleepers(root):
        os.kill(pid, signal.SIGKILL)
