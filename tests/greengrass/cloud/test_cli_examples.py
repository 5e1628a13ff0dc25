"""The AWS CLI reference's own examples for greengrassv2, run by the AWS CLI: every member that AWS shows is there."""

import json
import re
import shlex
import threading
from pathlib import Path

import awscli
import pytest
from awscli.clidriver import create_clidriver

from tests.e2e.conftest import start, stop

EXAMPLES = Path(awscli.__file__).parent / "examples/greengrassv2"
CORE = "MyGreengrassCore"
ARN = "arn:aws:greengrass:us-west-2:123456789012:components:com.example.HelloWorld:versions:1.0.0"
# In the order of a working day; the names are the examples' files.
ORDER = (
    "create-component-version", "describe-component", "list-components", "list-component-versions",
    "create-deployment", "get-deployment", "list-deployments", "list-effective-deployments", "list-core-devices",
    "get-core-device", "list-installed-components", "tag-resource", "list-tags-for-resource",
    "batch-associate-client-device-with-core-device", "list-client-devices-associated-with-core-device",
    "batch-disassociate-client-device-from-core-device", "update-connectivity-info", "get-connectivity-info",
    "associate-service-role-to-account", "get-service-role-for-account", "disassociate-service-role-from-account",
    "cancel-deployment", "delete-component", "delete-core-device",
)  # fmt: skip


class Example:
    """An example: its command, the files that the command reads, and the output that AWS shows."""

    def __init__(self, text: str) -> None:
        command, _, rest = text.partition("\nOutput::")
        _, _, tail = command.partition("    aws greengrassv2 ")
        self.argv = shlex.split(tail.split("\n\n")[0].replace("\\\n", " "))
        contents = re.findall(r"Contents of ``(.+?)``::\n(.*)", tail, re.DOTALL)
        self.files = {name: _block(body) for name, body in contents}
        self.output = json.loads(_block(rest)) if rest else None


def _block(text: str) -> str:
    """The first indented block."""
    lines = []
    for line in text.strip("\n").split("\n"):
        if line.strip() and not line.startswith("    "):
            break
        lines.append(line)
    return "\n".join(lines)


def examples(name: str) -> list[Example]:
    text = (EXAMPLES / f"{name}.rst").read_text()
    return [Example(part) for part in re.split(r"\*\*.+?\*\*\n", text) if "    aws greengrassv2 " in part]


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    text = f"region = 'us-west-2'\naccount = '123456789012'\n[cores.{CORE}]\ngroups = ['MyGreengrassCoreGroup']\n"
    (folder / "foreshore.toml").write_text(text)
    running = start(folder, folder / "home", "--only", "iot,greengrass")
    yield running
    stop(running)


def keys(value, prefix=""):
    """The paths of a document's members; a list's are those of its items."""
    if isinstance(value, dict):
        return {
            found for key, child in value.items() for found in ({f"{prefix}{key}"} | keys(child, f"{prefix}{key}."))
        }
    if isinstance(value, list):
        return {found for child in value for found in keys(child, prefix)}
    return set()


@pytest.fixture
def aws(edge, monkeypatch, tmp_path, capsys):
    """Run one example in a folder of its own; give what it printed."""
    credentials = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-west-2"}
    for name, value in {**credentials, "AWS_ENDPOINT_URL": edge.ends["aws"], "AWS_PAGER": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    driver = create_clidriver()

    def run(example: Example, deployment: str):
        for name, body in example.files.items():
            Path(name).write_text(body)
        argv = [re.sub(r"a1b2c3d4-.*-EXAMPLE1+$", deployment, each) for each in example.argv]
        argv = [each.replace("MyTestGreengrassCore", CORE) for each in argv]
        status = driver.main(["greengrassv2", *argv, "--output", "json"])
        said = capsys.readouterr()
        assert status == 0, (argv, said.err)
        return json.loads(said.out) if said.out.strip() else None

    return run


def test_every_example_gives_what_aws_shows(edge, aws):
    iot = edge.boto3("iot")
    for name in ("MyClientDevice1", "MyClientDevice2", "away"):
        iot.create_thing(thingName=name)
    # So that the group's deployment is still there to be canceled.
    iot.add_thing_to_thing_group(thingGroupName="MyGreengrassCoreGroup", thingName="away")
    deployment, compared = "", 0
    for name in ORDER:
        for example in examples(name):
            if "lambda-function-component.json" in example.files:
                continue
            answer = aws(example, deployment)
            missing = keys(example.output) - keys(answer)
            assert not missing, (name, missing, answer)
            compared += bool(example.output)
            if name == "create-deployment":
                deployment = answer["deploymentId"]
                until_done(edge, deployment)
    assert compared == 22


def until_done(edge, deployment):
    """Ask until this core has carried a deployment out."""
    client = edge.boto3("greengrassv2")
    for _ in range(600):
        found = client.list_effective_deployments(coreDeviceThingName=CORE)["effectiveDeployments"]
        states = {each["deploymentId"]: each["coreDeviceExecutionStatus"] for each in found}
        if states.get(deployment) in ("COMPLETED", "SUCCEEDED"):
            return
        threading.Event().wait(0.05)
    raise AssertionError(states)
