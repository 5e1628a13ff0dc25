"""Several core devices of one project: each has its own root, thing, socket, listener and components."""

import json
import textwrap
import urllib.request

import awsiot.greengrasscoreipc
import pytest
from click.testing import CliRunner

from foreshore.cli.component import command
from foreshore.errors import UserError
from foreshore.project import CoreSettings, Project
from tests.e2e.conftest import start, stop

HELLO = textwrap.dedent("""
    RecipeFormatVersion: '2020-01-25'
    ComponentName: com.example.Hello
    ComponentVersion: 1.0.0
    Manifests:
      - Platform: {os: linux, runtime: '*'}
        Lifecycle:
          run: exec sleep 600
""")
TARGET = "arn:aws:iot:us-east-1:000000000000:"


@pytest.fixture
def project(tmp_path):
    """Three cores: two in a group that the deployment is for, one that deploys a folder of its own on lite."""
    (tmp_path / "foreshore.toml").write_text(
        "[cores.north]\ngroups = ['plants']\n[cores.south]\ngroups = ['plants']\n"
        "[cores.bench]\nprofile = 'lite'\nrecipes = 'bench'\n[cores.bare]\nrecipes = ''\n[cores.other]\n"
    )
    for folder in ("recipes", "bench"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hello.yaml").write_text(HELLO.replace("Hello", folder.capitalize()))
    deployment = {
        "targetArn": TARGET + "thinggroup/plants",
        "components": {"com.example.Recipes": {"componentVersion": "1.0.0"}},
    }
    (tmp_path / "recipes/deployment.json").write_text(json.dumps(deployment))
    return tmp_path


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_every_core_runs_what_is_meant_for_it(project):
    edge = start(project, project / "home", "--only", "iot,greengrass")
    try:
        cores = edge.ends["cores"]
        assert list(cores) == ["north", "south", "bench", "bare", "other"]
        for key in ("root", "ipc_socket", "stream_manager", "mqtts"):
            assert len({core[key] for core in cores.values()}) == 5, key
        with urllib.request.urlopen(edge.ends["aws"] + "/_foreshore/status") as answer:
            status = json.load(answer)["cores"]
        found = {
            thing: {name: state for name, state in core["components"].items() if not name.startswith("aws.")}
            for thing, core in status.items()
        }
        assert found == {
            "north": {"com.example.Recipes": "RUNNING"},
            "south": {"com.example.Recipes": "RUNNING"},
            "bench": {"com.example.Bench": "RUNNING"},
            "bare": {},
            "other": {},
        }
        iot = edge.boto3("iot")
        assert sorted(iot.list_things_in_thing_group(thingGroupName="plants")["things"]) == ["north", "south"]
        assert {"north", "bare"} <= {thing["thingName"] for thing in iot.list_things()["things"]}
        assert names(edge.home / "cores") == ["bare", "bench", "north", "other", "south"]

        def component(*argv):
            environment = {"FORESHORE_ENDPOINTS": str(edge.home / "endpoints.json")}
            return CliRunner().invoke(command, argv, obj={"project": str(project)}, env=environment)

        refused = component("list")
        assert "which core? There are: north, south, bench, bare, other" in str(refused.exception)
        assert "com.example.Bench" in component("--core", "bench", "list").output
        deployed = component("--core", "bare", "deploy", "--recipes", str(project / "bench"), "com.example.Bench=1.0.0")
        assert deployed.exit_code == 0, deployed.output
        assert "RUNNING" in component("--core", "bare", "list").output
        assert "com.example" not in component("--core", "other", "list").output
        assert "there is no core east" in str(component("--core", "east", "list").exception)
        stopped = component("--core", "north", "stop", "com.example.Recipes")
        assert stopped.exit_code == 0
        assert "RUNNING" in component("--core", "south", "list").output
    finally:
        stop(edge)


def test_names_on_the_command_line_are_the_cores(tmp_path):
    edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass", "--core", "a", "--core", "b")
    try:
        assert list(edge.ends["cores"]) == ["a", "b"]
        socket = edge.ends["cores"]["b"]["ipc_socket"]
        # No component runs there, so no token is good: the socket answers, and refuses.
        with pytest.raises(Exception, match=r"AccessDenied|SOCKET_CLOSED|CONNECTION"):
            awsiot.greengrasscoreipc.connect(ipc_socket=socket, authtoken="nobody", timeout=5)
    finally:
        stop(edge)


def test_settings_of_cores(tmp_path):
    assert Project.read(tmp_path).cores == ()
    (tmp_path / "recipes").mkdir()
    settings = tmp_path / "foreshore.toml"
    recipes = tmp_path.resolve() / "recipes"
    assert Project.read(tmp_path).cores == (CoreSettings("core-1", recipes),)
    settings.write_text("[cores.a]\nprofile = 'lite'\ngroups = ['g']\n[cores.b]\nrecipes = ''\n")
    a, b = CoreSettings("a", recipes, "lite", ("g",)), CoreSettings("b")
    assert Project.read(tmp_path).cores == (a, b)
    assert Project.read(tmp_path, cores=("c", "a")).cores == (CoreSettings("c", recipes), a)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("cores = ['a']", "cores must be tables"),
        ("[core]\nthing = 'x'\n[cores.a]", "both [core] and [cores.*] name core devices"),
        ("[cores.'a b']", "'a b' is no thing name"),
        ("[cores.a]\nport = 1", "cores.a has unknown settings: port"),
        ("[cores.a]\nprofile = 'java'", "cores.a.profile is 'java'"),
        ("[cores.a]\ngroups = 'g'", "cores.a.groups must be a list of thing groups"),
        ("[cores.a]\nrecipes = 'none'", "cores.a.recipes names none, which is no folder"),
    ],
)
def test_settings_of_cores_that_are_wrong(tmp_path, text, what):
    (tmp_path / "foreshore.toml").write_text(text)
    with pytest.raises(UserError) as raised:
        Project.read(tmp_path)
    assert what in str(raised.value)
    assert raised.value.where.endswith("foreshore.toml")
