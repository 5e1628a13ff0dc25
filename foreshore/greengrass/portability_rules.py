"""Rules for what works on one nucleus and not on the other, and for access policies. Pure.

Sources: greengrass-lite, "Types of Recipes Supported by Greengrass nucleus lite"; its policy validation design; the
developer guide, "Use the AWS IoT Device SDK to communicate with the Greengrass nucleus" (authorization policies).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from foreshore.greengrass.findings import Finding, Node, closest
from foreshore.greengrass.recipe_rules import KEYS
from foreshore.greengrass.recipes import ALL, STEPS, variables_in

LITE = "nucleus lite"
_LITE_MISSING = ("bootstrap", "shutdown", "recover", "uninstall")

POLICY_OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "aws.greengrass.ipc.pubsub": ("aws.greengrass#PublishToTopic", "aws.greengrass#SubscribeToTopic"),
    "aws.greengrass.ipc.mqttproxy": ("aws.greengrass#PublishToIoTCore", "aws.greengrass#SubscribeToIoTCore"),
    "aws.greengrass.ipc.lifecycle": ("aws.greengrass#PauseComponent", "aws.greengrass#ResumeComponent"),
    "aws.greengrass.ipc.componentmetric": ("aws.greengrass#PutComponentMetric",),
    "aws.greengrass.ShadowManager": (
        "aws.greengrass#GetThingShadow",
        "aws.greengrass#UpdateThingShadow",
        "aws.greengrass#DeleteThingShadow",
        "aws.greengrass#ListNamedShadowsForThing",
    ),
    "aws.greengrass.SecretManager": ("aws.greengrass#GetSecretValue",),
    "aws.greengrass.clientdevices.Auth": (
        "aws.greengrass#SubscribeToCertificateUpdates",
        "aws.greengrass#VerifyClientDeviceIdentity",
        "aws.greengrass#GetClientDeviceAuthToken",
        "aws.greengrass#AuthorizeClientDeviceAction",
    ),
    "aws.greengrass.Cli": (
        "aws.greengrass#GetComponentDetails",
        "aws.greengrass#ListComponents",
        "aws.greengrass#RestartComponent",
        "aws.greengrass#StopComponent",
        "aws.greengrass#CreateLocalDeployment",
        "aws.greengrass#CancelLocalDeployment",
        "aws.greengrass#GetLocalDeploymentStatus",
        "aws.greengrass#ListLocalDeployments",
        "aws.greengrass#CreateDebugPassword",
    ),
}
"""Services of accessControl, and the operations that each authorizes."""

LITE_SERVICES = ("aws.greengrass.ipc.pubsub", "aws.greengrass.ipc.mqttproxy", "aws.greengrass.Cli")
_ESCAPE = re.compile(r"\$\{([^}]*)\}")


def check_portability(recipe: Node) -> Iterator[Finding]:
    """What a recipe needs that one of the two nuclei has not."""
    if not isinstance(recipe.value, dict):
        return
    yield from _case(recipe)
    kind = recipe.get("ComponentType")
    if kind is not None and str(kind.value).lower() not in ("aws.greengrass.generic",):
        message = f"{LITE} runs generic components only, not {kind.value}"
        yield kind.warning(
            "lite-type", message, "rewrite it as a generic component; Foreshore's Lambda host runs handlers"
        )
    manifests = recipe.get("Manifests")
    for manifest in manifests.members() if manifests is not None else ():
        if isinstance(manifest.value, dict):
            yield from _lite_platform(manifest)
            yield from _lite_steps(manifest.get("Lifecycle"))
    lifecycle = recipe.get("Lifecycle")
    if lifecycle is not None and isinstance(lifecycle.value, dict):
        if ALL not in lifecycle.value:
            message = f"{LITE} reads the global Lifecycle only below the key {ALL}"
            yield lifecycle.warning("lite-global-lifecycle", message, f"put the steps below {ALL}:")
        yield from _lite_steps(lifecycle)
        for member in lifecycle.members():
            yield from _lite_steps(member)
    yield from _policies(recipe)


# case


def _case(recipe: Node) -> Iterator[Finding]:
    yield from _spelling(recipe, "recipe")
    configuration = recipe.get("ComponentConfiguration")
    if configuration is not None:
        yield from _spelling(configuration, "configuration")
    for entry in _children(recipe, "ComponentDependencies"):
        yield from _spelling(entry, "dependency")
    for manifest in _children(recipe, "Manifests"):
        yield from _spelling(manifest, "manifest")
        yield from _lifecycle_spelling(manifest.get("Lifecycle"))
        for artifact in _children(manifest, "Artifacts"):
            yield from _spelling(artifact, "artifact")
            permission = artifact.get("Permission")
            if permission is not None:
                yield from _spelling(permission, "permission")
    lifecycle = recipe.get("Lifecycle")
    yield from _lifecycle_spelling(lifecycle)
    for member in lifecycle.members() if lifecycle is not None else ():
        yield from _lifecycle_spelling(member)


def _children(node: Node, key: str) -> Iterator[Node]:
    child = node.get(key)
    if child is not None:
        yield from child.members()


def _lifecycle_spelling(lifecycle: Node | None) -> Iterator[Finding]:
    if lifecycle is None or not isinstance(lifecycle.value, dict):
        return
    yield from _spelling(lifecycle, "lifecycle")
    for step in lifecycle.members():
        if step.name.lower() in STEPS:
            yield from _spelling(step, "step")


def _spelling(node: Node, part: str) -> Iterator[Finding]:
    proper = {key.lower(): key for key in KEYS[part]}
    for member in node.members() if isinstance(node.value, dict) else ():
        right = proper.get(member.name.lower())
        # The cloud rewrites URI to Uri, which is what lite reads; both are right in a recipe.
        if right is not None and member.name not in (right, "Uri"):
            message = f"{member.name} works on the classic nucleus; {LITE} takes no other case than {right}"
            yield member.warning("lite-case", message, f"write {right}")


# lite


def _lite_platform(manifest: Node) -> Iterator[Finding]:
    platform = manifest.get("Platform")
    runtime = platform.get("runtime") if platform is not None else None
    if runtime is None or str(runtime.value) not in ("*", "aws_nucleus_lite"):
        message = f"{LITE} skips a manifest without Platform.runtime"
        where = platform if platform is not None else manifest
        yield where.warning("lite-runtime", message, 'add runtime: "*" below Platform')
    for attribute in platform.members() if platform is not None else ():
        text = str(attribute.value)
        if len(text) >= 2 and text.startswith("/") and text.endswith("/"):
            message = f"{LITE} takes no regular expressions: {attribute.name}: {text} matches nothing there"
            yield attribute.warning("lite-regex", message, "write one manifest for each value")


def _lite_steps(lifecycle: Node | None) -> Iterator[Finding]:
    if lifecycle is None or not isinstance(lifecycle.value, dict):
        return
    for step in lifecycle.members():
        name = step.name.lower()
        if name in _LITE_MISSING:
            message = f"{LITE} does not run {step.name}" + (" in full" if name == "bootstrap" else "")
            yield step.warning("lite-step", message, "do it in Install, Startup or Run, or keep to the classic nucleus")
        if not isinstance(step.value, dict) or name not in STEPS:
            continue
        skip = step.get("Skipif")
        if skip is not None:
            yield skip.warning("lite-skipif", f"{LITE} ignores Skipif", "test it in the script itself")
    for text in lifecycle.texts():
        for component, namespace, key in variables_in(str(text.value)):
            if component:
                shown = "{" + f"{component}:{namespace}:{key}" + "}"
                message = f"{LITE} does not replace {shown}: it knows no variables of other components"
                yield text.warning("lite-variable", message, "read the other component's configuration over IPC")


# access policies


def _policies(recipe: Node) -> Iterator[Finding]:
    configuration = recipe.get("ComponentConfiguration")
    default = configuration.get("DefaultConfiguration") if configuration is not None else None
    access = default.get("accessControl") if default is not None else None
    if access is None:
        return
    yield from check_access_control(access)


def check_access_control(access: Node) -> Iterator[Finding]:
    """The policies of one component, in a recipe or in a deployment's merge."""
    for service in access.members():
        operations = POLICY_OPERATIONS.get(service.name)
        if operations is None:
            hint = closest(service.name, POLICY_OPERATIONS)
            message = f"nothing asks the accessControl service {service.name}{hint}"
            yield service.warning("policy-service", message, "correct the name, or take it out")
        elif service.name not in LITE_SERVICES:
            message = f"{LITE} has no {service.name}"
            yield service.warning("lite-service", message, "keep to the classic nucleus, or do without")
        for policy in service.members():
            if isinstance(policy.value, dict):
                yield from _policy(policy, service.name, operations)
            else:
                yield policy.error("not-a-map", f"the policy {policy.name} must be a map", "write operations below it")


def _policy(policy: Node, service: str, known: tuple[str, ...] | None) -> Iterator[Finding]:
    operations, resources = policy.get("operations"), policy.get("resources")
    if operations is None or not isinstance(operations.value, list) or not operations.value:
        yield policy.error("policy-operations", f"the policy {policy.name} allows no operation", "list its operations")
    for operation in operations.members() if operations is not None else ():
        if known is not None and operation.value != "*" and operation.value not in known:
            hint = closest(str(operation.value), known)
            message = f"{operation.value} is no operation of {service}{hint}"
            yield operation.warning(
                "policy-operation", message, "correct the operation; it starts with aws.greengrass#"
            )
    if resources is None or not isinstance(resources.value, list) or not resources.value:
        message = f"the policy {policy.name} names no resource: it matches nothing, and fails a deployment on {LITE}"
        yield policy.warning("policy-resources", message, 'list its resources, or "*" for all')
    wildcards = [str(each.value) for each in resources.members() if "*" in str(each.value)] if resources else []
    for resource in resources.members() if resources is not None else ():
        yield from _resource(resource, service, wildcards)


def _resource(resource: Node, service: str, wildcards: list[str]) -> Iterator[Finding]:
    text = str(resource.value)
    bare = _ESCAPE.sub("", text)
    bad = [match for match in _ESCAPE.findall(text) if match not in ("*", "?", "$")]
    if "?" in bare or bad:
        what = f"${{{bad[0]}}}" if bad else "a bare ?"
        message = f"{what} in {text!r}: the classic nucleus skips this policy, {LITE} fails the deployment"
        yield resource.warning("policy-resource", message, "write ${?} for a question mark, ${$} for a dollar sign")
    if "{iot:thingName}" in text:
        message = "{iot:thingName} stays as it is in a policy unless the nucleus interpolates configuration"
        mend = "set interpolateComponentConfiguration: true of aws.greengrass.Nucleus in the deployment, or use *"
        yield resource.warning("policy-variable", message, mend)
    covered = any(_covers(wildcard, text) for wildcard in wildcards if wildcard != text)
    if service == "aws.greengrass.ipc.pubsub" and re.search(r"(^|/)[+#](/|$)", text) and not covered:
        message = f"in a local publish/subscribe policy {text!r} allows only the subscription of just that text"
        yield resource.warning(
            "policy-wildcard", message, "use * for any part of a topic; keep it for such a subscription"
        )
    if service == "aws.greengrass.ipc.mqttproxy" and "#" in text and not text.endswith("#"):
        yield resource.warning("policy-wildcard", f"# in the middle of {text!r} is no wildcard", "put # at the end")


def _covers(wildcard: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, wildcard.split("*"))), text) is not None
