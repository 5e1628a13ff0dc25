"""Components as real processes: environment, logs, states, deployments, rollback, restart of the core."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from foreshore.errors import UserError
from foreshore.greengrass.components import ComponentNotFound
from foreshore.greengrass.lifecycle import State
from tests.greengrass.supervisor_bench import SLEEP, Bench, is_alive, run


def test_a_recipe_becomes_a_running_process_with_awss_environment(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("hello", run="env | sort; pwd; echo oops >&2; " + SLEEP)
        status = await bench.deploy(hello="1.0.0")
        assert (status.status, status.detailed) == ("SUCCEEDED", "SUCCESSFUL")
        assert bench.state("hello") == "RUNNING"
        await bench.until(lambda: "stderr. oops" in bench.text("hello"))
        await bench.until(lambda: f"stdout. {bench.root}/work/hello." in bench.text("hello"))
        text = bench.text("hello")
        token = bench.tokens.issue("hello")
        for pair in (
            f"SVCUID={token}",
            f"AWS_CONTAINER_AUTHORIZATION_TOKEN={token}",
            "AWS_REGION=eu-west-1",
            "AWS_DEFAULT_REGION=eu-west-1",
            "AWS_IOT_THING_NAME=core-1",
            "AWS_ENDPOINT_URL=http://127.0.0.1:4566",
            f"AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH={bench.root}/ipc.socket",
            "GGC_VERSION=",
        ):
            assert pair in text
        assert f"stdout. {bench.root}/work/hello. {{scriptName=services.hello.lifecycle.run, serviceName=hello" in text
        assert "[WARN] (Copier) hello: stderr. oops." in text
        assert any(line.text == "oops" and line.source == "hello" and line.level == "WARN" for line in bench.lines)
        assert (bench.root / "cli_ipc_info" / f"user-{os.getuid()}").stat().st_mode & 0o777 == 0o600

    run(tmp_path, work)


def test_sigkill_is_seen_reported_and_answered_by_a_restart(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("worker", run=SLEEP)
        await bench.deploy(worker="1.0.0")
        first = bench.pid("worker")
        os.kill(first, signal.SIGKILL)
        await bench.until(lambda: bench.state("worker") == "RUNNING" and bench.pid("worker") != first)
        assert "Run script exited. {exitCode=137, serviceName=worker" in bench.text("worker")
        assert any("ended by SIGKILL" in line.text for line in bench.lines)

    run(tmp_path, work)


def test_three_errors_end_broken_with_the_last_lines_in_the_status(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("bad", run="echo cannot find the sensor; exit 7")
        status = await bench.deploy_with({}, {"bad": "1.0.0"}, policy="DO_NOTHING")
        assert status.status == "FAILED"
        assert status.detailed == "FAILED_ROLLBACK_NOT_REQUESTED"
        assert "cannot find the sensor" in status.failure_cause
        assert "code 7" in status.failure_cause
        assert bench.state("bad") == "BROKEN"
        assert bench.text("bad").count("Run script exited") == 3

    run(tmp_path, work)


def test_a_failed_deployment_is_rolled_back(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        body = "ComponentConfiguration:\n  DefaultConfiguration:\n    rate: 1\n"
        bench.recipe("app", body=body, run=SLEEP)
        await bench.deploy(app="1.0.0")
        bench.recipe("app", "1.1.0", body=body, run="exit 1")
        status = await bench.deploy_with({"app": {"MERGE": {"rate": 9}}}, {"app": "1.1.0"})
        assert status.detailed == "FAILED_ROLLBACK_COMPLETE"
        assert bench.supervisor.details("app").version == "1.0.0"
        assert bench.state("app") == "RUNNING"
        assert bench.supervisor.details("app").configuration == {"rate": 1}
        assert bench.supervisor.deployer.groups == {"LOCAL_DEPLOYMENT": {"app": "1.0.0"}}

    run(tmp_path, work)


def test_hard_dependencies_start_first_and_restart_their_dependents(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("base", startup="echo base-up", shutdown="echo base-down")
        hard = "ComponentDependencies:\n  base:\n    VersionRequirement: ^1.0.0\n"
        bench.recipe("top", body=hard, run=SLEEP)
        status = await bench.deploy(top="1.0.0")
        assert status.status == "SUCCEEDED", status
        assert bench.state("base") == "RUNNING"
        first = bench.pid("top")
        await bench.supervisor.restart_component("base")
        await bench.until(lambda: bench.text("base").count("base-up") >= 4)
        await bench.until(lambda: bench.state("top") == "RUNNING" and bench.pid("top") != first)

    run(tmp_path, work)


def test_configuration_reset_merge_and_variables(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        body = (
            "ComponentConfiguration:\n  DefaultConfiguration:\n    greeting: hello\n    limits: {low: 1, high: 5}\n"
            "    list: [1, 2]\n"
        )
        script = "echo said {configuration:/greeting} {configuration:/limits} {configuration:/none} {iot:thingName};"
        bench.recipe("talker", body=body, run=script + SLEEP)
        await bench.deploy_with({"talker": {"MERGE": {"greeting": "moin", "limits": {"high": 9}}}}, {"talker": "1.0.0"})
        await bench.until(lambda: "said moin" in bench.text("talker"))
        assert "said moin {high:9,low:1} {configuration:/none} core-1" in bench.text("talker")
        await bench.deploy_with({"talker": {"RESET": ["/greeting"], "MERGE": {"list": [3]}}}, {"talker": "1.0.0"})
        await bench.until(lambda: "said hello" in bench.text("talker"))
        expected = {"greeting": "hello", "limits": {"low": 1, "high": 9}, "list": [3]}
        assert bench.supervisor.details("talker").configuration == expected

    run(tmp_path, work)


def test_only_changed_components_restart(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("one", run=SLEEP)
        bench.recipe("two", run=SLEEP)
        await bench.deploy(one="1.0.0", two="1.0.0")
        pids = bench.pid("one"), bench.pid("two")
        bench.recipe("two", run="echo changed; " + SLEEP)
        await bench.deploy(two="1.0.0")
        assert bench.pid("one") == pids[0]
        assert bench.pid("two") != pids[1]
        await bench.deploy(remove=("one",))
        with pytest.raises(ComponentNotFound):
            bench.supervisor.details("one")
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)

    run(tmp_path, work)


def test_what_was_deployed_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        await bench.supervisor.start()
        bench.recipe("app", run=SLEEP)
        await bench.deploy(app="1.0.0")
        await bench.supervisor.stop()
        again = Bench(tmp_path, bench.configuration)
        await again.supervisor.start()
        await again.until(lambda: again.state("app") == "RUNNING")
        assert again.supervisor.deployer.groups == {"LOCAL_DEPLOYMENT": {"app": "1.0.0"}}
        await again.supervisor.stop()
        await again.supervisor.stop()

    asyncio.run(main())


def test_conflicts_change_nothing(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("lib", run=SLEEP)
        bench.recipe("app", body="ComponentDependencies:\n  lib:\n    VersionRequirement: ^2.0.0\n", run=SLEEP)
        status = await bench.deploy(app="1.0.0")
        assert status.detailed == "FAILED_NO_STATE_CHANGE"
        assert "app asks ^2.0.0; at hand: 1.0.0" in status.failure_cause
        assert status.error_stack == [
            "DEPLOYMENT_FAILURE",
            "NO_AVAILABLE_COMPONENT_VERSION",
            "COMPONENT_VERSION_REQUIREMENTS_NOT_MET",
        ]
        with pytest.raises(UserError, match="MERGE"):
            await bench.deploy_with({"app": {"MERGEE": {}}}, {})

    run(tmp_path, work)


@pytest.mark.parametrize(("code", "word"), [(0, "SUCCEEDED"), (100, "SUCCEEDED"), (101, "SUCCEEDED"), (3, "FAILED")])
def test_bootstrap_exit_codes(tmp_path: Path, code: int, word: str) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("other", run=SLEEP)
        await bench.deploy(other="1.0.0")
        before = bench.pid("other")
        bench.recipe("app", bootstrap=f"echo bootstrapping; exit {code}", run=SLEEP)
        status = await bench.deploy_with({}, {"app": "1.0.0"})
        assert status.status == word
        assert "bootstrapping" in bench.text("app")
        # The nucleus restarts after every Bootstrap, code 0 included (nucleus, KernelUpdateActivator).
        await bench.until(lambda: bench.state("other") == "RUNNING")
        assert bench.pid("other") != before
        if word == "FAILED":
            assert status.detailed == "FAILED_ROLLBACK_COMPLETE"
            assert status.error_stack[-1] == "COMPONENT_BOOTSTRAP_ERROR"

    run(tmp_path, work)


def test_install_timeout_skipif_and_setenv(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        (bench.recipes / "app.json").write_text(
            """{"recipeFormatVersion": "2020-01-25", "componentName": "app", "componentVersion": "1.0.0",
            "manifests": [{"lifecycle": {
                "setenv": {"OUTER": "one", "BOTH": "outer"},
                "install": {"script": "echo never; exit 1", "skipif": "onpath sh"},
                "startup": {"script": "echo got $OUTER $BOTH", "setenv": {"BOTH": "inner"}, "timeout": "20"},
                "shutdown": "echo going"}}]}"""
        )
        status = await bench.deploy(app="1.0.0")
        assert status.status == "SUCCEEDED"
        assert "got one inner" in bench.text("app")
        assert "never" not in bench.text("app")
        await bench.supervisor.stop_component("app")
        await bench.until(lambda: bench.state("app") == "FINISHED")
        assert "going" in bench.text("app")

    run(tmp_path, work)


def test_update_state_and_pause(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("slow", startup=SLEEP)
        identifier = await bench.supervisor.deploy_local(bench.recipes, None, {"slow": "1.0.0"}, [], {})
        await bench.until(lambda: "slow" in bench.supervisor.processes.runners and bench.state("slow") == "STARTING")
        await bench.until(lambda: bool(bench.supervisor.processes.runners["slow"].children))
        bench.supervisor.report_state("slow", "RUNNING")
        assert (await bench.supervisor.wait(identifier)).status == "SUCCEEDED"
        await bench.supervisor.pause_component("slow")
        stat = Path(f"/proc/{bench.pid('slow')}/stat")
        await bench.until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        await bench.supervisor.resume_component("slow")
        await bench.until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S")
        bench.supervisor.report_state("slow", "ERRORED")
        await bench.until(lambda: bench.state("slow") == State.STARTING)

    run(tmp_path, work)


def test_daemons_of_a_startup_step_are_heard_and_ended(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        daemon = "(echo daemon-up; trap 'echo daemon-down; exit' TERM; while :; do sleep 0.05; done) & echo forked $!"
        bench.recipe("app", startup=daemon)
        await bench.deploy(app="1.0.0")
        await bench.until(lambda: "stdout. daemon-up" in bench.text("app"))
        assert bench.state("app") == "RUNNING"
        forked = int(bench.text("app").partition("stdout. forked ")[2].partition(".")[0])
        await bench.supervisor.stop_component("app")
        await bench.until(lambda: bench.state("app") == "FINISHED")
        await bench.until(lambda: "stdout. daemon-down" in bench.text("app"))
        assert not is_alive(forked)

    run(tmp_path, work)


def test_a_dead_leader_is_seen_though_its_children_live(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", run="sleep 600 & echo child $!; wait")
        await bench.deploy(app="1.0.0")
        await bench.until(lambda: "stdout. child" in bench.text("app"))
        first = bench.pid("app")
        orphan = int(bench.text("app").partition("stdout. child ")[2].partition(".")[0])
        os.kill(first, signal.SIGKILL)
        await bench.until(lambda: bench.state("app") == "RUNNING" and bench.pid("app") not in (0, first))
        assert not is_alive(orphan)

    run(tmp_path, work)
