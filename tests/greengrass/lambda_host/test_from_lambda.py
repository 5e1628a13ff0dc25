"""`foreshore component from-lambda`: recipe, artifacts, notes and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from lambda_definition import ARN, DEFINITION

from foreshore.cli.from_lambda import command
from foreshore.errors import UserError
from foreshore.greengrass.from_lambda import Code, access_control, convert
from foreshore.greengrass.recipes import parse


def test_recipe(turned: Path) -> None:
    path = turned / "recipes/com-example-counter.yaml"
    recipe = yaml.safe_load(path.read_text())
    configuration = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    assert recipe["ComponentDependencies"] == {
        "com.example.Other": {"VersionRequirement": "^1.0.0", "DependencyType": "SOFT"}
    }
    assert configuration["eventSources"] == [
        {"topic": "in/+", "type": "PUB_SUB"},
        {"topic": "cloud/in", "type": "IOT_CORE"},
        {"topic": "more", "type": "PUB_SUB"},
    ]
    assert configuration["routes"] == [
        {"topic": "out/cloud", "type": "IOT_CORE"},
        {"topic": "out/local/#", "type": "PUB_SUB"},
    ]
    assert configuration["accessControl"]["aws.greengrass.ipc.mqttproxy"]["com.example.Counter:mqttproxy:2"] == {
        "policyDescription": "Allows PublishToIoTCore.",
        "operations": ["aws.greengrass#PublishToIoTCore"],
        "resources": ["out/cloud"],
    }
    built = turned / ".foreshore/build/artifacts/com.example.Counter/3.0.0"
    assert sorted(each.name for each in built.iterdir()) == ["counter.py", "lambda_host.pyz", "requirements.txt"]
    assert parse(path.read_text(), str(path)).name == "com.example.Counter"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lambdaArn": "arn:aws:lambda:us-east-1:1:function:f:$LATEST"}, "numeric version"),
        ({"lambdaArn": None}, "lambdaArn must be"),
        ({"componentLambdaParameters": {"eventSources": "x"}}, "eventSources must be a list"),
        ({"componentLambdaParameters": {"eventSources": [{"topic": "a", "type": "SQS"}]}}, "PUB_SUB or IOT_CORE"),
        ({"componentLambdaParameters": {"maxQueueSize": 0}}, "maxQueueSize"),
    ],
)
def test_mistakes_in_definitions(change: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        convert({**DEFINITION["lambdaFunction"], **change}, Code("a.b", ("a.py",)))


def test_names_and_versions_come_from_the_arn() -> None:
    found = convert({"lambdaArn": ARN}, Code("pkg.mod.handler", ("code.zip",), is_zipped=True), client="slim")
    assert (found.recipe["ComponentName"], found.recipe["ComponentVersion"], found.name) == (
        "Counter",
        "3.0.0",
        "counter",
    )
    run = found.recipe["Manifests"][0]["Lifecycle"]["run"]["Script"]
    assert "--handler pkg.mod.handler --code {artifacts:decompressedPath}/code" in run
    assert run.endswith("--client slim")
    assert any("no route" in note for note in found.notes)


def test_access_control_allows_only_what_is_needed() -> None:
    sources = [{"topic": "a/+", "type": "PUB_SUB"}]
    found = access_control("c", sources, [{"topic": "b/#", "type": "IOT_CORE"}])
    assert found["aws.greengrass.ipc.pubsub"]["c:pubsub:1"]["resources"] == ["a/+", "a/*"]
    assert found["aws.greengrass.ipc.mqttproxy"]["c:mqttproxy:2"]["resources"] == ["b/#"]
    assert list(found["aws.greengrass.ipc.pubsub"]) == ["c:pubsub:1"]


def test_a_nested_folder_becomes_a_zip(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "pkg").mkdir(parents=True)
    (code / "pkg/mod.py").write_text("def handler(event, context): pass\n")
    (tmp_path / "definition.yaml").write_text(yaml.safe_dump({"lambdaArn": ARN}))
    arguments = [str(tmp_path / "definition.yaml"), "--code", str(code), "--handler", "pkg.mod.handler"]
    project = tmp_path / "project"
    route = ["--route", "out/#=IOT_CORE"]
    result = CliRunner().invoke(command, [*arguments, *route], obj={"project": str(project)}, catch_exceptions=False)
    assert result.exit_code == 0
    assert (project / ".foreshore/build/artifacts/Counter/3.0.0/code.zip").is_file()
    with pytest.raises(UserError, match=r"no nothing\.py"):
        CliRunner().invoke(command, [*arguments[:-1], "nothing.handler"], catch_exceptions=False)
    with pytest.raises(UserError, match="expected FILTER="):
        CliRunner().invoke(command, [*arguments, "--route", "x"], catch_exceptions=False)


def test_shadows_and_secrets_are_let_through_when_named() -> None:
    found = convert(
        {"lambdaArn": ARN},
        Code("a.b", ("a.py",)),
        shadows=["RobotArm_Thing", "lamp/color"],
        secrets=["door-code"],
    )
    access = found.recipe["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
    (policy,) = access["aws.greengrass.ShadowManager"].values()
    assert policy["resources"] == ["$aws/things/RobotArm_Thing/shadow", "$aws/things/lamp/shadow/name/color"]
    assert "aws.greengrass#UpdateThingShadow" in policy["operations"]
    (policy,) = access["aws.greengrass.SecretManager"].values()
    assert (policy["operations"], policy["resources"]) == (["aws.greengrass#GetSecretValue"], ["door-code"])
    assert sum("nucleus lite does not have" in note for note in found.notes) == 2
    assert "aws.greengrass.ShadowManager" not in convert({"lambdaArn": ARN}, Code("a.b", ("a.py",))).recipe
