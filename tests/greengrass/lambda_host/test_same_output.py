"""One handler file: the same output on classic, on lite and in the cloud runtime's worker."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import yaml
from lambda_definition import EVENTS
from on_core import OnCore

import foreshore.greengrass.lambda_host as lambda_host
from foreshore.functions.service import Functions
from foreshore.functions.spec import FunctionSpec


async def on_core(folder: Path, profile: Literal["classic", "lite"], project: Path) -> list[dict[str, Any]]:
    """What the component published for EVENTS, in order."""
    recipe = project / "recipes/com-example-counter.yaml"
    document = yaml.safe_load(recipe.read_text())
    document.pop("ComponentDependencies", None)
    recipe.write_text(yaml.safe_dump(document))
    on = OnCore(folder, profile, project)
    published: list[dict[str, Any]] = []
    await on.start(1)
    on.core.subscribe_local(
        "out/local/#",
        lambda message: published.append({"topic": message.topic, "payload": json.loads(message.payload)}),
    )
    taken = 0
    try:
        for event in EVENTS:
            on.core.publish_local("in/x", json.dumps(event).encode(), source="test")
            await on.cloud.until(lambda: len(on.cloud.published) > taken)  # noqa: B023
            message = on.cloud.published[taken]
            taken += 1
            await asyncio.sleep(0)
            published.append({"topic": message.topic, "payload": json.loads(message.payload)})
    finally:
        await on.core.stop()
    return published


async def in_worker(folder: Path, project: Path) -> list[dict[str, Any]]:
    """What the same file returns in the Lambda runtime's worker; its publishes go to greengrasssdk's own mock."""
    layer = folder / "layer/python"
    shutil.copytree(Path(lambda_host.__file__).parent / "shims", layer, ignore=shutil.ignore_patterns("__pycache__"))
    functions = Functions(
        state=folder / "state", region="us-east-1", account="000000000000", environment=dict,
        span=lambda _: None, log=lambda _: None, run_folder=folder / "run",
    )  # fmt: skip
    await functions.start()
    try:
        code = project / "edge_components/com-example-counter"
        spec = FunctionSpec("counter", code, "counter.handler", environment={"STEP": "2"}, layers=(layer.parent,))
        functions.create(spec)
        results = [await functions.invoke("counter", json.dumps(event).encode()) for event in EVENTS]
        assert [result.function_error for result in results] == [None] * len(EVENTS), results
        return [message for result in results for message in json.loads(result.payload)]
    finally:
        await functions.stop()


def test_the_same_file_gives_the_same_output_everywhere(turned: Path, tmp_path: Path) -> None:
    def ordered(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """By topic: local and cloud messages reach the test by different ways, each in order."""
        return sorted(messages, key=lambda message: str(message["topic"]))

    cloud = asyncio.run(in_worker(tmp_path / "cloud", turned))
    classic = asyncio.run(on_core(tmp_path / "classic", "classic", turned))
    lite = asyncio.run(on_core(tmp_path / "lite", "lite", turned))
    assert [message["payload"].get("total") for message in ordered(cloud)] == [2, 6, 12, 12.0, 32.0, None, None]
    assert ordered(classic) == ordered(cloud)
    assert ordered(lite) == ordered(cloud)
