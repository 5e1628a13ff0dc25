"""Rules for one recipe: its format, steps, platforms, artifacts and variables. Pure.

The format's rules are those of AWS's recipe schema (gdk-cli `recipe_schema.json`, component-common), in a table of our
own; the rest are mistakes that the schema lets pass and that show on the device only.
Source: Greengrass developer guide, "AWS IoT Greengrass component recipe reference".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Set

from foreshore.greengrass.findings import Finding, Node, closest
from foreshore.greengrass.recipes import ALL, FORMAT_VERSION, MAX_NAME, NAME, STEPS, variables_in
from foreshore.greengrass.versions import BadVersion, Range, check_component_version

MAX_BYTES = 16 * 1024
SKIP_IF = re.compile(r"^!?\s*(onpath|exists)\s+\S.*$")
TYPES = ("aws.greengrass.generic", "aws.greengrass.lambda", "aws.greengrass.plugin", "aws.greengrass.nucleus")
SOURCE = re.compile(r"^arn:aws(-(cn|us-gov|iso(-[a-z])?))?:lambda:.*$")

KEYS: Mapping[str, tuple[str, ...]] = {
    "recipe": (
        "RecipeFormatVersion",
        "ComponentName",
        "ComponentVersion",
        "ComponentDescription",
        "ComponentPublisher",
        "ComponentType",
        "ComponentSource",
        "ComponentConfiguration",
        "ComponentDependencies",
        "Manifests",
        "Lifecycle",
    ),
    "configuration": ("DefaultConfiguration",),
    "dependency": ("VersionRequirement", "DependencyType"),
    "manifest": ("Name", "Platform", "Lifecycle", "Selections", "Artifacts"),
    "artifact": ("URI", "Unarchive", "Permission", "Digest", "Algorithm"),
    "permission": ("Read", "Execute"),
    "lifecycle": ("Setenv", *STEPS),
    "step": ("Script", "RequiresPrivilege", "Skipif", "Timeout", "Setenv"),
}
"""The keys of each part of a recipe, as the developer guide spells them (lite takes no other case: greengrass-lite
looks steps up as `install`, `startup`, `run`, and their members as `Script`, `Timeout`)."""

ARCHITECTURES = {
    "arm64": "aarch64",
    "arm64/v8": "aarch64",
    "armv8": "aarch64",
    "x86_64": "amd64",
    "x64": "amd64",
    "x86-64": "amd64",
    "i386": "x86",
    "armv7": "arm",
    "armv7l": "arm",
    "armv6l": "arm",
    "armhf": "arm",
}
SYSTEMS = ("linux", "darwin", "windows", "all", "any", "*")
SYSTEM_VARIABLES = {
    "artifacts": ("path", "decompressedPath"),
    "work": ("path",),
    "kernel": ("rootPath",),
    "iot": ("thingName",),
}


def check_recipe(recipe: Node) -> Iterator[Finding]:
    """Every rule for one recipe on its own."""
    if not isinstance(recipe.value, dict):
        yield recipe.error("not-a-map", "the recipe is not a map of keys to values", "begin with RecipeFormatVersion:")
        return
    for path, line in recipe.document.duplicates:
        message = f"the key {path[-1]} is written twice; the device takes the last one"
        yield Finding(recipe.document.where, line, "error", "duplicate-key", message, "take one of them out")
    yield from _twice(recipe)
    for member in recipe.members():
        if member.name.lower() not in _lower("recipe"):
            hint = closest(member.name, KEYS["recipe"])
            yield member.error("unknown-key", f"{member.name} is no key of a recipe{hint}", "take it out or rename it")
        elif member.value is None:
            yield _no_value(member)
    yield from _identity(recipe)
    yield from _dependencies(recipe)
    yield from _manifests(recipe)
    yield from _variables(recipe)


def _lower(part: str) -> set[str]:
    return {key.lower() for key in KEYS[part]}


def _identity(recipe: Node) -> Iterator[Finding]:
    for key in ("RecipeFormatVersion", "ComponentName", "ComponentVersion", "Manifests"):
        if recipe.get(key) is None:
            yield recipe.error("missing-key", f"the recipe has no {key}", f"add {key}")
    for key, rule in _IDENTITY.items():
        node = recipe.get(key)
        if node is not None:
            if not isinstance(node.value, str):
                kind = type(node.value).__name__
                yield node.error("not-text", f"{key} must be text, not {kind}", f'put it in quotes: "{node.value}"')
            else:
                yield from rule(node, node.value)
    configuration = recipe.get("ComponentConfiguration")
    if configuration is not None:
        yield from _is_map(configuration)
        yield from _known(configuration, "configuration")


def _format_version(node: Node, text: str) -> Iterator[Finding]:
    if text != FORMAT_VERSION:
        yield node.error("format-version", f"RecipeFormatVersion {text!r} is unknown", f'write "{FORMAT_VERSION}"')


GDK = "this is a template: run `gdk component build`, then check greengrass-build/recipes"


def _name(node: Node, text: str) -> Iterator[Finding]:
    if not NAME.match(text) or len(text) > MAX_NAME:
        mend = f"use at most {MAX_NAME} letters, digits, '-', '_' and '.'"
        yield node.error("component-name", f"{text!r} is no component name", GDK if "COMPONENT_NAME" in text else mend)


def _version(node: Node, text: str) -> Iterator[Finding]:
    try:
        check_component_version(text)
    except BadVersion as error:
        mend = 'write major.minor.patch, such as "1.0.0"'
        yield node.error("component-version", str(error), GDK if "COMPONENT_VERSION" in text else mend)


def _type(node: Node, text: str) -> Iterator[Finding]:
    if text.lower() not in TYPES:
        yield node.error("component-type", f"{text!r} is no component type", f"write {TYPES[0]}, or leave it out")


def _source(node: Node, text: str) -> Iterator[Finding]:
    if not SOURCE.match(text):
        yield node.error("component-source", "ComponentSource is no Lambda ARN", "leave it out: AWS writes it itself")


def _any(node: Node, text: str) -> Iterator[Finding]:
    yield from ()


_IDENTITY: Mapping[str, Callable[[Node, str], Iterator[Finding]]] = {
    "RecipeFormatVersion": _format_version,
    "ComponentName": _name,
    "ComponentVersion": _version,
    "ComponentType": _type,
    "ComponentSource": _source,
    "ComponentDescription": _any,
    "ComponentPublisher": _any,
}


def _is_map(node: Node) -> Iterator[Finding]:
    if not isinstance(node.value, dict):
        yield node.error("not-a-map", f"{node.name} must be a map", "indent its keys below it")


def _known(node: Node, part: str) -> Iterator[Finding]:
    """Keys that the device ignores, has no value for, or can't tell apart."""
    yield from _twice(node)
    for member in node.members() if isinstance(node.value, dict) else ():
        if member.name.lower() not in _lower(part):
            hint = closest(member.name, KEYS[part])
            yield member.warning("ignored-key", f"{member.name} means nothing here{hint}", "take it out or rename it")
        elif member.value is None:
            yield _no_value(member)


def _twice(node: Node) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for member in node.members() if isinstance(node.value, dict) else ():
        other = seen.setdefault(member.name.lower(), member.name)
        if other != member.name:
            message = f"{member.name} and {other} are one key: the device takes either"
            yield member.error("duplicate-key", message, "take one of them out")


def _no_value(node: Node) -> Finding:
    return node.error("no-value", f"{node.name} has no value", "give it one, or take the key out")


def _dependencies(recipe: Node) -> Iterator[Finding]:
    dependencies = recipe.get("ComponentDependencies")
    if dependencies is None:
        return
    yield from _is_map(dependencies)
    own = recipe.get("ComponentName")
    for entry in dependencies.members():
        if not NAME.match(entry.name):
            yield entry.error("component-name", f"{entry.name!r} is no component name", "correct the name")
        if own is not None and entry.name == own.value:
            yield entry.error("self-dependency", "a component can't depend on itself", "take the dependency out")
        if not isinstance(entry.value, dict):
            yield entry.error("not-a-map", f"{entry.name} must be a map", "write VersionRequirement below it")
            continue
        yield from _known(entry, "dependency")
        requirement = entry.get("VersionRequirement")
        if requirement is None:
            yield entry.error("missing-key", f"{entry.name} has no VersionRequirement", 'add one such as "^1.0.0"')
        else:
            yield from _requirement(requirement)
        kind = entry.get("DependencyType")
        if kind is not None and str(kind.value).upper() not in ("HARD", "SOFT"):
            yield kind.error("dependency-type", f"{kind.value!r} is no dependency type", "write HARD or SOFT")


def _requirement(node: Node) -> Iterator[Finding]:
    if not isinstance(node.value, str):
        yield node.error("not-text", "VersionRequirement must be text", f'put it in quotes: "{node.value}"')
        return
    try:
        Range.parse(str(node.value))
    except BadVersion as error:
        yield node.error("version-requirement", str(error), "use an npm range such as ^1.0.0 or >=1.0.0 <2.0.0")


# manifests


def _manifests(recipe: Node) -> Iterator[Finding]:
    manifests = recipe.get("Manifests")
    words = {ALL}
    if manifests is not None:
        if not isinstance(manifests.value, list):
            yield manifests.error("not-a-list", "Manifests must be a list", "begin each manifest with '- '")
            return
        if not manifests.value:
            yield manifests.error("no-manifest", "the recipe has no manifest: no device can run it", "add one")
        for manifest in manifests.members():
            words |= _selections(manifest)
            yield from _manifest(manifest)
        yield from _unreachable(list(manifests.members()))
    lifecycle = recipe.get("Lifecycle")
    if lifecycle is not None:
        yield from _is_map(lifecycle)
        yield from _global_lifecycle(lifecycle, words)


def _selections(manifest: Node) -> set[str]:
    node = manifest.get("Selections")
    return {str(each.value) for each in node.members()} if node is not None else set()


def _manifest(manifest: Node) -> Iterator[Finding]:
    if not isinstance(manifest.value, dict):
        yield manifest.error("not-a-map", "a manifest must be a map", "write Lifecycle below it")
        return
    yield from _known(manifest, "manifest")
    name = manifest.get("Name")
    if name is not None and not isinstance(name.value, str):
        yield name.error("not-text", f"Name must be text, not {name.value!r}", "put it in quotes")
    selections = manifest.get("Selections")
    if selections is not None:
        words = selections.value if isinstance(selections.value, list) else [selections.value]
        if not all(isinstance(word, str) for word in words):
            yield selections.error("selections", "Selections must be a list of words", "begin each with '- '")
    platform = manifest.get("Platform")
    if platform is not None:
        yield from _is_map(platform)
        for attribute in platform.members():
            yield from _attribute(attribute)
    lifecycle = manifest.get("Lifecycle")
    if lifecycle is not None:
        yield from _is_map(lifecycle)
        yield from check_lifecycle(lifecycle)
    artifacts = manifest.get("Artifacts")
    if artifacts is not None:
        if not isinstance(artifacts.value, list):
            yield artifacts.error("not-a-list", "Artifacts must be a list", "begin each artifact with '- '")
        for artifact in artifacts.members():
            yield from _artifact(artifact)


def _attribute(node: Node) -> Iterator[Finding]:
    if not isinstance(node.value, str):
        yield node.error("not-text", f"the platform attribute {node.name} must be text", "put it in quotes")
        return
    text = node.value
    if node.name != node.name.lower() and node.name.lower() in ("os", "architecture", "runtime"):
        message = f"platform attributes are compared by case: {node.name} matches no device"
        yield node.error("platform-case", message, f"write {node.name.lower()}")
    if len(text) >= 2 and text.startswith("/") and text.endswith("/"):
        try:
            re.compile(text[1:-1])
        except re.error as error:
            yield node.error("platform-regex", f"{text} is no regular expression: {error}", "correct it")
        return
    if node.name.lower() == "architecture" and text.lower() in ARCHITECTURES:
        right = ARCHITECTURES[text.lower()]
        yield node.error(
            "architecture", f"no device calls itself {text!r}: this manifest is never used", f"write {right}"
        )
    elif node.name.lower() == "os" and text not in SYSTEMS:
        hint = closest(text, SYSTEMS)
        yield node.error("os", f"no device calls its system {text!r}{hint}", "write linux, darwin or windows")


def _unreachable(manifests: list[Node]) -> Iterator[Finding]:
    """The first match wins, so nothing after a manifest for all platforms is ever used."""
    for index, manifest in enumerate(manifests[:-1]):
        platform = manifest.get("Platform")
        wanted = [str(each.value) for each in platform.members()] if platform is not None else []
        if all(text in ("*", "all", "any") for text in wanted):
            message = "this manifest is never used: one above it takes every platform"
            yield manifests[index + 1].warning("unreachable-manifest", message, "put the narrower manifest first")
            return


def _artifact(artifact: Node) -> Iterator[Finding]:
    if not isinstance(artifact.value, dict):
        yield artifact.error("not-a-map", "an artifact must be a map", "write URI: below it")
        return
    yield from _known(artifact, "artifact")
    uri = artifact.get("URI")
    if uri is None:
        yield artifact.error("missing-key", "the artifact has no URI", "add URI: s3://BUCKET/path/file")
    elif str(uri.value).partition(":")[0].lower() not in ("s3", "docker", "greengrass"):
        yield uri.error("artifact-uri", f"{uri.value!r} is no artifact URI", "write s3://BUCKET/path/file")
    unarchive = artifact.get("Unarchive")
    if unarchive is not None and str(unarchive.value).upper() not in ("NONE", "ZIP"):
        yield unarchive.error("unarchive", f"{unarchive.value!r} is no way to unarchive", "write NONE or ZIP")
    permission = artifact.get("Permission")
    if permission is not None:
        yield from _is_map(permission)
        yield from _known(permission, "permission")
        for member in permission.members():
            if str(member.value).upper() not in ("NONE", "OWNER", "ALL"):
                yield member.error("permission", f"{member.value!r} is no permission", "write NONE, OWNER or ALL")
    for key in ("Digest", "Algorithm"):
        node = artifact.get(key)
        if node is not None:
            yield node.warning("read-only", f"{key} is written by AWS when the version is created", "take it out")


# lifecycle


def _global_lifecycle(lifecycle: Node, words: set[str]) -> Iterator[Finding]:
    steps = _lower("lifecycle")
    for member in lifecycle.members():
        if member.name in words:
            yield from check_lifecycle(member)
        elif member.name.lower() not in steps:
            hint = closest(member.name, [*words, *KEYS["lifecycle"]])
            message = f"{member.name} is neither a lifecycle step nor a selection of a manifest{hint}"
            yield member.warning("ignored-key", message, "name it in a manifest's Selections, or take it out")
    if any(member.name.lower() in steps for member in lifecycle.members()):
        yield from check_lifecycle(lifecycle, words)


def check_lifecycle(lifecycle: Node, words: Set[str] = frozenset()) -> Iterator[Finding]:
    """The steps of one lifecycle; `words` are selection keys that may stand in place of steps or of their bodies."""
    for member in lifecycle.members():
        if member.name.lower() not in _lower("lifecycle"):
            if member.name not in words:
                hint = closest(member.name, KEYS["lifecycle"])
                mend = "take it out or rename it"
                yield member.warning("unknown-step", f"{member.name} is no lifecycle step{hint}", mend)
        elif member.name.lower() == "setenv":
            yield from _is_map(member)
        elif words and isinstance(member.value, dict) and words & member.value.keys():
            for choice in member.members():
                yield from _step(choice, member.name, words)
        else:
            yield from _step(member, member.name, words)
    startup, run = lifecycle.get("Startup"), lifecycle.get("Run")
    if startup is not None and run is not None:
        mend = "keep Startup for what goes on in the background, Run for what stays in front"
        yield run.error("startup-and-run", "a component has Startup or Run, not both: Run is never used", mend)


def _step(step: Node, name: str, words: Set[str]) -> Iterator[Finding]:
    if isinstance(step.value, str):
        return
    if not isinstance(step.value, dict):
        yield step.error("step", f"{name} must be a script or a map with Script", f"write {name}: then the command")
        return
    yield from _known(step, "step")
    script = step.get("Script")
    if script is None:
        yield step.error("missing-key", f"{name} has no Script", "add Script with the command")
    elif not isinstance(script.value, str) and not (isinstance(script.value, dict) and words & script.value.keys()):
        yield script.error("not-text", f"the Script of {name} must be text", "write the command")
    skip = step.get("Skipif")
    if skip is not None and not (isinstance(skip.value, str) and SKIP_IF.match(skip.value.strip())):
        mend = "write onpath PROGRAM or exists FILE, with ! before it for the contrary"
        yield skip.error("skipif", f"{skip.value!r} is no condition", mend)
    timeout = step.get("Timeout")
    if timeout is not None and not (_is_whole(timeout.value)):
        yield timeout.error("timeout", f"{timeout.value!r} is no timeout", "write whole seconds")
    privilege = step.get("RequiresPrivilege")
    if privilege is not None and str(privilege.value).lower() not in ("true", "false"):
        yield privilege.error("privilege", f"{privilege.value!r} is neither true nor false", "write true or false")
    setenv = step.get("Setenv")
    if setenv is not None:
        yield from _is_map(setenv)


def _is_whole(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool) and value >= 0) or (
        isinstance(value, str) and (value.isdecimal() or value.startswith("{"))
    )


# variables


def _variables(recipe: Node) -> Iterator[Finding]:
    defaults = recipe.get("ComponentConfiguration")
    default = defaults.get("DefaultConfiguration") if defaults is not None else None
    dependencies = recipe.get("ComponentDependencies")
    direct = {each.name for each in dependencies.members()} if dependencies is not None else set()
    manifests = recipe.get("Manifests")
    places: list[tuple[Node | None, Node | None]] = [(recipe.get("Lifecycle"), None)]
    for manifest in manifests.members() if manifests is not None else ():
        places.append((manifest.get("Lifecycle"), manifest))
    for lifecycle, owner in places:
        for text in lifecycle.texts() if lifecycle is not None else ():
            yield from _variables_in(text, default, direct)
            if owner is not None:
                yield from _artifact_uses(text, owner)


def _variables_in(text: Node, default: Node | None, direct: set[str]) -> Iterator[Finding]:
    for component, namespace, key in variables_in(str(text.value)):
        shown = "{" + ":".join(part for part in (component, namespace, key) if part) + "}"
        if component and component not in direct:
            if namespace in SYSTEM_VARIABLES or namespace == "configuration":
                message = f"{shown} stays as it is: {component} is no direct dependency"
                yield text.warning("variable", message, f"add {component} to ComponentDependencies")
        elif namespace == "configuration":
            if not component and not _has(default, key):
                message = (
                    f"{shown} names nothing in DefaultConfiguration; it stays as it is unless a deployment sets it"
                )
                yield text.warning("variable", message, "add the key to DefaultConfiguration, or correct the pointer")
        elif namespace in SYSTEM_VARIABLES:
            if key not in SYSTEM_VARIABLES[namespace]:
                hint = closest(key, SYSTEM_VARIABLES[namespace])
                yield text.warning("variable", f"there is no recipe variable {shown}{hint}", "correct it")
        elif hint := closest(namespace, [*SYSTEM_VARIABLES, "configuration"]):
            yield text.warning("variable", f"there is no recipe variable {shown}{hint}", "correct it")


def _has(default: Node | None, pointer: str) -> bool:
    if not pointer.startswith("/"):
        return pointer == ""
    value = default.value if default is not None else None
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return False
    return True


_ARTIFACT_FILE = re.compile(r"\{artifacts:path\}/([\w.\-]+)")
_UNPACKED = re.compile(r"\{artifacts:decompressedPath\}/([\w.\-]+)")


def _artifact_uses(text: Node, manifest: Node) -> Iterator[Finding]:
    artifacts = manifest.get("Artifacts")
    files: set[str] = set()
    stems: set[str] = set()
    plain: dict[str, str] = {}
    for artifact in artifacts.members() if artifacts is not None else ():
        uri, unarchive, permission = artifact.get("URI"), artifact.get("Unarchive"), artifact.get("Permission")
        file = str(uri.value).rpartition("/")[2] if uri is not None else ""
        stem = file.rpartition(".")[0] or file
        files.add(file)
        is_zip = unarchive is not None and str(unarchive.value).upper() == "ZIP"
        if is_zip:
            stems.add(stem)
        execute = permission.get("Execute") if permission is not None else None
        if execute is None or str(execute.value).upper() == "NONE":
            plain["{artifacts:path}/" + file] = file
            if is_zip:
                plain["{artifacts:decompressedPath}/" + stem] = file
    yield from _not_executable(text, plain)
    for name in _ARTIFACT_FILE.findall(str(text.value)):
        if name not in files:
            message = f"the step uses {{artifacts:path}}/{name}, but no artifact of this manifest has that name"
            mend = f"add an artifact whose URI ends in /{name}"
            if stems:
                mend = f"write {{artifacts:decompressedPath}}/{min(stems)}/{name} if it is in that archive, or {mend}"
            yield text.warning("missing-artifact", message, mend)
    for name in _UNPACKED.findall(str(text.value)):
        if name not in stems:
            message = (
                f"the step uses {{artifacts:decompressedPath}}/{name}, but no artifact {name}.zip is unpacked here"
            )
            yield text.warning("missing-artifact", message, f"add an artifact {name}.zip with Unarchive: ZIP")


def _not_executable(text: Node, plain: Mapping[str, str]) -> Iterator[Finding]:
    """A command that is an artifact's file itself; `plain` are the places of files that nobody may execute."""
    for line in str(text.value).splitlines():
        command = line.strip().partition(" ")[0].strip("\"'")
        for place, file in plain.items():
            inside = place.startswith("{artifacts:decompressedPath}") and command.startswith(place + "/")
            if command == place or inside:
                message = f"the step executes {command}, which the device makes readable only"
                mend = f"give the artifact {file} Permission: {{Execute: OWNER}}, or name its interpreter"
                yield text.warning("not-executable", message, mend)
                return
