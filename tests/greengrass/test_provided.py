"""AWS's components that the core stands for: listed, configured by the deployment, forgotten when left out."""

import json
import urllib.request

import pytest
from stream_manager import MessageStreamDefinition, StrategyOnFull, StreamManagerClient

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
    import socket

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
