"""Shell: the recipes of one core (`packages/recipes`), and what each becomes on this machine."""

from __future__ import annotations

import platform as platform_module
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from foreshore.errors import NotEmulated, UserError
from foreshore.greengrass.artifacts import ArtifactStore
from foreshore.greengrass.components import Profile
from foreshore.greengrass.deployments import Definition
from foreshore.greengrass.layout import Layout
from foreshore.greengrass.lifecycle import ERROR_RESET_S
from foreshore.greengrass.provided import PROVIDED
from foreshore.greengrass.recipes import (
    Manifest,
    Recipe,
    Variables,
    as_lite_reads,
    error_reset_of,
    interpolate,
    lifecycle_for,
    parse,
    select_manifest,
    steps_of,
)
from foreshore.greengrass.versions import Version

_ARCHITECTURES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "i386": "x86",
    "i686": "x86",
    "aarch64": "aarch64",
    "arm64": "aarch64",
}
GENERIC = "aws.greengrass.generic"
SUFFIXES = (".yaml", ".yml", ".json")


def this_platform(profile: Profile) -> dict[str, str]:
    """The platform attributes of this machine, as recipes name them."""
    machine = platform_module.machine().lower()
    found = {
        "os": "darwin" if sys.platform == "darwin" else "linux",
        "architecture": _ARCHITECTURES.get(machine, "arm" if machine.startswith("arm") else "unknown"),
    }
    if machine in ("armv6l", "armv7l", "armv8l"):
        found["architecture.detail"] = machine
    if profile == "lite":
        found["runtime"] = "aws_nucleus_lite"
    return found


def recipe_files(folder: Path) -> list[Path]:
    """The recipe files of a folder, sorted: `*.yaml`, `*.yml` and `*.json`, without the deployment document."""
    return sorted(
        file for file in folder.iterdir() if file.suffix in SUFFIXES and file.stem != "deployment" and file.is_file()
    )


def deployment_file(folder: Path) -> Path | None:
    """The folder's deployment document, or None."""
    return next((file for suffix in SUFFIXES if (file := folder / f"deployment{suffix}").is_file()), None)


class RecipeStore:
    """Takes recipes in, finds them again, and resolves them for this platform."""

    def __init__(
        self, root: Path, thing: str, artifacts: ArtifactStore, platform: Mapping[str, str], profile: Profile
    ) -> None:
        self.is_lite = profile == "lite"
        self.layout = Layout(root)
        self.artifacts = artifacts
        self.platform = dict(platform)
        self._thing = thing
        self._folder = root / "packages/recipes"
        self._parsed: dict[Path, tuple[tuple[int, int], Recipe]] = {}

    def take(self, folder: Path) -> list[Recipe]:
        """Store every recipe of a folder. Raises UserError."""
        if not folder.is_dir():
            raise UserError(
                "there is no such recipe folder",
                code="recipe-directory",
                where=str(folder),
                mend="name one that exists",
            )
        taken = []
        for file in recipe_files(folder):
            text = file.read_text(errors="replace")
            recipe = parse(text, str(file))
            suffix = ".json" if file.suffix == ".json" else ".yaml"
            target = self._folder / f"{recipe.name}-{recipe.version}{suffix}"
            if not target.exists() or target.read_text() != text:
                fresh = target.with_name(target.name + ".new")
                fresh.write_text(text)
                fresh.replace(target)
            self.artifacts.folders[recipe.name] = file.stem
            taken.append(recipe)
        return taken

    def known(self) -> dict[str, dict[Version, Recipe]]:
        """Every stored recipe, by component and version. Raises UserError."""
        found: dict[str, dict[Version, Recipe]] = {}
        for file in sorted(self._folder.iterdir()):
            if file.suffix in (".yaml", ".json"):
                recipe = self._parse(file)
                found.setdefault(recipe.name, {})[recipe.version] = recipe
        return found

    def find(self, name: str, version: str) -> Recipe:
        """One stored recipe. Raises UserError(`no-recipe`)."""
        for suffix in (".yaml", ".json"):
            file = self._folder / f"{name}-{version}{suffix}"
            if file.exists():
                return self._parse(file)
        raise UserError(
            f"the recipe of {name} {version} is gone", code="no-recipe", where=str(self._folder), mend="deploy it again"
        )

    def _parse(self, file: Path) -> Recipe:
        """Parse, unless the file is as it was at the last time."""
        facts = file.stat()
        key = (facts.st_mtime_ns, facts.st_size)
        known = self._parsed.get(file)
        if known is None or known[0] != key:
            known = (key, parse(file.read_text(errors="replace"), str(file)))
            self._parsed[file] = known
        return known[1]

    def manifest(self, recipe: Recipe) -> Manifest:
        """The manifest for this platform. Raises UserError(`no-manifest`)."""
        manifest = select_manifest(recipe, self.platform, lite=self.is_lite)
        if manifest is None:
            have = ", ".join(f"{key}={value}" for key, value in self.platform.items())
            raise UserError(
                f"no manifest of {recipe.name} {recipe.version} fits this platform ({have})",
                code="no-manifest",
                where=recipe.where,
                mend="add a manifest whose Platform matches, or one without Platform",
            )
        return manifest

    def define(
        self,
        recipe: Recipe,
        configuration_of: Callable[[str], Mapping[str, object]],
        versions: Mapping[str, str],
        stamps: Mapping[str, str] | None = None,
    ) -> Definition:
        """Resolve a recipe: platform, artifacts, variables. With `stamps` the artifacts stay as they are.

        `versions` are those of all components of the deployment. Raises UserError or NotEmulated.
        """
        if recipe.component_type != GENERIC:
            kind = recipe.component_type.removeprefix("aws.greengrass.")
            hint = "Foreshore's Lambda host runs handlers as generic components." if kind == "lambda" else ""
            raise NotEmulated(f"components of type {kind} ({recipe.name})", hint)
        manifest = self.manifest(recipe)
        if stamps is None:
            stamps = self.artifacts.place(recipe, manifest)
        version = str(recipe.version)

        def system(component: str, namespace: str, key: str) -> str | None:
            its_version = version if component == recipe.name else versions.get(component, PROVIDED.get(component, ""))
            return self.layout.system(component, its_version, self._thing, namespace, key)

        variables = Variables(recipe.name, frozenset(recipe.dependencies), configuration_of, system)
        lifecycle = interpolate(lifecycle_for(recipe, manifest), variables)
        steps = lifecycle if isinstance(lifecycle, Mapping) else {}
        notes: list[str] = []
        if self.is_lite:
            steps, notes = as_lite_reads(steps)
        return Definition(
            recipe.name,
            version,
            steps_of(steps, recipe.where),
            {name: wish.hard for name, wish in recipe.dependencies.items()},
            stamps,
            error_reset_s=error_reset_of(steps, ERROR_RESET_S),
            notes=tuple(notes),
        )

    def defaults(self, recipe: Recipe, *, interpolated: bool) -> Mapping[str, object]:
        """The recipe's default configuration; `interpolated` as by `interpolateComponentConfiguration`."""
        if not interpolated:
            return recipe.default_configuration
        variables = Variables(
            recipe.name,
            frozenset(recipe.dependencies),
            lambda name: None,
            lambda name, space, key: self.layout.system(name, str(recipe.version), self._thing, space, key),
        )
        value = interpolate(recipe.default_configuration, variables, configuration=False)
        return value if isinstance(value, Mapping) else {}
