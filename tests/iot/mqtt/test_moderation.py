"""The broker rests between turns only where nobody waits for it: many clients that each speak seldom."""

import asyncio

import pytest

from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt.access import AllowAll
from foreshore.iot.mqtt.codec import V5, V311
from foreshore.iot.mqtt.moderation import FULL_TURN, MIN_READS_PER_S, REST_S, Moderation
from tests.iot.mqtt.wire import Wire, serve

TICK = 0.25
BUSY = int(MIN_READS_PER_S * TICK)


def after(tick: list[tuple[int, int]]) -> Moderation:
    """A moderation that has seen one tick of turns, each so many reads and of them first ones."""
    moderation = Moderation(100.0)
    for reads, first in tick:
        for each in range(reads):
            moderation.count(99.0 if each < first else 100.0)
        moderation.end_turn()
    moderation.end_tick(100.0 + TICK)
    return moderation


@pytest.mark.parametrize(
    ("tick", "rests"),
    [
        pytest.param([], False, id="silence"),
        pytest.param([(1, 1)] * BUSY, True, id="many clients, one packet each"),
        pytest.param([(1, 1)] * (BUSY - 1), False, id="too few to matter"),
        pytest.param([(1, 1)] * (BUSY // 2) + [(1, 0)] * (BUSY // 2), True, id="two packets each"),
        pytest.param([(50, 50)] + [(1, 0)] * BUSY, False, id="fifty clients in conversation"),
        pytest.param([(1, 1)] + [(1, 0)] * 10 * BUSY, False, id="one client in conversation"),
        pytest.param([(BUSY, BUSY)], True, id="all in one turn"),
    ],
)
def test_it_rests_where_many_clients_speak_seldom(tick, rests):
    moderation = after(tick)
    moderation.count(0.0)
    assert moderation.end_turn() is rests


def test_a_turn_without_reads_or_full_of_them_needs_no_rest():
    moderation = after([(1, 1)] * BUSY)
    assert moderation.end_turn() is False
    for _ in range(FULL_TURN):
        moderation.count(-1.0)
    assert moderation.end_turn() is False


def test_reads_of_an_unfinished_turn_count_once():
    moderation = Moderation(0.0)
    for _ in range(BUSY):
        moderation.count(-1.0)
    moderation.end_tick(TICK)  # In the midst of a turn.
    assert moderation.is_on
    moderation.end_turn()
    moderation.end_tick(2 * TICK)
    assert not moderation.is_on


async def publish(wire, number):
    wire.send(codec.Publish("t", b"x", 1, packet_id=number))
    assert (await wire.receive()).packet_id == number


@pytest.mark.parametrize("version", [V311, V5])
def test_the_broker_rests_between_answers_to_a_crowd_and_none_is_late_for_good(version):
    clock, rests = {"now": 1000.0}, []

    def tick(broker):
        clock["now"] += 0.01
        broker.tick()

    async def scenario(broker, port):
        crowd = [await Wire.open(port, f"device-{each}", version) for each in range(40)]
        for wire in crowd:
            await wire.receive()
        tick(broker)
        tick(broker)
        assert not rests
        await asyncio.gather(*(publish(wire, 1) for wire in crowd))
        tick(broker)
        for wire in crowd:
            await publish(wire, 2)
        assert set(rests) == {REST_S}
        tick(broker)
        for number in range(3, 60):
            await publish(crowd[0], number)
        tick(broker)
        rests.clear()
        for number in range(60, 70):
            await publish(crowd[0], number)
        assert not rests  # In conversation with one client nobody rests.

    serve(scenario, access=AllowAll(), clock=lambda: clock["now"], sleep=rests.append)


def test_a_rush_of_clients_that_come_and_go_is_served_at_once():
    clock, rests = {"now": 1000.0}, []

    async def scenario(broker, port):
        for _ in range(3):
            for each in range(40):
                wire = await Wire.open(port, f"device-{each}", V311)
                await wire.receive()
                clock["now"] += 0.0001
                broker.read_clock()
                await publish(wire, 1)
                await wire.close()
            broker.tick()
        assert not rests

    serve(scenario, access=AllowAll(), clock=lambda: clock["now"], sleep=rests.append)
