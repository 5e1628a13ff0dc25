"""A Lambda component definition and its handler become a generic component that runs on the Lambda host. Pure.

In: the `lambdaFunction` member of CreateComponentVersion (Greengrass V2 API reference, LambdaFunctionRecipeSource), and
what the legacy subscription router was told (developer guide, "Legacy subscription router"). Out: a recipe for the
classic nucleus and nucleus lite. What a generic component can't have is named in `Converted.notes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foreshore.errors import UserError
from foreshore.greengrass.lambda_host.calls import invoke_topic, result_topic
from foreshore.greengrass.lambda_host.parameters import IOT_CORE, PUB_SUB, BadParameters, read_parameters

_ARN = re.compile(r"^arn:[a-z-]+:lambda:[a-z0-9-]*:\d*:function:(?P<name>[A-Za-z0-9_.-]+):(?P<version>\d+)$")
_RUNTIME_PARTS = ("aws.greengrass.LambdaLauncher", "aws.greengrass.LambdaManager", "aws.greengrass.LambdaRuntimes")
_KEPT = (
    "pinned", "maxQueueSize", "maxInstancesCount", "maxIdleTimeInSeconds", "timeoutInSeconds",
    "statusTimeoutInSeconds", "inputPayloadEncodingType", "environmentVariables",
)  # fmt: skip
HOST = "lambda_host.pyz"
SHADOWS = "aws.greengrass.ShadowManager"
SECRETS = "aws.greengrass.SecretManager"


@dataclass(slots=True)
class Converted:
    """A recipe, its short name for files, and what could not be carried over."""

    name: str
    recipe: dict[str, Any]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Code:
    """The handler: `module.function`, and its artifact files; one `.zip` when `is_zipped`."""

    handler: str
    files: tuple[str, ...]
    is_zipped: bool = False


def convert(
    definition: Mapping[str, Any],
    code: Code,
    routes: Sequence[Mapping[str, str]] = (),
    subscriptions: Mapping[str, Mapping[str, str]] | None = None,
    client: str = "awsiotsdk",
    invokes: Sequence[str] = (),
    shadows: Sequence[str] = (),
    secrets: Sequence[str] = (),
) -> Converted:
    """Make the recipe. `invokes` names the functions that this one invokes through the greengrasssdk Lambda client,
    `shadows` the things (`THING` or `THING/NAME`) and `secrets` the names or ARNs that it reads and writes by it.

    Raises UserError(`lambda-definition`) when the definition can't be one.
    """
    arn, name, version = _identity(definition)
    parameters = _member(definition, "componentLambdaParameters")
    notes: list[str] = []
    configuration: dict[str, Any] = {"lambdaArn": arn}
    configuration |= {key: parameters[key] for key in _KEPT if parameters.get(key) is not None}
    legacy_sources, legacy_routes = read_subscriptions(subscriptions or {}, name, arn)
    configuration["eventSources"] = _unique([*_sources(parameters), *legacy_sources])
    configuration["routes"] = _unique([*routes, *legacy_routes])
    if parameters.get("execArgs"):
        notes.append("execArgs have no effect: the host calls the handler with event and context only")
    if not configuration["routes"]:
        notes.append("no route: what the handler publishes is refused until `routes` has a topic filter for it")
    notes += _container_notes(parameters)
    try:
        read_parameters(configuration)
    except BadParameters as error:
        raise _bad(str(error)) from error
    configuration["invocable"] = True
    heard, said = _call_topics(arn.split(":")[6], invokes)
    configuration["accessControl"] = access_control(
        name, [*configuration["eventSources"], *heard], [*configuration["routes"], *said]
    )
    configuration["accessControl"] |= _state_access(name, shadows, secrets)
    for parts, component in ((shadows, SHADOWS), (secrets, SECRETS)):
        if parts:
            notes.append(f"the deployment needs {component}, which nucleus lite does not have")
    recipe: dict[str, Any] = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": version,
        "ComponentDescription": f"Lambda function {arn} as a generic component.",
        "ComponentConfiguration": {"DefaultConfiguration": configuration},
    }
    dependencies = _dependencies(definition, notes)
    if dependencies:
        recipe["ComponentDependencies"] = dependencies
    recipe["Manifests"] = _manifests(definition, name, version, code, client)
    return Converted(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"), recipe, notes)


def _bad(what: str) -> UserError:
    mend = "see LambdaFunctionRecipeSource in the Greengrass V2 API reference"
    return UserError(what, code="lambda-definition", mend=mend)


def _member(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key) or {}
    if not isinstance(found, Mapping):
        raise _bad(f"{key} must be a map")
    return found


def _identity(definition: Mapping[str, Any]) -> tuple[str, str, str]:
    """ARN, component name and version; by default the function's name, and <function version>.0.0."""
    arn = str(definition.get("lambdaArn") or "")
    match = _ARN.match(arn)
    if match is None:
        raise _bad(f"lambdaArn must be a function ARN with a numeric version, not {arn!r}")
    name = str(definition.get("componentName") or match["name"])
    return arn, name, str(definition.get("componentVersion") or f"{match['version']}.0.0")


def _sources(parameters: Mapping[str, Any]) -> list[dict[str, str]]:
    sources = parameters.get("eventSources") or []
    if not isinstance(sources, list) or not all(isinstance(each, Mapping) for each in sources):
        raise _bad("eventSources must be a list of {topic, type}")
    return [{"topic": str(each.get("topic", "")), "type": str(each.get("type", PUB_SUB))} for each in sources]


def _unique(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for item in items:
        if dict(item) not in found:
            found.append(dict(item))
    return found


def read_subscriptions(
    subscriptions: Mapping[str, Mapping[str, str]], name: str, arn: str
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The legacy router's `subscriptions` that begin or end at this function: (event sources, routes)."""
    mine = {f"component:{name}", name, arn}
    sources, routes = [], []
    for subscription in subscriptions.values():
        source, target = str(subscription.get("source", "")), str(subscription.get("target", ""))
        subject = str(subscription.get("subject", ""))
        if target in mine:
            sources.append({"topic": subject, "type": IOT_CORE if source == "cloud" else PUB_SUB})
        if source in mine:
            routes.append({"topic": subject, "type": IOT_CORE if target == "cloud" else PUB_SUB})
    return sources, routes


def _container_notes(parameters: Mapping[str, Any]) -> list[str]:
    process = _member(parameters, "linuxProcessParams")
    container = _member(process, "containerParams")
    notes = []
    if process.get("isolationMode", "GreengrassContainer") == "GreengrassContainer":
        notes.append("isolationMode GreengrassContainer: a generic component runs as a plain process")
    for key, words in (
        ("memorySizeInKB", "limit it with runWith.systemResourceLimits in the deployment"),
        ("volumes", "the process sees the device's own file system"),
        ("devices", "give the component's user access to the devices"),
        ("mountROSysfs", "the process sees the device's own /sys"),
    ):
        if container.get(key):
            notes.append(f"containerParams.{key}: {words}")
    return notes


def _dependencies(definition: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, wish in _member(definition, "componentDependencies").items():
        if name in _RUNTIME_PARTS:
            notes.append(f"dependency {name} dropped: the Lambda host replaces it")
            continue
        found[name] = {
            "VersionRequirement": str(wish.get("versionRequirement", ">=0.0.0")),
            "DependencyType": str(wish.get("dependencyType", "HARD")),
        }
    return found


def _call_topics(function: str, invokes: Sequence[str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The local topics of invocations: what the function must hear, and what it must be allowed to publish to."""
    heard = [invoke_topic(function), *([result_topic(function)] if invokes else [])]
    said = [result_topic("+"), *(invoke_topic(other) for other in invokes)]
    return [{"topic": topic, "type": PUB_SUB} for topic in heard], [{"topic": topic, "type": PUB_SUB} for topic in said]


def access_control(
    name: str, sources: Sequence[Mapping[str, Any]], routes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Policies that allow what the event sources and routes need, and nothing else.

    Local pub/sub resources have no MQTT wildcards: there `*` stands for any characters (developer guide, "Authorize
    components to perform IPC operations").
    """
    found: dict[str, Any] = {}
    for service, kind, verb_in, verb_out in (
        ("aws.greengrass.ipc.pubsub", PUB_SUB, "SubscribeToTopic", "PublishToTopic"),
        ("aws.greengrass.ipc.mqttproxy", IOT_CORE, "SubscribeToIoTCore", "PublishToIoTCore"),
    ):
        policies = {}
        for number, (verb, items) in enumerate(((verb_in, sources), (verb_out, routes)), 1):
            topics = [str(item["topic"]) for item in items if item.get("type", PUB_SUB) == kind]
            if topics:
                resources = topics if kind == IOT_CORE else list(dict.fromkeys(_local_resources(topics)))
                policies[f"{name}:{service.rpartition('.')[2]}:{number}"] = {
                    "policyDescription": f"Allows {verb}.",
                    "operations": [f"aws.greengrass#{verb}"],
                    "resources": resources,
                }
        if policies:
            found[service] = policies
    return found


def _state_access(name: str, shadows: Sequence[str], secrets: Sequence[str]) -> dict[str, Any]:
    """Policies for the shadow and secret calls of greengrasssdk."""
    found: dict[str, Any] = {}
    resources = []
    for shadow in shadows:
        thing, _, shadow_name = shadow.partition("/")
        resources.append(f"$aws/things/{thing}/shadow" + (f"/name/{shadow_name}" if shadow_name else ""))
    verbs = ("GetThingShadow", "UpdateThingShadow", "DeleteThingShadow")
    for service, operations, items in ((SHADOWS, verbs, resources), (SECRETS, ("GetSecretValue",), list(secrets))):
        if items:
            found[service] = {
                f"{name}:{service.rpartition('.')[2]}:1": {
                    "policyDescription": f"Allows {', '.join(operations)}.",
                    "operations": [f"aws.greengrass#{each}" for each in operations],
                    "resources": items,
                }
            }
    return found


def _local_resources(topics: Iterable[str]) -> Iterable[str]:
    for topic in topics:
        yield topic
        if "+" in topic or "#" in topic:
            yield re.sub(r"[+#]", "*", topic)


def _manifests(definition: Mapping[str, Any], name: str, version: str, code: Code, client: str) -> list[dict[str, Any]]:
    platforms = definition.get("componentPlatforms") or [{"name": "linux", "attributes": {"os": "linux"}}]
    prefix = f"s3://BUCKET_NAME/{name}/{version}"
    artifacts: list[dict[str, str]] = [{"URI": f"{prefix}/{HOST}"}]
    artifacts += [
        {"URI": f"{prefix}/{file}", **({"Unarchive": "ZIP"} if code.is_zipped else {})} for file in code.files
    ]
    folder = "{artifacts:path}"
    if code.is_zipped:
        folder = "{artifacts:decompressedPath}/" + code.files[0].removesuffix(".zip")
    run = f"python3 -u {{artifacts:path}}/{HOST} --handler {code.handler} --code {folder}"
    wanted = "awsiot, greengrasssdk" if client == "awsiotsdk" else "greengrasssdk"
    # Lower case: nucleus lite compares the names of lifecycle steps by case.
    lifecycle = {
        "install": {
            "Script": f"PYTHONPATH={folder} python3 -c 'import {wanted}' 2>/dev/null || "
            f"python3 -m pip install --quiet --target {{work:path}}/packages -r {folder}/requirements.txt",
            "Timeout": 600,
        },
        "run": {"Script": f"{run} --packages {{work:path}}/packages --name {name} --client {client}"},
    }
    return [
        {
            "Name": str(platform.get("name", "linux")),
            "Platform": {"runtime": "*", **platform.get("attributes", {"os": "linux"})},
            "Lifecycle": lifecycle,
            "Artifacts": artifacts,
        }
        for platform in platforms
    ]
