"""Client device auth: identities online and offline, sessions, the core's CA and its server certificates."""

import asyncio
import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from foreshore.errors import NotEmulated, UserError
from foreshore.greengrass.client_devices import ClientDeviceAuth, Session
from foreshore.greengrass.device_certificates import (
    CertificateUpdate,
    CoreAuthority,
    ServerCertificates,
    make_ca,
    new_ec_key,
    new_rsa_key,
    pem_of,
    private_pem,
    read_certificate_settings,
)
from foreshore.greengrass.device_registry import DeviceRegistry

START = 1_800_000_000.0
GROUPS = {
    "definitions": {"g": {"selectionRule": "thingName: lamp*", "policyName": "p"}},
    "policies": {"p": {"s": {"operations": ["mqtt:publish"], "resources": ["mqtt:topic:a"]}}},
}
RSA_KEY = new_rsa_key()


class Cloud:
    """IoT Core, as far as a core asks it."""

    def __init__(self) -> None:
        self.online = True
        self.active: set[str] = set()
        self.attached: set[tuple[str, str]] = set()

    def is_online(self) -> bool:
        return self.online

    def is_active(self, certificate_id: str) -> bool:
        return certificate_id in self.active

    def is_attached(self, thing: str, certificate_id: str) -> bool:
        return (thing, certificate_id) in self.attached


class World:
    """An auth with everything around it; `now` is the time in seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cloud = Cloud()
        self.now = START
        self.hosts = ["10.0.0.7", "plant.local"]
        self.lines: list[str] = []
        self.authority = CoreAuthority(folder)
        self.certificates = ServerCertificates(self.authority, lambda: self.hosts, self.clock, self.lines.append)
        self.registry = DeviceRegistry(folder / "devices.db", self.cloud, self.clock)
        numbers = iter(range(100))
        self.auth = ClientDeviceAuth(
            self.registry, self.authority, self.certificates, new_token=lambda: f"token-{next(numbers)}",
            new_rsa=self.rsa, clock=self.clock,
        )  # fmt: skip

    def clock(self) -> float:
        return self.now

    async def rsa(self):
        return RSA_KEY

    def configure(self, configuration) -> None:
        asyncio.run(self.auth.configure(configuration))

    def device(self, thing: str | None = "lamp1", *, days: int = 1) -> x509.Certificate:
        """A registered certificate, attached to a thing."""
        moment = datetime.datetime.fromtimestamp(self.now, datetime.UTC)
        key = new_ec_key()
        name = x509.Name([])
        certificate = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(moment)
            .not_valid_after(moment + datetime.timedelta(days=days)).sign(key, _sha256())
        )  # fmt: skip
        identifier = certificate.fingerprint(_sha256()).hex()
        self.cloud.active.add(identifier)
        if thing is not None:
            self.cloud.attached.add((thing, identifier))
        return certificate


def _sha256():
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.configure({"deviceGroups": GROUPS})
    yield made
    made.registry.close()


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def test_a_device_is_its_certificate_and_its_thing_name(world) -> None:
    lamp = world.device()
    assert world.auth.verify(pem_of(lamp))
    session = world.auth.admit(der(lamp), "lamp1")
    assert session.thing == "lamp1"
    assert world.auth.may(session, "mqtt:publish", "mqtt:topic:a")
    assert not world.auth.may(session, "mqtt:publish", "mqtt:topic:b")
    for client_id, why in (("lamp2", "not attached"), ("", "not attached"), ("l" * 129, "too long")):
        with pytest.raises(PermissionError, match=why):
            world.auth.admit(der(lamp), client_id)
    world.cloud.active.clear()
    assert not world.auth.verify(pem_of(lamp))
    with pytest.raises(PermissionError, match="not active"):
        world.auth.admit(der(lamp), "lamp1")
    with pytest.raises(PermissionError, match="invalid"):
        world.auth.admit(b"no certificate", "lamp1")


def test_a_certificate_past_its_validity_is_refused(world) -> None:
    lamp = world.device(days=1)
    world.now += 2 * 86_400
    assert not world.auth.verify(pem_of(lamp))


def test_offline_what_was_verified_is_trusted_for_a_while(world, tmp_path) -> None:
    lamp, other = world.device(), world.device("lamp2")
    world.configure({"security": {"clientDeviceTrustDurationMinutes": 10}, "deviceGroups": GROUPS})
    world.auth.admit(der(lamp), "lamp1")
    world.cloud.online = False
    world.now += 9 * 60
    assert world.auth.admit(der(lamp), "lamp1").thing == "lamp1"
    with pytest.raises(PermissionError):
        world.auth.admit(der(other), "lamp2")
    # What the core remembers survives it.
    world.registry.close()
    again = World(tmp_path)
    again.cloud.online, again.now = False, world.now
    again.configure({"security": {"clientDeviceTrustDurationMinutes": "10"}})
    assert again.auth.verify(pem_of(lamp))
    again.now += 61
    assert not again.auth.verify(pem_of(lamp))
    # IoT Core's word counts as soon as it can be asked.
    again.cloud.online = True
    assert not again.auth.verify(pem_of(lamp))
    again.registry.close()


def test_what_is_known_of_associated_devices_is_refreshed_daily(world) -> None:
    one, two, gone = (world.device(f"lamp{number}", days=3) for number in (1, 2, 3))
    world.configure({"security": {"clientDeviceTrustDurationMinutes": 60 * 30}})
    for name, certificate in (("lamp1", one), ("lamp2", two), ("lamp3", gone)):
        world.auth.admit(der(certificate), name)
    world.cloud.attached = {each for each in world.cloud.attached if each[0] != "lamp3"}
    world.now += 86_400 - 1
    world.registry.refresh({"lamp1", "lamp3"})
    world.now += 1
    world.cloud.online = False
    world.registry.refresh({"lamp1", "lamp3"})
    world.auth.admit(der(two), "lamp2")
    world.cloud.online = True
    world.registry.refresh({"lamp1", "lamp3"})
    world.cloud.online = False
    world.now += 7 * 3600
    assert world.auth.admit(der(one), "lamp1").thing == "lamp1"
    for name, certificate in (("lamp2", two), ("lamp3", gone)):
        with pytest.raises(PermissionError, match="not active"):
            world.auth.admit(der(certificate), name)


def test_sessions(world) -> None:
    lamp = pem_of(world.device())
    token = world.auth.token({"certificatePem": lamp, "clientId": "lamp1"})
    assert world.auth.authorize(token, "mqtt:publish", "mqtt:topic:a")
    assert not world.auth.authorize(token, "mqtt:subscribe", "mqtt:topicfilter:a")
    with pytest.raises(KeyError):
        world.auth.authorize("nope", "mqtt:publish", "mqtt:topic:a")
    with pytest.raises(ValueError, match="service"):
        world.auth.authorize(token, "mqtt:publish", "http:topic:a")
    bare = "".join(lamp.splitlines()[1:-1])
    assert world.auth.verify(bare)
    for credential in ({}, {"certificatePem": lamp}, {"certificatePem": lamp, "clientId": "lamp2"},
                       {"certificatePem": "QUJD", "clientId": "lamp1"}):  # fmt: skip
        with pytest.raises(PermissionError):
            world.auth.token(credential)
    # The session used longest ago goes first.
    world.configure({"performance": {"maxActiveAuthTokens": 2}, "deviceGroups": GROUPS})
    second = world.auth.token({"certificatePem": lamp, "clientId": "lamp1"})
    assert world.auth.authorize(token, "mqtt:publish", "mqtt:topic:a")
    world.auth.token({"certificatePem": lamp, "clientId": "lamp1"})
    assert world.auth.authorize(token, "mqtt:publish", "mqtt:topic:a")
    with pytest.raises(KeyError):
        world.auth.authorize(second, "mqtt:publish", "mqtt:topic:a")


def test_wrong_groups_leave_the_old_ones(world) -> None:
    session = Session("lamp1", "x")
    with pytest.raises(UserError, match="must be a map"):
        world.configure({"deviceGroups": 5})
    assert world.auth.is_deployed and world.auth.may(session, "mqtt:publish", "mqtt:topic:a")
    world.configure(None)
    assert not world.auth.is_deployed and not world.auth.may(session, "mqtt:publish", "mqtt:topic:a")


def test_server_certificates_rotate(world) -> None:
    taken: list[CertificateUpdate] = []
    stop = world.certificates.add("com.example.Broker", RSA_KEY, taken.append)
    first = x509.load_pem_x509_certificate(taken[0].certificate.encode())
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["plant.local", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.0.0.7")]
    assert (first.not_valid_after_utc - first.not_valid_before_utc).total_seconds() == 7 * 86_400
    assert world.authority.is_issuer_of(first)
    assert taken[0].ca_certificates == [(world.folder / "ca.pem").read_text()]
    key = load_pem_private_key(taken[0].private_key.encode(), None)
    assert key.public_key() == first.public_key() and "PUBLIC KEY" in taken[0].public_key
    world.certificates.check()
    assert len(taken) == 1
    world.now += 6 * 86_400 + 1
    world.certificates.check()
    assert len(taken) == 2 and taken[1].private_key == taken[0].private_key
    world.hosts = ["10.0.0.8"]
    world.certificates.rotate("moved")
    assert "10.0.0.8" in str(x509.load_pem_x509_certificate(taken[2].certificate.encode()).extensions[-1].value)
    world.configure({"certificates": {"serverCertificateValiditySeconds": 5}})
    third = x509.load_pem_x509_certificate(taken[3].certificate.encode())
    assert (third.not_valid_after_utc - third.not_valid_before_utc).total_seconds() == 60
    world.configure({"certificates": {"serverCertificateValiditySeconds": 60, "disableCertificateRotation": True}})
    world.certificates.check()
    world.certificates.rotate("moved")
    assert len(taken) == 4 and "disableCertificateRotation" in world.lines[-1]
    stop()
    world.configure({})
    world.certificates.rotate("moved")
    assert len(taken) == 4


def test_the_ca_is_kept_and_changes_with_its_type(world, tmp_path) -> None:
    first = (tmp_path / "ca.pem").read_text()
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    world.configure({"deviceGroups": GROUPS})
    assert (tmp_path / "ca.pem").read_text() == first
    changes: list[CertificateUpdate] = []
    world.certificates.add("c", RSA_KEY, changes.append)
    world.configure({"certificateAuthority": {"caType": ["ECDSA_P256"]}})
    assert (tmp_path / "ca.pem").read_text() != first and len(changes) == 2
    assert changes[-1].ca_certificates == [(tmp_path / "ca.pem").read_text()]


def test_a_ca_of_the_users(world, tmp_path) -> None:
    key = new_ec_key()
    ca = make_ca(key, datetime.datetime.fromtimestamp(START, datetime.UTC))
    (tmp_path / "own.key").write_text(private_pem(key))
    (tmp_path / "own.pem").write_text(pem_of(ca))
    own = {"privateKeyUri": f"file://{tmp_path}/own.key", "certificateUri": f"file://{tmp_path}/own.pem"}
    world.configure({"certificateAuthority": own})
    assert world.authority.certificate == ca and not world.authority.is_own
    # A component with a certificate of that CA is let in under any name.
    broker = world.authority.issue("broker", RSA_KEY, [], ca.not_valid_before_utc)
    assert world.auth.admit(der(broker), "any").thing is None
    assert world.auth.may(Session(None, "x"), "mqtt:publish", "mqtt:topic:z")
    with pytest.raises(UserError, match="required together"):
        world.configure({"certificateAuthority": {"certificateUri": own["certificateUri"]}})
    with pytest.raises(UserError, match="can't be read"):
        world.configure({"certificateAuthority": {**own, "privateKeyUri": "file:///nowhere"}})
    (tmp_path / "other.key").write_text(private_pem(new_ec_key()))
    with pytest.raises(UserError, match="not that of its certificate"):
        world.configure({"certificateAuthority": {**own, "privateKeyUri": f"file://{tmp_path}/other.key"}})


@pytest.mark.parametrize(
    ("authority", "error"),
    [
        ({"caType": ["DSA"]}, UserError),
        ({"privateKeyUri": "http://x/y", "certificateUri": "file:///c"}, UserError),
        ({"privateKeyUri": "pkcs11:object=ca", "certificateUri": "file:///c"}, NotEmulated),
    ],
)
def test_authorities_that_can_not_be(authority, error) -> None:
    with pytest.raises(error):
        read_certificate_settings({"certificateAuthority": authority})
