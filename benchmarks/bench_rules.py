"""Rules a second: evaluation alone, the engine with one action queued, and MiniStack's evaluator beside it.

    python benchmarks/bench_rules.py [--messages N]

The figures are of one run on one core; compare the ratios. `engine` is the whole path of a message in process: topic
lookup, decoding, WHERE, SELECT, span, record and the action's queue; `with its action` also serves the queue, with a
Lambda seam that does nothing. `broker` is a QoS 0 publisher over TCP into the real broker with the engine attached.
MiniStack is asked for the two statements that both understand, through the function its broker calls.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import Any

from foreshore.iot.rules import Message, compile
from foreshore.iot.rules.engine import Engine
from foreshore.seams import InvokeResult, Publication

ROLE = "arn:aws:iam::000000000000:role/r"
FUNCTION = {"lambda": {"functionArn": "arn:aws:lambda:us-east-1:000000000000:function:f"}}
PAYLOAD = b'{"device":"sensor-0001","seq":123,"ts":1497028786000,"quantity":"temperature","value":31.57,"unit":"Cel"}'
WHOLE = PAYLOAD.replace(b"31.57", b"31")
TOPIC = "devices/sensor-0001/readings"
SQL = "SELECT device, value, topic(2) AS id FROM 'devices/+/readings' WHERE value > 30 AND quantity = 'temperature'"
STATEMENTS = {
    "SELECT *": "SELECT * FROM 'devices/+/readings'",
    "SELECT … WHERE": SQL,
    "WHERE is false": SQL.replace("> 30", "> 90"),
    "nested query": "SELECT (SELECT VALUE v FROM e WHERE v > 1) AS v FROM 'devices/+/readings'",
}


def timed(name: str, count: int, work: Callable[[int], None]) -> float:
    """Microseconds a message; the best of three."""
    best = min(_once(count, work) for _ in range(3))
    print(f"  {name:58} {best:8.2f} us   {1e6 / best:10,.0f} a second")
    return best


def _once(count: int, work: Callable[[int], None]) -> float:
    start = time.process_time()
    work(count)
    return (time.process_time() - start) / count * 1e6


def bench_evaluation(count: int) -> None:
    """Message made, decoded, evaluated and serialized."""
    print("evaluation (decode, WHERE, SELECT, serialize)")
    for name, sql in STATEMENTS.items():
        rule = compile(sql, "2016-03-23")
        payload = b'{"e":[{"v":1},{"v":2},{"v":3}]}' if name == "nested query" else PAYLOAD

        def work(n: int, rule: Any = rule, payload: bytes = payload) -> None:
            for _ in range(n):
                result = rule.apply(Message(TOPIC, payload, "d", timestamp_ms=1))
                if result.fired:
                    _ = result.payload

        timed(name, count, work)


async def _invoke(function: str, payload: bytes, **more: Any) -> InvokeResult:
    return InvokeResult(b"")


def _drop(publication: Publication) -> None:
    """A bus that nobody hears."""


def make_engine(rules: int, sql: str = SQL, publish: Callable[[Publication], None] = _drop) -> Engine:
    """An engine with `rules` rules, all of which match the topic."""
    engine = Engine(
        region="us-east-1", account="000000000000", publish=publish, invoke=_invoke,
        backend_url=lambda: "http://127.0.0.1:1", span=lambda span: None, log=lambda line: None,
    )  # fmt: skip
    for number in range(rules):
        engine.set_rule(f"r{number}", {"sql": sql, "awsIotSqlVersion": "2016-03-23", "actions": [FUNCTION]})
    return engine


def bench_engine(count: int) -> None:
    """The path of a message through the engine."""
    print("engine, every rule matches and fires")
    for rules in (1, 10, 100):
        for served in (False, True):
            asyncio.run(_engine(max(count // rules, 100), rules, served))


async def _engine(count: int, rules: int, served: bool) -> None:
    engine = make_engine(rules)
    await engine.start()
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"

    best = 1e9
    for _ in range(3):
        spent = 0.0
        for start in range(0, count, 1000):
            messages = [
                Publication(TOPIC, PAYLOAD, client_id="d", timestamp_ms=1, traceparent=trace)
                for _ in range(min(1000, count - start))
            ]
            before = time.process_time()
            for message in messages:
                engine.on_message(message)
            if not served:
                spent += time.process_time() - before
            await engine.idle()
            if served:
                spent += time.process_time() - before
        best = min(best, spent / count * 1e6)
    await engine.stop()
    name = f"{rules} rule{'s' if rules > 1 else ''}, {'with its action' if served else 'action queued'}"
    print(f"  {name:58} {best:8.2f} us   {1e6 / best:10,.0f} a second, {best / rules:.2f} us a rule")


def bench_dead(count: int) -> None:
    """A rule whose target refuses, or never answers, beside a healthy one on the same topic."""
    print("one healthy rule (Lambda seam), beside a rule whose target is down; errors told / messages")
    for name in ("alone", "target refuses", "target never answers"):
        asyncio.run(_dead(min(count, 5000), name))


async def _dead(count: int, name: str) -> None:
    told = 0

    def publish(publication: Publication) -> None:
        nonlocal told
        told += publication.topic == "errors"

    engine = make_engine(1, publish=publish)
    hole = await asyncio.start_server(_swallow, "127.0.0.1", 0)
    port = 1 if name == "target refuses" else hole.sockets[0].getsockname()[1]
    if name != "alone":
        dead = {"salesforce": {"token": "t", "url": f"http://127.0.0.1:{port}/"}}
        error = {"republish": {"roleArn": ROLE, "topic": "errors"}}
        payload = {"sql": SQL, "awsIotSqlVersion": "2016-03-23", "actions": [dead], "errorAction": error}
        engine.set_rule("dead", payload)
    await engine.start()
    start = time.perf_counter()
    healthy = engine._rules["r0"]
    for _ in range(count):
        engine.on_message(Publication(TOPIC, PAYLOAD, client_id="d", timestamp_ms=1))
        await asyncio.sleep(0)
    while healthy.fired < count:
        await asyncio.sleep(0)
    spent = time.perf_counter() - start
    await engine.idle()
    drained = time.perf_counter() - start
    await engine.stop()
    hole.close()
    print(
        f"  {name:30} healthy {count / spent:9,.0f} a second; all drained after {drained:6.2f} s; told {told} / {count}"
    )


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def bench_ministack(count: int) -> None:
    """Two statements that MiniStack's evaluator understands, in one process."""
    try:
        from ministack.services import iot
    except ImportError as error:
        print(f"MiniStack is not installed: {error}")
        return
    print("statements that both evaluate (WHERE and SELECT of one message)")
    statements = {
        "two conditions": SQL.replace(", topic(2) AS id", ""),
        "topic()": "SELECT device, topic(2) AS id FROM 'devices/+/readings' WHERE seq > 1",
    }
    for name, sql in statements.items():
        rule = compile(sql, "2016-03-23")

        def ours(n: int, rule: Any = rule) -> None:
            for _ in range(n):
                _ = rule.evaluate(Message(TOPIC, WHOLE, "d", timestamp_ms=1)).payload

        where, select = iot._rule_where_clause(sql), iot._rule_select_clause(sql)

        def theirs(n: int, sql: str = sql, where: str = where, select: str = select) -> None:
            for _ in range(n):
                message = iot._rule_message(WHOLE)
                if iot._topic_matches(iot._rule_topic_filter(sql), TOPIC) and iot._eval_where(
                    where, TOPIC, WHOLE, message, "d"
                ):
                    iot._rule_event(sql, TOPIC, WHOLE, "d", message)

        mine = timed(f"{name}: foreshore", count, ours)
        other = timed(f"{name}: MiniStack", max(count // 20, 100), theirs)
        print(f"    ratio {other / mine:.1f}")


def bench_broker(count: int) -> None:
    """A TCP publisher through the broker into the engine."""
    try:
        from foreshore.iot.mqtt.server import Broker
    except ImportError as error:
        print(f"the broker can't be imported: {error}")
        return
    print("through the broker, QoS 0 (server and publisher share this process)")
    for rules in (0, 1, 10, 100):
        asyncio.run(_broker(Broker, max(count // max(rules, 1), 1000), rules))


def _string(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


def _packet(kind: int, body: bytes) -> bytes:
    size, remaining = bytearray(), len(body)
    while True:
        byte, remaining = remaining % 128, remaining // 128
        size.append(byte | (128 if remaining else 0))
        if not remaining:
            return bytes([kind]) + bytes(size) + body


async def _broker(broker_class: Any, count: int, rules: int) -> None:
    broker = broker_class(rate_limits=False)
    port = await broker.listen("127.0.0.1", 0)
    engine = make_engine(rules)
    await engine.start()
    engine.attach(broker)
    seen = asyncio.Event()
    left = count

    def arrived(publication: Publication) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            seen.set()

    broker.add_listener("devices/#", arrived)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_packet(0x10, _string("MQTT") + b"\x04\x02\x00\x3c" + _string("bench")))
    await reader.readexactly(4)
    burst = _packet(0x30, _string(TOPIC) + PAYLOAD) * 50
    before = time.process_time()
    for _ in range(count // 50):
        writer.write(burst)
        await writer.drain()
    await asyncio.wait_for(seen.wait(), 60)
    await engine.idle()
    spent = (time.process_time() - before) / count * 1e6
    writer.close()
    await engine.stop()
    await broker.stop()
    print(f"  {rules:3} rules {'':47} {spent:8.2f} us   {1e6 / spent:10,.0f} a second")


def main() -> None:
    """Run all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--only", choices=["evaluation", "engine", "broker", "dead", "ministack"])
    arguments = parser.parse_args()
    benches = {
        "evaluation": bench_evaluation,
        "engine": bench_engine,
        "broker": bench_broker,
        "dead": bench_dead,
        "ministack": bench_ministack,
    }
    for name, bench in benches.items():
        if arguments.only in (None, name):
            bench(arguments.messages)


if __name__ == "__main__":
    main()
