"""Telemetry: the emitter on local publish/subscribe and IoT Core, and the nucleus's aggregated message."""

import asyncio
import json

import pytest

from foreshore.greengrass.telemetry import (
    COMPONENTS,
    EMITTER,
    SYSTEM,
    AgentSettings,
    EmitterSettings,
    Metric,
    aggregate,
    read_agent_settings,
    read_emitter_settings,
)
from foreshore.greengrass.telemetry_agent import Agent

HOUR_MS = 3_600_000


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_the_emitter_publishes_samples(rig, run) -> None:
    async def scenario() -> None:
        async with rig() as running:
            heard = []
            running.core.subscribe_local("$local/greengrass/telemetry", heard.append)
            await running.core.services.settle()
            assert heard == []
            running.core.configuration.apply(
                EMITTER, defaults={"mqttTopic": "health", "telemetryPublishIntervalMs": "500"}, timestamp=2
            )
            await until(lambda: heard and [p for p in running.link.published if p.topic == "health"])
            found = json.loads(heard[0].payload)
            assert found == json.loads(running.link.published[0].payload)
            assert {each["N"] for each in found if each["NS"] == SYSTEM} == {
                "CpuUsage", "TotalNumberOfFDs", "SystemMemUsage",
            }  # fmt: skip
            counts = {each["N"]: each["V"] for each in found if each["NS"] == COMPONENTS}
            assert len(counts) == 9 and counts["NumberOfComponentsRunning"] >= 1
            assert {(each["U"], each["A"]) for each in found if each["N"] == "CpuUsage"} == {("Percent", "Average")}
            running.core.configuration.remove(EMITTER)
            await running.core.services.settle()
            count = len(heard)
            await asyncio.sleep(0)
            assert len(heard) == count

    run(scenario())


@pytest.mark.parametrize(
    ("configuration", "settings", "said"),
    [
        ({}, EmitterSettings(), ""),
        ({"pubSubPublish": "false", "mqttTopic": "m"}, EmitterSettings("", "m"), ""),
        ({"pubSubTopic": "here"}, EmitterSettings("here"), ""),
        ({"telemetryPublishIntervalMs": 100}, EmitterSettings(interval_ms=500), "500"),
        ({"telemetryPublishIntervalMs": "soon"}, EmitterSettings(), "must be a number"),
        ({"pubSubPublish": "perhaps"}, EmitterSettings(), "true or false"),
        ({"other": 1}, EmitterSettings(), "no option"),
    ],
)
def test_the_emitters_configuration(configuration, settings, said) -> None:
    found, text = read_emitter_settings(configuration)
    assert found == settings and said in text and bool(said) == bool(text)


def test_the_nucleus_takes_no_smaller_intervals() -> None:
    small = {"periodicAggregateMetricsIntervalSec": 5, "periodicPublishMetricsIntervalSec": "5"}
    assert read_agent_settings({"telemetry": small}) == AgentSettings(True, 3600, 86400)
    large = {"enabled": "false", "periodicAggregateMetricsIntervalSec": 7200}
    assert read_agent_settings({"telemetry": large}) == AgentSettings(False, 7200, 86400)


def test_metrics_are_aggregated_their_own_way() -> None:
    metrics = [
        Metric("ns", name, "Count", name, value, 0)
        for name in ("Sum", "Average", "Maximum", "Minimum")
        for value in (1, 2, 6)
    ]
    [point] = aggregate(metrics, 9)
    assert point["NS"] == "ns" and point["TS"] == 9
    assert [next(iter(set(metric) - {"N", "U"})) for metric in point["M"]] == ["Sum", "Average", "Maximum", "Minimum"]
    assert [metric[metric["N"]] for metric in point["M"]] == [9, 3, 6, 1]


def test_component_metrics_reach_the_cloud_aggregated_over_a_restart(rig, run, tmp_path) -> None:
    async def scenario() -> None:
        async with rig() as running:
            access = {"aws.greengrass.ipc.componentmetric": {"p": {"operations": ["*"], "resources": ["*"]}}}
            running.component("aws.example.Part", access)
            client = await running.raw("aws.example.Part")
            metric = {"name": "Done", "unit": "BYTES_PER_SECOND", "value": 3}
            shape, _ = await client.ask(1, "PutComponentMetric", {"metrics": [metric, {**metric, "value": 4}]})
            assert shape == "PutComponentMetricResponse"
            core = running.core
            agent = core._telemetry
            now_ms = core.now_ms()
            assert agent.catch_up(now_ms) > now_ms
            agent.catch_up(now_ms + HOUR_MS)
            agent.sample(now_ms + HOUR_MS + 1)
            await agent.stop()
            again = Agent(core, core.root / "work/aws.greengrass.Nucleus/telemetry.db")
            agent._database = again._database
            again.catch_up(now_ms + 24 * HOUR_MS)
            topic = "$aws/things/lab-core/greengrass/health/json"
            await until(lambda: [p for p in running.link.published if p.topic == topic])
            [message] = [json.loads(p.payload) for p in running.link.published if p.topic == topic]
            assert message["Schema"] == "2022-06-30"
            by_space = {}
            for point in message["ADP"]:
                by_space.setdefault(point["NS"], []).append(point)
            [own] = by_space["aws.example.Part"]
            assert own["M"] == [{"N": "Done", "Sum": 7.0, "U": "BytesPerSecond"}]
            # Two aggregations and one over both; the machine's points and what it runs.
            assert len(by_space[COMPONENTS]) == 3 and len(by_space[SYSTEM]) == 3
            assert {each["N"] for each in by_space[SYSTEM][-1]["M"]} == {"OperatingSystem", "Kernel"}
            assert again.catch_up(now_ms + 25 * HOUR_MS) > now_ms + 25 * HOUR_MS

    run(scenario())
