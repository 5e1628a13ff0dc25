"""The components stand alone: no foreshore, no code of one another, pure logic, recipes that name what exists."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import yaml
from example import ROOT, recipe_environment

COMPONENTS = ("filter", "aggregate", "alert")
IMPURE = {"asyncio", "socket", "ssl", "os", "time", "random", "uuid", "threading", "subprocess", "greengrasssdk"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("component", COMPONENTS)
def test_imports(component: str) -> None:
    folder = ROOT / "edge_components" / component
    assert not imports(folder / "logic.py") & (IMPURE | {"foreshore"})
    assert "foreshore" not in imports(folder / "main.py")
    assert (folder / "requirements.txt").is_file() and (folder / "README.md").is_file()


@pytest.mark.parametrize("component", COMPONENTS)
def test_recipe(component: str) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / f"{component}.yaml").read_text())
    configuration = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    assert recipe["ComponentName"] == f"foreshore.{component}"
    assert all(isinstance(value, str) for value in recipe_environment(component).values())
    for name in ("QUANTITIES", "RULES"):
        json.loads(recipe_environment(component).get(name, "{}"))
    allowed = json.dumps(configuration["accessControl"])
    for source in configuration["eventSources"]:
        assert source["topic"] in allowed
    for artifact in recipe["Manifests"][0]["Artifacts"]:
        name = artifact["URI"].rpartition("/")[2]
        assert name == "lambda_host.pyz" or (ROOT / "edge_components" / component / name).is_file()
