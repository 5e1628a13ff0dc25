"""Core devices of the greengrassv2 API: status, installed components, client devices, connectivity, tags.

Source: AWS IoT Greengrass V2 API reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from foreshore.errors import AwsError
from foreshore.greengrass.cloud.deployments import ThingsOf, no_core, read_target
from foreshore.greengrass.cloud.store import Ground, Item
from foreshore.shapes.service_model import CallContext, OperationHandler, Params, paginate

_RESOURCE = re.compile(r":greengrass:[^:]*:[^:]*:(?P<rest>.+)$")


class Cores:
    """The core devices that connected, as they were when last seen."""

    def __init__(self, ground: Ground, things_of: ThingsOf) -> None:
        self._ground = ground
        self._store = ground.store
        self._things_of = things_of
        self.connectivity_listeners: list[Callable[[str], None]] = []

    def operations(self) -> dict[str, OperationHandler]:
        """The operations by name."""
        return {
            "ListCoreDevices": self.list_cores,
            "GetCoreDevice": self.get,
            "DeleteCoreDevice": self.delete,
            "ListInstalledComponents": self.list_installed,
            "BatchAssociateClientDeviceWithCoreDevice": self.associate,
            "BatchDisassociateClientDeviceFromCoreDevice": self.disassociate,
            "ListClientDevicesAssociatedWithCoreDevice": self.list_associated,
            "GetConnectivityInfo": self.get_connectivity,
            "UpdateConnectivityInfo": self.update_connectivity,
            "AssociateServiceRoleToAccount": self.associate_role,
            "DisassociateServiceRoleFromAccount": self.disassociate_role,
            "GetServiceRoleForAccount": self.get_role,
            "ListTagsForResource": self.list_tags,
            "TagResource": self.tag,
            "UntagResource": self.untag,
        }

    def seen(self, thing: str, facts: Item, installed: list[Item], *, is_report: bool = False) -> None:
        """Keep what a core says of itself, when it changed or is a report. `installed` is `CoreHandle.components`.

        A core reports when it starts, when it took a deployment and when a component is BROKEN (API reference,
        GetCoreDevice); what changes between two reports is seen here too.
        """
        known = self._store.get("core", thing) or {}
        now = self._ground.clock()
        before = {each["componentName"]: each for each in known.get("installed", [])}
        for each in installed:
            old = before.get(each["componentName"], {})
            is_same = {key: old.get(key) for key in each} == each
            each["lastStatusChangeTimestamp"] = old["lastStatusChangeTimestamp"] if is_same else now
        is_broken = any(each["lifecycleState"] == "BROKEN" for each in installed)
        fresh = {**facts, "status": "UNHEALTHY" if is_broken else "HEALTHY", "installed": installed}
        if is_report or {key: known.get(key) for key in fresh} != fresh:
            core = {"coreDeviceThingName": thing, "tags": {}, "sources": {}, **known, "lastStatusUpdateTimestamp": now}
            self._store.put("core", thing, {**core, **fresh})

    def installed_by(self, thing: str, deployment: str, names: Iterable[str]) -> None:
        """A deployment has brought components to a core, or kept them there."""
        core = self.find(thing)
        core.setdefault("sources", {}).update(dict.fromkeys(names, deployment))
        self._store.put("core", thing, core)

    def find(self, thing: str) -> Item:
        """One core. Raises AwsError ResourceNotFoundException."""
        found = self._store.get("core", thing)
        if found is None:
            raise no_core(thing)
        return found

    def get(self, params: Params, context: CallContext) -> Params:
        """GetCoreDevice."""
        core = self.find(params["coreDeviceThingName"])
        return {key: value for key, value in core.items() if key not in ("installed", "sources")}

    def list_cores(self, params: Params, context: CallContext) -> Params:
        """ListCoreDevices, by status, runtime, and a thing group whose deployment they carried out, members or not."""
        items = self._store.all("core")
        if params.get("thingGroupArn"):
            self._things_of(*read_target(params["thingGroupArn"]))
            done = {each["thing"] for each in self._store.all("group-core", params["thingGroupArn"] + " ")}
            items = [each for each in items if each["coreDeviceThingName"] in done]
        for name in ("status", "runtime"):
            if params.get(name):
                items = [each for each in items if each[name] == params[name]]
        page, token = paginate(
            items, params.get("nextToken"), params.get("maxResults"), key=lambda each: str(each["coreDeviceThingName"]),
            code="ValidationException",
        )  # fmt: skip
        keys = ("coreDeviceThingName", "status", "lastStatusUpdateTimestamp", "platform", "architecture", "runtime")
        return {"coreDevices": [{key: each[key] for key in keys} for each in page], "nextToken": token}

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteCoreDevice: a core that is connected comes back with its next status."""
        thing = self.find(params["coreDeviceThingName"])["coreDeviceThingName"]
        with self._store.database.transaction():
            self._store.delete("core", thing)
            for each in self._store.all("association", f"{thing}/"):
                self._store.delete("association", f"{thing}/{each['thingName']}")

    def list_installed(self, params: Params, context: CallContext) -> Params:
        """ListInstalledComponents; by default the root components only."""
        core = self.find(params["coreDeviceThingName"])
        sources, reported = core.get("sources", {}), core["lastStatusUpdateTimestamp"]
        items = [
            {
                **each,
                "lastReportedTimestamp": reported,
                "lastInstallationSource": sources.get(each["componentName"], "LOCAL"),
            }
            for each in core["installed"]
        ]
        if params.get("topologyFilter", "ROOT") == "ROOT":
            items = [each for each in items if each["isRoot"]]
        page, token = paginate(
            sorted(items, key=lambda each: str(each["componentName"])), params.get("nextToken"),
            params.get("maxResults"), key=lambda each: str(each["componentName"]), code="ValidationException",
        )  # fmt: skip
        return {"installedComponents": page, "nextToken": token}

    # Client devices

    def associate(self, params: Params, context: CallContext) -> Params:
        """BatchAssociateClientDeviceWithCoreDevice; a thing that is not there is an error entry."""
        core = self.find(params["coreDeviceThingName"])["coreDeviceThingName"]
        errors = []
        for entry in params.get("entries") or []:
            thing = entry["thingName"]
            try:
                self._things_of("thing", thing)
            except AwsError as error:
                errors.append({"thingName": thing, "code": error.code, "message": error.message})
                continue
            item = {"thingName": thing, "associationTimestamp": self._ground.clock()}
            self._store.put("association", f"{core}/{thing}", item)
        return {"errorEntries": errors}

    def disassociate(self, params: Params, context: CallContext) -> Params:
        """BatchDisassociateClientDeviceFromCoreDevice."""
        core = self.find(params["coreDeviceThingName"])["coreDeviceThingName"]
        errors = []
        for entry in params.get("entries") or []:
            key = f"{core}/{entry['thingName']}"
            if self._store.get("association", key) is None:
                message = f"{entry['thingName']} is not associated with {core}."
                errors.append({**entry, "code": "ResourceNotFoundException", "message": message})
            self._store.delete("association", key)
        return {"errorEntries": errors}

    def list_associated(self, params: Params, context: CallContext) -> Params:
        """ListClientDevicesAssociatedWithCoreDevice."""
        core = self.find(params["coreDeviceThingName"])["coreDeviceThingName"]
        page, token = paginate(
            self._store.all("association", f"{core}/"), params.get("nextToken"), params.get("maxResults"),
            key=lambda each: str(each["thingName"]), code="ValidationException",
        )  # fmt: skip
        return {"associatedClientDevices": page, "nextToken": token}

    def associated(self, core: str) -> list[str]:
        """The client devices of a core, by name."""
        return [each["thingName"] for each in self._store.all("association", f"{core}/")]

    def cores_of(self, client: str) -> list[str]:
        """The cores that a client device is associated with, by name."""
        names = [each["coreDeviceThingName"] for each in self._store.all("core")]
        return [name for name in names if self._store.get("association", f"{name}/{client}") is not None]

    # Connectivity

    def connectivity(self, thing: str) -> list[Item]:
        """Where client devices reach a core, as UpdateConnectivityInfo said; empty when nobody said."""
        found = self._store.get("connectivity", thing)
        return found["connectivityInfo"] if found is not None else []

    def get_connectivity(self, params: Params, context: CallContext) -> Params:
        """GetConnectivityInfo of a core's thing."""
        thing = params["thingName"]
        self._things_of("thing", thing)
        return {"connectivityInfo": self.connectivity(thing)}

    def update_connectivity(self, params: Params, context: CallContext) -> Params:
        """UpdateConnectivityInfo: replaces what was there."""
        thing = params["thingName"]
        self._things_of("thing", thing)
        version = self._ground.new_id()
        entries = [
            {key.lower()[:1] + key[1:]: value for key, value in entry.items()} for entry in params["connectivityInfo"]
        ]
        self._store.put("connectivity", thing, {"connectivityInfo": entries, "version": version})
        for tell in self.connectivity_listeners:
            tell(thing)
        return {"version": version, "message": "Connectivity info updated."}

    # The account's service role: kept and shown; local cores need none.

    def associate_role(self, params: Params, context: CallContext) -> Params:
        """AssociateServiceRoleToAccount."""
        at = _utc(self._ground.clock())
        self._store.put("service-role", "", {"roleArn": params["roleArn"], "associatedAt": at})
        return {"associatedAt": at}

    def disassociate_role(self, params: Params, context: CallContext) -> Params:
        """DisassociateServiceRoleFromAccount."""
        self._store.delete("service-role", "")
        return {"disassociatedAt": _utc(self._ground.clock())}

    def get_role(self, params: Params, context: CallContext) -> Params:
        """GetServiceRoleForAccount."""
        found = self._store.get("service-role", "")
        if found is None:
            raise AwsError("ResourceNotFoundException", "The account has no Greengrass service role.", 404,
                           {"resourceId": "service-role", "resourceType": "ServiceRole"})  # fmt: skip
        return found

    # Tags

    def _tagged(self, arn: str) -> tuple[str, str, Item]:
        match = _RESOURCE.search(arn)
        parts = match["rest"].split(":") if match else []
        kinds = {"components": "component", "deployments": "deployment", "coreDevices": "core"}
        kind = kinds.get(parts[0], "") if parts else ""
        key = ":".join(parts[1:]).replace(":versions:", ":")
        item = self._store.get(kind, key) if kind else None
        if item is None:
            extra = {"resourceId": arn, "resourceType": "Resource"}
            raise AwsError("ResourceNotFoundException", f"{arn} does not exist.", 404, extra)
        return kind, key, item

    def list_tags(self, params: Params, context: CallContext) -> Params:
        """ListTagsForResource, of component versions, deployments and core devices."""
        return {"tags": self._tagged(params["resourceArn"])[2]["tags"]}

    def tag(self, params: Params, context: CallContext) -> None:
        """TagResource."""
        kind, key, item = self._tagged(params["resourceArn"])
        self._store.put(kind, key, {**item, "tags": {**item["tags"], **params["tags"]}})

    def untag(self, params: Params, context: CallContext) -> None:
        """UntagResource."""
        kind, key, item = self._tagged(params["resourceArn"])
        left = {name: value for name, value in item["tags"].items() if name not in params["tagKeys"]}
        self._store.put(kind, key, {**item, "tags": left})


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
