"""`foreshore check` for recipes: every rule over a folder's recipes and its deployment document. Pure.

`recipe_rules.py` has the rules for one recipe, `portability_rules.py` those between the two nuclei; here are those
between files: dependencies, the deployment document, and defaults that an upgrade changes without effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from foreshore.errors import NotEmulated, UserError
from foreshore.greengrass.authorization import CLIENT_DEVICES
from foreshore.greengrass.bridge import NAME as BRIDGE
from foreshore.greengrass.bridge import read_bridge
from foreshore.greengrass.deployments import DEPLOYMENT_KEYS, document_from
from foreshore.greengrass.device_certificates import read_certificate_settings
from foreshore.greengrass.device_groups import read_groups
from foreshore.greengrass.documents import Document, read
from foreshore.greengrass.findings import Finding, Node, closest
from foreshore.greengrass.portability_rules import check_access_control, check_portability
from foreshore.greengrass.provided import PROVIDED
from foreshore.greengrass.recipe_rules import MAX_BYTES, check_recipe
from foreshore.greengrass.recipes import Recipe, from_document
from foreshore.greengrass.resolution import start_order
from foreshore.greengrass.versions import BadVersion, Range

AWS = "aws.greengrass."


@dataclass(frozen=True, slots=True)
class Source:
    """One file to check: its name as findings show it, and its text."""

    where: str
    text: str


def check(recipes: Sequence[Source], deployment: Source | None = None, earlier: Iterable[Source] = ()) -> list[Finding]:
    """Check recipes together; `earlier` are versions already on a device, for what an upgrade will not apply."""
    findings: list[Finding] = []
    parsed: list[tuple[Recipe, Document]] = []
    for source in recipes:
        document = _read(source, findings)
        if document is None:
            continue
        root = Node.root(document)
        if len(source.text.encode()) > MAX_BYTES:
            message = f"the recipe has {len(source.text.encode())} bytes; AWS takes at most {MAX_BYTES}"
            findings.append(root.error("recipe-size", message, "move long scripts into artifacts"))
        findings += check_recipe(root)
        findings += check_portability(root)
        try:
            parsed.append((from_document(document), document))
        except UserError as error:
            if not any(each.severity == "error" and each.file == source.where for each in findings):
                findings.append(_from_error(error, source))
    findings += _between(parsed)
    findings += _upgrades(parsed, earlier)
    if deployment is not None:
        document = _read(deployment, findings)
        if document is not None:
            findings += _deployment(document, deployment, [recipe for recipe, _ in parsed])
    return sorted(set(findings))


def _read(source: Source, findings: list[Finding]) -> Document | None:
    try:
        return read(source.text, source.where)
    except UserError as error:
        findings.append(_from_error(error, source))
        return None


def _from_error(error: UserError, source: Source) -> Finding:
    file, _, line = error.where.rpartition(":")
    if file != source.where or not line.isdecimal():
        line = "1"
    return Finding(source.where, int(line), "error", error.code, error.what, error.mend)


# between recipes


def _between(parsed: Sequence[tuple[Recipe, Document]]) -> Iterator[Finding]:
    seen: dict[tuple[str, str], str] = {}
    for recipe, document in parsed:
        key = (recipe.name, str(recipe.version))
        if key in seen:
            message = f"{recipe.name} {recipe.version} is also in {seen[key]}"
            yield Node.root(document).error("duplicate-component", message, "change the version, or take one out")
        seen.setdefault(key, document.where)
    versions: dict[str, list[Recipe]] = {}
    for recipe, _ in parsed:
        versions.setdefault(recipe.name, []).append(recipe)
    for recipe, document in parsed:
        dependencies = Node.root(document).get("ComponentDependencies")
        for entry in dependencies.members() if dependencies is not None else ():
            if entry.name in recipe.dependencies:
                yield from _dependency(entry, recipe.dependencies[entry.name].requirement, versions)
    yield from _circles(parsed)


def _dependency(entry: Node, wanted: Range, versions: Mapping[str, Sequence[Recipe]]) -> Iterator[Finding]:
    at_hand = versions.get(entry.name, ())
    if not at_hand and not entry.name.startswith(AWS):
        message = f"no recipe here is named {entry.name}{closest(entry.name, versions)}"
        yield entry.warning("unknown-dependency", message, "add its recipe, or see that the cloud has the component")
    elif not at_hand and entry.name not in PROVIDED:
        message = f"Foreshore does not emulate {entry.name}: a local deployment will refuse it"
        yield entry.warning("not-emulated", message, "see docs/parity.md")
    elif at_hand and not any(wanted.accepts(recipe.version) for recipe in at_hand):
        have = ", ".join(str(recipe.version) for recipe in at_hand)
        message = f"{entry.name} {wanted} is asked; the recipes here are of {have}"
        yield entry.error("unsatisfied-dependency", message, "change the VersionRequirement, or the recipe's version")


def _circles(parsed: Sequence[tuple[Recipe, Document]]) -> Iterator[Finding]:
    newest = {recipe.name: (recipe, document) for recipe, document in sorted(parsed, key=lambda each: each[0].version)}
    wishes = {name: set(recipe.dependencies) & newest.keys() for name, (recipe, _) in newest.items()}
    try:
        start_order({name: names - {name} for name, names in wishes.items()})
    except UserError as error:
        name = next(name for name in sorted(newest) if name in error.what)
        yield Node.root(newest[name][1]).error(error.code, error.what, error.mend)


# upgrades


def _upgrades(parsed: Sequence[tuple[Recipe, Document]], earlier: Iterable[Source]) -> Iterator[Finding]:
    """Defaults that differ from those of the next older version: a device that has the older keeps its values."""
    older: list[Recipe] = [recipe for recipe, _ in parsed]
    for source in earlier:
        try:
            older.append(from_document(read(source.text, source.where)))
        except UserError:
            # It was taken once and is only compared with; what is wrong with it was told then.
            continue
    for recipe, document in parsed:
        before = [each for each in older if each.name == recipe.name and each.version <= recipe.version]
        before = [each for each in before if each.where != recipe.where]
        if before:
            previous = max(before, key=lambda each: each.version)
            yield from _changed_defaults(recipe, document, previous)


def _changed_defaults(recipe: Recipe, document: Document, previous: Recipe) -> Iterator[Finding]:
    configuration = Node.root(document).get("ComponentConfiguration")
    default = configuration.get("DefaultConfiguration") if configuration is not None else None
    if default is None:
        return
    for node, old in _differences(default, previous.default_configuration):
        pointer = "/" + "/".join(str(part) for part in node.path[len(default.path) :])
        message = (
            f"the default of {pointer} was {_short(old)} in {previous.version} and is {_short(node.value)} now: "
            "a device that has the old one keeps it"
        )
        mend = f'deploy with configurationUpdate reset: ["{pointer}"], or merge the new value'
        yield node.warning("changed-default", message, mend)


def _differences(node: Node, old: Mapping[str, object]) -> Iterator[tuple[Node, object]]:
    for member in node.members():
        if member.name not in old:
            continue
        before = old[member.name]
        if isinstance(member.value, dict) and isinstance(before, dict):
            yield from _differences(member, before)
        elif member.value != before:
            yield member, before


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


# the deployment document


def _deployment(document: Document, source: Source, recipes: Sequence[Recipe]) -> Iterator[Finding]:
    root = Node.root(document)
    for path, line in document.duplicates:
        message = f"the key {path[-1]} is written twice"
        yield Finding(source.where, line, "error", "duplicate-key", message, "take one of them out")
    for member in root.members() if isinstance(document.value, dict) else ():
        if member.name not in DEPLOYMENT_KEYS:
            hint = closest(member.name, DEPLOYMENT_KEYS)
            message = f"{member.name} is no member of CreateDeployment{hint}"
            yield member.warning("unknown-key", message, "take it out or rename it; keys are compared by case")
    try:
        updates = document_from(document).updates
    except UserError as error:
        yield _from_error(error, source)
        return
    components = root.get("components")
    for entry in components.members() if components is not None else ():
        yield from _deployed(entry, [recipe for recipe in recipes if recipe.name == entry.name], recipes)
        if entry.name in updates:
            yield from _read_as_its_component(entry, updates[entry.name].merge or {})


def _deployed(entry: Node, at_hand: Sequence[Recipe], recipes: Sequence[Recipe]) -> Iterator[Finding]:
    version = entry.get("componentVersion")
    if not at_hand and not entry.name.startswith(AWS):
        message = f"no recipe here is named {entry.name}{closest(entry.name, [recipe.name for recipe in recipes])}"
        yield entry.warning("unknown-component", message, "add its recipe, or see that the cloud has the component")
    if version is not None:
        try:
            wanted = Range.parse(str(version.value))
        except BadVersion as error:
            yield version.error("component-version", str(error), "write a version such as 1.0.0")
            return
        if at_hand and not any(wanted.accepts(recipe.version) for recipe in at_hand):
            have = ", ".join(str(recipe.version) for recipe in at_hand)
            message = f"{entry.name} {version.value} is deployed; the recipes here are of {have}"
            yield version.error("unsatisfied-version", message, "deploy a version that has a recipe")
    update = entry.get("configurationUpdate")
    if update is not None:
        yield from _update(update)


_READERS: Mapping[str, Sequence[Callable[[Mapping[str, object]], object]]] = {
    CLIENT_DEVICES: (read_groups, read_certificate_settings),
    BRIDGE: (read_bridge,),
}


def _read_as_its_component(entry: Node, merge: Mapping[str, object]) -> Iterator[Finding]:
    """What a component of AWS's would refuse of its configuration."""
    for read_it in _READERS.get(entry.name, ()):
        try:
            read_it(merge)
        except (UserError, NotEmulated) as error:
            update = entry.get("configurationUpdate")
            at = (update and update.get("merge")) or entry
            if isinstance(error, NotEmulated):
                yield at.warning("not-emulated", error.message, "see docs/parity.md")
                continue
            # A policy that is missing here may be on the device already.
            tell = at.warning if error.code == "device-group" else at.error
            place = f"{error.where}: " if error.where else ""
            yield tell(error.code, f"{place}{error.what}", error.mend or "correct it")


def _update(update: Node) -> Iterator[Finding]:
    reset = update.get("reset")
    for pointer in reset.members() if reset is not None else ():
        text = str(pointer.value)
        if text and not text.startswith("/"):
            yield pointer.error("json-pointer", f"{text!r} is no JSON pointer", f"write /{text}")
        elif any(part.isdecimal() for part in text.split("/")[1:]):
            message = f"{text} may point into a list, and a list can't be reset in part"
            yield pointer.warning("json-pointer", message, "reset the whole list")
    merge = update.get("merge")
    if merge is None:
        return
    if isinstance(merge.value, dict):
        message = "merge is a map here; the AWS CLI's CreateDeployment takes JSON in a text"
        yield merge.warning("merge-map", message, "write merge: '{\"key\": …}'")
        access = merge.get("accessControl")
        if access is not None:
            yield from check_access_control(access)
