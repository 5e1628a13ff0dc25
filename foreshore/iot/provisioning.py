"""Provisioning of devices: templates, claims, RegisterThing, the MQTT API of fleet provisioning, just-in-time (JITP).

A device that holds a claim certificate asks for keys or sends a CSR, gets a certificate that is PENDING_ACTIVATION and
an ownership token for one hour, and has a template make its thing. `tick` is to be called about once a second: it
deletes claims and certificates whose time is over. Roles (provisioningRoleArn) are kept, not asked.

Sources: AWS IoT developer guide, "Provisioning devices that don't have device certificates using fleet provisioning",
"Device provisioning MQTT API", "Pre-provisioning hooks", "Just-in-time provisioning"; API reference.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import orjson
from cryptography import x509
from cryptography.x509.oid import NameOID

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.authority import Authority, Issued
from foreshore.iot.certificate_providers import CertificateProviders
from foreshore.iot.certificates import Certificates
from foreshore.iot.job_rollouts import Bus
from foreshore.iot.listing import tokens
from foreshore.iot.policy_resources import PolicyResources
from foreshore.iot.provisioning_resources import Provisioner
from foreshore.iot.provisioning_templates import invalid, parse, resolve
from foreshore.iot.store import Document, Ground, Tags
from foreshore.seams import Invoke, Publication
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
TOKEN_S = 3600
"""Seconds an ownership token, and a certificate that no template has taken, last."""

CLAIM_S = 300
"""Seconds a trusted user's claim certificate lasts (CreateProvisioningClaim)."""

MAX_VERSIONS = 5
HOOK_PAYLOAD = "2020-04-01"
FILTERS = ("$aws/certificates/create/+", "$aws/certificates/create-from-csr/+", "$aws/provisioning-templates/+/provision/+")  # fmt: skip  # noqa: E501
_REQUEST = re.compile(r"\$aws/(?:certificates/(create|create-from-csr)|provisioning-templates/([^/]+)/provision)/(json|cbor)$")  # fmt: skip  # noqa: E501
_SUBJECT = (
    ("Country", NameOID.COUNTRY_NAME),
    ("Organization", NameOID.ORGANIZATION_NAME),
    ("OrganizationalUnit", NameOID.ORGANIZATIONAL_UNIT_NAME),
    ("DistinguishedNameQualifier", NameOID.DN_QUALIFIER),
    ("StateName", NameOID.STATE_OR_PROVINCE_NAME),
    ("CommonName", NameOID.COMMON_NAME),
    ("SerialNumber", NameOID.SERIAL_NUMBER),
)


_OF_REGISTER_THING = {"InvalidRequestException", "ResourceConflictsException", "NotEmulated"}
"""Refusals that RegisterThing gives as they are."""


class Provisioning:
    """Provisioning of one account. `spawn` runs a coroutine on the loop; `invoke` is Lambda, or None without it."""

    def __init__(
        self,
        ground: Ground,
        tags: Tags,
        authority: Authority,
        certificates: Certificates,
        policies: PolicyResources,
        provisioner: Provisioner,
        providers: CertificateProviders,
        bus: Bus,
        invoke: Invoke | None,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._ground = ground
        self._tags = tags
        self._authority = authority
        self._certificates = certificates
        self._policies = policies
        self._provisioner = provisioner
        self._providers = providers
        self._bus = bus
        self._invoke = invoke
        self._spawn = spawn
        self.kind = ground.kind("provisioning-template")
        self._tokens = ground.kind("ownership-token")
        self._claims = ground.kind("provisioning-claim")
        for filter in FILTERS:
            bus.add_listener(filter, self._on_request)

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateProvisioningTemplate": self.create,
            "DescribeProvisioningTemplate": self.describe,
            "UpdateProvisioningTemplate": self.update,
            "ListProvisioningTemplates": self.list_all,
            "DeleteProvisioningTemplate": self.delete,
            "CreateProvisioningTemplateVersion": self.create_version,
            "DescribeProvisioningTemplateVersion": self.describe_version,
            "ListProvisioningTemplateVersions": self.list_versions,
            "DeleteProvisioningTemplateVersion": self.delete_version,
            "CreateProvisioningClaim": self.create_claim,
            "RegisterThing": self.register_thing,
        }

    # Templates

    def _arn(self, name: str) -> str:
        return self._ground.arns.iot(f"provisioningtemplate/{name}")

    def find(self, name: str) -> Document:
        """A template. Raises AwsError ResourceNotFoundException."""
        found = self.kind.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Provisioning template {name} not found.", 404)
        return found

    def body_of(self, template: Document) -> str:
        """The default version's body."""
        return str(template["versions"][str(template["defaultVersionId"])]["templateBody"])

    def _save(self, template: Document, **more: Any) -> None:
        self.kind.put(template["templateName"], {**template, **more, "lastModifiedDate": self._ground.clock()})

    def create(self, params: Params, context: CallContext) -> Document:
        """CreateProvisioningTemplate."""
        name = params["templateName"]
        if name in self.kind:
            extra = {"resourceId": name, "resourceArn": self._arn(name)}
            raise AwsError("ResourceAlreadyExistsException", f"Template {name} already exists.", 409, extra)
        kind = params.get("type", "FLEET_PROVISIONING")
        _check_hook(params.get("preProvisioningHook"), kind)
        parse(params["templateBody"])
        now = self._ground.clock()
        template = {
            "templateName": name, "description": params.get("description", ""), "creationDate": now,
            "enabled": params.get("enabled", False), "provisioningRoleArn": params["provisioningRoleArn"],
            "preProvisioningHook": params.get("preProvisioningHook"), "type": kind, "defaultVersionId": 1, "next": 2,
            "versions": {"1": {"templateBody": params["templateBody"], "creationDate": now}},
        }  # fmt: skip
        self._save(template)
        self._tags.set(self._arn(name), params.get("tags"))
        return {"templateArn": self._arn(name), "templateName": name, "defaultVersionId": 1}

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeProvisioningTemplate."""
        template = self.find(params["templateName"])
        shown = {key: each for key, each in template.items() if key not in ("versions", "next") and each is not None}
        return {**shown, "templateArn": self._arn(template["templateName"]), "templateBody": self.body_of(template)}

    def update(self, params: Params, context: CallContext) -> None:
        """UpdateProvisioningTemplate."""
        template = self.find(params["templateName"])
        version = params.get("defaultVersionId")
        if version is not None:
            self._version(template, version)
        names = ("description", "enabled", "defaultVersionId", "provisioningRoleArn", "preProvisioningHook")
        given = {name: params[name] for name in names if params.get(name) is not None}
        _check_hook(given.get("preProvisioningHook"), template["type"])
        if params.get("removePreProvisioningHook"):
            given["preProvisioningHook"] = None
        self._save(template, **given)

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListProvisioningTemplates."""
        names = ("templateName", "description", "creationDate", "lastModifiedDate", "enabled", "type")
        shown = [
            {**{name: each[name] for name in names}, "templateArn": self._arn(each["templateName"])}
            for each in self.kind.values()
        ]
        return tokens(shown, params, "templates", key=lambda each: str(each["templateName"]))

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteProvisioningTemplate: its other versions have to be gone."""
        template = self.find(params["templateName"])
        if len(template["versions"]) > 1:
            raise AwsError("DeleteConflictException", "Delete the versions that are not the default first.", 409)
        self.kind.delete(template["templateName"])
        self._tags.drop(self._arn(template["templateName"]))

    def _version(self, template: Document, number: int) -> Document:
        found: Document | None = template["versions"].get(str(number))
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Template version {number} not found.", 404)
        return found

    def create_version(self, params: Params, context: CallContext) -> Document:
        """CreateProvisioningTemplateVersion."""
        template = self.find(params["templateName"])
        parse(params["templateBody"])
        if len(template["versions"]) >= MAX_VERSIONS:
            raise AwsError("VersionsLimitExceededException", f"A template has at most {MAX_VERSIONS} versions.", 409)
        number = template["next"]
        version = {"templateBody": params["templateBody"], "creationDate": self._ground.clock()}
        is_default = bool(params.get("setAsDefault"))
        default = {"defaultVersionId": number} if is_default else {}
        versions = {**template["versions"], str(number): version}
        self._save(template, versions=versions, next=number + 1, **default)
        name = template["templateName"]
        return {"templateArn": self._arn(name), "templateName": name, "versionId": number, "isDefaultVersion": is_default}  # fmt: skip  # noqa: E501

    def describe_version(self, params: Params, context: CallContext) -> Document:
        """DescribeProvisioningTemplateVersion."""
        template = self.find(params["templateName"])
        number = params["versionId"]
        version = self._version(template, number)
        return {**version, "versionId": number, "isDefaultVersion": number == template["defaultVersionId"]}

    def list_versions(self, params: Params, context: CallContext) -> Document:
        """ListProvisioningTemplateVersions."""
        template = self.find(params["templateName"])
        shown = [
            {
                "versionId": int(number),
                "creationDate": each["creationDate"],
                "isDefaultVersion": int(number) == template["defaultVersionId"],
            }
            for number, each in sorted(template["versions"].items(), key=lambda pair: int(pair[0]))
        ]
        return tokens(shown, params, "versions", key=lambda each: f"{each['versionId']:09}")

    def delete_version(self, params: Params, context: CallContext) -> None:
        """DeleteProvisioningTemplateVersion."""
        template = self.find(params["templateName"])
        number = params["versionId"]
        self._version(template, number)
        if number == template["defaultVersionId"]:
            raise AwsError("DeleteConflictException", "The default version can't be deleted.", 409)
        left = {key: each for key, each in template["versions"].items() if key != str(number)}
        self._save(template, versions=left)

    # Claims

    async def create_claim(self, params: Params, context: CallContext) -> Document:
        """CreateProvisioningClaim: a certificate for five minutes that may do nothing but provision by the template."""
        name = self.find(params["templateName"])["templateName"]
        until = self._now() + timedelta(seconds=CLAIM_S)
        issued = await self._authority.issue_keys(self._now(), until=until)
        self._certificates.store(issued.certificate, issued.certificate_id, "ACTIVE")
        policy = f"ProvisioningClaim-{name}"
        self._policies.ensure(policy, _claim_policy(self._ground.arns.iot, name))
        self._policies.attach_to(policy, self._certificates.arn(issued.certificate_id))
        self._claims.put(issued.certificate_id, {"certificateId": issued.certificate_id, "until": until.timestamp()})
        pair = {"PublicKey": issued.public_key, "PrivateKey": issued.private_key}
        shown = {"certificateId": issued.certificate_id, "certificatePem": issued.certificate}
        return {**shown, "keyPair": pair, "expiration": until.timestamp()}

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._ground.clock(), UTC)

    def tick(self) -> None:
        """Delete claims, tokens and the certificates of tokens whose time is over."""
        now = self._ground.clock()
        for kind in (self._claims, self._tokens):
            for name in kind.names():
                document = kind.get(name)
                if document is not None and document["until"] <= now:
                    kind.delete(name)
                    self._forget(document["certificateId"], is_claim=kind is self._claims)

    def _forget(self, identifier: str, *, is_claim: bool) -> None:
        document = self._certificates.kind.get(identifier)
        if document is None or not (is_claim or document["status"] == "PENDING_ACTIVATION"):
            return
        self._policies.targets.drop(self._certificates.arn(identifier))
        self._certificates.kind.delete(identifier)
        self._ground.changed()
        self._certificates.on_deactivated(identifier)

    # Provisioning

    def register_thing(self, params: Params, context: CallContext) -> Document:
        """RegisterThing of the control plane: what a resource of the template is refused for fails the registration."""
        resolved = resolve(params["templateBody"], params.get("parameters") or {})
        try:
            arns = self._provisioner.provision(resolved)
        except AwsError as error:
            if error.code in _OF_REGISTER_THING:
                raise
            raise AwsError("ResourceRegistrationFailureException", error.message, 400) from error
        identifier = _last(arns.get(resolved.certificate.logical_id)) if resolved.certificate else None
        pem = self._certificates.find(identifier)["certificatePem"] if identifier else None
        return {"certificatePem": pem, "resourceArns": arns}

    # Just-in-time provisioning

    def registered(self, certificate: Document) -> None:
        """A registered CA's certificate was seen first: provision by the CA's template. Raises AwsError."""
        config = self._certificates.find_ca(certificate["caCertificateId"]).get("registrationConfig") or {}
        body = config.get("templateBody")
        if config.get("templateName"):
            template = self.find(config["templateName"])
            if not template["enabled"]:
                raise invalid(f"Template {config['templateName']} is not enabled.")
            body = self.body_of(template)
        if body:
            self._provisioner.provision(resolve(body, certificate_parameters(certificate)))

    # MQTT

    def _on_request(self, publication: Publication) -> None:
        self._spawn(self._answer(publication))

    async def _answer(self, publication: Publication) -> None:
        match = _REQUEST.match(publication.topic)
        if match is None:
            return
        create, template, form = match[1], match[2], match[3]
        try:
            request = _decode(publication.payload, form)
            if create == "create":
                answer = self._pending(await self._authority.issue_keys(self._now()), publication)
            elif create:
                answer = await self._from_csr(request, publication)
            else:
                answer = await self._provision_device(template, request, publication)
            outcome = "accepted"
        except AwsError as error:
            outcome, answer = "rejected", _refusal(error)
        payload = cbor2.dumps(answer) if form == "cbor" else orjson.dumps(answer)
        topic = f"{publication.topic}/{outcome}"
        reply = Publication(topic, payload, qos=1, traceparent=publication.traceparent)
        if publication.client_id is None or not self._bus.deliver_to(publication.client_id, reply):
            self._bus.publish(reply)

    async def _from_csr(self, request: Document, publication: Publication) -> Document:
        pem = request.get("certificateSigningRequest")
        if not isinstance(pem, str):
            raise AwsError("InvalidCsr", "certificateSigningRequest is required.", 400)
        issued = await self._providers.sign(pem, publication)
        if issued is None:
            return self._pending(self._authority.sign_request(pem, self._now()), publication)
        answer = self._pending(issued, publication, certificateMode="SNI_ONLY")
        self._certificates.trust(issued.certificate)
        return answer

    def _pending(self, issued: Issued, publication: Publication, **more: str) -> Document:
        """Keep a new certificate until a template takes it, and give its token, which serves this principal alone."""
        identifier = issued.certificate_id
        self._certificates.store(issued.certificate, identifier, "PENDING_ACTIVATION", **more)
        token = hashlib.sha512((self._ground.new_id() + self._ground.new_id()).encode()).hexdigest()
        until = self._ground.clock() + TOKEN_S
        self._tokens.put(token, {"certificateId": identifier, "until": until, "principal": publication.principal})
        key = {"privateKey": issued.private_key} if issued.private_key else {}
        shown = {"certificateId": identifier, "certificatePem": issued.certificate}
        return {**shown, **key, "certificateOwnershipToken": token}

    def _owned(self, token: object, publication: Publication) -> str:
        """The certificate a token speaks for. Raises AwsError InvalidCertificateOwnershipToken."""
        held = self._tokens.get(token) if isinstance(token, str) else None
        is_over = held is None or held["until"] <= self._ground.clock()
        if held is None or is_over or held.get("principal") != publication.principal:
            raise AwsError("InvalidCertificateOwnershipToken", "The ownership token is not valid.", 400)
        return str(held["certificateId"])

    async def _provision_device(self, name: str, request: Document, publication: Publication) -> Document:
        template = self.find(name)
        if not template["enabled"] or template["type"] != "FLEET_PROVISIONING":
            raise invalid(f"Template {name} is not enabled for fleet provisioning.")
        token = request.get("certificateOwnershipToken")
        certificate = self._certificates.find(self._owned(token, publication))
        parameters = request.get("parameters") or {}
        if not isinstance(parameters, dict) or not all(isinstance(each, str) for each in parameters.values()):
            raise invalid("parameters have to be a map of strings.")
        if template.get("preProvisioningHook"):
            overrides = await self._ask_hook(template, certificate, parameters, publication)
            parameters = {**parameters, **overrides}
            self._owned(token, publication)  # Another request may have used it while the hook was asked.
        resolved = resolve(self.body_of(template), {**parameters, **certificate_parameters(certificate)})
        arns = self._provisioner.provision(resolved)
        self._tokens.delete(str(token))
        thing = _last(arns.get(resolved.thing.logical_id)) if resolved.thing else None
        return {"deviceConfiguration": resolved.device_configuration, "thingName": thing}

    async def _ask_hook(
        self, template: Document, certificate: Document, parameters: Document, publication: Publication
    ) -> dict[str, str]:
        """What the hook would have the parameters be. Raises AwsError AccessDenied when it does not allow."""
        if self._invoke is None:
            raise NotEmulated("pre-provisioning hooks without Lambda", "Start with the lambda room.")
        event = {
            "claimCertificateId": publication.principal,
            "certificateId": certificate["certificateId"],
            "certificatePem": certificate["certificatePem"],
            "templateArn": self._arn(template["templateName"]),
            "clientId": publication.client_id,
            "parameters": parameters,
        }
        hook = template["preProvisioningHook"]["targetArn"]
        try:
            result = await self._invoke(hook, orjson.dumps(event), traceparent=publication.traceparent)
        except AwsError as error:
            raise AwsError("AccessDenied", f"The pre-provisioning hook failed: {error.message}", 403) from error
        try:
            answer = orjson.loads(result.payload)
        except orjson.JSONDecodeError:
            answer = None
        if result.function_error or not isinstance(answer, dict):
            raise AwsError("AccessDenied", "The pre-provisioning hook failed.", 403)
        if answer.get("allowProvisioning") is not True:
            raise AwsError("AccessDenied", "The pre-provisioning hook does not allow provisioning.", 403)
        overrides = answer.get("parameterOverrides") or {}
        if not isinstance(overrides, dict) or not all(isinstance(each, str) for each in overrides.values()):
            raise AwsError("AccessDenied", "The pre-provisioning hook's parameterOverrides are not strings.", 403)
        return overrides


def certificate_parameters(certificate: Document) -> dict[str, str]:
    """`AWS::IoT::Certificate::Id` and the subject's fields, as far as the certificate has them."""
    subject = x509.load_pem_x509_certificate(certificate["certificatePem"].encode()).subject
    found = {"AWS::IoT::Certificate::Id": str(certificate["certificateId"])}
    for name, oid in _SUBJECT:
        for attribute in subject.get_attributes_for_oid(oid)[:1]:
            found[f"AWS::IoT::Certificate::{name}"] = str(attribute.value)
    return found


def _check_hook(hook: Document | None, kind: str) -> None:
    """Raise AwsError for a pre-provisioning hook that a template of this type can't have."""
    if hook and kind == "JITP":
        raise invalid("Only FLEET_PROVISIONING templates have a pre-provisioning hook.")
    if hook and hook.get("payloadVersion", HOOK_PAYLOAD) != HOOK_PAYLOAD:
        raise invalid(f"The payload version of a pre-provisioning hook has to be {HOOK_PAYLOAD}.")


def _claim_policy(arn: Callable[[str], str], name: str) -> str:
    topics = ("certificates/create/*", "certificates/create-from-csr/*", f"provisioning-templates/{name}/provision/*")
    statements = [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive"],
            "Resource": [arn(f"topic/$aws/{topic}") for topic in topics],
        },
        {
            "Effect": "Allow",
            "Action": "iot:Subscribe",
            "Resource": [arn(f"topicfilter/$aws/{topic}") for topic in topics],
        },
    ]
    return orjson.dumps({"Version": "2012-10-17", "Statement": statements}).decode()


def _decode(payload: bytes, form: str) -> Document:
    if not payload:
        return {}
    try:
        request = cbor2.loads(payload) if form == "cbor" else orjson.loads(payload)
    except (cbor2.CBORError, ValueError, EOFError, TypeError, RecursionError) as error:
        raise AwsError("InvalidRequest", f"The payload is not {form.upper()}.", 400) from error
    if not isinstance(request, dict):
        raise AwsError("InvalidRequest", "The payload is not a map.", 400)
    return request


def _refusal(error: AwsError) -> Document:
    code = error.code.removesuffix("Exception")
    return {"statusCode": error.status, "errorCode": code, "errorMessage": error.message}


def _last(arn: str | None) -> str | None:
    return None if arn is None else arn.rpartition("/")[2]
