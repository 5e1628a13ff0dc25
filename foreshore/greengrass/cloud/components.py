"""Component versions of the greengrassv2 API: create with artifact digests, describe, list, delete, resolve.

Source: AWS IoT Greengrass V2 API reference, CreateComponentVersion and its neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from foreshore.errors import AwsError, NotEmulated, UserError
from foreshore.greengrass.cloud.artifacts import OWN, Artifacts, digest_of
from foreshore.greengrass.cloud.lambda_source import LambdaCodeOf, recipe_of
from foreshore.greengrass.cloud.store import Ground, Item, Say
from foreshore.greengrass.documents import read
from foreshore.greengrass.provided import DEFAULTS, PROVIDED, PROVIDED_VERSIONS
from foreshore.greengrass.recipe_rules import MAX_BYTES
from foreshore.greengrass.recipes import Dependency, Recipe, parse, select_manifest
from foreshore.greengrass.resolution import Available, resolve
from foreshore.greengrass.versions import BadVersion, Range, Version
from foreshore.shapes.service_model import CallContext, OperationHandler, Params, paginate

_ARN = re.compile(
    r"^arn:[^:]*:greengrass:[^:]*:(?P<account>[^:]*):components:(?P<name>[^:]+)(:versions:(?P<version>[^:]+))?$"
)
REQUESTED = {"componentState": "REQUESTED", "message": "NONE", "errors": {}}
"""What CreateComponentVersion answers; the version is DEPLOYABLE when it is described next."""
DEPLOYABLE = {"componentState": "DEPLOYABLE", "message": "NONE", "errors": {}}


class Components:
    """The component versions of the account. `say(level, text)` writes a log line."""

    def __init__(self, ground: Ground, artifacts: Artifacts, lambda_code: LambdaCodeOf | None, say: Say) -> None:
        self._ground = ground
        self._store = ground.store
        self._artifacts = artifacts
        self._lambda_code = lambda_code
        self._say = say

    def operations(self) -> dict[str, OperationHandler]:
        """The operations by name."""
        return {
            "CreateComponentVersion": self.create,
            "DescribeComponent": self.describe,
            "GetComponent": self.get,
            "ListComponents": self.list_components,
            "ListComponentVersions": self.list_versions,
            "DeleteComponent": self.delete,
            "GetComponentVersionArtifact": self.get_artifact,
            "ResolveComponentCandidates": self.resolve_candidates,
        }

    async def create(self, params: Params, context: CallContext) -> Params:
        """CreateComponentVersion. An artifact that can't be read is refused at once, as AWS does.

        Source: developer guide, "Troubleshooting AWS IoT Greengrass V2", cloud issues.
        """
        if (params.get("inlineRecipe") is None) == (params.get("lambdaFunction") is None):
            raise AwsError("ValidationException", "Either inlineRecipe or lambdaFunction must be given.", 400)
        token = params.get("clientToken")
        known = self._store.get("component-token", token) if token else None
        if known is not None:
            return known
        if params.get("inlineRecipe") is not None:
            recipe, document = _read_recipe(params["inlineRecipe"])
        else:
            recipe, document = self._of_lambda(params["lambdaFunction"])
        name, version = recipe.name, str(recipe.version)
        self._refuse_known(name, version)
        await self._add_digests(document)
        self._refuse_known(name, version)
        item = {
            "arn": self.arn(name, version),
            "componentName": name,
            "componentVersion": version,
            "creationTimestamp": self._ground.clock(),
            "publisher": recipe.publisher,
            "description": recipe.description,
            "status": DEPLOYABLE,
            "platforms": [
                {"name": each.name, "attributes": dict(each.platform)} if each.name else {"attributes": each.platform}
                for each in recipe.manifests
            ],
            "tags": params.get("tags") or {},
            "recipe": json.dumps(document),
        }
        made = {key: item[key] for key in ("arn", "componentName", "componentVersion", "creationTimestamp")}
        made["status"] = REQUESTED
        with self._store.database.transaction():
            self._store.put("component", f"{name}:{version}", item)
            if token:
                self._store.put("component-token", token, made)
        return made

    def _of_lambda(self, definition: Item) -> tuple[Recipe, Item]:
        if self._lambda_code is None:
            raise NotEmulated("CreateComponentVersion of a lambdaFunction without the room lambda", "Add it to --only.")
        document, notes = recipe_of(definition, self._lambda_code, self._artifacts)
        for note in notes:
            self._say("WARN", f"component {document['ComponentName']} of {definition['lambdaArn']}: {note}")
        return parse(json.dumps(document), "lambdaFunction"), document

    def _refuse_known(self, name: str, version: str) -> None:
        if self._store.get("component", f"{name}:{version}") is None:
            return
        extra = {"resourceId": f"{name}:{version}", "resourceType": "ComponentVersion"}
        raise AwsError("ConflictException", f"Component [{name} : {version}] already exists.", 409, extra)

    async def _add_digests(self, document: Item) -> None:
        """Put Digest and Algorithm into every artifact. Raises AwsError that names all that can't be read."""
        unread: list[str] = []
        for artifact in _artifacts(document):
            uri = str(_field(artifact, "uri") or "")
            try:
                body = await self._artifacts.read(uri)
            except AwsError as error:
                if error.status >= 500:
                    raise
                unread.append(uri)
                continue
            for key in [key for key in artifact if key.lower() in ("digest", "algorithm")]:
                del artifact[key]
            artifact["Digest"] = digest_of(body)
            artifact["Algorithm"] = "SHA-256"
        if unread:
            what = ", ".join(f"{uri} = Specified artifact resource cannot be accessed" for uri in unread)
            raise AwsError(
                "ValidationException", f"Invalid Input: Encountered following errors in Artifacts: {{{what}}}"
            )

    def arn(self, name: str, version: str) -> str:
        """A component version's ARN."""
        return self._ground.arn(f"components:{name}:versions:{version}")

    def find(self, name: str, version: str) -> Item:
        """One component version. Raises AwsError ResourceNotFoundException."""
        found = self._store.get("component", f"{name}:{version}")
        if found is None:
            extra = {"resourceId": self.arn(name, version), "resourceType": "ComponentVersion"}
            raise AwsError("ResourceNotFoundException", f"Component [{name} : {version}] does not exist.", 404, extra)
        return found

    def _named(self, params: Params) -> Item:
        account, name, version = _read_arn(params["arn"])
        if not version:
            raise AwsError("ValidationException", "The ARN must be that of a component version.", 400)
        if account == "aws" and PROVIDED.get(name) == version:
            return self._public(name)
        return self.find(name, version)

    def _public(self, name: str) -> Item:
        """One of AWS's own that the core stands for."""
        version = PROVIDED[name]
        recipe = {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentType": "aws.greengrass.plugin",
            "ComponentPublisher": "AWS",
            "ComponentConfiguration": {"DefaultConfiguration": DEFAULTS.get(name, {})},
            "Manifests": [{"Platform": {"os": "linux"}}],
        }
        return {
            "arn": f"arn:aws:greengrass:{self._ground.region}:aws:components:{name}:versions:{version}",
            "componentName": name,
            "componentVersion": version,
            "creationTimestamp": 0.0,
            "publisher": "AWS",
            "description": "",
            "status": DEPLOYABLE,
            "platforms": [{"attributes": {"os": "linux"}}],
            "tags": {},
            "recipe": json.dumps(recipe),
        }

    def describe(self, params: Params, context: CallContext) -> Params:
        """DescribeComponent."""
        return {key: value for key, value in self._named(params).items() if key != "recipe" and value != ""}

    def get(self, params: Params, context: CallContext) -> Params:
        """GetComponent, in JSON or YAML."""
        item = self._named(params)
        form = params.get("recipeOutputFormat") or "JSON"
        text = item["recipe"]
        if form == "YAML":
            text = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True, width=120)
        return {"recipeOutputFormat": form, "recipe": text.encode(), "tags": item["tags"]}

    def get_artifact(self, params: Params, context: CallContext) -> Params:
        """GetComponentVersionArtifact: a URL of one artifact, named by what follows the scheme in its URI."""
        item, name = self._named(params), params["artifactName"]
        for artifact in _artifacts(json.loads(item["recipe"])):
            uri = str(_field(artifact, "uri") or "")
            if name in (uri.partition(":")[2], uri.partition("://")[2]):
                return {"preSignedUrl": self._artifacts.url(uri, self._ground.region, self._ground.clock())}
        extra = {"resourceId": name, "resourceType": "Artifact"}
        raise AwsError("ResourceNotFoundException", f"There is no artifact {name}.", 404, extra)

    def versions_of(self, name: str) -> list[Item]:
        """A component's versions, newest first."""
        found = self._store.all("component", f"{name}:")
        return sorted(found, key=lambda each: Version.parse(each["componentVersion"]), reverse=True)

    def list_components(self, params: Params, context: CallContext) -> Params:
        """ListComponents. PUBLIC ones are those of AWS's that the core stands for."""
        if params.get("scope") == "PUBLIC":
            latest = {name: self._public(name) for name in sorted(PROVIDED)}
        else:
            names = sorted({each["componentName"] for each in self._store.all("component")})
            latest = {name: self.versions_of(name)[0] for name in names}
        page, token = paginate(
            list(latest), params.get("nextToken"), params.get("maxResults"), code="ValidationException"
        )
        return {"components": [_summary(latest[name]) for name in page], "nextToken": token}

    def list_versions(self, params: Params, context: CallContext) -> Params:
        """ListComponentVersions, newest first; of a component that is not there, none."""
        account, name, _ = _read_arn(params["arn"])
        found = [self._public(name)] if account == "aws" and name in PROVIDED else self.versions_of(name)
        ranks = {each["componentVersion"]: f"{rank:06d}" for rank, each in enumerate(found)}
        page, token = paginate(
            found, params.get("nextToken"), params.get("maxResults"),
            key=lambda each: ranks[each["componentVersion"]], code="ValidationException",
        )  # fmt: skip
        keys = ("componentName", "componentVersion", "arn")
        return {"componentVersions": [{key: each[key] for key in keys} for each in page], "nextToken": token}

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteComponent: the version goes from the cloud; cores that have it keep it."""
        item = self._named(params)
        self._store.delete("component", f"{item['componentName']}:{item['componentVersion']}")

    def recipes(self, groups: Mapping[str, Mapping[str, str]], known: Available) -> dict[str, Item]:
        """The versions kept here that a core is to run, by name, without those of which it has the only recipe.

        `groups` are the root components of each of its deployments, {group: {name: version}}, `known` the recipes it
        has. Raises UserError when they can't be satisfied together.
        """
        roots: dict[str, dict[str, Range]] = {}
        for group, components in groups.items():
            for name, version in components.items():
                roots.setdefault(name, {})[group] = Range.parse(version)
        versions = resolve(roots, self._available(known), PROVIDED_VERSIONS).versions
        found = {name: self._store.get("component", f"{name}:{version}") for name, version in versions.items()}
        return {name: item for name, item in found.items() if item is not None}

    def _available(self, known: Available) -> dict[str, dict[Version, Mapping[str, Dependency]]]:
        found = {name: dict(versions) for name, versions in known.items()}
        for item in self._store.all("component"):
            if item["status"]["componentState"] == "DEPLOYABLE":
                recipe = parse(item["recipe"], item["arn"])
                found.setdefault(recipe.name, {})[recipe.version] = dict(recipe.dependencies)
        return found

    def resolve_candidates(self, params: Params, context: CallContext) -> Params:
        """ResolveComponentCandidates: for each candidate the highest version that fits all requirements."""
        platform = (params.get("platform") or {}).get("attributes") or {}
        resolved = []
        for candidate in params.get("componentCandidates") or []:
            resolved.append(self._candidate(candidate, platform))
        return {"resolvedComponentVersions": resolved}

    def _candidate(self, candidate: Item, platform: dict[str, str]) -> Item:
        name = candidate.get("componentName", "")
        try:
            ranges = [Range.parse(text) for text in (candidate.get("versionRequirements") or {}).values()]
        except BadVersion as error:
            raise AwsError("ValidationException", str(error), 400) from None
        what = f"No version of Component {name} satisfies its requirements"
        for item in self.versions_of(name):
            version = Version.parse(item["componentVersion"])
            if not all(wanted.accepts(version) for wanted in ranges):
                continue
            if select_manifest(parse(item["recipe"], item["arn"]), platform) is None:
                what = f"The latest version of Component {name} doesn't claim platform {platform} compatibility"
            else:
                return {
                    "arn": item["arn"], "componentName": name, "componentVersion": item["componentVersion"],
                    "recipe": item["recipe"].encode(), "vendorGuidance": "ACTIVE",
                }  # fmt: skip
        extra = {"resourceId": name, "resourceType": "ComponentVersion"}
        raise AwsError("ResourceNotFoundException", what, 404, extra)


def _summary(latest: Item) -> Item:
    keys = ("arn", "componentVersion", "creationTimestamp", "description", "publisher", "platforms")
    return {
        "arn": latest["arn"].partition(":versions:")[0],
        "componentName": latest["componentName"],
        "latestVersion": {key: latest[key] for key in keys if latest[key] != ""},
    }


def _read_arn(arn: str) -> tuple[str, str, str]:
    """Account (`aws` for a public component), name and version."""
    match = _ARN.match(arn)
    if match is None:
        raise AwsError("ValidationException", f"{arn} is no ARN of a component.", 400)
    return match["account"], match["name"], match["version"] or ""


def _read_recipe(body: bytes) -> tuple[Recipe, Item]:
    if len(body) > MAX_BYTES:
        raise AwsError("ValidationException", f"The recipe has {len(body)} bytes; the maximum is {MAX_BYTES}.", 400)
    text = body.decode("utf-8", "replace")
    try:
        if OWN in text:
            raise UserError("artifacts must have s3:// URIs", where="inlineRecipe")
        recipe = parse(text, "inlineRecipe")
        document = read(text, "inlineRecipe").value
    except UserError as error:
        raise AwsError("ValidationException", f"The recipe is invalid: {error.where}: {error.what}", 400) from None
    assert isinstance(document, dict)
    return recipe, document


def _field(item: Item, key: str) -> Any:
    return next((value for name, value in item.items() if name.lower() == key), None)


def _artifacts(document: Item) -> list[Item]:
    manifests = _field(document, "manifests") or []
    return [artifact for manifest in manifests for artifact in _field(manifest, "artifacts") or []]
