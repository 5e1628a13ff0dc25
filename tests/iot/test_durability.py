"""What was acknowledged survives a process that is killed."""

import os
import signal
import subprocess
import sys

from foreshore.database import MEMORY
from foreshore.iot.store import Arns, Ground, Links, Tags, open_database

WRITER = """
import os, signal, sys, time, uuid
from pathlib import Path
from foreshore.iot.registry import Registry
from foreshore.iot.store import Arns, Ground, Tags, open_database

database = open_database(Path(sys.argv[1]))
ground = Ground(database, Arns("us-east-1", "000000000000"), time.time, lambda: str(uuid.uuid4()))
registry = Registry(ground, Tags(ground))
for number in range(50):
    registry.create({"thingName": f"t{number}"})
registry.principals.add("t1", "arn:x", "note")
sys.stdout.write("done\\n")
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def ground_of(path):
    return Ground(open_database(path), Arns("us-east-1", "000000000000"), lambda: 0.0, lambda: "id")


def test_a_killed_writer(tmp_path):
    path = tmp_path / "state" / "iot.db"
    done = subprocess.run([sys.executable, "-c", WRITER, str(path)], capture_output=True, text=True, env=os.environ)
    assert (done.stdout, done.returncode) == ("done\n", -signal.SIGKILL), done.stderr
    ground = ground_of(path)
    assert len(ground.kind("thing")) == 50
    assert ground.links("thing-principal").note("t1", "arn:x") == "note"
    ground.database.close()


def test_kinds_links_and_tags_are_shared_and_written_through():
    ground = ground_of(MEMORY)
    kind = ground.kind("k")
    assert kind is ground.kind("k")
    kind.put("b", {"n": 1})
    kind.put("a", {"n": 2})
    kind.put("b", {"n": 3})
    assert (kind.names(), [each["n"] for each in kind.values()]) == (["a", "b"], [2, 3])
    links = ground.links("l")
    for pair in (("a", "x"), ("a", "y"), ("b", "x")):
        links.add(*pair)
    again = Links(ground.database, "l")
    assert (again.of("a"), again.to("x")) == (["x", "y"], ["a", "b"])
    assert links.remove("a", "x") and not links.remove("a", "x")
    links.drop("a")
    links.drop_to("x")
    assert (links.of("a"), links.to("x"), Links(ground.database, "l").of("b")) == ([], [], [])
    tags = Tags(ground)
    tags.set("arn", [{"Key": "b", "Value": "1"}, {"Key": "a"}])
    tags.remove("arn", ["b"])
    assert list(tags.of("arn")) == [{"Key": "a", "Value": ""}]
    ground.database.close()
