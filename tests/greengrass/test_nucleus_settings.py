"""The nucleus's configuration: what components see of it, and what is said to have no effect."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from foreshore.errors import UserError
from foreshore.greengrass.deployments import joined_run_with
from foreshore.greengrass.nucleus_settings import NucleusSettings, read_nucleus
from foreshore.greengrass.run_as import find_identity
from tests.greengrass.supervisor_bench import SLEEP, Bench, run

NUCLEUS = "aws.greengrass.Nucleus"
PROXY = {
    "HTTP_PROXY": "http://u:p@proxy:8080", "HTTPS_PROXY": "http://u:p@proxy:8080",
    "ALL_PROXY": "http://u:p@proxy:8080", "NO_PROXY": "localhost,10.0.0.1",
}  # fmt: skip

# (configuration, what is read of it, notes)
CASES: list[tuple[dict[str, object], dict[str, object], list[str]]] = [
    ({}, {}, []),
    ({"interpolateComponentConfiguration": True, "mqtt": {"spooler": {"storageType": "Disk"}}}, {}, []),
    ({"runWithDefault": {"posixUser": "a:b", "posixShell": "bash"}}, {"posix_user": "a:b", "posix_shell": "bash"}, []),
    ({"RunWithDefault": {"PosixUser": 1000}}, {"posix_user": "1000", "posix_shell": "sh"}, []),
    ({"platformOverride": {"architecture": "arm"}}, {"platform": {"architecture": "arm"}}, []),
    (
        {
            "networkProxy": {
                "noProxyAddresses": "10.0.0.1",
                "proxy": {"url": "http://proxy:8080", "username": "u", "password": "p"},
            }
        },
        {"environment": {**PROXY, **{name.lower(): value for name, value in PROXY.items()}}},
        [],
    ),
    ({"networkProxy": {"proxy": {"url": ""}}}, {"environment": {}}, []),
    ({"deploymentPollingFrequencySeconds": 5}, {}, ["deploymentPollingFrequencySeconds has no effect here: depl"]),
    ({"componentStoreMaxSizeBytes": 5}, {}, ["componentStoreMaxSizeBytes has no effect here: the component"]),
    ({"mqtt": {"port": 443, "spooler": {}}}, {}, ["mqtt.port has no effect here"]),
    ({"telemetry": {"enabled": False}, "fleetStatus": {"periodicStatusPublishIntervalSeconds": 86400}}, {}, []),
    ({"fipsMode": "true"}, {}, ["fipsMode has no effect here"]),
    ({"runWithDefault": {"systemResourceLimits": {"cpus": 1}}}, {}, ["runWithDefault.systemResourceLimits has no"]),
]


@pytest.mark.parametrize(("document", "read", "notes"), CASES)
def test_reading(document: dict[str, object], read: dict[str, object], notes: list[str]) -> None:
    found = read_nucleus(document)
    for name in ("posix_user", "posix_shell", "environment", "platform"):
        assert getattr(found, name) == read.get(name, getattr(NucleusSettings(), name))
    assert len(found.notes) == len(notes)
    assert all(each.startswith(start) for each, start in zip(found.notes, notes, strict=True))


RUN_WITH = [
    ({}, None, {}),
    ({"posixUser": "a"}, None, {"posixUser": "a"}),
    ({"posixUser": "a"}, {"posixUser": "b"}, {"posixUser": "b"}),
    ({"posixUser": "a"}, {"posixUser": ""}, {}),
    ({"posixUser": "a", "systemResourceLimits": {"cpus": 1}}, {}, {"posixUser": "a"}),
]


@pytest.mark.parametrize(("old", "given", "joined"), RUN_WITH)
def test_run_with_stays_until_it_is_changed(
    old: dict[str, object], given: dict[str, object] | None, joined: dict[str, object]
) -> None:
    assert joined_run_with(old, given) == joined


def test_a_running_core_follows_its_nucleus(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", run="echo one $HTTP_PROXY $0; echo two >&2; " + SLEEP)
        config: dict[str, dict[str, object]] = {
            NUCLEUS: {
                "MERGE": {
                    "logging": {"level": "WARN", "format": "JSON"},
                    "networkProxy": {"proxy": {"url": "http://p:1"}},
                    "runWithDefault": {"posixShell": "bash"},
                    "jvmOptions": "-Xmx64m",
                }
            }
        }
        assert (await bench.deploy_with(config, {"app": "1.0.0"})).status == "SUCCEEDED"
        await bench.until(lambda: "two" in bench.text("app"))
        lines = [json.loads(line) for line in bench.text("app").splitlines()]
        assert [(line["level"], line["eventType"], line["message"]) for line in lines] == [("WARN", "stderr", "two")]
        assert [line.text for line in bench.lines if line.text.startswith("one")] == ["one http://p:1 bash"]
        notes = [line.text for line in bench.lines if "jvmOptions has no effect" in line.text]
        assert len(notes) == 1 and notes[0].startswith(NUCLEUS)
        assert (await bench.deploy_with({NUCLEUS: {"RESET": ["/logging"]}}, {})).status == "SUCCEEDED"
        await bench.supervisor.restart_component("app")
        await bench.until(lambda: ": stdout. one" in bench.text("app"))

    run(tmp_path, work)


def test_a_lite_core_follows_the_nucleus_lite(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", run="echo one $HTTP_PROXY; " + SLEEP)
        proxy: dict[str, object] = {"networkProxy": {"proxy": {"url": "http://p:1"}}, "rootPath": "/g"}
        config: dict[str, dict[str, object]] = {f"{NUCLEUS}Lite": {"MERGE": proxy}}
        assert (await bench.deploy_with(config, {"app": "1.0.0"})).status == "SUCCEEDED"
        await bench.until(lambda: "one http://p:1" in bench.text("app"))
        assert any(f"{NUCLEUS}Lite: rootPath has no effect" in line.text for line in bench.lines)

    run(tmp_path, work, profile="lite")


def test_platform_override(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        (bench.recipes / "app.yaml").write_text(
            "RecipeFormatVersion: '2020-01-25'\nComponentName: app\nComponentVersion: 1.0.0\n"
            "Manifests:\n  - Platform: {os: linux, shelf: '/[ab]/'}\n    Lifecycle: {Run: exec sleep 600}\n"
        )
        assert "no manifest of app 1.0.0 fits" in (await bench.deploy(app="1.0.0")).failure_cause
        config: dict[str, dict[str, object]] = {NUCLEUS: {"MERGE": {"platformOverride": {"shelf": "b"}}}}
        await bench.deploy_with(config, {})
        assert (await bench.deploy(app="1.0.0")).status == "SUCCEEDED"

    run(tmp_path, work)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs components as another user")


@needs_root
def test_steps_run_as_the_user_they_are_given(open_folder: Path) -> None:
    async def work(bench: Bench) -> None:
        nobody = find_identity("nobody")
        lifecycle = (
            "      Install: {Script: 'id -u > privileged', RequiresPrivilege: true}\n"
            "      Run: 'id -u > who; id -g >> who; echo $HOME >> who; exec sleep 600'\n"
        )
        (bench.recipes / "app.yaml").write_text(
            "RecipeFormatVersion: '2020-01-25'\nComponentName: app\nComponentVersion: 1.0.0\n"
            f"Manifests:\n  - Lifecycle:\n{lifecycle}"
        )
        run_with = {"app": {"posixUser": "nobody"}}
        deploy = bench.supervisor.deploy_local
        status = await bench.supervisor.wait(
            await deploy(bench.recipes, None, {"app": "1.0.0"}, [], {}, run_with=run_with)
        )
        assert status.status == "SUCCEEDED", status.failure_cause
        work_folder = bench.root / "work/app"
        await bench.until(
            lambda: (work_folder / "who").exists() and len((work_folder / "who").read_text().split()) == 3
        )
        assert (work_folder / "who").read_text().split() == [str(nobody.uid), str(nobody.gid), nobody.home]
        assert (work_folder / "privileged").read_text() == "0\n"
        assert work_folder.stat().st_uid == nobody.uid
        # It stays that user's without being named again, also in another life of the core.
        first = bench.pid("app")
        assert (await bench.deploy()).status == "SUCCEEDED" and bench.pid("app") == first
        again = Bench(open_folder, bench.configuration)
        await bench.supervisor.stop()
        await again.supervisor.start()
        await again.until(lambda: again.state("app") == "RUNNING")
        assert Path(f"/proc/{again.pid('app')}").stat().st_uid == nobody.uid
        await again.supervisor.stop()
        await bench.supervisor.start()

    run(open_folder, work)


@needs_root
def test_a_user_that_is_not_there_breaks_the_component_and_says_so(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.recipe("app", run=SLEEP)
        config: dict[str, dict[str, object]] = {NUCLEUS: {"MERGE": {"runWithDefault": {"posixUser": "no_such:one"}}}}
        status = await bench.deploy_with(config, {"app": "1.0.0"}, policy="DO_NOTHING")
        assert status.error_stack[-1] == "COMPONENT_BROKEN"
        assert "there is no user 'no_such' on this machine" in status.failure_cause

    run(tmp_path, work)


@pytest.mark.parametrize("wanted", ["no_such_user", "root:no_such_group", "4294967290"])
def test_unknown_identities(wanted: str) -> None:
    with pytest.raises(UserError, match="on this machine"):
        find_identity(wanted)


def test_known_identities() -> None:
    root = find_identity("root")
    assert (root.uid, root.gid) == (0, 0)
    assert find_identity("0:0") == root
