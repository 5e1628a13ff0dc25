"""What an IPC operation is: its table entry, its call, its errors, and the checking of a request's members. Pure."""

from __future__ import annotations

import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from foreshore.errors import AwsError
from foreshore.greengrass.authorization import Authorization, denial
from foreshore.greengrass.components import Components, ComponentUpdates, ConfigurationValidations, Profile, Tokens
from foreshore.greengrass.configuration import Configuration
from foreshore.greengrass.provided import NUCLEUS, NUCLEUS_LITE
from foreshore.greengrass.pubsub import LocalMessage, PubSub
from foreshore.seams import Publication

Reply = dict[str, object]
Request = dict[str, Any]
EMPTY: Reply = {}


class IpcError(AwsError):
    """An error shape of the service model. `code` ends in Error; `lite` is greengrass-lite's text when it differs."""

    def __init__(self, code: str, message: str, *, lite: str | None = None, extra: Mapping[str, object] | None = None):
        super().__init__(code, message, 400, extra)
        self.lite = message if lite is None else lite


def invalid_arguments(message: str, *, lite: str | None = None) -> IpcError:
    """InvalidArgumentsError."""
    return IpcError("InvalidArgumentsError", message, lite=lite)


def unauthorized(message: str) -> IpcError:
    """UnauthorizedError; lite has one text for all."""
    return IpcError("UnauthorizedError", message, lite="IPC Operation not authorized.")


def not_found(message: str, resource_type: str = "", resource_name: str = "", *, lite: str | None = None) -> IpcError:
    """ResourceNotFoundError."""
    extra = {"resourceType": resource_type, "resourceName": resource_name} if resource_type else None
    return IpcError("ResourceNotFoundError", message, lite=lite, extra=extra)


def service_error(message: str, *, lite: str | None = None) -> IpcError:
    """ServiceError."""
    return IpcError("ServiceError", message, lite=lite)


class Secrets(Protocol):
    """The core's secrets."""

    async def get(
        self, secret: str, version: str | None, stage: str | None, refresh: bool = False, /
    ) -> Mapping[str, Any]:
        """GetSecretValue's answer. Raises AwsError."""
        ...


class Shadows(Protocol):
    """Device shadows. Names None or "" mean the classic shadow. Raises AwsError as the IoT data plane does."""

    async def get(self, thing: str, name: str | None, /) -> bytes: ...

    async def update(self, thing: str, name: str | None, payload: bytes, /) -> bytes: ...

    async def delete(self, thing: str, name: str | None, /) -> bytes: ...

    async def list_named(
        self, thing: str, next_token: str | None, page_size: int, /
    ) -> tuple[list[str], str | None, float]:
        """Names, the next token, and the answer's time in seconds since the epoch."""
        ...


class ClientDevices(Protocol):
    """Client device auth of one core (aws.greengrass.clientdevices.Auth)."""

    async def configure(self, configuration: Mapping[str, Any] | None, /) -> None:
        """Take the component's configuration; None: it is not deployed. Raises UserError."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def certificate_updates(
        self, component: str, send: Callable[[dict[str, object]], None], /
    ) -> Callable[[], None]:
        """Send CertificateUpdateEvent now and on every rotation; gives the way to stop."""
        ...

    def verify(self, certificate_pem: str, /) -> bool:
        """Raises ValueError for what is no certificate's text."""
        ...

    def token(self, credential: Mapping[str, str], /) -> str:
        """A session token for an MQTT credential. Raises PermissionError when the device is not one of ours, ValueError
        for what is no certificate's text."""
        ...

    def authorize(self, token: str, operation: str, resource: str, /) -> bool:
        """Raises KeyError on an unknown token, ValueError for an operation and a resource of two services."""
        ...


class Services(Protocol):
    """What the core lends to its operations."""

    profile: Profile
    thing: str
    root: Path
    configuration: Configuration
    authorization: Authorization
    pubsub: PubSub
    tokens: Tokens
    updates: ComponentUpdates
    validations: ConfigurationValidations
    lifecycle: Components
    shadows: Shadows | None
    secrets: Secrets | None
    client_devices: ClientDevices | None

    def now_ms(self) -> int: ...

    def publish(
        self, topic: str, payload: bytes, source: str, traceparent: str | None, *, member: bytes, body: bytes
    ) -> None:
        """Publish locally; `member` is `binaryMessage` or `jsonMessage`, `body` its `message` as JSON."""
        ...

    def publish_to_cloud(self, publication: Publication, source: str, /) -> Awaitable[None] | None:
        """Spool or send a message to IoT Core; None when it is done. Raises AwsError when it can't be kept."""
        ...

    async def subscribe_to_cloud(
        self, filter: str, qos: int, deliver: Callable[[Publication], None], /
    ) -> Callable[[], None]:
        """Subscribe on IoT Core, waiting for the link; gives the way to stop. Raises AwsError on refusal."""
        ...

    def on_cloud_state(self, callback: Callable[[bool], None], /) -> tuple[bool, Callable[[], None]]:
        """The state now, and the way to stop hearing of changes."""
        ...

    def put_metric(self, component: str, name: str, unit: str, value: float, /) -> None: ...

    def say(self, component: str, level: str, text: str, /) -> None:
        """One line of the core's own log."""
        ...

    def create_debug_password(self) -> tuple[str, str, float]:
        """User name, password, and expiry in seconds since the epoch."""
        ...


class Call:
    """One request on one stream. `send` and `on_close` serve streaming operations only."""

    __slots__ = ("_session", "component", "core", "request", "stream_id", "traceparent")

    def __init__(
        self,
        session: Session,
        core: Services,
        component: str,
        stream_id: int,
        request: Request,
        traceparent: str | None,
    ) -> None:
        self._session = session
        self.core = core
        self.component = component
        self.stream_id = stream_id
        self.request = request
        self.traceparent = traceparent

    def authorize(self, service: str, operation: str, resource: str | None) -> None:
        """Raise UnauthorizedError, naming principal, operation and resource, unless a policy allows it."""
        if not self.core.authorization.is_allowed(self.component, service, operation, resource):
            raise unauthorized(denial(self.component, service, operation, resource))

    def send(self, event: Mapping[str, object]) -> None:
        """Send a stream event; held back until the response is written."""
        self._session.send_event(self.stream_id, event)

    @property
    def is_traced(self) -> bool:
        """Whether the client reads the trace context of events."""
        return self._session.is_traced

    def receiver(self) -> Callable[[LocalMessage], None]:
        """What sends a local message as an event of this stream."""
        return self._session.receiver(self.stream_id)

    def send_traced(self, event: Mapping[str, object], traceparent: str | None) -> None:
        """Send a stream event with its trace context."""
        self._session.send_event(self.stream_id, event, traceparent)

    def on_close(self, stop: Callable[[], None]) -> None:
        """Call `stop` once when the stream or the connection ends."""
        self._session.on_close(self.stream_id, stop)

    def on_event(self, take: Callable[[Request], None]) -> None:
        """Take the client's stream events; what `take` raises ends the stream with an error."""
        self._session.on_event(self.stream_id, take)


class Session(Protocol):
    """The shell's side of a stream."""

    is_traced: bool

    def send_event(self, stream_id: int, event: Mapping[str, object], traceparent: str | None = None, /) -> None: ...

    def receiver(self, stream_id: int, /) -> Callable[[LocalMessage], None]: ...

    def on_close(self, stream_id: int, stop: Callable[[], None], /) -> None: ...

    def on_event(self, stream_id: int, take: Callable[[Request], None], /) -> None: ...


class Member(NamedTuple):
    """A request member: `complain(value)` says what is wrong with it, or None."""

    complain: Callable[[object], str | None]
    required: bool = False


Members = Mapping[str, Member]
Checks = tuple[tuple[str, Callable[[object], str | None], bool], ...]


class Operation(NamedTuple):
    """One row of the table. `event` is the shape of its stream events, "" when it has none; `lite` whether
    greengrass-lite has it; `plugin` the AWS component that adds it on a device, "" when the nucleus has it itself;
    `response` the shape of the answer when it is not `<name>Response`, "" when the answer names none. `lite_members`
    is what lite checks when it is not the same, `lite_invalid` its error then. A name with `#` is complete: it is
    outside the service's model."""

    name: str
    handle: Callable[[Call], Reply | Awaitable[Reply]]
    members: Members
    event: str = ""
    lite: bool = False
    plugin: str = ""
    note: str = ""
    response: str | None = None
    lite_members: Members | None = None
    lite_invalid: tuple[str, str] = ("ServiceError", "Received invalid parameters.")


def checks_of(members: Members) -> Checks:
    """The members as `first_complaint` takes them."""
    return tuple((name, complain, required) for name, (complain, required) in members.items())


def complaint(members: Members, request: Mapping[str, object]) -> str | None:
    """What is wrong with a request's members, or None. A null member counts as absent; unknown ones are ignored."""
    return first_complaint(checks_of(members), request)


def first_complaint(checks: Checks, request: Mapping[str, object]) -> str | None:
    """As `complaint`, for members that are at hand as a tuple."""
    for name, complain, required in checks:
        value = request.get(name)
        if value is None:
            if required:
                return f"{name} is required"
            continue
        wrong = complain(value)
        if wrong is not None:
            return f"{name} {wrong}"
    return None


def _kind(label: str, *types: type) -> Callable[[object], str | None]:
    # JSON gives exactly these types, so a bool is no number here.
    def complain(value: object) -> str | None:
        return None if type(value) in types else label

    return complain


def anything(value: object) -> str | None:
    """Whatever it is."""
    return None


text = _kind("must be a string", str)
items = _kind("must be a list", list)
boolean = _kind("must be a boolean", bool)
number = _kind("must be a number", int, float)
integer = _kind("must be an integer", int)
mapping = _kind("must be a map", dict)


def texts(value: object) -> str | None:
    """A list of strings."""
    return None if isinstance(value, list) and all(isinstance(item, str) for item in value) else "must list strings"


def blob(value: object) -> str | None:
    """Base64 text."""
    if not isinstance(value, str):
        return "must be base64 text"
    try:
        binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        return "must be base64 text"
    return None


def one_of(*values: str) -> Callable[[object], str | None]:
    """One of an enumeration's texts."""

    def complain(value: object) -> str | None:
        return None if value in values else "must be one of " + ", ".join(values)

    return complain


def structure(members: Members) -> Callable[[object], str | None]:
    """A structure with these members."""

    def complain(value: object) -> str | None:
        if not isinstance(value, dict):
            return "must be a structure"
        wrong = complaint(members, value)
        return None if wrong is None else f"is wrong: {wrong}"

    return complain


def list_of(inner: Callable[[object], str | None]) -> Callable[[object], str | None]:
    """A list whose items pass `inner`."""

    def complain(value: object) -> str | None:
        if not isinstance(value, list):
            return "must be a list"
        return next((f"item {wrong}" for wrong in map(inner, value) if wrong is not None), None)

    return complain


def path_of(request: Mapping[str, Any], member: str = "keyPath") -> Sequence[str]:
    """A request's key path, empty when absent."""
    found = request.get(member) or ()
    return tuple(found)


LITE_MAX_DEPTH = 12


def stored_name(call: Call, component: str) -> str:
    """Where a component's configuration is kept: lite answers for the classic nucleus with its own."""
    return NUCLEUS_LITE if call.core.profile == "lite" and component == NUCLEUS else component


def check_depth(call: Call) -> None:
    """Lite keeps configuration to a depth of 15, of which a component's own has 12. Raises ServiceError."""
    if call.core.profile == "lite" and len(call.request.get("keyPath") or ()) > LITE_MAX_DEPTH:
        raise service_error("Config path depth larger than supported.")
