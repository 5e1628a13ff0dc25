"""AWS's components that the core stands for: listed, configured by the deployment, forgotten when left out."""

import asyncio
import json
import socket
import urllib.request

import pytest
from stream_manager import MessageStreamDefinition, StrategyOnFull, StreamManagerClient

from foreshore.errors import UserError
from foreshore.greengrass.provided_services import Services
from foreshore.greengrass.stream_manager.service import StreamManager
from tests.e2e.conftest import start, stop

STREAMS = "aws.greengrass.StreamManager"


def write(folder, components):
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes/deployment.json").write_text(json.dumps({"components": components}))


def component(name, **configuration):
    return {name: {"componentVersion": "2.0.0", "configurationUpdate": {"merge": json.dumps(configuration)}}}


def states(edge):
    with urllib.request.urlopen(edge.ends["aws"] + "/_foreshore/status") as answer:
        [core] = json.load(answer)["cores"].values()
    return core["components"]


def streams_of(edge):
    [core] = edge.ends["cores"].values()
    return int(core["stream_manager"].rpartition(":")[2])


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_deployment_configures_the_stream_manager(tmp_path, free_port):
    store = tmp_path / "store"
    store.mkdir()
    settings = {
        "STREAM_MANAGER_SERVER_PORT": str(free_port),
        "STREAM_MANAGER_AUTHENTICATE_CLIENT": "false",
        "STREAM_MANAGER_STORE_ROOT_DIR": str(store),
    }
    write(tmp_path, component(STREAMS, **settings))
    edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
    try:
        assert states(edge)[STREAMS] == "RUNNING"
        assert streams_of(edge) == free_port
        with StreamManagerClient(port=free_port) as client:
            client.create_message_stream(
                MessageStreamDefinition(name="kept", strategy_on_full=StrategyOnFull.RejectNewData)
            )
            assert client.append_message("kept", b"x") == 0
        assert (store / "streams.db").exists()
    finally:
        stop(edge)
    # Without the component in the deployment its configuration is gone: the port is the edge's own again.
    write(tmp_path, {})
    edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
    try:
        assert STREAMS not in states(edge)
        assert streams_of(edge) != free_port
    finally:
        stop(edge)


class Silent:
    """A service that takes anything."""

    async def configure(self, configuration):
        pass


def test_settings_of_awss_components_without_effect_are_said():
    auth = "aws.greengrass.clientdevices.Auth"
    documents = {
        auth: {"metrics": {}, "performance": {"maxActiveAuthTokens": 9, "cloudRequestQueueSize": 9}, "security": {}},
        "aws.greengrass.LogManager": {"periodicUploadIntervalSec": 60, "deprecatedVersionSupport": True},
        "aws.greengrass.ShadowManager": {"synchronize": {}, "accessControl": {}},
        STREAMS: {"anything": 1},
    }
    said = []
    services = Services(dict.fromkeys(documents, Silent()), documents.get, lambda *line: said.append(line))
    assert asyncio.run(services.settle()) == {}
    assert said == [
        (auth, "WARN", "metrics has no effect here"),
        (auth, "WARN", "performance.cloudRequestQueueSize has no effect here"),
        ("aws.greengrass.LogManager", "WARN", "deprecatedVersionSupport has no effect here"),
    ]


@pytest.mark.parametrize(
    ("name", "configuration", "text"),
    [
        ("aws.greengrass.ShadowManager", {"strategy": {"type": "seldom"}}, "Unexpected value in strategy: seldom"),
        (
            STREAMS,
            {"STREAM_MANAGER_STORE_ROOT_DIR": "/nowhere/at/all", "STREAM_MANAGER_SERVER_PORT": "none"},
            "STREAM_MANAGER_SERVER_PORT must be a number",
        ),
    ],
)
def test_a_deployment_with_a_configuration_that_is_refused_fails(tmp_path, name, configuration, text):
    write(tmp_path, component(name, **configuration))
    with pytest.raises(AssertionError, match="the deployment ended FAILED") as raised:
        start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
    assert text in str(raised.value)
    assert name != STREAMS or "/nowhere/at/all does not exist" in str(raised.value)


def test_a_port_that_is_taken_leaves_the_former_one(tmp_path):
    async def main():
        manager = StreamManager(
            state=tmp_path / "s.db", region="r", authenticate=lambda _: True, environment=dict, say=lambda *_: None
        )
        await manager.start()
        former = manager.port

        def names():
            with StreamManagerClient(port=former) as client:
                return client.list_streams()

        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            with pytest.raises(UserError, match="as before"):
                await manager.configure({"STREAM_MANAGER_SERVER_PORT": str(other.getsockname()[1])})
        assert manager.port == former
        assert await asyncio.to_thread(names) == []
        await manager.stop()

    asyncio.run(main())
