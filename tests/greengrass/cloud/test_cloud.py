"""The greengrassv2 API with boto3 on a running edge: components, deployments that reach the core, core devices."""

import io
import json
import threading
import urllib.request
import zipfile
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from foreshore.traces.store import TraceReader
from tests.e2e.conftest import start, stop

ACCOUNT = "arn:aws:iot:us-east-1:000000000000:"
LOCAL = "RecipeFormatVersion: '2020-01-25'\nComponentName: com.example.local\nComponentVersion: 1.0.0\n"
LOCAL += "Manifests:\n  - Lifecycle:\n      Run: exec sleep 600\n"


def recipe(name, version, run="exec sleep 600", artifacts=(), dependencies=None):
    manifest = {"Platform": {"os": "*"}, "Lifecycle": {"Run": run}, "Artifacts": [{"URI": uri} for uri in artifacts]}
    document = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": version,
        "ComponentPublisher": "Example",
        "ComponentDependencies": {key: {"VersionRequirement": text} for key, text in (dependencies or {}).items()},
        "Manifests": [manifest],
    }
    return json.dumps(document).encode()


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cloud")
    (folder / "recipes").mkdir()
    (folder / "recipes/local.yaml").write_text(LOCAL)
    running = start(folder, folder / "home", "--only", "iot,greengrass,lambda")
    yield running
    stop(running)


@pytest.fixture(scope="module")
def thing(edge):
    return next(iter(edge.ends["cores"]))


def until_over(client, deployment):
    """Ask until a deployment is over; a wait between two questions, no assertion on it."""
    for _ in range(600):
        item = client.get_deployment(deploymentId=deployment)
        if item["deploymentStatus"] != "ACTIVE":
            return item["deploymentStatus"]
        threading.Event().wait(0.1)
    raise AssertionError("the deployment does not end")


def refused(code, call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    assert caught.value.response["Error"]["Code"] == code
    return caught.value.response["Error"]["Message"]


def assert_warned(edge, *words):
    """A WARN with these words is, or soon will be, in the log."""
    reader = TraceReader(edge.home / "state/traces.db")
    for _ in range(200):
        said = [line.text for _, line in reader.logs(source="foreshore") if line.level == "WARN"]
        if any(all(word in text for word in words) for text in said):
            reader.close()
            return
        threading.Event().wait(0.05)
    raise AssertionError(said)


def effective(client, thing, deployment):
    found = client.list_effective_deployments(coreDeviceThingName=thing)["effectiveDeployments"]
    return next(each for each in found if each["deploymentId"] == deployment)


def test_deploy_to_a_thing_then_a_broken_version_rolls_back(edge, thing):
    client = edge.boto3("greengrassv2")
    target = f"{ACCOUNT}thing/{thing}"
    for version, run in (("1.0.0", "exec sleep 612"), ("1.1.0", "exit 7")):
        made = client.create_component_version(inlineRecipe=recipe("com.example.app", version, run))
        assert made["status"] == {"componentState": "REQUESTED", "message": "NONE", "errors": {}}
        assert client.describe_component(arn=made["arn"])["status"]["componentState"] == "DEPLOYABLE"
    components = {"com.example.app": {"componentVersion": "1.0.0"}}
    first = client.create_deployment(targetArn=target, deploymentName="one", components=components)["deploymentId"]
    assert until_over(client, first) == "COMPLETED"
    execution = effective(client, thing, first)
    assert (execution["coreDeviceExecutionStatus"], execution["reason"]) == ("COMPLETED", "SUCCESSFUL")
    installed = client.list_installed_components(coreDeviceThingName=thing)["installedComponents"]
    states = {each["componentName"]: (each["componentVersion"], each["lifecycleState"]) for each in installed}
    assert states["com.example.app"] == ("1.0.0", "RUNNING")
    assert any("sleep 612" in line for line in edge.children().values())

    components = {"com.example.app": {"componentVersion": "1.1.0"}}
    second = client.create_deployment(targetArn=target, components=components)["deploymentId"]
    assert until_over(client, second) == "FAILED"
    execution = effective(client, thing, second)
    assert execution["coreDeviceExecutionStatus"] == "FAILED"
    assert execution["reason"].startswith("FAILED_ROLLBACK_COMPLETE")
    assert "com.example.app" in execution["reason"]
    assert execution["statusDetails"]["errorStack"][0] == "DEPLOYMENT_FAILURE"
    assert any("sleep 612" in line for line in edge.children().values())
    assert not client.get_deployment(deploymentId=first)["isLatestForTarget"]
    assert client.get_deployment(deploymentId=second)["revisionId"] == "2"
    every = client.list_deployments(targetArn=target, historyFilter="ALL", maxResults=1)
    assert [each["deploymentId"] for each in every["deployments"]] == [second]
    rest = client.list_deployments(targetArn=target, historyFilter="ALL", nextToken=every["nextToken"])
    assert [each["deploymentId"] for each in rest["deployments"]] == [first]
    client.delete_deployment(deploymentId=second)
    refused("ResourceNotFoundException", client.get_deployment, deploymentId=second)


def test_deploy_to_a_thing_group_with_a_dependency(edge, thing):
    client, iot = edge.boto3("greengrassv2"), edge.boto3("iot")
    client.create_component_version(inlineRecipe=recipe("com.example.base", "2.3.0", "exec sleep 613"))
    wish = {"com.example.base": "^2.0.0"}
    client.create_component_version(inlineRecipe=recipe("com.example.top", "1.0.0", dependencies=wish))
    group = iot.create_thing_group(thingGroupName="yard")["thingGroupArn"]
    made = client.create_deployment(targetArn=group, components={"com.example.top": {"componentVersion": "1.0.0"}})
    assert client.get_deployment(deploymentId=made["deploymentId"])["deploymentStatus"] == "ACTIVE"
    iot.add_thing_to_thing_group(thingGroupName="yard", thingName=thing)
    assert until_over(client, made["deploymentId"]) == "COMPLETED"
    installed = client.list_installed_components(coreDeviceThingName=thing, topologyFilter="ALL")["installedComponents"]
    found = {each["componentName"]: (each["lifecycleState"], each["isRoot"]) for each in installed}
    assert found["com.example.base"] == ("RUNNING", False)
    assert found["com.example.top"] == ("RUNNING", True)
    assert [each["coreDeviceThingName"] for each in client.list_core_devices(thingGroupArn=group)["coreDevices"]] == [
        thing
    ]


def test_component_versions(edge):
    client = edge.boto3("greengrassv2")
    for version in ("1.9.0", "1.10.0"):
        made = client.create_component_version(inlineRecipe=recipe("com.example.many", version), tags={"a": "b"})
    arn = made["arn"]
    refused("ConflictException", client.create_component_version, inlineRecipe=recipe("com.example.many", "1.9.0"))
    refused("ValidationException", client.create_component_version, inlineRecipe=b"ComponentName: x")
    described = client.describe_component(arn=arn)
    assert (described["componentVersion"], described["publisher"]) == ("1.10.0", "Example")
    assert json.loads(client.get_component(arn=arn)["recipe"])["ComponentName"] == "com.example.many"
    text = client.get_component(arn=arn, recipeOutputFormat="YAML")
    assert text["recipeOutputFormat"] == "YAML" and text["recipe"].startswith(b"RecipeFormatVersion: '2020-01-25'\n")
    bare = arn.partition(":versions:")[0]
    page = client.list_component_versions(arn=bare, maxResults=1)
    assert [each["componentVersion"] for each in page["componentVersions"]] == ["1.10.0"]
    page = client.list_component_versions(arn=bare, nextToken=page["nextToken"])
    assert [each["componentVersion"] for each in page["componentVersions"]] == ["1.9.0"]
    listed = {each["componentName"]: each for each in client.list_components()["components"]}
    assert listed["com.example.many"]["latestVersion"]["componentVersion"] == "1.10.0"
    candidate = {"componentName": "com.example.many", "versionRequirements": {"x": "<1.10.0"}}
    platform = {"attributes": {"os": "linux", "architecture": "amd64"}}
    resolved = client.resolve_component_candidates(platform=platform, componentCandidates=[candidate])
    assert resolved["resolvedComponentVersions"][0]["componentVersion"] == "1.9.0"
    candidate["versionRequirements"]["y"] = ">=1.10.0"
    refused(
        "ResourceNotFoundException",
        client.resolve_component_candidates,
        platform=platform,
        componentCandidates=[candidate],
    )
    client.tag_resource(resourceArn=arn, tags={"c": "d"})
    client.untag_resource(resourceArn=arn, tagKeys=["a"])
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == {"c": "d"}
    client.delete_component(arn=arn)
    refused("ResourceNotFoundException", client.describe_component, arn=arn)


def test_a_missing_artifact_is_refused(edge):
    client = edge.boto3("greengrassv2")
    body = recipe("com.example.bad", "1.0.0", artifacts=["s3://nowhere/main.py"])
    said = refused("ValidationException", client.create_component_version, inlineRecipe=body)
    assert said == (
        "Invalid Input: Encountered following errors in Artifacts: "
        "{s3://nowhere/main.py = Specified artifact resource cannot be accessed}"
    )
    bare = "arn:aws:greengrass:us-east-1:000000000000:components:com.example.bad"
    assert client.list_component_versions(arn=bare)["componentVersions"] == []


def test_a_recipe_has_at_most_16_kb(edge):
    client = edge.boto3("greengrassv2")
    body = recipe("com.example.long", "1.0.0")
    exact = body + b" " * (16 * 1024 - len(body))
    refused("ValidationException", client.create_component_version, inlineRecipe=exact + b" ")
    assert client.create_component_version(inlineRecipe=exact)["componentName"] == "com.example.long"


def test_what_policies_leave_out_has_defaults(edge, thing):
    client = edge.boto3("greengrassv2")
    edge.boto3("iot").create_thing(thingName="policies")
    policies = {"componentUpdatePolicy": {"action": "SKIP_NOTIFY_COMPONENTS"}}
    made = client.create_deployment(targetArn=f"{ACCOUNT}thing/policies", deploymentPolicies=policies)["deploymentId"]
    assert client.get_deployment(deploymentId=made)["deploymentPolicies"] == {
        "failureHandlingPolicy": "ROLLBACK",
        "componentUpdatePolicy": {"timeoutInSeconds": 60, "action": "SKIP_NOTIFY_COMPONENTS"},
        "configurationValidationPolicy": {"timeoutInSeconds": 30},
    }
    client.cancel_deployment(deploymentId=made)


def test_the_nucleus_is_finished(edge, thing):
    client = edge.boto3("greengrassv2")
    found = client.list_installed_components(coreDeviceThingName=thing, topologyFilter="ALL")["installedComponents"]
    states = {each["componentName"]: each["lifecycleState"] for each in found}
    assert (states["aws.greengrass.Nucleus"], states["aws.greengrass.Cli"]) == ("FINISHED", "RUNNING")


def test_what_a_deployment_refuses(edge, thing):
    client = edge.boto3("greengrassv2")
    target = f"{ACCOUNT}thing/{thing}"
    refused("ResourceNotFoundException", client.create_deployment, targetArn=f"{ACCOUNT}thing/nobody")
    absent = {"com.example.none": {"componentVersion": "1.0.0"}}
    refused("ResourceNotFoundException", client.create_deployment, targetArn=target, components=absent)
    parent = f"{ACCOUNT}thinggroup/all"
    refused("NotEmulated", client.create_deployment, targetArn=target, parentTargetArn=parent)
    refused("ResourceNotFoundException", client.get_core_device, coreDeviceThingName="nobody")
    refused("ValidationException", client.list_deployments, nextToken="x")


def test_cancel_a_deployment_that_waits_for_its_core(edge):
    client, iot = edge.boto3("greengrassv2"), edge.boto3("iot")
    iot.create_thing(thingName="far-away")
    made = client.create_deployment(targetArn=f"{ACCOUNT}thing/far-away")["deploymentId"]
    refused("ConflictException", client.delete_deployment, deploymentId=made)
    assert client.cancel_deployment(deploymentId=made)["message"] == "SUCCESS"
    assert client.get_deployment(deploymentId=made)["deploymentStatus"] == "CANCELED"
    refused("ConflictException", client.cancel_deployment, deploymentId=made)


def test_core_devices_and_their_clients(edge, thing):
    client, iot = edge.boto3("greengrassv2"), edge.boto3("iot")
    core = client.get_core_device(coreDeviceThingName=thing)
    assert (core["status"], core["platform"]) == ("HEALTHY", "linux")
    assert client.list_core_devices(status="UNHEALTHY")["coreDevices"] == []
    iot.create_thing(thingName="sensor")
    entries = [{"thingName": "sensor"}, {"thingName": "ghost"}]
    wrong = client.batch_associate_client_device_with_core_device(coreDeviceThingName=thing, entries=entries)
    assert [each["thingName"] for each in wrong["errorEntries"]] == ["ghost"]
    listed = client.list_client_devices_associated_with_core_device(coreDeviceThingName=thing)
    assert [each["thingName"] for each in listed["associatedClientDevices"]] == ["sensor"]
    client.batch_disassociate_client_device_from_core_device(coreDeviceThingName=thing, entries=entries[:1])
    listed = client.list_client_devices_associated_with_core_device(coreDeviceThingName=thing)
    assert listed["associatedClientDevices"] == []


def test_artifacts_come_from_s3_with_their_digest(edge, thing):
    client = edge.boto3("greengrassv2")
    s3 = boto3.client(
        "s3", endpoint_url=edge.ends["aws"], region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    s3.create_bucket(Bucket="parts")
    s3.put_object(Bucket="parts", Key="a/run.sh", Body=b"exec sleep 614\n")
    body = recipe("com.example.parts", "1.0.0", "sh {artifacts:path}/run.sh", ["s3://parts/a/run.sh"])
    made = client.create_component_version(inlineRecipe=body)
    url = client.get_component_version_artifact(arn=made["arn"], artifactName="parts/a/run.sh")["preSignedUrl"]
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"exec sleep 614\n"
    refused("ResourceNotFoundException", client.get_component_version_artifact, arn=made["arn"], artifactName="none")
    artifact = json.loads(client.get_component(arn=made["arn"])["recipe"])["Manifests"][0]["Artifacts"][0]
    assert artifact["Algorithm"] == "SHA-256"
    target, components = f"{ACCOUNT}thing/{thing}", {"com.example.parts": {"componentVersion": "1.0.0"}}
    s3.put_object(Bucket="parts", Key="a/run.sh", Body=b"exit 0\n")
    deployment = client.create_deployment(targetArn=target, components=components)["deploymentId"]
    assert until_over(client, deployment) == "FAILED"
    assert "digest" in effective(client, thing, deployment)["reason"]
    s3.put_object(Bucket="parts", Key="a/run.sh", Body=b"exec sleep 614\n")
    deployment = client.create_deployment(targetArn=target, components=components)["deploymentId"]
    assert until_over(client, deployment) == "COMPLETED"
    assert any("sleep 614" in line for line in edge.children().values())


def test_public_components_are_those_the_core_stands_for(edge, thing):
    client = edge.boto3("greengrassv2")
    public = {each["componentName"]: each for each in client.list_components(scope="PUBLIC")["components"]}
    latest = public["aws.greengrass.StreamManager"]["latestVersion"]
    assert latest["arn"].startswith(
        "arn:aws:greengrass:us-east-1:aws:components:aws.greengrass.StreamManager:versions:"
    )
    assert client.describe_component(arn=latest["arn"])["publisher"] == "AWS"
    assert (
        b"ComponentName: aws.greengrass.StreamManager"
        in client.get_component(arn=latest["arn"], recipeOutputFormat="YAML")["recipe"]
    )
    assert client.list_component_versions(arn=latest["arn"].partition(":versions:")[0])["componentVersions"]
    wish = {"aws.greengrass.Cli": {"componentVersion": "2.0.3"}}
    made = client.create_deployment(targetArn=f"{ACCOUNT}thing/{thing}", components=wish, iotJobConfiguration={})
    assert until_over(client, made["deploymentId"]) == "COMPLETED"


def test_connectivity_and_the_service_role(edge, thing):
    client = edge.boto3("greengrassv2")
    assert client.get_connectivity_info(thingName=thing)["connectivityInfo"] == []
    entry = {"id": "localIP", "hostAddress": "192.0.2.0", "portNumber": 8883, "metadata": "hall"}
    assert client.update_connectivity_info(thingName=thing, connectivityInfo=[entry])["version"]
    assert client.get_connectivity_info(thingName=thing)["connectivityInfo"] == [entry]
    refused("ResourceNotFoundException", client.get_connectivity_info, thingName="nobody")
    refused("ResourceNotFoundException", client.get_service_role_for_account)
    role = "arn:aws:iam::000000000000:role/service-role/Greengrass_ServiceRole"
    at = client.associate_service_role_to_account(roleArn=role)["associatedAt"]
    found = client.get_service_role_for_account()
    assert (found["roleArn"], found["associatedAt"]) == (role, at)
    assert client.disassociate_service_role_from_account()["disassociatedAt"]
    refused("ResourceNotFoundException", client.get_service_role_for_account)


def test_a_lambda_function_becomes_a_component_and_hears_iot_core(edge, thing):
    client, functions = edge.boto3("greengrassv2"), edge.boto3("lambda")
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("app.py", "def handler(event, context):\n    print('heard', event['n'])\n")
        archive.writestr("greengrasssdk/__init__.py", "")
    functions.create_function(
        FunctionName="Hello", Runtime="python3.12", Handler="app.handler", Role="arn:aws:iam::000000000000:role/r",
        Code={"ZipFile": package.getvalue()}, Publish=True,
    )  # fmt: skip
    arn = "arn:aws:lambda:us-east-1:000000000000:function:Hello:1"
    definition = {
        "lambdaArn": arn,
        "componentName": "com.example.Hello",
        "componentLambdaParameters": {"eventSources": [{"topic": "hello/world/+", "type": "IOT_CORE"}]},
    }
    latest = {**definition, "lambdaArn": arn.replace(":1", ":$LATEST")}
    refused("ValidationException", client.create_component_version, lambdaFunction=latest)
    absent = {**definition, "lambdaArn": arn.replace("Hello", "None")}
    refused("ResourceNotFoundException", client.create_component_version, lambdaFunction=absent)
    refused("ValidationException", client.create_component_version)
    parameters = {**definition["componentLambdaParameters"], "execArgs": ["-v"]}
    arguments = {**definition, "componentLambdaParameters": parameters}
    refused("NotEmulated", client.create_component_version, lambdaFunction=arguments)
    made = client.create_component_version(lambdaFunction=definition)
    assert (made["componentName"], made["componentVersion"]) == ("com.example.Hello", "1.0.0")
    assert_warned(edge, "component com.example.Hello", "isolationMode GreengrassContainer")
    wish = {"com.example.Hello": {"componentVersion": "1.0.0"}}
    deployment = client.create_deployment(targetArn=f"{ACCOUNT}thing/{thing}", components=wish)["deploymentId"]
    assert until_over(client, deployment) == "COMPLETED"
    recipe = json.loads(client.get_component(arn=made["arn"])["recipe"])
    uris = [each["URI"] for each in recipe["Manifests"][0]["Artifacts"]]
    assert all(uri.startswith("greengrass:") for uri in uris)
    name = next(uri for uri in uris if uri.endswith(".zip")).partition(":")[2]
    url = client.get_component_version_artifact(arn=made["arn"], artifactName=name)["preSignedUrl"]
    with urllib.request.urlopen(url) as answer:
        assert "app.py" in zipfile.ZipFile(io.BytesIO(answer.read())).namelist()
    data, log = edge.boto3("iot-data"), Path(edge.ends["cores"][thing]["root"], "logs/com.example.Hello.log")
    for number in range(600):
        data.publish(topic="hello/world/x", payload=json.dumps({"n": number}))
        if "heard" in log.read_text():
            break
        threading.Event().wait(0.1)
    else:
        raise AssertionError(log.read_text())
