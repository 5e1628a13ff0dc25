"""Deployments to a group of two cores: real processes on both, a broken version rolls back, kill -9 loses nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.e2e.conftest import start, stop

GROUP = "arn:aws:iot:us-east-1:000000000000:thinggroup/plants"
CORES = ("north", "south")


def recipe(version, run, artifact=""):
    manifest = {"Platform": {"os": "*", "runtime": "*"}, "Lifecycle": {"run": run}}
    if artifact:
        manifest["Artifacts"] = [{"URI": artifact}]
    document = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": "com.example.Pump",
        "ComponentVersion": version,
        "ComponentConfiguration": {"DefaultConfiguration": {"rate": 1}},
        "Manifests": [manifest],
    }
    return json.dumps(document).encode()


@pytest.fixture
def folder(tmp_path):
    cores = "\n".join(f"[cores.{name}]\ngroups = ['plants']" for name in CORES)
    (tmp_path / "foreshore.toml").write_text(cores)
    return tmp_path


def begin(folder, *more):
    return start(folder, folder / "home", "--only", "iot,greengrass", *more)


def until(look):
    """Ask until it is true: a wait between two questions, no assertion on time."""
    for _ in range(600):
        found = look()
        if found:
            return found
        threading.Event().wait(0.1)
    raise AssertionError("never became true")


def ended(client, deployment):
    return until(lambda: (status := client.get_deployment(deploymentId=deployment)["deploymentStatus"]) != "ACTIVE"
                 and status)  # fmt: skip


def execution(client, core, deployment):
    found = client.list_effective_deployments(coreDeviceThingName=core)["effectiveDeployments"]
    return next(each for each in found if each["deploymentId"] == deployment)


def running(edge, text):
    return sum(text in line for line in edge.children().values())


def installed(client, core):
    found = client.list_installed_components(coreDeviceThingName=core)["installedComponents"]
    return {each["componentName"]: (each["componentVersion"], each["lifecycleState"]) for each in found}


def test_a_group_of_two_cores_is_deployed_and_rolled_back(folder):
    edge = begin(folder)
    try:
        client, s3 = edge.boto3("greengrassv2"), edge.boto3("s3")
        s3.create_bucket(Bucket="artifacts")
        s3.put_object(Bucket="artifacts", Key="pump.sh", Body=b"exec sleep 641\n")
        for version, run in (("1.0.0", "sh {artifacts:path}/pump.sh"), ("2.0.0", "echo out of oil; exit 3")):
            artifact = "s3://artifacts/pump.sh" if version == "1.0.0" else ""
            client.create_component_version(inlineRecipe=recipe(version, run, artifact))
        wish = {"componentVersion": "1.0.0", "configurationUpdate": {"merge": '{"rate": 5}'}}
        first = client.create_deployment(targetArn=GROUP, components={"com.example.Pump": wish})["deploymentId"]
        assert ended(client, first) == "COMPLETED"
        for core in CORES:
            assert execution(client, core, first)["coreDeviceExecutionStatus"] == "SUCCEEDED"
            assert installed(client, core) == {"com.example.Pump": ("1.0.0", "RUNNING")}
        assert running(edge, "sleep 641") == 2

        broken = {"com.example.Pump": {"componentVersion": "2.0.0"}}
        second = client.create_deployment(targetArn=GROUP, components=broken)["deploymentId"]
        assert ended(client, second) == "FAILED"
        for core in CORES:
            found = execution(client, core, second)
            assert found["coreDeviceExecutionStatus"] == "FAILED"
            assert found["reason"].startswith("FAILED_ROLLBACK_COMPLETE") and "com.example.Pump" in found["reason"]
            assert "DEPLOYMENT_FAILURE" in found["statusDetails"]["errorStack"]
            assert installed(client, core) == {"com.example.Pump": ("1.0.0", "RUNNING")}
        assert running(edge, "sleep 641") == 2

        empty = client.create_deployment(targetArn=GROUP, components={})["deploymentId"]
        assert ended(client, empty) == "COMPLETED"
        assert installed(client, "north") == {} and running(edge, "sleep 641") == 0
    finally:
        stop(edge)


def test_kill_9_loses_no_accepted_deployment(folder):
    edge = begin(folder)
    client = edge.boto3("greengrassv2")
    client.create_component_version(inlineRecipe=recipe("1.0.0", "exec sleep 642"))
    wish = {"com.example.Pump": {"componentVersion": "1.0.0"}}
    accepted = client.create_deployment(targetArn=GROUP, components=wish, deploymentName="kept")["deploymentId"]
    os.kill(edge.process.pid, signal.SIGKILL)
    edge.process.communicate()

    edge = begin(folder)
    try:
        client = edge.boto3("greengrassv2")
        assert client.get_deployment(deploymentId=accepted)["deploymentName"] == "kept"
        assert ended(client, accepted) == "COMPLETED"
        for core in CORES:
            assert installed(client, core) == {"com.example.Pump": ("1.0.0", "RUNNING")}
        assert running(edge, "sleep 642") == 2
    finally:
        stop(edge)


def test_a_deployment_waits_for_a_core_that_is_away(folder):
    edge = begin(folder, "--core", "north")
    try:
        client = edge.boto3("greengrassv2")
        south = edge.boto3("iot").create_thing(thingName="south")["thingArn"]
        edge.boto3("iot").add_thing_to_thing_group(thingGroupName="plants", thingName="south")
        client.create_component_version(inlineRecipe=recipe("1.0.0", "exec sleep 643"))
        wish = {"com.example.Pump": {"componentVersion": "1.0.0"}}
        waiting = client.create_deployment(targetArn=south, components=wish)["deploymentId"]
        both = client.create_deployment(targetArn=GROUP, components={})["deploymentId"]
        until(lambda: execution(client, "north", both)["coreDeviceExecutionStatus"] == "SUCCEEDED")
        assert client.get_deployment(deploymentId=waiting)["deploymentStatus"] == "ACTIVE"
        assert client.get_deployment(deploymentId=both)["deploymentStatus"] == "ACTIVE"
    finally:
        stop(edge)
    (folder / "home/certs/cores/south").mkdir(parents=True, exist_ok=True)
    edge = begin(folder)
    try:
        client = edge.boto3("greengrassv2")
        assert ended(client, waiting) == "COMPLETED" and ended(client, both) == "COMPLETED"
        assert installed(client, "south") == {"com.example.Pump": ("1.0.0", "RUNNING")}
    finally:
        stop(edge)


def test_the_aws_cli_deploys(folder, tmp_path):
    edge = begin(folder, "--core", "north")
    environment = {
        **os.environ, "AWS_ENDPOINT_URL": edge.ends["aws"], "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_PAGER": "", "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }  # fmt: skip

    def aws(*argv):
        done = subprocess.run(
            ["aws", "greengrassv2", *argv, "--output", "json"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    try:
        (tmp_path / "recipe.json").write_bytes(recipe("1.0.0", "exec sleep 644"))
        made = aws("create-component-version", "--inline-recipe", f"fileb://{tmp_path}/recipe.json")
        assert aws("describe-component", "--arn", made["arn"])["status"]["componentState"] == "DEPLOYABLE"
        components = '{"com.example.Pump": {"componentVersion": "1.0.0"}}'
        deployment = aws("create-deployment", "--target-arn", GROUP, "--components", components)["deploymentId"]
        until(lambda: aws("get-deployment", "--deployment-id", deployment)["deploymentStatus"] == "COMPLETED")
        found = aws("list-installed-components", "--core-device-thing-name", "north")["installedComponents"]
        assert [each["lifecycleState"] for each in found] == ["RUNNING"]
        assert [each["coreDeviceThingName"] for each in aws("list-core-devices")["coreDevices"]] == ["north"]
    finally:
        stop(edge)
