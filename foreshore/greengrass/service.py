"""One Greengrass core device: the IPC server, component configuration, authorization and the way to IoT Core.

Component lifecycle and deployments come from a `ComponentsFactory` (components.py); IoT Core is reached by a
`CloudLink`. Start and stop may be called twice.
"""

from __future__ import annotations

import asyncio
import binascii
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import orjson

from foreshore.errors import NotEmulated, UserError
from foreshore.greengrass import rpc
from foreshore.greengrass.authorization import CLIENT_DEVICES, Authorization, interpolate
from foreshore.greengrass.cloud_link import CloudLink
from foreshore.greengrass.cloud_proxy import CloudProxy
from foreshore.greengrass.components import (
    TOKEN_LETTERS,
    Components,
    ComponentsFactory,
    ComponentStatus,
    ComponentUpdates,
    ConfigurationValidations,
    CoreContext,
    LocalDeploymentRequest,
    Profile,
    Tokens,
)
from foreshore.greengrass.configuration import Change, Configuration
from foreshore.greengrass.configuration_journal import ConfigurationJournal
from foreshore.greengrass.effective_configuration import EffectiveConfiguration
from foreshore.greengrass.eventstream import STRING, Header
from foreshore.greengrass.fleet_reporter import FleetReporter
from foreshore.greengrass.fleet_status import Component
from foreshore.greengrass.ipc import LITE_OPERATIONS, OPERATIONS, PREFIX, SERVICE
from foreshore.greengrass.ipc.cli_access import CLI_CLIENT, CLIENT_POLICIES, is_cli
from foreshore.greengrass.ipc.operation import ClientDevices, Shadows
from foreshore.greengrass.provided_services import Provided, Services
from foreshore.greengrass.publish_spans import TICK_S, PublishSpans
from foreshore.greengrass.pubsub import LocalMessage, PubSub, Subscription
from foreshore.greengrass.secret_manager import NAME as SECRET_MANAGER
from foreshore.greengrass.secret_manager import FetchSecret, SecretManager
from foreshore.greengrass.server import Api, Server
from foreshore.greengrass.shadow_manager import ShadowManager
from foreshore.greengrass.shadow_settings import NAME as SHADOW_MANAGER
from foreshore.greengrass.shadow_store import ShadowStore
from foreshore.greengrass.spooler import read_settings
from foreshore.greengrass.static_components import StaticComponents
from foreshore.greengrass.telemetry import EMITTER, UNITS, Metric
from foreshore.greengrass.telemetry_agent import Agent, Emitter
from foreshore.greengrass.token_exchange import Credentials, TokenExchange
from foreshore.http import Request, Response
from foreshore.seams import EmitLog, EmitSpan, LogLine, Publication, Span, traceparent

NUCLEUS = "aws.greengrass.Nucleus"
DEBUG_PASSWORD_S = 8 * 3600
LITE_MAX_SESSIONS = 50
ERRORS = frozenset(
    {
        "InvalidArgumentsError",
        "InvalidArtifactsDirectoryPathError",
        "InvalidRecipeDirectoryPathError",
        "ServiceError",
        "ResourceNotFoundError",
        "UnauthorizedError",
        "ComponentNotFoundError",
        "InvalidTokenError",
        "FailedUpdateConditionCheckError",
        "ConflictError",
        "InvalidClientDeviceAuthTokenError",
        "InvalidCredentialError",
    }
)


class Core:
    """A core device. `fetch_secret(id, version id, stage)` gives Secrets Manager's answer, `credentials()` the token
    exchange's `{AccessKeyId, SecretAccessKey, Token, Expiration}`; `services` are further services under the names of
    AWS's components; `key_material` is what secrets are kept encrypted with."""

    def __init__(
        self,
        *,
        root: Path,
        thing: str,
        region: str,
        account: str,
        cloud: CloudLink,
        span: EmitSpan,
        log: EmitLog,
        profile: Profile = "classic",
        fetch_secret: FetchSecret | None = None,
        key_material: bytes | None = None,
        shadows: Shadows | None = None,
        credentials: Credentials | None = None,
        client_devices: ClientDevices | None = None,
        components: ComponentsFactory | None = None,
        services: Mapping[str, Provided] | None = None,
    ) -> None:
        self.root = root
        self.thing = thing
        self.region = region
        self.account = account
        self.profile: Profile = profile
        self.ipc_socket = root / ("gg-ipc.socket" if profile == "lite" else "ipc.socket")
        self._fetch_secret = fetch_secret
        self._key_material = key_material
        self.secrets: SecretManager | None = None
        self._given_shadows = shadows
        self._shadow_manager: ShadowManager | None = None
        self._telemetry: Agent | None = None
        self._fleet: FleetReporter | None = None
        self.shadows: Shadows | None = shadows
        self.credentials = credentials
        self.client_devices = client_devices
        self.pubsub = PubSub()
        self.authorization = Authorization()
        self.tokens = Tokens(lambda count: [secrets.randbelow(len(TOKEN_LETTERS)) for _ in range(count)])
        self.updates = ComponentUpdates()
        self.validations = ConfigurationValidations()
        self._link = cloud
        self._span = span
        self._spans = PublishSpans(span, secrets.randbits(128))
        self._tick: asyncio.TimerHandle | None = None
        self._log = log
        self._factory = components
        self._given_services = dict(services or {})
        self._stops: list[Callable[[], Awaitable[None]]] = []
        self._closers: list[Callable[[], None]] = []
        self._told: set[tuple[str, str]] = set()
        self._is_started = False

    # life

    async def start(self) -> None:
        """Load what is durable, listen, then start the components. Raises UserError when the root can't be used."""
        if self._is_started:
            return
        self._is_started = True
        try:
            self._open_state()
            self.services = Services({**self._own_services(), **self._given_services}, self._deployed, self.say)
            self._stops.append(self.services.stop)
            environment = await self._start_exchange()
            self.lifecycle: Components = (self._factory or StaticComponents)(self._context(environment))
            await self._listen()
            self.cloud.start()
            await self.services.start()
            await self.lifecycle.start()
            if self._fleet is not None:
                self._fleet.configure(self.configuration.document(NUCLEUS))
                self._fleet.launched()
        except BaseException:
            await self.stop()
            raise

    def _open_state(self) -> None:
        is_lite = self.profile == "lite"
        journal = ConfigurationJournal(self.root / "config" / "config.db", case_sensitive=is_lite)
        self._closers.append(journal.close)
        self.configuration = Configuration(case_sensitive=is_lite, journal=journal, trees=journal.load())
        self._closers.append(self.configuration.watch_all(self._on_configuration))
        for name in self.configuration.components():
            self._load_policies(name)
        settings = read_settings(self.configuration.document(NUCLEUS))
        self.cloud = CloudProxy(self._link, self.root / "work" / NUCLEUS / "spooler.db", settings, self.say)
        self._stops.append(self.cloud.stop)
        if self._given_shadows is None and not is_lite:
            self._shadow_manager = ShadowManager(self, ShadowStore(self.root / "work" / SHADOW_MANAGER / "shadows.db"))
            self.shadows = self._shadow_manager
        if self._fetch_secret is not None:
            path = self.root / "work" / SECRET_MANAGER / "secrets.db"
            self.secrets = SecretManager(self._fetch_secret, path, self._key_material, self.say)
        if not is_lite:
            self._fleet = FleetReporter(self, self.root / "work" / NUCLEUS / "fleet_status.db")
            self._closers.append(self._fleet.stop)
            self._telemetry = Agent(self, self.root / "work" / NUCLEUS / "telemetry.db")
        self._effective = EffectiveConfiguration(
            self.root / "config" / "effectiveConfig.yaml", self._effective_document
        )
        self._closers.append(self._effective.close)

    def _own_services(self) -> dict[str, Provided]:
        """The services that this core stands for by itself, under the names of AWS's components."""
        own: dict[str, Provided] = {EMITTER: Emitter(self)}
        if self._telemetry is not None:
            own[NUCLEUS] = self._telemetry
        if self.secrets is not None:
            own[SECRET_MANAGER] = self.secrets
        if self._shadow_manager is not None:
            own[SHADOW_MANAGER] = self._shadow_manager
        if self.client_devices is not None:
            own[CLIENT_DEVICES] = self.client_devices
        return own

    def _deployed(self, component: str) -> dict[str, object] | None:
        """A component's configuration, None when it is not deployed."""
        return self.configuration.document(component) if component in self.configuration else None

    async def _start_exchange(self) -> dict[str, str]:
        """Serve credentials, if we were given any; what components see of it."""
        if self.credentials is None:
            return {}
        exchange = TokenExchange(self.credentials, self.tokens.component_of)
        await exchange.start()
        self._stops.append(exchange.stop)
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": exchange.url}

    async def _listen(self) -> None:
        is_lite = self.profile == "lite"
        self._server = Server(
            Api(SERVICE, PREFIX, LITE_OPERATIONS if is_lite else OPERATIONS, ERRORS, "ServiceError"),
            self,
            self._authenticate,
            rules=rpc.LITE if is_lite else rpc.CLASSIC,
            max_sessions=LITE_MAX_SESSIONS if is_lite else 10_000,
            say=self.say,
            on_plugin=self._on_plugin,
        )
        await self._server.start_unix(self.ipc_socket)
        self._closers.append(lambda: self.ipc_socket.unlink(missing_ok=True))
        self._stops.append(self._server.stop)
        self._stops.append(self.lifecycle.stop)

    async def stop(self) -> None:
        """Stop the components, then the rest."""
        if not self._is_started:
            return
        self._is_started = False
        while self._stops:
            await self._stops.pop()()
        if self._tick is not None:
            self._tick.cancel()
            self._settle()
        while self._closers:
            self._closers.pop()()

    def _context(self, environment: dict[str, str]) -> CoreContext:
        return CoreContext(
            root=self.root,
            thing=self.thing,
            region=self.region,
            account=self.account,
            profile=self.profile,
            ipc_socket=self.ipc_socket,
            configuration=self.configuration,
            tokens=self.tokens,
            updates=self.updates,
            validations=self.validations,
            span=self._span,
            log=self._log,
            environment=environment,
            settle=self.services.settle,
            on_state=None if self._fleet is None else self._fleet.on_state,
            on_deployment=None if self._fleet is None else self._fleet.on_deployment_end,
        )

    def _authenticate(self, headers: Mapping[str, object], payload: bytes) -> tuple[str, Sequence[Header]] | None:
        """Who a CONNECT payload is: an SVCUID's component; on lite also a component by its name."""
        try:
            message = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(message, dict):
            return None
        token, name = message.get("authToken"), message.get("componentName")
        if isinstance(token, str):
            component = self.tokens.component_of(token)
            if component is not None and component.startswith(CLI_CLIENT):
                self.authorization.load(component, CLIENT_POLICIES)
            return None if component is None else (component, ())
        if self.profile == "lite" and isinstance(name, str) and name in self.configuration:
            return name, [Header("svcuid", STRING, self.tokens.issue(name))]
        return None

    def _configure_nucleus(self, change: Change) -> None:
        if self._fleet is not None:
            self._fleet.configure(self.configuration.document(NUCLEUS))
        self.cloud.configure(read_settings(self.configuration.document(NUCLEUS)))
        if not change.path or change.path[0].lower() == "interpolatecomponentconfiguration":
            for name in self.configuration.components():
                self._load_policies(name)

    def _on_plugin(self, component: str, plugin: str) -> None:
        """Say once what a device would have refused: an operation of a component of AWS's that is not deployed."""
        if (component, plugin) in self._told or self.profile == "lite" or component == plugin:
            return
        self._told.add((component, plugin))
        if plugin not in self.configuration and not is_cli(component):
            text = f"a device answers this only with {plugin} in the deployment: add it to ComponentDependencies"
            self.say(component, "WARN", text)

    def _effective_document(self) -> dict[str, object]:
        services = {
            name: {"configuration": self.configuration.document(name)} for name in self.configuration.components()
        }
        return {"system": {"rootpath": str(self.root), "thingName": self.thing}, "services": services}

    def _on_configuration(self, change: Change) -> None:
        self._effective.changed()
        if change.component == NUCLEUS:
            self._configure_nucleus(change)
        self.services.changed(change.component)
        if not change.path or change.path[0].lower() == "accesscontrol":
            self._load_policies(change.component)

    def _load_policies(self, component: str) -> None:
        try:
            policies = self.configuration.get(component, ("accessControl",))
        except KeyError:
            policies = None
        if self._interpolates():
            policies = interpolate(policies, {"{iot:thingName}": self.thing})
        for finding in self.authorization.load(component, policies):
            where = ".".join(part for part in (finding.service, finding.policy) if part)
            self.say(component, "ERROR", f"accessControl {where} skipped: {finding.reason}")

    def _interpolates(self) -> bool:
        """Lite replaces recipe variables in policies; classic only when the nucleus is told to (nucleus, #1366)."""
        setting = self.configuration.document(NUCLEUS).get("interpolateComponentConfiguration")
        return self.profile == "lite" or str(setting).lower() == "true"

    # local publish/subscribe

    def publish(
        self, topic: str, payload: bytes, source: str, traceparent: str | None, *, member: bytes, body: bytes
    ) -> None:
        """Publish to the local subscribers and record the span; `body` is the JSON of `member`'s message."""
        route = self.pubsub.route(topic)
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._settle)
        spans = self._spans
        if spans.left <= 0 and spans.is_shared(route, traceparent):
            if route.subscriptions:
                route.deliver(LocalMessage(topic, payload, source, "", route.event(member, body)))
            return
        spans.left -= 1
        start = time.time_ns()
        trace_id, parent, span_id = spans.step(traceparent)
        delivered = 0
        if route.subscriptions:
            context = f"00-{trace_id}-{span_id}-01"
            delivered = route.deliver(LocalMessage(topic, payload, source, context, route.event(member, body)))
        attributes: dict[str, object] = {"component": source, "subscribers": delivered, "bytes": len(payload)}
        took = time.time_ns() - start
        self._span(Span(trace_id, span_id, parent, "greengrass", route.span_name, start, took, True, attributes))

    def _settle(self) -> None:
        self._tick = None
        self._spans.settle(time.time_ns())

    def publish_local(self, topic: str, payload: bytes, *, source: str, traceparent: str | None = None) -> None:
        """Publish bytes on local pub/sub as `source`; nobody is asked for a policy."""
        body = b'"%s"' % binascii.b2a_base64(payload, newline=False)
        self.publish(topic, payload, source, traceparent, member=b"binaryMessage", body=body)

    def subscribe_local(
        self, filter: str, callback: Callable[[LocalMessage], None], *, source: str = "", others_only: bool = False
    ) -> Callable[[], None]:
        """Hear local messages; with `others_only` not those published as `source`. Gives the way to stop."""

        def deliver(message: LocalMessage) -> None:
            try:
                callback(message)
            except Exception as error:
                self.say(source, "ERROR", f"a local subscriber of {filter} failed: {error!r}")

        subscription = Subscription(filter, source, deliver, others_only=others_only)
        self.pubsub.subscribe(subscription)
        return lambda: self.pubsub.unsubscribe(subscription)

    # IoT Core

    def publish_to_cloud(self, publication: Publication, source: str) -> None:
        """Keep a message for IoT Core and record the span. Raises AwsError when it can't be kept."""
        start = time.time_ns()
        trace_id, parent, span_id = self._spans.step(publication.traceparent)
        publication.traceparent = traceparent(trace_id, span_id)
        name = f"PublishToIoTCore {publication.topic}"
        kept = False
        try:
            self.cloud.publish(publication)
            kept = True
        finally:
            attributes: dict[str, object] = {"component": source, "bytes": len(publication.payload)}
            duration = time.time_ns() - start
            self._span(Span(trace_id, span_id, parent, "greengrass", name, start, duration, kept, attributes))

    async def publish_now(self, topic: str, payload: bytes) -> bool:
        """Publish at QoS 1 past the spooler; False when the link is down or breaks."""
        if not self._link.connected:
            return False
        try:
            publication = Publication(topic, payload, qos=1, timestamp_ms=self.now_ms())
            return await self._link.publish(publication) < 0x80
        except (ConnectionError, TimeoutError):
            return False

    async def subscribe_to_cloud(
        self, filter: str, qos: int, deliver: Callable[[Publication], None]
    ) -> Callable[[], None]:
        """Subscribe on IoT Core; gives the way to stop."""
        return await self.cloud.subscribe(filter, qos, deliver)

    def on_cloud_state(self, callback: Callable[[bool], None]) -> tuple[bool, Callable[[], None]]:
        """The link's state now, and the way to stop hearing of changes."""
        return self.cloud.is_connected, self.cloud.on_state(callback)

    # what operations ask besides

    def now_ms(self) -> int:
        """Wall clock, ms since the epoch."""
        return time.time_ns() // 1_000_000

    def put_metric(self, component: str, name: str, unit: str, value: float) -> None:
        """Take a metric of a component's into the telemetry, and write it down as a log line of the component."""
        self.say(component, "INFO", f"metric {name}={value} {unit}")
        if self._telemetry is not None:
            self._telemetry.put(Metric(component, name, UNITS.get(unit.upper(), unit), "Sum", value, self.now_ms()))

    def fleet(self) -> list[Component]:
        """Every component, as the fleet status has it."""
        return [
            Component(each.name, each.version, each.state, each.is_root, reason=each.reason)
            for each in self.lifecycle.statuses()
        ]

    def is_deploying(self) -> bool:
        """Whether a deployment is in progress."""
        return any(each.status == "IN_PROGRESS" for each in self.lifecycle.deployments())

    def states(self) -> list[str]:
        """Every component's state."""
        return [status.state for status in self.lifecycle.statuses()]

    def create_debug_password(self) -> tuple[str, str, float]:
        """A login for the debug console: user, password, expiry (s since the epoch)."""
        return "debug", secrets.token_urlsafe(32), time.time() + DEBUG_PASSWORD_S

    def say(self, component: str, level: str, text: str) -> None:
        """One line of the core's own log."""
        self._log(LogLine(time.time_ns(), "greengrass", component or NUCLEUS, level, "", text))

    # the surface

    def components(self) -> list[ComponentStatus]:
        """Every component."""
        return self.lifecycle.statuses()

    async def deploy(self, request: LocalDeploymentRequest) -> str:
        """Queue a local deployment; its id."""
        return await self.lifecycle.create_local_deployment(request)

    def admin(self, request: Request) -> Response | Awaitable[Response]:
        """The console's and CLI's requests about this core: GET /components, /deployments, /configuration/<name>.

        A lifecycle with an `admin` of its own (supervisor.py) answers them, and more.
        """
        own: Callable[[Request], Awaitable[Response]] | None = getattr(self.lifecycle, "admin", None)
        if own is not None:
            return own(request)
        path = request.path.strip("/").split("/")
        if request.method != "GET":
            raise NotEmulated(f"{request.method} on a core's administration")
        if path == ["components"]:
            statuses = self.lifecycle.statuses()
            body: object = [{"name": s.name, "version": s.version, "state": s.state} for s in statuses]
        elif path[0] == "configuration" and len(path) == 2:
            if path[1] not in self.configuration:
                raise UserError(f"no component {path[1]!r} on {self.thing}", code="component-unknown")
            body = self.configuration.document(path[1])
        else:
            return Response(404, [(b"Content-Type", b"application/json")], b'{"message":"no such path"}')
        return Response(200, [(b"Content-Type", b"application/json")], orjson.dumps(body))
