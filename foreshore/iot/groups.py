"""Thing groups: static ones in a tree, dynamic ones by query, and billing groups.

A thing's policies come from its groups and their parents. A dynamic group's members are whatever its query finds, asked
anew each time; on AWS the index follows within seconds.

Source: AWS IoT API reference, the thing group operations; developer guide, "Static thing groups", "Dynamic thing
groups"; quotas: a thing is in at most 10 groups, a tree is at most 7 deep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foreshore.errors import AwsError
from foreshore.iot.listing import tokens
from foreshore.iot.registry import Registry, merged_attributes
from foreshore.iot.search import QUERY_VERSION, check_query_version, parse_query
from foreshore.iot.search import Document as Indexed
from foreshore.iot.store import Document, Ground, Tags
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
MAX_GROUPS_OF_THING = 10
MAX_DEPTH = 7
DEFAULT_INDEX = "AWS_Things"


class ThingGroups:
    """The group half of the control plane. `indexed` gives a thing as the fleet index holds it."""

    def __init__(self, ground: Ground, tags: Tags, registry: Registry, indexed: Callable[[str], Indexed]) -> None:
        self._ground = ground
        self._tags = tags
        self._registry = registry
        self._indexed = indexed
        self.kind = ground.kind("thing-group")
        self.members = ground.links("group-thing")

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateThingGroup": self.create,
            "CreateDynamicThingGroup": self.create_dynamic,
            "DescribeThingGroup": self.describe,
            "UpdateThingGroup": self.update,
            "UpdateDynamicThingGroup": self.update_dynamic,
            "DeleteThingGroup": self.delete,
            "DeleteDynamicThingGroup": self.delete,
            "ListThingGroups": self.list_all,
            "AddThingToThingGroup": self.add,
            "RemoveThingFromThingGroup": self.remove,
            "UpdateThingGroupsForThing": self.update_of_thing,
            "ListThingsInThingGroup": self.list_things,
            "ListThingGroupsForThing": self.list_of_thing,
        }

    # What other parts ask

    def arn(self, name: str) -> str:
        """The ARN of a group."""
        return self._ground.arns.iot(f"thinggroup/{name}")

    def find(self, name: str) -> Document:
        """A group's document. Raises AwsError ResourceNotFoundException."""
        found = self.kind.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Thing group {name} not found.", 404)
        return found

    def parents_of(self, name: str) -> list[str]:
        """The groups above one, nearest first."""
        parents: list[str] = []
        group = self.kind.get(name)
        while group is not None and group.get("parent"):
            parents.append(group["parent"])
            group = self.kind.get(group["parent"])
        return parents

    def children_of(self, name: str, *, recursive: bool) -> list[str]:
        """The groups below one."""
        found = [each["thingGroupName"] for each in self.kind.values() if each.get("parent") == name]
        if recursive:
            for child in list(found):
                found += self.children_of(child, recursive=True)
        return found

    def direct_of(self, thing: str) -> list[str]:
        """The groups a thing is in, static and dynamic."""
        found = self.members.to(thing)
        dynamic = [each for each in self.kind.values() if "queryString" in each]
        if dynamic and thing in self._registry.things:
            indexed = self._indexed(thing)
            found += [each["thingGroupName"] for each in dynamic if parse_query(each["queryString"])(indexed)]
        return sorted(found)

    def all_of(self, thing: str) -> list[str]:
        """The groups a thing is in and all above them: those whose policies are in force for it."""
        direct = self.direct_of(thing)
        return list(dict.fromkeys([*direct, *(parent for name in direct for parent in self.parents_of(name))]))

    def things_in(self, name: str, *, recursive: bool = False) -> list[str]:
        """The things of a group, and of those below it."""
        group = self.find(name)
        found = set(self.members.of(name))
        if "queryString" in group:
            query = parse_query(group["queryString"])
            found |= {thing for thing in self._registry.things.names() if query(self._indexed(thing))}
        if recursive:
            for child in self.children_of(name, recursive=True):
                found |= set(self.members.of(child))
        return sorted(found)

    def has_dynamic(self) -> bool:
        """Whether there is a dynamic group."""
        return any("queryString" in each for each in self.kind.values())

    # Groups

    def _create(self, params: Params, document: Document) -> Document:
        name = params["thingGroupName"]
        present = self.kind.get(name)
        if present is not None:
            same = all(present.get(key) == value for key, value in document.items())
            if not same:
                extra = {"resourceId": present["thingGroupId"], "resourceArn": self.arn(name)}
                text = f"Thing Group {name} already exists in current account with different properties"
                raise AwsError("ResourceAlreadyExistsException", text, 409, extra)
        else:
            present = {
                **document,
                "thingGroupName": name,
                "thingGroupId": self._ground.new_id(),
                "version": 1,
                "creationDate": self._ground.clock(),
            }
            self.kind.put(name, present)
            self._tags.set(self.arn(name), params.get("tags"))
            self._ground.changed()
            self._event("CREATED", present)
            self._hierarchy_event("ADDED", present)
        return {"thingGroupName": name, "thingGroupArn": self.arn(name), "thingGroupId": present["thingGroupId"]}

    def create(self, params: Params, context: CallContext) -> Document:
        """CreateThingGroup."""
        parent = params.get("parentGroupName")
        if parent is not None:
            above = self.kind.get(parent)
            if above is None:
                raise AwsError("InvalidRequestException", f"The parent thing group {parent} does not exist.", 400)
            if "queryString" in above:
                raise AwsError("InvalidRequestException", "A dynamic group can't be a parent.", 400)
            if len(self.parents_of(parent)) + 2 > MAX_DEPTH:
                raise AwsError("InvalidRequestException", f"A tree of groups is at most {MAX_DEPTH} deep.", 400)
        document = {**_properties({}, params.get("thingGroupProperties")), "parent": parent}
        return self._create(params, document)

    def ensure(self, name: str) -> None:
        """Make a static group of that name unless there is one."""
        if name not in self.kind:
            self._create({"thingGroupName": name}, {**_properties({}, None), "parent": None})

    def create_dynamic(self, params: Params, context: CallContext) -> Document:
        """CreateDynamicThingGroup."""
        check_query_version(params)
        parse_query(params["queryString"])
        self._check_index(params.get("indexName"))
        if not is_indexing_on(self._ground):
            text = "Fleet indexing has to be on before dynamic thing groups are made."
            raise AwsError("InvalidRequestException", text, 400)
        query = {
            "queryString": params["queryString"],
            "indexName": params.get("indexName", DEFAULT_INDEX),
            "queryVersion": params.get("queryVersion", QUERY_VERSION),
        }
        made = self._create(params, {**_properties({}, params.get("thingGroupProperties")), **query})
        return {**made, **query}

    def _check_index(self, name: str | None) -> None:
        if name not in (None, DEFAULT_INDEX):
            raise AwsError("InvalidRequestException", f"A dynamic group's index has to be {DEFAULT_INDEX}.", 400)

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeThingGroup."""
        group = self.find(params["thingGroupName"])
        name = group["thingGroupName"]
        parents = self.parents_of(name)[::-1]
        answer: Document = {
            "thingGroupName": name,
            "thingGroupId": group["thingGroupId"],
            "thingGroupArn": self.arn(name),
            "version": group["version"],
            "thingGroupProperties": {
                "thingGroupDescription": group.get("description"),
                **({"attributePayload": {"attributes": group["attributes"]}} if group["attributes"] else {}),
            },
            "thingGroupMetadata": {
                "parentGroupName": group.get("parent"),
                "rootToParentThingGroups": [self._named(each) for each in parents] or None,
                "creationDate": group["creationDate"],
            },
        }
        if "queryString" in group:
            answer |= {key: group[key] for key in ("queryString", "indexName", "queryVersion")}
            answer["status"] = "ACTIVE"
        return answer

    def _named(self, name: str) -> Document:
        return {"groupName": name, "groupArn": self.arn(name)}

    def update(self, params: Params, context: CallContext) -> Document:
        """UpdateThingGroup."""
        group = self.find(params["thingGroupName"])
        if "queryString" in group:
            raise AwsError("InvalidRequestException", "This is a dynamic group: use UpdateDynamicThingGroup.", 400)
        return self._update(group, params)

    def _update(self, group: Document, params: Params) -> Document:
        check_version(group, params)
        changed = {**group, **_properties(group, params["thingGroupProperties"]), "version": group["version"] + 1}
        self.kind.put(group["thingGroupName"], changed)
        self._ground.changed()
        self._event("UPDATED", changed)
        return {"version": changed["version"]}

    def update_dynamic(self, params: Params, context: CallContext) -> Document:
        """UpdateDynamicThingGroup."""
        group = self.find(params["thingGroupName"])
        if "queryString" not in group:
            raise AwsError("InvalidRequestException", "This is a static group.", 400)
        check_query_version(params)
        if "queryString" in params:
            parse_query(params["queryString"])
        self._check_index(params.get("indexName"))
        names = ("queryString", "indexName", "queryVersion")
        return self._update({**group, **{key: params[key] for key in names if key in params}}, params)

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteThingGroup and DeleteDynamicThingGroup; none by that name is fine, one with children is not."""
        name = params["thingGroupName"]
        group = self.kind.get(name)
        if group is None:
            return
        if (context.operation == "DeleteDynamicThingGroup") != ("queryString" in group):
            raise AwsError("InvalidRequestException", f"{name} is a group of the other kind.", 400)
        check_version(group, params)
        if self.children_of(name, recursive=False):
            raise AwsError("InvalidRequestException", f"Cannot delete thing group : {name} when there are still child groups attached to it.", 400)  # fmt: skip  # noqa: E501
        self.kind.delete(name)
        self.members.drop(name)
        self._ground.links("policy-target").drop(self.arn(name))
        self._tags.drop(self.arn(name))
        self._ground.changed()
        self._hierarchy_event("REMOVED", group)
        self._event("DELETED", group)

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListThingGroups: all, those below a parent, or by the beginning of the name."""
        parent = params.get("parentGroup")
        if parent is not None:
            self.find(parent)
            names = sorted(self.children_of(parent, recursive=bool(params.get("recursive"))))
        else:
            top_only = params.get("recursive") is False
            names = [each["thingGroupName"] for each in self.kind.values() if not top_only or not each.get("parent")]
        prefix = params.get("namePrefixFilter", "")
        shown = [self._named(name) for name in names if name.startswith(prefix)]
        return tokens(shown, params, "thingGroups", key=_group_name)

    # Members

    def add(self, params: Params, context: CallContext) -> None:
        """AddThingToThingGroup."""
        self.put_into(named_by(params, "thing"), named_by(params, "thingGroup"))

    def put_into(self, thing: str, name: str) -> None:
        """Put a thing into a static group; twice is fine. Raises AwsError."""
        self._registry.find(thing)
        group = self.find(name)
        if "queryString" in group:
            raise AwsError("InvalidRequestException", "Things can't be added to a dynamic group.", 400)
        present = self.members.to(thing)
        if name in present:
            return
        if len(present) >= MAX_GROUPS_OF_THING:
            text = f"Thing {thing} is in {MAX_GROUPS_OF_THING} groups already"
            raise AwsError("InvalidRequestException", text, 400)
        root = ([name, *self.parents_of(name)])[-1]
        for other in present:
            if ([other, *self.parents_of(other)])[-1] == root:
                text = f"Thing {thing} is already in group {other} of the same hierarchy"
                raise AwsError("InvalidRequestException", text, 400)
        self.members.add(name, thing)
        self._membership_changed("ADDED", name, thing)

    def _event(self, operation: str, group: Document) -> None:
        if self._registry.events is not None:
            # Of the document, not of its name: a deleted group has no entry any more.
            above = [group["parent"], *self.parents_of(group["parent"])] if group.get("parent") else []
            self._registry.events.group(operation, group, [self.find(each) for each in above])

    def _hierarchy_event(self, operation: str, group: Document) -> None:
        if self._registry.events is not None and group.get("parent"):
            self._registry.events.hierarchy(operation, self.find(group["parent"]), group)

    def _membership_changed(self, operation: str, name: str, thing: str) -> None:
        self._ground.changed()
        self._registry.on_change(thing)
        if self._registry.events is not None:
            self._registry.events.membership(operation, self.find(name), self._registry.find(thing))

    def remove(self, params: Params, context: CallContext) -> None:
        """RemoveThingFromThingGroup."""
        thing, name = named_by(params, "thing"), named_by(params, "thingGroup")
        self._registry.find(thing)
        self._take_from(thing, name)

    def _take_from(self, thing: str, name: str) -> None:
        self.find(name)
        if self.members.remove(name, thing):
            self._membership_changed("REMOVED", name, thing)

    def update_of_thing(self, params: Params, context: CallContext | None) -> None:
        """UpdateThingGroupsForThing."""
        thing = params.get("thingName", "")
        self._registry.find(thing)
        for name in params.get("thingGroupsToRemove", []):
            self._take_from(thing, name)
        for name in params.get("thingGroupsToAdd", []):
            self.put_into(thing, name)

    def list_things(self, params: Params, context: CallContext) -> Document:
        """ListThingsInThingGroup."""
        things = self.things_in(params["thingGroupName"], recursive=bool(params.get("recursive")))
        return tokens(things, params, "things")

    def list_of_thing(self, params: Params, context: CallContext) -> Document:
        """ListThingGroupsForThing."""
        self._registry.find(params["thingName"])
        shown = [self._named(name) for name in self.direct_of(params["thingName"])]
        return tokens(shown, params, "thingGroups", key=_group_name)


class BillingGroups:
    """Billing groups: a thing is in one at most."""

    def __init__(self, ground: Ground, tags: Tags, registry: Registry) -> None:
        self._ground = ground
        self._tags = tags
        self._registry = registry
        self.kind = ground.kind("billing-group")

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateBillingGroup": self.create,
            "DescribeBillingGroup": self.describe,
            "UpdateBillingGroup": self.update,
            "DeleteBillingGroup": self.delete,
            "ListBillingGroups": self.list_all,
            "AddThingToBillingGroup": self.add,
            "RemoveThingFromBillingGroup": self.remove,
            "ListThingsInBillingGroup": self.list_things,
        }

    def _arn(self, name: str) -> str:
        return self._ground.arns.iot(f"billinggroup/{name}")

    def _find(self, name: str) -> Document:
        found = self.kind.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Billing group {name} not found.", 404)
        return found

    def create(self, params: Params, context: CallContext) -> Document:
        """CreateBillingGroup."""
        name = params["billingGroupName"]
        properties = params.get("billingGroupProperties", {})
        present = self.kind.get(name)
        if present is not None and present["properties"] != properties:
            extra = {"resourceId": present["billingGroupId"], "resourceArn": self._arn(name)}
            raise AwsError("ResourceAlreadyExistsException", f"Billing group {name} already exists.", 409, extra)
        if present is None:
            present = {
                "billingGroupName": name,
                "billingGroupId": self._ground.new_id(),
                "properties": properties,
                "version": 1,
                "creationDate": self._ground.clock(),
            }
            self.kind.put(name, present)
            self._tags.set(self._arn(name), params.get("tags"))
        made = {"billingGroupName": name, "billingGroupArn": self._arn(name)}
        return {**made, "billingGroupId": present["billingGroupId"]}

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeBillingGroup."""
        found = self._find(params["billingGroupName"])
        return {
            "billingGroupName": found["billingGroupName"],
            "billingGroupId": found["billingGroupId"],
            "billingGroupArn": self._arn(found["billingGroupName"]),
            "version": found["version"],
            "billingGroupProperties": found["properties"],
            "billingGroupMetadata": {"creationDate": found["creationDate"]},
        }

    def update(self, params: Params, context: CallContext) -> Document:
        """UpdateBillingGroup."""
        found = self._find(params["billingGroupName"])
        check_version(found, params)
        version = found["version"] + 1
        changed = {**found, "properties": params["billingGroupProperties"], "version": version}
        self.kind.put(found["billingGroupName"], changed)
        return {"version": version}

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteBillingGroup; things in it are in none afterwards."""
        name = params["billingGroupName"]
        found = self.kind.get(name)
        if found is None:
            return
        check_version(found, params)
        for thing in self._things(name):
            self._registry.save({**self._registry.find(thing), "billingGroupName": None})
        self.kind.delete(name)
        self._tags.drop(self._arn(name))

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListBillingGroups."""
        prefix = params.get("namePrefixFilter", "")
        names = [name for name in self.kind.names() if name.startswith(prefix)]
        shown = [{"groupName": name, "groupArn": self._arn(name)} for name in names]
        return tokens(shown, params, "billingGroups", key=_group_name)

    def add(self, params: Params, context: CallContext) -> None:
        """AddThingToBillingGroup: it leaves the one it was in."""
        thing = self._registry.find(named_by(params, "thing"))
        name = named_by(params, "billingGroup")
        self._find(name)
        self._registry.save({**thing, "billingGroupName": name})

    def remove(self, params: Params, context: CallContext) -> None:
        """RemoveThingFromBillingGroup."""
        thing = self._registry.find(named_by(params, "thing"))
        if thing.get("billingGroupName") == named_by(params, "billingGroup"):
            self._registry.save({**thing, "billingGroupName": None})

    def _things(self, name: str) -> list[str]:
        return [each["thingName"] for each in self._registry.things.values() if each.get("billingGroupName") == name]

    def list_things(self, params: Params, context: CallContext) -> Document:
        """ListThingsInBillingGroup."""
        self._find(params["billingGroupName"])
        return tokens(self._things(params["billingGroupName"]), params, "things")


def named_by(params: Params, what: str) -> str:
    """The name of a resource that is given by name or by ARN. Raises AwsError."""
    if f"{what}Name" in params:
        name: str = params[f"{what}Name"]
        return name
    if f"{what}Arn" in params:
        return str(params[f"{what}Arn"]).rpartition("/")[2]
    raise AwsError("InvalidRequestException", f"Either {what}Name or {what}Arn is required.", 400)


def is_indexing_on(ground: Ground) -> bool:
    """Whether things are indexed (UpdateIndexingConfiguration)."""
    configuration = (ground.kind("setting").get("indexing") or {}).get("thingIndexingConfiguration") or {}
    return bool(configuration.get("thingIndexingMode", "OFF") != "OFF")


def check_version(document: Document, params: Params) -> None:
    """Raises AwsError VersionConflictException unless the expected version is the present one."""
    expected = params.get("expectedVersion")
    if expected is not None and expected != document["version"]:
        raise AwsError("VersionConflictException", f"The version {expected} is not the present one.", 409)


def _group_name(each: Document) -> str:
    return str(each["groupName"])


def _properties(old: Document, properties: Document | None) -> Document:
    given = properties or {}
    return {
        "description": given.get("thingGroupDescription", old.get("description")),
        "attributes": merged_attributes(old.get("attributes", {}), given.get("attributePayload")),
    }
