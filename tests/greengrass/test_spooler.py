"""The spooler: limits, order, and what is on disk after kill -9; and the proxy that drains it."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from foreshore.errors import AwsError
from foreshore.greengrass.cloud_proxy import CloudProxy
from foreshore.greengrass.spooler import Spooler, SpoolerSettings, read_settings
from foreshore.seams import Publication


def message(text: str, qos: int = 1, **more: object) -> Publication:
    return Publication("t", text.encode(), qos=qos, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nucleus", "settings"),
    [
        ({}, SpoolerSettings(True, 2_621_440, False)),
        ({"mqtt": {"spooler": {"storageType": "Memory"}}}, SpoolerSettings(False, 2_621_440, False)),
        (
            {"MQTT": {"Spooler": {"maxSizeInBytes": "100", "keepQos0WhenOffline": True}}},
            SpoolerSettings(True, 100, True),
        ),
        ({"mqtt": 5}, SpoolerSettings(True, 2_621_440, False)),
    ],
)
def test_settings(nucleus: dict[str, object], settings: SpoolerSettings) -> None:
    assert read_settings(nucleus) == settings


def test_order_and_acknowledgement() -> None:
    spooler = Spooler(None, SpoolerSettings())
    numbers = [spooler.add(message(text), online=False) for text in "abc"]
    first, second = spooler.take(), spooler.take()
    assert first is not None and second is not None
    assert (first[1].payload, second[1].payload) == (b"a", b"b")
    spooler.give_back(first[0])
    again = spooler.take()
    assert again is not None and again[1].payload == b"a"
    spooler.acknowledge(numbers[0])
    spooler.acknowledge(numbers[0])
    assert len(spooler) == 2 and spooler.size == 2
    third = spooler.take()
    assert third is not None and third[1].payload == b"c" and spooler.take() is None


def test_qos_0_offline() -> None:
    spooler = Spooler(None, SpoolerSettings())
    with pytest.raises(AwsError, match="Device is offline"):
        spooler.add(message("a", qos=0), online=False)
    spooler.add(message("a", qos=0), online=True)
    Spooler(None, SpoolerSettings(keep_qos0_when_offline=True)).add(message("a", qos=0), online=False)


def test_a_full_spool_drops_old_qos_0_first() -> None:
    spooler = Spooler(None, SpoolerSettings(max_bytes=10))
    with pytest.raises(AwsError, match="larger than"):
        spooler.add(message("x" * 11), online=True)
    spooler.add(message("q1aa"), online=True)
    spooler.add(message("q0aa", qos=0), online=True)
    spooler.add(message("q1bb"), online=True)
    assert spooler.size == 8
    with pytest.raises(AwsError, match="full"):
        spooler.add(message("q1cccccc"), online=True)
    assert len(spooler) == 2


def test_disk_keeps_every_property(tmp_path: Path) -> None:
    kept = message(
        "a",
        retain=True,
        timestamp_ms=5,
        traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        content_type="c",
        response_topic="r",
        correlation_data=b"\x00",
        payload_format=1,
        message_expiry_s=9,
        user_properties=[("k", "v"), ("k", "w")],
    )
    first = Spooler(tmp_path / "s.db", SpoolerSettings())
    first.add(kept, online=False)
    gone = first.add(message("b"), online=False)
    first.acknowledge(gone)
    first.close()
    second = Spooler(tmp_path / "s.db", SpoolerSettings())
    taken = second.take()
    assert taken is not None and taken[1] == kept and len(second) == 1
    second.close()


WRITER = """
import sys
from pathlib import Path
from foreshore.greengrass.spooler import Spooler, SpoolerSettings
from foreshore.seams import Publication
spooler = Spooler(Path(sys.argv[1]), SpoolerSettings(max_bytes=10**9))
for number in range(1_000_000):
    spooler.add(Publication("t", b"%d" % number, qos=1), online=False)
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "s.db")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if int(line) >= 200:
                process.send_signal(signal.SIGKILL)
                break
        acknowledged = max([int(line), *(int(rest) for rest in process.stdout.read().split())])
    process.wait()
    spooler = Spooler(tmp_path / "s.db", SpoolerSettings())
    payloads = []
    while (taken := spooler.take()) is not None:
        payloads.append(int(taken[1].payload))
    spooler.close()
    assert payloads == list(range(len(payloads))) and len(payloads) in (acknowledged + 1, acknowledged + 2)


class Link:
    """A CloudLink whose answers a test decides."""

    def __init__(self) -> None:
        self.connected = False
        self.order: list[bytes] = []
        self.answers: dict[bytes, list[int | Exception]] = {}
        self.subscriptions: list[tuple[str, int]] = []
        self.unsubscribed: list[str] = []
        self._callback: Callable[[bool], None] = lambda up: None

    def on_state(self, callback: Callable[[bool], None]) -> None:
        self._callback = callback

    def up(self, connected: bool) -> None:
        self.connected = connected
        self._callback(connected)

    async def publish(self, publication: Publication) -> int:
        self.order.append(publication.payload)
        await asyncio.sleep(0)
        answers = self.answers.get(publication.payload, [])
        answer = answers.pop(0) if answers else 0
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def subscribe(self, filter: str, qos: int, callback: Callable[[Publication], None]) -> None:
        self.subscriptions.append((filter, qos))

    async def unsubscribe(self, filter: str) -> None:
        self.unsubscribed.append(filter)


async def settle(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def make(path: Path | None = None) -> tuple[CloudProxy, Link, list[str]]:
    link, said = Link(), []
    proxy = CloudProxy(link, path, SpoolerSettings(), lambda component, level, text: said.append(text))
    proxy.start()
    return proxy, link, said


def test_messages_wait_for_the_link_and_leave_in_order() -> None:
    async def scenario() -> None:
        proxy, link, _ = make()
        for number in range(20):
            proxy.publish(message(f"{number:02}"))
        assert link.order == [] and proxy.spooled == 20
        link.up(True)
        await settle(lambda: proxy.spooled == 0)
        assert link.order == [b"%02d" % number for number in range(20)]
        await proxy.stop()

    asyncio.run(scenario())


def test_a_broken_link_keeps_the_message(tmp_path: Path) -> None:
    async def scenario() -> None:
        proxy, link, _ = make(tmp_path / "s.db")
        link.answers[b"a"] = [ConnectionError("gone")]
        link.up(True)
        proxy.publish(message("a"))
        await settle(lambda: link.order == [b"a"] and proxy._retry is not None)
        await proxy.stop()
        again, link, _ = make(tmp_path / "s.db")
        link.up(True)
        await settle(lambda: again.spooled == 0)
        assert link.order == [b"a"]
        await again.stop()

    asyncio.run(scenario())


def test_a_link_with_a_bug_loses_nothing() -> None:
    async def scenario() -> None:
        proxy, link, said = make()
        link.answers[b"a"] = [RuntimeError("a bug")]
        link.up(True)
        proxy.publish(message("a"))
        await settle(lambda: link.order == [b"a"] and not proxy._sending)
        assert proxy.spooled == 1 and "a bug" in said[0]
        assert proxy._retry is not None
        proxy._retry.cancel()
        proxy._try_again()
        await settle(lambda: proxy.spooled == 0)
        await proxy.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(("reason", "kept"), [(0x00, 0), (0x10, 0), (0x87, 0), (0x97, 1)])
def test_refusals(reason: int, kept: int) -> None:
    async def scenario() -> None:
        proxy, link, said = make()
        link.answers[b"a"] = [reason]
        link.up(True)
        proxy.publish(message("a"))
        await settle(lambda: link.order == [b"a"] and not proxy._sending)
        assert proxy.spooled == kept
        assert bool(said) is (reason == 0x87)
        await proxy.stop()

    asyncio.run(scenario())


def test_one_subscription_at_the_broker_serves_all() -> None:
    async def scenario() -> None:
        proxy, link, _ = make()
        got: list[str] = []
        waiting = asyncio.ensure_future(proxy.subscribe("f", 0, lambda p: got.append("first")))
        await asyncio.sleep(0)
        assert link.subscriptions == []
        link.up(True)
        stop_first = await waiting
        stop_second = await proxy.subscribe("f", 0, lambda p: got.append("second"))
        assert link.subscriptions == [("f", 0)]
        proxy._deliver("f", message("x"))
        assert got == ["first", "second"]
        stop_third = await proxy.subscribe("f", 1, lambda p: None)
        assert link.subscriptions == [("f", 0), ("f", 1)]
        for stop in (stop_first, stop_second, stop_third):
            assert link.unsubscribed == []
            stop()
        await settle(lambda: link.unsubscribed == ["f"])
        await proxy.stop()

    asyncio.run(scenario())
