"""Things and certificates for simulated devices, asked of the AWS endpoint as any provisioning tool would. Shell.

Keys are written with mode 0600 under `<folder>/<device>/`; a device that has its files keeps them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from foreshore.errors import UserError
from foreshore.http import Client, Response

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": "*"},
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "*"},
    ],
}
POLICY_NAME = "foreshore-simulated-device"


@dataclass(slots=True, frozen=True)
class Identity:
    """A device's files."""

    device: str
    certificate: Path
    key: Path


def _key_and_request(device: str) -> tuple[str, str]:
    """A P-256 key made here, and the CSR for it, both PEM: a fleet's keys cost little, and never leave the device."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), request.public_bytes(serialization.Encoding.PEM).decode()


class Registrar:
    """Creates things over the AWS endpoint's own `iot` API."""

    def __init__(self, endpoint: str, region: str, folder: Path) -> None:
        parts = urlsplit(endpoint)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._region = region
        self._folder = folder
        self._client = Client()

    async def _call(
        self, method: str, target: str, body: object = None, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> Response:
        credential = f"foreshore/20200101/{self._region}/iot/aws4_request"
        scope = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0"
        pairs = [(b"Authorization", scope.encode()), (b"Content-Type", b"application/json"), *headers]
        payload = orjson.dumps(body) if body is not None else b""
        return await self._client.fetch(method, self._host, self._port, target, pairs, payload)

    async def _checked(
        self, method: str, target: str, body: object = None, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> bytes:
        response = await self._call(method, target, body, headers)
        assert isinstance(response.body, bytes)
        if response.status >= 300 and response.status != 409:
            raise UserError(
                f"{method} {target} answered {response.status}: {response.body.decode('utf-8', 'replace')}", code="iot"
            )
        return response.body

    async def ensure(self, device: str) -> Identity:
        """Give a device's files, making thing, certificate and policy when they are not there."""
        folder = self._folder / device
        identity = Identity(device, folder / "certificate.pem", folder / "private.key")
        known = await self._call("GET", f"/things/{quote(device, safe='')}")
        if known.status == 200 and identity.certificate.is_file() and identity.key.is_file():
            return identity
        await self._checked("POST", f"/policies/{POLICY_NAME}", {"policyDocument": orjson.dumps(POLICY).decode()})
        await self._checked("POST", f"/things/{quote(device, safe='')}", {})
        key, request = _key_and_request(device)
        wish = {"certificateSigningRequest": request}
        made = orjson.loads(await self._checked("POST", "/certificates?setAsActive=true", wish))
        arn = made["certificateArn"]
        await self._checked("PUT", f"/target-policies/{POLICY_NAME}", {"target": arn})
        await self._checked(
            "PUT", f"/things/{quote(device, safe='')}/principals", headers=((b"x-amzn-principal", arn.encode()),)
        )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        identity.certificate.write_text(made["certificatePem"])
        descriptor = os.open(identity.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key)
        return identity

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
