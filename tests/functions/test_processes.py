"""Workers and their processes: none outlives the room, however it ends; and the way without fork."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from foreshore.functions.spec import FunctionSpec

SOURCE = """
import os, subprocess
def handler(event, context):
    child = subprocess.Popen(["sleep", "600"]) if event.get("child") else None
    return {"pid": os.getpid(), "parent": os.getppid(), "child": child and child.pid, "path": __import__("sys").path,
            "modules": [name for name in __import__("sys").modules if name.startswith("foreshore")]}
"""


def write(folder: Path) -> Path:
    code = folder / "code"
    code.mkdir()
    (code / "app.py").write_text(SOURCE)
    return code


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def call(edge, event):
    return json.loads(edge.run(edge.functions.invoke("fn", json.dumps(event).encode())).payload)


def create(edge, code, **settings):
    async def run():
        edge.functions.create(FunctionSpec("fn", code, "app.handler", timeout_s=10, **settings))

    edge.run(run())


@pytest.mark.parametrize("fork", [True, False])
def test_a_worker_sees_its_own_code_only(make_edge, tmp_path, fork):
    edge = make_edge(fork=fork)
    code = write(tmp_path)
    create(edge, code)
    seen = call(edge, {})
    assert seen["path"][0] == str(code)
    assert seen["modules"] == []
    assert not any("foreshore/functions" in path or path in ("", ".") for path in seen["path"])
    assert call(edge, {})["pid"] == seen["pid"]


@pytest.mark.parametrize("fork", [True, False])
def test_nothing_is_left_after_a_stop(make_edge, tmp_path, fork):
    edge = make_edge(fork=fork)
    create(edge, write(tmp_path))
    seen = call(edge, {"child": True})
    assert is_alive(seen["pid"])
    assert is_alive(seen["child"])
    edge.run(edge.functions.stop())
    edge.wait_for(lambda: not is_alive(seen["pid"]) and not is_alive(seen["child"]))
    if fork:
        edge.wait_for(lambda: not is_alive(seen["parent"]))
    edge.run(edge.functions.stop())


def test_a_killed_fork_server_is_started_again(make_edge, tmp_path):
    edge = make_edge(fork=True)
    create(edge, write(tmp_path))
    seen = call(edge, {})
    os.kill(seen["parent"], signal.SIGKILL)
    edge.wait_for(lambda: not edge.functions.stats()["fn"]["workers"])
    again = call(edge, {})
    assert again["parent"] != seen["parent"]
    assert not is_alive(seen["pid"])


def test_a_timeout_ends_grandchildren_too(make_edge, tmp_path):
    edge = make_edge()
    code = write(tmp_path)
    (code / "app.py").write_text(
        "import subprocess, time\n"
        "def handler(event, context):\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "    time.sleep(30)\n"
    )

    async def invoke():
        edge.functions.create(FunctionSpec("fn", code, "app.handler", timeout_s=1))
        return await edge.functions.invoke("fn", b"{}")

    assert json.loads(edge.run(invoke()).payload)["errorType"] == "Sandbox.Timedout"
    child = int((tmp_path / "pid").read_text())
    edge.wait_for(lambda: not is_alive(child))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_nothing_is_left_after_a_kill(tmp_path):
    code = write(tmp_path)
    script = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from foreshore.functions.service import Functions
        from foreshore.functions.spec import FunctionSpec

        async def main():
            folder = Path({str(tmp_path)!r})
            functions = Functions(state=folder / "state", region="us-east-1", account="0" * 12, environment=dict,
                                  span=lambda span: None, log=lambda line: None, run_folder=folder / "run")
            await functions.start()
            functions.create(FunctionSpec("fn", Path({str(code)!r}), "app.handler", timeout_s=10))
            print((await functions.invoke("fn", b"{{}}")).payload.decode(), flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        seen = json.loads(process.stdout.readline())
        assert is_alive(seen["pid"])
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    for _ in range(1000):
        if not is_alive(seen["pid"]) and not is_alive(seen["parent"]):
            return
        subprocess.run(["sleep", "0.01"], check=True)
    raise AssertionError("a process was left")
