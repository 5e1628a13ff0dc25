"""What a resolved provisioning template makes: a thing, a certificate, a policy, and their attachments.

Things that are there already are changed as far as OverrideSettings say. Roles are not asked.

Source: AWS IoT developer guide, "Provisioning templates" (sections of a template's resources, OverrideSettings).
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

import orjson

from foreshore.errors import AwsError
from foreshore.iot.authority import Authority
from foreshore.iot.certificates import Certificates
from foreshore.iot.groups import ThingGroups
from foreshore.iot.policy_resources import PolicyResources
from foreshore.iot.provisioning_templates import Resolved, Resource, invalid
from foreshore.iot.registry import Registry
from foreshore.iot.store import Ground

Params = dict[str, Any]


class Provisioner:
    """Makes what templates say."""

    def __init__(
        self,
        ground: Ground,
        authority: Authority,
        certificates: Certificates,
        registry: Registry,
        policies: PolicyResources,
        groups: ThingGroups,
    ) -> None:
        self._ground = ground
        self._authority = authority
        self._certificates = certificates
        self._registry = registry
        self._policies = policies
        self._groups = groups

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._ground.clock(), UTC)

    def provision(self, resolved: Resolved) -> dict[str, str]:
        """Make a template's resources and attach them; gives ARNs by logical id. Raises AwsError.

        Names, groups and policies are looked at before the first resource is made. The thing is made before the
        certificate becomes ACTIVE; a later refusal leaves it there.
        """
        self._check(resolved)
        arns: dict[str, str] = {}
        certificate = thing = None
        if resolved.thing is not None:
            thing = self._thing(resolved.thing)
            arns[resolved.thing.logical_id] = self._registry.arn(thing)
        if resolved.certificate is not None:
            certificate = arns[resolved.certificate.logical_id] = self._certificate(resolved.certificate)
        if resolved.policy is not None:
            policy = self._policy(resolved.policy)
            arns[resolved.policy.logical_id] = self._policies.arn(policy)
            if certificate is not None:
                self._policies.attach_to(policy, certificate)
        if thing is not None and certificate is not None:
            self._registry.attach({"thingName": thing, "principal": certificate})
        return arns

    def _check(self, resolved: Resolved) -> None:
        if resolved.policy is not None:
            properties = resolved.policy.properties
            if properties.get("PolicyName") and not properties.get("PolicyDocument"):
                self._policies.find(properties["PolicyName"])
            elif not properties.get("PolicyDocument"):
                raise invalid("A policy needs PolicyName or PolicyDocument.")
        if resolved.thing is None:
            return
        properties = resolved.thing.properties
        name = properties.get("ThingName")
        if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z0-9:_-]{1,128}", name):
            raise invalid("ThingName is missing or not valid.")
        attributes, groups = properties.get("AttributePayload") or {}, properties.get("ThingGroups") or []
        if not isinstance(attributes, dict) or not all(isinstance(each, str) for each in attributes.values()):
            raise invalid("AttributePayload has to be a map of strings.")
        if not isinstance(groups, list) or not all(isinstance(each, str) for each in groups):
            raise invalid("ThingGroups has to be a list of strings.")
        for group in groups:
            self._groups.find(group)
        if name in self._registry.things and "FAIL" in resolved.thing.overrides.values():
            raise AwsError("ResourceConflictsException", f"Thing {name} exists already.", 409)

    def _certificate(self, resource: Resource) -> str:
        """The ARN of the certificate that a template names, registers or has signed."""
        properties = resource.properties
        status = str(properties.get("Status", "ACTIVE")).upper()
        if status not in ("ACTIVE", "INACTIVE"):
            raise invalid(f"A certificate's Status can't be {status}.")
        if properties.get("CertificateId"):
            document = self._certificates.find(properties["CertificateId"])
            is_new = document["status"] == "PENDING_ACTIVATION"
            mode = resource.overrides.get("Status", "DO_NOTHING")
            if not is_new and mode == "FAIL" and document["status"] != status:
                raise AwsError("ResourceConflictsException", "The certificate has another status.", 409)
            if is_new or mode == "REPLACE":
                self._certificates.update({"certificateId": document["certificateId"], "newStatus": status}, None)
            return self._certificates.arn(document["certificateId"])
        if properties.get("CertificateSigningRequest"):
            issued = self._authority.sign_request(properties["CertificateSigningRequest"], self._now())
            self._certificates.store(issued.certificate, issued.certificate_id, status)
            return self._certificates.arn(issued.certificate_id)
        if properties.get("CertificatePem"):
            given = {"certificatePem": properties["CertificatePem"], "status": status}
            if properties.get("CACertificatePem"):
                given["caCertificatePem"] = properties["CACertificatePem"]
            return str(self._certificates.register(given, None)["certificateArn"])
        raise invalid("A certificate needs CertificateId, CertificateSigningRequest or CertificatePem.")

    def _policy(self, resource: Resource) -> str:
        """The policy's name; a document without one is named by its SHA-256."""
        document = resource.properties.get("PolicyDocument")
        if not document:
            return str(resource.properties["PolicyName"])
        text = document if isinstance(document, str) else orjson.dumps(document).decode()
        name = resource.properties.get("PolicyName") or hashlib.sha256(text.encode()).hexdigest()
        if name not in self._policies.kind:
            self._policies.create({"policyName": name, "policyDocument": text}, None)
        return str(name)

    def _thing(self, resource: Resource) -> str:
        properties = resource.properties
        name = str(properties["ThingName"])
        attributes = properties.get("AttributePayload") or {}
        groups = list(properties.get("ThingGroups") or ())
        if name not in self._registry.things:
            given = {"thingName": name, "attributePayload": {"attributes": attributes}}
            optional = {"thingTypeName": "ThingTypeName", "billingGroupName": "BillingGroup"}
            given |= {key: properties[source] for key, source in optional.items() if properties.get(source)}
            self._registry.create(given)
        else:
            self._override(name, resource, attributes)
            mode = resource.overrides.get("ThingGroups", "DO_NOTHING")
            if mode == "REPLACE":
                gone = [each for each in self._groups.direct_of(name) if each not in groups]
                self._groups.update_of_thing({"thingName": name, "thingGroupsToRemove": gone}, None)
            elif mode != "MERGE":
                groups = []
        for group in groups:
            self._groups.put_into(name, group)
        return name

    def _override(self, name: str, resource: Resource, attributes: dict[str, str]) -> None:
        """Change a thing that is there, as far as OverrideSettings say; without them it stays as it is."""
        change: Params = {"thingName": name}
        mode = resource.overrides.get("AttributePayload", "DO_NOTHING")
        if mode in ("REPLACE", "MERGE"):
            change["attributePayload"] = {"attributes": attributes, "merge": mode == "MERGE"}
        kind = resource.properties.get("ThingTypeName")
        if kind and resource.overrides.get("ThingTypeName") == "REPLACE":
            change["thingTypeName"] = kind
        if len(change) > 1:
            self._registry.update(change, None)
