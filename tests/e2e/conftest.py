"""One edge for all end-to-end tests: `foreshore dev --json` on free ports, as a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

ROOT = Path(__file__).parents[2]


class Edge:
    """A running edge: `ends` is the ready line."""

    def __init__(self, process, ends, home, folder):
        self.process = process
        self.ends = ends
        self.home = home
        self.folder = folder
        self.ca = str(home / "certs" / "ca.pem")

    def boto3(self, service):
        return boto3.client(
            service, endpoint_url=self.ends["aws"], region_name=self.ends["region"],
            aws_access_key_id="x", aws_secret_access_key="x",
        )  # fmt: skip

    def host_port(self, name):
        host, _, port = self.ends[name].rpartition(":")
        return host, int(port)

    def children(self):
        return processes_of(self.process.pid)


def processes_of(pid):
    """Every living descendant's pid and command line (Linux)."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parents[int(entry.name)] = (int(stat[1]), stat[0], command)
    found, frontier = {}, {pid}
    while frontier:
        frontier = {child for child, (parent, _, _) in parents.items() if parent in frontier}
        found |= {child: parents[child][2] for child in frontier if parents[child][1] != "Z"}
    return found


def alive(processes):
    """Those of the processes that still run; one that waits to be reaped by init does not."""
    left = {}
    for pid, line in processes.items():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                left[pid] = line
    return left


def start(folder, home, *more, env=None):
    argv = [
        sys.executable,
        "-m",
        "foreshore",
        "-C",
        str(folder),
        "dev",
        "--json",
        "--port-base",
        "0",
        "--home",
        str(home),
    ]
    process = subprocess.Popen(
        [*argv, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    line = process.stdout.readline()
    if not line:
        _, err = process.communicate(timeout=20)
        raise AssertionError(f"the edge did not start ({process.returncode}): {err}")
    return Edge(process, json.loads(line), home, folder)


def stop(edge, number=signal.SIGINT):
    edge.process.send_signal(number)
    try:
        _, err = edge.process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        edge.process.kill()
        edge.process.communicate()
        raise
    return err


@pytest.fixture(scope="session")
def edge(tmp_path_factory):
    running = start(ROOT, tmp_path_factory.mktemp("edge"))
    yield running
    stop(running)
