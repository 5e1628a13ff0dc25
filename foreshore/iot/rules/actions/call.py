"""What an action is given: the message, the SELECT's result, and the world outside. Values and protocols, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.message import Message
from foreshore.iot.rules.values import Value
from foreshore.seams import Invoke, Publish

if TYPE_CHECKING:
    from foreshore.http import Client
    from foreshore.iot.rules.actions.aws import Aws
    from foreshore.iot.rules.actions.batches import Batches
    from foreshore.iot.rules.destinations import Destinations


@dataclass(slots=True)
class World:
    """What actions reach: the bus, Lambda, the AWS-compatible backend, plain HTTP, batches and destinations.

    `endpoint_url` is Foreshore's own AWS endpoint, which answers for Lambda."""

    region: str
    account: str
    publish: Publish
    invoke: Invoke | None
    aws: Aws
    http: Client
    batches: Batches
    destinations: Destinations
    uuid: Callable[[], str]
    endpoint_url: Callable[[], str]


@dataclass(slots=True)
class Call:
    """One action to be run. `value` and `payload` are the SELECT's result (or the error document), `depth` counts the
    republishes that led here, `traceparent` names this action's own span."""

    rule: str
    message: Message
    value: Value
    payload: bytes
    old: bool
    world: World
    traceparent: str | None = None
    depth: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The payload as text. Raises ActionFailed for bytes that are no UTF-8."""
        try:
            return self.payload.decode()
        except UnicodeDecodeError:
            raise ActionFailed(
                "the payload is binary, which this action does not take: use encode(*, 'base64')"
            ) from None
