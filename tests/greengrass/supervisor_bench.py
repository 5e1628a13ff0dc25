"""A supervisor over a temporary folder, for the tests of components as real processes."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from foreshore.greengrass.components import (
    ComponentUpdates,
    ConfigurationValidations,
    DeploymentStatus,
    Profile,
    Tokens,
)
from foreshore.greengrass.configuration import Configuration
from foreshore.greengrass.supervisor import Supervisor
from foreshore.seams import LogLine, Span

SLEEP = "exec sleep 600"


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Bench:
    """A supervisor over a temporary root, and what it emitted."""

    def __init__(
        self,
        folder: Path,
        configuration: Configuration | None = None,
        *,
        project: Path | None = None,
        profile: Profile = "classic",
    ) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.recipes = folder / "recipes"
        self.recipes.mkdir(exist_ok=True)
        self.lines: list[LogLine] = []
        self.spans: list[Span] = []
        self.configuration = configuration or Configuration()
        self.updates = ComponentUpdates()
        self.validations = ConfigurationValidations()
        self.tokens = Tokens(lambda count: [random.randrange(26) for _ in range(count)])
        self.supervisor = Supervisor(
            root=self.root,
            thing="core-1",
            region="eu-west-1",
            configuration=self.configuration,
            environment=lambda: {"AWS_ENDPOINT_URL": "http://127.0.0.1:4566", "PATH": os.environ["PATH"]},
            ipc_socket=self.root / "ipc.socket",
            tokens=self.tokens,
            log=self.lines.append,
            span=self.spans.append,
            run_folder=folder / "run",
            project=project,
            profile=profile,
            updates=self.updates,
            validations=self.validations,
            settle_s=0.1,
        )

    def recipe(self, name: str, version: str = "1.0.0", *, body: str = "", **steps: str) -> None:
        lifecycle = "".join(f"      {step}: {script!r}\n" for step, script in steps.items())
        (self.recipes / f"{name}-{version}.yaml").write_text(
            f"RecipeFormatVersion: '2020-01-25'\nComponentName: {name}\nComponentVersion: {version}\n{body}"
            f"Manifests:\n  - Platform:\n      os: linux\n      runtime: '*'\n    Lifecycle:\n{lifecycle}"
        )

    async def deploy(self, *, remove: tuple[str, ...] = (), policy: str = "ROLLBACK", **add: str) -> DeploymentStatus:
        return await self.deploy_with({}, dict(add), remove, policy)

    async def deploy_with(
        self,
        config: dict[str, dict[str, object]],
        add: dict[str, str],
        remove: tuple[str, ...] = (),
        policy: str = "ROLLBACK",
    ) -> DeploymentStatus:
        identifier = await self.supervisor.deploy_local(self.recipes, None, add, list(remove), config, policy)
        return await self.supervisor.wait(identifier)

    def text(self, name: str) -> str:
        return (self.root / "logs" / f"{name}.log").read_text()

    def pid(self, name: str) -> int:
        """The process id of the component's step; 0 when none runs."""
        children = self.supervisor.processes.runners[name].children
        return children[0].pid if children else 0

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    def state(self, name: str) -> str:
        return self.supervisor.details(name).state


def run(
    folder: Path,
    work: Callable[[Bench], Awaitable[None]],
    *,
    project: Path | None = None,
    profile: Profile = "classic",
) -> None:
    """Start a supervisor, do the work, stop it, and see that no process is left."""

    async def main() -> None:
        bench = Bench(folder, project=project, profile=profile)
        await bench.supervisor.start()
        try:
            await work(bench)
        finally:
            await bench.supervisor.stop()
        assert not list((folder / "run").glob("*"))

    asyncio.run(main())
