"""Client devices of one core: its own certificate authority, its local MQTT listener, and who is let in there.

With aws.greengrass.clientdevices.Auth in the deployment it is as on a device: certificate, thing and device groups
decide. Without it a device would have no listener to connect to; here, for a quick start, any client whose certificate
IoT Core holds active is let in and may do anything, which the log says once.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from foreshore.core_link import CoreLink
from foreshore.database import Database
from foreshore.greengrass.client_devices import NAME as AUTH
from foreshore.greengrass.client_devices import ClientDeviceAuth, Session
from foreshore.greengrass.device_certificates import (
    CertificateUpdate,
    CoreAuthority,
    ServerCertificates,
    new_ec_key,
    new_rsa_key,
    pem_of,
    write_private,
)
from foreshore.greengrass.device_registry import DeviceRegistry
from foreshore.iot.mqtt import reason
from foreshore.iot.mqtt.access import ConnectDecision, ConnectRequest
from foreshore.iot.mqtt.server import Broker
from foreshore.iot.service import IotCore
from foreshore.seams import Connectivity, EmitSpan

MOQUETTE = "aws.greengrass.clientdevices.mqtt.Moquette"
EMQX = "aws.greengrass.clientdevices.mqtt.EMQX"
IP_DETECTOR = "aws.greengrass.clientdevices.IPDetector"
CHECK_S = 30.0
"""How often the end of certificates is looked at (aws-greengrass-client-device-auth, CertificateExpiryMonitor)."""

Say = Callable[[str, str], None]


class Identities:
    """IoT Core as the core can ask it: only while the core's link is up."""

    def __init__(self, iot: IotCore, link: CoreLink) -> None:
        self._iot = iot
        self._link = link

    def is_online(self) -> bool:
        """Whether the link is up."""
        return self._link.connected

    def is_active(self, certificate_id: str, /) -> bool:
        """VerifyClientDeviceIdentity."""
        document = self._iot.certificates.kind.get(certificate_id)
        return document is not None and document["status"] == "ACTIVE"

    def is_attached(self, thing: str, certificate_id: str, /) -> bool:
        """VerifyClientDeviceIoTCertificateAssociation."""
        return self._iot.registry.principals.has(thing, self._iot.certificates.arn(certificate_id))


class DeviceAccess:
    """`iot.mqtt.access.Access` of the local broker. `is_mqtt3_only()` says whether MQTT 5 is refused."""

    def __init__(self, auth: ClientDeviceAuth, is_mqtt3_only: Callable[[], bool], say: Say) -> None:
        self._auth = auth
        self._is_mqtt3_only = is_mqtt3_only
        self._say = say
        self._has_told = False

    def connect(self, request: ConnectRequest, /) -> ConnectDecision:
        """Let a device in by its certificate and client id."""
        if request.protocol_level == 5 and self._is_mqtt3_only():
            return self._refuse(request, f"{MOQUETTE} speaks MQTT 3.1.1 only", reason.UNSUPPORTED_PROTOCOL_VERSION)
        if request.certificate is None:
            return self._refuse(request, "no client certificate")
        if not self._auth.is_deployed:
            return self._connect_anybody(request, request.certificate)
        try:
            session = self._auth.admit(request.certificate, request.client_id)
        except PermissionError as error:
            return self._refuse(request, str(error))
        if not self._auth.may(session, "mqtt:connect", f"mqtt:clientId:{request.client_id}"):
            return self._refuse(request, "no device group allows mqtt:connect")
        return ConnectDecision(True, session, session.certificate_id)

    def _connect_anybody(self, request: ConnectRequest, certificate: bytes) -> ConnectDecision:
        if not self._has_told:
            self._has_told = True
            self._say("WARN", f"{AUTH} is not deployed: any device with an active certificate may do anything here")
        try:
            identifier = self._auth.identify(certificate)
        except PermissionError as error:
            return self._refuse(request, str(error))
        return ConnectDecision(True, Session(None, identifier), identifier)

    def _refuse(self, request: ConnectRequest, why: str, code: int = reason.NOT_AUTHORIZED) -> ConnectDecision:
        self._say("WARN", f"the client {request.client_id!r} is refused: {why}")
        return ConnectDecision(False, reason_code=code)

    def may_publish(self, identity: object, topic: str, retain: bool, /) -> bool:
        """mqtt:publish."""
        return self._may(identity, "mqtt:publish", f"mqtt:topic:{topic}")

    def may_subscribe(self, identity: object, filter: str, /) -> bool:
        """mqtt:subscribe; of a shared subscription, on its filter."""
        parts = filter.split("/", 2)
        inner = parts[2] if parts[0] == "$share" and len(parts) == 3 else filter
        return self._may(identity, "mqtt:subscribe", f"mqtt:topicfilter:{inner}")

    def may_receive(self, identity: object, topic: str, /) -> bool:
        """Asked at the subscription, and not again."""
        return True

    def _may(self, identity: object, operation: str, resource: str) -> bool:
        return isinstance(identity, Session) and self._auth.may(identity, operation, resource)


class Unused:
    """A component of AWS's whose place the listener takes: what is configured of it has no effect, and that is said."""

    def __init__(self, name: str, say: Say) -> None:
        self._name = name
        self._say = say

    async def configure(self, configuration: Mapping[str, Any] | None) -> None:
        """Say which settings have no effect."""
        if configuration:
            keys = ", ".join(configuration)
            self._say("WARN", f"{self._name}: {keys} has no effect, the edge has a listener of its own")

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""


class Field:
    """What one core is to things in the field."""

    def __init__(
        self,
        *,
        root: Path,
        iot: IotCore,
        link: CoreLink,
        manual: Callable[[], list[Connectivity]],
        associated: Callable[[], set[str]],
        is_deployed: Callable[[str], bool],
        span: EmitSpan,
        say: Say,
    ) -> None:
        self.port = 0
        self._host = "127.0.0.1"
        self._folder = root / "work" / AUTH
        self._iot = iot
        self._manual = manual
        self._associated = associated
        self._say = say
        self._is_deployed = is_deployed
        self._was_deployed = False
        self._timer: asyncio.TimerHandle | None = None
        authority = CoreAuthority(self._folder)
        self.auth = ClientDeviceAuth(
            DeviceRegistry(self._folder / "devices.db", Identities(iot, link), time.time),
            authority,
            ServerCertificates(authority, self.hosts, time.time, lambda text: say("INFO", text)),
            new_token=lambda: str(uuid4()),
            new_rsa=lambda: asyncio.to_thread(new_rsa_key),
            clock=time.time,
        )
        self.auth.on_change = self._rights_changed
        self.auth.on_authority = self._authority_changed
        self._database = Database(root / "work/mqtt-broker/broker.db", "")
        self.broker = Broker(
            profile="standard", access=DeviceAccess(self.auth, self._is_mqtt3_only, say), database=self._database,
            span=lambda each: span(each._replace(service="greengrass")),
        )  # fmt: skip
        self.bridge_id = "mqtt-bridge-" + secrets.token_hex(6)[:11]
        self._context = iot.server_context(has_certificate=False)

    def _is_mqtt3_only(self) -> bool:
        return self._is_deployed(MOQUETTE) and not self._is_deployed(EMQX)

    async def listen(self, host: str, port: int) -> int:
        """Serve client devices over mutual TLS; give the port. Raises OSError when it is taken."""
        self._host = host
        self.auth.certificates.add(MOQUETTE, new_ec_key(), self._use)
        self.port = await self.broker.listen(host, port, kind="mqtts", ssl=self._context)
        self._timer = asyncio.get_running_loop().call_later(CHECK_S, self._tick)
        return self.port

    async def stop(self) -> None:
        """Close the listener."""
        if self._timer is not None:
            self._timer.cancel()
        await self.broker.stop()
        self._database.close()

    def _tick(self) -> None:
        self.auth.certificates.check()
        self.auth.registry.refresh(self._associated())
        self._timer = asyncio.get_running_loop().call_later(CHECK_S, self._tick)

    # Certificates

    @property
    def ca(self) -> str:
        """What client devices are to trust, PEM."""
        return pem_of(self.auth.authority.root)

    @property
    def ca_file(self) -> Path:
        """The same as a file."""
        return self._folder / "core-ca.pem"

    def _use(self, update: CertificateUpdate) -> None:
        """Give a new certificate to every later handshake; connections that are up go on with theirs.

        With the core's own CA the chain ends as well at the edge's: who trusts `ca.pem` trusts the core's listener.
        """
        authority = self.auth.authority
        chain = [pem_of(each) for each in authority.chain]
        if authority.is_own:
            chain = [self._iot.authority.endorse(authority.certificate, int(time.time()))]
        file, key = self._folder / "broker.pem", self._folder / "broker.key"
        write_private(key, update.private_key)
        file.write_text(update.certificate + "".join(chain))
        self._context.load_cert_chain(file, key)

    def _authority_changed(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.ca_file.write_text(self.ca)
        self._context.load_verify_locations(cadata=pem_of(self.auth.authority.certificate))

    # Addresses

    def connectivity(self) -> list[Connectivity]:
        """Where devices reach this core: what UpdateConnectivityInfo said, else the listener's own address."""
        return self._manual() or [Connectivity(f"AUTOIP_{self._host}_0", self._host, self.port)]

    @property
    def is_discoverable(self) -> bool:
        """Whether discovery tells of this core: client device auth is deployed and the listener is up."""
        return self.auth.is_deployed and self.port != 0

    def hosts(self) -> list[str]:
        """The addresses in the server's certificate."""
        return [*(each.host for each in self.connectivity()), self._host]

    def connectivity_changed(self) -> None:
        """UpdateConnectivityInfo was called."""
        self.auth.certificates.rotate("connectivity info was updated")

    # Rights

    def _rights_changed(self) -> None:
        self.broker.invalidate_access()
        if self._was_deployed == self.auth.is_deployed:
            return
        self._was_deployed = self.auth.is_deployed
        for client in self.broker.clients():
            self.broker.disconnect(client.client_id, "SERVER_INITIATED_DISCONNECT")
