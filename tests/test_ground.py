"""Child processes, the database, ports, the project file and the error tree."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from foreshore.background import Background
from foreshore.children import reap_strays, spawn
from foreshore.database import Database
from foreshore.errors import AwsError, ForeshoreError, NotEmulated, UserError
from foreshore.ports import Ports, holder_of, taken
from foreshore.project import Project

SCHEMA = "CREATE TABLE IF NOT EXISTS t (k TEXT PRIMARY KEY, v BLOB)"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_lines_and_the_exit_code_arrive(tmp_path):
    async def main():
        lines, codes = [], []
        script = "import sys; print('out'); print('err', file=sys.stderr); print('last', end=''); sys.exit(3)"
        child = await spawn(
            [sys.executable, "-c", script], on_line=lambda *line: lines.append(line), on_exit=codes.append
        )
        await child.exited.wait()
        return sorted(lines), codes

    lines, codes = asyncio.run(main())
    assert lines == [("stderr", "err"), ("stdout", "last"), ("stdout", "out")]
    assert codes == [3]


def test_a_stop_reaches_grandchildren(tmp_path):
    async def main():
        lines = []
        script = "sleep 1000 & echo $!; wait"
        child = await spawn(["sh", "-c", script], on_line=lambda _, text: lines.append(text), run_folder=tmp_path)
        while not lines:
            await asyncio.sleep(0.01)
        assert (tmp_path / str(child.pid)).is_file()
        await child.stop(grace_s=5)
        return int(lines[0])

    grandchild = asyncio.run(main())
    for _ in range(1000):
        if not alive(grandchild):
            break
        os.sched_yield()
    assert not alive(grandchild)
    assert list(tmp_path.iterdir()) == []


def test_strays_of_a_killed_run_are_reaped(tmp_path):
    async def main():
        child = await spawn(["sleep", "1000"], run_folder=tmp_path)
        (note,) = tmp_path.iterdir()
        text = note.read_text()
        assert reap_strays(tmp_path) == [child.pid]
        await child.exited.wait()
        # A pid that belongs to somebody else by now is left alone.
        (tmp_path / str(os.getpid())).write_text(text + "0")
        assert reap_strays(tmp_path) == []

    asyncio.run(main())


def test_a_transaction_is_all_or_nothing(tmp_path):
    database = Database(tmp_path / "deep" / "x.db", SCHEMA)
    with pytest.raises(ValueError), database.transaction():
        database.execute("INSERT INTO t VALUES ('a', 1)")
        with database.transaction():
            database.execute("INSERT INTO t VALUES ('b', 2)")
        raise ValueError
    assert database.execute("SELECT COUNT(*) FROM t").fetchone() == (0,)
    database.close()


def test_a_full_disk_is_the_users_to_mend(tmp_path):
    database = Database(tmp_path / "x.db", SCHEMA)
    database.execute("PRAGMA max_page_count = 4")
    with pytest.raises(UserError, match="full") as caught:
        for index in range(100):
            database.execute("INSERT INTO t VALUES (?, ?)", (str(index), b"x" * 4000))
    assert caught.value.code == "state-unusable"
    database.close()


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "x.db").write_bytes(b"not a database at all, but long enough to be read as one" * 50)
    with pytest.raises(UserError, match=r"x\.db"):
        Database(tmp_path / "x.db", SCHEMA)


def test_what_was_committed_survives_kill_9(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from foreshore.database import Database\n"
        f"d = Database(Path(sys.argv[1]), {SCHEMA!r})\n"
        "for i in range(50): d.execute('INSERT INTO t VALUES (?, 1)', (str(i),))\n"
        "os.kill(os.getpid(), 9)"
    )

    async def main():
        child = await spawn([sys.executable, "-c", script, str(tmp_path / "x.db")])
        await child.exited.wait()
        assert child.returncode == -signal.SIGKILL

    asyncio.run(main())
    database = Database(tmp_path / "x.db", SCHEMA)
    assert database.execute("SELECT COUNT(*) FROM t").fetchone() == (50,)
    database.close()


def test_ports_are_defaults_or_counted_or_free():
    ports = Ports()
    assert [ports.take(name) for name in ("aws", "distribution", "distribution")] == [4566, 8080, 8081]
    ports = Ports(7000)
    assert [ports.take(name) for name in ("aws", "mqtt", "aws")] == [7000, 7001, 7002]
    assert Ports(0).take("aws") == 0


def test_the_holder_of_a_port_is_named():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert holder_of(port).startswith(f"pid {os.getpid()} ")
        error = taken(port, "MQTT", OSError(98, "Address already in use"))
    assert f"port {port} for MQTT" in str(error)
    assert f"pid {os.getpid()}" in str(error)


def test_a_project_is_read(tmp_path):
    (tmp_path / "template.yaml").write_text("Resources: {}")
    (tmp_path / "cloud_functions").mkdir()
    (tmp_path / "cloud_functions" / "template.yaml").write_text("Resources: {}")
    (tmp_path / "site").mkdir()
    (tmp_path / "foreshore.toml").write_text("[core]\nthing = 'c'\n[uploads]\nB = 'site'\n[parameters.x]\nA = 1\n")
    project = Project.read(tmp_path)
    assert list(project.templates)[1:] == ["cloud-functions"]
    found = (project.cores[0].thing, project.uploads, project.parameters)
    assert found == (
        "c",
        {"B": tmp_path / "site"},
        {"x": {"A": 1}},
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = [", "not readable"),
        ("colour = 1", "unknown settings: colour"),
        ("[uploads]\nB = 'no'", "no folder"),
        ("core = 1", "core must be a table"),
        ("[core]\ncolour = 1", "core has unknown settings: colour"),
        ("[core]\nprofile = 'lite'\n[cores.a]", "both"),
    ],
)
def test_a_wrong_project_file_is_named(tmp_path, text, words):
    (tmp_path / "foreshore.toml").write_text(text)
    with pytest.raises(UserError, match=words):
        Project.read(tmp_path)


def test_one_core_has_the_settings_that_several_have(tmp_path):
    (tmp_path / "foreshore.toml").write_text("[core]\nthing = 'c'\nprofile = 'lite'\ngroups = ['plants']\n")
    (core,) = Project.read(tmp_path).cores
    assert (core.thing, core.profile, core.groups) == ("c", "lite", ("plants",))


def test_settings_that_no_template_has_are_named(tmp_path):
    (tmp_path / "site").mkdir()
    text = "[uploads]\nB = 'site'\nC = 'site'\n[parameters.a_b]\nX = 1\nY = 2\n[parameters.other]\nX = 1\n"
    (tmp_path / "foreshore.toml").write_text(text)
    template = {"Parameters": {"X": {"Type": "Number"}}, "Resources": {"B": {"Type": "AWS::S3::Bucket"}}}
    found = [each.partition(" has no effect")[0] for each in Project.read(tmp_path).unused({"a-b": template})]
    assert found == ["parameters.a_b.Y", "parameters.other", "uploads.C"]


def test_the_error_tree():
    assert issubclass(NotEmulated, AwsError)
    assert issubclass(UserError, ForeshoreError)
    assert str(UserError("what", where="f:1", mend="do")) == "f:1: what\n  mend: do"


def test_work_in_the_background_tells_of_its_failure_and_ends():
    heard = []

    async def fails():
        raise ValueError("broken")

    async def lasts(started):
        started.set()
        await asyncio.Event().wait()

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
        work, started = Background(), asyncio.Event()
        work.start(fails)
        while not heard:
            await asyncio.sleep(0)
        assert not work.is_running
        work.start(lambda: lasts(started))
        await started.wait()
        work.start(fails)  # It runs, so nothing is begun.
        assert work.is_running
        await work.stop()
        await work.stop()
        assert not work.is_running

    asyncio.run(main())
    (context,) = heard
    assert str(context["exception"]) == "broken" and "fails" in context["message"]
