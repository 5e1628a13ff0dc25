"""Shell: hot reload. Watches a project's recipes and component sources, and redeploys what changed.

Files are polled by size and modification time. A change counts once the files have been still for one round, so that
a save in several writes is one change. A reload is reported when its components are RUNNING (or have failed), never
before. A changed deployment document is deployed as a whole; anything else redeploys the roots that are there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from foreshore.background import Background
from foreshore.errors import ForeshoreError
from foreshore.greengrass.artifacts import quick_stamp
from foreshore.greengrass.recipe_store import deployment_file
from foreshore.greengrass.supervisor import Supervisor

INTERVAL_S = 0.15
Stamp = dict[Path, tuple[tuple[str, int, int], ...]]


class Watcher:
    """Watches one project for one supervisor. `report(level, text)` hears of each reload."""

    def __init__(
        self,
        supervisor: Supervisor,
        project: Path,
        report: Callable[[str, str], None],
        *,
        recipes: Path | None = None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._supervisor = supervisor
        self._project = project.absolute()
        self._recipes = (recipes or project / "recipes").absolute()
        self._report = report
        self._interval_s = interval_s
        self._task = Background()
        self._seen: Stamp = {}

    async def start(self) -> None:
        """Take the present files as known, and watch."""
        if not self._task.is_running:
            self._seen = self._look()
            self._task.start(self._watch)

    async def stop(self) -> None:
        """Stop watching."""
        await self._task.stop()

    def _look(self) -> Stamp:
        """The stamps of every watched place: the recipes, and the sources of what is deployed."""
        supervisor = self._supervisor
        places = {self._recipes}
        for name, definition in supervisor.processes.definitions.items():
            try:
                recipe = supervisor.recipes.find(name, definition.version)
                places.update(supervisor.artifacts.watched(recipe, supervisor.recipes.manifest(recipe)))
            except ForeshoreError:
                # Its recipe or source is gone for the moment; a deployment would say so.
                continue
        return {place: quick_stamp(place) for place in places if place.exists()}

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            now = self._look()
            if now == self._seen:
                continue
            while (again := await self._later()) != now:
                now = again
            changed = {place for place in now.keys() | self._seen.keys() if now.get(place) != self._seen.get(place)}
            document = self._document_stamp(self._seen) != self._document_stamp(now)
            self._seen = now
            await self._reload(changed, document)
            self._seen = {**self._look(), **now}

    async def _later(self) -> Stamp:
        await asyncio.sleep(self._interval_s)
        return self._look()

    def _document_stamp(self, stamps: Stamp) -> list[tuple[str, int, int]]:
        found = stamps.get(self._recipes, ())
        return [each for each in found if Path(each[0]).stem == "deployment"]

    async def _reload(self, changed: set[Path], document: bool) -> None:
        began = time.monotonic()
        before = {name: runner.machine.generation for name, runner in self._supervisor.processes.runners.items()}
        names = ", ".join(sorted(self._shown(place) for place in changed))
        try:
            if document or deployment_file(self._recipes) is None:
                identifier = await self._supervisor.deploy_project(self._project, self._recipes)
            else:
                self._supervisor.recipes.take(self._recipes)
                identifier = await self._supervisor.redeploy()
            status = await self._supervisor.wait(identifier)
        except ForeshoreError as error:
            self._report("ERROR", f"{names} changed, but: {error}")
            return
        took = (time.monotonic() - began) * 1000
        if status.status != "SUCCEEDED":
            self._report(
                "ERROR", f"{names} changed, but the deployment ended {status.detailed}: {status.failure_cause}"
            )
            return
        runners = self._supervisor.processes.runners.items()
        fresh = [
            f"{name} {each.machine.state}" for name, each in runners if before.get(name) != each.machine.generation
        ]
        self._report("INFO", f"{names} changed: {', '.join(sorted(fresh)) or 'nothing to restart'} ({took:.0f} ms)")

    def _shown(self, place: Path) -> str:
        return str(place.relative_to(self._project)) if self._project in place.parents else str(place)
