"""What happened in a test, in words, and the results of a run as the API and the command line show them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from foreshore.iot.advisor.script import Event, Verdict
from foreshore.iot.advisor.suite import Group, Test
from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt import properties as p

FINISHED = ("PASS", "PASS_WITH_WARNINGS", "FAIL", "ERROR", "CANCELED", "STOPPED")


@dataclass(slots=True)
class Outcome:
    """One test of a run. Times are epoch seconds, None before it began or ended."""

    test: Test
    run_id: str
    status: str = "PENDING"
    start: float | None = None
    end: float | None = None
    verdict: Verdict | None = None
    log: list[str] = field(default_factory=list)

    def as_case_run(self, log_url: str) -> dict[str, Any]:
        """TestCaseRun of the API."""
        shown: dict[str, Any] = {
            "testCaseRunId": self.run_id,
            "testCaseDefinitionId": self.test.case,
            "testCaseDefinitionName": self.test.name,
            "status": self.status,
            "startTime": self.start,
            "endTime": self.end,
            "logUrl": log_url if self.start is not None else None,
        }
        if self.verdict is not None:
            shown |= {"failure": self.verdict.failure or None, "warnings": self.verdict.warnings or None}
        return {key: value for key, value in shown.items() if value is not None}


@dataclass(slots=True)
class Run:
    """One run of a suite. `configuration` is the suiteRunConfiguration it was started with."""

    run_id: str
    definition_id: str
    definition_name: str
    version: str
    configuration: dict[str, Any]
    created: float
    groups: list[tuple[Group, list[Outcome]]]
    status: str = "PENDING"
    end: float | None = None
    error: str = ""

    def outcomes(self) -> list[Outcome]:
        """All tests, in order."""
        return [outcome for _, outcomes in self.groups for outcome in outcomes]

    def count(self, *statuses: str) -> int:
        """How many tests have one of these statuses."""
        return sum(outcome.status in statuses for outcome in self.outcomes())

    def conclude(self, now: float) -> None:
        """Give the run the worst status of its tests."""
        self.end = now
        if self.status == "STOPPING":
            self.status = "STOPPED"
        elif self.count("ERROR"):
            self.status = "ERROR"
        elif self.count("FAIL"):
            self.status = "FAIL"
        else:
            self.status = "PASS_WITH_WARNINGS" if self.count("PASS_WITH_WARNINGS") else "PASS"


def describe(event: Event) -> str:
    """An event in one line."""
    who = f"connection {event.link}"
    match event.kind:
        case "open":
            return f"{who}: opened"
        case "hello":
            return f"{who}: ClientHello with {len(event.suites)} cipher suites"
        case "tls":
            return f"{who}: TLS handshake complete, {event.detail}"
        case "tls-failed":
            return f"{who}: TLS handshake failed, {event.detail}"
        case "closed":
            return f"{who}: closed by the {event.detail}"
        case "packet":
            return f"{who}: device sent {packet(event.packet)}"
        case _:
            return f"{who}: device got {packet(event.packet)}"


def packet(found: codec.Packet | None) -> str:
    """A packet in a few words."""
    match found:
        case codec.Connect():
            level = "5" if found.version == codec.V5 else "3.1.1"
            return f"CONNECT {level} as {found.client_id!r}, clean {int(found.clean)}, keep-alive {found.keep_alive} s"
        case codec.Connack():
            return f"CONNACK 0x{found.reason:02x}, session present {int(found.session_present)}"
        case codec.Publish():
            number = f", packet {found.packet_id}" if found.qos else ""
            return f"PUBLISH to {found.topic} ({len(found.payload)} bytes, QoS {found.qos}{number})"
        case codec.Subscribe():
            return f"SUBSCRIBE to {', '.join(one.filter for one in found.requests)} (packet {found.packet_id})"
        case codec.Ping():
            return "PINGREQ" if found.kind == p.PINGREQ else "PINGRESP"
        case codec.Ack():
            return f"{('PUBACK', 'PUBREC', 'PUBREL', 'PUBCOMP')[found.kind - 4]} (packet {found.packet_id})"
        case None:
            return "bytes that are no packet"
        case _:
            return type(found).__name__.upper()
