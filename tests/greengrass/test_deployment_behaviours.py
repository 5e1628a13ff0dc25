"""Deployments as the nucleus carries them out: order, asking, rollback, policies, the queue and its survival."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foreshore.greengrass.deployment_journal import DeploymentJournal
from foreshore.greengrass.deployments import Definition, dependers_of, read_document
from tests.greengrass.supervisor_bench import SLEEP, Bench, run

RATE = "ComponentConfiguration:\n  DefaultConfiguration:\n    rate: 1\n"
WAIT_FOR = "while [ ! -e {file} ]; do sleep 0.02; done"


def text_of(components: dict[str, str], merge: dict[str, str] | None = None, policies: str = "") -> str:
    lines = ["targetArn: arn:aws:iot:eu-west-1:000000000000:thing/a", "components:"]
    for name, version in components.items():
        update = (merge or {}).get(name, "{}")
        lines.append(f"  {name}: {{componentVersion: {version}, configurationUpdate: {{merge: '{update}'}}}}")
    return "\n".join(lines) + "\n" + (f"deploymentPolicies: {policies}\n" if policies else "")


async def enqueue(bench: Bench, text: str) -> str:
    bench.supervisor.recipes.take(bench.recipes)
    return await bench.supervisor.deploy_document(read_document(text, "deployment.yaml"))


def listen(bench: Bench, name: str, answer: Callable[[dict[str, Any]], int | None]) -> list[str]:
    """A component that answers each preUpdateEvent with `answer(event)` ms, None for no answer; the events' names."""
    events: list[str] = []

    def on_event(event: dict[str, Any]) -> None:
        kind, details = next(iter(event.items()))
        events.append(kind)
        wish = answer(details) if kind == "preUpdateEvent" else None
        if wish is not None:
            asyncio.get_running_loop().call_soon(bench.updates.defer, name, details["deploymentId"], wish)

    bench.updates.listen(name, on_event)
    return events


def test_what_is_obsolete_goes_last(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("old", body=RATE, run=SLEEP)
        await bench.deploy(old="1.0.0")
        pid = bench.pid("old")
        gate = tmp_path / "gate"
        bench.recipe("new", startup=WAIT_FOR.format(file=gate))
        deployment = await bench.supervisor.deploy_local(bench.recipes, None, {"new": "1.0.0"}, ["old"], {})
        await bench.until(lambda: "new" in bench.supervisor.processes.runners and bench.state("new") == "STARTING")
        assert bench.pid("old") == pid and bench.state("old") == "RUNNING"
        gate.touch()
        assert (await bench.supervisor.wait(deployment)).detailed == "SUCCESSFUL"
        assert "old" not in bench.supervisor.processes.definitions and "old" not in bench.configuration

    run(tmp_path, work)


def test_a_failure_leaves_what_it_would_have_removed_alone(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("old", body=RATE, run=SLEEP)
        bench.recipe("stays", body=RATE, run=SLEEP)
        await bench.deploy_with({"old": {"MERGE": {"rate": 5}}}, {"old": "1.0.0", "stays": "1.0.0"})
        pids = [bench.pid(name) for name in ("old", "stays")]
        bench.recipe("bad", run="echo because; exit 7")
        config: dict[str, dict[str, object]] = {"stays": {"MERGE": {"rate": 8}}}
        bench.configuration.merge("onlooker", ("n",), 1, 5)
        deployment = await bench.supervisor.deploy_local(bench.recipes, None, {"bad": "1.0.0"}, ["old"], config)
        await bench.until(lambda: "bad" in bench.supervisor.processes.runners)
        bench.configuration.merge("onlooker", ("n",), 2, 6)
        status = await bench.supervisor.wait(deployment)
        # What another component wrote meanwhile is not the deployment's to undo.
        assert bench.configuration.document("onlooker") == {"n": 2}
        assert status.detailed == "FAILED_ROLLBACK_COMPLETE"
        assert "bad is BROKEN" in status.failure_cause and "    because" in status.failure_cause
        assert [bench.pid(name) for name in ("old", "stays")] == pids
        assert bench.configuration.document("old") == {"rate": 5}
        assert bench.configuration.document("stays") == {"rate": 1}
        assert "bad" not in bench.supervisor.processes.definitions and "bad" not in bench.configuration

    run(tmp_path, work)


def test_do_nothing_leaves_the_broken_component_and_the_next_deployment_mends_it(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", body=RATE, run=SLEEP)
        await bench.deploy(app="1.0.0")
        bench.recipe("app", "1.1.0", body=RATE, run="exit 1")
        update: dict[str, dict[str, object]] = {"app": {"MERGE": {"rate": 9}}}
        status = await bench.deploy_with(update, {"app": "1.1.0"}, policy="DO_NOTHING")
        assert status.detailed == "FAILED_ROLLBACK_NOT_REQUESTED"
        assert bench.state("app") == "BROKEN" and bench.supervisor.details("app").version == "1.1.0"
        assert bench.configuration.document("app") == {"rate": 9}
        assert bench.supervisor.deployer.groups == {"LOCAL_DEPLOYMENT": {"app": "1.1.0"}}
        bench.recipe("app", "1.2.0", body=RATE, run=SLEEP)
        assert (await bench.deploy(app="1.2.0")).detailed == "SUCCESSFUL"

    run(tmp_path, work)


def test_what_was_broken_before_does_not_fail_the_rollback(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("sick", run="exit 1")
        bench.recipe("needs", body="ComponentDependencies: {sick: {VersionRequirement: '*'}}\n", run=SLEEP)
        await bench.deploy(needs="1.0.0", policy="DO_NOTHING")
        bench.recipe("bad", run="exit 1")
        status = await bench.deploy(bad="1.0.0")
        assert status.detailed == "FAILED_ROLLBACK_COMPLETE"

    run(tmp_path, work)


def test_dependers_are_found_through_others() -> None:
    def define(name: str, **wishes: bool) -> Definition:
        return Definition(name, "1.0.0", {}, wishes)

    all_ = [define("a"), define("b", a=True), define("c", b=True), define("d", a=False), define("e", d=True)]
    assert dependers_of({"a"}, {each.name: each for each in all_}) == {"b", "c"}


def test_a_failed_bootstrap_is_rolled_back_whatever_the_policy(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", run=SLEEP)
        await bench.deploy(app="1.0.0")
        restarting: list[bool] = []

        def answer(event: dict[str, Any]) -> int:
            restarting.append(event["isGgcRestarting"])
            return 0

        listen(bench, "app", answer)
        bench.recipe("app", "1.1.0", bootstrap="exit 9", run=SLEEP)
        text = text_of({"app": "1.1.0"}, policies="{failureHandlingPolicy: DO_NOTHING}")
        bench.supervisor.deployer.groups.clear()
        status = await bench.supervisor.wait(await enqueue(bench, text))
        assert (status.detailed, status.error_stack[-1]) == ("FAILED_ROLLBACK_COMPLETE", "COMPONENT_BOOTSTRAP_ERROR")
        assert bench.supervisor.details("app").version == "1.0.0" and bench.state("app") == "RUNNING"
        assert restarting == [True]

    run(tmp_path, work)


def test_every_listener_is_asked_and_silence_is_no_objection(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", run=SLEEP)
        bench.recipe("onlooker", run=SLEEP)
        await bench.deploy(onlooker="1.0.0")
        waits = iter([15, None])
        onlooker = listen(bench, "onlooker", lambda event: next(waits))
        silent = listen(bench, "other", lambda event: None)
        policies = "{componentUpdatePolicy: {action: NOTIFY_COMPONENTS, timeoutInSeconds: 0.05}}"
        status = await bench.supervisor.wait(await enqueue(bench, text_of({"app": "1.0.0"}, policies=policies)))
        assert status.detailed == "SUCCESSFUL"
        # A deferral counts though another component never answered; after it all are asked again.
        assert onlooker == silent == ["preUpdateEvent", "preUpdateEvent", "postUpdateEvent"]
        assert not bench.updates.defer("other", status.id, 5)

    run(tmp_path, work)


def test_a_deferred_deployment_can_be_canceled_and_changes_nothing(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", body=RATE, run=SLEEP)
        await bench.deploy(app="1.0.0")
        events = listen(bench, "app", lambda event: 3_600_000)
        identifier = await enqueue(bench, text_of({"app": "1.0.0"}, {"app": '{"rate": 4}'}))
        await bench.until(lambda: any("is deferred" in line.text for line in bench.lines))
        await bench.supervisor.cancel_deployment(identifier)
        assert (await bench.supervisor.wait(identifier)).status == "CANCELED"
        assert bench.configuration.document("app") == {"rate": 1}
        assert events == ["preUpdateEvent", "postUpdateEvent"]

    run(tmp_path, work)


def validator(bench: Bench, name: str, verdict: str | None) -> list[object]:
    asked: list[object] = []

    def validate(event: dict[str, Any]) -> None:
        details = event["validateConfigurationUpdateEvent"]
        asked.append(details["configuration"])
        if verdict is not None:
            loop = asyncio.get_running_loop()
            loop.call_soon(bench.validations.report, name, details["deploymentId"], verdict, f"{name} says no")

    bench.validations.listen(name, validate)
    return asked


VERDICTS = [
    ({"a": "ACCEPTED", "b": "ACCEPTED"}, "SUCCESSFUL", ""),
    ({"a": "REJECTED", "b": "ACCEPTED"}, "FAILED_NO_STATE_CHANGE", "{ name = a, message = a says no }"),
    ({"a": "REJECTED", "b": "REJECTED"}, "FAILED_NO_STATE_CHANGE", "a says no } { name = b, message = b says no }"),
    ({"a": "ACCEPTED", "b": None}, "FAILED_NO_STATE_CHANGE", "no report from b within 0.05 s"),
]


@pytest.mark.parametrize(("verdicts", "detailed", "cause"), VERDICTS)
def test_all_that_validate_are_asked_at_once(
    tmp_path: Path, verdicts: dict[str, str | None], detailed: str, cause: str
) -> None:
    async def work(bench: Bench) -> None:
        for name in ("a", "b"):
            bench.recipe(name, body=RATE, run=SLEEP)
        await bench.deploy(a="1.0.0", b="1.0.0")
        asked = [validator(bench, name, verdict) for name, verdict in verdicts.items()]
        policies = "{configurationValidationPolicy: {timeoutInSeconds: 0.05}}"
        merge = dict.fromkeys(verdicts, '{"rate": 2}')
        text = text_of({"a": "1.0.0", "b": "1.0.0"}, merge, policies)
        status = await bench.supervisor.wait(await enqueue(bench, text))
        assert asked == [[{"rate": 2}], [{"rate": 2}]]
        assert status.detailed == detailed and cause in status.failure_cause
        assert bench.configuration.document("a") == {"rate": 2 if detailed == "SUCCESSFUL" else 1}

    run(tmp_path, work)


def test_a_component_does_not_judge_the_configuration_of_another_version(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", body=RATE, run=SLEEP)
        await bench.deploy(app="1.0.0")
        asked = validator(bench, "app", "REJECTED")
        bench.recipe("app", "1.1.0", body=RATE, run=SLEEP)
        status = await bench.deploy_with({"app": {"MERGE": {"rate": 3}}}, {"app": "1.1.0"})
        assert status.detailed == "SUCCESSFUL" and asked == []

    run(tmp_path, work)


def test_queued_local_deployments_add_up(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        for name in ("a", "b", "c"):
            bench.recipe(name, run=SLEEP)
        deploy = bench.supervisor.deploy_local
        ids = [await deploy(bench.recipes, None, {name: "1.0.0"}, [], {}) for name in ("a", "b", "c")]
        ids.append(await deploy(None, None, {}, ["b"], {}))
        assert [(await bench.supervisor.wait(each)).detailed for each in ids] == ["SUCCESSFUL"] * 4
        assert sorted(bench.supervisor.processes.definitions) == ["a", "c"]

    run(tmp_path, work)


def test_canceled_in_the_middle_the_group_stays_what_it_was(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("slow", startup=SLEEP)
        deployment = await bench.supervisor.deploy_local(bench.recipes, None, {"slow": "1.0.0"}, [], {})
        await bench.until(lambda: "slow" in bench.supervisor.processes.runners and bench.state("slow") == "STARTING")
        await bench.supervisor.cancel_deployment(deployment)
        assert (await bench.supervisor.wait(deployment)).status == "CANCELED"
        assert bench.supervisor.deployer.groups == {}
        bench.recipe("next", run=SLEEP)
        assert (await bench.deploy(next="1.0.0")).detailed == "SUCCESSFUL"
        assert list(bench.supervisor.processes.definitions) == ["next"]

    run(tmp_path, work)


async def restarted(bench: Bench, folder: Path, before: Callable[[], None] = lambda: None) -> Bench:
    """Another supervisor over the same root and configuration, as after the death of the first."""
    await bench.supervisor.stop()
    before()
    again = Bench(folder, bench.configuration)
    await again.supervisor.start()
    return again


def test_an_interrupted_deployment_and_those_behind_it_are_taken_up(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        await bench.supervisor.start()
        bench.recipe("app", body=RATE, run=SLEEP)
        await bench.deploy(app="1.0.0")
        gate = tmp_path / "gate"
        bench.recipe("slow", body=RATE, startup=WAIT_FOR.format(file=gate))
        bench.recipe("next", run=SLEEP)
        update: dict[str, dict[str, object]] = {"slow": {"MERGE": {"rate": 4}, "RESET": ["/gone"]}}
        first = await bench.supervisor.deploy_local(bench.recipes, None, {"slow": "1.0.0"}, [], update)
        second = await bench.supervisor.deploy_local(None, None, {"next": "1.0.0"}, [], {})
        await bench.until(lambda: "slow" in bench.supervisor.processes.runners and bench.state("slow") == "STARTING")
        # What a component wrote after the deployment's configuration is newer, and stays.
        bench.configuration.merge("slow", ("rate",), 5, 2**45)
        bench.configuration.merge("slow", ("gone",), 6, 2**45)
        again = await restarted(bench, tmp_path)
        assert [each.id for each in again.supervisor.deployments()][:2] == [second, first]
        gate.touch()
        for identifier in (first, second):
            assert (await again.supervisor.wait(identifier)).detailed == "SUCCESSFUL"
        assert sorted(again.supervisor.processes.definitions) == ["app", "next", "slow"]
        assert again.configuration.document("slow") == {"rate": 5, "gone": 6}
        assert any("was interrupted and is taken up again" in line.text for line in again.lines)
        await again.supervisor.stop()

    asyncio.run(main())


def test_a_failure_after_the_interruption_goes_back_to_what_was_before_it(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        await bench.supervisor.start()
        body = RATE + "    word: '{configuration:/rate}'\n"
        bench.recipe("app", body=body, run="echo rate {configuration:/rate}; " + SLEEP)
        await bench.deploy(app="1.0.0")
        bench.recipe("app", "1.1.0", body=body, startup=WAIT_FOR.format(file=tmp_path / "gate") + "; exit 3")
        update: dict[str, dict[str, object]] = {"app": {"MERGE": {"rate": 9}}}
        identifier = await bench.supervisor.deploy_local(bench.recipes, None, {"app": "1.1.0"}, [], update)
        runners = bench.supervisor.processes.runners
        await bench.until(lambda: runners["app"].version == "1.1.0" and bench.state("app") == "STARTING")
        again = await restarted(bench, tmp_path, (tmp_path / "gate").touch)
        assert again.configuration.document("app")["rate"] == 9
        assert (await again.supervisor.wait(identifier)).detailed == "FAILED_ROLLBACK_COMPLETE"
        assert again.configuration.document("app")["rate"] == 1
        await again.until(lambda: again.state("app") == "RUNNING" and again.pid("app") > 0)
        assert again.supervisor.details("app").version == "1.0.0"
        assert again.supervisor.deployer.groups == {"LOCAL_DEPLOYMENT": {"app": "1.0.0"}}
        await again.supervisor.stop()

    asyncio.run(main())


def test_a_projects_deployment_does_not_wait_for_what_hung_before(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        await bench.supervisor.start()
        bench.recipe("app", startup=SLEEP)
        deploy = bench.supervisor.deploy_local
        hung = await deploy(bench.recipes, None, {"app": "1.0.0"}, [], {})
        behind = await deploy(None, None, {}, [], {})
        await bench.until(lambda: "app" in bench.supervisor.processes.runners and bench.state("app") == "STARTING")
        again = await restarted(bench, tmp_path)
        await again.until(lambda: again.supervisor.deployment_status(hung).status == "IN_PROGRESS")
        again.recipe("app", run=SLEEP)
        project = await again.supervisor.deploy_project(tmp_path, again.recipes)
        assert (await again.supervisor.wait(project)).detailed == "SUCCESSFUL"
        assert again.state("app") == "RUNNING"
        for identifier in (hung, behind):
            assert again.supervisor.deployment_status(identifier).status == "CANCELED"
        await again.supervisor.stop()

    asyncio.run(main())


@pytest.mark.parametrize("change", [{"attempts": 5}, {"rolling_back": "app is BROKEN"}])
def test_a_deployment_that_ends_the_core_again_and_again_is_taken_back(
    tmp_path: Path, change: dict[str, object]
) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        await bench.supervisor.start()
        bench.recipe("app", body=RATE, run=SLEEP)
        await bench.deploy(app="1.0.0")
        bench.recipe("app", "1.1.0", body=RATE, startup=SLEEP)
        update: dict[str, dict[str, object]] = {"app": {"MERGE": {"rate": 9}}}
        identifier = await bench.supervisor.deploy_local(bench.recipes, None, {"app": "1.1.0"}, [], update)
        runners = bench.supervisor.processes.runners
        await bench.until(lambda: runners["app"].version == "1.1.0" and bench.state("app") == "STARTING")

        def tamper() -> None:
            journal = DeploymentJournal(tmp_path / "root/deployments/deployments.db")
            record = next(each for each in journal.load() if each.id == identifier)
            for name, value in change.items():
                setattr(record.progress, name, value)
            journal.update(record)
            journal.close()

        again = await restarted(bench, tmp_path, tamper)
        status = await again.supervisor.wait(identifier)
        assert (status.status, status.detailed) == ("FAILED", "FAILED_ROLLBACK_COMPLETE")
        assert "died 5 times" in status.failure_cause or status.failure_cause == "app is BROKEN"
        assert again.supervisor.details("app").version == "1.0.0"
        assert again.configuration.document("app") == {"rate": 1}
        await again.supervisor.stop()
        # It is over for good, and still told of.
        third = await restarted(again, tmp_path)
        assert third.supervisor.deployment_status(identifier).status == "FAILED"
        await third.supervisor.stop()

    asyncio.run(main())
