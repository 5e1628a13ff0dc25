"""A project's folder: its templates, recipes and the few words of `foreshore.toml` that AWS's formats can't say.

region = "us-east-1"                  # where nothing else says so
account = "000000000000"

[core]
thing = "core-1"                      # the core device that runs recipes/deployment.yaml

[uploads]                             # folders copied into a template's buckets at the start
SiteBucket = "lambda_edge/site"

[parameters.lambda_edge]              # values of a template's parameters
Stage = "dev"
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foreshore.errors import UserError

TEMPLATE_NAMES = ("template.yaml", "template.yml", "template.json")
_KEYS = {"region", "account", "core", "uploads", "parameters"}


@dataclass(slots=True)
class Project:
    """What `foreshore dev` reads from a folder. Paths are absolute."""

    folder: Path
    region: str = "us-east-1"
    account: str = "000000000000"
    thing: str = "core-1"
    uploads: dict[str, Path] = field(default_factory=dict)
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    templates: dict[str, Path] = field(default_factory=dict)
    recipes: Path | None = None

    @property
    def home(self) -> Path:
        """`.foreshore` in the project's folder: state, certificates, endpoints, what was built."""
        return self.folder / ".foreshore"

    @classmethod
    def read(cls, folder: Path, templates: tuple[Path, ...] = (), recipes: Path | None = None) -> Project:
        """Read a folder. Raises UserError when a file named is missing or `foreshore.toml` is wrong."""
        folder = folder.resolve()
        if not folder.is_dir():
            raise UserError("no such folder", code="no-project", where=str(folder), mend="name a folder with -C DIR")
        project = cls(folder)
        project._read_settings()
        for path in templates:
            if not path.is_file():
                raise UserError("no such template", code="template", where=str(path))
            project.templates[_stack_name(path.resolve(), folder)] = path.resolve()
        if not templates:
            project._find_templates()
        if recipes is not None and not recipes.is_dir():
            raise UserError("no such folder of recipes", code="recipe", where=str(recipes))
        found = recipes or folder / "recipes"
        project.recipes = found.resolve() if found.is_dir() else None
        return project

    def _find_templates(self) -> None:
        for place in (self.folder, self.folder / "cloud_functions", self.folder / "lambda_edge"):
            for name in TEMPLATE_NAMES:
                if (place / name).is_file():
                    self.templates[_stack_name(place / name, self.folder)] = place / name
                    break

    def _read_settings(self) -> None:
        path = self.folder / "foreshore.toml"
        if not path.is_file():
            return
        try:
            settings = tomllib.loads(path.read_text("utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"not readable: {error}", code="settings", where=str(path)) from error
        unknown = set(settings) - _KEYS
        if unknown:
            raise UserError(
                f"unknown settings: {', '.join(sorted(unknown))}", code="settings", where=str(path),
                mend=f"known are {', '.join(sorted(_KEYS))}",
            )  # fmt: skip
        self.region = str(settings.get("region", self.region))
        self.account = str(settings.get("account", self.account))
        self.thing = str(settings.get("core", {}).get("thing", self.thing))
        self.parameters = {str(name): dict(values) for name, values in settings.get("parameters", {}).items()}
        for bucket, source in settings.get("uploads", {}).items():
            self.uploads[bucket] = self.folder / source
            if not self.uploads[bucket].is_dir():
                raise UserError(
                    f"uploads.{bucket} names {source}, which is no folder", code="settings", where=str(path)
                )


def _stack_name(path: Path, folder: Path) -> str:
    """The folder's name with dashes; a template of another name adds it (CloudFormation: letters, digits, dashes)."""
    place = path.parent.name if path.parent != folder else folder.name
    stem = path.stem if path.stem != "template" else ""
    name = "-".join(part for part in (place, stem) if part)
    clean = "".join(c if c.isalnum() else "-" for c in name).strip("-")
    return clean if clean[:1].isalpha() else f"stack-{clean}"
