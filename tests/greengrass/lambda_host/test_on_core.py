"""The example project's components on a real core, as processes, with the recorded flow; classic and lite."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from on_core import OnCore

from foreshore.greengrass.host_artifact import prepare_project

ROOT = Path(__file__).parents[3]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


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


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_the_flow_goes_through(tmp_path: Path, profile: Literal["classic", "lite"]) -> None:
    asyncio.run(replay(OnCore(tmp_path, profile, copy_project(tmp_path / "project")), profile))


async def replay(on: OnCore, profile: str) -> None:
    readings = recorded_flow()
    sent = [json.dumps(each).encode() for each in readings]
    await on.start(3)
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
