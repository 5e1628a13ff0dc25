"""CloudFormation's AWS::IoT types, made and made anew: what a template says, put through the `iot` API's own handlers.

A resource that is there already is brought to what the template says. Properties are PascalCase, as templates have
them.

Source: AWS CloudFormation user guide, "AWS IoT" resource types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from foreshore.errors import AwsError, Bug
from foreshore.http import Request
from foreshore.iot.control import Part
from foreshore.iot.policy_resources import PolicyResources
from foreshore.iot.registry import Registry
from foreshore.shapes.service_model import CallContext, OperationHandler

Properties = dict[str, Any]


class Resources:
    """Makes resources of templates. `parts` are the control plane's."""

    def __init__(self, parts: list[Part], registry: Registry, policies: PolicyResources) -> None:
        self._operations: dict[str, OperationHandler] = {}
        for part in parts:
            self._operations |= part.operations()
        self._registry = registry
        self._policies = policies
        self._makers: dict[str, Callable[[str, Properties], None]] = {
            "AWS::IoT::Thing": self._thing,
            "AWS::IoT::ThingType": self._thing_type,
            "AWS::IoT::ThingGroup": self._thing_group,
            "AWS::IoT::BillingGroup": self._billing_group,
            "AWS::IoT::Policy": self._policy,
            "AWS::IoT::RoleAlias": self._role_alias,
            "AWS::IoT::Authorizer": self._authorizer,
            "AWS::IoT::PolicyPrincipalAttachment": self._attach_policy,
            "AWS::IoT::ThingPrincipalAttachment": self._attach_thing,
        }

    def types(self) -> list[str]:
        """The CloudFormation types that can be made."""
        return sorted(self._makers)

    def make(self, resource_type: str, name: str, properties: Properties) -> None:
        """Make a resource or bring it up to date. Raises AwsError for what the API refuses."""
        maker = self._makers.get(resource_type)
        if maker is None:
            raise Bug(f"no maker for {resource_type}")
        maker(name, properties)

    def _call(self, operation: str, **params: Any) -> Any:
        given = {key: value for key, value in params.items() if value is not None}
        return self._operations[operation](given, _context(operation))

    def _create_or(self, create: str, update: str, params: dict[str, Any], changes: dict[str, Any]) -> None:
        """Create, or update when there is one that differs."""
        try:
            self._call(create, **params)
        except AwsError as error:
            if error.code != "ResourceAlreadyExistsException":
                raise
            self._call(update, **changes)

    def _thing(self, name: str, properties: Properties) -> None:
        attributes = (properties.get("AttributePayload") or {}).get("Attributes") or {}
        payload = {"attributes": {key: str(value) for key, value in attributes.items()}}
        params = {"thingName": name, "attributePayload": payload}
        self._create_or("CreateThing", "UpdateThing", params, params)

    def _thing_type(self, name: str, properties: Properties) -> None:
        given = properties.get("ThingTypeProperties") or {}
        described = {
            "thingTypeDescription": given.get("ThingTypeDescription"),
            "searchableAttributes": given.get("SearchableAttributes"),
        }
        kept = {key: value for key, value in described.items() if value is not None}
        params = {"thingTypeName": name, "thingTypeProperties": kept}
        self._create_or("CreateThingType", "UpdateThingType", {**params, "tags": properties.get("Tags")}, params)
        if properties.get("DeprecateThingType") is not None:
            self._call(
                "DeprecateThingType", thingTypeName=name, undoDeprecate=not _flag(properties["DeprecateThingType"])
            )

    def _thing_group(self, name: str, properties: Properties) -> None:
        given = properties.get("ThingGroupProperties") or {}
        attributes = (given.get("AttributePayload") or {}).get("Attributes") or {}
        described: dict[str, Any] = {"attributePayload": {"attributes": attributes}}
        if given.get("ThingGroupDescription") is not None:
            described["thingGroupDescription"] = given["ThingGroupDescription"]
        changes = {"thingGroupName": name, "thingGroupProperties": described}
        tags = properties.get("Tags")
        query = properties.get("QueryString")
        if query is not None:
            changes["queryString"] = query
            params = {**changes, "tags": tags}
            self._index_things()
            self._create_or("CreateDynamicThingGroup", "UpdateDynamicThingGroup", params, changes)
            return
        params = {**changes, "parentGroupName": properties.get("ParentGroupName"), "tags": tags}
        self._create_or("CreateThingGroup", "UpdateThingGroup", params, changes)

    def _index_things(self) -> None:
        """Switch indexing on where it is off: dynamic groups need it, and no template can say so."""
        kept = self._call("GetIndexingConfiguration")
        if kept["thingIndexingConfiguration"]["thingIndexingMode"] == "OFF":
            mode = {"thingIndexingMode": "REGISTRY_AND_SHADOW", "thingConnectivityIndexingMode": "STATUS"}
            self._call("UpdateIndexingConfiguration", thingIndexingConfiguration=mode)

    def _billing_group(self, name: str, properties: Properties) -> None:
        given = properties.get("BillingGroupProperties") or {}
        described = {}
        if given.get("BillingGroupDescription") is not None:
            described["billingGroupDescription"] = given["BillingGroupDescription"]
        params = {"billingGroupName": name, "billingGroupProperties": described}
        self._create_or("CreateBillingGroup", "UpdateBillingGroup", {**params, "tags": properties.get("Tags")}, params)

    def _policy(self, name: str, properties: Properties) -> None:
        document = properties["PolicyDocument"]
        text = document if isinstance(document, str) else orjson.dumps(document).decode()
        self._policies.ensure(name, text)

    def _role_alias(self, name: str, properties: Properties) -> None:
        params = {
            "roleAlias": name,
            "roleArn": properties["RoleArn"],
            "credentialDurationSeconds": _number(properties.get("CredentialDurationSeconds")),
        }
        self._create_or("CreateRoleAlias", "UpdateRoleAlias", {**params, "tags": properties.get("Tags")}, params)

    def _authorizer(self, name: str, properties: Properties) -> None:
        params = {
            "authorizerName": name,
            "authorizerFunctionArn": properties["AuthorizerFunctionArn"],
            "tokenKeyName": properties.get("TokenKeyName"),
            "tokenSigningPublicKeys": properties.get("TokenSigningPublicKeys"),
            "status": properties.get("Status", "ACTIVE"),
            "enableCachingForHttp": properties.get("EnableCachingForHttp"),
        }
        first = {**params, "signingDisabled": _flag(properties.get("SigningDisabled")), "tags": properties.get("Tags")}
        self._create_or("CreateAuthorizer", "UpdateAuthorizer", first, params)

    def _attach_policy(self, name: str, properties: Properties) -> None:
        self._policies.attach_to(properties["PolicyName"], properties["Principal"])

    def _attach_thing(self, name: str, properties: Properties) -> None:
        params = {"thingName": properties["ThingName"], "principal": properties["Principal"]}
        if properties.get("ThingPrincipalType"):
            params["thingPrincipalType"] = properties["ThingPrincipalType"]
        self._registry.attach(params)


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _flag(value: Any) -> bool:
    return value is True or str(value).lower() == "true"


def _context(operation: str) -> CallContext:
    """The context of a call that no request made."""
    return CallContext(operation, Request("POST", "/", []), "template")
