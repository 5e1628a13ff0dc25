"""AWS's public Greengrass programs and samples, unmodified, against a running core: a table of what ran.

    python benchmarks/samples_greengrass.py [--profile lite] [--cli COMMAND] [--sdk DIR] [--core-sdk DIR]
                                            [--stream-manager-sdk DIR] [--guide DIR] [--nucleus DIR] [--templates DIR]
                                            [--json]

Each option names a checkout (or, for `--cli`, the command that starts the program); what is not named is skipped and
said so. Nothing of theirs is changed: what a sample leaves to its user (component names in a template, the topic that
triggers it) is filled in as its documentation says. Exit 1 when something failed.

- `--cli`: AWS's greengrass-cli, every verb.
- `--sdk`: aws-iot-device-sdk-python-v2; its IPC sample as a component, and its own RPC tests.
- `--core-sdk`: aws-greengrass-core-sdk-python; its examples through `foreshore component from-lambda`.
- `--stream-manager-sdk`: aws-greengrass-stream-manager-sdk-python; its samples as components.
- `--guide`: aws-iot-greengrass-v2-developer-guide with `doc_source`; its IPC programs as components.
- `--nucleus`: aws-greengrass-nucleus; recipes of its deployment tests, with what those tests assert.
- `--templates`: aws-greengrass-component-templates; the Python templates, built as `gdk component build` does.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import paho.mqtt.client as mqtt
import yaml

WAIT_S = 30.0
THING = "samples"


class Row(NamedTuple):
    """One sample: `outcome` is ran, FAILED or skipped."""

    suite: str
    item: str
    outcome: str
    note: str


class Edge:
    """A running edge with one core, in a project of its own, and what reached IoT Core."""

    def __init__(self, folder: Path, profile: str) -> None:
        self.folder, self.profile = folder, profile
        argv = [sys.executable, "-m", "foreshore", "-C", str(folder), "dev", "--json", "--port-base", "0"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._process = subprocess.Popen(
            [*argv, "--core", THING, "--core-profile", profile],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": path},
        )  # fmt: skip
        assert self._process.stdout is not None
        self.ends: dict[str, Any] = json.loads(self._process.stdout.readline())
        self.root = Path(self.ends["cores"][THING]["root"])
        self.messages: list[tuple[str, bytes]] = []
        self.cloud = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="watcher")
        self.cloud.on_message = lambda client, data, message: self._take(message.topic, message.payload)
        host, _, port = self.ends["mqtt"].rpartition(":")
        self.cloud.connect(host, int(port))
        self.cloud.loop_start()
        self.cloud.subscribe([(topic, 1) for topic in ("hello/#", "my/#", "cli/#", "/topic/#", "trigger/#")])

    def _take(self, topic: str, payload: bytes) -> None:
        self.messages.append((topic, payload))

    def stop(self) -> None:
        """End the edge and all it started."""
        self.cloud.loop_stop()
        self.cloud.disconnect()
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One administration call."""
        url = f"{self.ends['aws']}/_foreshore/greengrass/{THING}/{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.loads(response.read())

    def deploy(self, recipes: Path | None, artifacts: Path | None, more: Mapping[str, object]) -> dict[str, Any]:
        """A local deployment; how it ended."""
        body = {"recipeDir": str(recipes or ""), "artifactDir": str(artifacts or ""), **more}
        answer: dict[str, Any] = self.ask("POST", "deployments?wait=1", body)
        return answer

    def must_deploy(self, recipes: Path | None, artifacts: Path | None, **add: str) -> None:
        """As `deploy`. Raises AssertionError unless it SUCCEEDED."""
        status = self.deploy(recipes, artifacts, {"add": {name.replace("__", "."): each for name, each in add.items()}})
        assert status["status"] == "SUCCEEDED", status["failure_cause"]

    def log(self, name: str) -> str:
        """A component's log."""
        file = self.root / "logs" / f"{name}.log"
        return file.read_text() if file.exists() else ""

    def until(self, what: str, found: Callable[[], object]) -> None:
        """Wait until something is so. Raises AssertionError."""
        end = time.monotonic() + WAIT_S
        while not found():
            assert time.monotonic() < end, f"waited {WAIT_S:.0f} s for {what}"
            time.sleep(0.05)

    def logged(self, name: str, text: str) -> None:
        """Wait for a text in a component's log."""
        self.until(f"{text!r} in {name}.log, which ends {self.log(name)[-400:]!r}", lambda: text in self.log(name))

    def arrived(self, topic: str, text: str) -> None:
        """Wait for a message at IoT Core."""
        wanted = text.encode()
        self.until(f"{text!r} on {topic}", lambda: any(t == topic and wanted in p for t, p in self.messages))

    def boto3(self, service: str) -> Any:
        """A client of the edge's endpoint."""
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        return boto3.client(service, endpoint_url=self.ends["aws"], region_name=self.ends["region"], **keys)


Check = Callable[[Edge], str]


# greengrass-cli


def cli_rows(edge: Edge, command: str, work: Path) -> Iterator[Row]:
    """Every verb of AWS's greengrass-cli."""
    if edge.profile == "lite":
        yield Row("greengrass-cli", "", "skipped", "nucleus lite answers three of its operations, and has its own CLI")
        return
    recipes, artifacts = hello_world(work)

    def run(*arguments: str, code: int = 0, timeout: float = WAIT_S) -> str:
        argv = [command, "--ggcRootPath", str(edge.root), *arguments]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
        output = result.stdout + result.stderr
        assert result.returncode == code, f"exit {result.returncode}: {output[:300]}"
        return output

    def submit(*arguments: str) -> str:
        match = re.search(r"Deployment Id: (\S+)", run("deployment", "create", *arguments))
        assert match is not None
        edge.ask("GET", f"deployments/{match[1]}?wait=1")
        return match[1]

    def follow(verb: str, topic: str) -> str:
        argv = [command, "--ggcRootPath", str(edge.root), verb, "sub", "-t", topic]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as listener:
            assert listener.stdout is not None
            said = listener.stdout.readline()
            assert "Successfully subscribed" in said, said
            sender = subprocess.Popen([*argv[:3], verb, "pub", "-t", topic, "-m", "from the cli"])
            heard = listener.stdout.readline().strip()
            for each in (sender, listener):
                each.kill()
            sender.wait()
        assert heard == "from the cli", heard
        return ""

    def create() -> str:
        nucleus = {"aws.greengrass.Nucleus": {"MERGE": {"logging": {"format": "JSON"}}}}
        more = ["--update-config", json.dumps({**nucleus, HELLO: {"MERGE": {"Message": "cli"}}})]
        made = submit("--recipeDir", str(recipes), "--artifactDir", str(artifacts), "--merge", f"{HELLO}=1.0.0", *more)
        said = run("deployment", "status", "-i", made)
        assert "SUCCEEDED" in said, said
        assert made in run("deployment", "list")
        assert "already finished" in run("deployment", "cancel", "-i", made)
        edge.logged(HELLO, "Hello, cli!")
        return made

    def logs() -> str:
        said = run("logs", "get", "--log-file", str(edge.root / f"logs/{HELLO}.log"), "-f", "Hello, cli", "-nc")
        assert "stdout. Hello, cli!" in said, said
        return ""

    def expect(text: str, *arguments: str, code: int = 0) -> Callable[[], str]:
        def step() -> str:
            said = run(*arguments, code=code)
            assert text in said, said[:300]
            return ""

        return step

    verbs: list[tuple[str, Callable[[], str]]] = [
        ("component list", expect("aws.greengrass.Nucleus", "component", "list")),
        ("deployment create, status, list, cancel", lambda: create() and ""),
        ("component details", expect('{"Message":"cli"}', "component", "details", "-n", HELLO)),
        ("component details of none", expect("not found in Greengrass", "component", "details", "-n", "x", code=1)),
        ("component restart", expect("", "component", "restart", "-n", HELLO)),
        ("component stop", expect("", "component", "stop", "-n", HELLO)),
        ("logs get", logs),
        ("logs list-log-files", expect(f"{HELLO}.log", "logs", "list-log-files", "-ld", str(edge.root / "logs"))),
        ("get-debug-password", expect("Username: debug", "get-debug-password")),
        ("pubsub pub, sub", lambda: follow("pubsub", "any/topic")),
        ("iotcore pub, sub", lambda: follow("iotcore", "cli/topic")),
        ("deployment create --remove", lambda: submit("--remove", HELLO) and ""),
    ]
    for name, verb in verbs:
        yield attempt("greengrass-cli", name, verb)
    edge.deploy(None, None, {"config": {"aws.greengrass.Nucleus": {"RESET": ["/logging"]}}})


HELLO = "com.example.HelloWorld"


def hello_world(work: Path) -> tuple[Path, Path]:
    """The component of the developer guide's first tutorial."""
    recipe = {
        "RecipeFormatVersion": "2020-01-25", "ComponentName": HELLO, "ComponentVersion": "1.0.0",
        "ComponentConfiguration": {"DefaultConfiguration": {"Message": "world"}},
        "Manifests": [{
            "Platform": {"os": "linux", "runtime": "*"},
            "Lifecycle": {"run": 'python3 -u {artifacts:path}/hello_world.py "{configuration:/Message}"'},
        }],
    }  # fmt: skip
    code = "import sys\nimport time\n\nprint(f'Hello, {sys.argv[1]}!', flush=True)\ntime.sleep(600)\n"
    return component(work / "hello", recipe, {"hello_world.py": code})


def component(work: Path, recipe: Mapping[str, Any], files: Mapping[str, str | Path]) -> tuple[Path, Path]:
    """Folders of recipes and of artifacts with one component; a Path is copied as it is."""
    name, version = recipe["ComponentName"], recipe["ComponentVersion"]
    artifacts = work / "artifacts" / name / version
    artifacts.mkdir(parents=True)
    (work / "recipes").mkdir()
    (work / "recipes" / f"{name}-{version}.json").write_text(json.dumps(recipe))
    for file, content in files.items():
        if isinstance(content, Path):
            shutil.copy(content, artifacts / file)
        else:
            (artifacts / file).write_text(content)
    return work / "recipes", work / "artifacts"


def script_recipe(name: str, script: Path, access: Mapping[str, Any]) -> dict[str, Any]:
    """A component that runs one Python file."""
    return {
        "RecipeFormatVersion": "2020-01-25", "ComponentName": name, "ComponentVersion": "1.0.0",
        "ComponentConfiguration": {"DefaultConfiguration": {"accessControl": access}},
        "Manifests": [{
            "Platform": {"os": "linux", "runtime": "*"},
            "Lifecycle": {"run": f"python3 -u {{artifacts:path}}/{script.name}"},
            "Artifacts": [{"URI": f"s3://BUCKET/{name}/1.0.0/{script.name}"}],
        }],
    }  # fmt: skip


# aws-iot-device-sdk-python-v2 and the stream manager's SDK


def sdk_rows(edge: Edge, checkout: Path, work: Path) -> Iterator[Row]:
    """The SDK's IPC sample."""
    script = checkout / "samples/greengrass/ipc_greengrass.py"
    everything = {"p": {"operations": ["*"], "resources": ["*"]}}
    recipe = script_recipe("com.example.Telemetry", script, {"aws.greengrass.ipc.mqttproxy": everything})

    def run() -> str:
        edge.must_deploy(*component(work / "sdk", recipe, {script.name: script}), com__example__Telemetry="1.0.0")
        edge.arrived(f"my/iot/{THING}/telemetry", "battery_state_of_charge")
        edge.logged("com.example.Telemetry", "Successfully published message")
        return ""

    yield attempt("aws-iot-device-sdk-python-v2", script.name, run)
    yield attempt("aws-iot-device-sdk-python-v2", "test/test_rpc.py, test/test_ggv2.py", lambda: rpc_tests(checkout))


def rpc_tests(checkout: Path) -> str:
    """The SDK's own tests of its RPC and Greengrass clients, against EchoTestRPC on our server; their last line."""
    house = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(house), "EVENTSTREAM_ECHO_TEST": "1"}
    service = [sys.executable, str(house / "tests/greengrass/echo_service.py"), "8033"]
    with subprocess.Popen(service, stdout=subprocess.PIPE, env=environment) as echo:
        assert echo.stdout is not None
        echo.stdout.readline()
        argv = [sys.executable, "-W", "ignore", "-m", "unittest", "test.test_rpc", "test.test_ggv2"]
        result = subprocess.run(argv, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        echo.kill()
    assert result.returncode == 0, result.stderr[-600:]
    return " ".join(result.stderr.split("\n")[-4:]).strip()


STREAM_SAMPLES = {
    "stream_manager_kinesis.py": "Successfully read 2 messages",
    "stream_manager_s3.py": "Successfully uploaded file",
    "stream_manager_ioT_siteWise.py": "Now going to start writing random",
}


def stream_rows(edge: Edge, checkout: Path, work: Path) -> Iterator[Row]:
    """The stream manager SDK's samples; theirs import the client as greengrasssdk.stream_manager or stream_manager."""
    for number, (file, wanted) in enumerate(STREAM_SAMPLES.items()):
        script, name = checkout / "samples" / file, f"com.example.Stream{number}"
        recipe = script_recipe(name, script, {})
        recipe["ComponentDependencies"] = {"aws.greengrass.StreamManager": {"VersionRequirement": "^2.0.0"}}

        def run(script: Path = script, name: str = name, recipe: Any = recipe, wanted: str = wanted) -> str:
            (work / name).mkdir()
            folders = component(work / name, recipe, {script.name: filled(edge, script, work / name)})
            edge.must_deploy(*folders, **{name: "1.0.0"})
            edge.logged(name, wanted)
            edge.deploy(None, None, {"remove": [name]})
            return ""

        yield attempt("stream-manager-sdk", file, run)


def filled(edge: Edge, script: Path, folder: Path) -> str:
    """A sample's text with a bucket and a file of the user's in place of those it only names."""
    text = script.read_text()
    if "SomeBucket" in text:
        (folder / "upload.txt").write_text("a file of the user's")
        edge.boto3("s3").create_bucket(Bucket="some-bucket")
        text = text.replace('"SomeBucket"', '"some-bucket"')
        text = text.replace("file:/path/to/some/file.someExtension", f"file:{folder / 'upload.txt'}")
    return text


# greengrasssdk


class Example(NamedTuple):
    """A Lambda example: its file and handler, what triggers it, and how to see that it ran."""

    file: str
    handler: str
    check: Check
    trigger: bytes | None = None
    encoding: str = "json"
    classic_only: bool = False
    dependencies: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def cloud_says(topic: str, text: str) -> Check:
    """IoT Core gets it."""
    return lambda edge: edge.arrived(topic, text) or ""


def log_says(text: str) -> Check:
    """The component logs it."""
    return lambda edge: edge.logged("com.example.Example", text) or ""


def shadow_says(edge: Edge) -> str:
    """The shadow that the storyline's message function sets."""
    data = edge.boto3("iot-data")

    def desired() -> bool:
        with contextlib.suppress(data.exceptions.ResourceNotFoundException):
            answer = data.get_thing_shadow(thingName="RobotArm_Thing")
            return bool(json.loads(answer["payload"].read())["state"]["desired"] == {"myState": "on"})
        return False

    edge.logged("com.example.Example", "Triggering publish to shadow")
    return "" if desired() else "the core's own shadow; not synchronized without the shadow manager's configuration"


TES = "aws.greengrass.TokenExchangeService"
LIGHT = {"current": {"state": {"reported": {"property": "G"}}}}
EXAMPLES = [
    Example("HelloWorld/greengrassHelloWorld.py", "function_handler", cloud_says("hello/world", "Hello world! Sent")),
    Example("HelloWorldCounter/greengrassHelloWorldCounter.py", "function_handler",
            cloud_says("hello/world/counter", "Invocation Count: 1"), b"{}"),
    Example("BinaryLambdaInvoke/invokee.py", "handler", log_says("Invoked with payload b'"), b"\xff\x00",
            "binary"),
    Example("BinaryLambdaInvoke/invoker.py", "handler", log_says("string argument without an encoding"), b"{}"),
    Example("Storyline_UptimeLambda/uptimeLambda.py", "uptime_handler",
            cloud_says("/topic/metering", "Robot arm turned ON"), b'{"state": "on"}'),
    Example("Storyline_MessageLambda/messageLambda.py", "message_handler", shadow_says, b'{"state": "on"}',
            classic_only=True, options=("--shadow", "RobotArm_Thing")),
    Example("TES/lambda_function.py", "lambda_handler", log_says("Hello from pinned lambda. Outside"),
            dependencies=(TES,)),
    Example("TrafficLight/carAggregator.py", "function_handler", log_says("Total Greenlights: 1"),
            json.dumps(LIGHT).encode(), dependencies=(TES,)),
    Example("StreamManagerKinesis/stream_manager_kinesis.py", "function_handler",
            log_says("Successfully read 2 messages"), dependencies=("aws.greengrass.StreamManager",),
            classic_only=True),
    Example("StreamManagerS3/stream_manager_s3.py", "function_handler",
            log_says("Successfully uploaded file"), dependencies=("aws.greengrass.StreamManager",),
            classic_only=True),
    Example("StreamManagerIoTSiteWise/stream_manager_ioT_siteWise.py", "function_handler",
            log_says("Now going to start writing random"), dependencies=("aws.greengrass.StreamManager",),
            classic_only=True),
]  # fmt: skip


def example_rows(edge: Edge, checkout: Path, work: Path) -> Iterator[Row]:
    """greengrasssdk's examples as components made by `foreshore component from-lambda`."""
    for number, example in enumerate(EXAMPLES):
        if example.classic_only and edge.profile == "lite":
            yield Row("greengrasssdk", example.file, "skipped", "nucleus lite has no shadows and no stream manager")
            continue
        folder = work / f"example{number}"

        def run(example: Example = example, folder: Path = folder) -> str:
            turn(edge, example, checkout / "examples", folder)
            status = edge.ask("POST", "deployments?wait=1", {"project": str(folder)})
            assert status["status"] == "SUCCEEDED", status["failure_cause"]
            try:
                if example.trigger is not None:
                    edge.logged("com.example.Example", "event sources")
                    edge.cloud.publish("trigger/example", example.trigger, qos=1)
                return example.check(edge)
            finally:
                edge.deploy(None, None, {"remove": ["com.example.Example"]})
                (edge.root / "logs/com.example.Example.log").unlink(missing_ok=True)
                edge.messages.clear()

        yield attempt("greengrasssdk", example.file, run)


def turn(edge: Edge, example: Example, examples: Path, folder: Path) -> None:
    """A project with the example as a component."""
    folder.mkdir()
    source = examples / example.file
    (folder / "code").mkdir()
    (folder / "code" / source.name).write_text(filled(edge, source, folder))
    sources = [] if example.trigger is None else [{"topic": "trigger/example", "type": "IOT_CORE"}]
    parameters = {"eventSources": sources, "pinned": True, "timeoutInSeconds": 30,
                  "inputPayloadEncodingType": example.encoding}  # fmt: skip
    function = {
        "lambdaArn": "arn:aws:lambda:us-east-1:123456789012:function:Example:1",
        "componentName": "com.example.Example",
        "componentDependencies": {name: {"versionRequirement": "^2.0.0"} for name in example.dependencies},
        "componentLambdaParameters": parameters,
    }
    (folder / "definition.json").write_text(json.dumps({"lambdaFunction": function}))
    argv = [sys.executable, "-m", "foreshore", "-C", str(folder), "component", "from-lambda"]
    argv += [str(folder / "definition.json"), "--code", str(folder / "code")]
    argv += ["--handler", f"{source.stem}.{example.handler}", "--route", "#=IOT_CORE", *example.options]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# the nucleus's own deployment tests


def nucleus_rows(edge: Edge, checkout: Path, work: Path) -> Iterator[Row]:
    """Recipes of DeploymentTaskIntegrationTest, and what it asserts of them."""
    store = "src/integrationtests/resources/com/aws/greengrass/integrationtests/deployment/local_store_content"
    recipes, artifacts = checkout / store / "recipes", checkout / store / "artifacts"

    def some(*files: str) -> Path:
        folder = Path(tempfile.mkdtemp(dir=work))
        for file in files:
            shutil.copy(recipes / f"{file}.yaml", folder)
        return folder

    def deploy(*files: str, policy: str = "ROLLBACK", **add: str) -> dict[str, Any]:
        return edge.deploy(some(*files), artifacts, {"add": add, "failurePolicy": policy})

    def states() -> dict[str, str]:
        return {each["name"]: each["state"] for each in edge.ask("GET", "components")}

    def clear() -> None:
        edge.deploy(None, None, {"remove": [name for name in states() if not name.startswith("aws.")]})

    def chain() -> str:
        status = deploy("Mosquitto-1.0.0", "GreenSignal-1.0.0", Mosquitto="1.0.0")
        assert status["status"] == "SUCCEEDED", status
        edge.logged("Mosquitto", "stdout. Hello this is mosquitto getting started")
        edge.logged("GreenSignal", "stdout. ")
        assert states()["Mosquitto"] == "RUNNING"
        return ""

    def versions() -> str:
        for version in ("1.0.0", "2.0.0", "1.0.0"):
            assert deploy(f"SimpleApp-{version}", SimpleApp=version)["status"] == "SUCCEEDED"
            assert states()["SimpleApp"] == "FINISHED", states()
        return ""

    def broken(policy: str, stays: bool) -> Callable[[], str]:
        def step() -> str:
            chain()
            files = ("BreakingService-1.0.0", "Mosquitto-1.0.0", "GreenSignal-1.0.0")
            status = deploy(*files, policy=policy, BreakingService="1.0.0")
            assert status["status"] == "FAILED", status
            assert states().get("BreakingService") == ("BROKEN" if stays else None), states()
            assert states()["Mosquitto"] == "RUNNING"
            return str(status["detailed"])

        return step

    def circle() -> str:
        status = deploy("ComponentWithCircularDependency-1.0.0", ComponentWithCircularDependency="1.0.0")
        assert status["status"] == "FAILED", status
        assert "CIRCULAR" in str(status["error_stack"]).upper(), status["error_stack"]
        return ", ".join(status["error_stack"])

    def uninstall() -> str:
        name = "UninstallTestComponent"
        assert deploy(f"{name}-1.0.0", UninstallTestComponent="1.0.0")["status"] == "SUCCEEDED"
        edge.deploy(None, None, {"remove": [name]})
        edge.logged(name, "Component uninstalled successfully")
        assert name not in states()
        return ""

    def configuration() -> str:
        name = "aws.iot.gg.test.integ.ComponentConfigTestService"
        assert deploy(f"{name}-1.0.0", **{name: "1.0.0"})["status"] == "SUCCEEDED"
        edge.logged(name, "Value for /singleLevelKey: default value of singleLevelKey.")
        edge.logged(name, "Value for /newSingleLevelKey: {configuration:/newSingleLevelKey}.")
        update = {"MERGE": {"singleLevelKey": "updated value of singleLevelKey", "listKey": ["item3"]}}
        assert edge.deploy(None, None, {"config": {name: update}})["status"] == "SUCCEEDED"
        edge.logged(name, "Value for /singleLevelKey: updated value of singleLevelKey.")
        edge.logged(name, "Value for /listKey/0: item3.")
        return ""

    tests: list[tuple[str, Callable[[], str]]] = [
        ("services start with their dependencies", chain),
        ("versions deployed one after the other", versions),
        ("a breaking service, ROLLBACK", broken("ROLLBACK", stays=False)),
        ("a breaking service, DO_NOTHING", broken("DO_NOTHING", stays=True)),
        ("a circular dependency", circle),
        ("uninstall script", uninstall),
        ("configuration updates are interpolated", configuration),
    ]
    for name, test in tests:
        yield attempt("nucleus tests", name, test)
        clear()
    services = checkout / "src/integrationtests/resources/com/aws/greengrass/integrationtests/lifecyclemanager"
    for file, (service, state, text) in LIFECYCLES.items():

        def lifecycle(file: str = file, service: str = service, state: str = state, text: str = text) -> str:
            document = yaml.safe_load((services / file).read_text())["services"][service]
            recipe = script_recipe(service, Path("none.py"), {})
            recipe["Manifests"] = [{"Platform": {"os": "linux"}, "Lifecycle": posix(document["lifecycle"])}]
            folders = component(work / file, recipe, {})
            edge.deploy(*folders, {"add": {service: "1.0.0"}, "failurePolicy": "DO_NOTHING"})
            edge.until(f"{service} {state}", lambda: f"newState={state}" in edge.log(service))
            edge.logged(service, text)
            (edge.root / "logs" / f"{service}.log").unlink()
            return state

        yield attempt("nucleus tests", file, lifecycle)
        clear()


LIFECYCLES = {
    "skipif_broken.yaml": ("test", "ERRORED", ""),
    "service_error_recovery_step_fixes_service.yaml": ("ServiceA", "RUNNING", "Fixing ServiceA"),
    "service_error_recovery_step_does_not_fix_service.yaml": ("ServiceA", "BROKEN", "Not going to fix anything"),
    "service_error_recovery_step_times_out.yaml": ("ServiceA", "BROKEN", ""),
}
"""Service definitions of GenericExternalServiceIntegTest: the service, a state it must reach, what it must log."""


def posix(value: Any) -> Any:
    """A service definition's lifecycle for this platform: `posix` in place of a map by platform, at every level."""
    if not isinstance(value, dict):
        return value
    if "posix" in value:
        return posix(value["posix"])
    return {key: posix(child) for key, child in value.items()}


# the developer guide

BLOCK = re.compile(r"^([ \t]*)```\w*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
CALLS = re.compile(
    r"((?:publish|subscribe)_to_\w+|(?:get|update|delete)_(?:thing|secret|conf)\w+|list_named\w+|defer_c\w+)\("
)
EVERY_SERVICE = ("ipc.pubsub", "ipc.mqttproxy", "ShadowManager", "SecretManager")
GUIDE_COMPONENT = "com.example.Guide"


def guide_rows(edge: Edge, checkout: Path, work: Path) -> Iterator[Row]:
    """The IPC programs printed in the developer guide: each runs as a component and must not fail."""
    edge.boto3("secretsmanager").create_secret(Name="guide-secret", SecretString='{"username": "u", "password": "p"}')
    edge.boto3("iot").create_thing(thingName="MyThing")
    for page in sorted((checkout / "doc_source").glob("*.md")):
        for number, match in enumerate(BLOCK.finditer(page.read_text())):
            code = textwrap.dedent(match[2])
            if "awsiot.greengrasscoreipc" not in code or ("connect()" not in code and "ClientV2()" not in code):
                continue
            if "IPCUtils()" in code:
                continue  # A fragment that needs the page's module before it.
            item = f"{page.name} {next(iter(CALLS.findall(code)), '')}"
            try:
                ast.parse(code)
            except SyntaxError:
                yield Row("developer guide", item, "skipped", "the page's program is incomplete")
                continue

            def run(code: str = code, name: str = f"{page.stem}{number}") -> str:
                return run_guide(edge, code, work / name)

            yield attempt("developer guide", item, run)


def run_guide(edge: Edge, code: str, folder: Path) -> str:
    """Deploy one program; its last state."""
    (folder / "source").mkdir(parents=True)
    script = folder / "source/main.py"
    # What the page leaves to its reader: the secret's ARN, arguments, configuration.
    script.write_text(re.sub(r"'arn:aws:secretsmanager:[^']*'", "'guide-secret'", code))
    (folder / "battery.json").write_text('{"battery_level": 80}')
    arguments = "guide-secret" if "get_secret_value" in code else "test/topic hello"
    if "battery_threshold" in code:
        arguments = f"50 {folder / 'battery.json'}"
    everything = {"p": {"operations": ["*"], "resources": ["*"]}}
    recipe = script_recipe(GUIDE_COMPONENT, script, {f"aws.greengrass.{each}": everything for each in EVERY_SERVICE})
    recipe["Manifests"][0]["Lifecycle"]["run"] += f" {arguments}"
    recipe["ComponentConfiguration"]["DefaultConfiguration"]["smartLightDeviceNames"] = ["MyThing"]
    try:
        status = edge.deploy(*component(folder, recipe, {"main.py": script}), {"add": {GUIDE_COMPONENT: "1.0.0"}})
        said = edge.log(GUIDE_COMPONENT)
        assert status["status"] == "SUCCEEDED", said[-600:]
        for _ in range(40):
            state = next(x["state"] for x in edge.ask("GET", "components") if x["name"] == GUIDE_COMPONENT)
            if state != "RUNNING":
                break
            time.sleep(0.1)
        said = edge.log(GUIDE_COMPONENT)
        assert state in ("RUNNING", "FINISHED") and "Traceback" not in said and "Exception" not in said, said[-600:]
        return str(state)
    finally:
        edge.deploy(None, None, {"remove": [GUIDE_COMPONENT]})
        (edge.root / f"logs/{GUIDE_COMPONENT}.log").unlink(missing_ok=True)


# GDK templates


def template_rows(edge: Edge, checkout: Path, work: Path) -> Iterator[Row]:
    """The Python templates of the Greengrass Development Kit, their placeholders filled as its build does."""
    if edge.profile == "lite":
        yield Row("GDK templates", "", "skipped", "their manifests have no Platform.runtime, which nucleus lite wants")
        return
    for name, wanted in (("HelloWorld", "World"), ("LocalPubSub", "")):
        template = checkout / "templates/python" / name

        def run(template: Path = template, name: str = name, wanted: str = wanted) -> str:
            title = f"com.example.Python{name}"
            text = (template / "recipe.yaml").read_text()
            for placeholder in ("COMPONENT_NAME", "COMPONENT_VERSION", "COMPONENT_AUTHOR"):
                value = {"COMPONENT_NAME": title, "COMPONENT_VERSION": "1.0.0"}.get(placeholder, "Amazon")
                text = text.replace(f"{{{placeholder}}}", value).replace(placeholder, value)
            folder = work / title
            artifacts = folder / "artifacts" / title / "1.0.0"
            artifacts.mkdir(parents=True)
            (folder / "recipes").mkdir()
            (folder / "recipes" / f"{title}-1.0.0.yaml").write_text(text)
            shutil.make_archive(str(artifacts / title), "zip", template)
            edge.must_deploy(folder / "recipes", folder / "artifacts", **{title: "1.0.0"})
            edge.until("output", lambda: "stdout. " in edge.log(title))
            assert wanted in edge.log(title)
            return ""

        yield attempt("GDK templates", f"python/{name}", run)


# the table


def attempt(suite: str, item: str, run: Callable[[], str]) -> Row:
    """One row: what raised is the note of a failure."""
    try:
        return Row(suite, item, "ran", run())
    except Exception as error:
        return Row(suite, item, "FAILED", f"{type(error).__name__}: {str(error)[:600]}")


def main() -> None:
    """Print the table; exit 1 when something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--profile", choices=("classic", "lite"), default="classic")
    parser.add_argument("--json", action="store_true")
    suites: dict[str, Callable[[Edge, Any, Path], Iterator[Row]]] = {
        "cli": cli_rows, "sdk": sdk_rows, "core-sdk": example_rows, "stream-manager-sdk": stream_rows,
        "guide": guide_rows, "nucleus": nucleus_rows, "templates": template_rows,
    }  # fmt: skip
    for name in suites:
        parser.add_argument(f"--{name}", metavar="COMMAND" if name == "cli" else "DIR")
    arguments = vars(parser.parse_args())
    failed = False
    with tempfile.TemporaryDirectory(prefix="foreshore-samples-") as text:
        project = Path(text) / "project"
        project.mkdir()
        edge = Edge(project, arguments["profile"])
        try:
            for name, rows_of in suites.items():
                given = arguments[name.replace("-", "_")]
                work = Path(text) / name
                work.mkdir()
                if given is None:
                    rows: Iterator[Row] = iter([Row(name, "", "skipped", f"no --{name} given")])
                else:
                    rows = rows_of(edge, given if name == "cli" else Path(given).resolve(), work)
                for row in rows:
                    failed = failed or row.outcome == "FAILED"
                    line = json.dumps(row._asdict()) if arguments["json"] else f"{row.suite:<30} {row.item:<60} "
                    print(line if arguments["json"] else f"{line}{row.outcome:<8} {row.note}".rstrip(), flush=True)
        finally:
            edge.stop()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
