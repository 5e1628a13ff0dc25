"""A project's folder: its templates, recipes and the few words of `foreshore.toml` that AWS's formats can't say.

region = "us-east-1"                  # where nothing else says so
account = "000000000000"

[core]
thing = "core-1"                      # the core device that runs recipes/deployment.yaml

[cores.plant-2]                       # or several core devices, a table each, all keys optional
profile = "lite"                      # the nucleus it behaves as: classic or lite
groups = ["plants"]                   # thing groups that it is in
recipes = "recipes"                   # the folder it deploys at the start; "": nothing

[uploads]                             # folders copied into a template's buckets at the start
SiteBucket = "lambda_edge/site"

[parameters.lambda_edge]              # values of a template's parameters
Stage = "dev"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foreshore.errors import UserError

TEMPLATE_NAMES = ("template.yaml", "template.yml", "template.json")
_KEYS = {"region", "account", "core", "cores", "uploads", "parameters"}
_CORE_KEYS = {"profile", "groups", "recipes"}
_THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
DEFAULT_CORE = "core-1"

CoreProfile = Literal["classic", "lite"]


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """One core device of a project.

    `recipes` is deployed at the start (None: the core starts empty); `profile` None is the command line's.
    """

    thing: str
    recipes: Path | None = None
    profile: CoreProfile | None = None
    groups: tuple[str, ...] = ()


@dataclass(slots=True)
class Project:
    """What `foreshore dev` reads from a folder. Paths are absolute."""

    folder: Path
    region: str = "us-east-1"
    account: str = "000000000000"
    cores: tuple[CoreSettings, ...] = ()
    uploads: dict[str, Path] = field(default_factory=dict)
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    templates: dict[str, Path] = field(default_factory=dict)
    recipes: Path | None = None

    @property
    def home(self) -> Path:
        """`.foreshore` in the project's folder: state, certificates, endpoints, what was built."""
        return self.folder / ".foreshore"

    @classmethod
    def read(
        cls,
        folder: Path,
        templates: tuple[Path, ...] = (),
        recipes: Path | None = None,
        cores: tuple[str, ...] = (),
    ) -> Project:
        """Read a folder; `cores` names the core devices in place of those in `foreshore.toml`.

        Raises UserError when a file named is missing or `foreshore.toml` is wrong.
        """
        folder = folder.resolve()
        if not folder.is_dir():
            raise UserError("no such folder", code="no-project", where=str(folder), mend="name a folder with -C DIR")
        project = cls(folder)
        settings = project._read_settings()
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
        project._read_cores(settings, cores)
        return project

    def _find_templates(self) -> None:
        for place in (self.folder, self.folder / "cloud_functions", self.folder / "lambda_edge"):
            for name in TEMPLATE_NAMES:
                if (place / name).is_file():
                    self.templates[_stack_name(place / name, self.folder)] = place / name
                    break

    def _read_settings(self) -> dict[str, Any]:
        path = self._settings_file
        if not path.is_file():
            return {}
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
        self.parameters = {str(name): dict(values) for name, values in settings.get("parameters", {}).items()}
        for bucket, source in settings.get("uploads", {}).items():
            self.uploads[bucket] = self.folder / source
            if not self.uploads[bucket].is_dir():
                raise UserError(
                    f"uploads.{bucket} names {source}, which is no folder", code="settings", where=str(path)
                )
        return settings

    @property
    def _settings_file(self) -> Path:
        return self.folder / "foreshore.toml"

    def _read_cores(self, settings: dict[str, Any], named: tuple[str, ...]) -> None:
        """The core devices: those named, else `[cores.*]`, else that of `[core]`, else one when there are recipes."""
        tables = settings.get("cores", {})
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            raise self._wrong("cores must be tables", "write [cores.plant-1]")
        core = settings.get("core", {})
        if not isinstance(core, dict):
            raise self._wrong("core must be a table", "write [core]")
        if core and tables:
            raise self._wrong("both [core] and [cores.*] name core devices", "keep one of them")
        one = [str(core.get("thing", DEFAULT_CORE))] if "core" in settings else []
        one = one or ([DEFAULT_CORE] if self.recipes is not None else [])
        if one and not tables:
            tables = {one[0]: {key: value for key, value in core.items() if key != "thing"}}
        names = list(dict.fromkeys(named)) or list(tables) or one
        where = "core" if core else "cores.{}"
        self.cores = tuple(self._core(name, tables.get(name, {}), where.format(name)) for name in names)

    def _core(self, name: str, table: dict[str, Any], where: str) -> CoreSettings:
        if not _THING.fullmatch(name):
            raise self._wrong(f"{name!r} is no thing name", "letters, digits, : _ and -, 128 at most")
        unknown = set(table) - _CORE_KEYS
        if unknown:
            known = ", ".join(sorted(_CORE_KEYS))
            raise self._wrong(f"{where} has unknown settings: {', '.join(sorted(unknown))}", f"known are {known}")
        profile = table.get("profile")
        if profile not in (None, "classic", "lite"):
            raise self._wrong(f"{where}.profile is {profile!r}", "write classic or lite")
        groups = table.get("groups", [])
        if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
            raise self._wrong(f"{where}.groups must be a list of thing groups", 'write groups = ["plants"]')
        recipes = self.recipes
        if "recipes" in table:
            recipes = self.folder / str(table["recipes"]) if table["recipes"] else None
            if recipes is not None and not recipes.is_dir():
                raise self._wrong(f"{where}.recipes names {table['recipes']}, which is no folder", "name one")
        return CoreSettings(name, recipes, profile, tuple(groups))

    def unused(self, templates: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """What `[parameters]` and `[uploads]` name and no template of the stacks (name to template) has."""
        declared = {name.replace("-", "_"): template.get("Parameters") or {} for name, template in templates.items()}
        for stack, values in self.parameters.items():
            if stack not in declared:
                yield f"parameters.{stack} has no effect: no stack has that name, {', '.join(declared)} have theirs"
                continue
            yield from (
                f"parameters.{stack}.{name} has no effect: the template has no such parameter"
                for name in values if name not in declared[stack]
            )  # fmt: skip
        for bucket in self.uploads:
            if not any(bucket in template["Resources"] for template in templates.values()):
                yield f"uploads.{bucket} has no effect: no template has a bucket of that name"

    def _wrong(self, what: str, mend: str) -> UserError:
        return UserError(what, code="settings", where=str(self._settings_file), mend=mend)


def _stack_name(path: Path, folder: Path) -> str:
    """The folder's name with dashes; a template of another name adds it (CloudFormation: letters, digits, dashes)."""
    place = path.parent.name if path.parent != folder else folder.name
    stem = path.stem if path.stem != "template" else ""
    name = "-".join(part for part in (place, stem) if part)
    clean = "".join(c if c.isalnum() else "-" for c in name).strip("-")
    return clean if clean[:1].isalpha() else f"stack-{clean}"
