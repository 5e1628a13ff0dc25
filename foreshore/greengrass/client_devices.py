"""aws.greengrass.clientdevices.Auth: who a client device is, its sessions, and what it may do. No sockets.

A device is let in when its certificate is registered, active and within its validity, and attached to the thing whose
name is the MQTT client id: on a device the client id is the thing name. A certificate that the core's own CA signed is
a component's, which may do anything. Sources: Greengrass developer guide, "Client device auth", "Authenticate and
authorize client devices" (IPC); aws-greengrass-client-device-auth 2.5.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from foreshore.errors import UserError
from foreshore.greengrass.device_certificates import (
    CertificateUpdate,
    CoreAuthority,
    NewKey,
    ServerCertificates,
    read_certificate_settings,
)
from foreshore.greengrass.device_groups import Group, is_allowed, read_groups
from foreshore.greengrass.device_registry import DeviceRegistry

NAME = "aws.greengrass.clientdevices.Auth"
MAX_SESSIONS = 2500
MAX_THING_NAME = 128
_PEM = "-----BEGIN CERTIFICATE-----"


class Session(NamedTuple):
    """A device that was let in. `thing` None: one of the core's own components."""

    thing: str | None
    certificate_id: str


class ClientDeviceAuth:
    """The client device auth of one core.

    `new_token()` gives a random session token, `new_rsa()` an RSA key, `clock` seconds since the epoch. `on_change` is
    called when what devices may do has changed, `on_authority` when the CA has.
    """

    def __init__(
        self,
        registry: DeviceRegistry,
        authority: CoreAuthority,
        certificates: ServerCertificates,
        *,
        new_token: Callable[[], str],
        new_rsa: NewKey,
        clock: Callable[[], float],
    ) -> None:
        self.registry = registry
        self.authority = authority
        self.certificates = certificates
        self.is_deployed = False
        self.on_change: Callable[[], None] = lambda: None
        self.on_authority: Callable[[], None] = lambda: None
        self._new_token = new_token
        self._new_rsa = new_rsa
        self._clock = clock
        self._groups: list[Group] = []
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._capacity = MAX_SESSIONS

    # A service of the core's

    async def configure(self, configuration: Mapping[str, Any] | None) -> None:
        """Take the component's configuration; None: it is not deployed. Raises UserError or NotEmulated, and then what
        the configuration says of groups and certificates stays as it was."""
        given = configuration or {}
        self.is_deployed = configuration is not None
        if not self.is_deployed:
            self._groups = []
        try:
            await self._use_authority(given)
            self._capacity = _whole(given, "performance", "maxActiveAuthTokens", MAX_SESSIONS)
            self.registry.trust_s = 60.0 * _whole(given, "security", "clientDeviceTrustDurationMinutes", 1)
            self._groups = read_groups(given)
        finally:
            self.on_change()

    async def _use_authority(self, configuration: Mapping[str, Any]) -> None:
        before = self.authority.settings
        settings = read_certificate_settings(configuration)
        is_another = await self.authority.use(settings, datetime.fromtimestamp(self._clock(), UTC), self._new_rsa)
        if is_another:
            self.on_authority()
        if is_another or settings.validity_s != before.validity_s:
            self.certificates.rotate("the configuration changed")

    async def start(self) -> None:
        """Nothing to start: brokers ask for certificates when they listen."""

    async def stop(self) -> None:
        """Close the registry."""
        self.registry.close()

    # Who it is

    def verify(self, certificate_pem: str) -> bool:
        """Whether the certificate is a component's, or registered, active and within its validity.

        Raises ValueError for text that is no base64.
        """
        try:
            certificate = x509.load_pem_x509_certificate(as_pem(certificate_pem).encode())
        except binascii.Error as error:
            raise ValueError("Unable to convert certificate PEM") from error
        except ValueError:
            return False
        return self.authority.is_issuer_of(certificate) or self._is_active(certificate)

    def identify(self, der: bytes) -> str:
        """The id of a certificate that is active, or a component's. Raises PermissionError saying why not."""
        certificate, identifier = _read(der)
        if not self.authority.is_issuer_of(certificate) and not self._is_active(certificate):
            raise PermissionError("Certificate is not active")
        return identifier

    def admit(self, der: bytes, client_id: str) -> Session:
        """A session for a certificate and a client id. Raises PermissionError saying why not."""
        certificate, identifier = _read(der)
        if self.authority.is_issuer_of(certificate):
            return Session(None, identifier)
        if len(client_id) > MAX_THING_NAME:
            raise PermissionError("Thing name is too long")
        if not self._is_active(certificate):
            raise PermissionError("Certificate is not active")
        if not self.registry.is_attached(client_id, identifier):
            raise PermissionError(f"the certificate is not attached to a thing named {client_id!r}, the client id")
        return Session(client_id, identifier)

    def _is_active(self, certificate: x509.Certificate) -> bool:
        now = datetime.fromtimestamp(self._clock(), UTC)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return False
        return self.registry.is_active(hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest())

    def may(self, session: Session, operation: str, resource: str) -> bool:
        """Whether a session's device may. Raises ValueError for an operation and a resource of two services."""
        return session.thing is None or is_allowed(self._groups, session.thing, operation, resource)

    # What components ask over IPC

    def token(self, credential: Mapping[str, str]) -> str:
        """A session for an MQTT credential. Raises PermissionError unless its certificate is the client id's thing's,
        ValueError for a certificate that is no base64."""
        pem, client_id = credential.get("certificatePem"), credential.get("clientId")
        if not pem or not client_id:
            raise PermissionError("clientId and certificatePem are required")
        try:
            der = x509.load_pem_x509_certificate(as_pem(pem).encode()).public_bytes(Encoding.DER)
        except binascii.Error as error:
            raise ValueError("Unable to convert certificate PEM") from error
        except ValueError as error:
            raise PermissionError("Certificate is invalid") from error
        token = self._new_token()
        self._sessions[token] = self.admit(der, client_id)
        while len(self._sessions) > self._capacity:
            self._sessions.popitem(last=False)
        return token

    def authorize(self, token: str, operation: str, resource: str) -> bool:
        """Whether the session's device may. Raises KeyError on a token that is not known, ValueError as `may`."""
        session = self._sessions[token]
        self._sessions.move_to_end(token)
        return self.may(session, operation, resource)

    async def certificate_updates(
        self, component: str, send: Callable[[dict[str, object]], None]
    ) -> Callable[[], None]:
        """Send CertificateUpdateEvent now and on every rotation, always of one key pair; gives the way to stop."""
        key = await self._new_rsa()
        return self.certificates.add(component, key, lambda update: send(_event(update)))


def _read(der: bytes) -> tuple[x509.Certificate, str]:
    try:
        return x509.load_der_x509_certificate(der), hashlib.sha256(der).hexdigest()
    except ValueError as error:
        raise PermissionError("Certificate is invalid") from error


def as_pem(text: str) -> str:
    """A certificate's PEM, whose boundaries may be missing. Raises binascii.Error."""
    if text.startswith(_PEM):
        return text
    # As Java's MIME decoder: what is no base64 letter is passed over.
    body = base64.encodebytes(base64.b64decode(text)).decode()
    return f"{_PEM}\n{body}-----END CERTIFICATE-----\n"


def _event(update: CertificateUpdate) -> dict[str, object]:
    return {
        "certificateUpdate": {
            "privateKey": update.private_key,
            "publicKey": update.public_key,
            "certificate": update.certificate,
            "caCertificates": update.ca_certificates,
        }
    }


def _whole(configuration: Mapping[str, Any], section: str, name: str, default: int) -> int:
    members = configuration.get(section)
    value = members.get(name) if isinstance(members, Mapping) else None
    try:
        return min(max(1, int(str(value))), 2**31 - 2) if value is not None else default
    except ValueError as error:
        raise UserError(f"{value!r} is no number", code="client-devices", where=f"{section}.{name}") from error
