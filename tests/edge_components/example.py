"""What the components' tests share: loading by path, as the host does, and the recorded flow."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def load(component: str, module: str) -> ModuleType:
    path = ROOT / "edge_components" / component / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"{component}_{module}", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class Published:
    """What a handler published, and how."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any, str]] = []

    def client(self, kind: str) -> Published:
        assert kind == "iot-data"
        return self

    def publish(self, topic: str, payload: str, queueFullPolicy: str = "") -> None:
        self.messages.append((topic, json.loads(payload), queueFullPolicy))


def recipe_environment(component: str) -> dict[str, str]:
    """The environment variables that the recipe gives the component."""
    recipe = yaml.safe_load((ROOT / "recipes" / f"{component}.yaml").read_text())
    found: dict[str, str] = recipe["ComponentConfiguration"]["DefaultConfiguration"]["environmentVariables"]
    return found


def flow() -> Iterator[tuple[int, float]]:
    """river's water flow: (epoch ms, l/s), hourly."""
    spec = importlib.util.find_spec("river")
    assert spec is not None and spec.origin is not None
    with (Path(spec.origin).parent / "datasets/water-flow.csv").open() as file:
        for row in csv.DictReader(file):
            moment = datetime.fromisoformat(row["Time"]).astimezone(UTC)
            yield int(moment.timestamp() * 1000), float(row["Water flow [l/s]"])
