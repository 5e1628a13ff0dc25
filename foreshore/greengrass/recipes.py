"""Component recipes: parsing, platform selection, recipe variables, lifecycle steps.

Keys are read in any case, as the classic nucleus reads them (`ComponentName` and `componentName`); `checks.py` tells
where lite would not. Values keep the user's case. Unknown keys are ignored here, as on the device.
Source: Greengrass developer guide, "AWS IoT Greengrass component recipe reference".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from foreshore.errors import UserError
from foreshore.greengrass.documents import Document, Path, read
from foreshore.greengrass.versions import BadVersion, Range, Version, check_component_version

FORMAT_VERSION = "2020-01-25"
NAME = re.compile(r"^(?!\.{1,2}$)[a-zA-Z0-9\-_.]+$")
MAX_NAME = 128
STEPS = ("bootstrap", "install", "startup", "run", "shutdown", "recover", "uninstall")
ALL = "all"

_SAME = re.compile(r"\{([.\w-]+):([^:}]*)\}")
_CROSS = re.compile(r"\{([.\w-]+):([.\w-]+):([^:}]*)\}")
_LABEL = re.compile(r"[-A-Za-z0-9_$]")


@dataclass(frozen=True, slots=True)
class Dependency:
    """What a component asks of another: an npm range, and whether it restarts with it (HARD) or not (SOFT)."""

    requirement: Range
    hard: bool = True


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a component. `unarchive` is NONE or ZIP; `read` and `execute` are NONE, OWNER or ALL."""

    uri: str
    unarchive: str = "NONE"
    read: str = "OWNER"
    execute: str = "NONE"
    digest: str = ""
    algorithm: str = ""

    @property
    def file_name(self) -> str:
        """The last part of the URI: the file's name under `packages/artifacts/<component>/<version>`."""
        return self.uri.rpartition("/")[2]

    def mode(self, *, writable: bool) -> int:
        """The permission bits of its files: the owner may always read, the group counts as owner, and who may execute
        may read. `writable` adds the owner's write bit, as a nucleus that is not root does."""
        reads = self.read in ("OWNER", "ALL") or self.execute in ("OWNER", "ALL")
        runs = self.execute in ("OWNER", "ALL")
        others_read = self.read == "ALL" or self.execute == "ALL"
        bits = (True, writable, runs, reads, False, runs, others_read, False, self.execute == "ALL")
        return sum(1 << 8 - place for place, bit in enumerate(bits) if bit)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One platform's part of a recipe."""

    name: str = ""
    platform: Mapping[str, str] = field(default_factory=dict)
    lifecycle: Mapping[str, object] = field(default_factory=dict)
    selections: tuple[str, ...] = ()
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe, for all platforms."""

    name: str
    version: Version
    where: str = ""
    component_type: str = "aws.greengrass.generic"
    description: str = ""
    publisher: str = ""
    source: str = ""
    default_configuration: Mapping[str, object] = field(default_factory=dict)
    dependencies: Mapping[str, Dependency] = field(default_factory=dict)
    manifests: tuple[Manifest, ...] = ()
    lifecycle: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One lifecycle step. `timeout_s` None means the step's own default; `setenv` is the step's and its parents'.

    `label` is where the script stands below `lifecycle`, as the user spelled it (`Run.Script`): logs name it.
    """

    script: str
    timeout_s: float | None = None
    requires_privilege: bool = False
    skip_if: str = ""
    setenv: Mapping[str, str] = field(default_factory=dict)
    label: str = ""


def parse(text: str, where: str) -> Recipe:
    """Read a recipe, YAML or JSON. Raises UserError (`bad-document`, `bad-recipe`) with file, line and a mend."""
    return from_document(read(text, where))


def from_document(document: Document) -> Recipe:
    """Make a recipe of a parsed document. Raises UserError(`bad-recipe`)."""
    top = _Fields(document, (), document.value)
    version = top.text("recipeformatversion")
    if version != FORMAT_VERSION:
        raise top.wrong("recipeformatversion", f"RecipeFormatVersion must be '{FORMAT_VERSION}'", "write it so")
    name = top.text("componentname")
    if not NAME.match(name) or len(name) > MAX_NAME:
        raise top.wrong(
            "componentname", f"{name!r} is no component name", "use at most 128 of letters, digits, '-', '_' and '.'"
        )
    configuration = top.child("componentconfiguration")
    return Recipe(
        name=name,
        version=_version(top),
        where=document.where,
        component_type=top.text("componenttype", "aws.greengrass.generic").lower(),
        description=top.text("componentdescription", ""),
        publisher=top.text("componentpublisher", ""),
        source=top.text("componentsource", ""),
        default_configuration=configuration.mapping("defaultconfiguration"),
        dependencies=_dependencies(top.child("componentdependencies")),
        manifests=tuple(_manifest(fields) for fields in top.children("manifests")),
        lifecycle=top.mapping("lifecycle"),
    )


class _Fields:
    """One mapping of the document, its keys found in any case; errors name file and line."""

    def __init__(self, document: Document, path: Path, value: object) -> None:
        self.document = document
        self.path = path
        if value is not None and not isinstance(value, dict):
            raise UserError(
                f"{_dotted(path) or 'the recipe'} must be a map of keys to values",
                code="bad-recipe",
                where=document.at(path),
                mend="indent its keys below it",
            )
        self.values: dict[str, object] = value or {}
        self.spelled = {key.lower(): key for key in self.values}

    def wrong(self, key: str, what: str, mend: str) -> UserError:
        path = (*self.path, self.spelled.get(key, key))
        return UserError(what, code="bad-recipe", where=self.document.at(path), mend=mend)

    def get(self, key: str) -> object:
        return self.values.get(self.spelled.get(key, key))

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key)
        if value is None:
            if default is None:
                raise self.wrong(key, f"the recipe has no {_dotted((*self.path, _PROPER.get(key, key)))}", "add it")
            return default
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, dict | list):
            raise self.wrong(key, f"{_PROPER.get(key, key)} must be text", "write it as text")
        return str(value)

    def mapping(self, key: str) -> dict[str, object]:
        value = self.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(key, f"{_PROPER.get(key, key)} must be a map", "indent its keys below it")
        return value

    def child(self, key: str) -> _Fields:
        return _Fields(self.document, (*self.path, self.spelled.get(key, key)), self.get(key))

    def children(self, key: str) -> list[_Fields]:
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, f"{_PROPER.get(key, key)} must be a list", "begin each item with '- '")
        path = (*self.path, self.spelled[key])
        if None in value:
            raise self.wrong(key, f"{_PROPER[key]} contains one or more null element(s)", "take the empty item out")
        return [_Fields(self.document, (*path, index), item) for index, item in enumerate(value)]


_PROPER = {
    key.lower(): key
    for key in (
        "RecipeFormatVersion", "ComponentName", "ComponentVersion", "ComponentDescription", "ComponentPublisher",
        "ComponentType", "ComponentSource", "ComponentConfiguration", "DefaultConfiguration", "ComponentDependencies",
        "VersionRequirement", "DependencyType", "Manifests", "Name", "Platform", "Lifecycle", "Selections", "Artifacts",
        "URI", "Unarchive", "Permission", "Read", "Execute", "Digest", "Algorithm",
    )
}  # fmt: skip


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def _version(top: _Fields) -> Version:
    try:
        return check_component_version(top.text("componentversion"))
    except BadVersion as error:
        raise top.wrong("componentversion", str(error), "write major.minor.patch, in quotes") from None


def _dependencies(fields: _Fields) -> dict[str, Dependency]:
    found = {}
    for name in fields.values:
        entry = _Fields(fields.document, (*fields.path, name), fields.values[name])
        kind = entry.text("dependencytype", "HARD").upper()
        if kind not in ("HARD", "SOFT"):
            raise entry.wrong("dependencytype", f"{kind!r} is no dependency type", "write HARD or SOFT")
        try:
            requirement = Range.parse(entry.text("versionrequirement"))
        except BadVersion as error:
            raise entry.wrong("versionrequirement", str(error), "use an npm range such as ^1.0.0") from None
        found[name] = Dependency(requirement, kind == "HARD")
    return found


def _manifest(fields: _Fields) -> Manifest:
    selections = fields.get("selections")
    if isinstance(selections, str):
        selections = [selections]
    if selections is not None and not isinstance(selections, list):
        raise fields.wrong("selections", "Selections must be a list of words", "begin each with '- '")
    platform = {key: str(value) for key, value in fields.mapping("platform").items() if value is not None}
    return Manifest(
        name=fields.text("name", ""),
        platform=platform,
        lifecycle=fields.mapping("lifecycle"),
        selections=tuple(str(word) for word in selections or ()),
        artifacts=tuple(_artifact(item) for item in fields.children("artifacts")),
    )


def _artifact(fields: _Fields) -> Artifact:
    permission = fields.child("permission")
    unarchive = fields.text("unarchive", "NONE").upper()
    if unarchive not in ("NONE", "ZIP"):
        raise fields.wrong("unarchive", f"{unarchive!r} is no way to unarchive", "write NONE or ZIP")
    return Artifact(
        uri=fields.text("uri"),
        unarchive=unarchive,
        read=permission.text("read", "OWNER").upper(),
        execute=permission.text("execute", "NONE").upper(),
        digest=fields.text("digest", ""),
        algorithm=fields.text("algorithm", ""),
    )


def select_manifest(recipe: Recipe, platform: Mapping[str, str], *, lite: bool = False) -> Manifest | None:
    """The first manifest whose platform requirements all hold; None when no one does.

    Nucleus lite skips manifests without a `runtime` of its own or `*`, and knows no regular expressions.
    """
    for manifest in recipe.manifests:
        if lite and not _fits_lite(manifest):
            continue
        if all(_attribute_holds(key, platform.get(key, ""), want) for key, want in manifest.platform.items()):
            return manifest
    return None


def _fits_lite(manifest: Manifest) -> bool:
    wanted = manifest.platform.values()
    return manifest.platform.get("runtime") in ("*", "aws_nucleus_lite") and not any(
        len(text) >= 2 and text.startswith("/") and text.endswith("/") for text in wanted
    )


def _attribute_holds(name: str, label: str, wanted: str) -> bool:
    """One platform attribute: `*`, `/regex/` over the whole label, `all` or `any` (os and architecture), or equal."""
    if wanted == "*":
        return True
    if not label:
        return False
    if len(wanted) >= 2 and wanted.startswith("/") and wanted.endswith("/"):
        try:
            return re.fullmatch(wanted[1:-1], label) is not None
        except re.error:
            return False
    if name in ("os", "architecture") and wanted in ("all", "any"):
        return True
    return bool(_LABEL.match(wanted)) and wanted == label


def lifecycle_for(recipe: Recipe, manifest: Manifest) -> Mapping[str, object]:
    """The manifest's own lifecycle, or the global one filtered by the manifest's selections."""
    if manifest.lifecycle:
        return manifest.lifecycle
    words = {ALL, *(word for each in recipe.manifests for word in each.selections)}
    chosen = _filter(recipe.lifecycle, words, manifest.selections)
    return chosen if isinstance(chosen, dict) else {}


def _filter(value: object, words: set[str], selections: tuple[str, ...]) -> object:
    """Keep, at every level that has selection keys, the first selected one (then `all`); None when nothing is left."""
    if not isinstance(value, Mapping):
        return value
    if words & value.keys():
        for word in (*selections, ALL):
            if value.get(word) is not None:
                return _filter(value[word], words, selections)
        return None
    kept = {key: _filter(child, words, selections) for key, child in value.items()}
    return {key: child for key, child in kept.items() if child is not None}


@dataclass(frozen=True, slots=True)
class Variables:
    """What recipe variables of one component stand for.

    `configuration(component)` gives its merged configuration or None; `system(component, namespace, key)` the text of
    `artifacts:path` and the like, or None when there is no such variable; `dependencies` are the direct ones.
    """

    component: str
    dependencies: frozenset[str]
    configuration: Callable[[str], Mapping[str, object] | None]
    system: Callable[[str, str, str], str | None]


def interpolate(value: object, variables: Variables, *, configuration: bool = True) -> object:
    """Replace recipe variables in every text of a value; what names nothing is left as it stands."""
    if isinstance(value, str):
        return _replace(value, variables, configuration)
    if isinstance(value, Mapping):
        return {key: interpolate(child, variables, configuration=configuration) for key, child in value.items()}
    if isinstance(value, list):
        return [interpolate(child, variables, configuration=configuration) for child in value]
    return value


def _replace(text: str, variables: Variables, configuration: bool) -> str:
    def value_of(component: str, namespace: str, key: str) -> str | None:
        if namespace == "configuration" and configuration:
            known = variables.configuration(component)
            return None if known is None else pointed_text(known, key)
        return variables.system(component, namespace, key)

    def same(match: re.Match[str]) -> str:
        found = value_of(variables.component, match[1], match[2])
        return match[0] if found is None else found

    def cross(match: re.Match[str]) -> str:
        found = value_of(match[1], match[2], match[3]) if match[1] in variables.dependencies else None
        return match[0] if found is None else found

    return _CROSS.sub(cross, _SAME.sub(same, text))


def variables_in(text: str) -> Iterable[tuple[str, str, str]]:
    """The variables a text names: (component or "", namespace, key)."""
    for match in _SAME.finditer(text):
        yield "", match[1], match[2]
    for match in _CROSS.finditer(text):
        yield match[1], match[2], match[3]


def pointed_text(configuration: Mapping[str, object], pointer: str) -> str | None:
    """The text of what a JSON pointer names (RFC 6901): a leaf plain, null as `null`, a map or list as JSON."""
    if pointer and not pointer.startswith("/"):
        return None
    value: object = configuration
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def steps_of(lifecycle: Mapping[str, object], where: str = "") -> dict[str, Step]:
    """The steps of a selected, interpolated lifecycle, by lower-case name. Raises UserError(`bad-recipe`)."""
    spelled = {key.lower(): key for key in lifecycle}
    outer = _environment(lifecycle.get(spelled.get("setenv", "")))
    found = {}
    for name in STEPS:
        value = lifecycle.get(spelled.get(name, ""))
        if value is not None:
            step = _step(spelled[name], value, outer, where)
            if step is not None:
                found[name] = step
    return found


LITE_STEPS = ("bootstrap", "install", "startup", "run")
_LITE_FIELDS = ("Script", "RequiresPrivilege", "Timeout", "Setenv")


def as_lite_reads(lifecycle: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """What nucleus lite takes of a lifecycle, and a note on each part that it does not.

    Lite compares keys by case, and has no shutdown, recover, uninstall or Skipif (greengrass-lite, "Types of Recipes
    Supported by Greengrass nucleus lite").
    """
    kept: dict[str, object] = {}
    notes = []
    for key, value in lifecycle.items():
        if key not in (*LITE_STEPS, "Setenv"):
            notes.append(f"nucleus lite ignores {key}")
        elif isinstance(value, Mapping) and key != "Setenv":
            kept[key] = {name: child for name, child in value.items() if name in _LITE_FIELDS}
            notes += [f"nucleus lite ignores {key}.{name}" for name in value if name not in _LITE_FIELDS]
        else:
            kept[key] = value
    return kept, notes


def error_reset_of(lifecycle: Mapping[str, object], default: float) -> float:
    """`errorResetTime` of a lifecycle, seconds: after so long without one, errors are counted anew."""
    value = next((child for key, child in lifecycle.items() if key.lower() == "errorresettime"), None)
    return default if value is None else _timeout(value, "errorResetTime", "") or default


def _step(name: str, value: object, outer: dict[str, str], where: str) -> Step | None:
    if not isinstance(value, Mapping):
        script = _as_text(value)
        return Step(script, setenv=outer, label=name) if script else None
    fields = {key.lower(): child for key, child in value.items()}
    spelled = {key.lower(): key for key in value}
    command = fields.get("script")
    if command is None or isinstance(command, Mapping | list):
        raise _bad_step(where, f"the {name} step has no Script", "write the command under Script")
    return Step(
        _as_text(command),
        _timeout(fields.get("timeout"), name, where),
        _as_text(fields.get("requiresprivilege")).lower() == "true",
        _as_text(fields.get("skipif")).strip(),
        {**outer, **_environment(fields.get("setenv"))},
        f"{name}.{spelled['script']}",
    )


def _timeout(value: object, name: str, where: str) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(_as_text(value))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise _bad_step(where, f"{value!r} is no timeout for the {name} step", "write whole seconds")
    return seconds


def _bad_step(where: str, what: str, mend: str) -> UserError:
    return UserError(what, code="bad-recipe", where=where, mend=mend)


def _environment(value: object) -> dict[str, str]:
    return {key: _as_text(child) for key, child in value.items()} if isinstance(value, Mapping) else {}


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
