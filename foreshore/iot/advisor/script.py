"""How test cases are written: a case is a generator that waits for events of the device and gives orders. Pure.

`Script` drives one generator: `feed(event)` until `verdict` is there. What a case orders goes through `Orders`; what
the device's connection withholds, and which server certificate it shows, is the script's state.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Literal, NamedTuple, Protocol

from foreshore.iot.mqtt.codec import Packet
from foreshore.iot.policies import Policy

EventKind = Literal["open", "hello", "tls", "tls-failed", "packet", "sent", "closed", "tick"]
CertificateKind = Literal["good", "large", "unknown-ca", "wrong-name", "expired"]
Status = Literal["PASS", "PASS_WITH_WARNINGS", "FAIL"]
PacketName = Literal["CONNECT", "PUBACK", "SUBACK", "PINGRESP"]


class Event(NamedTuple):
    """Something that happened on connection number `link` at `at` (seconds of any steady clock).

    "packet" came from the device, "sent" went to it; "hello" has the offered cipher suites; "tls-failed" and "closed"
    say why in `detail`: "device" or "advisor" closed, or "broker, " with AWS's reason.
    """

    kind: EventKind
    at: float
    link: int = 0
    packet: Packet | None = None
    detail: str = ""
    suites: tuple[int, ...] = ()


class Verdict(NamedTuple):
    """How a test case ended. `failure` and `warnings` are sentences."""

    status: Status
    failure: str = ""
    warnings: str = ""


class Orders(Protocol):
    """What a case may order. `drop` cuts the device's connections."""

    thing: str

    def drop(self) -> None: ...

    def publish(self, topic: str, payload: bytes) -> None: ...

    def forget_session(self) -> None: ...

    def desire(self, state: dict[str, Any], shadow: str) -> None: ...

    def create_job(self, document: str, source: str) -> str: ...

    def policies(self) -> list[Policy]: ...


class Failed(Exception):
    """A case found that the device does wrong."""


Steps = Generator[None, Event, None]
Awaited = Generator[None, Event, Event]


class Scene:
    """What a case sees: its configuration, its orders, and what it withholds from the device."""

    def __init__(self, configuration: dict[str, Any], orders: Orders) -> None:
        self.configuration = configuration
        self.orders = orders
        self.withheld: set[PacketName] = set()
        self.warnings: list[str] = []
        self.expecting = ""

    def wait(self, what: str, test: Callable[[Event], bool]) -> Awaited:
        """Wait for an event; `what` completes "the device did not …" if it never comes."""
        self.expecting = what
        while True:
            event = yield
            if test(event):
                return event

    def option(self, name: str, default: str = "") -> str:
        """A setting of the test case, as text."""
        return str(self.configuration.get(name, default))


class Case(NamedTuple):
    """A test case: what it is about, its steps, and the certificate that the server shows meanwhile."""

    about: str
    steps: Callable[[Scene], Steps]
    certificate: CertificateKind = "good"
    needs_device: bool = True


class Script:
    """Runs one case."""

    def __init__(self, case: Case, configuration: dict[str, Any], orders: Orders) -> None:
        self.scene = Scene(configuration, orders)
        self.refusals: list[str] = []
        self.certificate = case.certificate
        self.verdict: Verdict | None = None
        self._steps = case.steps(self.scene)
        self._go(lambda: next(self._steps))

    def feed(self, event: Event) -> None:
        """Tell the case of an event."""
        if event.kind == "closed" and event.detail.startswith("broker"):
            self.refusals.append(event.detail.removeprefix("broker, "))
        if self.verdict is None:
            self._go(lambda: self._steps.send(event))

    def time_out(self, seconds: float) -> None:
        """The time is over: what was still expected did not happen."""
        if self.verdict is None:
            self._steps.close()
            failure = f"The device did not {self.scene.expecting} within {seconds:g} seconds."
            if self.refusals:
                count = len(self.refusals)
                failure += f" The broker closed its connection{f' {count} times' if count > 1 else ''}"
                failure += f": {', '.join(dict.fromkeys(self.refusals))}."
            self._end("FAIL", failure)

    def _go(self, step: Callable[[], None]) -> None:
        try:
            step()
        except StopIteration:
            self._end("PASS_WITH_WARNINGS" if self.scene.warnings else "PASS")
        except Failed as error:
            self._end("FAIL", str(error))

    def _end(self, status: Status, failure: str = "") -> None:
        self.verdict = Verdict(status, failure, " ".join(self.scene.warnings))
