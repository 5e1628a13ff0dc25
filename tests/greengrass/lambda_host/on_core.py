"""What tests on a real core share: IoT Core in memory, and a core with a project deployed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from foreshore.greengrass.service import Core
from foreshore.greengrass.supervisor import factory
from foreshore.seams import LogLine, Publication, Span


class Cloud:
    """IoT Core as far as a core sees it, in memory."""

    connected = True

    def __init__(self) -> None:
        self.published: list[Publication] = []
        self.subscriptions: dict[str, Callable[[Publication], None]] = {}
        self.changed = asyncio.Event()

    def on_state(self, callback: Callable[[bool], None], /) -> None:
        pass

    async def publish(self, publication: Publication, /) -> int:
        # The core's own fleet status is none of the functions' messages.
        if not publication.topic.endswith("/health/json"):
            self.published.append(publication)
        self.changed.set()
        return 0

    async def subscribe(self, filter: str, qos: int, callback: Callable[[Publication], None], /) -> None:
        self.subscriptions[filter] = callback

    async def unsubscribe(self, filter: str, /) -> None:
        self.subscriptions.pop(filter, None)

    async def until(self, found: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not found():
                self.changed.clear()
                await self.changed.wait()

    def messages(self, prefix: str) -> list[dict[str, Any]]:
        return [json.loads(each.payload) for each in self.published if each.topic.startswith(prefix)]

    async def ask(self, command: str, run: int) -> dict[str, dict[str, Any]]:
        """Every component's answer to a command."""

        def answers() -> dict[str, dict[str, Any]]:
            return {each["component"]: each for each in self.messages("foreshore/stats/") if each["run"] == run}

        message = json.dumps({"command": command, "run": run}).encode()
        self.subscriptions["foreshore/control"](Publication("foreshore/control", message))
        await self.until(lambda: len(answers()) == 3)
        return answers()


class OnCore:
    """A started core with the project deployed."""

    def __init__(self, folder: Path, profile: Literal["classic", "lite"], project: Path) -> None:
        self.cloud = Cloud()
        self.spans: list[Span] = []
        self.logs: list[LogLine] = []
        self.project = project
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": path, **({"FORESHORE_TRACE": "1"} if profile == "classic" else {})}
        self.core = Core(
            root=folder / "core",
            thing="core-1",
            region="us-east-1",
            account="000000000000",
            cloud=self.cloud,
            span=self.spans.append,
            log=self.logs.append,
            profile=profile,
            components=factory(environment=lambda: environment, run_folder=folder / "run", project=self.project),
        )

    async def start(self, hosts: int) -> None:
        await self.core.start()
        lifecycle: Any = self.core.lifecycle
        status = await lifecycle.wait(await lifecycle.deploy_project(self.project))
        assert status.status == "SUCCEEDED", (status, [line.text for line in self.logs][-20:])
        async with asyncio.timeout(20):
            while sum("event sources" in line.text for line in self.logs) < hosts:
                await asyncio.sleep(0.01)
