"""IoT Core's shell: it opens the listeners and joins the parts: registry, policies, broker, rules, APIs.

Three listeners: MQTT without TLS for local tools (everything is allowed there), MQTT over mutual TLS (with custom
authorizers for clients without a certificate), and HTTPS with WebSocket, which takes MQTT by ALPN as well. The AWS
endpoint calls `handle_iot`, `handle_iot_data` and `handle_jobs_data`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl as ssl_module
import string
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from foreshore.errors import AwsError, NotEmulated
from foreshore.http import Request, Response
from foreshore.iot.access import Identity, PolicyAccess, require
from foreshore.iot.advisor.service import Advisor, Edge
from foreshore.iot.authority import Authority
from foreshore.iot.authorizers import Authorizers
from foreshore.iot.bulk_registration import BulkRegistration
from foreshore.iot.certificate_providers import CertificateProviders
from foreshore.iot.certificates import Certificates
from foreshore.iot.commands import Commands, CommandsData
from foreshore.iot.control import Authorization, Part, service_of
from foreshore.iot.credentials import CredentialProvider, RoleAliases
from foreshore.iot.data_plane import DataPlane
from foreshore.iot.defender_reports import DefenderReports
from foreshore.iot.device_server import ALPN, DeviceServer, limited, named
from foreshore.iot.dynamic_members import DynamicMembers
from foreshore.iot.groups import BillingGroups, ThingGroups
from foreshore.iot.https import DeviceHttps, refusal
from foreshore.iot.indexing import FleetIndex
from foreshore.iot.job_devices import JobDevices, JobsData
from foreshore.iot.job_files import BackendFiles
from foreshore.iot.job_rollouts import Rollouts
from foreshore.iot.job_templates import JobTemplates
from foreshore.iot.jobs import Jobs
from foreshore.iot.log_watch import LogWatch, World
from foreshore.iot.log_writer import Entry, LogWriter
from foreshore.iot.mqtt.limits import Profile
from foreshore.iot.mqtt.server import Broker
from foreshore.iot.own_things import OwnThings, ThingFiles
from foreshore.iot.policy_resources import PolicyResources
from foreshore.iot.presence import Presence
from foreshore.iot.provisioning import Provisioning
from foreshore.iot.provisioning_resources import Provisioner
from foreshore.iot.registry import Registry
from foreshore.iot.registry_events import RegistryEvents
from foreshore.iot.resources import Resources
from foreshore.iot.rules import compile as compile_sql
from foreshore.iot.rules.engine import Engine
from foreshore.iot.settings import Settings
from foreshore.iot.shadows import Shadows
from foreshore.iot.store import Arns, Document, Ground, Tags, open_database
from foreshore.iot.topic_rules import TopicRules
from foreshore.seams import EmitLog, EmitSpan, Invoke, LogLine, Publication
from foreshore.shapes.service_model import Service

HOOK_S = 5.0
"""Seconds a pre-provisioning hook, or a certificate provider, has to answer."""

_CAPITALS = string.ascii_uppercase + string.digits


class IotCore:
    """IoT Core of one account and region. `start` and `stop` may be called twice.

    `state` holds `iot.db`, `certs` the CA and the server's certificate. `backend_url` gives the HTTP base of the AWS
    endpoint, for rule actions. `mqtt_profile` is "aws" or "standard"; without `rate_limits` quotas on rates are off.
    `check_roles` asks roles and resource policies before a rule acts; `strict_live` refuses SQL that AWS was seen to.
    """

    def __init__(
        self,
        *,
        state: Path,
        certs: Path,
        region: str,
        account: str,
        span: EmitSpan,
        log: EmitLog,
        invoke: Invoke | None,
        backend_url: Callable[[], str],
        mqtt_profile: Profile = "aws",
        rate_limits: bool = True,
        check_roles: bool = False,
        strict_live: bool = False,
    ) -> None:
        self.arns = Arns(region, account)
        self.host = "127.0.0.1"
        self.mqtt_port = self.mqtts_port = self.https_port = self.also_https_port = self.advisor_port = 0
        self._log = log
        self._invoke = invoke
        self._check_roles = check_roles
        self._strict_live = strict_live
        self.database = open_database(state / "iot.db")
        self.authority = Authority(certs, region=region, now=datetime.now(UTC), in_thread=asyncio.to_thread)
        self.ground = Ground(self.database, self.arns, time.time, lambda: str(uuid.uuid4()))
        self._contexts: list[ssl_module.SSLContext] = []
        self._is_running = False
        self._ticking: asyncio.TimerHandle | None = None
        self._make_control_plane()
        self._make_bus(span, log, invoke, backend_url, mqtt_profile, rate_limits)
        self._make_services()

    def _make_control_plane(self) -> None:
        ground = self.ground
        self.tags = Tags(ground)
        self.certificates = Certificates(ground, self.authority, self.tags)
        self.policies = PolicyResources(ground, self.tags)
        self.registry = Registry(ground, self.tags)
        self.role_aliases = RoleAliases(ground, self.tags)
        self.settings = Settings(ground, self.tags, self.endpoint, self._warn)
        self.registry.events = RegistryEvents(ground, self.settings, self.publish)
        self.authorization = Authorization(self.certificates, self.policies, self.registry, self.arns)
        self.access = PolicyAccess(self.certificates, self.policies, self.registry, self.arns)
        self.index = FleetIndex(ground, self.registry, lambda: self.presence)
        self.groups = self.index.groups = ThingGroups(ground, self.tags, self.registry, self.index.thing)
        wanted = "THING_GROUP_MEMBERSHIP"
        self.dynamic_members = DynamicMembers(
            self.groups, self.registry, lambda: self.settings.events_on(wanted), time.monotonic
        )
        self.billing_groups = BillingGroups(ground, self.tags, self.registry)
        self.policies.groups_of = self.groups.all_of
        self.policies.parents_of = self.groups.parents_of
        self.authorizers = Authorizers(ground, self.tags, self.access, self._invoke)
        self.access.authorize = self.authorizers.authorize
        self.certificates.trust = self._trust
        self.certificates.on_registered = self._certificate_registered
        self.certificates.on_deactivated = self._disconnect_principal

    def _make_bus(
        self,
        span: EmitSpan,
        log: EmitLog,
        invoke: Invoke | None,
        backend_url: Callable[[], str],
        profile: Profile,
        rate_limits: bool,
    ) -> None:
        self.presence = Presence(self.publish, lambda: time.time_ns() // 1_000_000)
        self.broker = Broker(
            profile=profile,
            access=self.access,
            observer=self.presence,
            database=self.database,
            span=span,
            rate_limits=rate_limits,
        )
        self.presence.is_heard = self.broker.is_heard
        self.ground.listeners.append(self.access.invalidate)
        self.ground.listeners.append(self.broker.invalidate_access)
        self.engine = Engine(
            region=self.arns.region,
            account=self.arns.account,
            publish=self.publish,
            invoke=invoke,
            backend_url=backend_url,
            endpoint_url=backend_url,
            span=span,
            log=self._rule_log,
            things=_Things(self),
            check_roles=self._check_roles,
            strict_live=self._strict_live,
        )
        self.rules = TopicRules(self.ground, self.tags, self.engine, compile_sql)
        self.rules.restore()
        self.engine.attach(self.broker)
        self.log_writer = LogWriter(self.engine.aws, uuid.uuid4().hex, self._warn)
        self.log_watch = LogWatch(self._watched_world(), self.broker)
        self.settings.on_logging = self.log_watch.apply
        self.log_watch.apply()

    def _watched_world(self) -> World:
        """What the entries for CloudWatch Logs are made of."""
        put = self.log_writer.put
        return World(
            account=self.arns.account, options=self.settings.log_options,
            put=lambda group, now_ns, text: put(Entry(group, now_ns // 1_000_000, text)), wall_ns=time.time_ns,
            new_uuid=lambda: str(uuid.uuid4()),
            groups_of=lambda name: self.groups.all_of(name) if name in self.registry.things else (),
        )  # fmt: skip

    def _rule_log(self, line: LogLine) -> None:
        self._log(line)
        self.log_watch.rule(line)

    def _make_services(self) -> None:
        self.data_plane = DataPlane(
            self.broker,
            self.presence,
            lambda request: self.https.identify(request),
            self._require,
            self.access.may_receive,
            self._forget_will,
            self.broker.retained_list,
            time.time,
            self._deliver_confirmed,
        )
        files = BackendFiles(self.engine.aws)
        self.rollouts = Rollouts(self.ground, self.groups, self.broker, self.settings.events_on, files)
        self.job_devices = JobDevices(self.ground, self.rollouts, self.broker)
        self.job_templates = JobTemplates(self.ground, self.tags, files)
        self.jobs = Jobs(self.ground, self.tags, self.rollouts, self.job_templates, files)
        self.registry.on_change = self._thing_changed
        self.commands = Commands(self.ground, self.tags, self.broker, self.data_plane.permit)
        self._tasks: set[asyncio.Task[None]] = set()
        self.provisioner = Provisioner(
            self.ground, self.authority, self.certificates, self.registry, self.policies, self.groups
        )
        hook = limited(self._invoke, HOOK_S) if self._invoke else None
        self.certificate_providers = CertificateProviders(self.ground, self.tags, hook)
        self.provisioning = Provisioning(
            self.ground, self.tags, self.authority, self.certificates, self.policies, self.provisioner,
            self.certificate_providers, self.broker, hook, self._spawn,
        )  # fmt: skip
        self.defender_reports = DefenderReports(self.broker, time.time)
        self.bulk_registration = BulkRegistration(self.ground, self.provisioner, files, self._spawn)
        self.shadows = Shadows(self.broker, self.ground.kind("shadow"), time.time)
        self.data_plane.shadows = self.shadows
        self.index.shadows_of = self.shadows.documents
        credentials = CredentialProvider(
            self.role_aliases, self.registry, self._require, time.time,
            lambda count: "".join(secrets.choice(_CAPITALS) for _ in range(count)),
        )  # fmt: skip
        self.advisor = Advisor(self.ground, self.tags, self._advised_edge())
        self.resources = Resources(self.parts(), self.registry, self.policies)
        self.https = DeviceHttps(
            self.access, self.handle_data_plane, self.handle_jobs_data, credentials, self._upgrade, self.ground.clock
        )
        self._https_servers = [DeviceServer(self.broker, self.https.handle, self._failed) for _ in range(2)]

    def _advised_edge(self) -> Edge:
        """What Device Advisor may do here."""
        prefix = self.arns.iot("cert/")
        return Edge(
            broker=self.broker, authority=self.authority, host=lambda: self.host, port=lambda: self.advisor_port,
            server_context=self.server_context,
            principals=lambda thing: [
                arn.removeprefix(prefix) for arn in self.registry.principals.of(thing) if arn.startswith(prefix)
            ],
            policies=lambda arn, thing: [
                self.policies.parsed(name) for name in self.policies.in_force(arn, thing or None)
            ],
            update_shadow=self.shadows.update,
            create_job=self.jobs.open,
        )  # fmt: skip

    @cached_property
    def control(self) -> Service:
        """The `iot` API. Its model is read when it is first asked."""
        return service_of("iot", self.parts())

    @cached_property
    def data(self) -> Service:
        """The `iot-data` API."""
        return service_of("iot-data", [self.data_plane])

    @cached_property
    def jobs_data(self) -> Service:
        """The `iot-jobs-data` API."""
        parts: list[Part] = [JobsData(self.job_devices, self.data_plane.permit), CommandsData(self.commands)]
        return service_of("iot-jobs-data", parts)

    @cached_property
    def device_advisor(self) -> Service:
        """The `iotdeviceadvisor` API."""
        return service_of("iotdeviceadvisor", [self.advisor])

    def parts(self) -> list[Part]:
        """The parts of the control plane, each with its operations."""
        return [
            self.certificates,
            self.policies,
            self.registry,
            self.groups,
            self.billing_groups,
            self.index,
            self.authorizers,
            self.rules,
            self.role_aliases,
            self.settings,
            self.authorization,
            self.jobs,
            self.job_templates,
            self.commands,
            self.certificate_providers,
            self.provisioning,
            self.bulk_registration,
        ]

    def _require(self, identity: Identity, action: str, resource: str) -> None:
        require(self.access, identity, action, resource)

    # Listening

    async def start(
        self, host: str, *, mqtt_port: int, mqtts_port: int, https_port: int, also_https_port: int | None = None
    ) -> None:
        """Open the listeners; 0 takes a free port. Raises OSError, with `port` set, when one can't be had.

        `also_https_port` is a second port for what `https_port` takes, as AWS has 443 beside 8443; DescribeEndpoint
        then gives that one.
        """
        if self._is_running:
            return
        self._is_running = True
        self.host = host
        try:
            await self.engine.start()
            self.mqtt_port = await named(mqtt_port, self.broker.listen(host, mqtt_port, kind="mqtt"))
            secure = self.server_context()
            self.mqtts_port = await named(mqtts_port, self.broker.listen(host, mqtts_port, kind="mqtts", ssl=secure))
            first, second = self._https_servers
            self.https_port = await named(https_port, first.start(host, https_port, secure))
            if also_https_port is not None:
                self.also_https_port = await named(also_https_port, second.start(host, also_https_port, secure))
            self._ticking = asyncio.get_running_loop().call_later(1.0, self._tick)
        except BaseException:
            await self.stop()
            raise

    def _tick(self) -> None:
        """Once a second: what jobs and provisioning have to do in time."""
        self.rollouts.tick()
        self.commands.tick()
        self.provisioning.tick()
        self.dynamic_members.tick()
        self._ticking = asyncio.get_running_loop().call_later(1.0, self._tick)

    async def stop(self) -> None:
        """Close the listeners, end the engine and the database."""
        if self._is_running:
            self._is_running = False
            if self._ticking is not None:
                self._ticking.cancel()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.advisor.stop()
            for server in self._https_servers:
                await server.stop()
            await self.log_writer.stop()
            await self.engine.stop()
            await self.broker.stop()
        self.database.close()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run work that waits for a function, until it ends or the service stops. A failure goes to the loop."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def server_context(self, *, has_certificate: bool = True) -> ssl_module.SSLContext:
        """A TLS context that asks for a client certificate and accepts what the registry may know. Without
        `has_certificate` its server certificate is for the caller to load.

        Device certificates that were registered without a CA are trusted one by one (partial chains); whether a
        certificate is known and ACTIVE is decided at CONNECT.
        """
        context = ssl_module.SSLContext(ssl_module.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl_module.TLSVersion.TLSv1_2
        if has_certificate:
            context.load_cert_chain(self.authority.server_certificate, self.authority.server_key)
        context.verify_mode = ssl_module.CERT_OPTIONAL
        context.verify_flags |= ssl_module.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(self.authority.ca_path)
        for document in self.certificates.authorities.values():
            context.load_verify_locations(cadata=document["certificatePem"])
        for document in self.certificates.kind.values():
            if document["certificateMode"] == "SNI_ONLY" or "caCertificateId" in document:
                context.load_verify_locations(cadata=document["certificatePem"])
        context.set_alpn_protocols(ALPN)
        self._contexts.append(context)
        return context

    def _trust(self, pem: str) -> None:
        for context in self._contexts:
            with contextlib.suppress(ssl_module.SSLError):  # A certificate that is trusted already.
                context.load_verify_locations(cadata=pem)

    def _upgrade(self, request: Request, authorization: object) -> Response:
        return self.broker.websocket_upgrade(request, authorization=authorization)

    def _failed(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, AwsError):
            asyncio.get_running_loop().call_exception_handler({"message": "HTTPS handler failed", "exception": error})
            error = AwsError("InternalFailureException", "Internal failure", 500)
        return refusal(error)

    def endpoint(self, kind: str) -> str:
        """What DescribeEndpoint gives: the HTTPS listener serves data, jobs and credentials alike.

        It is `host:port`, and the bare host when the port is 443, as AWS's is.
        """
        host = "localhost" if self.host in ("127.0.0.1", "0.0.0.0", "::1") else self.host
        port = self.also_https_port or self.https_port
        return host if port == 443 else f"{host}:{port}"

    # What the AWS endpoint and other rooms call

    async def handle_iot(self, request: Request) -> Response:
        """The `iot` API."""
        return await self.control.handle(request)

    async def handle_iot_data(self, request: Request) -> Response:
        """The `iot-data` API, and MQTT over WebSocket."""
        if request.raw_path == "/mqtt":
            return await self.https.handle(request)
        return await self.data.handle(request)

    async def handle_device_advisor(self, request: Request) -> Response:
        """The `iotdeviceadvisor` API."""
        return await self.device_advisor.handle(request)

    async def handle_data_plane(self, request: Request) -> Response:
        """The `iot-data` API alone."""
        return await self.data.handle(request)

    async def handle_jobs_data(self, request: Request) -> Response:
        """The `iot-jobs-data` API."""
        return await self.jobs_data.handle(request)

    def publish(self, publication: Publication) -> None:
        """Put a message on the bus, as a service would."""
        self.broker.publish(publication)

    def shadow(self, thing: str, name: str | None) -> bytes:
        """A shadow's document, for the rules' get_thing_shadow. Raises AwsError."""
        if self.data_plane.shadows is None:
            raise NotEmulated("device shadows")
        return self.data_plane.shadows.get(thing, name or "")

    def registry_data(self, operation: str, thing: str) -> dict[str, Any]:
        """DescribeThing or ListThingGroupsForThing, for the rules' get_registry_data. Raises AwsError."""
        handler = self.control.operations.get(operation)
        if handler is None or operation not in ("DescribeThing", "ListThingGroupsForThing"):
            raise NotEmulated(f"get_registry_data of {operation}")
        found: dict[str, Any] = handler({"thingName": thing}, None)  # type: ignore[arg-type]
        return found

    def stats(self) -> dict[str, Any]:
        """Counters of the broker and sizes of the registry."""
        return {
            "connected": len(self.broker.clients()),
            "things": len(self.registry.things),
            "rules": len(self.rules.kind),
            "mqtt": dict(self.broker.counters),
        }

    def create_topic_rule(self, name: str, payload: dict[str, Any]) -> None:
        """Create a rule or replace it, from a template. Raises UserError for bad SQL, AwsError for bad actions."""
        compile_sql(payload["sql"], payload.get("awsIotSqlVersion") or "2015-10-08")
        self.rules.put(name, payload)

    def ensure_thing(
        self,
        name: str,
        *,
        policy_documents: dict[str, dict[str, Any]],
        certs_folder: Path,
        groups: Sequence[str] = (),
    ) -> ThingFiles:
        """Make a thing, its certificate files, policies, attachments and groups, as far as they are not there.

        Raises UserError when the thing's certificate is registered and its files are gone.
        """
        own = OwnThings(self.arns, self.authority, self.registry, self.groups, self.certificates, self.policies)
        return own.ensure(name, certs_folder, policy_documents, groups)

    async def _deliver_confirmed(self, client_id: str, publication: Publication, timeout: float) -> bool:
        """Send to a client and wait for its PUBACK."""
        came = asyncio.Event()
        if not self.broker.deliver_to(client_id, publication, came.set):
            return False
        try:
            await asyncio.wait_for(came.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def _forget_will(self, client_id: str) -> None:
        """The client's last will is not to be sent."""
        session = self.broker.sessions.get(client_id)
        if session is not None:
            session.will = None

    def _warn(self, text: str) -> None:
        """Say that something is taken and does less than on AWS."""
        self._log(LogLine(time.time_ns(), "iot", "iot", "WARN", "", text))

    def _thing_changed(self, name: str) -> None:
        """A thing that is gone has no jobs before itself any more."""
        if name not in self.registry.things:
            self.rollouts.thing_deleted(name)

    def _disconnect_principal(self, identifier: str) -> None:
        """A certificate is no longer ACTIVE: end the connections made with it (UpdateCertificate)."""
        for client in self.broker.clients():
            if client.principal == identifier:
                self.broker.disconnect(client.client_id, "SERVER_INITIATED_DISCONNECT")

    def _certificate_registered(self, document: Document) -> None:
        """Just-in-time registration tells of the certificate on a reserved topic."""
        authority = document["caCertificateId"]
        event = {
            "certificateId": document["certificateId"],
            "caCertificateId": authority,
            "timestamp": int(document["creationDate"] * 1000),
            "certificateStatus": document["status"],
            "awsAccountId": self.arns.account,
            "certificateRegistrationTimestamp": None,
        }
        self.publish(Publication(f"$aws/events/certificates/registered/{authority}", orjson.dumps(event)))
        try:
            self.provisioning.registered(document)
        except AwsError as error:
            text = f"just-in-time provisioning of {document['certificateId']} failed: {error.message}"
            self._log(LogLine(time.time_ns(), "iot", "provisioning", "ERROR", "", text))


class _Things:
    """What the rules' external functions ask of IoT Core."""

    def __init__(self, iot: IotCore) -> None:
        self._iot = iot

    def shadow(self, thing: str, name: str | None) -> bytes:
        return self._iot.shadow(thing, name)

    def registry(self, operation: str, thing: str) -> dict[str, Any]:
        return self._iot.registry_data(operation, thing)
