"""Metrics reports of devices, by table and through the broker."""

import json
import queue

import cbor2
import pytest

from foreshore.iot.defender_reports import read
from foreshore.seams import Publication

REPORT = {
    "header": {"report_id": 1530304554, "version": "1.0"},
    "metrics": {
        "listening_tcp_ports": {"ports": [{"interface": "eth0", "port": 22}], "total": 1},
        "network_stats": {"bytes_in": 1, "bytes_out": 2, "packets_in": 3, "packets_out": 4},
    },
    "custom_metrics": {"temperature": [{"number": 21}]},
}
SHORT = {"hed": {"rid": 7, "v": "1.0"}, "met": {"tp": {"pts": [{"pt": 22}], "t": 1}}}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (REPORT, (1530304554, "")),
        (SHORT, (7, "")),
        ({**REPORT, "metrics": None}, (1530304554, "")),
        ({}, (None, "The header is missing")),
        ([], (None, "The payload is not an object")),
        ({"header": {"report_id": "1", "version": "1.0"}}, (None, "report_id has to be an integer")),
        ({"header": {"report_id": 1, "version": "one"}}, (1, "version has to be Major.Minor")),
        ({"header": {"report_id": 1, "version": "1.0"}}, (1, "The report has no metrics")),
        ({"header": {"report_id": 1, "version": "1.0"}, "metrics": []}, (1, "metrics have to be an object")),
    ],
)
def test_reports(report, expected):
    assert read(json.dumps(report).encode(), "json") == expected
    assert read(cbor2.dumps(report), "cbor") == expected


def test_what_can_not_be_read():
    assert read(b"{", "json") == (None, "The payload is not JSON")
    assert read(b"\x81", "cbor") == (None, "The payload is not CBOR")


@pytest.mark.parametrize(
    ("form", "dumps", "loads"), [("json", json.dumps, json.loads), ("cbor", cbor2.dumps, cbor2.loads)]
)
def test_answers(edge, form, dumps, loads):
    answers = queue.Queue()
    topic = f"$aws/things/pump/defender/metrics/{form}"

    async def send(report):
        payload = dumps(report)
        payload = payload.encode() if isinstance(payload, str) else payload
        edge.iot.broker.publish(Publication(topic, payload, client_id="pump"))

    async def listen():
        for word in ("accepted", "rejected"):
            edge.iot.broker.add_listener(f"{topic}/{word}", lambda p: answers.put((p.topic, loads(p.payload))))

    edge.run(listen())
    edge.run(send(REPORT))
    where, answer = answers.get(timeout=20)
    assert answer.pop("timestamp") > 1e12
    assert (where, answer) == (
        f"{topic}/accepted", {"thingName": "pump", "reportId": 1530304554, "status": "ACCEPTED"},
    )  # fmt: skip
    edge.run(send({"header": {}}))
    where, answer = answers.get(timeout=20)
    assert (where, answer["status"], answer["statusDetails"]["ErrorCode"]) == (
        f"{topic}/rejected", "REJECTED", "InvalidPayload",
    )  # fmt: skip
