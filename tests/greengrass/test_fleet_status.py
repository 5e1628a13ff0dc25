"""What a core says of its components on `$aws/things/<thing>/greengrassv2/health/json`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from foreshore.greengrass.components import DeploymentStatus
from foreshore.greengrass.fleet_reporter import FleetReporter
from foreshore.greengrass.fleet_status import MAX_BYTES, Component, Core, cadence_s, messages, trigger_of
from foreshore.seams import Publication


class World:
    """A core whose components, link and deployments are told."""

    thing = "lab"

    def __init__(self) -> None:
        self.components = [Component("a", "1.0.0", "RUNNING", True), Component("b", "2.0.0", "RUNNING")]
        self.deploying = False
        self.sent: list[dict[str, Any]] = []
        self.link = lambda connected: None
        self.clock_ms = 1_000_000_000_000

    def fleet(self) -> list[Component]:
        return self.components

    def is_deploying(self) -> bool:
        return self.deploying

    def now_ms(self) -> int:
        return self.clock_ms

    def publish_to_cloud(self, publication: Publication, source: str) -> None:
        assert publication.topic == "$aws/things/lab/greengrassv2/health/json"
        self.sent.append(json.loads(publication.payload))

    def on_cloud_state(self, callback: Any) -> Any:
        self.link = callback
        return True, lambda: None

    def say(self, *words: str) -> None:
        raise AssertionError(words)

    def told(self) -> list[tuple[str, str, list[str]]]:
        sent, self.sent = self.sent, []
        return [(m["trigger"], m["overallDeviceStatus"], [c["componentName"] for c in m["components"]]) for m in sent]


def status() -> DeploymentStatus:
    return DeploymentStatus("d-1", "FAILED", 0, "FAILED_ROLLBACK_COMPLETE", ["E"], ["COMPONENT_ERROR"], "broken")


def test_every_occasion(tmp_path: Path) -> None:
    async def main() -> None:
        world = World()
        reporter = FleetReporter(world, tmp_path / "f.db")
        reporter.on_state("a", "RUNNING")
        assert world.told() == []
        reporter.launched()
        first = world.sent[0]
        assert (first["messageType"], first["thing"], first["sequenceNumber"]) == ("COMPLETE", "lab", 0)
        assert first["components"][0] == {
            "componentName": "a", "version": "1.0.0", "fleetConfigArns": [], "componentStatusDetails": None,
            "isRoot": True, "status": "RUNNING",
        }  # fmt: skip
        assert "deploymentInformation" not in first and "chunkInfo" not in first
        assert world.told() == [("NUCLEUS_LAUNCH", "HEALTHY", ["a", "b"])]

        reporter._last_s = float("-inf")
        world.components[1] = Component("b", "2.0.0", "BROKEN", reason="exit 1")
        reporter.on_state("b", "BROKEN")
        while not world.sent:
            await asyncio.sleep(0)
        assert world.sent[0]["components"][0]["componentStatusDetails"] == {"statusCodes": [], "statusReason": "exit 1"}
        assert world.sent[0]["sequenceNumber"] == 1
        assert world.told() == [("COMPONENT_STATUS_CHANGE", "UNHEALTHY", ["b"])]

        world.deploying = True
        reporter.on_state("a", "RUNNING")
        assert world.told() == [] and reporter._soon is None
        world.deploying = False
        reporter.on_deployment_end("thinggroup/plant", status())
        information = world.sent[0]["deploymentInformation"]
        assert (information["deploymentId"], information["status"]) == ("d-1", "FAILED")
        assert information["statusDetails"]["errorTypes"] == ["COMPONENT_ERROR"]
        assert world.told() == [("THING_GROUP_DEPLOYMENT", "UNHEALTHY", ["a"])]

        world.link(False)
        reporter.on_deployment_end("LOCAL_DEPLOYMENT", status())
        assert world.told() == []
        reporter.on_state("b", "RUNNING")
        world.link(True)
        assert world.told() == [("RECONNECT", "UNHEALTHY", ["b"])]
        world.link(False)
        world.link(True)
        assert world.told() == []
        reporter._send_cadence()
        assert world.told() == [("CADENCE", "UNHEALTHY", ["a", "b"])]
        reporter.stop()

    asyncio.run(main())


def test_large_messages_are_cut(tmp_path: Path) -> None:
    many = [Component(f"com.example.{number}", "1.0.0", "BROKEN", reason="x" * 900) for number in range(400)]
    facts = Core("lab", "2.18.0", "linux", "amd64")
    found = messages(facts, "CADENCE", many, healthy=False, sequence=7, now_ms=1, deployment={"status": "FAILED"})
    assert len(found) > 2 and all(len(body) <= MAX_BYTES for body in found)
    read = [json.loads(body) for body in found]
    chunks = [each["chunkInfo"] for each in read]
    assert chunks == [{"chunkId": number + 1, "totalChunks": len(found)} for number in range(len(found))]
    assert [c["componentName"] for each in read for c in each["components"]] == [each.name for each in many]
    assert len(messages(facts, "RECONNECT", [], healthy=True, sequence=0, now_ms=1)) == 1


def test_triggers_and_cadence() -> None:
    groups = ("thing/x", "thinggroup/y", "LOCAL_DEPLOYMENT")
    assert [trigger_of(group) for group in groups] == ["THING_DEPLOYMENT", "THING_GROUP_DEPLOYMENT", "LOCAL_DEPLOYMENT"]
    texts: tuple[Any, ...] = (None, "5", 100_000, "soon")
    found = [cadence_s({"fleetStatus": {"periodicStatusPublishIntervalSeconds": text}}) for text in texts]
    assert found == [86_400, 86_400, 100_000, 86_400] and cadence_s({}) == 86_400
