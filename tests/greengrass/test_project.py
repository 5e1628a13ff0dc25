"""A project's folder as the source of components: artifacts, deployment document, hot reload, HTTP and the CLI."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from foreshore.cli.component import command
from foreshore.errors import UserError
from foreshore.greengrass.configuration import Configuration
from foreshore.greengrass.configuration_journal import ConfigurationJournal
from foreshore.greengrass.watcher import Watcher
from foreshore.http import Server
from tests.greengrass.supervisor_bench import SLEEP, Bench, is_alive, run

MAIN = "import time\nprint('version {}', flush=True)\ntime.sleep(600)\n"


def make_project(folder: Path, *, uri: str = "s3://BUCKET/C/1.0.0/main.py", script: str = "{artifacts:path}") -> Path:
    project = folder / "project"
    source = project / "edge_components/app"
    source.mkdir(parents=True)
    (source / "main.py").write_text(MAIN.format(1))
    (project / "recipes").mkdir()
    unarchive = "ZIP" if uri.endswith(".zip") else "NONE"
    (project / "recipes/app.yaml").write_text(
        "RecipeFormatVersion: '2020-01-25'\nComponentName: com.example.thing\nComponentVersion: 1.0.0\n"
        "ComponentConfiguration:\n  DefaultConfiguration: {rate: 1, keep: true}\n"
        f"Manifests:\n  - Lifecycle:\n      Run: python3 -u {script}/main.py\n"
        f"    Artifacts:\n      - URI: {uri}\n        Unarchive: {unarchive}\n"
    )
    (project / "recipes/deployment.yaml").write_text(
        "targetArn: arn:aws:iot:eu-west-1:000000000000:thing/core-1\ncomponents:\n  com.example.thing:\n"
        "    componentVersion: 1.0.0\n    configurationUpdate:\n      merge: '{\"rate\": 5}'\n      reset: [/keep]\n"
    )
    return project


async def deploy(bench: Bench, project: Path) -> None:
    status = await bench.supervisor.wait(await bench.supervisor.deploy_project(project))
    assert status.status == "SUCCEEDED", status


def test_the_deployment_document_is_deployed(tmp_path: Path) -> None:
    project = make_project(tmp_path)

    async def work(bench: Bench) -> None:
        await deploy(bench, project)
        await bench.until(lambda: "version 1" in bench.text("com.example.thing"))
        assert bench.supervisor.details("com.example.thing").configuration == {"rate": 5, "keep": True}
        assert (bench.root / "packages/artifacts/com.example.thing/1.0.0/main.py").exists()
        assert (bench.root / "packages/recipes/com.example.thing-1.0.0.yaml").exists()

    run(tmp_path, work, project=project)


@pytest.mark.parametrize("built", [False, True])
def test_a_zip_is_a_folder_or_a_built_archive(tmp_path: Path, built: bool) -> None:
    script = "{artifacts:decompressedPath}/app"
    project = make_project(tmp_path, uri="s3://BUCKET/C/1.0.0/app.zip", script=script)
    if built:
        folder = project / ".foreshore/build/artifacts/com.example.thing/1.0.0"
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "app.zip", "w") as archive:
            archive.writestr("main.py", MAIN.format("built"))

    async def work(bench: Bench) -> None:
        await deploy(bench, project)
        await bench.until(lambda: f"version {'built' if built else 1}" in bench.text("com.example.thing"))

    run(tmp_path, work, project=project)


def test_a_missing_artifact_names_the_places(tmp_path: Path) -> None:
    project = make_project(tmp_path, uri="s3://BUCKET/C/1.0.0/none.py")

    async def work(bench: Bench) -> None:
        status = await bench.supervisor.wait(await bench.supervisor.deploy_project(project))
        assert status.error_stack == ["DEPLOYMENT_FAILURE", "ARTIFACT_DOWNLOAD_ERROR"]
        assert "edge_components/app/none.py" in status.failure_cause

    run(tmp_path, work, project=project)


def test_hot_reload_reports_when_running_again(tmp_path: Path) -> None:
    project = make_project(tmp_path)

    async def work(bench: Bench) -> None:
        await deploy(bench, project)
        reports: list[tuple[str, str]] = []
        watcher = Watcher(bench.supervisor, project, lambda level, text: reports.append((level, text)), interval_s=0.02)
        await watcher.start()
        first = bench.pid("com.example.thing")
        (project / "edge_components/app/main.py").write_text(MAIN.format("two"))
        await bench.until(lambda: bool(reports))
        level, text = reports.pop()
        assert level == "INFO"
        assert "com.example.thing RUNNING" in text
        assert bench.pid("com.example.thing") != first
        await bench.until(lambda: "version two" in bench.text("com.example.thing"))
        document = project / "recipes/deployment.yaml"
        document.write_text(document.read_text().replace('"rate": 5', '"rate": 6'))
        await bench.until(lambda: bool(reports))
        assert reports.pop()[1].startswith("recipes changed: nothing to restart")
        assert bench.supervisor.details("com.example.thing").configuration["rate"] == 6
        (project / "recipes/app.yaml").write_text("ComponentName: [\n")
        await bench.until(lambda: bool(reports))
        assert reports[0][0] == "ERROR"
        assert "app.yaml" in reports[0][1]
        await watcher.stop()

    run(tmp_path, work, project=project)


def test_a_changed_default_is_told_and_not_taken(tmp_path: Path) -> None:
    project = make_project(tmp_path)

    async def work(bench: Bench) -> None:
        await deploy(bench, project)
        recipe = project / "recipes/app.yaml"
        recipe.write_text(recipe.read_text().replace("keep: true", "keep: false"))
        bench.supervisor.recipes.take(project / "recipes")
        await bench.supervisor.wait(await bench.supervisor.redeploy())
        assert bench.supervisor.details("com.example.thing").configuration["keep"] is True
        assert any("RESET /keep to take it" in line.text for line in bench.lines)

    run(tmp_path, work, project=project)


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.greengrass.supervisor_bench import Bench

async def main():
    folder = Path(sys.argv[1])
    bench = Bench(folder, project=folder / "project")
    await bench.supervisor.start()
    await bench.supervisor.wait(await bench.supervisor.deploy_project(folder / "project"))
    print(bench.pid("com.example.thing"), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_core_killed_and_started_again_brings_its_components_back(tmp_path: Path) -> None:
    make_project(tmp_path, uri="s3://B/C/1.0.0/app.zip", script="{artifacts:decompressedPath}/app")
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as core:
        assert core.stdout is not None
        stray = int(core.stdout.readline())
        core.kill()

    async def main() -> None:
        again = Bench(tmp_path)
        await again.supervisor.start()
        await again.until(lambda: not is_alive(stray))
        await again.until(lambda: again.state("com.example.thing") == "RUNNING")
        assert again.supervisor.deployer.groups == {"LOCAL_DEPLOYMENT": {"com.example.thing": "1.0.0"}}
        await again.supervisor.stop()

    asyncio.run(main())


ROUNDS = """
import asyncio, sys
from pathlib import Path
from foreshore.greengrass.configuration import Configuration
from foreshore.greengrass.configuration_journal import ConfigurationJournal
from tests.greengrass.supervisor_bench import SLEEP, Bench

async def main():
    folder = Path(sys.argv[1])
    journal = ConfigurationJournal(folder / "config.db", case_sensitive=False)
    bench = Bench(folder, Configuration(journal=journal, trees=journal.load()))
    await bench.supervisor.start()
    for number in range(1, 1000):
        body = "ComponentConfiguration: {DefaultConfiguration: {round: 0}}\\n"
        bench.recipe("app", f"1.0.{number}", body=body, run=SLEEP)
        wish = {"app": {"MERGE": {"round": number}}}
        identifier = await bench.supervisor.deploy_local(bench.recipes, None, {"app": f"1.0.{number}"}, [], wish)
        print("began", number, flush=True)
        await bench.supervisor.wait(identifier)
        print("ended", number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize(("word", "number"), [("began", 1), ("ended", 1), ("began", 3), ("ended", 3)])
def test_kill_9_at_any_moment_of_a_deployment(tmp_path: Path, word: str, number: int) -> None:
    with subprocess.Popen([sys.executable, "-c", ROUNDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as core:
        assert core.stdout is not None
        while core.stdout.readline() != f"{word} {number}\n":
            assert core.poll() is None
        core.kill()

    async def main() -> None:
        journal = ConfigurationJournal(tmp_path / "config.db", case_sensitive=False)
        again = Bench(tmp_path, Configuration(journal=journal, trees=journal.load()))
        await again.supervisor.start()
        if word == "ended":
            acknowledged = again.supervisor.details("app")
            assert acknowledged.version in (f"1.0.{number}", f"1.0.{number + 1}")
            assert acknowledged.configuration["round"] in (number, number + 1)
        for each in again.supervisor.processes.definitions:
            await again.until(lambda each=each: again.state(each) == "RUNNING")
        for half_written in again.recipes.iterdir():
            half_written.unlink()
        again.recipe("app", "2.0.0", run=SLEEP)
        assert (await again.deploy(app="2.0.0")).status == "SUCCEEDED"
        await again.supervisor.stop()
        journal.close()

    asyncio.run(main())


def invoke(folder: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, arguments, obj={"project": str(folder)})
    if isinstance(result.exception, UserError):
        return 2, str(result.exception)
    return result.exit_code, result.output


def test_the_command_line(tmp_path: Path) -> None:
    project = make_project(tmp_path)

    async def work(bench: Bench) -> None:
        server = Server(bench.supervisor.admin)
        port = await server.start("127.0.0.1", 0)
        (project / ".foreshore").mkdir(exist_ok=True)
        endpoints = {"aws": f"http://127.0.0.1:{port}", "cores": {"core-1": {}}}
        (project / ".foreshore/endpoints.json").write_text(json.dumps(endpoints))

        async def cli(*arguments: str) -> tuple[int, str]:
            return await asyncio.to_thread(invoke, project, *arguments)

        code, text = await cli("deploy")
        assert (code, "SUCCEEDED" in text) == (0, True), text
        code, text = await cli("list")
        assert "com.example.thing" in text
        assert "RUNNING" in text
        code, text = await cli("list", "--json")
        assert {each["name"] for each in json.loads(text)} >= {"com.example.thing", "aws.greengrass.Nucleus"}
        code, text = await cli("config", "com.example.thing", "--merge", '{"rate": 7}')
        assert json.loads(text)["rate"] == 7
        await bench.until(lambda: "version 1" in bench.text("com.example.thing"))
        code, text = await cli("logs", "com.example.thing", "-n", "500")
        assert "version 1" in text
        first = bench.pid("com.example.thing")
        assert (await cli("restart", "com.example.thing"))[0] == 0
        await bench.until(
            lambda: bench.state("com.example.thing") == "RUNNING" and bench.pid("com.example.thing") != first
        )
        code, text = await cli("details", "com.example.thing")
        assert "state: RUNNING" in text
        assert (await cli("stop", "com.example.thing"))[0] == 0
        await bench.until(lambda: bench.state("com.example.thing") == "FINISHED")
        for arguments, message in (
            (("restart", "nobody"), "no component nobody"),
            (("stop", "aws.greengrass.Nucleus"), "part of the core"),
            (("deploy", "nobody=1.0.0"), "there is no recipe of component nobody"),
            (("deploy", "nobody"), "NAME=VERSION"),
            (("config", "com.example.thing", "--merge", "{"), "not JSON"),
            (("--core", "other", "list"), "no core other"),
        ):
            code, text = await cli(*arguments)
            assert (code, message in text) == (2, True), text
        bench.recipe("sick", run="echo the last words; exit 4")
        code, text = await cli(
            "deploy", "sick=1.0.0", "--recipes", str(bench.recipes), "--failure-policy", "DO_NOTHING"
        )
        assert code == 2 and "sick is BROKEN" in text and "    the last words" in text
        code, text = await cli("details", "sick")
        assert "state: BROKEN" in text and "exited with code 4" in text
        assert "it last wrote:\n    the last words" in text
        code, text = await cli("deploy", "--remove", "com.example.thing", "--remove", "sick")
        assert code == 0
        assert "com.example.thing" not in (await cli("list"))[1]
        await server.stop()

    run(tmp_path, work, project=project)


def test_the_command_line_without_an_edge(tmp_path: Path) -> None:
    code, text = invoke(tmp_path, "list")
    assert code == 2
    assert "no edge runs here" in text


def test_aws_components_that_are_not_emulated_say_so(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        wish = "ComponentDependencies:\n  aws.greengrass.DockerApplicationManager: {VersionRequirement: ^2.0.0}\n"
        bench.recipe("app", body=wish, run=SLEEP)
        status = await bench.deploy(app="1.0.0")
        assert "does not emulate the component aws.greengrass.DockerApplicationManager" in status.failure_cause
        bench.recipe("app", body=wish.replace("DockerApplicationManager", "Nucleus"), run=SLEEP)
        assert (await bench.deploy(app="1.0.0")).status == "SUCCEEDED"

    run(tmp_path, work)
