"""Each documented limit of a Lambda component on the host process: queue, instances, order, payloads, idle time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_host_process import Running, archive

__all__ = ["archive"]
GATED = """
import json, os, time
import greengrasssdk

client = greengrasssdk.client("iot-data")

def handler(event, context):
    if isinstance(event, bytes):
        event = ["bytes", event.hex()]
    with open(os.environ["STARTED"], "a") as file:
        file.write(json.dumps(event) + "\\n")
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.001)
    client.publish(topic="out/answer", payload=json.dumps([event, os.getpid()]))
"""
BOTH = pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "on demand"])


@contextmanager
def running(archive: Path, folder: Path, **settings: Any) -> Iterator[Running]:
    host = Running(archive, folder, "slim", GATED, STARTED=str(folder / "started"), GATE=str(folder / "gate"))
    host.nucleus.configuration |= {"timeoutInSeconds": 20, **settings}
    try:
        yield host.start()
    finally:
        if host.process is not None and host.process.poll() is None:
            host.process.kill()
            host.process.communicate()
        host.nucleus.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def started(folder: Path) -> list[Any]:
    file = folder / "started"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def answers(host: Running, count: int) -> list[Any]:
    import base64

    found = []
    for _ in range(count):
        body, _ = host.nucleus.next("PublishToTopic")
        found.append(json.loads(base64.b64decode(body["publishMessage"]["binaryMessage"]["message"])))
    return found


@BOTH
def test_what_the_queue_does_not_hold_is_dropped_and_said(archive: Path, tmp_path: Path, pinned: bool) -> None:
    settings = {"maxQueueSize": 3, "pinned": pinned, "maxInstancesCount": 1}
    with running(archive, tmp_path, **settings) as host:
        # The host takes one message more out of its queue while it waits for an instance.
        taken = 1 if pinned else 2
        for number in range(taken):
            host.nucleus.deliver("in/+", "in/x", str(number).encode())
            until(lambda: bool(started(tmp_path)))
        for number in range(taken, taken + 8):
            host.nucleus.deliver("in/+", "in/x", str(number).encode())
        host.nucleus.deliver("cloud/in", "cloud/in", b'"late"')
        (tmp_path / "gate").touch()
        assert [event for event, _ in answers(host, 3)] == [0, 1, 2]
        code, output = host.finish()
        assert code == 0
        assert "queue full (maxQueueSize 3): 1 dropped" in output
        counts = output[output.index("stopped:") :]
        handled, dropped = (int(counts.partition(word)[2].split(",")[0]) for word in ("handled ", "dropped "))
        assert handled + dropped == taken + 9 and dropped >= 5


def test_no_more_instances_than_allowed_run_at_a_time(archive: Path, tmp_path: Path) -> None:
    with running(archive, tmp_path, pinned=False, maxInstancesCount=3) as host:
        for number in range(8):
            host.nucleus.deliver("in/+", "in/x", str(number).encode())
        until(lambda: len(started(tmp_path)) == 3)
        (tmp_path / "gate").touch()
        found = answers(host, 8)
        assert sorted(event for event, _ in found) == list(range(8))
        assert len({pid for _, pid in found}) == 3
        assert host.finish()[0] == 0


def test_a_pinned_function_is_one_process_and_keeps_the_order(archive: Path, tmp_path: Path) -> None:
    with running(archive, tmp_path, pinned=True, maxInstancesCount=5) as host:
        for number in range(20):
            host.nucleus.deliver("in/+", "in/x", str(number).encode())
        (tmp_path / "gate").touch()
        assert host.process is not None
        assert answers(host, 20) == [[number, host.process.pid] for number in range(20)]
        assert host.finish()[0] == 0


@BOTH
def test_binary_payloads_come_as_bytes(archive: Path, tmp_path: Path, pinned: bool) -> None:
    with running(archive, tmp_path, pinned=pinned, inputPayloadEncodingType="binary") as host:
        (tmp_path / "gate").touch()
        for payload in (b"\x00\xff not json", b""):
            host.nucleus.deliver("in/+", "in/x", payload)
            assert answers(host, 1)[0][0] == ["bytes", payload.hex()]
        host.nucleus.deliver_json("in/+", "in/x", {"a": 1})
        [[[kind, text], _]] = answers(host, 1)
        assert kind == "bytes" and json.loads(bytes.fromhex(text)) == {"a": 1}
        host.nucleus.deliver("cloud/in", "cloud/in", b"\x01")
        assert answers(host, 1)[0][0] == ["bytes", "01"]
        assert host.finish()[0] == 0


def test_an_instance_stays_for_its_idle_time(archive: Path, tmp_path: Path) -> None:
    with running(archive, tmp_path, pinned=False, maxIdleTimeInSeconds=60) as host:
        (tmp_path / "gate").touch()
        pids = set()
        for number in range(5):
            host.nucleus.deliver("in/+", "in/x", str(number).encode())
            pids.add(answers(host, 1)[0][1])
        assert len(pids) == 1
        os.kill(pids.pop(), 0)
        assert host.finish()[0] == 0
