"""Component versions of the greengrassv2 API: create with artifact digests, describe, list, delete, resolve.

Source: AWS IoT Greengrass V2 API reference, CreateComponentVersion and its neighbours.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from foreshore.errors import AwsError, NotEmulated, UserError
from foreshore.greengrass.cloud.store import Ground, Item
from foreshore.greengrass.documents import read
from foreshore.greengrass.provided import PROVIDED, PROVIDED_VERSIONS
from foreshore.greengrass.recipes import Dependency, Recipe, parse, select_manifest
from foreshore.greengrass.resolution import resolve
from foreshore.greengrass.versions import BadVersion, Range, Version
from foreshore.shapes.service_model import CallContext, OperationHandler, Params, paginate

_ARN = re.compile(r"^arn:[^:]*:greengrass:[^:]*:[^:]*:components:(?P<name>[^:]+)(:versions:(?P<version>[^:]+))?$")
FetchObject = Callable[[str, str], Awaitable[bytes]]
"""`(bucket, key) -> bytes` from S3. Raises AwsError."""


class Components:
    """The component versions of the account."""

    def __init__(self, ground: Ground, fetch: FetchObject) -> None:
        self._ground = ground
        self._store = ground.store
        self._fetch = fetch

    def operations(self) -> dict[str, OperationHandler]:
        """The operations by name."""
        return {
            "CreateComponentVersion": self.create,
            "DescribeComponent": self.describe,
            "GetComponent": self.get,
            "ListComponents": self.list_components,
            "ListComponentVersions": self.list_versions,
            "DeleteComponent": self.delete,
            "ResolveComponentCandidates": self.resolve_candidates,
        }

    async def create(self, params: Params, context: CallContext) -> Params:
        """CreateComponentVersion, of an inline recipe. A recipe whose artifacts can't be read ends FAILED."""
        if params.get("lambdaFunction") is not None:
            raise NotEmulated("CreateComponentVersion of a lambdaFunction", "Use `foreshore component from-lambda`.")
        if params.get("inlineRecipe") is None:
            raise AwsError("ValidationException", "One of inlineRecipe and lambdaFunction must be given.", 400)
        token = params.get("clientToken")
        known = self._store.get("component-token", token) if token else None
        if known is not None:
            return known
        recipe, document = _read_recipe(params["inlineRecipe"])
        name, version = recipe.name, str(recipe.version)
        self._refuse_known(name, version)
        errors = await self._add_digests(document)
        self._refuse_known(name, version)
        status: Item = {"componentState": "FAILED" if errors else "DEPLOYABLE", "message": "NONE", "errors": errors}
        if errors:
            status["message"] = "The artifacts of the component can't be read."
        item = {
            "arn": self.arn(name, version),
            "componentName": name,
            "componentVersion": version,
            "creationTimestamp": self._ground.clock(),
            "publisher": recipe.publisher,
            "description": recipe.description,
            "status": status,
            "platforms": [
                {"name": each.name, "attributes": dict(each.platform)} if each.name else {"attributes": each.platform}
                for each in recipe.manifests
            ],
            "tags": params.get("tags") or {},
            "recipe": json.dumps(document),
        }
        made = {key: item[key] for key in ("arn", "componentName", "componentVersion", "creationTimestamp", "status")}
        with self._store.database.transaction():
            self._store.put("component", f"{name}:{version}", item)
            if token:
                self._store.put("component-token", token, made)
        return made

    def _refuse_known(self, name: str, version: str) -> None:
        if self._store.get("component", f"{name}:{version}") is None:
            return
        extra = {"resourceId": f"{name}:{version}", "resourceType": "ComponentVersion"}
        raise AwsError("ConflictException", f"Component [{name} : {version}] already exists.", 409, extra)

    async def _add_digests(self, document: Item) -> dict[str, str]:
        """Put Digest and Algorithm into every artifact; give what went wrong, by URI."""
        errors: dict[str, str] = {}
        for artifact in _artifacts(document):
            uri = str(_field(artifact, "uri") or "")
            parts = urlsplit(uri)
            if parts.scheme != "s3":
                errors[uri] = "the artifact's URI must be an s3:// URI"
                continue
            try:
                body = await self._fetch(parts.netloc, parts.path.lstrip("/"))
            except AwsError as error:
                errors[uri] = f"{error.code}: {error.message}"
                continue
            for key in [key for key in artifact if key.lower() in ("digest", "algorithm")]:
                del artifact[key]
            artifact["Digest"] = base64.b64encode(hashlib.sha256(body).digest()).decode()
            artifact["Algorithm"] = "SHA-256"
        return errors

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
        name, version = _read_arn(params["arn"])
        if not version:
            raise AwsError("ValidationException", "The ARN must be that of a component version.", 400)
        return self.find(name, version)

    def describe(self, params: Params, context: CallContext) -> Params:
        """DescribeComponent."""
        return {key: value for key, value in self._named(params).items() if key != "recipe" and value != ""}

    def get(self, params: Params, context: CallContext) -> Params:
        """GetComponent, in JSON."""
        if params.get("recipeOutputFormat") == "YAML":
            raise NotEmulated("GetComponent in YAML", "Ask for JSON.")
        item = self._named(params)
        return {"recipeOutputFormat": "JSON", "recipe": item["recipe"].encode(), "tags": item["tags"]}

    def versions_of(self, name: str) -> list[Item]:
        """A component's versions, newest first."""
        found = self._store.all("component", f"{name}:")
        return sorted(found, key=lambda each: Version.parse(each["componentVersion"]), reverse=True)

    def list_components(self, params: Params, context: CallContext) -> Params:
        """ListComponents. Public components are AWS's own: the scope PUBLIC lists none."""
        if params.get("scope") == "PUBLIC":
            raise NotEmulated("ListComponents of AWS's public components")
        names = sorted({each["componentName"] for each in self._store.all("component")})
        page, token = paginate(names, params.get("nextToken"), params.get("maxResults"), code="ValidationException")
        return {"components": [self._summary(name) for name in page], "nextToken": token}

    def _summary(self, name: str) -> Item:
        latest = self.versions_of(name)[0]
        keys = ("arn", "componentVersion", "creationTimestamp", "description", "publisher", "platforms")
        return {
            "arn": self._ground.arn(f"components:{name}"),
            "componentName": name,
            "latestVersion": {key: latest[key] for key in keys if latest[key] != ""},
        }

    def list_versions(self, params: Params, context: CallContext) -> Params:
        """ListComponentVersions, newest first."""
        name, _ = _read_arn(params["arn"])
        found = self.versions_of(name)
        if not found:
            raise AwsError("ResourceNotFoundException", f"Component [{name}] does not exist.", 404,
                           {"resourceId": params["arn"], "resourceType": "Component"})  # fmt: skip
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

    def recipes(self, wanted: dict[str, str]) -> list[Item]:
        """The stored versions that components {name: version} and their dependencies resolve to. Raises UserError."""
        roots = {name: {"the deployment": Range.parse(version)} for name, version in wanted.items()}
        versions = resolve(roots, self._available(), PROVIDED_VERSIONS).versions
        return [self.find(name, str(version)) for name, version in versions.items() if name not in PROVIDED]

    def _available(self) -> dict[str, dict[Version, Any]]:
        found: dict[str, dict[Version, dict[str, Dependency]]] = {}
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
        for item in self.versions_of(name):
            version = Version.parse(item["componentVersion"])
            fits = select_manifest(parse(item["recipe"], item["arn"]), platform) is not None
            if item["status"]["componentState"] == "DEPLOYABLE" and fits and all(r.accepts(version) for r in ranges):
                return {
                    "arn": item["arn"], "componentName": name, "componentVersion": item["componentVersion"],
                    "recipe": item["recipe"].encode(), "vendorGuidance": "ACTIVE",
                }  # fmt: skip
        raise AwsError("ResourceNotFoundException", f"No version of {name} fits requirements and platform.", 404,
                       {"resourceId": name, "resourceType": "ComponentVersion"})  # fmt: skip


def _read_arn(arn: str) -> tuple[str, str]:
    match = _ARN.match(arn)
    if match is None:
        raise AwsError("ValidationException", f"{arn} is no ARN of a component.", 400)
    return match["name"], match["version"] or ""


def _read_recipe(body: bytes) -> tuple[Recipe, Item]:
    text = body.decode("utf-8", "replace")
    try:
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
