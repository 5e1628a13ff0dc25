"""The local certificate authority: `ca.pem`, the server's certificate, and device certificates.

Its own keys are ECDSA P-256. A key pair that a device asks for is RSA of 2048 bits, as on AWS; making one takes some
50 ms of a core, so it is done in a thread. Devices that prefer ECDSA send a CSR.

Devices trust `ca.pem` as they trust Amazon Root CA 1 on AWS. A certificate's id is, as on AWS, the SHA-256 of its DER
form in hex. Private keys are written 0600. Times and file folders are arguments of the calls; no socket here.

Source: AWS IoT developer guide, "X.509 client certificates"; RFC 5280.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from foreshore.errors import AwsError, UserError

DEVICE_YEARS_END = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
"""AWS's own device certificates end at this moment."""

_DAY = timedelta(days=1)


InThread = Callable[[Callable[[], rsa.RSAPrivateKey]], Awaitable[rsa.RSAPrivateKey]]


class Issued(NamedTuple):
    """A certificate and its key pair in PEM. `private_key` is "" when it came from a CSR."""

    certificate_id: str
    certificate: str
    private_key: str
    public_key: str


def certificate_id(der: bytes) -> str:
    """The certificate's id: SHA-256 of DER, 64 hex digits."""
    return hashlib.sha256(der).hexdigest()


def read_certificate(pem: str) -> x509.Certificate:
    """Parse PEM. Raises AwsError CertificateValidationException."""
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise AwsError("CertificateValidationException", "The certificate could not be parsed.", 400) from None


def der_of(certificate: x509.Certificate) -> bytes:
    """A certificate in DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def pem_of(certificate: x509.Certificate) -> str:
    """A certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed `certificate` (name and signature)."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a secret with mode 0600 from its first byte on, replacing the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    new.replace(path)


def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()


def _public_pem(key: object) -> str:
    text: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return text.decode()


def _name(common_name: str, organization: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """Signs certificates with the CA kept in a folder (`ca.pem`, `ca.key`, `server.pem`, `server.key`)."""

    def __init__(self, folder: Path, *, region: str, now: datetime, in_thread: InThread | None = None) -> None:
        self._in_thread = in_thread
        self.folder = folder
        self.ca_path = folder / "ca.pem"
        self.server_certificate = folder / "server.pem"
        self.server_key = folder / "server.key"
        key_path = folder / "ca.key"
        if self.ca_path.exists() != key_path.exists():
            raise UserError(
                "the certificate authority is incomplete: ca.pem and ca.key belong together",
                code="authority-incomplete",
                where=str(folder),
                mend="restore the missing file, or delete both and the state to begin anew",
            )
        if not self.ca_path.exists():
            self._make_ca(key_path, now)
        try:
            self._key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            self.ca = x509.load_pem_x509_certificate(self.ca_path.read_bytes())
        except ValueError as error:
            raise UserError(
                f"can't read the certificate authority: {error}",
                code="authority-unreadable",
                where=str(folder),
                mend="delete ca.pem and ca.key and the state to begin anew",
            ) from error
        self._make_server(region, now)

    def _make_ca(self, key_path: Path, now: datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Foreshore Local CA", "Foreshore")
        ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(max(DEVICE_YEARS_END, now + timedelta(days=3650)))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(ski, critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(key_path, _key_pem(key))
        self.ca_path.write_text(pem_of(certificate))

    def _make_server(self, region: str, now: datetime) -> None:
        """One server certificate for loopback and the endpoint names of AWS; renewed when 30 days are left."""
        if self.server_certificate.exists() and self.server_key.exists():
            present = x509.load_pem_x509_certificate(self.server_certificate.read_bytes())
            names = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            is_right = f"*.iot.{region}.amazonaws.com" in names.get_values_for_type(x509.DNSName)
            if is_right and is_issued_by(present, self.ca) and present.not_valid_after_utc > now + timedelta(days=30):
                return
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [
                x509.DNSName("localhost"),
                x509.DNSName("*.localhost"),
                x509.DNSName(f"*.iot.{region}.amazonaws.com"),
                x509.DNSName(f"*.credentials.iot.{region}.amazonaws.com"),
                x509.DNSName(f"*.jobs.iot.{region}.amazonaws.com"),
                x509.DNSName(f"greengrass-ats.iot.{region}.amazonaws.com"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                x509.IPAddress(ipaddress.ip_address("::1")),
            ]
        )
        certificate = self._sign(
            _name("localhost"),
            key.public_key(),
            now,
            min(now + timedelta(days=800), self.ca.not_valid_after_utc),
            [names, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])],
        )
        write_private(self.server_key, _key_pem(key))
        self.server_certificate.write_text(pem_of(certificate))

    def _sign(
        self,
        subject: x509.Name,
        public_key: object,
        not_before: datetime,
        not_after: datetime,
        extensions: list[x509.ExtensionType],
        signer: ec.EllipticCurvePrivateKey | None = None,
    ) -> x509.Certificate:
        issuer_key = self.ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.ca.subject)
            .public_key(public_key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before - _DAY)
            .not_valid_after(min(not_after, self.ca.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key),
                critical=False,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(public_key),  # type: ignore[arg-type]
                critical=False,
            )
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(signer or self._key, hashes.SHA256())  # type: ignore[arg-type]

    def issue_server(
        self, names: list[str], not_before: datetime, not_after: datetime, *, unknown: bool = False
    ) -> Issued:
        """A server certificate for other names or times; with `unknown` a CA that nobody knows signs it."""
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName([_general_name(name) for name in names])
        extensions: list[x509.ExtensionType] = [san, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])]
        signer = ec.generate_private_key(ec.SECP256R1()) if unknown else None
        certificate = self._sign(_name(names[0]), key.public_key(), not_before, not_after, extensions, signer)
        return Issued(
            certificate_id(der_of(certificate)), pem_of(certificate), _key_pem(key), _public_pem(key.public_key())
        )

    def endorse(self, ca: x509.Certificate, now: int) -> str:
        """Vouch for another CA: its name and key signed by this one, so that who trusts `ca.pem` trusts it too.

        `now` is in seconds since the epoch. Gives PEM, to be sent after the server's certificate.
        """
        subject = x509.SubjectKeyIdentifier.from_public_key(ca.public_key())
        issuer = self.ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return pem_of(
            x509.CertificateBuilder()
            .subject_name(ca.subject)
            .issuer_name(self.ca.subject)
            .public_key(ca.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(now, UTC) - _DAY)
            .not_valid_after(min(ca.not_valid_after_utc, self.ca.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
            .add_extension(subject, critical=False)
            .sign(self._key, hashes.SHA256())  # type: ignore[arg-type]
        )

    def issue(
        self, now: datetime, *, common_name: str = "AWS IoT Certificate", until: datetime | None = None
    ) -> Issued:
        """Make an ECDSA key pair and certificate; `until` ends its validity before AWS's usual end."""
        return self._issue(ec.generate_private_key(ec.SECP256R1()), now, common_name, until)

    async def issue_keys(
        self, now: datetime, *, common_name: str = "AWS IoT Certificate", until: datetime | None = None
    ) -> Issued:
        """As `issue`, with the 2048-bit RSA key pair that CreateKeysAndCertificate promises."""
        key = await self._in_thread(_rsa_key) if self._in_thread is not None else _rsa_key()
        return self._issue(key, now, common_name, until)

    def _issue(
        self,
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
        now: datetime,
        common_name: str,
        until: datetime | None,
    ) -> Issued:
        certificate = self._sign(_name(common_name), key.public_key(), now, until or DEVICE_YEARS_END, [])
        return Issued(
            certificate_id(der_of(certificate)), pem_of(certificate), _key_pem(key), _public_pem(key.public_key())
        )

    def sign_request(self, pem: str, now: datetime) -> Issued:
        """Sign a device's CSR. Raises AwsError InvalidRequestException.

        Keys may be RSA of 2048 bits or more, or on the curves P-256, P-384 or P-521 (CreateCertificateFromCsr).
        """
        try:
            request = x509.load_pem_x509_csr(pem.encode())
            key = request.public_key()
            is_signed = request.is_signature_valid
        except (ValueError, UnsupportedAlgorithm):
            raise AwsError("InvalidRequestException", "The CSR could not be parsed.", 400) from None
        strong = (isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048) or (
            isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1", "secp521r1")
        )
        if not is_signed or not strong:
            raise AwsError("InvalidRequestException", "The CSR's key or signature is not acceptable.", 400)
        certificate = self._sign(request.subject, key, now, DEVICE_YEARS_END, [])
        return Issued(certificate_id(der_of(certificate)), pem_of(certificate), "", _public_pem(key))


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
