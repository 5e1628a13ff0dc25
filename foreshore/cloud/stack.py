"""One template deployed on this machine. Shell.

The resources that a room owns are made by that room (`Provisioner`); the rest go as one stack to the backend's own
CloudFormation. Names and ARNs of ours are worked out before anything is made, so references may point either way.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode
from xml.etree import ElementTree

from foreshore.cloud.backend import Backend
from foreshore.cloud.templates import Resolver, Unknown
from foreshore.errors import UserError
from foreshore.http import Request, Response

Json = Any
DEPLOY_SECONDS = 120.0


class Provisioner(Protocol):
    """What the rooms can make: CloudFormation types to identity (known beforehand) and creation."""

    def owns(self, resource_type: str) -> bool:
        """Whether a room makes this type."""
        ...

    def refusal(self, resource_type: str, properties: Mapping[str, Json]) -> str:
        """Why a type can't be had here, or an empty text."""
        ...

    def identity(self, stack: Stack, logical_id: str, resource_type: str, name: Json) -> dict[str, Json]:
        """The Ref value under "Ref" and the attributes of GetAtt, before the resource is made."""
        ...

    async def create(self, stack: Stack, logical_id: str, resource_type: str, properties: dict[str, Json]) -> None:
        """Make or update the resource."""
        ...


_NAME_PROPERTIES = {
    "AWS::Lambda::Function": "FunctionName",
    "AWS::IoT::TopicRule": "RuleName",
    "AWS::IoT::Thing": "ThingName",
    "AWS::IoT::ThingType": "ThingTypeName",
    "AWS::IoT::ThingGroup": "ThingGroupName",
    "AWS::IoT::Policy": "PolicyName",
    "AWS::IoT::BillingGroup": "BillingGroupName",
    "AWS::IoT::RoleAlias": "RoleAlias",
    "AWS::IoT::Authorizer": "AuthorizerName",
}


# The backend would give these a random name, and another one after a crash: ours are stable.
_BACKEND_NAMES = {
    "AWS::DynamoDB::Table": "TableName",
    "AWS::IAM::Role": "RoleName",
    "AWS::Kinesis::Stream": "Name",
    "AWS::S3::Bucket": "BucketName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SQS::Queue": "QueueName",
    "AWS::SecretsManager::Secret": "Name",
    "AWS::StepFunctions::StateMachine": "StateMachineName",
}


class Stack:
    """A deployed template: `identities` of our resources, `outputs`, `exports` by their names, and what the backend's
    stack gave."""

    def __init__(self, name: str, path: Path, template: dict[str, Json], region: str, account: str) -> None:
        self.name = name
        self.path = path
        self.template = template
        self.region = region
        self.account = account
        self.identities: dict[str, dict[str, Json]] = {}
        self.backend_values: dict[str, Json] = {}
        self.outputs: dict[str, Json] = {}
        self.exports: dict[str, Json] = {}
        self.resolver: Resolver
        self._wanted_values: set[tuple[str, str | None]] = set()
        self._backend_part: dict[str, Json] = {}

    @property
    def folder(self) -> Path:
        """The folder that local paths in the template are relative to."""
        return self.path.parent

    def physical_name(self, logical_id: str, separator: str = "-") -> str:
        """`<stack>-<logical id>-<12 letters>`, as CloudFormation names a resource without a name; stable here."""
        digest = hashlib.sha256(f"{self.name}/{logical_id}".encode()).hexdigest()[:12].upper()
        name = separator.join((self.name, logical_id, digest))
        return re.sub(r"[^A-Za-z0-9]+", separator, name)[-128:] if separator == "_" else name

    async def deploy(
        self,
        parameters: Mapping[str, Json],
        provisioner: Provisioner,
        backend: Backend | None,
        imports: Mapping[str, Json] | None = None,
    ) -> None:
        """Make every resource. `imports` is what earlier stacks export, for Fn::ImportValue.

        Raises UserError naming the template and the resource.
        """
        pseudo = {
            "AWS::Region": self.region,
            "AWS::AccountId": self.account,
            "AWS::Partition": "aws",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::StackName": self.name,
            "AWS::StackId": f"arn:aws:cloudformation:{self.region}:{self.account}:stack/{self.name}/local",
            "AWS::NotificationARNs": "",
        }
        self.resolver = Resolver(
            self.template, where=str(self.path), parameters=parameters, pseudo=pseudo, lookup=self._lookup,
            imports=imports,
        )  # fmt: skip
        resources = {name: r for name, r in self.template["Resources"].items() if self.resolver.is_wanted(name)}
        ours = {name: r for name, r in resources.items() if provisioner.owns(r.get("Type", ""))}
        theirs = {name: r for name, r in resources.items() if name not in ours}
        self._refuse_unsupported(theirs, provisioner)
        self._identify(ours, provisioner)
        self._identify_buckets(theirs)
        await self._deploy_backend(theirs, ours, backend)
        for logical_id in self._in_order(ours):
            resource = ours[logical_id]
            try:
                properties = self.resolver.resolve(resource.get("Properties") or {})
                await provisioner.create(self, logical_id, resource["Type"], properties)
            except Unknown as error:
                raise UserError(
                    f"resource {logical_id} needs {error}, which nobody gave", code="template", where=str(self.path)
                ) from error
            except UserError as error:
                if not error.where:
                    error.where = f"{self.path}: {logical_id}"
                raise
        self._resolve_outputs(imports or {})

    def _refuse_unsupported(self, theirs: Mapping[str, Json], provisioner: Provisioner) -> None:
        for logical_id, resource in theirs.items():
            kind = resource.get("Type")
            if not isinstance(kind, str):
                raise UserError(f"resource {logical_id} has no Type", code="template", where=str(self.path))
            why = provisioner.refusal(kind, resource.get("Properties") or {})
            if why:
                raise UserError(
                    f"resource {logical_id} ({kind}): {why}",
                    code="not-emulated",
                    where=str(self.path),
                    mend="put a Condition on it that is false on a laptop, or see docs/parity.md",
                )

    def _identify(self, ours: Mapping[str, Json], provisioner: Provisioner) -> None:
        for logical_id, resource in ours.items():
            kind = resource["Type"]
            name: Json = None
            key = _NAME_PROPERTIES.get(kind)
            if key and key in (resource.get("Properties") or {}):
                try:
                    name = self.resolver.resolve(resource["Properties"][key])
                except Unknown:
                    name = None
            self.identities[logical_id] = provisioner.identity(self, logical_id, kind, name)

    def _identify_buckets(self, theirs: Mapping[str, Json]) -> None:
        """A bucket's values follow from its name; its objects outlive a crash of the backend, so it may be there."""
        for logical_id, resource in theirs.items():
            if resource["Type"] == "AWS::S3::Bucket":
                name = self._backend_properties(logical_id, resource)["BucketName"]
                self.identities[logical_id] = {
                    "Ref": name,
                    "Arn": f"arn:aws:s3:::{name}",
                    "DomainName": f"{name}.s3.amazonaws.com",
                    "RegionalDomainName": f"{name}.s3.{self.region}.amazonaws.com",
                    "DualStackDomainName": f"{name}.s3.dualstack.{self.region}.amazonaws.com",
                    "WebsiteURL": f"http://{name}.s3-website-{self.region}.amazonaws.com",
                }

    def _lookup(self, logical_id: str, attribute: str | None) -> Json:
        if logical_id in self.identities:
            values = self.identities[logical_id]
            key = attribute or "Ref"
            if key not in values:
                raise UserError(
                    f"resource {logical_id} has no attribute {attribute}", code="template", where=str(self.path)
                )
            return values[key]
        key = _value_key(logical_id, attribute)
        if key not in self.backend_values:
            self._wanted_values.add((logical_id, attribute))
            raise Unknown(logical_id if attribute is None else f"{logical_id}.{attribute}")
        return self.backend_values[key]

    def _in_order(self, ours: Mapping[str, Json]) -> list[str]:
        """Depended-on first; CloudFormation refuses cycles, and so do we."""
        needs = {
            name: (self.resolver.references(resource.get("Properties")) | _depends_on(resource)) & set(ours)
            for name, resource in ours.items()
        }
        ordered: list[str] = []
        while len(ordered) < len(ours):
            ready = [name for name in ours if name not in ordered and needs[name] <= {*ordered, name}]
            if not ready:
                stuck = ", ".join(sorted(set(ours) - set(ordered)))
                raise UserError(
                    f"resources depend on one another in a circle: {stuck}", code="template", where=str(self.path)
                )
            ordered += ready
        return ordered

    async def _deploy_backend(
        self, theirs: Mapping[str, Json], ours: Mapping[str, Json], backend: Backend | None
    ) -> None:
        if not theirs:
            return
        if backend is None:
            raise UserError(
                "this template needs the backend", code="template", where=str(self.path), mend="start without --only"
            )
        part: dict[str, Json] = {"Resources": {}, "Outputs": {}}
        for logical_id, resource in theirs.items():
            kept = {key: value for key, value in resource.items() if key not in ("Condition", "DependsOn")}
            kept["Properties"] = self._backend_properties(logical_id, resource)
            # References to buckets are filled in, so their order has to be said.
            needs = self.resolver.references(resource.get("Properties") or {}) & set(self.identities)
            depends = sorted((_depends_on(resource) | needs) & set(theirs) - {logical_id})
            part["Resources"][logical_id] = {**kept, **({"DependsOn": depends} if depends else {})}
        self._wanted_values.clear()
        outputs = self.template.get("Outputs") or {}
        for value in [*(r.get("Properties") for r in ours.values()), *(o.get("Value") for o in outputs.values())]:
            self._want(value)
        for logical_id, attribute in sorted(self._wanted_values, key=str):
            if logical_id in theirs:
                value = {"Ref": logical_id} if attribute is None else {"Fn::GetAtt": [logical_id, attribute]}
                part["Outputs"][_value_key(logical_id, attribute)] = {"Value": value}
        self._backend_part = part
        self.backend_values = await _deploy_stack(backend, self.name, part, self.region)

    async def deploy_backend_again(self, backend: Backend) -> None:
        """Make the backend's resources anew after it lost them; the names stay, so nothing of ours changes."""
        if self._backend_part:
            self.backend_values = await _deploy_stack(backend, self.name, self._backend_part, self.region)

    def bucket_name(self, logical_id: str) -> str:
        """The name of a bucket that the backend made for this stack."""
        return str(self._backend_part["Resources"][logical_id]["Properties"]["BucketName"])

    def _backend_properties(self, logical_id: str, resource: Mapping[str, Json]) -> dict[str, Json]:
        properties: dict[str, Json] = self.resolver.resolve_known(resource.get("Properties") or {})
        name = _BACKEND_NAMES.get(resource["Type"])
        if name is not None and name not in properties:
            physical = self.physical_name(logical_id)
            if name == "BucketName":
                physical = physical.lower()[-63:].strip("-")
            elif name == "RoleName":
                physical = physical[-64:]
            elif name == "QueueName" and properties.get("FifoQueue"):
                physical += ".fifo"
            properties[name] = physical
        return properties

    def _want(self, value: Json) -> None:
        """Note which of the backend's values a property needs (each failed look-up notes itself)."""
        if isinstance(value, dict):
            for item in value.values():
                self._want(item)
        elif isinstance(value, list):
            for item in value:
                self._want(item)
        try:
            self.resolver.resolve(value)
        except Unknown:
            pass

    def _resolve_outputs(self, taken: Mapping[str, Json]) -> None:
        for name, output in (self.template.get("Outputs") or {}).items():
            condition = output.get("Condition")
            if condition is not None and not self.resolver.condition(condition):
                continue
            self.outputs[name] = self.resolver.resolve(output.get("Value"))
            if output.get("Export"):
                export = str(self.resolver.resolve(output["Export"].get("Name")))
                if export in taken or export in self.exports:
                    raise UserError(
                        f"output {name}: an export {export} exists already", code="template", where=str(self.path),
                        mend="an export's name is unique among the stacks of a region",
                    )  # fmt: skip
                self.exports[export] = self.outputs[name]


def _depends_on(resource: Mapping[str, Json]) -> set[str]:
    value = resource.get("DependsOn") or []
    return {value} if isinstance(value, str) else set(value)


def _value_key(logical_id: str, attribute: str | None) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", f"{logical_id}X{attribute or 'Ref'}")


async def _call(backend: Backend, region: str, action: str, **parameters: str) -> tuple[int, ElementTree.Element]:
    """One CloudFormation query call to the backend. Raises UserError when the answer is not XML."""
    credential = f"foreshore/20200101/{region}/cloudformation/aws4_request"
    scope = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0"
    headers = [
        (b"Host", b"cloudformation.amazonaws.com"),
        (b"Content-Type", b"application/x-www-form-urlencoded"),
        (b"Authorization", scope.encode()),
    ]
    body = urlencode({"Action": action, "Version": "2010-05-15", **parameters}).encode()
    response: Response = await backend.forward(Request("POST", "/", headers, body))
    assert isinstance(response.body, bytes)
    try:
        root = ElementTree.fromstring(response.body)
    except ElementTree.ParseError as error:
        raise UserError(
            "the backend has no CloudFormation", code="backend", mend="use a backend that has it, such as MiniStack"
        ) from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return response.status, root


async def _deploy_stack(backend: Backend, name: str, part: dict[str, Json], region: str) -> dict[str, Json]:
    """Create or update the backend's stack, wait for its end, and give its outputs."""
    body = json.dumps(part, sort_keys=True)
    status, root = await _call(backend, region, "DescribeStacks", StackName=name)
    state = root.findtext(".//StackStatus") or ""
    exists = status == 200 and state != "" and not state.startswith("DELETE_COMPLETE")
    if not exists:
        body = json.dumps(await _without_buckets_that_are_there(backend, region, part), sort_keys=True)
    action = "UpdateStack" if exists else "CreateStack"
    status, root = await _call(
        backend, region, action, StackName=name, TemplateBody=body, **{"Capabilities.member.1": "CAPABILITY_NAMED_IAM"}
    )
    message = root.findtext(".//Message") or ""
    if status != 200 and "No updates" not in message:
        raise UserError(f"the backend refused stack {name}: {message}", code="template")
    deadline = time.monotonic() + DEPLOY_SECONDS
    delay = 0.005
    while True:
        _, root = await _call(backend, region, "DescribeStacks", StackName=name)
        state = root.findtext(".//StackStatus") or ""
        if not state.endswith("_IN_PROGRESS") or time.monotonic() > deadline:
            break
        await asyncio.sleep(delay)
        delay = min(delay * 1.5, 0.25)
    if "ROLLBACK" in state or "FAILED" in state or state.endswith("_IN_PROGRESS"):
        raise UserError(
            f"the backend's stack {name} ended as {state}: {await _failure(backend, region, name)}", code="template"
        )
    return {
        str(output.findtext("OutputKey")): output.findtext("OutputValue") or ""
        for output in root.iterfind(".//Outputs/member")
    }


async def _without_buckets_that_are_there(backend: Backend, region: str, part: dict[str, Json]) -> dict[str, Json]:
    """A backend that was killed keeps its objects and forgets its stacks: such a bucket is taken over, not made."""
    there = set()
    for logical_id, resource in part["Resources"].items():
        if resource["Type"] == "AWS::S3::Bucket":
            credential = f"foreshore/20200101/{region}/s3/aws4_request"
            headers = [
                (b"Host", b"127.0.0.1"),
                (
                    b"Authorization",
                    f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0".encode(),
                ),
            ]
            answer = await backend.forward(Request("HEAD", f"/{resource['Properties']['BucketName']}", headers))
            if answer.status == 200:
                there.add(logical_id)
    if not there:
        return part
    kept = {}
    for logical_id, resource in part["Resources"].items():
        if logical_id not in there:
            depends = [name for name in resource.get("DependsOn", ()) if name not in there]
            rest = {key: value for key, value in resource.items() if key != "DependsOn"}
            kept[logical_id] = {**rest, **({"DependsOn": depends} if depends else {})}
    return {**part, "Resources": kept}


async def _failure(backend: Backend, region: str, name: str) -> str:
    _, root = await _call(backend, region, "DescribeStackEvents", StackName=name)
    reasons = [
        f"{event.findtext('LogicalResourceId')}: {event.findtext('ResourceStatusReason')}"
        for event in root.iterfind(".//StackEvents/member")
        if (event.findtext("ResourceStatus") or "").endswith("FAILED") and event.findtext("ResourceStatusReason")
    ]
    return "; ".join(reasons) or "no reason given"
