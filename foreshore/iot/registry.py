"""The thing registry: things, thing types and the principals that stand for things.

It does not know groups (`groups.py`) nor certificates' states (`certificates.py`).

Source: AWS IoT API reference, the thing operations; limits: AWS IoT Core quotas (3 attributes without, 50 with a type).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foreshore.errors import AwsError
from foreshore.iot.listing import tokens
from foreshore.iot.registry_events import RegistryEvents
from foreshore.iot.store import Document, Ground, Tags
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
UNTYPED_ATTRIBUTES = 3
TYPED_ATTRIBUTES = 50


def merged_attributes(old: dict[str, str], payload: Document | None) -> dict[str, str]:
    """Apply an attributePayload: `merge` keeps the others; an empty value removes one."""
    if payload is None:
        return old
    given = payload.get("attributes", {})
    merged = {**old, **given} if payload.get("merge") else dict(given)
    return {key: value for key, value in merged.items() if value != ""}


class Registry:
    """The thing half of the control plane. `on_change(thing name)` is told of every change."""

    def __init__(self, ground: Ground, tags: Tags) -> None:
        self._ground = ground
        self._tags = tags
        self.things = ground.kind("thing")
        self.types = ground.kind("thing-type")
        self.billing = ground.kind("billing-group")
        self.principals = ground.links("thing-principal")
        self.on_change: Callable[[str], None] = lambda thing: None
        self.events: RegistryEvents | None = None

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateThing": self.create,
            "DescribeThing": self.describe,
            "UpdateThing": self.update,
            "DeleteThing": self.delete,
            "ListThings": self.list_all,
            "CreateThingType": self.create_type,
            "DescribeThingType": self.describe_type,
            "UpdateThingType": self.update_type,
            "DeprecateThingType": self.deprecate_type,
            "DeleteThingType": self.delete_type,
            "ListThingTypes": self.list_types,
            "AttachThingPrincipal": self.attach,
            "DetachThingPrincipal": self.detach,
            "ListThingPrincipals": self.list_principals,
            "ListThingPrincipalsV2": self.list_principals_v2,
            "ListPrincipalThings": self.list_things_of,
            "ListPrincipalThingsV2": self.list_things_of_v2,
        }

    # Things

    def arn(self, name: str) -> str:
        """The ARN of a thing."""
        return self._ground.arns.iot(f"thing/{name}")

    def find(self, name: str) -> Document:
        """A thing's document. Raises AwsError ResourceNotFoundException."""
        found = self.things.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Thing {name} not found.", 404)
        return found

    def _check(self, type_name: str | None, attributes: dict[str, str], *, is_new: bool = True) -> None:
        if type_name is not None and is_new:
            found = self._find_type(type_name)
            if found.get("deprecated"):
                raise AwsError("InvalidRequestException", f"Thing type {type_name} is deprecated", 400)
        limit = UNTYPED_ATTRIBUTES if type_name is None else TYPED_ATTRIBUTES
        if len(attributes) > limit:
            raise AwsError("InvalidRequestException", f"At most {limit} attributes are allowed for this thing.", 400)

    def create(self, params: Params, context: CallContext | None = None) -> Document:
        """CreateThing; the same thing again is fine, another of its name is not."""
        name = params["thingName"]
        attributes = merged_attributes({}, params.get("attributePayload"))
        type_name, group = params.get("thingTypeName"), params.get("billingGroupName")
        present = self.things.get(name)
        if present is not None:
            same = (present["attributes"], present.get("thingTypeName")) == (attributes, type_name)
            if not same:
                extra = {"resourceId": present["thingId"], "resourceArn": self.arn(name)}
                raise AwsError(
                    "ResourceAlreadyExistsException",
                    f"Thing {name} already exists in account with different attributes",
                    409,
                    extra,
                )
            return self._created(present)
        self._check(type_name, attributes)
        if group is not None and group not in self.billing:
            raise AwsError("ResourceNotFoundException", f"Billing group {group} not found.", 404)
        document = {
            "thingName": name,
            "thingId": self._ground.new_id(),
            "thingTypeName": type_name,
            "attributes": attributes,
            "version": 1,
            "billingGroupName": group,
        }
        self.things.put(name, document)
        self._changed(name)
        if self.events is not None:
            self.events.thing("CREATED", document)
            if type_name is not None:
                self.events.type_association("ADDED", document, type_name)
        return self._created(document)

    def _changed(self, name: str, *, principals: bool = False) -> None:
        """Access may differ when the thing has principals, or had until now."""
        if principals or self.principals.of(name):
            self._ground.changed()
        self.on_change(name)

    def _created(self, document: Document) -> Document:
        name = document["thingName"]
        return {"thingName": name, "thingArn": self.arn(name), "thingId": document["thingId"]}

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeThing."""
        document = self.find(params["thingName"])
        name = document["thingName"]
        return {**document, "thingArn": self.arn(name), "defaultClientId": name}

    def update(self, params: Params, context: CallContext | None) -> None:
        """UpdateThing."""
        document = self.find(params["thingName"])
        self._check_version(document, params)
        type_name = params.get("thingTypeName", document.get("thingTypeName"))
        if params.get("removeThingType"):
            if "thingTypeName" in params:
                raise AwsError("InvalidRequestException", "Can not set and remove the thing type at once.", 400)
            type_name = None
        attributes = merged_attributes(document["attributes"], params.get("attributePayload"))
        is_new = type_name != document.get("thingTypeName")
        self._check(type_name, attributes, is_new=is_new)
        self.save({**document, "thingTypeName": type_name, "attributes": attributes})

    def save(self, document: Document) -> None:
        """Keep a changed thing with the next version."""
        before = self.things.get(document["thingName"])
        document = {**document, "version": document["version"] + 1}
        self.things.put(document["thingName"], document)
        self._changed(document["thingName"])
        if self.events is None:
            return
        self.events.thing("UPDATED", document)
        old, new = (before or {}).get("thingTypeName"), document.get("thingTypeName")
        if old != new and old:
            self.events.type_association("REMOVED", document, old)
        if old != new and new:
            self.events.type_association("ADDED", document, new)

    def _check_version(self, document: Document, params: Params) -> None:
        expected = params.get("expectedVersion")
        if expected is not None and expected != document["version"]:
            raise AwsError(
                "VersionConflictException",
                f"The version for {document['thingName']} does not match the expected version.",
                409,
            )

    def delete(self, params: Params, context: CallContext | None = None) -> None:
        """DeleteThing: none by that name is fine; one with principals is not."""
        name = params["thingName"]
        document = self.things.get(name)
        if document is None:
            return
        self._check_version(document, params)
        if self.principals.of(name):
            raise AwsError(
                "InvalidRequestException",
                f"Cannot delete. Thing {name} is still attached to one or more principals",
                400,
            )
        self.things.delete(name)
        self._ground.links("group-thing").drop_to(name)
        self._changed(name)
        if self.events is not None:
            self.events.thing("DELETED", document)

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListThings, by attribute (its value or its beginning) and type."""
        names = ("thingName", "thingTypeName", "attributes", "version")
        shown = (
            {**{key: each.get(key) for key in names}, "thingArn": self.arn(each["thingName"])}
            for each in self.things.values()
            if _selected(each, params)
        )
        return tokens(shown, params, "things", key=_thing_name, default=50)

    # Types

    def _find_type(self, name: str) -> Document:
        found = self.types.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Thing type {name} not found.", 404)
        return found

    def _type_event(self, operation: str, document: Document) -> None:
        if self.events is not None:
            self.events.thing_type(operation, document)

    def _type_arn(self, name: str) -> str:
        return self._ground.arns.iot(f"thingtype/{name}")

    def create_type(self, params: Params, context: CallContext) -> Document:
        """CreateThingType."""
        name = params["thingTypeName"]
        properties = params.get("thingTypeProperties", {})
        present = self.types.get(name)
        if present is not None and _comparable(present["properties"]) != _comparable(properties):
            extra = {"resourceId": present["thingTypeId"], "resourceArn": self._type_arn(name)}
            raise AwsError(
                "ResourceAlreadyExistsException",
                f"ThingType {name} already exists in account with different properties",
                409,
                extra,
            )
        if present is None:
            present = {
                "thingTypeName": name,
                "thingTypeId": self._ground.new_id(),
                "properties": properties,
                "creationDate": self._ground.clock(),
                "deprecated": False,
            }
            self.types.put(name, present)
            self._tags.set(self._type_arn(name), params.get("tags"))
            self._type_event("CREATED", present)
        return {"thingTypeName": name, "thingTypeArn": self._type_arn(name), "thingTypeId": present["thingTypeId"]}

    def _type_view(self, document: Document) -> Document:
        metadata = {key: document[key] for key in ("deprecated", "deprecationDate", "creationDate") if key in document}
        return {
            "thingTypeName": document["thingTypeName"],
            "thingTypeArn": self._type_arn(document["thingTypeName"]),
            "thingTypeProperties": document["properties"],
            "thingTypeMetadata": metadata,
        }

    def describe_type(self, params: Params, context: CallContext) -> Document:
        """DescribeThingType."""
        document = self._find_type(params["thingTypeName"])
        return {**self._type_view(document), "thingTypeId": document["thingTypeId"]}

    def update_type(self, params: Params, context: CallContext) -> None:
        """UpdateThingType."""
        document = self._find_type(params["thingTypeName"])
        properties = {**document["properties"], **params.get("thingTypeProperties", {})}
        document = {**document, "properties": properties}
        self.types.put(document["thingTypeName"], document)
        self._type_event("UPDATED", document)

    def deprecate_type(self, params: Params, context: CallContext) -> None:
        """DeprecateThingType, or its undoing."""
        document = dict(self._find_type(params["thingTypeName"]))
        document["deprecated"] = not params.get("undoDeprecate", False)
        document.pop("deprecationDate", None)
        if document["deprecated"]:
            document["deprecationDate"] = self._ground.clock()
        self.types.put(document["thingTypeName"], document)
        self._type_event("UPDATED", document)

    def delete_type(self, params: Params, context: CallContext) -> None:
        """DeleteThingType: five minutes after its deprecation, and without things."""
        document = self._find_type(params["thingTypeName"])
        name = document["thingTypeName"]
        if not document["deprecated"]:
            raise AwsError(
                "InvalidRequestException", f"Can not delete thing type: {name}. Please deprecate it first.", 400
            )
        if self._ground.clock() - document["deprecationDate"] < 300:
            raise AwsError(
                "InvalidRequestException",
                f"Can not delete thing type: {name}. Please wait for 5 minutes after deprecation and then retry.",
                400,
            )
        if any(each.get("thingTypeName") == name for each in self.things.values()):
            raise AwsError(
                "InvalidRequestException",
                f"Can not delete thing type: {name}. Things are still associated with it.",
                400,
            )
        self.types.delete(name)
        self._tags.drop(self._type_arn(name))
        self._type_event("DELETED", document)

    def list_types(self, params: Params, context: CallContext) -> Document:
        """ListThingTypes, all or the one named."""
        wanted = params.get("thingTypeName")
        shown = [self._type_view(each) for each in self.types.values() if wanted in (None, each["thingTypeName"])]
        return tokens(shown, params, "thingTypes", key=_type_name)

    # Principals

    def _check_principal(self, principal: str) -> None:
        prefix = self._ground.arns.iot("cert/")
        if principal.startswith(prefix):
            if principal[len(prefix) :] not in self._ground.kind("certificate"):
                raise AwsError("ResourceNotFoundException", f"The principal {principal} does not exist.", 404)
        elif principal.startswith("arn:") or ":" not in principal:
            raise AwsError(
                "InvalidRequestException", f"{principal} is no certificate ARN and no Cognito identity.", 400
            )

    def attach(self, params: Params, context: CallContext | None = None) -> None:
        """AttachThingPrincipal. An exclusive principal belongs to one thing alone."""
        thing, principal = params["thingName"], params["principal"]
        self.find(thing)
        self._check_principal(principal)
        kind = params.get("thingPrincipalType") or "NON_EXCLUSIVE_THING"
        others = [each for each in self.principals.to(principal) if each != thing]
        taken = any(self.principals.note(each, principal) == "EXCLUSIVE_THING" for each in others)
        if taken or (others and kind == "EXCLUSIVE_THING"):
            raise AwsError(
                "InvalidRequestException",
                "The principal is attached to another thing, and one of them exclusively.",
                400,
            )
        self.principals.add(thing, principal, kind)
        self._changed(thing, principals=True)

    def detach(self, params: Params, context: CallContext | None = None) -> None:
        """DetachThingPrincipal."""
        self.find(params["thingName"])
        self.principals.remove(params["thingName"], params["principal"])
        self._changed(params["thingName"], principals=True)

    def list_principals(self, params: Params, context: CallContext) -> Document:
        """ListThingPrincipals."""
        if params["thingName"] not in self.things:
            text = "because the thing does not exist in your account"
            raise AwsError("ResourceNotFoundException", f"Failed to list principals for thing {params['thingName']} {text}", 404)  # fmt: skip  # noqa: E501
        return tokens(self.principals.of(params["thingName"]), params, "principals")

    def list_principals_v2(self, params: Params, context: CallContext) -> Document:
        """ListThingPrincipalsV2."""
        thing = params["thingName"]
        self.find(thing)
        pairs = ((each, self.principals.note(thing, each)) for each in self.principals.of(thing))
        shown = [{"principal": a, "thingPrincipalType": b} for a, b in pairs if _kind_fits(params, b)]
        return tokens(shown, params, "thingPrincipalObjects", key=lambda each: str(each["principal"]))

    def list_things_of(self, params: Params, context: CallContext) -> Document:
        """ListPrincipalThings."""
        return tokens(self.principals.to(params["principal"]), params, "things")

    def list_things_of_v2(self, params: Params, context: CallContext) -> Document:
        """ListPrincipalThingsV2."""
        principal = params["principal"]
        pairs = ((each, self.principals.note(each, principal)) for each in self.principals.to(principal))
        shown = [{"thingName": a, "thingPrincipalType": b} for a, b in pairs if _kind_fits(params, b)]
        return tokens(shown, params, "principalThingObjects", key=_thing_name)

    def thing_of(self, principal_arn: str, client_id: str | None) -> Document | None:
        """The thing a principal stands for: the one named by the client id, or the one it belongs to exclusively."""
        attached = self.principals.to(principal_arn)
        if client_id in attached:
            return self.things.get(client_id) if client_id is not None else None
        if len(attached) == 1 and self.principals.note(attached[0], principal_arn) == "EXCLUSIVE_THING":
            return self.things.get(attached[0])
        return None


def _kind_fits(params: Params, kind: str) -> bool:
    wanted = params.get("thingPrincipalType")
    return wanted is None or wanted == kind


def _thing_name(document: Document) -> str:
    return str(document["thingName"])


def _type_name(document: Document) -> str:
    return str(document["thingTypeName"])


def _selected(thing: Document, params: Params) -> bool:
    if "thingTypeName" in params and thing.get("thingTypeName") != params["thingTypeName"]:
        return False
    if "attributeName" in params:
        value = thing["attributes"].get(params["attributeName"])
        wanted = params.get("attributeValue")
        if value is None or wanted is None:
            return value is not None
        return bool(value.startswith(wanted)) if params.get("usePrefixAttributeValue") else bool(value == wanted)
    return True


def _comparable(properties: Document) -> Document:
    """A type's properties; the order of searchable attributes means nothing."""
    return {**properties, "searchableAttributes": sorted(properties.get("searchableAttributes") or ())}
