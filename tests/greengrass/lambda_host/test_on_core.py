"""The example project's components on a real core, as processes, with the recorded flow; classic and lite."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest

from foreshore.greengrass.host_artifact import prepare_project
from foreshore.greengrass.service import Core
from foreshore.greengrass.supervisor import factory
from foreshore.seams import LogLine, Publication, Span

ROOT = Path(__file__).parents[3]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


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


def recorded_flow() -> list[dict[str, Any]]:
    spec = importlib.util.find_spec("river")
    assert spec is not None and spec.origin is not None
    lines = (Path(spec.origin).parent / "datasets/water-flow.csv").read_text().splitlines()[1:]
    found = []
    for seq, (time, value) in enumerate((line.split(",") for line in lines), 1):
        ts = int(datetime.fromisoformat(time).timestamp() * 1000)
        found.append(
            {"device": "flow-1", "seq": seq, "ts": ts, "quantity": "flow", "value": float(value), "unit": "l/s"}
        )
    return found


def copy_project(target: Path) -> Path:
    for name in ("recipes", "edge_components"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    prepare_project(target)
    return target


class OnCore:
    """A started core with the project deployed."""

    def __init__(self, folder: Path, profile: Literal["classic", "lite"]) -> None:
        self.cloud = Cloud()
        self.spans: list[Span] = []
        self.logs: list[LogLine] = []
        self.project = copy_project(folder / "project")
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

    async def start(self) -> None:
        await self.core.start()
        lifecycle: Any = self.core.lifecycle
        status = await lifecycle.wait(await lifecycle.deploy_project(self.project))
        assert status.status == "SUCCEEDED", (status, [line.text for line in self.logs][-20:])
        async with asyncio.timeout(20):
            while sum("running main.handler" in line.text for line in self.logs) < 3:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_the_flow_goes_through(tmp_path: Path, profile: Literal["classic", "lite"]) -> None:
    asyncio.run(replay(OnCore(tmp_path, profile), profile))


async def replay(on: OnCore, profile: str) -> None:
    readings = recorded_flow()
    sent = [json.dumps(each).encode() for each in readings]
    await on.start()
    try:
        for payload in [*sent, sent[-1], b"{}", b"not json"]:
            on.core.publish_local("devices/flow-1/readings", payload, source="bridge", traceparent=TRACE)
            await asyncio.sleep(0)
        run = 0
        async with asyncio.timeout(30):
            counts: dict[str, Any] = {}
            while not counts or min(counts["filter"]["received"], counts["alert"]["received"]) < len(sent):
                run += 1
                counts = await on.cloud.ask("count", run)
        flushed = await on.cloud.ask("flush", run + 1)
    finally:
        await on.core.stop()
    rejected = {"duplicate": 1, "schema": 1, "not-json": 1}
    told = {name: (each["received"], each["published"], each["rejected"]) for name, each in flushed.items()}
    windows, alerts = on.cloud.messages("foreshore/windows/"), on.cloud.messages("foreshore/alerts/")
    assert told == {
        "filter": (len(sent) + 3, len(sent), rejected),
        "aggregate": (len(sent), len(windows), {}),
        "alert": (len(sent), len(alerts), {}),
    }
    assert sum(window["count"] for window in windows) == len(sent)
    assert Counter((alert["rule"], alert["state"]) for alert in alerts) == {
        ("flow-low", "ACTIVE"): 3,
        ("flow-low", "NORMAL"): 3,
        ("flow-unusual", "ACTIVE"): 4,
        ("flow-unusual", "NORMAL"): 4,
    }
    if profile == "classic":
        carried = [each for each in on.cloud.published if each.topic.startswith("foreshore/windows/")]
        assert all(each.traceparent and each.traceparent.split("-")[1] == TRACE.split("-")[1] for each in carried[:-1])
