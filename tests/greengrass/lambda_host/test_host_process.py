"""The host as the process a component is: its archive, a real socket, unmodified greengrasssdk and awsiotsdk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_nucleus import TinyNucleus

from foreshore.greengrass.host_artifact import build_host

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONFIGURATION: dict[str, Any] = {
    "eventSources": [{"topic": "in/+", "type": "PUB_SUB"}, {"topic": "cloud/in", "type": "IOT_CORE"}],
    "routes": [{"topic": "out/#", "type": "PUB_SUB"}, {"topic": "cloud/#", "type": "IOT_CORE", "qos": "0"}],
    "timeoutInSeconds": "5",
    "environmentVariables": {"GREETING": "hello"},
}
ECHO = """
import json, os
import greengrasssdk

client = greengrasssdk.client("iot-data")

def handler(event, context):
    subject = context.client_context.custom["subject"]
    if event == "boom":
        raise ValueError("as told")
    if event == "hang":
        while True:
            pass
    policy = {"queueFullPolicy": "AllOrException"} if event == "sure" else {}
    answer = {"event": event, "subject": subject, "greeting": os.environ["GREETING"],
              "arn": context.invoked_function_arn, "left": context.get_remaining_time_in_millis() > 4000,
              "trace": os.environ.get("_X_AMZN_TRACE_ID")}
    client.publish(topic="out/answer", payload=json.dumps(answer), **policy)
    if subject == "in/both":
        client.publish(topic="cloud/answer", payload=b"\\x00\\xff")
    if subject == "in/nowhere":
        client.publish(topic="nowhere", payload="x")
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_host(tmp_path_factory.mktemp("artifacts"))


class Running:
    """One host process against one nucleus."""

    def __init__(self, archive: Path, folder: Path, client: str, code: str, **environment: str) -> None:
        (folder / "main.py").write_text(code)
        self.nucleus = TinyNucleus(folder, dict(CONFIGURATION))
        self.argv = [sys.executable, "-u", str(archive), "--handler", "main.handler", "--code", str(folder)]
        self.argv += ["--client", client, "--name", "com.example.Echo"]
        self.environment = {**os.environ, **self.nucleus.environment, "AWS_REGION": "us-east-1", **environment}
        self.process: subprocess.Popen[str] | None = None

    def start(self, subscriptions: int = 2) -> Running:
        self.process = subprocess.Popen(
            self.argv, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(subscriptions):
            while not self.nucleus.requests.get(timeout=20)[0].startswith("SubscribeTo"):
                pass
        return self

    def finish(self, number: int | None = signal.SIGTERM) -> tuple[int, str]:
        assert self.process is not None
        if number is not None:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, output


@pytest.fixture(params=["awsiotsdk", "slim"])
def running(request: pytest.FixtureRequest, archive: Path, tmp_path: Path) -> Iterator[Running]:
    host = Running(archive, tmp_path, request.param, ECHO)
    yield host
    if host.process is not None and host.process.poll() is None:
        host.process.kill()
        host.process.communicate()
    host.nucleus.close()


def published(nucleus: TinyNucleus) -> tuple[dict[str, Any], str | None]:
    import base64

    body, trace = nucleus.next("PublishToTopic")
    assert body["topic"] == "out/answer"
    return json.loads(base64.b64decode(body["publishMessage"]["binaryMessage"]["message"])), trace


def test_handler_runs_and_publishes_by_route(running: Running) -> None:
    nucleus = running.start().nucleus
    nucleus.deliver("in/+", "in/both", b'{"a": 1}')
    answer, trace = published(nucleus)
    assert answer == {
        "event": {"a": 1},
        "subject": "in/both",
        "greeting": "hello",
        "arn": "arn:aws:lambda:us-east-1:000000000000:function:com.example.Echo:1",
        "left": True,
        "trace": None,
    }
    assert trace is None
    body, _ = nucleus.next("PublishToIoTCore")
    assert body == {"topicName": "cloud/answer", "qos": "0", "payload": "AP8="}
    nucleus.deliver("cloud/in", "cloud/in", b'"from the cloud"')
    assert published(nucleus)[0]["subject"] == "cloud/in"
    nucleus.deliver_json("in/+", "in/x", {"json": None})
    assert published(nucleus)[0]["event"] == {"json": None}
    code, output = running.finish()
    assert code == 0
    assert "handled 3, failed 0, dropped 0, left in the queue 0, publishes confirmed 4, failed 0" in output


def test_handler_errors_are_logged_and_survived(running: Running) -> None:
    nucleus = running.start().nucleus
    nucleus.deliver("in/+", "in/x", b'"boom"')
    nucleus.deliver("in/+", "in/x", b"not json")
    nucleus.deliver("in/+", "in/nowhere", b"1")
    nucleus.deliver("in/+", "in/x", b"2")
    assert published(nucleus)[0]["event"] == 1
    assert published(nucleus)[0]["event"] == 2
    code, output = running.finish()
    assert code == 0
    assert 'main.py", line' in output and "ValueError: as told" in output
    assert "foreshore_lambda_host" not in output.split("ValueError: as told")[0]
    assert "no route takes a publish to 'nowhere'" in output
    assert "handled 1, failed 3" in output


def test_refused_publishes(running: Running) -> None:
    nucleus = running.nucleus
    nucleus.refuse["PublishToTopic"] = ("UnauthorizedError", "not yours")
    running.start()
    nucleus.deliver("in/+", "in/x", b'"sure"')
    nucleus.deliver("in/+", "in/x", b'"pipelined"')
    published(nucleus)
    published(nucleus)
    code, output = running.finish()
    assert code == 0
    assert "Failed to invoke function due to UnauthorizedError: not yours" in output
    assert "publish to out/answer failed: UnauthorizedError: not yours" in output
    assert "handled 1, failed 1, dropped 0, left in the queue 0, publishes confirmed 0, failed 2" in output


def test_timeout_ends_the_process(running: Running) -> None:
    running.nucleus.configuration["timeoutInSeconds"] = 0.2
    running.start().nucleus.deliver("in/+", "in/x", b'"hang"')
    code, output = running.finish(None)
    assert code == 1
    assert "Task timed out after 0.20 seconds" in output


def test_lost_nucleus_ends_the_process(running: Running) -> None:
    running.start().nucleus.hang_up()
    code, output = running.finish(None)
    assert code == 1
    assert "lost the connection to the nucleus" in output


def test_traces_are_carried_when_wanted(running: Running) -> None:
    running.environment["FORESHORE_TRACE"] = "1"
    nucleus = running.start().nucleus
    assert nucleus.hello["foreshore-trace"] == "1"
    nucleus.deliver("in/+", "in/both", b"1", TRACE)
    answer, trace = published(nucleus)
    assert trace == TRACE
    assert answer["trace"] == "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1"
    assert nucleus.next("PublishToIoTCore")[1] == TRACE
    nucleus.deliver("in/+", "in/x", b"2")
    assert published(nucleus)[1] is None
    running.finish()


def test_refused_subscription_ends_the_process(running: Running) -> None:
    running.nucleus.refuse["SubscribeToTopic"] = ("UnauthorizedError", "no policy")
    code, output = running.start(1).finish(None)
    assert code == 1
    assert "UnauthorizedError: no policy" in output


def test_bad_configuration_is_the_users(running: Running) -> None:
    running.nucleus.configuration["maxQueueSize"] = "many"
    code, output = running.start(0).finish(None)
    assert code == 2
    assert "maxQueueSize: expected a number, not 'many'" in output


ON_DEMAND = """
import json, os, time
import greengrasssdk

client = greengrasssdk.client("iot-data")
with open(os.environ["STARTED"], "a") as file:
    file.write("x")

def handler(event, context):
    if event == "boom":
        raise ValueError("as told")
    if event == "hang":
        while True:
            pass
    if event == "die":
        os._exit(3)
    while isinstance(event, str) and not os.path.exists(event):
        time.sleep(0.001)
    client.publish(topic="out/answer", payload=json.dumps([event, os.getpid(), os.environ["GREETING"]]))
"""


@pytest.fixture
def on_demand(archive: Path, tmp_path: Path) -> Iterator[Running]:
    host = Running(archive, tmp_path, "slim", ON_DEMAND, STARTED=str(tmp_path / "started"))
    host.nucleus.configuration |= {"pinned": False, "maxInstancesCount": 2, "timeoutInSeconds": 5}
    yield host
    if host.process is not None and host.process.poll() is None:
        host.process.kill()
        host.process.communicate()
    host.nucleus.close()


def test_on_demand_instances_are_made_for_concurrent_messages_and_reused(on_demand: Running, tmp_path: Path) -> None:
    nucleus = on_demand.start().nucleus
    for name in ("a", "b"):
        nucleus.deliver("in/+", "in/x", json.dumps(str(tmp_path / name)).encode())
    started = tmp_path / "started"
    while not started.exists() or len(started.read_text()) < 2:
        assert on_demand.process is not None and on_demand.process.poll() is None
    for number in range(3):
        nucleus.deliver("in/+", "in/x", str(number).encode())
    (tmp_path / "b").touch()
    rest = [published(nucleus)[0] for _ in range(4)]
    (tmp_path / "a").touch()
    last, _ = published(nucleus)
    assert {event for event, *_ in rest} == {str(tmp_path / "b"), 0, 1, 2}
    assert len({pid for _, pid, _ in rest}) == 1
    assert last[0] == str(tmp_path / "a") and last[1] != rest[0][1] and last[2] == "hello"
    code, output = on_demand.finish()
    assert code == 0 and "handled 5, failed 0" in output
    assert started.read_text() == "xx"


def test_on_demand_failures(on_demand: Running, tmp_path: Path) -> None:
    on_demand.nucleus.configuration |= {"maxInstancesCount": 1, "timeoutInSeconds": 0.3}
    nucleus = on_demand.start().nucleus
    for event in ("boom", "hang", "die"):
        nucleus.deliver("in/+", "in/x", json.dumps(event).encode())
    nucleus.deliver("in/+", "in/x", b"4")
    assert published(nucleus)[0][0] == 4
    code, output = on_demand.finish()
    assert code == 0
    assert "ValueError: as told" in output and "Task timed out after 0.30 seconds" in output
    assert "an instance ended while it handled a message" in output
    assert "handled 1, failed 3" in output
    assert (tmp_path / "started").read_text() == "xxx"


def test_on_demand_idle_instances_end(on_demand: Running, tmp_path: Path) -> None:
    on_demand.nucleus.configuration |= {"maxIdleTimeInSeconds": 0}
    nucleus = on_demand.start().nucleus
    nucleus.deliver("in/+", "in/x", b"1")
    first = published(nucleus)[0][1]
    while Path(f"/proc/{first}").exists():
        pass
    nucleus.deliver("in/+", "in/x", b"2")
    assert published(nucleus)[0][1] != first
    assert on_demand.finish()[0] == 0


def test_on_demand_that_cannot_start_gives_up(on_demand: Running, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("raise RuntimeError('broken at import')\n")
    nucleus = on_demand.start().nucleus
    nucleus.deliver("in/+", "in/x", b"1")
    code, output = on_demand.finish(None)
    assert code == 1
    assert "broken at import" in output and "3 instances in a row ended" in output


def published_nothing(nucleus: TinyNucleus) -> bool:
    return all(name != "PublishToTopic" for name, *_ in list(nucleus.requests.queue))


def test_stopping_finishes_what_is_queued(running: Running) -> None:
    nucleus = running.start().nucleus
    for number in range(8):
        nucleus.deliver("in/+", "in/x", str(number).encode())
    assert published(nucleus)[0]["event"] == 0
    code, output = running.finish()
    assert code == 0 and "handled 8" in output
    assert [published(nucleus)[0]["event"] for _ in range(7)] == list(range(1, 8))
    assert published_nothing(nucleus)


BACKGROUND = """
import json, threading
import greengrasssdk

client = greengrasssdk.client("iot-data")
go_on = threading.Event()

def run(number=0):
    client.publish(topic="out/answer", queueFullPolicy="AllOrException", payload=json.dumps(number))
    if number < 20 and not go_on.wait(0.002):
        threading.Thread(target=run, args=(number + 1,)).start()

run()

def handler(event, context):
    client.publish(topic="out/answer", payload=json.dumps(event))
"""


@pytest.mark.parametrize("settings", [{}, {"pinned": False, "maxInstancesCount": 1}], ids=["pinned", "on demand"])
def test_code_that_publishes_at_import_and_from_its_own_threads(
    archive: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    host = Running(archive, tmp_path, "slim", BACKGROUND)
    host.nucleus.configuration |= settings
    nucleus = host.start().nucleus
    try:
        for number in range(20):
            nucleus.deliver("in/+", "in/x", json.dumps(f"event {number}").encode())
        while len(nucleus.published) < 41:
            nucleus.next("PublishToTopic")
        found = [json.loads(payload) for payload in nucleus.published]
        assert [each for each in found if isinstance(each, int)] == list(range(21))
        assert [each for each in found if isinstance(each, str)] == [f"event {number}" for number in range(20)]
        assert host.finish()[0] == 0
    finally:
        host.nucleus.close()


def test_on_demand_instances_end_with_a_killed_host(on_demand: Running, tmp_path: Path) -> None:
    nucleus = on_demand.start().nucleus
    nucleus.deliver("in/+", "in/x", b"1")
    instance = published(nucleus)[0][1]
    assert on_demand.finish(signal.SIGKILL)[0] == -signal.SIGKILL
    while Path(f"/proc/{instance}").exists() and "Z" not in Path(f"/proc/{instance}/stat").read_text().split()[2]:
        pass


@pytest.mark.parametrize("client", ["awsiotsdk", "slim"])
def test_requirements_may_be_in_a_folder_of_their_own(archive: Path, tmp_path: Path, client: str) -> None:
    """`python -S` has no site-packages, as a device's Python before the component's Install step."""
    host = Running(archive, tmp_path, client, ECHO)
    host.argv[1:2] = ["-S", "-u"]
    host.argv += ["--packages", sysconfig.get_paths()["platlib"]]
    nucleus = host.start().nucleus
    try:
        nucleus.deliver("in/+", "in/x", b"1")
        assert published(nucleus)[0]["event"] == 1
        assert host.finish()[0] == 0
    finally:
        nucleus.close()
