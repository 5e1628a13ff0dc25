"""The metrics reports of devices for AWS IoT Device Defender: read, checked and answered; nothing is detected by them.

A report comes on `$aws/things/<thing>/defender/metrics/{json|cbor}` and is answered on `/accepted` or `/rejected`.
The short names of members (`hed`, `rid`, `v`, `met`, `cmet`) are understood as well.

Source: AWS IoT Device Defender developer guide, "Sending metrics from devices".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import cbor2
import orjson

from foreshore.iot.store import Document
from foreshore.seams import Publication

FILTER = "$aws/things/+/defender/metrics/+"
_TOPIC = re.compile(r"\$aws/things/([^/]+)/defender/metrics/(json|cbor)$")
_VERSION = re.compile(r"\d+\.\d+$")


class Bus(Protocol):
    """What of the broker reports use."""

    def publish(self, publication: Publication, /) -> None: ...

    def add_listener(self, filter: str, callback: Callable[[Publication], None], /) -> object: ...


class DefenderReports:
    """Answers reports. `clock` gives seconds since the epoch."""

    def __init__(self, bus: Bus, clock: Callable[[], float]) -> None:
        self._bus = bus
        self._clock = clock
        bus.add_listener(FILTER, self._on_report)

    def _on_report(self, publication: Publication) -> None:
        match = _TOPIC.match(publication.topic)
        if match is None:
            return
        thing, form = match[1], match[2]
        report_id, problem = read(publication.payload, form)
        answer: Document = {"thingName": thing}
        if report_id is not None:
            answer["reportId"] = report_id
        answer["status"] = "REJECTED" if problem else "ACCEPTED"
        if problem:
            answer["statusDetails"] = {"ErrorCode": "InvalidPayload", "ErrorMessage": problem}
        answer["timestamp"] = int(self._clock() * 1000)
        payload = cbor2.dumps(answer) if form == "cbor" else orjson.dumps(answer)
        topic = f"{publication.topic}/{answer['status'].lower()}"
        self._bus.publish(Publication(topic, payload, qos=1, traceparent=publication.traceparent))


def read(payload: bytes, form: str) -> tuple[int | None, str]:
    """A report's id, if it can be read, and what is wrong with it, or ""."""
    try:
        report: Any = cbor2.loads(payload) if form == "cbor" else orjson.loads(payload)
    except (cbor2.CBORError, ValueError, EOFError, TypeError, RecursionError):
        return None, f"The payload is not {form.upper()}"
    if not isinstance(report, dict):
        return None, "The payload is not an object"
    header = report.get("header", report.get("hed"))
    if not isinstance(header, dict):
        return None, "The header is missing"
    report_id = header.get("report_id", header.get("rid"))
    if not isinstance(report_id, int) or isinstance(report_id, bool):
        return None, "report_id has to be an integer"
    version = header.get("version", header.get("v"))
    if not isinstance(version, str) or not _VERSION.match(version):
        return report_id, "version has to be Major.Minor"
    metrics = [report.get(long, report.get(short)) for long, short in (("metrics", "met"), ("custom_metrics", "cmet"))]
    given = [each for each in metrics if each is not None]
    if not given:
        return report_id, "The report has no metrics"
    if not all(isinstance(each, dict) for each in given):
        return report_id, "metrics have to be an object"
    return report_id, ""
