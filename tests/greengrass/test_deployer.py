"""The finer points of deployments: validation, deferral, cancellation, groups, profiles, what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from foreshore.errors import UserError
from foreshore.greengrass.components import DeploymentNotFound
from foreshore.greengrass.deployments import read_document
from tests.greengrass.supervisor_bench import SLEEP, Bench, run

RATE = "ComponentConfiguration:\n  DefaultConfiguration:\n    rate: 1\n"


def document(
    *, version: str = "1.0.0", policy: str = "NOTIFY_COMPONENTS", merge: str = "{}", group: str = "thing/a"
) -> str:
    return (
        f"targetArn: arn:aws:iot:eu-west-1:000000000000:{group}\n"
        f"components:\n  app:\n    componentVersion: {version}\n    configurationUpdate: {{merge: '{merge}'}}\n"
        f"deploymentPolicies:\n  componentUpdatePolicy: {{action: {policy}, timeoutInSeconds: 20}}\n"
    )


async def deploy_document(bench: Bench, text: str) -> tuple[str, str]:
    bench.supervisor.recipes.take(bench.recipes)
    identifier = await bench.supervisor.deploy_document(read_document(text, "deployment.yaml"))
    status = await bench.supervisor.wait(identifier)
    return status.detailed, status.failure_cause


@pytest.mark.parametrize(("verdict", "detailed"), [("ACCEPTED", "SUCCESSFUL"), ("REJECTED", "FAILED_NO_STATE_CHANGE")])
def test_a_component_validates_its_own_configuration(tmp_path: Path, verdict: str, detailed: str) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", body=RATE, run=SLEEP)
        await bench.deploy(app="1.0.0")
        proposed: list[dict[str, object]] = []

        def validate(event: dict[str, object]) -> None:
            details = event["validateConfigurationUpdateEvent"]
            assert isinstance(details, dict)
            proposed.append(details["configuration"])
            deployment = details["deploymentId"]
            loop = asyncio.get_running_loop()
            loop.call_soon(bench.validations.report, "app", deployment, verdict, "too fast")

        bench.validations.listen("app", validate)
        status = await bench.deploy_with({"app": {"MERGE": {"rate": 9}}}, {})
        assert proposed == [{"rate": 9}]
        assert status.detailed == detailed
        assert ("too fast" in status.failure_cause) is (verdict == "REJECTED")
        expected = 9 if verdict == "ACCEPTED" else 1
        assert bench.supervisor.details("app").configuration == {"rate": expected}

    run(tmp_path, work)


def test_a_component_defers_its_update_and_hears_of_the_end(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", run=SLEEP)
        assert await deploy_document(bench, document()) == ("SUCCESSFUL", "")
        first = bench.pid("app")
        events: list[str] = []

        def on_event(event: dict[str, object]) -> None:
            name, details = next(iter(event.items()))
            assert isinstance(details, dict)
            events.append(name)
            if name == "preUpdateEvent":
                assert bench.pid("app") == first
                recheck = 20 if events.count(name) == 1 else 0
                loop = asyncio.get_running_loop()
                loop.call_soon(bench.updates.defer, "app", details["deploymentId"], recheck)

        bench.updates.listen("app", on_event)
        bench.recipe("app", "1.1.0", run=SLEEP)
        assert await deploy_document(bench, document(version="1.1.0")) == ("SUCCESSFUL", "")
        assert events == ["preUpdateEvent", "preUpdateEvent", "postUpdateEvent"]
        bench.recipe("app", "1.2.0", run=SLEEP)
        await deploy_document(bench, document(version="1.2.0", policy="SKIP_NOTIFY_COMPONENTS"))
        # Who is not asked is not told either (nucleus, UpdateSystemPolicyService).
        assert events[3:] == []

    run(tmp_path, work)


def test_groups_are_kept_apart_and_must_agree(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", run=SLEEP)
        bench.recipe("app", "2.0.0", run=SLEEP)
        bench.recipe("other", run=SLEEP)
        assert await deploy_document(bench, document(version="^1.0.0")) == ("SUCCESSFUL", "")
        assert (await bench.deploy(other="1.0.0")).status == "SUCCEEDED"
        assert bench.supervisor.deployer.groups == {
            "thing/a": {"app": "^1.0.0"},
            "LOCAL_DEPLOYMENT": {"other": "1.0.0"},
        }
        detailed, cause = await deploy_document(bench, document(version="2.0.0", group="thinggroup/b"))
        assert detailed == "FAILED_NO_STATE_CHANGE"
        assert "thing/a asks ^1.0.0; thinggroup/b asks 2.0.0" in cause
        assert bench.state("app") == bench.state("other") == "RUNNING"

    run(tmp_path, work)


def test_cancellation(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("slow", startup=SLEEP)
        bench.recipe("next", run=SLEEP)
        supervisor = bench.supervisor
        first = await supervisor.deploy_local(bench.recipes, None, {"slow": "1.0.0"}, [], {})
        second = await supervisor.deploy_local(None, None, {"next": "1.0.0"}, [], {})
        await bench.until(lambda: "slow" in supervisor.processes.runners and bench.state("slow") == "STARTING")
        assert supervisor.deployment_status(first).status == "IN_PROGRESS"
        assert supervisor.deployment_status(second).status == "QUEUED"
        await supervisor.cancel_deployment(second)
        await supervisor.cancel_deployment(first)
        assert (await supervisor.wait(first)).status == "CANCELED"
        assert (await supervisor.wait(second)).status == "CANCELED"
        assert "already finished" in await supervisor.cancel_deployment(first)
        assert [each.id for each in supervisor.deployments()] == [second, first]
        with pytest.raises(DeploymentNotFound):
            await supervisor.wait("none")

    run(tmp_path, work)


def test_lite_keeps_scalars_as_text_and_refuses_bad_policies(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", body=RATE, run=SLEEP)
        assert (await bench.deploy(app="1.0.0")).status == "SUCCEEDED"
        assert bench.supervisor.details("app").configuration == {"rate": "1"}
        policy = {"aws.greengrass.ipc.pubsub": {"app:1": {"operations": ["*"], "resources": ["a?"]}}}
        status = await bench.deploy_with({"app": {"MERGE": {"accessControl": policy}}}, {})
        assert "malformed resource: 'a?'" in status.failure_cause

    run(tmp_path, work, profile="lite")


def test_lite_takes_only_its_own_steps_and_manifests(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", run=SLEEP, shutdown="echo down", Install="echo installed")
        assert (await bench.deploy(app="1.0.0")).status == "SUCCEEDED"
        assert set(bench.supervisor.processes.definitions["app"].steps) == {"run"}
        notes = [line.text for line in bench.lines if "nucleus lite ignores" in line.text]
        assert notes == ["app: nucleus lite ignores shutdown", "app: nucleus lite ignores Install"]
        recipe = bench.recipes / "app-1.0.0.yaml"
        recipe.write_text(recipe.read_text().replace("      runtime: '*'\n", ""))
        status = await bench.deploy(app="1.0.0")
        assert "no manifest of app 1.0.0 fits this platform" in status.failure_cause
        assert "runtime=aws_nucleus_lite" in status.failure_cause

    run(tmp_path, work, profile="lite")


def test_what_has_no_effect_or_no_emulation_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("deployer", "processes", "runner"):
        monkeypatch.setattr(f"foreshore.greengrass.{module}.is_root", lambda: False)

    async def work(bench: Bench) -> None:
        bench.recipe("app", run=SLEEP)
        text = document().replace(
            "    configurationUpdate",
            "    runWith: {posixUser: me, systemResourceLimits: {cpus: 1}}\n    configurationUpdate",
        )
        assert await deploy_document(bench, text) == ("SUCCESSFUL", "")
        said = [line.text for line in bench.lines if line.text.startswith("runWith.")]
        assert [text.partition(" has no effect")[0] for text in said] == [
            "runWith.posixUser of app",
            "runWith.systemResourceLimits of app",
        ]
        bench.recipe("fn", body="ComponentType: aws.greengrass.lambda\n", run=SLEEP)
        status = await bench.deploy(fn="1.0.0")
        assert "does not emulate components of type lambda" in status.failure_cause
        bench.recipe("dep", body="ComponentDependencies:\n  app: {VersionRequirement: '*'}\n", run=SLEEP)
        status = await bench.deploy_with({"app": {"MERGE": {"x": 1}}}, {"dep": "1.0.0"})
        assert status.status == "SUCCEEDED"
        assert bench.supervisor.details("app").configuration == {}
        assert any("app is no root component" in line.text for line in bench.lines)
        with pytest.raises(UserError, match="failure policy"):
            await bench.supervisor.deploy_local(None, None, {}, [], {}, "RETRY")

    run(tmp_path, work)


def test_the_configuration_of_the_nucleus_is_kept_and_used(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        nucleus = {"aws.greengrass.Nucleus": {"MERGE": {"interpolateComponentConfiguration": True}}}
        assert (await bench.deploy_with(nucleus, {"aws.greengrass.Nucleus": "2.18.0"})).status == "SUCCEEDED"
        body = (
            "ComponentConfiguration:\n  DefaultConfiguration:\n    topic: 'x/{iot:thingName}/{configuration:/topic}'\n"
        )
        bench.recipe("app", body=body, run=SLEEP)
        await bench.deploy(app="1.0.0")
        assert bench.supervisor.details("app").configuration == {"topic": "x/core-1/{configuration:/topic}"}

    run(tmp_path, work)


def test_log_files_rotate(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("noisy", run="head -c 3000000 /dev/zero | tr '\\0' 'x' | fold -w 1000; " + SLEEP)
        await bench.deploy(noisy="1.0.0")
        folder = bench.root / "logs"
        await bench.until(lambda: sum(each.stat().st_size for each in folder.glob("noisy*")) > 3_000_000)
        files = list(folder.glob("noisy*.log"))
        assert len(files) >= 3
        assert all(each.stat().st_size <= 1024 * 1024 for each in files)

    run(tmp_path, work)


def test_several_cores_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        benches = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            bench = Bench(tmp_path / name)
            await bench.supervisor.start()
            bench.recipe("app", run="echo at $AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH; " + SLEEP)
            benches.append(bench)
        statuses = await asyncio.gather(*(bench.deploy(app="1.0.0") for bench in benches))
        assert [status.status for status in statuses] == ["SUCCEEDED"] * 2
        for bench in benches:
            await bench.until(lambda bench=bench: f"stdout. at {bench.root}/ipc.socket" in bench.text("app"))
        await asyncio.gather(*(bench.supervisor.stop() for bench in benches))

    asyncio.run(main())


def test_a_long_socket_path_is_given_relative(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)

    async def work(bench: Bench) -> None:
        bench.recipe("app", run="echo $AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT; " + SLEEP)
        await bench.deploy(app="1.0.0")
        await bench.until(lambda: "stdout. ../../ipc.socket." in bench.text("app"))

    run(deep, work)


HOSTILE = [
    ("app", "..", "a.py", "no component name"),
    ("app", "app", "..", "names no file"),
    ("app", "app", "", "names no file"),
    ("app", "app", "../../etc/passwd", "no artifact passwd"),
]


@pytest.mark.parametrize(("file", "name", "artifact", "what"), HOSTILE)
def test_names_never_lead_out_of_the_folders(tmp_path: Path, file: str, name: str, artifact: str, what: str) -> None:
    async def work(bench: Bench) -> None:
        (bench.recipes / f"{file}.yaml").write_text(
            f"RecipeFormatVersion: '2020-01-25'\nComponentName: {name}\nComponentVersion: 1.0.0\n"
            f"Manifests:\n  - Artifacts:\n      - URI: s3://B/{artifact}\n"
        )
        try:
            status = await bench.deploy_with({}, {name: "1.0.0"})
            assert what in status.failure_cause
        except UserError as error:
            assert what in error.what

    run(tmp_path, work)


def test_what_can_not_be_started_is_an_error_of_the_component(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        (bench.recipes / "app.yaml").write_text(
            "RecipeFormatVersion: '2020-01-25'\nComponentName: app\nComponentVersion: 1.0.0\n"
            'Manifests:\n  - Lifecycle: {Setenv: {BAD: "a\\0b"}, Run: echo}\n'
        )
        status = await bench.deploy_with({}, {"app": "1.0.0"}, policy="DO_NOTHING")
        assert status.error_stack[-1] == "COMPONENT_BROKEN"
        assert bench.supervisor.runner("app").machine.status_code == "RUN_IO_ERROR"

    run(tmp_path, work)
