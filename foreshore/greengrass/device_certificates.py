"""A core's own certificate authority and the server certificates it gives to local brokers. Files, no sockets.

Each core has a CA ("Greengrass Core CA", RSA 2048 or ECDSA P-256, five years) that client devices trust, unless
`certificateAuthority` names a CA of the user's. A local broker's certificate is good for
`certificates.serverCertificateValiditySeconds` (7 days; 1 minute to 10 days) and is made anew a day before its end,
when the core's addresses change and when the CA does; its alternative names are those addresses and `localhost`.

Sources: Greengrass developer guide, "Client device auth" (certificateAuthority, certificates);
aws-greengrass-client-device-auth 2.5 (certificate/).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from foreshore.errors import NotEmulated, UserError

CA_NAME = "Greengrass Core CA"
CA_DAYS = 5 * 365
CA_TYPES = ("RSA_2048", "ECDSA_P256")
DEFAULT_VALIDITY_S = 7 * 86_400
MIN_VALIDITY_S = 60
MAX_VALIDITY_S = 10 * 86_400
RENEW_BEFORE = timedelta(days=1)
_CA_USAGE = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)  # fmt: skip
_AUTHORITY = ("privateKeyUri", "certificateUri", "certificateChainUri")

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
NewKey = Callable[[], Awaitable[rsa.RSAPrivateKey]]


class CertificateSettings(NamedTuple):
    """What the component's configuration says of certificates. The three paths are None for a CA of the core's own."""

    validity_s: int = DEFAULT_VALIDITY_S
    is_rotation_off: bool = False
    ca_type: str = CA_TYPES[0]
    private_key: Path | None = None
    certificate: Path | None = None
    chain: Path | None = None


class CertificateUpdate(NamedTuple):
    """A broker's server certificate, PEM. `ca_certificates` are what it chains to."""

    private_key: str
    public_key: str
    certificate: str
    ca_certificates: list[str]


def read_certificate_settings(configuration: Mapping[str, Any]) -> CertificateSettings:
    """Read `certificates` and `certificateAuthority`. Raises UserError, and NotEmulated for a hardware module."""
    certificates = _map(configuration.get("certificates"))
    authority = _map(configuration.get("certificateAuthority"))
    named = authority.get("caType") or configuration.get("ca_type") or [CA_TYPES[0]]
    ca_type = str(named[0] if isinstance(named, list) else named)
    if ca_type not in CA_TYPES:
        raise UserError(
            f"caType {ca_type!r} is not known", code="certificate-authority", where="certificateAuthority",
            mend=f"write one of {', '.join(CA_TYPES)}",
        )  # fmt: skip
    key, certificate, chain = (_path(authority.get(name), name) for name in _AUTHORITY)
    if (key is None) != (certificate is None):
        raise UserError(
            "certificateUri and privateKeyUri are required together", code="certificate-authority",
            where="certificateAuthority", mend="name both files, or neither",
        )  # fmt: skip
    validity = _whole(certificates.get("serverCertificateValiditySeconds"), DEFAULT_VALIDITY_S)
    is_off = str(certificates.get("disableCertificateRotation", False)).lower() == "true"
    return CertificateSettings(
        min(max(validity, MIN_VALIDITY_S), MAX_VALIDITY_S), is_off, ca_type, key, certificate, chain
    )


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _whole(value: object, default: int) -> int:
    try:
        return int(str(value)) if value is not None else default
    except ValueError:
        return default


def _path(value: object, where: str) -> Path | None:
    if not value:
        return None
    try:
        uri = urlsplit(str(value))
    except ValueError:
        uri = urlsplit("")
    if uri.scheme == "pkcs11":
        raise NotEmulated(f"{where} in a hardware security module", "Name a file: file:///path.")
    if uri.scheme != "file" or not uri.path:
        raise UserError(f"{value!r} is no file URI", code="certificate-authority", where=where, mend="file:///path")
    return Path(unquote(uri.path))


# Certificates


def pem_of(certificate: x509.Certificate) -> str:
    """A certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def private_pem(key: PrivateKey) -> str:
    """A private key in PEM, PKCS#8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_pem(key: PrivateKey) -> str:
    """The public half in PEM."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def new_rsa_key() -> rsa.RSAPrivateKey:
    """A 2048-bit key; some hundred milliseconds, so best made in a thread."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def new_ec_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Amazon.com Inc."),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Amazon Web Services"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "Washington"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Seattle"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def make_ca(key: PrivateKey, now: datetime) -> x509.Certificate:
    """A CA certificate signed by itself, with a key usage: verifiers that keep RFC 5280 to the letter ask for one."""
    name = _name(CA_NAME)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _issuer_identifier(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class CoreAuthority:
    """The CA in a folder (`ca.pem`, `ca.key`), or the user's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.settings = CertificateSettings()
        self.key: PrivateKey
        self.chain: list[x509.Certificate] = []

    @property
    def certificate(self) -> x509.Certificate:
        """The CA that signs."""
        return self.chain[0]

    @property
    def root(self) -> x509.Certificate:
        """What client devices are told to trust: the last of the chain (PutCertificateAuthorities)."""
        return self.chain[-1]

    @property
    def is_own(self) -> bool:
        """Whether the CA is the core's, and not one of the user's."""
        return self.settings.certificate is None

    async def use(self, settings: CertificateSettings, now: datetime, new_rsa: NewKey) -> bool:
        """Take the settings; True when the CA is another one now. Raises UserError for files that can't be used."""
        before = self.chain[0] if self.chain else None
        if settings.certificate is not None and settings.private_key is not None:
            self.key, self.chain = _load(settings.private_key, settings.certificate, settings.chain)
        else:
            await self._use_own(settings.ca_type, now, new_rsa)
        self.settings = settings
        return before != self.chain[0]

    async def _use_own(self, ca_type: str, now: datetime, new_rsa: NewKey) -> None:
        key_file, file = self._folder / "ca.key", self._folder / "ca.pem"
        wants_rsa = ca_type == CA_TYPES[0]
        if key_file.is_file() and file.is_file():
            key, chain = _load(key_file, file, None)
            if isinstance(key, rsa.RSAPrivateKey) is wants_rsa and chain[0].not_valid_after_utc > now + RENEW_BEFORE:
                self.key, self.chain = key, chain
                return
        self.key = await new_rsa() if wants_rsa else new_ec_key()
        self.chain = [make_ca(self.key, now)]
        write_private(key_file, private_pem(self.key))
        file.write_text(pem_of(self.chain[0]))

    def is_issuer_of(self, certificate: x509.Certificate) -> bool:
        """Whether this CA signed a certificate: it is then one of the core's components."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True

    def issue(self, common_name: str, key: PrivateKey, hosts: list[str], now: datetime) -> x509.Certificate:
        """A server certificate for a key."""
        names = [_alternative_name(host) for host in dict.fromkeys([*hosts, "localhost"])]
        return (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(seconds=self.settings.validity_s))
            .add_extension(_issuer_identifier(self.certificate), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def write_private(path: Path, text: str) -> None:
    """Write a secret with mode 0600 from its first byte on, replacing the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


def _load(key: Path, certificate: Path, chain: Path | None) -> tuple[PrivateKey, list[x509.Certificate]]:
    try:
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        certificates = x509.load_pem_x509_certificates((chain or certificate).read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(
            f"the CA can't be read: {error}", code="certificate-authority", where=str(certificate),
            mend="name a CA certificate and its private key, both PEM without a password",
        ) from error  # fmt: skip
    if not isinstance(loaded, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise UserError("the CA's key is neither RSA nor EC", code="certificate-authority", where=str(key))
    if loaded.public_key() != certificates[0].public_key():
        raise UserError("the CA's key is not that of its certificate", code="certificate-authority", where=str(key))
    return loaded, certificates


# Who has one


@dataclass(slots=True, eq=False)
class _Holder:
    name: str
    key: PrivateKey
    take: Callable[[CertificateUpdate], None]
    expires: datetime


class ServerCertificates:
    """The server certificates of one core, each with its holder, made anew in time.

    `hosts` gives the core's addresses, `clock` seconds since the epoch, `say` takes a line for the log.
    """

    def __init__(
        self,
        authority: CoreAuthority,
        hosts: Callable[[], list[str]],
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self.authority = authority
        self._hosts = hosts
        self._clock = clock
        self._say = say
        self._holders: list[_Holder] = []

    def add(self, name: str, key: PrivateKey, take: Callable[[CertificateUpdate], None]) -> Callable[[], None]:
        """Give a certificate for `key` now and on each rotation; gives the way to stop."""
        holder = _Holder(name, key, take, self._now())
        self._holders.append(holder)
        self._issue(holder, "a new subscription")

        def stop() -> None:
            if holder in self._holders:
                self._holders.remove(holder)

        return stop

    def rotate(self, reason: str) -> None:
        """Make every certificate anew, unless rotation is switched off."""
        if self.authority.settings.is_rotation_off:
            self._say(f"certificates are not rotated ({reason}): disableCertificateRotation")
            return
        for holder in list(self._holders):
            self._issue(holder, reason)

    def check(self) -> None:
        """Make those anew that end within a day."""
        if self.authority.settings.is_rotation_off:
            return
        limit = self._now() + RENEW_BEFORE
        for holder in [each for each in self._holders if each.expires < limit]:
            self._issue(holder, f"it ends at {holder.expires:%Y-%m-%dT%H:%M:%SZ}")

    def _issue(self, holder: _Holder, reason: str) -> None:
        certificate = self.authority.issue(holder.name, holder.key, self._hosts(), self._now())
        holder.expires = certificate.not_valid_after_utc
        self._say(f"New server certificate generated for {holder.name}: {reason}")
        pem, ca = pem_of(certificate), pem_of(self.authority.certificate)
        holder.take(CertificateUpdate(private_pem(holder.key), public_pem(holder.key), pem, [ca]))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(int(self._clock()), UTC)
