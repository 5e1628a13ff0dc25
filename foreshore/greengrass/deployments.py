"""Deployments: documents, the delta of a local deployment, and the plan from what runs to what shall run. Pure.

Sources: Greengrass developer guide, "Deploy AWS IoT Greengrass components to devices" and "Create local deployments";
API reference, CreateDeployment; nucleus, DeploymentDocumentConverter (the local delta).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from foreshore.errors import UserError
from foreshore.greengrass.documents import Document, read
from foreshore.greengrass.findings import closest
from foreshore.greengrass.recipes import Step

LOCAL_GROUP = "LOCAL_DEPLOYMENT"
GROUP_PREFIX = "thinggroup/"
DEPLOYMENT_KEYS = (
    "targetArn", "deploymentName", "components", "iotJobConfiguration", "deploymentPolicies", "parentTargetArn", "tags",
    "clientToken",
)  # fmt: skip
_POLICY_KEYS = ("failureHandlingPolicy", "componentUpdatePolicy", "configurationValidationPolicy")
_WITHOUT_EFFECT = ("iotJobConfiguration", "parentTargetArn")


@dataclass(frozen=True, slots=True)
class ConfigurationUpdate:
    """What a deployment does to one component's configuration: JSON pointers to reset, then a map to merge."""

    merge: Mapping[str, object] = field(default_factory=dict)
    reset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeploymentDocument:
    """A deployment as AWS's CreateDeployment takes it. `components` is {name: version requirement}.

    A local deployment `is_delta`: its components join those of its group, without those it removes, and `whole` makes
    it a deployment of the group at the moment when it is carried out. `memberships` are the core's thing groups as
    `thinggroup/<name>`, those above them too, where the cloud says; None: what any group brought stays.
    `without_effect` names members of a document that only the cloud acts on, or nobody.
    """

    target_arn: str = ""
    name: str = ""
    components: Mapping[str, str] = field(default_factory=dict)
    updates: Mapping[str, ConfigurationUpdate] = field(default_factory=dict)
    run_with: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    failure_policy: str = "ROLLBACK"
    notify_components: bool = True
    update_timeout_s: float = 60.0
    validation_timeout_s: float = 30.0
    is_delta: bool = False
    remove: tuple[str, ...] = ()
    memberships: tuple[str, ...] | None = None
    without_effect: tuple[str, ...] = ()

    def keeps(self, group: str) -> bool:
        """Whether what another group brought stays: not if the core has left that thing group (nucleus,
        DefaultDeploymentTask)."""
        is_left = self.memberships is not None and group not in self.memberships
        return not (is_left and group.startswith(GROUP_PREFIX))

    def whole(self, running: Mapping[str, str]) -> DeploymentDocument:
        """The deployment with all of its group's root components; `running` are those there now."""
        if not self.is_delta:
            return self
        return replace(self, components=local_roots(running, self.components, self.remove), is_delta=False, remove=())

    @property
    def group(self) -> str:
        """The deployment group that the target names: `thing/<name>` or `thinggroup/<name>`."""
        return self.target_arn.rpartition(":")[2] or LOCAL_GROUP


def read_document(text: str, where: str) -> DeploymentDocument:
    """Read a deployment document, YAML or JSON, keys in CreateDeployment's spelling. Raises UserError."""
    document = read(text, where)
    return document_from(document)


def document_from(document: Document) -> DeploymentDocument:
    """Make a deployment of a parsed document. Raises UserError(`bad-deployment`) with file and line."""
    top = _map(document, (), document.value)
    components = _map(document, ("components",), top.get("components", {}))
    versions: dict[str, str] = {}
    updates: dict[str, ConfigurationUpdate] = {}
    run_with: dict[str, Mapping[str, object]] = {}
    for name, value in components.items():
        path = ("components", name)
        entry = _map(document, path, value, ("componentVersion", "configurationUpdate", "runWith"))
        version = entry.get("componentVersion")
        if version is None:
            raise _bad(document, path, f"{name} has no componentVersion", "write componentVersion: 1.0.0")
        versions[name] = str(version)
        if "configurationUpdate" in entry:
            updates[name] = _update(document, (*path, "configurationUpdate"), entry["configurationUpdate"])
        if "runWith" in entry:
            run_with[name] = _map(document, (*path, "runWith"), entry["runWith"])
    policies = _map(document, ("deploymentPolicies",), top.get("deploymentPolicies", {}), _POLICY_KEYS)
    notify, validation = (
        _map(document, ("deploymentPolicies", name), policies.get(name), ("timeoutInSeconds", "action")[:count])
        for name, count in (("componentUpdatePolicy", 2), ("configurationValidationPolicy", 1))
    )
    action = notify.get("action", "NOTIFY_COMPONENTS")
    if action not in ("NOTIFY_COMPONENTS", "SKIP_NOTIFY_COMPONENTS"):
        where = ("deploymentPolicies", "componentUpdatePolicy", "action")
        raise _bad(document, where, f"{action!r} is no action", "write NOTIFY_COMPONENTS or SKIP_NOTIFY_COMPONENTS")
    failure = str(policies.get("failureHandlingPolicy", "ROLLBACK"))
    if failure not in ("ROLLBACK", "DO_NOTHING"):
        raise _bad(
            document, ("deploymentPolicies", "failureHandlingPolicy"), f"{failure!r} is no failure policy",
            "write ROLLBACK or DO_NOTHING",
        )  # fmt: skip
    return DeploymentDocument(
        target_arn=str(top.get("targetArn", "")),
        name=str(top.get("deploymentName", "")),
        components=versions,
        updates=updates,
        run_with=run_with,
        failure_policy=failure,
        notify_components=action == "NOTIFY_COMPONENTS",
        update_timeout_s=_seconds(document, "componentUpdatePolicy", notify, 60.0),
        validation_timeout_s=_seconds(document, "configurationValidationPolicy", validation, 30.0),
        without_effect=tuple(key for key in top if key not in DEPLOYMENT_KEYS or (key in _WITHOUT_EFFECT and top[key])),
    )


def _seconds(document: Document, name: str, policy: Mapping[str, object], default: float) -> float:
    value = policy.get("timeoutInSeconds", default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        where = ("deploymentPolicies", name, "timeoutInSeconds")
        raise _bad(document, where, f"{value!r} is no number of seconds", "write a number")
    return float(value)


def _map(document: Document, path: tuple[str | int, ...], value: object, keys: Sequence[str] = ()) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        what = ".".join(map(str, path)) or "the deployment"
        raise _bad(document, path, f"{what} must be a map", "indent its keys below it")
    unknown = [str(key) for key in value if keys and key not in keys]
    if unknown:
        what = ".".join(map(str, (*path, unknown[0])))
        raise _bad(
            document, (*path, unknown[0]), f"{what} is no member of CreateDeployment{closest(unknown[0], keys)}",
            "take it out or rename it; keys are compared by case",
        )  # fmt: skip
    return value


def _bad(document: Document, path: tuple[str | int, ...], what: str, mend: str) -> UserError:
    return UserError(what, code="bad-deployment", where=document.at(path), mend=mend)


def _update(document: Document, path: tuple[str | int, ...], value: object) -> ConfigurationUpdate:
    entry = _map(document, path, value, ("merge", "reset"))
    merge = entry.get("merge")
    if isinstance(merge, str):
        try:
            merge = json.loads(merge) if merge.strip() else {}
        except ValueError as error:
            raise _bad(document, (*path, "merge"), f"merge is not JSON: {error}", "mend the JSON text") from None
    reset = entry.get("reset") or []
    if not isinstance(reset, list) or not all(isinstance(pointer, str) for pointer in reset):
        raise _bad(document, (*path, "reset"), "reset must be a list of JSON pointers", 'write ["/a/b"]')
    return ConfigurationUpdate(_map(document, (*path, "merge"), merge), tuple(reset))


def local_update(value: Mapping[str, object]) -> ConfigurationUpdate:
    """Read `{"MERGE": {}, "RESET": []}` of a local deployment (either case). Raises UserError."""
    fields = {key.lower(): child for key, child in value.items()}
    unknown = fields.keys() - {"merge", "reset"}
    merge = {} if fields.get("merge") is None else fields["merge"]
    reset = [] if fields.get("reset") is None else fields["reset"]
    if unknown or not isinstance(merge, Mapping) or not isinstance(reset, list):
        raise UserError(
            "a configuration update has MERGE (a map) and RESET (a list of JSON pointers)",
            code="bad-deployment",
            mend='write {"<component>": {"MERGE": {…}, "RESET": ["/key"]}}',
        )
    return ConfigurationUpdate(merge, tuple(str(pointer) for pointer in reset))


def local_roots(running: Mapping[str, str], add: Mapping[str, str], remove: Sequence[str]) -> dict[str, str]:
    """The roots of a group after a local deployment: those there, without the removed, with the added."""
    roots = {name: version for name, version in running.items() if name not in remove}
    roots.update(add)
    return roots


@dataclass(frozen=True, slots=True)
class Definition:
    """What one component is once resolved: two equal definitions need no restart.

    `dependencies` is {component: is it HARD}; `stamps` holds a digest of each artifact file by name; `run_with` is the
    deployment's, which stays until another one changes it.
    """

    name: str
    version: str
    steps: Mapping[str, Step]
    dependencies: Mapping[str, bool]
    stamps: Mapping[str, str] = field(default_factory=dict)
    error_reset_s: float = 3600.0
    notes: tuple[str, ...] = ()
    run_with: Mapping[str, object] = field(default_factory=dict)


def joined_run_with(old: Mapping[str, object], given: Mapping[str, object] | None) -> dict[str, object]:
    """A component's runWith after a deployment: without one it stays; an empty user takes it back; limits that are not
    given again are gone (nucleus, KernelConfigResolver)."""
    found = dict(old)
    if given is not None:
        found.pop("systemResourceLimits", None)
        found.update(given)
    return {key: value for key, value in found.items() if value not in ("", None)}


def malformed_resources(configuration: Mapping[str, object]) -> list[str]:
    """The accessControl resources that nucleus lite fails a deployment for: a bare `?`, or `${x}` but for * ? $.

    Source: greengrass-lite, policy validation design.
    """
    found = []
    for policies in _maps(configuration.get("accessControl")):
        for policy in _maps(policies):
            resources = policy.get("resources")
            for text in resources if isinstance(resources, list) else ():
                rest = _ESCAPED.sub("", text) if isinstance(text, str) else "?"
                if "?" in rest or "${" in rest:
                    found.append(str(text))
    return found


_ESCAPED = re.compile(r"\$\{[*?$]\}")


def _maps(value: object) -> list[Mapping[str, object]]:
    return [child for child in value.values() if isinstance(child, Mapping)] if isinstance(value, Mapping) else []


@dataclass(slots=True)
class Plan:
    """What to do, each list in dependency order. `bootstrap` is a subset of `add` and `reinstall`."""

    add: list[str] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    reinstall: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    bootstrap: list[str] = field(default_factory=list)

    @property
    def touched(self) -> list[str]:
        """Every component that the deployment changes."""
        return [*self.add, *self.reinstall, *self.restart, *self.remove]


def plan(current: Mapping[str, Definition], wanted: Mapping[str, Definition], order: Sequence[str]) -> Plan:
    """Compare what runs with what shall run. `order` is `resolution.start_order` of the wanted components."""
    result = Plan(remove=[name for name in current if name not in wanted])
    for name in order:
        verdict = _verdict(current.get(name), wanted[name])
        getattr(result, verdict).append(name)
        if _needs_bootstrap(current.get(name), wanted[name]):
            result.bootstrap.append(name)
    return result


def _verdict(old: Definition | None, new: Definition) -> str:
    if old is None:
        return "add"
    if old.version != new.version or old.steps.get("install") != new.steps.get("install"):
        return "reinstall"
    if old.run_with.get("posixUser") != new.run_with.get("posixUser"):
        return "reinstall"
    changed = [name for name in old.stamps.keys() | new.stamps.keys() if old.stamps.get(name) != new.stamps.get(name)]
    if changed:
        return "reinstall" if _installs_from(new, changed) else "restart"
    if _running_part(old) != _running_part(new):
        return "restart"
    return "keep"


def _installs_from(definition: Definition, files: Sequence[str]) -> bool:
    """Whether the Install script names one of the files: only then does a change of it need another Install."""
    install = definition.steps.get("install")
    return install is not None and any(name.rpartition("/")[2] in install.script for name in files)


def _running_part(definition: Definition) -> dict[str, Step]:
    """The steps whose change asks for a restart; Shutdown's does not (nucleus, GenericExternalService)."""
    return {name: step for name, step in definition.steps.items() if name not in ("shutdown", "install")}


def _needs_bootstrap(old: Definition | None, new: Definition) -> bool:
    """A new component, another version or another bootstrap step (nucleus, isBootstrapRequired)."""
    if "bootstrap" not in new.steps:
        return False
    return old is None or old.version != new.version or old.steps.get("bootstrap") != new.steps["bootstrap"]


def dependers_of(names: Set[str], definitions: Mapping[str, Definition]) -> set[str]:
    """Those that depend HARD on one of the named, through others too."""
    found: set[str] = set()
    fresh = set(names)
    while fresh:
        fresh = {
            name
            for name, definition in definitions.items()
            if any(hard and other in fresh for other, hard in definition.dependencies.items())
        } - found
        found |= fresh
    return found
