"""Certificates and certificate authorities of the account: their life, from creation over transfer to deletion.

Statuses are AWS's: only ACTIVE certificates connect. A certificate of an unknown device that a registered CA signed is
registered just in time when the CA allows it (`seen`). It does not decide what a certificate may do.

Source: AWS IoT API reference, the certificate operations; developer guide, "Register a client certificate when the
client connects to AWS IoT just-in-time registration (JITR)", "Transfer a certificate to another account".
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from foreshore.errors import AwsError
from foreshore.iot.authority import Authority, Issued, certificate_id, der_of, is_issued_by, read_certificate
from foreshore.iot.listing import markers
from foreshore.iot.store import Document, Ground, Tags
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]


class Certificates:
    """The certificate half of the control plane. `trust` gets the PEM of every certificate TLS is to accept."""

    def __init__(self, ground: Ground, authority: Authority, tags: Tags) -> None:
        self._ground = ground
        self._authority = authority
        self._tags = tags
        self.kind = ground.kind("certificate")
        self.authorities = ground.kind("ca-certificate")
        self._settings = ground.kind("setting")
        self.policies = ground.links("policy-target")
        self.things = ground.links("thing-principal")
        self.trust: Callable[[str], None] = lambda pem: None
        self.on_registered: Callable[[Document], None] = lambda certificate: None
        self.on_deactivated: Callable[[str], None] = lambda identifier: None

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateKeysAndCertificate": self.create_keys,
            "CreateCertificateFromCsr": self.create_from_csr,
            "RegisterCertificate": self.register,
            "RegisterCertificateWithoutCA": self.register_without_ca,
            "UpdateCertificate": self.update,
            "DescribeCertificate": self.describe,
            "DeleteCertificate": self.delete,
            "ListCertificates": self.list_all,
            "ListCertificatesByCA": self.list_by_ca,
            "GetRegistrationCode": self.registration_code,
            "DeleteRegistrationCode": self.delete_registration_code,
            "RegisterCACertificate": self.register_ca,
            "DescribeCACertificate": self.describe_ca,
            "ListCACertificates": self.list_cas,
            "UpdateCACertificate": self.update_ca,
            "DeleteCACertificate": self.delete_ca,
            "TransferCertificate": self.transfer,
            "AcceptCertificateTransfer": self.accept_transfer,
            "RejectCertificateTransfer": self.reject_transfer,
            "CancelCertificateTransfer": self.cancel_transfer,
            "ListOutgoingCertificates": self.list_outgoing,
        }

    # What other parts ask

    def arn(self, identifier: str) -> str:
        """The ARN of a certificate."""
        return self._ground.arns.iot(f"cert/{identifier}")

    def find(self, identifier: str) -> Document:
        """The certificate's document. Raises AwsError ResourceNotFoundException."""
        found = self.kind.get(identifier)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"The certificate given in certificateId {identifier}", 404)
        return found

    def store(self, pem: str, identifier: str, status: str, **more: Any) -> Document:
        """Keep a new certificate."""
        now = self._ground.clock()
        document: Document = {
            "certificateId": identifier,
            "certificatePem": pem,
            "status": status,
            "ownedBy": self._ground.arns.account,
            "creationDate": now,
            "lastModifiedDate": now,
            "customerVersion": 1,
            "certificateMode": "DEFAULT",
            "generationId": self._ground.new_id(),
            **more,
        }
        self.kind.put(identifier, document)
        self._ground.changed()
        return document

    def issue(self, *, active: bool, common_name: str = "AWS IoT Certificate") -> Issued:
        """Create a key pair and certificate and register it."""
        issued = self._authority.issue(self._now(), common_name=common_name)
        self.store(issued.certificate, issued.certificate_id, "ACTIVE" if active else "INACTIVE")
        return issued

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._ground.clock(), UTC)

    def seen(self, der: bytes) -> Document | None:
        """The certificate a device shows at connect; registered just in time when its CA allows that.

        A certificate that is registered this way is PENDING_ACTIVATION and the CA's id is told to `on_registered`.
        """
        identifier = certificate_id(der)
        known = self.kind.get(identifier)
        if known is not None:
            return known
        certificate = x509.load_der_x509_certificate(der)
        for authority in self.authorities.values():
            if authority["status"] != "ACTIVE" or authority["autoRegistrationStatus"] != "ENABLE":
                continue
            if is_issued_by(certificate, read_certificate(authority["certificatePem"])):
                pem = certificate.public_bytes(_PEM).decode()
                document = self.store(pem, identifier, "PENDING_ACTIVATION", caCertificateId=authority["certificateId"])
                self.on_registered(document)
                return document  # As it was: the first connection is refused even when it is provisioned by now.
        return None

    # Certificates

    def _created(self, issued: Issued) -> Document:
        return {
            "certificateArn": self.arn(issued.certificate_id),
            "certificateId": issued.certificate_id,
            "certificatePem": issued.certificate,
        }

    async def create_keys(self, params: Params, context: CallContext) -> Document:
        """CreateKeysAndCertificate."""
        issued = await self._authority.issue_keys(self._now())
        self.store(issued.certificate, issued.certificate_id, "ACTIVE" if params.get("setAsActive") else "INACTIVE")
        pair = {"PublicKey": issued.public_key, "PrivateKey": issued.private_key}
        return {**self._created(issued), "keyPair": pair}

    def create_from_csr(self, params: Params, context: CallContext) -> Document:
        """CreateCertificateFromCsr."""
        issued = self._authority.sign_request(params["certificateSigningRequest"], self._now())
        self.store(issued.certificate, issued.certificate_id, "ACTIVE" if params.get("setAsActive") else "INACTIVE")
        return self._created(issued)

    def register(self, params: Params, context: CallContext | None) -> Document:
        """RegisterCertificate: the issuer has to be a registered CA."""
        certificate = read_certificate(params["certificatePem"])
        self._check_new(certificate_id(der_of(certificate)))
        issuer = self._registered_issuer(certificate, params.get("caCertificatePem"))
        status = params.get("status") or ("ACTIVE" if params.get("setAsActive") else "INACTIVE")
        return self._register(certificate, status, caCertificateId=issuer["certificateId"])

    def _registered_issuer(self, certificate: x509.Certificate, pem: str | None) -> Document:
        named = None if pem is None else certificate_id(der_of(read_certificate(pem)))
        found = [
            authority
            for authority in self.authorities.values()
            if named in (None, authority["certificateId"])
            and is_issued_by(certificate, read_certificate(authority["certificatePem"]))
        ]
        if not found:
            raise AwsError("CertificateValidationException", "CA certificate not registered.", 400)
        if len(found) > 1:
            text = "More than one registered CA certificate may have signed it: caCertificatePem has to tell which."
            raise AwsError("CertificateConflictException", text, 409)
        return found[0]

    def register_without_ca(self, params: Params, context: CallContext) -> Document:
        """RegisterCertificateWithoutCA."""
        certificate = read_certificate(params["certificatePem"])
        return self._register(certificate, params.get("status") or "INACTIVE", certificateMode="SNI_ONLY")

    def _register(self, certificate: x509.Certificate, status: str, **more: Any) -> Document:
        if status not in ("ACTIVE", "INACTIVE"):
            raise AwsError("InvalidRequestException", f"A certificate can't be registered as {status}.", 400)
        identifier = certificate_id(der_of(certificate))
        self._check_new(identifier)
        pem = certificate.public_bytes(_PEM).decode()
        self.store(pem, identifier, status, **more)
        self.trust(pem)
        return {"certificateArn": self.arn(identifier), "certificateId": identifier}

    def _check_new(self, identifier: str) -> None:
        if identifier in self.kind:
            extra = {"resourceId": identifier, "resourceArn": self.arn(identifier)}
            text = "The certificate is already provisioned or registered."
            raise AwsError("ResourceAlreadyExistsException", text, 409, extra)

    def update(self, params: Params, context: CallContext | None) -> None:
        """UpdateCertificate; a transfer's states can't be set by hand."""
        document = self.find(params["certificateId"])
        status = params["newStatus"]
        if status in ("PENDING_TRANSFER", "PENDING_ACTIVATION", "REGISTER_INACTIVE"):
            raise AwsError("InvalidRequestException", f"The status can't be updated to {status}.", 400)
        if document["status"] == "PENDING_TRANSFER":
            raise AwsError("CertificateStateException", "The certificate is being transferred.", 406)
        self._change(document, status=status)

    def _change(self, document: Document, **more: Any) -> None:
        changed = {**document, **more, "lastModifiedDate": self._ground.clock()}
        changed["customerVersion"] = document["customerVersion"] + 1
        self.kind.put(document["certificateId"], changed)
        self._ground.changed()
        if document["status"] == "ACTIVE" != changed["status"]:
            self.on_deactivated(document["certificateId"])

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeCertificate."""
        document = self.find(params["certificateId"])
        certificate = read_certificate(document["certificatePem"])
        validity = {"notBefore": certificate.not_valid_before_utc, "notAfter": certificate.not_valid_after_utc}
        arn = self.arn(document["certificateId"])
        shown = {key: value for key, value in document.items() if key != "transferredTo"}
        shown["transferData"] = document.get("transferData") or {}
        return {"certificateDescription": {**shown, "certificateArn": arn, "validity": validity}}

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteCertificate: it has to be inactive, and free of things and policies."""
        document = self.find(params["certificateId"])
        arn = self.arn(document["certificateId"])
        if document["status"] == "ACTIVE":
            raise AwsError(
                "CertificateStateException", "Certificate must be deactivated (not ACTIVE) before deletion.", 406
            )
        if self.things.to(arn):
            raise AwsError("DeleteConflictException", f"Things must be detached before deletion (arn: {arn})", 409)
        if self.policies.of(arn):
            if not params.get("forceDelete"):
                raise AwsError(
                    "DeleteConflictException",
                    f"Certificate policies must be detached before deletion (arn: {arn})",
                    409,
                )
            self.policies.drop(arn)
        self.kind.delete(document["certificateId"])
        self._tags.drop(arn)
        self._ground.changed()

    def _summary(self, document: Document) -> Document:
        names = ("certificateId", "status", "certificateMode", "creationDate")
        return {
            "certificateArn": self.arn(document["certificateId"]),
            **{name: document[name] for name in names if name in document},
        }

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListCertificates."""
        return markers(map(self._summary, self.kind.values()), params, "certificates", key=_by_creation)

    def list_by_ca(self, params: Params, context: CallContext) -> Document:
        """ListCertificatesByCA."""
        of_ca = [each for each in self.kind.values() if each.get("caCertificateId") == params["caCertificateId"]]
        return markers(map(self._summary, of_ca), params, "certificates", key=_by_creation)

    # Certificate authorities

    def registration_code(self, params: Params, context: CallContext) -> Document:
        """GetRegistrationCode: 64 hex digits, the same until it is deleted."""
        setting = self._settings.get("registration-code")
        if setting is None:
            code = certificate_id((self._ground.new_id() + self._ground.new_id()).encode())
            setting = {"registrationCode": code}
            self._settings.put("registration-code", setting)
        return setting

    def delete_registration_code(self, params: Params, context: CallContext) -> None:
        """DeleteRegistrationCode."""
        self._settings.delete("registration-code")

    def register_ca(self, params: Params, context: CallContext) -> Document:
        """RegisterCACertificate: proves possession by a certificate whose common name is the registration code."""
        certificate = read_certificate(params["caCertificate"])
        mode = params.get("certificateMode", "DEFAULT")
        if not _is_authority(certificate):
            raise AwsError("CertificateValidationException", "The certificate is not a CA certificate.", 400)
        if mode == "DEFAULT":
            self._check_possession(certificate, params.get("verificationCertificate"))
        elif "verificationCertificate" in params:
            raise AwsError("InvalidRequestException", "SNI_ONLY takes no verification certificate.", 400)
        self._check_registration(params.get("registrationConfig") or {})
        identifier = certificate_id(der_of(certificate))
        arn = self._ground.arns.iot(f"cacert/{identifier}")
        if identifier in self.authorities:
            extra = {"resourceId": identifier, "resourceArn": arn}
            raise AwsError("ResourceAlreadyExistsException", "The CA certificate is already registered.", 409, extra)
        now = self._ground.clock()
        pem = certificate.public_bytes(_PEM).decode()
        document = {
            "certificateId": identifier,
            "certificatePem": pem,
            "status": "ACTIVE" if params.get("setAsActive") else "INACTIVE",
            "autoRegistrationStatus": "ENABLE" if params.get("allowAutoRegistration") else "DISABLE",
            "ownedBy": self._ground.arns.account,
            "creationDate": now,
            "lastModifiedDate": now,
            "customerVersion": 1,
            "generationId": self._ground.new_id(),
            "certificateMode": mode,
            "registrationConfig": params.get("registrationConfig"),
        }
        self.authorities.put(identifier, document)
        self._tags.set(arn, params.get("tags"))
        self.trust(pem)
        return {"certificateArn": arn, "certificateId": identifier}

    def _check_registration(self, config: Document) -> None:
        """Check what just-in-time provisioning is to go by. Raises AwsError.

        A template of type JITP by name, or a body ("Just-in-time provisioning").
        """
        name, body = config.get("templateName"), config.get("templateBody")
        if name is not None and body is not None:
            raise AwsError("InvalidRequestException", "Give a template's name or a body, not both.", 400)
        if name is not None:
            template = self._ground.kind("provisioning-template").get(name)
            if template is None:
                raise AwsError("ResourceNotFoundException", f"Provisioning template {name} not found.", 404)
            if template["type"] != "JITP":
                raise AwsError("InvalidRequestException", f"Provisioning template {name} is not of type JITP.", 400)
        if body is not None:
            try:
                orjson.loads(body)
            except orjson.JSONDecodeError:
                raise AwsError("InvalidRequestException", "templateBody is not JSON.", 400) from None

    def _check_possession(self, authority: x509.Certificate, pem: str | None) -> None:
        if pem is None:
            raise AwsError("InvalidRequestException", "verificationCertificate is required.", 400)
        proof = read_certificate(pem)
        names = [attribute.value for attribute in proof.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        code = (self._settings.get("registration-code") or {}).get("registrationCode")
        if not is_issued_by(proof, authority):
            text = "The verification certificate is not signed by the CA certificate."
            raise AwsError("CertificateValidationException", text, 400)
        if code not in names:
            text = "The verification certificate's common name is not the registration code."
            raise AwsError("RegistrationCodeValidationException", text, 400)

    def find_ca(self, identifier: str) -> Document:
        """A CA's document. Raises AwsError ResourceNotFoundException."""
        found = self.authorities.get(identifier)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"CA certificate {identifier} not found.", 404)
        return found

    def describe_ca(self, params: Params, context: CallContext) -> Document:
        """DescribeCACertificate."""
        document = self.find_ca(params["certificateId"])
        certificate = read_certificate(document["certificatePem"])
        description = {key: value for key, value in document.items() if key != "registrationConfig"}
        description["certificateArn"] = self._ground.arns.iot(f"cacert/{document['certificateId']}")
        description["validity"] = {
            "notBefore": certificate.not_valid_before_utc,
            "notAfter": certificate.not_valid_after_utc,
        }
        return {"certificateDescription": description, "registrationConfig": document.get("registrationConfig")}

    def list_cas(self, params: Params, context: CallContext) -> Document:
        """ListCACertificates."""
        wanted = params.get("templateName")
        shown = [
            {
                "certificateArn": self._ground.arns.iot(f"cacert/{each['certificateId']}"),
                "certificateId": each["certificateId"],
                "status": each["status"],
                "creationDate": each["creationDate"],
            }
            for each in self.authorities.values()
            if wanted is None or (each.get("registrationConfig") or {}).get("templateName") == wanted
        ]
        return markers(shown, params, "certificates", key=_by_creation)

    def update_ca(self, params: Params, context: CallContext) -> None:
        """UpdateCACertificate."""
        document = dict(self.find_ca(params["certificateId"]))
        document["status"] = params.get("newStatus", document["status"])
        document["autoRegistrationStatus"] = params.get("newAutoRegistrationStatus", document["autoRegistrationStatus"])
        if "registrationConfig" in params:
            self._check_registration(params["registrationConfig"])
            document["registrationConfig"] = params["registrationConfig"]
        if params.get("removeAutoRegistration"):
            document["registrationConfig"] = None
            document["autoRegistrationStatus"] = "DISABLE"
        document["lastModifiedDate"] = self._ground.clock()
        document["customerVersion"] += 1
        self.authorities.put(document["certificateId"], document)
        self._ground.changed()

    def delete_ca(self, params: Params, context: CallContext) -> None:
        """DeleteCACertificate: it has to be inactive."""
        document = self.find_ca(params["certificateId"])
        if document["status"] == "ACTIVE":
            raise AwsError("CertificateStateException", "The CA certificate must be INACTIVE before deletion.", 406)
        self.authorities.delete(document["certificateId"])
        self._ground.changed()

    # Transfers

    def transfer(self, params: Params, context: CallContext) -> Document:
        """TransferCertificate: an INACTIVE certificate without policies and things waits for the other account."""
        document = self.find(params["certificateId"])
        arn = self.arn(document["certificateId"])
        if document["status"] == "PENDING_TRANSFER":
            raise AwsError("TransferConflictException", "The certificate is already being transferred.", 409)
        if document["status"] != "INACTIVE":
            raise AwsError("CertificateStateException", "Only an INACTIVE certificate can be transferred.", 406)
        if self.policies.of(arn):
            text = "The certificate can't be transferred while policies are attached to it."
            raise AwsError("TransferConflictException", text, 409)
        if self.things.to(arn):
            raise AwsError("InvalidRequestException", "Detach the certificate's things before the transfer.", 400)
        data = {"transferMessage": params.get("transferMessage"), "transferDate": self._ground.clock()}
        target = params["targetAwsAccount"]
        self._change(document, status="PENDING_TRANSFER", transferData=data, transferredTo=target)
        return {"transferredCertificateArn": arn.replace(self._ground.arns.account, target)}

    def _pending(self, identifier: str) -> Document:
        document = self.find(identifier)
        if document["status"] != "PENDING_TRANSFER":
            raise AwsError("TransferAlreadyCompletedException", "There is no pending transfer.", 410)
        return document

    def accept_transfer(self, params: Params, context: CallContext) -> None:
        """AcceptCertificateTransfer; this one account plays both sides."""
        document = self._pending(params["certificateId"])
        data = {**document["transferData"], "acceptDate": self._ground.clock()}
        self._change(
            document,
            status="ACTIVE" if params.get("setAsActive") else "INACTIVE",
            transferData=data,
            previousOwnedBy=document["ownedBy"],
            ownedBy=document["transferredTo"],
        )

    def reject_transfer(self, params: Params, context: CallContext) -> None:
        """RejectCertificateTransfer: it goes back INACTIVE."""
        document = self._pending(params["certificateId"])
        reason = {"rejectReason": params.get("rejectReason"), "rejectDate": self._ground.clock()}
        self._change(document, status="INACTIVE", transferData={**document["transferData"], **reason})

    def cancel_transfer(self, params: Params, context: CallContext) -> None:
        """CancelCertificateTransfer."""
        self._change(self._pending(params["certificateId"]), status="INACTIVE", transferData=None)

    def list_outgoing(self, params: Params, context: CallContext) -> Document:
        """ListOutgoingCertificates."""
        shown = [
            {
                "certificateArn": self.arn(each["certificateId"]),
                "certificateId": each["certificateId"],
                "transferredTo": each["transferredTo"],
                "transferDate": each["transferData"]["transferDate"],
                "transferMessage": each["transferData"].get("transferMessage"),
                "creationDate": each["creationDate"],
            }
            for each in self.kind.values()
            if each["status"] == "PENDING_TRANSFER"
        ]
        return markers(shown, params, "outgoingCertificates", key=_by_creation)


_PEM = serialization.Encoding.PEM


def _by_creation(document: Document) -> str:
    return f"{document['creationDate']:020.6f}{document['certificateId']}"


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca
