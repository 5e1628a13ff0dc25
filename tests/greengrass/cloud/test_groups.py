"""A core in several thing groups, groups it leaves, and deployments that the core's death interrupts."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.e2e.conftest import start, stop

ACCOUNT = "arn:aws:iot:us-east-1:000000000000:"
CORE = "north"


def recipe(name, version, run="exec sleep 600", dependencies=None, install=None):
    steps = {"run": run, **({"install": install} if install else {})}
    document = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": version,
        "ComponentDependencies": {key: {"VersionRequirement": text} for key, text in (dependencies or {}).items()},
        "Manifests": [{"Platform": {"os": "linux"}, "Lifecycle": steps}],
    }
    return json.dumps(document).encode()


def begin(folder):
    return start(folder, folder / "home", "--only", "iot,greengrass")


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    (folder / "foreshore.toml").write_text(f"[cores.{CORE}]\n")
    running = begin(folder)
    yield running
    stop(running)


def until(look):
    """Ask until it is true: a wait between two questions, no assertion on time."""
    for _ in range(600):
        found = look()
        if found:
            return found
        threading.Event().wait(0.05)
    raise AssertionError("never became true")


def deploy(edge, target, components, **more):
    """Create a deployment, wait for its end, give its id and this core's part of it."""
    client = edge.boto3("greengrassv2")
    wish = {name: {"componentVersion": version} for name, version in components.items()}
    made = client.create_deployment(targetArn=target, components=wish, **more)["deploymentId"]
    until(lambda: client.get_deployment(deploymentId=made)["deploymentStatus"] != "ACTIVE")
    return made, part(client, made)


def part(client, deployment):
    found = client.list_effective_deployments(coreDeviceThingName=CORE)["effectiveDeployments"]
    return next((each for each in found if each["deploymentId"] == deployment), None)


def installed(edge, **more):
    client = edge.boto3("greengrassv2")
    found = client.list_installed_components(coreDeviceThingName=CORE, **more)["installedComponents"]
    return {each["componentName"]: each for each in found}


def versions(edge, **more):
    found = installed(edge, **more)
    return {name: each["componentVersion"] for name, each in found.items() if name.startswith("com.example.")}


def group(edge, name, parent="", add=True):
    iot = edge.boto3("iot")
    more = {"parentGroupName": parent} if parent else {}
    arn = iot.create_thing_group(thingGroupName=name, **more)["thingGroupArn"]
    if add:
        iot.add_thing_to_thing_group(thingGroupName=name, thingName=CORE)
    return arn


def test_a_core_in_two_groups_runs_what_both_ask_until_it_leaves_one(edge):
    client, iot = edge.boto3("greengrassv2"), edge.boto3("iot")
    for version in ("1.2.0", "1.5.0"):
        client.create_component_version(inlineRecipe=recipe("com.example.lib", version))
    for name, wish in (("com.example.old", "<1.3.0"), ("com.example.new", "^1.0.0"), ("com.example.next", ">=1.4.0")):
        client.create_component_version(inlineRecipe=recipe(name, "1.0.0", dependencies={"com.example.lib": wish}))
    first, second = group(edge, "first"), group(edge, "second")
    made, _ = deploy(edge, first, {"com.example.old": "1.0.0"})
    newer, _ = deploy(edge, second, {"com.example.new": "1.0.0"})
    ours = {"com.example.old": "1.0.0", "com.example.new": "1.0.0"}
    assert versions(edge) == ours
    assert versions(edge, topologyFilter="ALL") == {**ours, "com.example.lib": "1.2.0"}
    sources = {name: each["lastInstallationSource"] for name, each in installed(edge).items()}
    assert (sources["com.example.old"], sources["com.example.new"]) == (made, newer)

    _, refused = deploy(edge, second, {"com.example.next": "1.0.0"})
    assert refused["coreDeviceExecutionStatus"] == "FAILED" and "com.example.old" in refused["reason"]
    assert refused["statusDetails"] == {
        "errorStack": [
            "DEPLOYMENT_FAILURE",
            "NO_AVAILABLE_COMPONENT_VERSION",
            "COMPONENT_VERSION_REQUIREMENTS_NOT_MET",
        ],
        "errorTypes": ["REQUEST_ERROR"],
    }
    assert versions(edge) == ours

    iot.remove_thing_from_thing_group(thingGroupName="first", thingName=CORE)
    assert versions(edge) == ours
    deploy(edge, second, {"com.example.next": "1.0.0"})
    assert versions(edge, topologyFilter="ALL") == {"com.example.next": "1.0.0", "com.example.lib": "1.5.0"}
    assert [each["coreDeviceThingName"] for each in client.list_core_devices(thingGroupArn=first)["coreDevices"]] == [
        CORE
    ]
    deploy(edge, second, {})
    assert versions(edge, topologyFilter="ALL") == {}


def test_a_deployment_to_a_group_reaches_the_groups_below_it(edge):
    client = edge.boto3("greengrassv2")
    client.create_component_version(inlineRecipe=recipe("com.example.below", "1.0.0"))
    above = group(edge, "above", add=False)
    group(edge, "below", parent="above")
    _, done = deploy(edge, above, {"com.example.below": "1.0.0"})
    assert done["coreDeviceExecutionStatus"] == "SUCCEEDED"
    assert versions(edge)["com.example.below"] == "1.0.0"
    other = group(edge, "beside")
    deploy(edge, other, {})
    assert versions(edge)["com.example.below"] == "1.0.0"
    deploy(edge, above, {})


def test_a_broken_component_that_stays_says_why(edge):
    client = edge.boto3("greengrassv2")
    client.create_component_version(inlineRecipe=recipe("com.example.broken", "1.0.0", "exit 7"))
    thing = f"{ACCOUNT}thing/{CORE}"
    policies = {"failureHandlingPolicy": "DO_NOTHING"}
    _, failed = deploy(edge, thing, {"com.example.broken": "1.0.0"}, deploymentPolicies=policies)
    assert failed["reason"].startswith("FAILED_ROLLBACK_NOT_REQUESTED")
    found = installed(edge)["com.example.broken"]
    assert (found["lifecycleState"], found["lifecycleStatusCodes"]) == ("BROKEN", ["RUN_ERROR"])
    assert "exited with code 7" in found["lifecycleStateDetails"]
    core = client.get_core_device(coreDeviceThingName=CORE)
    assert core["status"] == "UNHEALTHY" and found["lastReportedTimestamp"] == core["lastStatusUpdateTimestamp"]
    deploy(edge, thing, {})
    assert client.get_core_device(coreDeviceThingName=CORE)["status"] == "HEALTHY"


def test_what_waits_for_a_core_is_forgotten_when_it_leaves_the_group(edge):
    client, iot = edge.boto3("greengrassv2"), edge.boto3("iot")
    iot.create_thing(thingName="far")
    both = group(edge, "both")
    iot.add_thing_to_thing_group(thingGroupName="both", thingName="far")
    made = client.create_deployment(targetArn=both, components={})["deploymentId"]
    until(lambda: (part(client, made) or {}).get("coreDeviceExecutionStatus") == "SUCCEEDED")
    assert client.get_deployment(deploymentId=made)["deploymentStatus"] == "ACTIVE"
    iot.remove_thing_from_thing_group(thingGroupName="both", thingName="far")
    until(lambda: client.get_deployment(deploymentId=made)["deploymentStatus"] == "COMPLETED")


def test_a_deployment_to_a_group_is_an_iot_job(edge):
    client, iot = edge.boto3("greengrassv2"), edge.boto3("iot")
    iot.create_thing(thingName="away")
    target = group(edge, "jobs")
    iot.add_thing_to_thing_group(thingGroupName="jobs", thingName="away")
    client.create_component_version(inlineRecipe=recipe("com.example.ends", "1.0.0", "exit 9"))
    wish = {"com.example.ends": {"componentVersion": "1.0.0", "configurationUpdate": {"merge": '{"a": 1}'}}}
    rollout = {"jobExecutionsRolloutConfig": {"maximumPerMinute": 50}}
    made = client.create_deployment(targetArn=target, components=wish, iotJobConfiguration=rollout)
    until(lambda: (part(client, made["deploymentId"]) or {}).get("coreDeviceExecutionStatus") == "FAILED")
    job = iot.describe_job(jobId=made["iotJobId"])["job"]
    assert (job["jobArn"], job["status"], job["targetSelection"]) == (made["iotJobArn"], "IN_PROGRESS", "CONTINUOUS")
    assert job["jobExecutionsRolloutConfig"] == rollout["jobExecutionsRolloutConfig"]
    document = json.loads(iot.get_job_document(jobId=made["iotJobId"])["document"])
    assert document["configurationArn"] == "arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/jobs:1"
    assert document["components"] == {
        "com.example.ends": {"version": "1.0.0", "configurationUpdate": {"MERGE": {"a": 1}}}
    }
    execution = iot.describe_job_execution(jobId=made["iotJobId"], thingName=CORE)["execution"]
    said = execution["statusDetails"]["detailsMap"]
    assert (execution["status"], said["detailed-deployment-status"]) == ("FAILED", "FAILED_ROLLBACK_COMPLETE")
    assert "com.example.ends" in said["deployment-failure-cause"]
    assert said["deployment-error-stack"].startswith("[DEPLOYMENT_FAILURE, COMPONENT_UPDATE_ERROR")
    until(lambda: iot.list_job_executions_for_thing(thingName="away")["executionSummaries"])
    assert waiting_for(edge, "away") == []

    following = client.create_deployment(targetArn=target, components={})
    assert iot.describe_job(jobId=made["iotJobId"])["job"]["status"] == "CANCELED"
    until(lambda: part(client, following["deploymentId"])["coreDeviceExecutionStatus"] == "SUCCEEDED")
    execution = iot.describe_job_execution(jobId=following["iotJobId"], thingName=CORE)["execution"]
    assert execution["status"] == "SUCCEEDED"
    iot.cancel_job(jobId=following["iotJobId"])
    get = client.get_deployment
    until(lambda: get(deploymentId=following["deploymentId"])["deploymentStatus"] == "CANCELED")
    jobs = iot.list_jobs(namespaceId="aws-gg-deployment", thingGroupName="jobs")["jobs"]
    assert {each["jobId"]: each["status"] for each in jobs} == {
        made["iotJobId"]: "CANCELED",
        following["iotJobId"]: "CANCELED",
    }


def waiting_for(edge, thing):
    """The jobs that a device's own program finds before itself."""
    return edge.boto3("iot-jobs-data").get_pending_job_executions(thingName=thing)["queuedJobs"]


def test_versions_that_are_none_are_refused(edge):
    client = edge.boto3("greengrassv2")
    wish = {"aws.greengrass.Cli": {"componentVersion": "latest"}}
    with pytest.raises(client.exceptions.ValidationException):
        client.create_deployment(targetArn=f"{ACCOUNT}thing/{CORE}", components=wish)


def test_kill_9_amid_a_deployment(tmp_path):
    (tmp_path / "foreshore.toml").write_text(f"[cores.{CORE}]\n")
    gate, count = tmp_path / "gate", tmp_path / "count"
    install = f"while [ ! -e {gate} ]; do sleep 0.05; done; echo once >> {count}"
    edge = begin(tmp_path)
    client = edge.boto3("greengrassv2")
    client.create_component_version(inlineRecipe=recipe("com.example.slow", "1.0.0", "exec sleep 651", None, install))
    wish = {"com.example.slow": {"componentVersion": "1.0.0"}}
    made = client.create_deployment(targetArn=f"{ACCOUNT}thing/{CORE}", components=wish)["deploymentId"]
    until(lambda: any(str(gate) in line for line in edge.children().values()))
    assert part(client, made)["coreDeviceExecutionStatus"] == "IN_PROGRESS"
    os.kill(edge.process.pid, signal.SIGKILL)
    edge.process.communicate()

    edge = begin_with_gate(tmp_path, gate)
    try:
        client = edge.boto3("greengrassv2")
        until(lambda: client.get_deployment(deploymentId=made)["deploymentStatus"] == "COMPLETED")
        assert versions(edge) == {"com.example.slow": "1.0.0"}
        assert count.read_text() == "once\n"
        assert sum("sleep 651" in line for line in edge.children().values()) == 1
        log = Path(edge.ends["cores"][CORE]["root"], "logs/greengrass.log").read_text()
        assert log.count(f"deployment {made} ended SUCCEEDED") == 1
    finally:
        stop(edge)


def begin_with_gate(folder, gate):
    """Start again; what was interrupted goes on before the edge is ready."""
    gate.touch()
    return begin(folder)
