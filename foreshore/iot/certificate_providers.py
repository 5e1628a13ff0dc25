"""Certificate providers: a Lambda function that signs the CSRs of fleet provisioning in place of the service.

There is at most one, and it is the account's default. Roles and resource policies are not asked.

Source: AWS IoT developer guide, "Customizing certificate signing with AWS IoT Core certificate provider"; API
reference, CreateCertificateProvider.
"""

from __future__ import annotations

from typing import Any

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.authority import Issued, certificate_id, der_of, read_certificate
from foreshore.iot.store import Document, Ground, Tags
from foreshore.seams import Invoke, Publication
from foreshore.shapes.service_model import CallContext, OperationHandler, paginate

Params = dict[str, Any]
_DER = serialization.Encoding.DER
_KEY = serialization.PublicFormat.SubjectPublicKeyInfo


class CertificateProviders:
    """The provider of an account. `invoke` is Lambda, or None without it."""

    def __init__(self, ground: Ground, tags: Tags, invoke: Invoke | None) -> None:
        self._ground = ground
        self._tags = tags
        self._invoke = invoke
        self.kind = ground.kind("certificate-provider")

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateCertificateProvider": self.create, "DescribeCertificateProvider": self.describe,
            "UpdateCertificateProvider": self.update, "DeleteCertificateProvider": self.delete,
            "ListCertificateProviders": self.list_all,
        }  # fmt: skip

    def _arn(self, name: str) -> str:
        return self._ground.arns.iot(f"certificateprovider:{name}")

    def _named(self, name: str) -> Document:
        return {"certificateProviderName": name, "certificateProviderArn": self._arn(name)}

    def _find(self, name: str) -> Document:
        found = self.kind.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Certificate provider {name} not found.", 404)
        return found

    def create(self, params: Params, context: CallContext) -> Document:
        """CreateCertificateProvider."""
        name = params["certificateProviderName"]
        if name in self.kind:
            extra = {"resourceId": name, "resourceArn": self._arn(name)}
            raise AwsError("ResourceAlreadyExistsException", f"Certificate provider {name} already exists.", 409, extra)
        if len(self.kind):
            raise AwsError("LimitExceededException", "There can be one certificate provider only.", 410)
        now = self._ground.clock()
        names = ("certificateProviderName", "lambdaFunctionArn", "accountDefaultForOperations")
        self.kind.put(name, {**{each: params[each] for each in names}, "creationDate": now, "lastModifiedDate": now})
        self._tags.set(self._arn(name), params.get("tags"))
        return self._named(name)

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeCertificateProvider."""
        found = self._find(params["certificateProviderName"])
        return {**found, "certificateProviderArn": self._arn(found["certificateProviderName"])}

    def update(self, params: Params, context: CallContext) -> Document:
        """UpdateCertificateProvider."""
        found = self._find(params["certificateProviderName"])
        names = ("lambdaFunctionArn", "accountDefaultForOperations")
        given = {name: params[name] for name in names if params.get(name) is not None}
        name = found["certificateProviderName"]
        self.kind.put(name, {**found, **given, "lastModifiedDate": self._ground.clock()})
        return self._named(name)

    def delete(self, params: Params, context: CallContext) -> Document:
        """DeleteCertificateProvider: the service signs again."""
        name = self._find(params["certificateProviderName"])["certificateProviderName"]
        self.kind.delete(name)
        self._tags.drop(self._arn(name))
        return {}

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListCertificateProviders."""
        names, token = paginate(self.kind.names(), params.get("nextToken"), None)
        return {"certificateProviders": [self._named(name) for name in names], "nextToken": token}

    async def sign(self, csr: str, publication: Publication) -> Issued | None:
        """Have a device's CSR signed; None when there is no provider. Raises AwsError.

        The certificate has to be for the key of the CSR.
        """
        provider = next(iter(self.kind.values()), None)
        if provider is None:
            return None
        if self._invoke is None:
            raise NotEmulated("certificate providers without Lambda", "Start with the lambda room.")
        try:
            request = x509.load_pem_x509_csr(csr.encode())
        except ValueError:
            raise AwsError("InvalidCsr", "The CSR could not be parsed.", 400) from None
        event = {
            "certificateSigningRequest": csr,
            "principalId": publication.principal,
            "clientId": publication.client_id,
        }
        try:
            result = await self._invoke(
                provider["lambdaFunctionArn"], orjson.dumps(event), traceparent=publication.traceparent
            )
            answer = orjson.loads(result.payload)
        except (AwsError, orjson.JSONDecodeError) as error:
            raise AwsError("InvalidRequest", f"The certificate provider failed: {error}", 400) from error
        pem = answer.get("certificatePem") if isinstance(answer, dict) and not result.function_error else None
        if not isinstance(pem, str):
            raise AwsError("InvalidRequest", "The certificate provider gave no certificatePem.", 400)
        certificate = read_certificate(pem)
        if certificate.public_key().public_bytes(_DER, _KEY) != request.public_key().public_bytes(_DER, _KEY):
            raise AwsError("InvalidRequest", "The certificate provider's certificate is for another key.", 400)
        return Issued(certificate_id(der_of(certificate)), pem, "", "")
