"""Policies as resources: versions, targets, and which of them are in force for a principal.

In force are the policies attached to the principal itself and, when it stands for a thing, those of the thing's groups
and their parents. Parsing and deciding is `policies.py`'s.

Source: AWS IoT API reference, the policy operations; developer guide, "AWS IoT Core policies", "Thing groups: attach a
policy"; limits: AWS IoT Core quotas.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from foreshore.errors import AwsError
from foreshore.iot.listing import markers
from foreshore.iot.policies import MAX_DOCUMENT, Policy, PolicyError, parse
from foreshore.iot.store import Document, Ground, Tags
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
MAX_VERSIONS = 5
MAX_PER_TARGET = 10


def checked(document: str, name: str) -> Policy:
    """Parse a document within the limits. Raises AwsError MalformedPolicyException."""
    if sum(not character.isspace() for character in document) > MAX_DOCUMENT:
        raise AwsError("MalformedPolicyException", f"Policy document exceeds {MAX_DOCUMENT} characters.", 400)
    try:
        return parse(document, name)
    except PolicyError as error:
        raise AwsError(
            "MalformedPolicyException", f"Policy document is Malformed: {error.what} ({error.where})"
        ) from None


class PolicyResources:
    """The policy half of the control plane. `groups_of` (a thing's groups and their parents) and
    `parents_of` (a group's) are set by its owner."""

    def __init__(self, ground: Ground, tags: Tags) -> None:
        self._ground = ground
        self._tags = tags
        self.kind = ground.kind("policy")
        self.targets = ground.links("policy-target")
        self._parsed: dict[str, Policy] = {}
        self.groups_of: Callable[[str], list[str]] = lambda thing: []
        self.parents_of: Callable[[str], list[str]] = lambda group: []

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreatePolicy": self.create,
            "GetPolicy": self.get,
            "DeletePolicy": self.delete,
            "ListPolicies": self.list_all,
            "CreatePolicyVersion": self.create_version,
            "GetPolicyVersion": self.get_version,
            "DeletePolicyVersion": self.delete_version,
            "ListPolicyVersions": self.list_versions,
            "SetDefaultPolicyVersion": self.set_default,
            "AttachPolicy": self.attach,
            "DetachPolicy": self.detach,
            "AttachPrincipalPolicy": self.attach_principal,
            "DetachPrincipalPolicy": self.detach_principal,
            "ListAttachedPolicies": self.list_attached,
            "ListPrincipalPolicies": self.list_of_principal,
            "ListTargetsForPolicy": self.list_targets,
            "ListPolicyPrincipals": self.list_principals,
        }

    # What other parts ask

    def arn(self, name: str) -> str:
        """The ARN of a policy."""
        return self._ground.arns.iot(f"policy/{name}")

    def find(self, name: str) -> Document:
        """A policy's document. Raises AwsError ResourceNotFoundException."""
        found = self.kind.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Policy not found (name: {name})", 404)
        return found

    def text(self, name: str) -> str:
        """The default version's policy document."""
        document = self.find(name)
        text: str = document["versions"][document["default"]]["document"]
        return text

    def parsed(self, name: str) -> Policy:
        """The default version, parsed."""
        policy = self._parsed.get(name)
        if policy is None:
            policy = self._parsed[name] = parse(self.text(name), name)
        return policy

    def in_force(self, principal_arn: str | None, thing: str | None) -> list[str]:
        """The names of the policies that speak for a principal which stands for a thing, or for none."""
        names = self.targets.of(principal_arn) if principal_arn else []
        for group in self.groups_of(thing) if thing else ():
            names += self.targets.of(self._ground.arns.iot(f"thinggroup/{group}"))
        return list(dict.fromkeys(names))

    def ensure(self, name: str, text: str) -> None:
        """Create a policy, or make `text` its default version when it differs."""
        present = self.kind.get(name)
        if present is None:
            self.create({"policyName": name, "policyDocument": text}, None)
        elif self.text(name) != text:
            version = dict(present["versions"][present["default"]], document=text)
            self._save({**present, "versions": {**present["versions"], present["default"]: version}})

    def _save(self, document: Document) -> None:
        self.kind.put(document["policyName"], document)
        self._parsed.pop(document["policyName"], None)
        self._ground.changed()

    # Policies

    def create(self, params: Params, context: CallContext | None) -> Document:
        """CreatePolicy."""
        name, text = params["policyName"], params["policyDocument"]
        if name in self.kind:
            raise AwsError(
                "ResourceAlreadyExistsException", f"Policy cannot be created - name already exists (name={name})", 409
            )
        checked(text, name)
        now = self._ground.clock()
        self._save(
            {
                "policyName": name,
                "default": "1",
                "next": 2,
                "creationDate": now,
                "lastModifiedDate": now,
                "generationId": sha256(self._ground.new_id().encode()).hexdigest(),
                "versions": {"1": {"document": text, "createDate": now}},
            }
        )
        self._tags.set(self.arn(name), params.get("tags"))
        return {"policyName": name, "policyArn": self.arn(name), "policyDocument": text, "policyVersionId": "1"}

    def get(self, params: Params, context: CallContext) -> Document:
        """GetPolicy."""
        document = self.find(params["policyName"])
        return {
            "policyName": document["policyName"],
            "policyArn": self.arn(document["policyName"]),
            "policyDocument": self.text(document["policyName"]),
            "defaultVersionId": document["default"],
            "creationDate": document["creationDate"],
            "lastModifiedDate": document["lastModifiedDate"],
            "generationId": document["generationId"],
        }

    def delete(self, params: Params, context: CallContext) -> None:
        """DeletePolicy: it may have no targets and no versions but the default one."""
        document = self.find(params["policyName"])
        name = document["policyName"]
        if self.targets.to(name):
            raise AwsError(
                "DeleteConflictException",
                f"The policy cannot be deleted as the policy is attached to one or more principals (name={name})",
                409,
            )
        if len(document["versions"]) > 1:
            raise AwsError(
                "DeleteConflictException", f"The policy has versions besides the default one (name={name})", 409
            )
        self.kind.delete(name)
        self._parsed.pop(name, None)
        self._tags.drop(self.arn(name))
        self._ground.changed()

    def _named(self, name: str) -> Document:
        return {"policyName": name, "policyArn": self.arn(name)}

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListPolicies."""
        return markers(map(self._named, self.kind.names()), params, "policies", key=_policy_name)

    # Versions

    def create_version(self, params: Params, context: CallContext) -> Document:
        """CreatePolicyVersion: at most five."""
        document = self.find(params["policyName"])
        text = params["policyDocument"]
        checked(text, params["policyName"])
        if len(document["versions"]) >= MAX_VERSIONS:
            raise AwsError(
                "VersionsLimitExceededException",
                f"The policy {params['policyName']} has {MAX_VERSIONS} versions already",
                409,
            )
        version = str(document["next"])
        now = self._ground.clock()
        is_default = bool(params.get("setAsDefault"))
        self._save(
            {
                **document,
                "next": document["next"] + 1,
                "lastModifiedDate": now,
                "default": version if is_default else document["default"],
                "versions": {**document["versions"], version: {"document": text, "createDate": now}},
            }
        )
        return {
            "policyArn": self.arn(params["policyName"]),
            "policyDocument": text,
            "policyVersionId": version,
            "isDefaultVersion": is_default,
        }

    def _version(self, params: Params) -> tuple[Document, Document]:
        document = self.find(params["policyName"])
        version = document["versions"].get(params["policyVersionId"])
        if version is None:
            raise AwsError(
                "ResourceNotFoundException",
                f"Policy version {params['policyVersionId']} not found (name: {params['policyName']})",
                404,
            )
        return document, version

    def get_version(self, params: Params, context: CallContext) -> Document:
        """GetPolicyVersion."""
        document, version = self._version(params)
        return {
            **self._named(document["policyName"]),
            "policyDocument": version["document"],
            "policyVersionId": params["policyVersionId"],
            "isDefaultVersion": document["default"] == params["policyVersionId"],
            "creationDate": version["createDate"],
            "lastModifiedDate": document["lastModifiedDate"],
            "generationId": document["generationId"],
        }

    def delete_version(self, params: Params, context: CallContext) -> None:
        """DeletePolicyVersion: not the default one."""
        document, _ = self._version(params)
        if document["default"] == params["policyVersionId"]:
            raise AwsError("DeleteConflictException", "Cannot delete the default version of a policy", 409)
        versions = {key: value for key, value in document["versions"].items() if key != params["policyVersionId"]}
        self._save({**document, "versions": versions})

    def list_versions(self, params: Params, context: CallContext) -> Document:
        """ListPolicyVersions, newest first."""
        document = self.find(params["policyName"])
        versions = [
            {"versionId": key, "isDefaultVersion": key == document["default"], "createDate": value["createDate"]}
            for key, value in sorted(document["versions"].items(), key=lambda pair: -int(pair[0]))
        ]
        return {"policyVersions": versions}

    def set_default(self, params: Params, context: CallContext) -> None:
        """SetDefaultPolicyVersion."""
        document, _ = self._version(params)
        self._save({**document, "default": params["policyVersionId"], "lastModifiedDate": self._ground.clock()})

    # Targets

    def _check_target(self, target: str) -> None:
        """A target is a certificate, a thing group or a Cognito identity (`region:uuid`)."""
        prefix = self._ground.arns.iot("")
        if target.startswith(prefix + "cert/"):
            kind, name = "certificate", target[len(prefix) + 5 :]
        elif target.startswith(prefix + "thinggroup/"):
            kind, name = "thing-group", target[len(prefix) + 11 :]
        elif ":" in target and not target.startswith("arn:"):
            return
        else:
            raise AwsError("InvalidRequestException", f"Invalid target {target}", 400)
        if name not in self._ground.kind(kind):
            raise AwsError("ResourceNotFoundException", f"The target {target} was not found.", 404)

    def attach_to(self, name: str, target: str) -> None:
        """Attach a policy to a target; twice is fine. Raises AwsError."""
        self.find(name)
        self._check_target(target)
        group = self._ground.kind("thing-group").get(target.rpartition(":thinggroup/")[2]) or {}
        if "queryString" in group:
            raise AwsError("InvalidRequestException", "Dynamic thing groups can't have policies.", 400)
        attached = self.targets.of(target)
        if name in attached:
            return
        if len(attached) >= MAX_PER_TARGET:
            raise AwsError("LimitExceededException", f"{MAX_PER_TARGET} policies are attached to {target} already", 410)
        self.targets.add(target, name)
        self._ground.changed()

    def _detach_from(self, name: str, target: str) -> None:
        self.targets.remove(target, name)
        self._ground.changed()

    def attach(self, params: Params, context: CallContext) -> None:
        """AttachPolicy."""
        self.attach_to(params["policyName"], params["target"])

    def detach(self, params: Params, context: CallContext) -> None:
        """DetachPolicy."""
        if params["policyName"] not in self.kind:
            raise AwsError("InvalidRequestException", f"Policy not found (name: {params['policyName']})", 400)
        self._detach_from(params["policyName"], params["target"])

    def attach_principal(self, params: Params, context: CallContext) -> None:
        """AttachPrincipalPolicy (deprecated by AWS, still used)."""
        self.attach_to(params["policyName"], params["principal"])

    def detach_principal(self, params: Params, context: CallContext) -> None:
        """DetachPrincipalPolicy."""
        self.find(params["policyName"])
        self._detach_from(params["policyName"], params["principal"])

    def list_attached(self, params: Params, context: CallContext) -> Document:
        """ListAttachedPolicies; `recursive` adds those of parent groups."""
        target = params["target"]
        self._check_target(target)
        names = self.targets.of(target)
        prefix = self._ground.arns.iot("thinggroup/")
        if params.get("recursive") and target.startswith(prefix):
            for parent in self.parents_of(target[len(prefix) :]):
                names += self.targets.of(prefix + parent)
        return markers(map(self._named, dict.fromkeys(names)), params, "policies", key=_policy_name)

    def list_of_principal(self, params: Params, context: CallContext) -> Document:
        """ListPrincipalPolicies."""
        self._check_target(params["principal"])
        names = self.targets.of(params["principal"])
        return markers(map(self._named, names), params, "policies", key=_policy_name)

    def list_targets(self, params: Params, context: CallContext) -> Document:
        """ListTargetsForPolicy."""
        self.find(params["policyName"])
        return markers(self.targets.to(params["policyName"]), params, "targets")

    def list_principals(self, params: Params, context: CallContext) -> Document:
        """ListPolicyPrincipals."""
        self.find(params["policyName"])
        return markers(self.targets.to(params["policyName"]), params, "principals")


def _policy_name(document: Document) -> str:
    name: str = document["policyName"]
    return name
