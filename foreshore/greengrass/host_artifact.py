"""Builds the Lambda host's artifact and lays out a project's component artifacts as a nucleus would download them.

The host is one file, `lambda_host.pyz`: a zip archive with `__main__.py` at its root (Python documentation, zipapp).
Equal sources give equal bytes, so that a component's digest changes only when the component does.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import yaml

from foreshore.errors import UserError

HOST_NAME = "lambda_host.pyz"
_PACKAGE = "foreshore_lambda_host"
_SOURCE = Path(__file__).parent / "lambda_host"
_MAIN = """import sys

if "--worker" in sys.argv:
    from foreshore_lambda_host.worker import work

    sys.exit(work(int(sys.argv[-1])))
from foreshore_lambda_host.main import main

sys.exit(main())
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build_host(target: Path) -> Path:
    """Write the host to `target`: a folder (the file is then `lambda_host.pyz`) or a file's path. Gives the path."""
    path = target / HOST_NAME if target.is_dir() else target
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_zip(path, _members())
    return path


def host_bytes() -> bytes:
    """The host's archive."""
    return zipped(_members())


def _write_zip(path: Path, members: dict[str, bytes]) -> None:
    """Replaces the file at once, so that no reader sees half of it."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(zipped(members))
    partial.replace(path)


def zipped(members: dict[str, bytes]) -> bytes:
    """Equal members give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(members.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def sources(folder: Path) -> list[Path]:
    """The files of a component's folder that are code or data, not traces of running or testing it."""
    hidden = ("__pycache__", ".venv", ".git", ".pytest_cache")
    found = [path for path in folder.rglob("*") if path.is_file() and not set(path.parts) & set(hidden)]
    return sorted(path for path in found if path.suffix != ".pyc" and path.name != "README.md")


def _members() -> dict[str, bytes]:
    """Archive names and contents: the package, and the shims at the root."""
    members = {"__main__.py": _MAIN.encode()}
    for source in _SOURCE.rglob("*.py"):
        relative = source.relative_to(_SOURCE)
        if relative.parts[0] != "shims":
            members[f"{_PACKAGE}/{relative.as_posix()}"] = source.read_bytes()
        elif len(relative.parts) > 2:
            members["/".join(relative.parts[1:])] = source.read_bytes()
    return members


def prepare_project(project: Path) -> None:
    """Copy every recipe's artifacts to `<project>/.foreshore/build/artifacts/<component>/<version>/`.

    An artifact is found by its file name: the host is built, everything else comes from the recipe's folder,
    `edge_components/<recipe's file name without suffix>/`; a `.zip` that is not there is made of that folder. Raises
    UserError when one is missing.
    """
    for recipe_path in sorted((project / "recipes").glob("*.yaml")):
        recipe = read_recipe(recipe_path)
        if recipe is not None:
            _prepare_component(project, recipe_path, recipe)


def read_recipe(path: Path) -> dict[str, Any] | None:
    """A recipe file, or None for another kind of document, such as a deployment. Raises UserError."""
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {error}", code="recipe-syntax", where=str(path)) from error
    return document if isinstance(document, dict) and "ComponentName" in document else None


def _prepare_component(project: Path, recipe_path: Path, recipe: dict[str, Any]) -> None:
    folder = project / "edge_components" / recipe_path.stem
    target = project / ".foreshore/build/artifacts" / recipe["ComponentName"] / str(recipe["ComponentVersion"])
    target.mkdir(parents=True, exist_ok=True)
    for name in artifact_names(recipe):
        if name == HOST_NAME:
            build_host(target)
            continue
        source = folder / name
        if name.endswith(".zip") and folder.is_dir() and not source.exists():
            _write_zip(
                target / name, {each.relative_to(folder).as_posix(): each.read_bytes() for each in sources(folder)}
            )
            continue
        if not source.is_file():
            raise UserError(
                f"artifact {name} of {recipe['ComponentName']} is not in {folder}",
                code="artifact-missing",
                where=str(recipe_path),
                mend=f"put it there, or remove it from the recipe's Artifacts in {recipe_path.name}",
            )
        shutil.copyfile(source, target / name)


def artifact_names(recipe: dict[str, Any]) -> list[str]:
    """File names of all artifacts of all manifests, in order, each once."""
    found = []
    for manifest in recipe.get("Manifests") or ():
        for artifact in manifest.get("Artifacts") or ():
            uri = artifact.get("URI") or artifact.get("Uri") or ""
            found.append(uri.rpartition("/")[2])
    return list(dict.fromkeys(name for name in found if name))
