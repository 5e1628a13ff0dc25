"""Starting, stopping, and each way a start can fail: one clear message and exit 2."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, alive, start, stop

pytestmark = pytest.mark.e2e


def run(folder, *arguments, env=None):
    return subprocess.run(
        [sys.executable, "-m", "foreshore", "-C", str(folder), *arguments],
        capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_process_and_frees_every_port(tmp_path, number):
    edge = start(ROOT, tmp_path / "home")
    children = edge.children()
    assert children
    ports = [int(edge.ends[name].rpartition(":")[2]) for name in ("aws", "mqtt", "mqtts", "wss", "console")]
    stop(edge, number)
    assert edge.process.returncode == 0
    assert alive(children) == {}
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    assert not (tmp_path / "home" / "endpoints.json").exists()
    again = start(ROOT, tmp_path / "home")
    stop(again)


def test_the_ready_line_is_the_endpoints_file(edge):
    assert json.loads((edge.home / "endpoints.json").read_text()) == edge.ends
    assert edge.ends["ready"] is True
    assert set(edge.ends) == {
        "ready", "region", "account", "state", "aws", "mqtt", "mqtts", "wss", "iot_https", "ca", "console", "cores",
        "distributions", "apis",
    }  # fmt: skip
    (core,) = edge.ends["cores"].values()
    assert {"root", "ipc_socket", "stream_manager"} <= set(core)


def test_kill_9_leaves_no_process_behind(tmp_path):
    edge = start(ROOT, tmp_path / "home")
    children = edge.children()
    edge.process.kill()
    edge.process.communicate()
    again = start(ROOT, tmp_path / "home")
    left = alive(children)
    stop(again)
    assert left == {}


def test_a_taken_port_is_named_with_its_holder(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = run(ROOT, "dev", "--port-base", str(port), "--home", str(tmp_path / "home"))
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_edge_in_the_same_folder_is_refused(edge):
    done = run(ROOT, "dev", "--port-base", "0", "--home", str(edge.home))
    assert done.returncode == 2
    assert f"pid {edge.process.pid}" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Resources:\n  A: [", "template.yaml:2:"),
        ("Resources: {A: {Type: 'AWS::IoT::Nope'}}", "AWS::IoT::Nope"),
        ("Resources: {A: {Type: 'AWS::S3::Bucket', Properties: {BucketName: !Ref Nobody}}}", "Nobody"),
    ],
)
def test_a_template_with_an_error(tmp_path, text, words):
    (tmp_path / "template.yaml").write_text(text)
    done = run(tmp_path, "dev", "--port-base", "0")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_certificate(tmp_path):
    edge = start(ROOT, tmp_path / "home")
    stop(edge)
    (tmp_path / "home" / "certs" / "ca.pem").unlink()
    done = run(ROOT, "dev", "--port-base", "0", "--home", str(tmp_path / "home"))
    assert done.returncode == 2
    assert "ca.pem" in done.stderr


def test_a_folder_that_takes_no_state(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run(ROOT, "dev", "--port-base", "0", "--home", str(tmp_path / "file" / "home"))
    assert done.returncode == 2
    assert "can't keep state" in done.stderr


def test_a_full_disk(tmp_path):
    """A disk of 4 MB, where the machine lets us mount one."""
    argv = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(argv, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"can't mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        done = run(ROOT, "dev", "--port-base", "0", "--home", str(tmp_path / "home"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert done.returncode == 2
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


ASK_AND_EXIT = """
import os, sys, urllib.request
urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL"] + "/_foreshore/status").close()
sys.exit(7)
"""


def test_exec_gives_the_environment_and_the_exit_code(tmp_path):
    done = run(
        ROOT, "exec", "--port-base", "0", "--home", str(tmp_path / "home"), "--", sys.executable, "-c", ASK_AND_EXIT
    )
    assert done.returncode == 7, done.stderr


def test_an_empty_folder_is_an_edge_too(tmp_path):
    edge = start(tmp_path, tmp_path / "home")
    assert edge.boto3("iot").list_things()["things"] == []
    stop(edge)
